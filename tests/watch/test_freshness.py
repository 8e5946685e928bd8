"""How fresh it is, as the database says: feeds, withdrawals, decisions, keys, windows, the proof of retention."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from keyserver.export import withdraw
from keyserver.quality import freshness
from keyserver.quality.freshness import Freshness, KeyGap
from tests.export.conftest import Authority
from tests.export.operators import hold_next

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def read(authority: Authority, role: str = "pipeline") -> Freshness:
    with authority.database.database(role).transaction("REPEATABLE READ READ ONLY") as connection:
        return freshness.read(connection)


@pytest.fixture
def north(authority: Authority) -> Authority:
    authority.add_feed("north", period_minutes=5)
    return authority


def test_a_feed_is_fresh_until_its_next_batch_is_a_minute_late(north):
    assert read(north).late == {}  # nothing is planned yet
    north.close_windows(5 * MINUTE)
    assert north.statuses() == {1: "planned"}
    assert [feed.fresh_through for feed in read(north).feeds] == [north.database.now() - 5 * MINUTE]
    north.database.pass_time(MINUTE)
    assert read(north).late == {"north": timedelta(0)}  # the first batch is a minute late
    assert north.export() == []
    assert north.statuses() == {1: "empty"}
    assert read(north).late == {}
    north.database.pass_time(5 * MINUTE - timedelta(seconds=1))
    assert read(north).late == {}
    north.database.pass_time(timedelta(seconds=61))
    found = read(north)
    assert found.late == {"north": MINUTE}
    assert found.late_feeds == "north by 1 minutes"


@pytest.mark.parametrize("change", ["paused = true", "active_thru = keyserver_now()"])
def test_a_feed_that_is_paused_or_has_ended_is_never_late(north, change):
    north.close_windows(5 * MINUTE)
    north.database.pass_time(HOUR)
    assert read(north).late == {"north": 59 * MINUTE}
    north.sql(f"UPDATE feed SET {change}")
    assert read(north).feeds == []


def test_a_batch_that_is_held_makes_nothing_fresh(authority):
    authority.add_feed("north")
    assert hold_next(authority) == 1
    authority.database.pass_time(2 * HOUR)
    found = read(authority)
    assert found.late == {"north": 119 * MINUTE}
    (held,) = found.waiting
    assert (held.batch_id, held.feed, held.status) == (1, "north", "held")
    assert found.now - held.since == 2 * HOUR
    assert found.held == "batch 1 of feed north"
    assert found.withdrawing == "none"


def test_a_withdrawal_waits_from_when_its_lines_left_the_index(published):
    withdraw.withdraw(published.runtime(), 1, "wrong")
    published.database.pass_time(61 * MINUTE)
    found = read(published)
    (waiting,) = found.waiting
    assert (waiting.batch_id, waiting.status, found.now - waiting.since) == (1, "withdrawing", 61 * MINUTE)
    assert found.withdrawing == "batch 1 of feed north"


def test_what_will_have_no_signing_key_is_named(published):
    assert read(published).key_gaps == [KeyGap("feed north", None), KeyGap("the public log", None)]
    published.sql("UPDATE signing_key SET active_thru = keyserver_now() + interval '3 days' WHERE name = 'north'")
    published.sql("UPDATE signing_key SET revoked_at = keyserver_now() WHERE name = 'transparency'")
    found = read(published)
    assert found.key_gaps == [
        KeyGap("feed north", found.now + timedelta(days=3)),
        KeyGap("the public log", found.now),
    ]
    assert found.ending_keys == (
        "feed north has none from 2026-03-05 10:02 UTC on, the public log has none from 2026-03-02 10:02 UTC on"
    )


def test_without_a_feed_no_key_is_missed(authority):
    assert read(authority).key_gaps == []


def test_windows_are_as_the_release_clock_has_them(authority, start):
    found = read(authority)
    assert (found.now, found.width, found.closed_through) == (start, MINUTE, start)


def append_event(authority: Authority, kind: str) -> None:
    event = dict.fromkeys(["actor", "kind"], kind) | {"subject": {}, "counts": {}, "hashes": {}}
    event |= dict.fromkeys(["dag", "run", "task", "map_index", "try"])
    with psycopg.connect(authority.database.url("keyserver_pipeline")) as connection:
        connection.execute("SELECT audit_append(%s)", [[Jsonb(event)]])


def test_the_newest_proof_of_retention_counts(authority):
    append_event(authority, "window.closed")
    assert read(authority).proved_at is None
    append_event(authority, freshness.PROOF)
    authority.database.pass_time(HOUR)
    append_event(authority, freshness.PROOF)
    proved_at = authority.database.now()
    authority.database.pass_time(4 * HOUR)
    append_event(authority, "window.closed")
    assert read(authority).proved_at == proved_at


def test_an_auditor_may_ask_too(published):
    assert read(published, "auditor") == read(published)
