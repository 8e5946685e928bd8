"""From an empty database to the newest schema, and sql/schema.sql, which shows it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from deploy import schema
from keyserver.errors import ConfigurationError, RemoteError, StoreError
from keyserver.store import database as databases
from tests.conftest import ROLES, role_url


class Empty:
    """A database that was set up and not migrated yet."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.name = f"empty_{uuid.uuid4().hex[:12]}"
        self.urls = {role: role_url(admin_url, role, self.name) for role in ROLES}
        databases.set_up(admin_url, self.urls)

    def migrate(self, width_minutes: int = 5) -> None:
        databases.migrate(self.urls["keyserver_migrate"], width_minutes)

    def read(self, statement: str) -> list[tuple]:
        with psycopg.connect(self.urls["keyserver_migrate"]) as connection:
            return connection.execute(statement).fetchall()

    def remove(self) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{self.name}"')


@pytest.fixture
def empty(postgres: object) -> Iterator[Empty]:
    made = Empty(postgres.admin_url)
    yield made
    made.remove()


def test_history_has_one_head_and_one_base():
    config = Config()
    config.set_main_option("script_location", str(databases.SQL / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_every_migration_has_its_sql_beside_it():
    versions = databases.SQL / "migrations" / "versions"
    assert {path.stem for path in versions.glob("*.py")} == {path.stem for path in versions.glob("*.sql")} != set()


def test_an_empty_database_is_migrated_and_its_clock_started(empty):
    empty.migrate()
    ((width, through, rewritten, settable, now),) = empty.read(
        "SELECT width_minutes, closed_through, rewritten_through, settable, clock_timestamp() FROM release_clock"
    )
    assert (width, settable) == (5, False)
    assert through == rewritten
    assert through <= now < through + timedelta(minutes=10)
    assert (through - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(minutes=5) == timedelta(0)


def test_migrating_again_changes_nothing(empty):
    empty.migrate()
    before = (schema.dump(empty.urls["keyserver_migrate"]), empty.read("SELECT * FROM release_clock"))
    empty.migrate()
    assert (schema.dump(empty.urls["keyserver_migrate"]), empty.read("SELECT * FROM release_clock")) == before


def test_the_width_of_windows_is_chosen_once(empty):
    empty.migrate(5)
    with pytest.raises(ConfigurationError, match=r"windows are 5 minutes wide; KEYSERVER_WINDOW_MINUTES says 10\."):
        empty.migrate(10)
    assert empty.read("SELECT width_minutes FROM release_clock") == [(5,)]
    empty.migrate(5)


def test_a_migration_that_fails_leaves_nothing_and_can_be_tried_again(empty):
    with psycopg.connect(empty.urls["keyserver_migrate"]) as connection:
        connection.execute("CREATE TABLE audit_event (id integer)")
    with pytest.raises(StoreError, match="already exists"):
        empty.migrate()
    assert empty.read("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'") == [
        ("audit_event",)
    ]
    with psycopg.connect(empty.urls["keyserver_migrate"]) as connection:
        connection.execute("DROP TABLE audit_event")
    empty.migrate()


def test_setting_up_again_keeps_what_is_there(empty):
    empty.migrate()
    before = schema.dump(empty.urls["keyserver_migrate"])
    databases.set_up(empty.admin_url, empty.urls)
    assert schema.dump(empty.urls["keyserver_migrate"]) == before


@pytest.mark.parametrize("path", ["another", ""])
def test_roles_must_share_one_database(empty, path):
    urls = {**empty.urls, "keyserver_api": f"postgresql://keyserver_api@/{path}"}
    with pytest.raises(ConfigurationError, match="must all name the same database"):
        databases.set_up(empty.admin_url, urls)


def test_a_server_that_is_away_is_a_remote_error(tmp_path):
    url = f"postgresql://postgres@/postgres?host={tmp_path}"
    with pytest.raises(RemoteError):
        databases.set_up(url, {"keyserver_api": url})
    with pytest.raises(RemoteError):
        databases.migrate(url, 1)


def test_schema_sql_is_what_the_migrations_make(empty):
    """Stale? `make schema` writes it anew."""
    empty.migrate()
    assert schema.FILE.read_text(encoding="utf-8") == schema.dump(empty.urls["keyserver_migrate"])


def test_the_command_makes_the_same_on_a_server_of_its_own(empty):
    empty.migrate(1)
    assert schema.generate() == schema.dump(empty.urls["keyserver_migrate"])


def test_0004_keeps_what_was_built_and_held_before(empty):
    versions = databases.SQL / "migrations" / "versions"
    with psycopg.connect(empty.urls["keyserver_migrate"]) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")  # as Alembic makes it
        for script in sorted(versions.glob("000[1-3]_*.sql")):
            connection.execute(script.read_text())
        connection.execute(
            "INSERT INTO feed (name, root, output_region, input_regions, travelers, period_minutes, active_from,"
            " max_keys, padding_minimum, padding_spread, development, paused)"
            " VALUES ('a', 'a', 'NO', '{NO}', 'by-region', 60, '2026-01-01', 1, 0, 0, false, false)"
        )
        for hour, status in enumerate(("released", "held", "planned")):
            connection.execute(
                "INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region,"
                " input_regions, exclude_regions, travelers, max_keys, status, problem, counts)"
                " SELECT id, at, at + interval '1 hour', at, at + interval '1 hour', root, output_region,"
                "        input_regions, exclude_regions, travelers, max_keys, %(status)s, 'for the test', %(counts)s"
                "   FROM feed, (SELECT timestamptz '2026-01-01 00:00Z' + %(hour)s * interval '1 hour' AS at) AS place",
                {"hour": hour, "status": status, "counts": '{"released": 1}' if status == "released" else "{}"},
            )
        connection.execute((versions / "0004_whole_export.sql").read_text())
        found = connection.execute(
            "SELECT status, carriers, withdrawn_carriers, held_at IS NOT NULL FROM batch ORDER BY id"
        ).fetchall()
    assert found == [("released", [], [], False), ("held", None, None, True), ("planned", None, None, False)]
