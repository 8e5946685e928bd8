"""A real PostgreSQL, a migrated template database, and for each test a clone of it, used as each process's role."""

from __future__ import annotations

import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from deploy.local.postgres import THROWAWAY, Server, server, stop
from keyserver.store import database as databases
from keyserver.store.database import Database

ROLES = (
    "keyserver_migrate",
    "keyserver_api",
    "keyserver_pipeline",
    "keyserver_rewriter",
    "keyserver_retention",
    "keyserver_auditor",
    "keyserver_verification",
)
WIDTH_MINUTES = 1
# A file system in memory, where there is one with room: a database is made and dropped there in a fifth of the time.
MEMORY = Path("/dev/shm")  # noqa: S108 - only `tempfile` makes anything in it
ROOM = 2 << 30
# Where every test's database stands: the start of its first open window.
START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


@dataclass
class TestDatabase:
    """One test's own database. Time in it stands still where `set_time` puts it, from the first moment on."""

    __test__ = False

    server_url: str
    name: str
    opened: list[Database] = field(default_factory=list)

    def url(self, role: str) -> str:
        return role_url(self.server_url, role, self.name)

    def database(self, role: str) -> Database:
        database = Database(self.url(f"keyserver_{role}"))
        self.opened.append(database)
        return database

    def admin(self) -> psycopg.Connection:
        """A superuser's connection, for what no role of ours may do: setting the clock, looking under the hood."""
        return psycopg.connect(role_url(self.server_url, "postgres", self.name), autocommit=True)

    def set_time(self, moment: datetime) -> None:
        with self.admin() as connection:
            connection.execute("UPDATE test_time SET moment = %s", [moment])

    def now(self) -> datetime:
        with self.admin() as connection:
            return connection.execute("SELECT keyserver_now()").fetchone()[0]

    def pass_time(self, step: timedelta) -> datetime:
        moment = self.now() + step
        self.set_time(moment)
        return moment

    def close(self) -> None:
        for database in self.opened:
            database.forget_connections()


def role_url(server_url: str, role: str, name: str) -> str:
    """``server_url`` is postgresql://postgres@/postgres?host=<folder>."""
    return server_url.replace("://postgres@/postgres", f"://{role}@/{name}", 1)


def pytest_configure() -> None:
    # Told to end, a session ends as with Ctrl-C: its fixtures stop what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    parent = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM else None
    with tempfile.TemporaryDirectory(prefix="keyserver-", dir=parent, ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "postgres"
        try:
            yield server(data, settings=THROWAWAY)
        finally:
            stop(data)


@pytest.fixture(scope="session")
def template(postgres: Server) -> str:
    """A migrated database whose clock the tests may set (rule T1)."""
    name = "keyserver_template"
    databases.set_up(postgres.admin_url, {role: role_url(postgres.admin_url, role, name) for role in ROLES})
    databases.migrate(role_url(postgres.admin_url, "keyserver_migrate", name), WIDTH_MINUTES)
    with psycopg.connect(role_url(postgres.admin_url, "postgres", name), autocommit=True) as connection:
        connection.execute(
            "UPDATE release_clock SET settable = true, closed_through = %(start)s, rewritten_through = %(start)s",
            {"start": START},
        )
        connection.execute("CREATE TABLE test_time (moment timestamptz NOT NULL)")
        connection.execute("INSERT INTO test_time SELECT closed_through FROM release_clock")
        connection.execute("GRANT SELECT ON test_time TO PUBLIC")
        connection.execute(
            "CREATE OR REPLACE FUNCTION keyserver_now() RETURNS timestamptz LANGUAGE sql VOLATILE"
            " BEGIN ATOMIC SELECT moment FROM test_time; END"
        )
    return name


@pytest.fixture
def make_database(postgres: Server, template: str) -> Iterator[Callable[..., TestDatabase]]:
    """Clone a database: the template, or the one given."""
    made: list[TestDatabase] = []

    def make(source: str | None = None) -> TestDatabase:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
            connection.execute(
                f'CREATE DATABASE "{name}" OWNER keyserver_migrate TEMPLATE "{source or template}" STRATEGY FILE_COPY'
            )
            connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO {", ".join(ROLES)}')
        made.append(TestDatabase(postgres.admin_url, name))
        return made[-1]

    yield make
    for database in made:
        database.close()
        with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')


@pytest.fixture
def test_database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database()


@pytest.fixture
def start() -> datetime:
    """Where the test's database stands: the start of its first open window."""
    return START
