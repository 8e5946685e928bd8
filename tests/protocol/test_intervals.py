from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyserver.errors import ConfigurationError, FormatError
from keyserver.protocol.intervals import (
    INTERVAL,
    INTERVALS_PER_DAY,
    days_between,
    first_gap,
    floor_window,
    interval_at,
    interval_start,
    utc_midnight,
)

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


def test_the_test_vectors_generation_time_has_its_interval():
    assert interval_at(datetime(2020, 4, 2, tzinfo=UTC)) == 2642976
    assert interval_start(2642976) == datetime(2020, 4, 2, tzinfo=UTC)


@settings(deadline=None)
@given(MOMENTS)
def test_an_interval_holds_its_moment(moment):
    number = interval_at(moment)
    assert number == int(moment.timestamp() // 600)
    assert interval_start(number) <= moment < interval_start(number + 1) == interval_start(number) + INTERVAL


def test_other_time_zones_count_as_the_same_moment():
    athens = timezone(timedelta(hours=2))
    moment = datetime(2024, 3, 1, 1, 30, tzinfo=athens)
    assert interval_at(moment) == interval_at(datetime(2024, 2, 29, 23, 30, tzinfo=UTC))
    assert utc_midnight(moment) == datetime(2024, 2, 29, tzinfo=UTC)
    assert utc_midnight(moment).tzinfo is UTC


@pytest.mark.parametrize(("a", "b", "days"), [(143, 144, 1), (144, 143, -1), (0, 143, 0), (144, 288, 1), (287, 144, 0)])
def test_days_between_rounds_both_down_to_their_day(a, b, days):
    assert days_between(a, b) == days


@settings(deadline=None)
@given(MOMENTS, st.sampled_from([1, 5, 10, 60, 240, 1440]))
def test_a_window_holds_its_moment_and_starts_at_a_multiple_since_the_epoch(moment, minutes):
    width = timedelta(minutes=minutes)
    start = floor_window(moment, width)
    assert start <= moment < start + width
    assert start.timestamp() % width.total_seconds() == 0


def test_a_day_has_its_intervals():
    assert timedelta(days=1) == INTERVAL * INTERVALS_PER_DAY


@pytest.mark.parametrize("function", [interval_at, utc_midnight, lambda moment: floor_window(moment, INTERVAL)])
def test_a_naive_time_is_refused(function):
    with pytest.raises(FormatError, match="no time zone"):
        function(datetime(2024, 1, 1))  # noqa: DTZ001 - the point of the test


@pytest.mark.parametrize("width", [timedelta(0), timedelta(minutes=-1), timedelta(minutes=7), timedelta(days=2)])
def test_a_window_that_does_not_divide_a_day_is_refused(width):
    with pytest.raises(ConfigurationError, match="does not divide a day"):
        floor_window(datetime(2024, 1, 1, tzinfo=UTC), width)


@pytest.mark.parametrize("number", [2**31 - 1, -(2**31), 2**63])
def test_an_interval_outside_the_calendar_is_refused(number):
    with pytest.raises(FormatError, match="outside the calendar"):
        interval_start(number)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0, 0), (599.999, 0), (600, 1), (1_585_785_600, 2_642_976), (1_609_459_199.5, 2_682_431), (-1, -1)],
)
def test_scenario_26_an_interval_is_the_seconds_by_600_rounded_down(seconds, number):
    assert interval_at(datetime.fromtimestamp(seconds, UTC)) == number


@pytest.mark.parametrize(
    ("hours", "days"), [(0, 0), (23, 0), (24, 1), (35, 1), (37, 1), (-24, -1), (-25, -2), (-47, -2), (8 * 24 + 2, 8)]
)
def test_scenario_54_days_from_a_midnight(hours, days):
    midnight = interval_at(datetime(2024, 3, 1, tzinfo=UTC))
    assert days_between(midnight, midnight + hours * 6) == days


T = [datetime(2024, 3, 1, hour, tzinfo=UTC) for hour in range(6)]


@pytest.mark.parametrize(
    ("spans", "start", "end", "gap"),
    [
        ([], 0, None, 0),
        ([], 0, 0, None),
        ([(0, None)], 0, None, None),
        ([(0, 2)], 0, 2, None),
        ([(0, 2)], 0, None, 2),
        ([(0, 2), (2, 4)], 0, 4, None),
        ([(2, 4), (0, 2)], 1, 5, 4),
        ([(0, 5), (1, 2)], 0, 5, None),
        ([(0, 2), (3, None)], 0, None, 2),
        ([(0, 2), (3, None)], 3, None, None),
        ([(1, None)], 0, None, 0),
        ([(0, 1), (1, 1)], 2, 4, 2),
    ],
)
def test_the_first_gap_between_half_open_spans(spans, start, end, gap):
    held = [(T[a], None if b is None else T[b]) for a, b in spans]
    assert first_gap(held, T[start], None if end is None else T[end]) == (None if gap is None else T[gap])
