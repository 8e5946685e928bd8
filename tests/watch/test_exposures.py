"""Which stored exposures a look reads, and that it stays affordable and tells no key."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from keyserver.errors import VerificationError
from keyserver.quality import exposures
from keyserver.store import watch
from keyserver.watch import check
from tests.export.conftest import Authority
from tests.uploads import authorise

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def looked_at(authority: Authority) -> watch.LookedAt:
    with authority.database.database("pipeline").connection() as connection:
        return watch.looked_at(connection, exposures.NAME)


@pytest.fixture
def north(authority: Authority) -> Authority:
    authorise(authority.database.url("postgres"), regions=("NO",))
    authority.add_feed("north")
    return authority


def test_the_first_look_is_at_six_hours_and_each_further_one_at_what_closed_since(north, start):
    assert looked_at(north).new_from is None
    north.close_windows(7 * HOUR)
    first = looked_at(north)
    assert (first.new_from, first.new_to) == (start + HOUR, start + 7 * HOUR)
    check.check_exposures(north.runtime("watch"))
    # A quarter of an hour to spare, for a window that closed while the last look was under way.
    assert looked_at(north).new_from == start + HOUR
    north.database.pass_time(16 * MINUTE)
    check.check_exposures(north.runtime("watch"))
    assert looked_at(north).new_from is None
    north.close_windows(MINUTE)
    assert looked_at(north).new_from == start + 7 * HOUR


def test_a_bad_row_is_seen_once_its_window_is_closed_and_then_again_when_its_hour_has_its_turn(north, start):
    north.add_keys(2, seed=1)
    with north.database.admin() as connection:
        connection.execute("ALTER TABLE exposure DROP CONSTRAINT exposure_transmission_risk_check")
    north.add_keys(1, seed=2, transmission_risk=9)
    check.check_exposures(north.runtime("watch"))  # its window is open
    north.close_windows()
    with pytest.raises(VerificationError, match=r"transmission risks are known: .* found 1 exposures otherwise"):
        check.check_exposures(north.runtime("watch"))
    north.database.pass_time(16 * MINUTE)
    with pytest.raises(VerificationError):
        check.check_exposures(north.runtime("watch"))
    check.check_exposures(north.runtime("watch"))

    with north.database.admin() as connection:
        while watch.looked_at(connection, exposures.NAME).sampled_from != start:
            connection.execute("UPDATE test_time SET moment = moment + interval '15 minutes'")
    assert looked_at(north).new_from is None or looked_at(north).new_from > start
    with pytest.raises(VerificationError, match=r"transmission risks are known: .* found 1 exposures otherwise"):
        check.check_exposures(north.runtime("watch"))


def test_every_hour_has_its_turn_three_times_while_its_rows_live(north, start):
    turns = dict.fromkeys([start + HOUR * n for n in range(24)], 0)
    with north.database.admin() as connection:
        for step in range(15 * 96):
            connection.execute("UPDATE test_time SET moment = %s", [start + DAY + 15 * MINUTE * step])
            sampled = watch.looked_at(connection, exposures.NAME).sampled_from
            if sampled in turns:
                turns[sampled] += 1
    assert min(turns.values()) >= 3


def test_a_revision_of_an_older_key_is_looked_at(north):
    old = north.add_keys(2, seed=1)
    north.close_windows()
    north.close_windows(7 * HOUR)
    with north.database.admin() as connection:
        connection.execute("ALTER TABLE exposure DROP CONSTRAINT exposure_revised_transmission_risk_check")
    north.revise(old[:1], "confirmed", risk=9)
    north.close_windows()
    with pytest.raises(VerificationError, match="revised transmission risks are known"):
        check.check_exposures(north.runtime("watch"))


def test_what_is_usual_is_not_asked_before_there_is_something_to_compare_with(north):
    north.add_keys(3)
    north.close_windows(2 * DAY)
    asked = [outcome.expectation for outcome in check.check_exposures(north.runtime("watch"))]
    assert "windows hold what they held when they closed" in asked
    assert [name for name in asked if "usual" in name] == []


def test_no_statement_and_no_result_tells_a_key(north, caplog):
    caplog.set_level("DEBUG")
    keys = north.add_keys(5)
    with north.database.admin() as connection:
        connection.execute("ALTER TABLE exposure DROP CONSTRAINT exposure_transmission_risk_check")
        connection.execute("UPDATE exposure SET transmission_risk = 11, created_at = created_at + interval '1 second'")
    north.close_windows()
    with pytest.raises(VerificationError) as raised:
        check.check_exposures(north.runtime("watch"))
    with north.database.database("pipeline").connection() as connection:
        _, queries = exposures.read(connection)
        for query in queries.values():
            cursor = connection.execute(query)
            assert not {column.type_code for column in cursor.description} & {17, 1001}  # bytea, and arrays of it
    told = str(raised.value) + caplog.text + json.dumps(north.sql("SELECT found, expected FROM quality_result"))
    for key in keys:
        assert key.hex() not in told
        assert base64.b64encode(key).decode() not in told


@pytest.mark.parametrize("name", ["exposures", "windows", "overdue exposures", "report types"])
def test_no_statement_reads_the_whole_of_a_large_table(north, name):
    """100,000 rows of two weeks, of which a look reads a few hundredths: each way to them is an index."""
    with north.database.admin() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, report_type,"
            " traveler, regions, created_at)"
            " SELECT decode(md5(n::text), 'hex'), 2500000, 144, 0, 'confirmed', false, '{NO}',"
            " date_trunc('hour', keyserver_now()) - interval '13 days' + make_interval(mins => n / 5)"
            " FROM generate_series(1, 100000) AS n"
        )
        connection.execute(
            "INSERT INTO closed_window"
            " SELECT start, start + interval '1 minute', 5, 0, 0, start + interval '1 minute'"
            " FROM generate_series(keyserver_now() - interval '13 days', keyserver_now(), interval '1 minute') AS start"
        )
        connection.execute("ANALYZE")
    with north.database.database("pipeline").connection() as connection:
        _, queries = exposures.read(connection)
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {queries[name]}"))
    assert "exposure_created_at" in plan
    assert "Seq Scan on exposure" not in plan
