"""What became of all that was published in a window: counts by reason that add up (A6)."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest

from keyserver.errors import ConfigurationError
from keyserver.export import decide
from keyserver.oversight.window import explain_window
from keyserver.protocol.exposure import RETENTION
from keyserver.retention.keys import delete_keys
from tests.conftest import START
from tests.export.operators import hold_next

MINUTE = timedelta(minutes=1)


def account(authority, feed: str = "north", starts_at=START):
    (found,) = [one for one in explain_window(authority.runtime(), starts_at).feeds if one.feed == feed]
    return found


def test_every_key_and_every_revision_of_a_closed_window_is_counted_for_every_feed(authority):
    authority.add_feed("north", exclude_regions=["DK"], travelers="exclude", padding_minimum=20)
    authority.add_feed("south", input_regions=["SE"], period_minutes=60)
    keys = authority.add_keys(5, report_type="likely")
    authority.add_keys(4, seed=2, regions=("SE",))
    authority.add_keys(2, seed=3, regions=("NO", "DK"))
    authority.add_keys(3, seed=4, traveler=True)
    authority.revise(keys[:1], "negative")
    authority.revise(keys[1:2], "confirmed")
    (window,) = authority.close_windows()
    before = account(authority)
    authority.export()

    explained = explain_window(authority.runtime(), START)
    assert (explained.state, explained.problems) == ("closed", [])
    north, south = explained.feeds
    assert north.keys == {
        "released": 4 + window.synthetic_keys,
        "revoked": 1,
        "other_region": 4,
        "excluded_region": 2,
        "traveler": 3,
    }
    assert sum(north.keys.values()) == window.keys
    assert north.synthetic == window.synthetic_keys >= 16
    assert north.revisions == {"in_state": 2}
    assert (before.keys, before.settled, north.settled) == (north.keys, False, True)
    assert "as things stand" in before.text
    assert (south.batch, south.status) == (None, "not_planned")


def test_the_batch_that_replaces_another_stands_for_the_window(north):
    north.add_keys(2)
    held = hold_next(north)
    planned = decide.approve(north.runtime(), held, "it is right")
    found = account(north)
    assert (found.batch, found.status) == (planned, "planned")
    assert f"which replaces batch {held}" in found.text


def test_rows_that_retention_deleted_are_counted_as_such(north):
    keys = north.add_keys(3)
    north.revise(keys[:1], "confirmed")
    north.close_windows()
    north.export()
    north.database.set_time(START + RETENTION)
    delete_keys(north.runtime(role="retention"), pause=lambda _: None)
    explained = explain_window(north.runtime(), START)
    assert "Deleted by retention: 3 keys, 1 revision." in explained.sentences()
    assert explained.problems == []
    assert "keys: none released, 3 deleted by retention; revisions: none released, 1 deleted by retention" in (
        explained.feeds[0].text
    )


def test_rows_that_were_deleted_on_demand_are_told_apart_from_those(north):
    """What a deletion on demand writes down; `retention.demand` has tests of its own."""
    keys = north.add_keys(3)
    north.revise(keys[:1], "confirmed")
    north.close_windows()
    north.export()
    north.sql("DELETE FROM exposure WHERE exposure_key = %(key)s", key=keys[0])
    north.sql(
        "WITH deletion AS (INSERT INTO deletion (at, app_name, starts_at, ends_at, reason)"
        " VALUES (keyserver_now(), 'app', %(start)s, keyserver_now(), 'asked') RETURNING id)"
        " INSERT INTO deletion_window SELECT id, %(start)s, 1, 1 FROM deletion",
        start=START,
    )
    explained = explain_window(north.runtime(), START)
    assert "Deleted on demand: 1 key, 1 revision." in explained.sentences()
    assert explained.problems == []
    assert "keys: 2 released, 1 deleted on demand; revisions: none released, 1 deleted on demand" in (
        explained.feeds[0].text
    )
    north.database.set_time(START + RETENTION)
    delete_keys(north.runtime(role="retention"), pause=lambda _: None)
    explained = explain_window(north.runtime(), START)
    assert "1 deleted on demand, 2 deleted by retention" in explained.feeds[0].text
    assert explained.problems == []


def test_a_row_that_nothing_explains_does_not_add_up(north):
    keys = north.add_keys(3)
    north.close_windows()
    north.export()
    north.sql("DELETE FROM exposure WHERE exposure_key = %(key)s", key=keys[0])
    (problem,) = explain_window(north.runtime(), START).problems
    assert "other keys than when it was closed" in problem


def test_rows_that_came_after_the_window_was_closed_do_not_add_up(north):
    north.add_keys(3)
    north.close_windows()
    north.export()
    (late,) = north.add_keys(1, seed=2)
    with psycopg.connect(north.database.url("postgres")) as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute(
            "UPDATE exposure SET created_at = %s, revised_at = %s, revised_report_type = 'negative',"
            " revised_transmission_risk = 6 WHERE exposure_key = %s",
            [START, START, late],
        )
    assert len(explain_window(north.runtime(), START).problems) == 2


@pytest.mark.parametrize(
    ("starts_at", "state"),
    [(START + MINUTE, "open"), (START + 2 * MINUTE, "ahead"), (START - MINUTE, "unknown")],
)
def test_a_window_that_is_not_closed_has_no_counts(north, starts_at, state):
    north.close_windows()
    explained = explain_window(north.runtime(), starts_at)
    assert (explained.state, explained.totals, [feed.keys for feed in explained.feeds]) == (state, None, [{}])
    assert len(explained.sentences()) == 2


def test_what_is_no_start_of_a_window_is_refused_with_the_one_that_it_lies_in(north):
    with pytest.raises(ConfigurationError, match="starts at 2026-03-02 10:00 UTC"):
        explain_window(north.runtime(), START + timedelta(seconds=30))


@pytest.mark.parametrize("far", ["9999-12-31T23:59:00+00:00", "0001-01-01T00:00:00+14:00", "2019-12-31T23:59:00+00:00"])
def test_a_moment_out_of_all_proportion_is_refused(north, far):
    with pytest.raises(ConfigurationError, match="of the years 2020 to 2199"):
        explain_window(north.runtime(), datetime.fromisoformat(far))
