"""What became of all that was published in one window: for each feed, counts by reason that add up (rule A6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from keyserver.errors import ConfigurationError
from keyserver.oversight.explain import without_batch
from keyserver.oversight.wording import KEY_FATES, REVISION_FATES, by_reason, counted, moment, span
from keyserver.protocol.intervals import floor_window
from keyserver.runtime import Runtime
from keyserver.store import batches, oversight
from keyserver.store.database import Connection
from keyserver.store.oversight import Clock, FeedPlan, StandingBatch, WindowTotals

_YEARS = range(2020, 2200)  # no window is older than exposure notifications


@dataclass(frozen=True, slots=True)
class FeedAccount:
    """What a feed made of a window: counts by fate from the batch that stands for it, or why there is none.

    ``settled``: the batch is built, so that nothing of this changes any more but by deletion.
    """

    feed: str
    batch: int | None
    status: str
    settled: bool
    keys: dict[str, int]
    synthetic: int  # of the released keys
    revisions: dict[str, int]
    text: str


@dataclass(frozen=True, slots=True)
class WindowExplanation:
    """A window, half-open. The totals are those of its closing; None while it is not closed, or when none is known."""

    starts_at: datetime
    ends_at: datetime
    state: Literal["ahead", "open", "closed", "unknown"]
    totals: WindowTotals | None
    feeds: list[FeedAccount]
    problems: list[str]

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        return [*self._about(), *(f"Feed {feed.feed}: {feed.text}." for feed in self.feeds), *self.problems]

    def _about(self) -> Iterator[str]:
        window = f"The window {span(self.starts_at, self.ends_at)}"
        if self.totals is None:
            said = {
                "ahead": "has not begun: only keys under embargo are in it",
                "open": "is not closed yet: its account is made when it is",
                "unknown": "was never closed: the release clock was started later",
            }
            yield f"{window} {said[self.state]}."
            return
        yield (
            f"{window} is closed. It held {counted(self.totals.keys, 'key')}, of these"
            f" {self.totals.synthetic_keys:,} synthetic, and {counted(self.totals.revisions, 'revision')}."
        )
        keys, revisions = self.totals.keys_on_demand, self.totals.revisions_on_demand
        if keys or revisions:
            yield f"Deleted on demand: {counted(keys, 'key')}, {counted(revisions, 'revision')}."
        keys, revisions = self.totals.keys_gone, self.totals.revisions_gone
        if self.totals.swept and (keys or revisions):
            yield f"Deleted by retention: {counted(keys, 'key')}, {counted(revisions, 'revision')}."
        elif revisions:
            yield f"Gone with keys of earlier windows that retention deleted: {counted(revisions, 'revision')}."


def explain_window(runtime: Runtime, starts_at: datetime) -> WindowExplanation:
    """Explain all counts of the window that starts at an aware moment.

    Raises `ConfigurationError` when no window starts there.
    """
    if starts_at.year not in _YEARS:
        raise ConfigurationError(f"windows are of the years {_YEARS.start} to {_YEARS.stop - 1}")
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        clock = oversight.clock(connection)
        if starts_at != (floor := floor_window(starts_at, clock.width)):
            raise ConfigurationError(
                f"no window starts at {moment(starts_at)}; the one that it lies in starts at {moment(floor)}"
            )
        totals = oversight.window_totals(connection, starts_at)
        standing = oversight.standing_batches(connection, starts_at)
        feeds = [
            _account(connection, clock, feed, standing.get(feed.feed_id), totals, starts_at)
            for feed in oversight.feeds(connection, starts_at)
        ]
    problems = [] if totals is None else [problem for feed in feeds for problem in _problems(feed, totals)]
    return WindowExplanation(
        starts_at, starts_at + clock.width, _state(clock, starts_at, totals), totals, feeds, problems
    )


def _state(
    clock: Clock, starts_at: datetime, totals: WindowTotals | None
) -> Literal["ahead", "open", "closed", "unknown"]:
    if totals is not None:
        return "closed"
    if starts_at > clock.now:
        return "ahead"
    return "open" if starts_at >= clock.closed_through else "unknown"


def _account(  # noqa: PLR0913, PLR0917 - what one feed's line is made of
    connection: Connection,
    clock: Clock,
    feed: FeedPlan,
    batch: StandingBatch | None,
    totals: WindowTotals | None,
    starts_at: datetime,
) -> FeedAccount:
    if batch is None or totals is None:
        reason = without_batch(feed, starts_at, clock)
        return FeedAccount(feed.name, None, reason.code, False, {}, 0, {}, reason.text)
    carriers = batch.carriers or batches.carriers(connection, batch.batch_id)
    keys, synthetic = oversight.window_fates(connection, batch.batch_id, starts_at)
    revisions = oversight.window_revision_fates(connection, batch.batch_id, carriers, starts_at)
    settled = batch.carriers is not None
    replaces = f", which replaces batch {batch.replaces}" if batch.replaces else ""
    text = (
        f"batch {batch.batch_id} ({batch.status}){replaces}: {'' if settled else 'as things stand, '}"
        f"keys: {_told(keys, KEY_FATES, totals.keys_on_demand, totals.keys_gone if totals.swept else 0, synthetic)};"
        f" revisions: {_told(revisions, REVISION_FATES, totals.revisions_on_demand, totals.revisions_gone)}"
    )
    return FeedAccount(feed.name, batch.batch_id, batch.status, settled, keys, synthetic, revisions, text)


def _told(fates: dict[str, int], words: dict[str, str], on_demand: int, gone: int, synthetic: int = 0) -> str:
    return by_reason(fates, words, deleted=gone, on_demand=on_demand, synthetic=synthetic)


def _problems(feed: FeedAccount, totals: WindowTotals) -> Iterator[str]:
    if feed.batch is None:
        return
    deleted_keys = totals.keys_on_demand + (totals.keys_gone if totals.swept else 0)
    deleted_revisions = totals.revisions_on_demand + totals.revisions_gone
    if sum(feed.keys.values()) + deleted_keys != totals.keys:
        yield f"Feed {feed.feed} does not add up: the window has other keys than when it was closed."
    if sum(feed.revisions.values()) + deleted_revisions != totals.revisions:
        yield f"Feed {feed.feed} does not add up: the window has other revisions than when it was closed."
