from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keyserver.protocol.exposure import Exposure, ReportType
from keyserver.protocol.statistics import Facts, Increments, Platform, Profile, facts, increments, platform, profile

NOW = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
CURRENT = int(NOW.timestamp()) // 600
MIDNIGHT = CURRENT - CURRENT % 144


def key(days_ago: int, risk: int = 2, period: int = 144) -> Exposure:
    return Exposure(bytes([days_ago]) * 16, MIDNIGHT - 144 * days_ago, period, risk, 0)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 13_7 like Mac OS X)", Platform.IOS),
        ("bluetoothd (unknown version) CFNetwork/1197 Darwin/20.0.0", Platform.IOS),
        ("bluetoothd", Platform.UNKNOWN),
        ("CFNetwork/1197", Platform.UNKNOWN),
        ("Dalvik/2.1.0 (Linux; U; Android 11; Pixel 4)", Platform.ANDROID),
        ("okhttp ANDROID iphone", Platform.ANDROID),
        ("curl/8.0", Platform.UNKNOWN),
        ("", Platform.UNKNOWN),
    ],
)
def test_scenario_103_platforms(agent, expected):
    assert platform(agent) is expected


def test_the_facts_of_an_upload():
    told = facts([key(1), key(9)], MIDNIGHT - 144 * 3 + 7, Platform.IOS, NOW)
    assert told == Facts(Platform.IOS, oldest_days=9, onset_days=3)
    assert facts([key(0)], None, Platform.IOS, NOW) == Facts(Platform.IOS, 0, None)


def test_scenario_100_what_an_upload_adds():
    known = Facts(Platform.ANDROID, 2, 1)
    assert increments(known, 14, 0) == Increments(Platform.ANDROID, 14, 0, 2, 1, 0)
    # A revision counts by platform, keys and as one, whatever else it brought.
    assert increments(known, 3, 11) == Increments(Platform.ANDROID, 14, 1, None, None, 0)
    assert increments(Facts(Platform.UNKNOWN, 2, None), 1, 0) == Increments(Platform.UNKNOWN, 1, 0, 2, None, 1)
    assert increments(known, 0, 0) is None


@pytest.mark.parametrize(
    ("oldest", "onset", "buckets"),
    [(15, 29, (15, 29)), (16, 30, (15, 29)), (99, 99, (15, 29)), (0, 0, (0, 0)), (-1, -1, (None, None))],
)
def test_scenario_100_the_last_buckets_take_all_above_and_none_what_is_negative(oldest, onset, buckets):
    added = increments(Facts(Platform.IOS, oldest, onset), 1, 0)
    assert (added.oldest_bucket, added.onset_bucket) == buckets


def test_p1_the_profile_is_joint_over_three_things_and_marginal_in_all_else():
    told = Facts(Platform.IOS, 9, 3)
    added = profile(told, [key(1), key(5, 7), key(6, 7, 20)], ReportType.LIKELY, NOW, traveler=True)
    assert added == Profile(
        ReportType.LIKELY,
        3,
        6,
        (
            ("interval_count", 20, 1),
            ("interval_count", 144, 2),
            ("onset_days", 3, 1),
            ("transmission_risk", 2, 1),
            ("transmission_risk", 7, 2),
            ("traveler", 1, 1),
        ),
    )


def test_p1_what_the_tables_can_hold():
    added = profile(Facts(Platform.IOS, 9, 40), [key(16)] * 31, ReportType.LIKELY, NOW, traveler=False)
    assert (added.keys, added.oldest_days) == (30, 15)
    assert ("onset_days", 29, 1) in added.marginals
    for onset in (None, -1):
        others = profile(Facts(Platform.IOS, 9, onset), [key(1)], ReportType.LIKELY, NOW, traveler=False).marginals
        assert "onset_days" not in {what for what, _, _ in others}


def test_p1_no_new_keys_or_nobodys_word_are_no_profile():
    told = Facts(Platform.IOS, 9, 3)
    assert profile(told, [], ReportType.CONFIRMED, NOW, traveler=False) is None
    assert profile(told, [key(1)], None, NOW, traveler=False) is None
