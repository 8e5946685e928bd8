"""Cases of the suite on freshness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyserver.quality.freshness import SUITE, Freshness, KeyGap, tables
from keyserver.quality.suite import validate
from keyserver.store.quality import Outcome
from keyserver.store.watch import FeedFreshness, WaitingBatch

NOW = datetime(2026, 3, 2, 12, 3, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# Everything just as late as it may be, beside what is not late at all.
GOOD = Freshness(
    now=NOW,
    width=HOUR,
    closed_through=NOW - HOUR - 5 * MINUTE + SECOND,
    feeds=[FeedFreshness("north", 4 * HOUR, NOW - 4 * HOUR - MINUTE + SECOND), FeedFreshness("south", DAY, NOW)],
    waiting=[WaitingBatch(7, "north", "withdrawing", NOW - HOUR + SECOND)],
    key_gaps=[KeyGap("feed north", NOW + 14 * DAY), KeyGap("the public log", None)],
    proved_at=NOW - 3 * HOUR + SECOND,
)
HELD = WaitingBatch(8, "north", "held", NOW - 20 * HOUR)


def check(facts: Freshness = GOOD, **changes: object) -> list[Outcome]:
    facts = replace(facts, **changes)
    return validate(SUITE, tables(facts), facts)


def passing(_: pytest.FixtureRequest) -> list[Outcome]:
    return check()


def _case(**changes: object) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    return lambda _: check(**changes)


CASES = [
    ("windows are closed", _case(closed_through=NOW - HOUR - 5 * MINUTE)),
    ("feeds are fresh", _case(feeds=[*GOOD.feeds, FeedFreshness("east", 4 * HOUR, NOW - 4 * HOUR - MINUTE)])),
    ("withdrawals come to an end", _case(waiting=[WaitingBatch(7, "north", "withdrawing", NOW - HOUR)])),
    ("no batch waits for a decision", _case(waiting=[HELD])),
    ("held batches are decided about in time", _case(waiting=[replace(HELD, since=NOW - 20 * HOUR - SECOND)])),
    ("signing keys last two weeks", _case(key_gaps=[KeyGap("feed north", NOW + 14 * DAY - SECOND)])),
    ("signing keys last two days", _case(key_gaps=[KeyGap("feed north", NOW + 2 * DAY - SECOND)])),
    ("signing keys last two days", _case(key_gaps=[KeyGap("the public log", NOW)])),
    ("retention is proved", _case(proved_at=NOW - 3 * HOUR)),
]
