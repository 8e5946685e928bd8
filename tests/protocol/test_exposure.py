from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import PublishError
from keyserver.protocol.exposure import (
    Exposure,
    Limits,
    ReportType,
    base,
    created_at,
    told_onset,
    transform,
)
from keyserver.protocol.messages import SentKey

NOW = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
CURRENT = int(NOW.timestamp()) // 600
MIDNIGHT = CURRENT - CURRENT % 144
OLDEST_END = CURRENT - 15 * 144
HOUR = timedelta(hours=1)
CONFIRMED = ReportType.CONFIRMED
DEFAULTS = Limits()


def text(name: int) -> str:
    return base64.b64encode(bytes([name]) * 16).decode()


def key(name: int = 1, start: int = MIDNIGHT - 144, period: int = 144, risk: int = 0) -> SentKey:
    return SentKey(key=text(name), start=start, period=period, transmission_risk=risk)


def taken(*keys: SentKey, report_type: ReportType = CONFIRMED, onsets=(), limits=DEFAULTS) -> tuple[Exposure, ...]:
    result = transform(keys, report_type, onsets, NOW, limits)
    assert result.errors == result.warnings == ()
    return result.exposures


def error_of(bad: SentKey) -> str:
    """What is said of one bad key beside a good one."""
    result = transform([key(200), bad], CONFIRMED, (), NOW, Limits())
    assert [exposure.key for exposure in result.exposures] == [bytes([200]) * 16]
    (error,) = result.errors
    return error


def refusal(*keys: SentKey, limits: Limits = DEFAULTS) -> PublishError:
    with pytest.raises(PublishError) as caught:
        transform(keys, CONFIRMED, (), NOW, limits)
    assert caught.value.code == "bad_request"
    return caught.value


def days(count: int) -> list[SentKey]:
    return [key(day, MIDNIGHT - 144 * (day + 1)) for day in range(count)]


def test_scenario_30_the_number_of_keys():
    assert str(refusal()) == "the request has no keys"
    assert len(taken(*days(5), limits=Limits(max_keys=5))) == 5
    assert str(refusal(*days(6), limits=Limits(max_keys=5))) == "the request has 6 keys; at most 5 are taken"


@pytest.mark.parametrize("sent", ["AAAA", "AAAAAAAAAAAAAAAAAAA", "A" * 23, ""])
def test_scenario_32_another_length(sent):
    size = len(sent) * 3 // 4
    assert error_of(SentKey(key=sent, start=MIDNIGHT, period=1)) == f"key 1 has {size} bytes, not 16"


def test_scenario_28_no_base64():
    assert error_of(SentKey(key="*" * 24, start=MIDNIGHT, period=1)) == "key 1 is not base64"


@pytest.mark.parametrize("period", [-1, 0, 145, 2**31 - 1, -(2**31)])
def test_scenario_33_periods_that_are_none(period):
    assert error_of(key(period=period)) == f"key 1 has a rollingPeriod of {period}, outside 1..144"


@pytest.mark.parametrize("period", [1, 144])
def test_scenario_33_the_shortest_and_the_longest_period(period):
    assert taken(key(period=period))[0].period == period


@pytest.mark.parametrize("risk", [-1, 9, 2**31 - 1])
def test_scenario_31_risks_that_are_none(risk):
    assert error_of(key(risk=risk)) == f"key 1 has a transmissionRisk of {risk}, outside 0..8"


def test_scenario_31_the_highest_risk():
    assert taken(key(risk=8))[0].transmission_risk == 8


@pytest.mark.parametrize("start", [OLDEST_END - 1, OLDEST_END - 143, OLDEST_END - 144])
def test_scenarios_34_and_35_a_key_is_as_old_as_its_end(start):
    """T3; the last one ends exactly at the limit."""
    assert taken(key(start=start))[0].start == start


@pytest.mark.parametrize("start", [OLDEST_END - 145, 0, -1, -144, -(2**31)])
def test_scenario_35_too_old(start):
    assert error_of(key(start=start)) == f"key 1 ended before interval {OLDEST_END}, more than 15 days ago"


def test_scenario_36_the_future():
    assert taken(key(start=CURRENT))[0].end == CURRENT + 144
    for start in (CURRENT + 1, 2**31 - 1):
        assert error_of(key(start=start)) == (
            f"key 1 starts at interval {start}, in the future; it is interval {CURRENT} now"
        )


def test_scenarios_2_and_55_bad_keys_are_named_by_their_place_in_the_request():
    keys = [key(9, start=CURRENT + 1), key(5), key(4, period=0), SentKey(key="?", start=MIDNIGHT, period=1)]
    result = transform(keys, CONFIRMED, (), NOW, Limits())
    assert [exposure.key for exposure in result.exposures] == [bytes([5]) * 16]
    assert [error.split()[:2] for error in result.errors] == [["key", "0"], ["key", "2"], ["key", "3"]]


