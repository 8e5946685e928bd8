"""The whole key server, running: PostgreSQL, the API, the web server and Airflow with its real scheduler."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from deploy.local import processes
from deploy.local.ports import Ports
from deploy.local.stack import PROJECT, Stack
from deploy.local.supervisor import Part
from keyserver.device.phone import Phone
from keyserver.device.settings import PhoneSettings
from keyserver.errors import ConfigurationError
from keyserver.providers import signers

HERE = Path(__file__).parent
STEPS = ("build", "check", "sign", "verify", "release", "index")
# One feed a step whose task is killed, one that nobody disturbs, one whose staged file is tampered with, one whose
# signing key is gone. All take the same keys, and all but the last two must release the same bytes.
FEEDS = (*STEPS, "undisturbed", "tampered", "keyless")
KEY_ID = "901"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the story of the feeds come first: it compares all that they release, and the other tests release more."""
    items.sort(key=lambda item: item.path.parent == HERE and item.path.name != "test_scheduler.py")


class RestartingStack(Stack):
    """A stack whose scheduler comes back 5 s after it was killed."""

    def _parts(self) -> list[Part]:
        keeper = [sys.executable, "-m", "tests.stack.restarted"]
        return [
            replace(part, command=[*keeper, *part.command]) if part.name == "airflow-scheduler" else part
            for part in super()._parts()
        ]


@dataclass
class World:
    """The running stack and one made-up authority in it."""

    stack: Stack
    phone: Path
    airflow: httpx.Client

    def upload(self, phones: int) -> set[bytes]:
        """Upload from some new phones; give the keys that are due."""
        settings = PhoneSettings.load(self.phone)
        now = datetime.now(UTC)
        keys: set[bytes] = set()
        for _ in range(phones):
            phone = Phone(settings.trusted())
            phone.carry(now - timedelta(days=9), now - timedelta(days=2))
            certify = partial(settings.open_issuer().certify, report_type="confirmed", now=now)
            answer = phone.upload(settings.api_url, phone.publish_request(now, settings.app, certify))
            assert (answer.status, answer.code) == (200, "")
            keys |= {key.key for key in phone.keys(now - timedelta(days=2))}
        return keys

    def sql(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.database_url("pipeline")) as connection:
            return connection.execute(statement, values).fetchall()

    def await_true(self, what: str, condition: Callable[[], Any], seconds: float = 240) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}; {self.batches()}"
            time.sleep(0.05)
        return found

    def batches(self) -> list[tuple[Any, ...]]:
        """Every batch that has keys: feed, end, status."""
        return self.sql(
            "SELECT feed.name, ends_at, status FROM batch JOIN feed ON feed.id = feed_id"
            " WHERE status <> 'empty' ORDER BY batch.id"
        )

    def task_instances(self, run: str) -> list[dict[str, Any]]:
        found = self.airflow.get(f"dags/export_keys/dagRuns/{run}/taskInstances", params={"limit": 100})
        return found.raise_for_status().json()["task_instances"]

    def running_tasks(self) -> dict[int, str]:
        """What Airflow runs just now: task ids by the process that works on them."""
        found = self.airflow.get(
            "dags/export_keys/dagRuns/~/taskInstances", params={"state": "running", "limit": 100}
        ).raise_for_status()
        return {task["pid"]: task["task_id"] for task in found.json()["task_instances"]}


def keyserver(stack: Stack, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-c", "from keyserver.cli import main; main()", *arguments],
        check=True,
        cwd=PROJECT,
        env=stack.cli_environment(),
    )


def unused_ports() -> Ports:
    """Free ports that no system gives out by itself: other tests' connections cannot take one before it is bound."""
    while True:
        ports = Ports(*random.sample(range(20_000, 32_000), len(fields(Ports))))
        with contextlib.suppress(ConfigurationError):
            ports.check()
            return ports


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="keyserver-stack-", ignore_cleanup_errors=True) as folder:
        stack = RestartingStack(Path(folder), unused_ports(), window_minutes=1)
        stack.start()
        try:
            phone = declare(stack)
            with stack.airflow() as airflow:
                yield World(stack, phone, airflow)
        finally:
            stack.stop()
        assert processes.marked(stack.home) == []


def declare(stack: Stack) -> Path:
    """Declare an authority and `FEEDS`; give a phone's settings."""
    folder = stack.home / "development"
    folder.mkdir(mode=0o700)
    signers.generate(folder.as_uri(), "issuer")
    (folder / "certificates.pem").write_text(signers.open_signer(folder.as_uri()).public_key("issuer"))
    for name in ("export", "lost", "log"):
        keyserver(stack, "keys", "generate", name, "--public", str(folder / f"{name}-public.pem"))
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    since, before = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (minute, minute - timedelta(days=1)))
    document = {
        "version": 1,
        "health_authorities": [
            {
                "name": "Test",
                "issuer": "issuer",
                "audience": "keyserver",
                "keys": [{"kid": "v1", "public_key_file": "certificates.pem", "valid_from": before}],
            }
        ],
        "apps": [{"name": "app", "regions": ["XN"], "health_authorities": ["issuer"]}],
        "signing_keys": [
            {
                "name": name,
                "key_id": KEY_ID,
                "key_version": version,
                "public_key_file": f"{name}-public.pem",
                "active_from": before,
                "purpose": purpose,
            }
            for name, version, purpose in (
                ("export", "v1", "export"),
                ("lost", "v2", "export"),
                ("log", "log1", "transparency"),
            )
        ],
        "feeds": [
            {
                "name": name,
                "root": name,
                "output_region": "XT" if name == "tampered" else "XN",
                "input_regions": ["XN"],
                "period": "1m",
                "from": since,
                "development": True,
                "padding": {"minimum": 0, "spread": 0},
                "max_keys": 20,
                "signing_keys": ["lost" if name == "keyless" else "export"],
            }
            for name in FEEDS
        ],
    }
    (folder / "configuration.yaml").write_text(yaml.safe_dump(document))
    keyserver(stack, "configuration", "apply", str(folder / "configuration.yaml"))
    (stack.signer / "lost.pem").unlink()
    settings = {
        "api_url": stack.urls.api,
        "index_url": f"{stack.urls.cdn}/undisturbed/index.txt",
        "base_url": f"{stack.urls.cdn}/",
        "app": "app",
        "issuer": "issuer",
        "audience": "keyserver",
        "kid": "v1",
        "issuer_key_file": "issuer.pem",
        "public_keys": [{"key_id": KEY_ID, "key_version": "v1", "file": "export-public.pem"}],
    }
    (folder / "phone.json").write_text(json.dumps(settings))
    return folder / "phone.json"
