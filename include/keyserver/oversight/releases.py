"""Whether phones get fresh keys: how each feed stands, at a glance, and what was last proven and checked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from keyserver.errors import ConflictError
from keyserver.runtime import Runtime
from keyserver.store import oversight, quality
from keyserver.store.oversight import EventBody, FeedNow
from keyserver.store.quality import Outcome, Result

# The promise: a batch is out within a minute of its end.
OUT_WITHIN = timedelta(minutes=1)
PROOF = "retention.proved"
_LOOKED_BACK = timedelta(days=15)
_NEWEST_RESULTS = timedelta(days=2)

State = Literal["fresh", "late", "stale", "paused", "ended", "not begun"]


@dataclass(frozen=True, slots=True)
class FeedState:
    """A feed, and whether phones that follow it have what they should have.

    ``age``: since its newest batch ended, or, if it had none yet, since it began. `fresh` is younger than its period
    and a minute; `late` has missed one batch; `stale` more.
    """

    feed: FeedNow
    state: State
    age: timedelta


@dataclass(frozen=True, slots=True)
class SuiteState:
    """The last run of a suite, and how many of its expectations were not met when they were last put."""

    suite: str
    at: datetime
    missed: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What an operator sees first. ``proof``: number and time of the event of the last proof of retention."""

    now: datetime
    feeds: list[FeedState]
    proof: tuple[int, datetime] | None
    suites: list[SuiteState]


@dataclass(frozen=True, slots=True)
class History:
    """An expectation's results: how often it was met and missed on each day, and its last results."""

    now: datetime
    days: dict[date, tuple[int, int]]
    last: list[Result]


def overview(runtime: Runtime) -> Overview:
    """Look at every feed, at the last proof of retention, and at what the suites said last."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        now = oversight.clock(connection).now
        feeds = oversight.feeds_now(connection)
        proof = oversight.last_event(connection, PROOF, _LOOKED_BACK)
        results = quality.newest(connection, _NEWEST_RESULTS)
    return Overview(now, [feed_state(feed, now) for feed in feeds], proof, _suites(results))


def feed_state(feed: FeedNow, now: datetime) -> FeedState:
    """Say how a feed stands at a moment."""
    age = now - max(feed.newest_end or feed.active_from, feed.active_from)
    state: State
    if feed.active_from > now:
        state = "not begun"
    elif feed.active_thru is not None and feed.active_thru <= now - OUT_WITHIN and not feed.waiting:
        state = "ended"
    elif feed.paused:
        state = "paused"
    elif age < feed.period + OUT_WITHIN:
        state = "fresh"
    else:
        state = "late" if age < 2 * feed.period + OUT_WITHIN else "stale"
    return FeedState(feed, state, age)


def results(runtime: Runtime) -> list[Result]:
    """Give the last result of each expectation and feed, of the last two days."""
    with runtime.database.connection() as connection:
        return quality.newest(connection, _NEWEST_RESULTS)


def results_of_batch(runtime: Runtime, batch_id: int) -> list[Outcome]:
    """Give the outcomes of a batch's check, as it went last."""
    with runtime.database.connection() as connection:
        return quality.of_batch(connection, batch_id)


def history(runtime: Runtime, suite: str, expectation: str, most: int) -> History:
    """Look at an expectation's results; `ConflictError` when there are none.

    ``most``: how many of the last results are given, those that were missed first.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        now = oversight.clock(connection).now
        last = quality.last_of(connection, suite, expectation, most)
        days = quality.by_day(connection, suite, expectation)
    if not last:
        raise ConflictError(f"there are no results of {expectation!r} in the suite {suite!r}")
    return History(now, days, last)


def event(runtime: Runtime, seq: int) -> EventBody:
    """Read one audit event; `ConflictError` when there is none of that number."""
    with runtime.database.connection() as connection:
        found = oversight.event(connection, seq)
    if found is None:
        raise ConflictError(f"there is no audit event {seq}")
    return found


def _suites(results: list[Result]) -> list[SuiteState]:
    by_suite: dict[str, list[Result]] = {}
    for result in results:
        by_suite.setdefault(result.suite, []).append(result)
    return [
        SuiteState(suite, max(result.at for result in of), sum(not result.outcome.met for result in of))
        for suite, of in sorted(by_suite.items())
    ]