def test_no_good_key_is_a_bad_request():
    error = refusal(key(period=0), key(risk=9))
    assert str(error).splitlines() == [
        "2 of the keys had errors:",
        "* key 0 has a rollingPeriod of 0, outside 1..144",
        "* key 1 has a transmissionRisk of 9, outside 0..8",
    ]


def test_keys_come_out_by_start_and_period():
    sent = [key(1, MIDNIGHT), key(2, MIDNIGHT - 144), key(3, MIDNIGHT - 288, 144), key(4, MIDNIGHT - 288, 10)]
    assert [exposure.key[0] for exposure in taken(*sent)] == [4, 3, 2, 1]


@pytest.mark.parametrize("swap", [False, True])
def test_scenario_49_overlap(swap):
    sent = [key(1, MIDNIGHT - 288), key(2, MIDNIGHT - 144 - 2)]
    error = refusal(*(reversed(sent) if swap else sent))
    assert (
        str(error)
        == f"the key from interval {MIDNIGHT - 146} overlaps the one from {MIDNIGHT - 288} to {MIDNIGHT - 144}"
    )


def test_overlap_is_measured_from_the_longest_key_of_a_start():
    sent = [key(1, MIDNIGHT - 144, 144), key(2, MIDNIGHT - 144, 10), key(3, MIDNIGHT - 100, 10)]
    assert "overlaps" in str(refusal(*sent))


def test_a_key_left_out_overlaps_nothing():
    bad = key(2, MIDNIGHT - 146, risk=9)
    result = transform([key(1, MIDNIGHT - 288), bad], CONFIRMED, (), NOW, Limits())
    assert len(result.exposures) == len(result.errors) == 1


def test_scenario_52_touching_keys():
    assert len(taken(key(1, MIDNIGHT - 288), key(2, MIDNIGHT - 144))) == 2


def test_scenario_50_several_keys_of_a_start():
    sent = [key(day * 10 + period, MIDNIGHT - 144 * day, period) for day in (1, 2) for period in (44, 88, 144)]
    assert len(taken(*sent)) == 6


def test_scenario_51_too_many_keys_of_a_start():
    error = refusal(*(key(number, period=10 + number) for number in range(4)))
    assert str(error) == f"4 keys start at interval {MIDNIGHT - 144}; at most 3 may"


def test_equal_keys_are_one_row_the_last_by_start_period_and_place():
    later, earlier = key(1, MIDNIGHT - 144, risk=1), key(1, MIDNIGHT - 288, risk=2)
    assert [exposure.transmission_risk for exposure in taken(later, earlier)] == [1]
    assert [exposure.transmission_risk for exposure in taken(key(risk=3), key(risk=4))] == [4]
    # They count before they are one.
    assert "4 keys start" in str(refusal(*[key()] * 4))


@pytest.mark.parametrize(
    ("report_type", "risk"),
    [(CONFIRMED, 2), (ReportType.LIKELY, 4), (ReportType.NEGATIVE, 6), (ReportType.USER_REPORT, 0)],
)
def test_scenarios_40_and_42_transmission_risk(report_type, risk):
    assert taken(key(), report_type=report_type)[0].transmission_risk == risk
    assert taken(key(risk=7), report_type=report_type)[0].transmission_risk == 7


def test_scenario_46_the_default_onset_is_four_days_ago():
    exposures = taken(*(key(ago, MIDNIGHT - 144 * ago) for ago in (5, 4, 3)))
    assert [exposure.days_since_onset for exposure in exposures] == [-1, 0, 1]


OLDEST_ONSET = MIDNIGHT - 28 * 144
DEFAULT_ONSET = None


@pytest.mark.parametrize(
    ("onsets", "chosen"),
    [
        ((0, 0), DEFAULT_ONSET),
        ((1, 0), DEFAULT_ONSET),  # scenario 44
        ((-(2**31), 2**32 - 1), DEFAULT_ONSET),
        ((CURRENT, 0), DEFAULT_ONSET),  # scenario 48
        ((CURRENT + 1, 0), DEFAULT_ONSET),
        ((CURRENT - 1, 0), CURRENT - 1),
        ((OLDEST_ONSET - 1, 0), DEFAULT_ONSET),
        ((OLDEST_ONSET, 0), OLDEST_ONSET),
        ((MIDNIGHT - 1, MIDNIGHT - 2), MIDNIGHT - 1),  # scenario 47: the request's wins
        ((CURRENT, MIDNIGHT - 2), MIDNIGHT - 2),  # scenario 47: the certificate's is taken
    ],
)
def test_scenarios_43_to_48_which_onset_counts(onsets, chosen):
    assert told_onset(onsets, NOW, Limits()) == chosen
    assert transform([key()], CONFIRMED, onsets, NOW, Limits()).onset == chosen


