"""A small authority with one region and one feed, its keys and its store, and a way to put keys into it."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import uvicorn

from deploy.local.cdn import cdn
from keyserver.audit import Actor
from keyserver.export import build, due, gate, index, release, sign, verify, windows
from keyserver.protocol.intervals import interval_at
from keyserver.providers.signers import generate
from keyserver.runtime import Runtime, open_runtime

STEPS: dict[str, Callable[[Runtime, int], None]] = {
    "build": build.build,
    "check": gate.check,
    "sign": sign.sign,
    "verify": verify.verify,
    "release": release.release,
    "index": index.index,
}
# What each step makes of a batch that stands where the step before left it.
AFTER = dict(zip(STEPS, ["built", "checked", "signed", "verified", "released", "released"], strict=True))


@dataclass
class Authority:
    """One authority's database and store, as the pipeline sees them."""

    database: object
    folder: Path
    opened: list[Runtime] = field(default_factory=list)
    public_url: str | None = None  # where its files are served, if a test asks for `served`

    def runtime(self, run: str = "run-1", role: str = "pipeline") -> Runtime:
        opened = open_runtime(
            Actor("test", run=run),
            self.database.url(f"keyserver_{role}"),
            blobs_url=f"file://{self.folder}/blobs",
            signer_url=f"file://{self.folder}/signer",
            public_url=self.public_url,
        )
        self.opened.append(opened)
        return opened

    @property
    def public(self) -> Path:
        return self.folder / "blobs" / "public"

    def sql(self, statement: str, **values: object) -> list[tuple]:
        with self.database.admin() as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def add_feed(self, name: str, **rules: object) -> int:
        """Declare a feed with its own signing key, by the pipeline's role."""
        public_key = generate(f"file://{self.folder}/signer", name)
        defaults = {
            "root": name,
            "output_region": "NO",
            "input_regions": ["NO"],
            "exclude_regions": [],
            "travelers": "by-region",
            "period_minutes": 1,
            "active_from": self.database.now() - timedelta(minutes=1),
            "active_thru": None,
            "max_keys": 1000,
            "padding_minimum": 0,
            "padding_spread": 0,
            "development": True,
            "paused": False,
        }
        values = {**defaults, **rules, "name": name}
        with psycopg.connect(self.database.url("keyserver_pipeline")) as connection:
            columns = ", ".join(values)
            places = ", ".join(f"%({column})s" for column in values)
            (feed_id,) = connection.execute(
                f"INSERT INTO feed ({columns}) VALUES ({places}) RETURNING id", values
            ).fetchone()
            (key_id,) = connection.execute(
                "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from)"
                " VALUES (%s, '242', %s, %s, %s) RETURNING id",
                [name, name.replace("-", "_"), public_key, self.database.now() - timedelta(days=1)],
            ).fetchone()
            connection.execute("INSERT INTO feed_signing_key VALUES (%s, %s)", [feed_id, key_id])
        return feed_id

    def add_log_key(self, name: str = "transparency", version: str = "log1") -> str:
        """Declare a key for the public logs; give its public half in PEM."""
        public_key = generate(f"file://{self.folder}/signer", name)
        self.sql(
            "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, purpose)"
            " VALUES (%(name)s, '900', %(version)s, %(public_key)s, %(since)s, 'transparency')",
            name=name,
            version=version,
            public_key=public_key,
            since=self.database.now(),
        )
        return public_key

    def add_keys(
        self,
        count: int,
        *,
        seed: int = 1,
        regions: tuple[str, ...] = ("NO",),
        created_at: datetime | None = None,
        **columns: object,
    ) -> list[bytes]:
        """Store keys as an upload does, by the API's role; their metadata varies with the seed."""
        source = random.Random(seed)
        created_at = created_at or self.database.now()
        keys = [source.randbytes(16) for _ in range(count)]
        with psycopg.connect(self.database.url("keyserver_api")) as connection:
            for key in keys:
                values = {
                    "exposure_key": key,
                    "interval_number": interval_at(created_at) // 144 * 144 - 144 * source.randint(1, 12),
                    "interval_count": source.choice([144, 144, 144, 60]),
                    "transmission_risk": source.randint(0, 8),
                    "days_since_onset": source.choice([None, 0, -3, 5]),
                    "report_type": source.choice(["confirmed", "likely", "user-report"]),
                    "traveler": False,
                    "regions": list(regions),
                    "created_at": created_at,
                    **columns,
                }
                connection.execute(
                    f"INSERT INTO exposure ({', '.join(values)}) VALUES"
                    f" ({', '.join(f'%({column})s' for column in values)})",
                    values,
                )
        return keys

    def revise(self, keys: list[bytes], report_type: str, *, risk: int = 7, onset: int | None = None) -> None:
        """Revise stored keys in the window that is open now, by the API's role (K2)."""
        with psycopg.connect(self.database.url("keyserver_api")) as connection:
            revised = connection.execute(
                "UPDATE exposure SET revised_at = greatest(created_at, closed_through), revised_report_type = %s,"
                " revised_transmission_risk = %s, revised_days_since_onset = %s"
                " FROM release_clock WHERE exposure_key = ANY (%s) AND revised_at IS NULL",
                [report_type, risk, onset, keys],
            ).rowcount
            assert revised == len(keys)

    def export(self, run: str = "run-1") -> list[int]:
        """Work on what is due until nothing is; give the batches that were released, in their order."""
        released = []
        while claimed := due.claim_due(self.runtime(run)):
            for batch in claimed:
                run_steps(self.runtime(run), batch.batch_id)
                released.append(batch.batch_id)
        return released

    def close_windows(self, step: timedelta = timedelta(minutes=1)) -> list[windows.Window]:
        """Let time pass and close what is past."""
        moment = self.database.pass_time(step)
        return windows.close_windows(self.runtime("closing"), moment, random.Random(7))

    def statuses(self) -> dict[int, str]:
        return dict(self.sql("SELECT id, status FROM batch ORDER BY id"))

    def released_files(self) -> dict[str, bytes]:
        """Every object that the web server would serve, by its path."""
        return {
            str(path.relative_to(self.public)): path.read_bytes() for path in self.public.rglob("*") if path.is_file()
        }


def run_steps(runtime: Runtime, batch_id: int) -> None:
    for step in STEPS.values():
        step(runtime, batch_id)


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[..., Authority]:
    made: list[Authority] = []

    def make(database: object, name: str = "authority") -> Authority:
        made.append(Authority(database, tmp_path / name))
        (tmp_path / name / "signer").mkdir(parents=True)
        (tmp_path / name / "signer").chmod(0o700)
        return made[-1]

    yield make
    for authority in made:
        for opened in authority.opened:
            opened.close()


@pytest.fixture
def authority(make_authority: Callable[..., Authority], test_database: object) -> Authority:
    return make_authority(test_database)


@contextmanager
def serving(authority: Authority) -> Iterator[None]:
    """Serve an authority's public folder as a CDN does."""
    authority.public.mkdir(parents=True, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(cdn(authority.public), log_level="error", access_log=False, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    authority.public_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Authority], None]]:
    """Serve an authority's public folder as a CDN does, until the test ends."""
    with ExitStack() as running:
        yield lambda authority: running.enter_context(serving(authority))


@pytest.fixture
def served(authority: Authority, serve: Callable[[Authority], None]) -> Authority:
    """An authority whose files phones can fetch."""
    serve(authority)
    return authority
