"""`keyserver doctor` (R4): each check has a case in which it says ok and one in which it does not."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from keyserver.audit import recorded
from keyserver.errors import ConfigurationError, ConflictError
from keyserver.export import index, transparency, withdraw
from keyserver.keys.revision import rotate
from keyserver.oversight import doctor
from keyserver.oversight.doctor import Check, examine
from keyserver.providers import keywrap, signers
from keyserver.providers.blobs import LocalBlobs
from keyserver.runtime import open_runtime
from keyserver.settings import Settings
from keyserver.store import doctor as stored
from tests.conftest import ROLES
from tests.export.conftest import Authority
from tests.test_cli import keyserver

SECRET = "correct-horse-battery"


@pytest.fixture
def installed(served: Authority) -> Authority:
    """A feed with a released batch, its log, a revision key under a master key, and a proof of retention."""
    served.add_log_key()
    served.add_feed("north")
    served.add_keys(3)
    served.close_windows()
    assert served.export() == [1]
    transparency.publish_logs(served.runtime())
    keywrap.generate(f"file://{served.folder}/keywrap")
    runtime = open_runtime(
        served.runtime().actor,
        served.database.url("keyserver_pipeline"),
        keywrap_url=f"file://{served.folder}/keywrap",
    )
    rotate(runtime)
    runtime.close()
    prove(served)
    # A test's clock is what the doctor refuses first of all: this one pretends to be a real one.
    served.sql("UPDATE release_clock SET settable = false")
    served.sql(f'ALTER DATABASE "{served.database.name}" SET synchronous_commit = on')  # the throwaway server's is off
    return served


def prove(authority: Authority) -> None:
    with recorded(authority.runtime().database, authority.runtime().actor) as work:
        work.record("retention.proved", {})


@pytest.fixture
def environment(installed: Authority) -> dict[str, str]:
    urls = {f"KEYSERVER_{role.removeprefix('keyserver_').upper()}_DATABASE_URL": role for role in ROLES}
    return {
        **{variable: installed.database.url(role) for variable, role in urls.items()},
        "KEYSERVER_BLOBS_URL": f"file://{installed.folder}/blobs",
        "KEYSERVER_SIGNER_URL": f"file://{installed.folder}/signer",
        "KEYSERVER_KEYWRAP_URL": f"file://{installed.folder}/keywrap",
        "KEYSERVER_PUBLIC_URL": installed.public_url,
    }


def look(environment: dict[str, str], now: datetime) -> dict[str, Check]:
    """The checks by what they looked at."""
    checks = examine(Settings.from_environment(environment), now).checks
    assert len({check.what for check in checks}) == len(checks)
    return {check.what: check for check in checks}


@pytest.fixture
def healthy(installed: Authority, environment: dict[str, str]) -> dict[str, Check]:
    return look(environment, installed.database.now())


def test_a_healthy_installation_has_nothing_wrong(healthy):
    expected = {"durability"}  # a throwaway server: see below
    assert {what for what, check in healthy.items() if check.state == "wrong"} == expected
    fine = {
        *(f"role {role}" for role in ROLES),
        "schema",
        "clocks",
        "PostgreSQL",
        "autovacuum",
        "log of the database",
        "release clock",
        "feeds",
        "held batches",
        "withdrawals",
        "signing keys to come",
        "retention",
        "proof of retention",
        "signing key north",
        "signing key transparency",
        "revision keys",
        "object store",
        "deleted objects",
        "public files of feed north",
        "maintenance mode",
    }
    assert {what: healthy[what].state for what in fine} == dict.fromkeys(fine, "ok")


def test_what_it_cannot_see_is_said_with_the_limit(healthy):
    unseen = {what for what, check in healthy.items() if check.state == "not checked"}
    assert {
        "backups of the database, and recovery to a point in time",
        "write-ahead log",
        "disks and buckets",
        "logs of the web server, the proxy and the CDN",
        "Airflow's task logs",
        "Airflow's own tables",
    } <= unseen
    assert all("14 days" in healthy[what].advice for what in unseen)
    assert "airflow db clean" in healthy["Airflow's own tables"].advice
    assert "archive_mode is off" in healthy["backups of the database, and recovery to a point in time"].found


def test_a_test_s_clock_is_refused(installed, environment):
    installed.sql("UPDATE release_clock SET settable = true")
    assert look(environment, installed.database.now())["clock of the database"].state == "wrong"


@pytest.mark.parametrize(("seconds", "state"), [(4, "ok"), (-30, "warning"), (61, "wrong")])
def test_clocks_are_compared(installed, environment, seconds, state):
    assert look(environment, installed.database.now() + timedelta(seconds=seconds))["clocks"].state == state


def test_a_url_of_another_role_is_found(installed, environment):
    environment["KEYSERVER_API_DATABASE_URL"] = installed.database.url("keyserver_pipeline")
    check = look(environment, installed.database.now())["role keyserver_api"]
    assert (check.state, check.found) == ("wrong", "its URL logs in as another role")


def test_a_role_out_of_reach_is_found_and_the_rest_is_looked_at(installed, environment):
    environment["KEYSERVER_REWRITER_DATABASE_URL"] = f"postgresql://keyserver_rewriter:{SECRET}@127.0.0.1:1/none"
    checks = look(environment, installed.database.now())
    assert checks["role keyserver_rewriter"].state == "wrong"
    assert "Is it up?" in checks["role keyserver_rewriter"].advice
    assert checks["role keyserver_retention"].state == "ok"


def test_the_whole_database_out_of_reach_is_no_traceback(installed, environment):
    dead = {
        variable: f"postgresql://somebody:{SECRET}@127.0.0.1:1/none" if variable.endswith("DATABASE_URL") else url
        for variable, url in environment.items()
    }
    checks = look(dead, installed.database.now())
    for what in ("database", "freshness", "signing keys", "revision keys", "public URL"):
        assert checks[what].state == "wrong", what
    assert SECRET not in "\n".join(map(str, checks.values()))
    assert checks["object store"].state == "ok"


def test_a_process_that_knows_little_is_told_what_was_not_checked(installed, environment):
    only = {"KEYSERVER_API_DATABASE_URL": environment["KEYSERVER_API_DATABASE_URL"]}
    checks = look(only, installed.database.now())
    assert checks["role keyserver_api"].state == "ok"
    for what in (
        "role keyserver_pipeline",
        "database",
        "freshness",
        "signing keys",
        "revision keys",
        "object store",
        "public URL",
    ):
        assert checks[what].state == "not checked", what
    assert "wrong" not in {check.state for check in checks.values()}


def test_an_old_schema_is_found(installed, environment):
    installed.sql("UPDATE alembic_version SET version_num = '0001'")
    check = look(environment, installed.database.now())["schema"]
    assert (check.state, check.advice) == ("wrong", "Run `keyserver database migrate`")


@pytest.mark.parametrize(
    ("role", "setting", "value"),
    [
        ("api", "statement_timeout", "0"),
        ("pipeline", "lock_timeout", "0"),
        ("retention", "idle_in_transaction_session_timeout", "0"),
        ("api", "synchronous_commit", "off"),
    ],
)
def test_a_role_without_its_bounds_is_found(installed, environment, role, setting, value):
    name = installed.database.name
    installed.sql(f'ALTER ROLE keyserver_{role} IN DATABASE "{name}" SET {setting} = {value}')
    check = look(environment, installed.database.now())[f"role keyserver_{role}"]
    assert check.state == "wrong"
    assert setting in check.found


SERVER = stored.Server(
    version=160_004,
    fsync=True,
    full_page_writes=True,
    autovacuum=True,
    log_statement="none",
    log_min_duration_ms=-1,
    archive_mode="off",
    wal_keep_mb=0,
    slot_keep_mb=-1,
    slots=0,
    idle_slots=0,
)


@pytest.mark.parametrize(
    ("changes", "what", "state"),
    [
        ({}, "PostgreSQL", "ok"),
        ({}, "durability", "ok"),
        ({"version": 149_999}, "PostgreSQL", "wrong"),
        ({"fsync": False}, "durability", "wrong"),
        ({"full_page_writes": False}, "durability", "wrong"),
        ({"autovacuum": False}, "autovacuum", "wrong"),
        ({"log_statement": "all"}, "log of the database", "warning"),
        ({"log_min_duration_ms": 100}, "log of the database", "warning"),
    ],
)
def test_how_a_server_is_set(changes, what, state):
    found = {check.what: check for check in doctor._server(dataclasses.replace(SERVER, **changes))}
    assert found[what].state == state


def test_an_idle_replication_slot_without_bound_is_warned_of(installed, environment):
    with installed.database.admin() as connection:
        before = connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone()
    assert before == (0,)
    assert look(environment, installed.database.now())["write-ahead log"].state == "not checked"
    slot = f"slot_{installed.database.name}"
    installed.sql("SELECT pg_create_physical_replication_slot(%(slot)s, true)", slot=slot)
    try:
        check = look(environment, installed.database.now())["write-ahead log"]
    finally:
        installed.sql("SELECT pg_drop_replication_slot(%(slot)s)", slot=slot)
    assert check.state == "warning"
    assert "1 replication slot, 1 of them idle, which keep without bound" in check.found


def test_what_is_late_is_found(installed, environment):
    installed.database.pass_time(timedelta(hours=4))
    checks = look(environment, installed.database.now())
    assert [checks[what].state for what in ("release clock", "feeds", "proof of retention")] == ["wrong"] * 3
    assert "north" in checks["feeds"].found


def test_that_nothing_was_proved_yet_is_a_warning(served, environment, installed):
    installed.database.pass_time(timedelta(days=16))  # remembered no longer
    assert look(environment, installed.database.now())["proof of retention"].state == "warning"


def test_what_waits_for_somebody_is_a_warning(installed, environment):
    withdraw.withdraw(installed.runtime(), 1, "a mistake")
    check = look(environment, installed.database.now())["withdrawals"]
    assert (check.state, check.found) == ("warning", "batch 1 of feed north")


def test_another_key_in_the_signer_is_found(installed, environment):
    (installed.folder / "signer" / "north.pem").unlink()
    missing = look(environment, installed.database.now())["signing key north"]
    signers.generate(f"file://{installed.folder}/signer", "north")
    other = look(environment, installed.database.now())["signing key north"]
    assert (missing.state, other.state) == ("wrong", "wrong")
    assert other.found == "the signer holds another key than the one that is declared"


def test_that_no_key_signs_is_found(installed, environment):
    installed.sql("UPDATE signing_key SET revoked_at = keyserver_now()")
    checks = look(environment, installed.database.now())
    assert checks["signing keys"].state == "wrong"
    assert checks["signing key of the public log"].state == "wrong"
    assert checks["signing keys to come"].state == "warning"


def test_another_master_key_is_found(installed, environment):
    (installed.folder / "keywrap" / "master.key").unlink()
    keywrap.generate(f"file://{installed.folder}/keywrap")
    assert look(environment, installed.database.now())["revision keys"].state == "wrong"


def test_that_there_is_no_revision_key_is_found(installed, environment):
    installed.sql("DELETE FROM revision_key")
    check = look(environment, installed.database.now())["revision keys"]
    assert (check.state, check.advice) == ("wrong", "Run `keyserver keys rotate`")


# The store


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "probed")


class Overwriting(LocalBlobs):
    def put_if_absent(self, path: str, data: bytes, content_type: str, cache_control: str) -> None:
        try:
            super().put_if_absent(path, data, content_type, cache_control)
        except ConflictError:
            self.replace(path, data, self.read(path).etag, content_type, cache_control)


class Careless(LocalBlobs):
    def replace(self, path: str, data: bytes, etag: str | None, content_type: str, cache_control: str) -> None:  # noqa: ARG002 - it does not care
        super().replace(path, data, self.read(path).etag, content_type, cache_control)


class Stale(LocalBlobs):
    def list(self, prefix: str = "") -> list[str]:  # noqa: ARG002 - the port's signature
        return []


class Undying(LocalBlobs):
    def delete(self, path: str) -> None:
        """Say that it is done."""


class Versioned(LocalBlobs):
    def keeps_deleted(self) -> str | None:
        return "versioning is on"


def test_the_probe_leaves_nothing_behind(blobs):
    assert doctor._probe(blobs).state == "ok"
    assert blobs.list() == []


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Overwriting, "it overwrites what must not be"),
        (Careless, "it overwrites what must not be"),
        (Stale, "it does not list what was just written"),
        (Undying, "what is deleted can still be read"),
    ],
)
def test_a_store_that_does_less_than_its_port_says_is_found(tmp_path, kind, found):
    check = doctor._probe(kind(tmp_path / "probed"))
    assert (check.state, check.found) == ("wrong", found)


def test_a_store_that_keeps_what_is_deleted_is_refused(installed, environment, monkeypatch):
    monkeypatch.setattr(doctor, "open_blobs", lambda url: Versioned(Path(url.removeprefix("file://"))))
    check = look(environment, installed.database.now())["deleted objects"]
    assert (check.state, "versioning is on" in check.found) == ("wrong", True)


def test_a_store_that_cannot_be_written_to_is_found(installed, environment, tmp_path):
    (tmp_path / "no-folder").write_text("a file")
    environment["KEYSERVER_BLOBS_URL"] = f"file://{tmp_path}/no-folder"
    assert look(environment, installed.database.now())["object store"].state == "wrong"


# What phones get


def test_a_public_url_that_serves_something_else_is_found(installed, environment):
    (name,) = [name for name in installed.released_files() if name.endswith(".zip")]
    index_file = installed.public / "north" / "index.txt"
    (installed.public / name).write_bytes(b"other bytes")
    damaged = look(environment, installed.database.now())["public files of feed north"]
    assert (damaged.state, "other bytes" in damaged.found) == ("wrong", True)
    index_file.unlink()
    unwritten = look(environment, installed.database.now())["public files of feed north"]
    assert unwritten.state == "warning"
    index.write_all(installed.runtime())
    environment["KEYSERVER_PUBLIC_URL"] = f"{installed.public_url}/nowhere"
    assert look(environment, installed.database.now())["public files of feed north"].state == "wrong"


def test_a_public_url_behind_the_store_is_a_warning(installed, environment, monkeypatch):
    """As a CDN is, until its cache is older."""
    monkeypatch.setattr(doctor.client, "exchange", lambda *_, **__: (200, b"older"))
    assert look(environment, installed.database.now())["public files of feed north"].state == "warning"


def test_maintenance_mode_is_a_warning(installed, environment):
    environment["KEYSERVER_MAINTENANCE_MODE"] = "true"
    assert look(environment, installed.database.now())["maintenance mode"].state == "warning"


# The command


@pytest.fixture
def real_time(installed: Authority) -> None:
    """The database's clock as the host's: a process of its own compares them."""
    with installed.database.admin() as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION keyserver_now() RETURNS timestamptz LANGUAGE sql VOLATILE"
            " BEGIN ATOMIC SELECT clock_timestamp(); END"
        )


def test_the_command_says_a_line_a_check_and_ends_with_one_if_something_is_wrong(installed, environment, real_time):
    said = keyserver("doctor", **environment)
    assert said.returncode == 1  # its windows are years behind
    lines = said.stdout.splitlines()
    assert "wrong: release clock: windows are closed through 2026-03-02 10:01 UTC only" in said.stdout
    assert lines[0] == "ok: role keyserver_migrate: it connects, and is bounded as it should be"
    assert lines[-1].endswith("not checked.")
    told = json.loads(keyserver("doctor", "--json", **environment).stdout)
    assert {"what", "state", "found", "advice"} == set(told["checks"][0])
    assert [check["what"] for check in told["checks"]] == [line.split(": ")[1] for line in lines[:-1]]


def test_the_command_ends_with_nought_if_nothing_is_wrong():
    said = keyserver("doctor")
    assert said.returncode == 0, said.stdout
    assert "not checked" in said.stdout


def test_a_misspelt_setting_is_said(environment):
    with pytest.raises(ConfigurationError, match="KEYSERVER_BLOB_URL"):
        Settings.from_environment({"KEYSERVER_BLOB_URL": "file:///x"})


def test_no_secret_is_shown(installed, environment):
    with psycopg.connect(installed.database.url("keyserver_migrate")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    environment["KEYSERVER_API_DATABASE_URL"] = environment["KEYSERVER_API_DATABASE_URL"].replace(
        "keyserver_api@", f"keyserver_api:{SECRET}@"
    )
    assert SECRET in environment["KEYSERVER_API_DATABASE_URL"]
    diagnosis = examine(Settings.from_environment(environment), installed.database.now())
    assert SECRET not in "\n".join(diagnosis.sentences()) + repr(diagnosis)
