"""What is usual of a number: by the median, median absolute deviations, and no less than chance and the week do."""

from __future__ import annotations

import random

import pytest

from keyserver.quality.usual import ANYTHING, LEAST, K, of_keys, of_share


def test_too_few_numbers_say_nothing():
    assert of_keys([100] * (LEAST - 1)) == of_share([0.5] * (LEAST - 1), 100) == of_share([0.5] * 20, 0) == ANYTHING
    assert (ANYTHING.low, ANYTHING.high) == (0, None)
    assert str(ANYTHING) == "any number: there are fewer than 8 to compare it with"


def test_it_is_the_median_give_or_take_its_deviations():
    usual = of_keys([10_000, 12_000, 14_000, 16_000, 18_000, 20_000, 22_000, 24_000, 26_000])
    assert (usual.low, usual.high) == (0, 18_000 + K * 4_000)
    assert str(usual) == (
        "0 to 38000: 18000 is the median of the 9 before, and 5 median absolute deviations each way are usual"
    )


def test_one_outlier_among_them_changes_nothing():
    earlier = [1_000, 1_010, 990, 1_020, 980, 1_000, 1_005, 995, 1_000]
    assert of_keys([*earlier, 50_000]) == of_keys([*earlier, 1_200])


def test_a_steady_feed_may_vary_by_half():
    usual = of_keys([10_000] * 14)
    assert (usual.low, usual.high) == (5_000, 15_000)


def test_a_few_keys_may_vary_by_a_few_users():
    """Keys come by users: three more in a quiet night are no news, thirty are."""
    usual = of_keys([0] * 14)
    assert usual.low == 0
    assert 3 * 14 < usual.high < 30 * 14


@pytest.mark.parametrize("users", [2, 20, 200, 2_000])
def test_chance_alone_seldom_warns(users):
    source = random.Random(users)
    days = [14 * sum(source.random() < 0.5 for _ in range(2 * users)) for _ in range(500)]
    unusual = 0
    for day in range(14, len(days)):
        usual = of_keys(days[day - 14 : day])
        unusual += not usual.low <= days[day] <= usual.high
    assert unusual == 0


def test_a_share_is_within_0_and_1_and_two_hundredths_are_no_deviation():
    usual = of_share([0.8] * 10, 1_000_000)
    assert (usual.low, usual.high) == (pytest.approx(0.7), pytest.approx(0.9))
    assert str(usual).startswith("70.0% to 90.0%: 80.0% is the median of the 10 before")
    assert (of_share([0.01] * 10, 10_000).low, of_share([0.99] * 10, 10_000).high) == (0, 1)


def test_the_share_in_a_small_file_may_be_anything():
    usual = of_share([0.8] * 10, 14)
    assert (usual.low, usual.high) == (0, 1)


def test_what_was_never_seen_may_come_in_a_few_users_and_is_news_in_many():
    assert of_share([0.0] * 10, 280).high > 14 / 280
    assert of_share([0.0] * 10, 28_000).high < 0.15
