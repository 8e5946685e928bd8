"""A small history that everything happens in, made once; and for each test a copy of it, to be tampered with."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from keyserver.audit import Actor
from keyserver.export import build, decide, replace, withdraw
from keyserver.export.transparency import publish_logs
from keyserver.keys import exportkeys
from keyserver.oversight.verify import Asked, Kept, Rebuilding, Report, verify
from keyserver.protocol.intervals import interval_at
from keyserver.providers.signers import generate
from keyserver.runtime import Runtime, open_runtime
from tests.conftest import ROLES, TestDatabase
from tests.export.conftest import Authority, serving
from tests.export.operators import hold_next

# Two minutes before midnight, so that a day of the logs ends in it.
BEGIN = datetime(2026, 3, 2, 23, 54, tzinfo=UTC)


@dataclass
class Case:
    """A copy of the history: its database, its store, and ways to change both as nobody may."""

    authority: Authority

    @property
    def public(self) -> Path:
        return self.authority.public

    def change(self, *statements: str, **values: object) -> None:
        """As whoever owns the database may, past all triggers and foreign keys."""
        with psycopg.connect(self.authority.database.url("postgres")) as connection:
            connection.execute("SET session_replication_role = 'replica'")
            connection.execute("ALTER TABLE audit_event DROP CONSTRAINT IF EXISTS audit_event_check")
            for statement in statements:
                assert connection.execute(statement, values or None).rowcount != 0, statement

    def seq(self, kind: str, which: int = 0) -> int:
        rows = self.authority.sql("SELECT seq FROM audit_event WHERE kind = %(kind)s ORDER BY seq", kind=kind)
        return rows[which][0]

    def rewrite(self, first: int, change: Callable[[dict], dict | None]) -> None:
        """Write the events anew from one on, each changed or left out (None), with numbers and hashes that fit."""
        rows = self.authority.sql("SELECT seq, body, hash FROM audit_event ORDER BY seq")
        previous, seq = None, 0
        anew = []
        for old, body, digest in rows:
            event = json.loads(body)
            if old < first:
                previous, seq = digest.hex(), old
                continue
            event = change(event)
            if event is None:
                continue
            seq += 1
            event |= {"seq": seq, "prev": previous}
            text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            previous = hashlib.sha256(text).hexdigest()
            anew.append((seq, event["at"], event["kind"], text, bytes.fromhex(previous)))
        with psycopg.connect(self.authority.database.url("postgres")) as connection:
            connection.execute("SET session_replication_role = 'replica'")
            connection.execute("DELETE FROM audit_event WHERE seq >= %s", [first])
            for row in anew:
                connection.execute("INSERT INTO audit_event VALUES (%s, %s, %s, %s, %s)", row)

    def auditor(self, *, store: bool = True, cdn: bool = False) -> Runtime:
        opened = open_runtime(
            Actor("keyserver audit verify"),
            self.authority.database.url("keyserver_auditor"),
            blobs_url=f"file://{self.authority.folder}/blobs" if store else None,
            public_url=self.authority.public_url if cdn else None,
        )
        self.authority.opened.append(opened)
        return opened

    def verify(self, *, rebuild: bool = False, store: bool = True, cdn: bool = False, **asked: object) -> Report:
        return self.verify_and_keep(rebuild=rebuild, store=store, cdn=cdn, **asked)[0]

    def verify_and_keep(
        self, *, rebuild: bool = False, store: bool = True, cdn: bool = False, **asked: object
    ) -> tuple[Report, Kept | None]:
        rebuilding = Rebuilding(self.authority.runtime(), build.rebuild) if rebuild else None
        return verify(self.auditor(store=store, cdn=cdn), Asked(**asked), rebuilding)


@pytest.fixture(scope="session")
def history(postgres, template, tmp_path_factory) -> Iterator[Authority]:
    """What all happens in: padding, a split file, revisions, a withdrawal, a rejection, a revoked key, a day's end.

    Nobody is connected to its database, so that it can be cloned.
    """
    name = f"history_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" OWNER keyserver_migrate TEMPLATE "{template}" STRATEGY FILE_COPY')
        connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO {", ".join(ROLES)}')
    authority = Authority(TestDatabase(postgres.admin_url, name), tmp_path_factory.mktemp("history"))
    (authority.folder / "signer").mkdir(mode=0o700)
    try:
        with serving(authority):
            _make(authority)
    finally:
        for opened in authority.opened:
            opened.close()
    yield authority
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _make(authority: Authority) -> None:
    authority.sql("UPDATE release_clock SET closed_through = %(at)s, rewritten_through = %(at)s", at=BEGIN)
    authority.database.set_time(BEGIN)
    authority.add_feed("north", max_keys=20, padding_minimum=24)
    authority.add_log_key()
    authority.sql(
        "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from)"
        " VALUES ('spare', '242', 'spare', %(public_key)s, %(since)s)",
        public_key=generate(f"file://{authority.folder}/signer", "spare"),
        since=BEGIN,
    )
    first = authority.add_keys(10, report_type="likely")
    authority.close_windows()
    assert authority.export() == [1]  # two files, padded
    authority.sql("UPDATE feed SET padding_minimum = 0")
    publish_logs(authority.runtime())
    authority.revise(first[:2], "confirmed")
    authority.close_windows()
    assert authority.export() == [2]  # tells two revisions
    authority.close_windows()
    assert authority.export() == []  # batch 3 is empty
    withdraw.withdraw(authority.runtime(), 2, "a mistake")
    withdraw.finish(authority.runtime(), 2)
    assert replace.replace(authority.runtime(), 2, "once more") == 4
    assert authority.export() == [4]
    publish_logs(authority.runtime())
    assert hold_next(authority) == 5
    decide.reject(authority.runtime(), 5, "not that one", keep_revisions=False)
    exportkeys.revoke(authority.runtime(), "spare", "a drill")
    authority.database.set_time(BEGIN + timedelta(minutes=7))  # the next day
    authority.close_windows()
    authority.export()
    publish_logs(authority.runtime())
    authority.add_keys(6, seed=8, interval_number=interval_at(BEGIN) - 600)
    authority.close_windows()
    authority.export()
    publish_logs(authority.runtime())


@pytest.fixture
def case(history: Authority, make_database, tmp_path) -> Iterator[Case]:
    """The history once more."""
    folder = tmp_path / "authority"
    shutil.copytree(history.folder, folder)
    copy = Authority(make_database(history.database.name), folder)
    yield Case(copy)
    for opened in copy.opened:
        opened.close()
