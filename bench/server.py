"""A key server for a bench: PostgreSQL with durable defaults, and the API under gunicorn as `make up` runs it.

All of it lives in a folder that goes away.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from deploy.local import postgres
from keyserver.audit import Actor
from keyserver.configuration.apply import apply
from keyserver.keys.revision import rotate
from keyserver.providers import keywrap
from keyserver.runtime import open_runtime
from keyserver.settings import Settings
from keyserver.store import database as databases
from tests.conftest import ROLES, role_url
from tests.uploads import APP, AUDIENCE, ISSUER, KID, TOKEN_AAD, public_pem

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Served:
    """A server that runs. ``environ``: the API's variables; ``port``: where gunicorn listens on 127.0.0.1."""

    port: int
    environ: dict[str, str]
    admin_url: str
    process: subprocess.Popen[bytes]

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return psutil.Process(self.process.pid).children()

    @property
    def settings(self) -> Settings:
        """What the API was started with."""
        return Settings.from_environment(self.environ)


@contextmanager
def served(application: str = "api:create_app()", workers: int | None = None) -> Iterator[Served]:
    """Run PostgreSQL and ``application``; without ``workers``, as many as KEYSERVER_API_WORKERS says.

    The workers are not recycled: a new one begins anew with its memory, and with the prior of its chaff.
    """
    workers = workers or Settings.from_environment(os.environ).api_workers
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = postgres.server(folder / "postgres")
        try:
            url = {role: role_url(server.admin_url, role, "bench") for role in ROLES}
            databases.set_up(server.admin_url, url)
            databases.migrate(url["keyserver_migrate"], Settings.window_minutes)
            _configure(url["keyserver_pipeline"], folder)
            environ = {
                "KEYSERVER_API_DATABASE_URL": url["keyserver_api"],
                "KEYSERVER_API_BIND": "127.0.0.1:0",
                "KEYSERVER_API_WORKERS": str(workers),
                "KEYSERVER_KEYWRAP_URL": folder.as_uri(),
                "KEYSERVER_REVISION_TOKEN_AAD": base64.b64encode(TOKEN_AAD).decode(),
            }
            with _gunicorn(application, environ, folder / "api.log") as process:
                port = _port(process, folder / "api.log", workers)
                yield Served(port, environ, role_url(server.admin_url, "postgres", "bench"), process)
        finally:
            server.stop()


def _configure(url: str, folder: Path) -> None:
    """Declare the authority and the app of `tests.uploads`, and make the first revision key."""
    document = {
        "version": 1,
        "health_authorities": [
            {
                "name": "An authority",
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "keys": [{"kid": KID, "public_key": public_pem(), "valid_from": "2020-01-01T00:00:00Z"}],
            }
        ],
        "apps": [{"name": APP, "regions": ["DE", "AT"], "health_authorities": [ISSUER]}],
    }
    file = folder / "configuration.yaml"
    file.write_text(yaml.safe_dump(document))
    keywrap.generate(folder.as_uri())
    runtime = open_runtime(Actor("bench"), url, keywrap_url=folder.as_uri())
    try:
        apply(runtime, file)
        rotate(runtime)
    finally:
        runtime.close()


@contextmanager
def _gunicorn(application: str, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    python_path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT)])}
    command = [sys.executable, "-m", "gunicorn", "-c", "api/gunicorn.conf.py", "--max-requests", "0", application]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=others | python_path | environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _port(process: subprocess.Popen[bytes], log: Path, workers: int) -> int:
    while process.poll() is None:
        text = log.read_text()
        found = re.search(r"Listening at: http://127.0.0.1:(\d+)", text)
        if found and text.count("Booting worker") >= workers:
            return int(found[1])
        time.sleep(0.05)
    raise SystemExit(log.read_text())
