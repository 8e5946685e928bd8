"""Keys go a period after their window's start, and what was never released is reported before it goes (R1)."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import psycopg
import pytest

from keyserver.export import decide, replace, withdraw
from keyserver.protocol.exposure import RETENTION
from keyserver.retention.keys import KeysDeleted, delete_keys
from tests.conftest import START
from tests.export.operators import hold_next
from tests.retention.conftest import events

MINUTE = timedelta(minutes=1)


def run(authority, **arguments) -> KeysDeleted:
    return delete_keys(authority.runtime("retention-1", role="retention"), pause=lambda _: None, **arguments)


def held_by(authority, window: datetime) -> int:
    """How many keys a window had when it was closed."""
    ((keys,),) = authority.sql("SELECT keys FROM closed_window WHERE starts_at = %(window)s", window=window)
    return keys


def stored(authority) -> list[tuple]:
    return authority.sql("SELECT created_at, count(*) FROM exposure GROUP BY created_at ORDER BY created_at")


@pytest.fixture
def released(authority):
    """Two windows of a feed, the first padded, both released."""
    authority.add_feed("north", active_from=START, padding_minimum=20)
    keys = authority.add_keys(5, report_type="likely")
    authority.close_windows()
    authority.sql("UPDATE feed SET padding_minimum = 0")
    authority.add_keys(4, seed=2)
    authority.revise(keys[:2], "confirmed")
    authority.close_windows()
    authority.export()
    return authority


def test_a_row_goes_a_period_after_its_window_s_start_and_not_before(released):
    released.database.set_time(START + RETENTION - timedelta(microseconds=1))
    assert run(released).keys == 0
    released.database.set_time(START + RETENTION)
    deleted = run(released)
    held = held_by(released, START)
    assert (deleted.keys, deleted.synthetic_keys, deleted.revisions, deleted.unreleased) == (held, held - 5, 2, 0)
    assert held >= 20
    assert [window for window, _ in stored(released)] == [START + MINUTE]
    assert run(released).keys == 0
    assert released.sql("SELECT deleted_through FROM retention") == [(START,)]
    released.database.set_time(START + MINUTE + RETENTION)
    run(released)
    assert stored(released) == []


def test_a_shorter_period_that_is_declared_counts(released):
    released.sql("UPDATE retention SET period = '10 days'")
    released.database.set_time(START + timedelta(days=10))
    assert run(released).keys == held_by(released, START)


def test_each_chunk_is_a_transaction_with_its_event(released):
    released.database.set_time(START + RETENTION + MINUTE)
    total = sum(count for _, count in stored(released))
    pauses = []
    delete_keys(released.runtime("retention-1", role="retention"), rows_a_chunk=7, pause=pauses.append)
    told = events(released, "retention.deleted")
    assert len(told) == -(-total // 7)
    assert sum(event["counts"]["keys"] for event in told) == total
    assert sum(event["counts"]["synthetic_keys"] for event in told) == total - 9
    assert told[0]["subject"] == {"what": "exposure", "from": START.isoformat(), "to": START.isoformat()}
    assert told[-1]["subject"]["to"] == (START + MINUTE).isoformat()
    assert len(pauses) == len(told) - 1  # the database is left alone between them


def test_what_was_never_released_is_reported_before_it_goes(authority, caplog):
    authority.add_feed("north", exclude_regions=["DK"])
    authority.add_feed("paused", input_regions=["FI"])
    authority.add_feed("late", input_regions=["IS"], period_minutes=60)
    revoked = authority.add_keys(1, seed=1, report_type="likely")
    authority.revise(revoked, "negative")
    authority.add_keys(2, seed=2)
    authority.add_keys(3, seed=3, regions=("SE",))
    authority.add_keys(4, seed=4, regions=("NO", "DK"))
    authority.add_keys(5, seed=5, regions=("FI",))
    authority.add_keys(6, seed=6, regions=("IS",))
    authority.add_keys(7, seed=7, interval_number=int(START.timestamp()) // 600 - 144 * 30, interval_count=1)
    authority.sql("UPDATE feed SET paused = true WHERE name = 'paused'")
    authority.close_windows()
    authority.export()
    hold_next(authority)
    decide.reject(authority.runtime(), hold_next(authority), "not that one")

    authority.database.set_time(START + RETENTION + timedelta(hours=1))
    with caplog.at_level(logging.ERROR):
        deleted = run(authority)
    counts = events(authority, "retention.deleted")[0]["counts"]
    assert {name.removeprefix("unreleased_"): n for name, n in counts.items() if name.startswith("unreleased")} == {
        "revoked": 1,
        "no_feed": 3 + 6,
        "excluded": 4,
        "paused": 5,
        "expired": 7,
        "held": 1,
        "rejected": 1,
    }
    assert deleted.unreleased == 27
    alerts = [record.getMessage() for record in caplog.records if record.name == "keyserver.retention.keys"]
    window = START.isoformat(timespec="minutes")
    why = "go without ever having been released: their feed is paused"
    assert f"ALERT: 5 keys published in the window from {window} {why}" in alerts
    assert len(alerts) == 6  # of a revoked key nobody needs to know, nor of one that was released


def test_keys_of_a_batch_that_nobody_worked_on_are_reported_as_waiting(authority):
    authority.add_feed("north")
    authority.add_keys(2)
    authority.close_windows()
    authority.database.set_time(START + RETENTION)
    assert run(authority).unreleased == 2
    assert events(authority, "retention.deleted")[0]["counts"]["unreleased_waiting"] == 2


def test_a_supplement_or_a_withdrawal_leaves_a_key_one_that_was_released(served):
    served.add_feed("north")
    served.add_keys(3)
    served.close_windows()
    served.export()
    withdraw.withdraw(served.runtime(), 1, "wrong")
    withdraw.finish(served.runtime(), 1)
    replace.replace(served.runtime(), 1, "again")
    served.database.set_time(START + RETENTION)
    assert run(served).unreleased == 0


def test_a_revision_that_comes_meanwhile_is_not_lost_and_the_row_goes_all_the_same(released):
    """An upload holds the row while retention wants it: one waits for the other, and then it goes."""
    released.database.set_time(START + RETENTION)
    key = released.sql("SELECT min(exposure_key) FROM exposure WHERE NOT synthetic AND revised_at IS NULL")[0][0]
    with psycopg.connect(released.database.url("keyserver_api")) as upload:
        upload.execute(
            "UPDATE exposure SET revised_at = closed_through, revised_report_type = 'confirmed',"
            " revised_transmission_risk = 2 FROM release_clock WHERE exposure_key = %s",
            [key],
        )
        with psycopg.connect(released.database.url("keyserver_retention")) as connection:
            connection.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                connection.execute("DELETE FROM exposure WHERE exposure_key = %s", [key])
    assert run(released).keys == held_by(released, START)
    assert released.sql("SELECT count(*) FROM exposure WHERE created_at = %(start)s", start=START) == [(0,)]