def test_an_onset_of_today_by_default():
    limits = Limits(default_onset_days_ago=0)
    assert taken(key(1, MIDNIGHT), limits=limits)[0].days_since_onset == 0


def test_scenario_45_fifteen_days_from_the_onset_is_left_out_with_a_warning():
    onset = MIDNIGHT - 20 * 144
    result = transform([key(1, MIDNIGHT - 5 * 144), key(2, MIDNIGHT - 6 * 144)], CONFIRMED, (onset,), NOW, Limits())
    assert [(exposure.key[0], exposure.days_since_onset) for exposure in result.exposures] == [(2, 14)]
    assert result.errors == ()
    assert result.warnings == ("key 0 was left out: it is 15 days from the onset of symptoms, more than 14",)


def test_scenario_53_all_left_out_with_warnings_is_no_error():
    result = transform([key()], CONFIRMED, (MIDNIGHT - 25 * 144,), NOW, Limits())
    assert (result.exposures, result.errors, len(result.warnings)) == ((), (), 1)


def test_warnings_go_with_a_refusal():
    with pytest.raises(PublishError) as caught:
        transform([key(), key(period=0)], CONFIRMED, (MIDNIGHT - 25 * 144,), NOW, Limits())
    assert len(caught.value.warnings) == 1


# Windows (T2)


@pytest.mark.parametrize(
    ("key_end", "expected"),
    [
        (CURRENT - 144, datetime(2026, 3, 2, 10, tzinfo=UTC)),
        (MIDNIGHT + 48, datetime(2026, 3, 2, 10, tzinfo=UTC)),  # ended at 8:00, two hours before its window
        (MIDNIGHT + 49, datetime(2026, 3, 2, 10, tzinfo=UTC)),  # 8:10, out at 10:10
        (MIDNIGHT + 54, datetime(2026, 3, 2, 11, tzinfo=UTC)),  # 9:00, out at 11:00
        (CURRENT, datetime(2026, 3, 2, 12, tzinfo=UTC)),  # scenario 39, which T2 changes: two hours for every key
        (MIDNIGHT + 144, datetime(2026, 3, 3, 2, tzinfo=UTC)),  # scenario 38, the same: midnight and two hours
    ],
)
def test_scenarios_38_and_39_a_key_waits_for_two_hours_after_its_end(key_end, expected):
    assert created_at(NOW, key_end, HOUR) == expected


@given(
    st.integers(1_577_836_800, 2_082_758_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.integers(-2000, 200),
    st.sampled_from([1, 5, 60, 240, 1440]),
)
def test_no_key_is_out_before_its_end_and_two_hours(now, after, minutes):
    width = timedelta(minutes=minutes)
    key_end = int(now.timestamp()) // 600 + after
    window = created_at(now, key_end, width)
    assert window + width > datetime.fromtimestamp(key_end * 600, UTC) + timedelta(hours=2)
    assert window + width > now
    assert window.timestamp() % (minutes * 60) == 0
    assert window.utcoffset() == timedelta(0)


def test_the_earliest_window_is_that_of_now_or_the_first_open_one():
    later = NOW + HOUR
    assert base(NOW, later) == base(later, NOW) == later
    assert base(NOW, NOW.astimezone(timezone(HOUR))) == NOW


SENT = st.builds(
    SentKey,
    key=st.binary(min_size=15, max_size=17).map(lambda data: base64.b64encode(data).decode()) | st.text(max_size=24),
    start=st.integers(-(2**31), 2**31 - 1) | st.integers(OLDEST_END - 300, CURRENT + 10),
    period=st.integers(-1, 146) | st.just(144),
    transmission_risk=st.integers(-1, 9),
)


@given(
    st.lists(SENT, max_size=6),
    st.sampled_from(ReportType),
    st.lists(st.integers(-(2**31), 2**32), max_size=2),
)
def test_e5_whatever_is_taken_can_be_released(sent, report_type, onsets):
    try:
        result = transform(sent, report_type, onsets, NOW, Limits())
    except PublishError:
        return
    assert len(result.exposures) + len(result.errors) + len(result.warnings) <= len(sent)
    assert len({exposure.key for exposure in result.exposures}) == len(result.exposures)
    for exposure in result.exposures:
        assert len(exposure.key) == 16
        assert 0 <= exposure.start <= CURRENT
        assert 1 <= exposure.period <= 144
        assert exposure.end < 2**31
        assert exposure.end >= OLDEST_END
        assert 0 <= exposure.transmission_risk <= 8
        assert -14 <= exposure.days_since_onset <= 14
