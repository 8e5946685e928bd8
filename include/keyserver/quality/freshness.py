"""How fresh everything must be: feeds, withdrawals, decisions, signing keys, windows, proofs of retention (B3 to B5).

`read` asks the database; the expectations are put to what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from keyserver.protocol.intervals import first_gap
from keyserver.quality.suite import Expectation, between, highest
from keyserver.store import signing_keys, watch
from keyserver.store.database import Connection
from keyserver.store.signing_keys import StoredKey
from keyserver.store.watch import FeedFreshness, WaitingBatch

if TYPE_CHECKING:
    import pandas as pd

NAME = "freshness"

PROOF = "retention.proved"
# The promise: what passes its check is out within a minute of its batch's end.
PROMISED = timedelta(minutes=1)
# B4: a batch that was held for so long is rejected.
ANSWERED_WITHIN = timedelta(hours=24)

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_REMEMBERED = timedelta(days=15)


@dataclass(frozen=True, slots=True)
class KeyGap:
    """What has no signing key from a moment on; None: it always has one."""

    what: str
    without_from: datetime | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """What the database says of a moment. ``proved_at``: the newest proof of retention, None where there is none."""

    now: datetime
    width: timedelta
    closed_through: datetime
    feeds: Sequence[FeedFreshness]
    waiting: Sequence[WaitingBatch]
    key_gaps: Sequence[KeyGap]
    proved_at: datetime | None

    @property
    def late(self) -> dict[str, timedelta]:
        """The feeds whose newest batch is not out in time, and by how much."""
        by = {feed.feed: self.now - feed.fresh_through - feed.period - PROMISED for feed in self.feeds}
        return {feed: late for feed, late in by.items() if late >= timedelta(0)}

    @property
    def late_feeds(self) -> str:
        """Name them."""
        return ", ".join(f"{feed} by {late / _MINUTE:.0f} minutes" for feed, late in self.late.items())

    @property
    def withdrawing(self) -> str:
        """Name the batches that are being withdrawn."""
        return _batches(self.waiting, "withdrawing")

    @property
    def held(self) -> str:
        """Name the batches that wait for a decision."""
        return _batches(self.waiting, "held")

    @property
    def ending_keys(self) -> str:
        """Say what will have no signing key, and from when on."""
        return ", ".join(
            f"{gap.what} has none from {gap.without_from:%Y-%m-%d %H:%M} UTC on"
            for gap in self.key_gaps
            if gap.without_from is not None
        )


def _batches(waiting: Sequence[WaitingBatch], status: str) -> str:
    named = [f"batch {batch.batch_id} of feed {batch.feed}" for batch in waiting if batch.status == status]
    return ", ".join(named) or "none"


def read(connection: Connection) -> Freshness:
    """Ask the database, in a transaction that sees one moment."""
    clock = watch.clock(connection)
    return Freshness(
        now=clock.now,
        width=clock.width,
        closed_through=clock.closed_through,
        feeds=watch.feeds(connection),
        waiting=watch.waiting(connection),
        key_gaps=_key_gaps(connection, clock.now),
        proved_at=watch.newest_event(connection, PROOF, _REMEMBERED),
    )


def _key_gaps(connection: Connection, now: datetime) -> list[KeyGap]:
    keys = [key for key in signing_keys.keys(connection) if key.revoked_at is None]
    gaps = [
        KeyGap(
            f"feed {feed.feed}",
            first_gap(
                (_span(key) for key in keys if key.name in feed.keys), max(now, feed.active_from), feed.active_thru
            ),
        )
        for feed in signing_keys.feeds(connection)
    ]
    if gaps:
        logs = (_span(key) for key in keys if key.purpose == "transparency")
        gaps.append(KeyGap("the public log", first_gap(logs, now)))
    return gaps


def _span(key: StoredKey) -> tuple[datetime, datetime | None]:
    return key.active_from, key.active_thru


def tables(facts: Freshness) -> dict[str, pd.DataFrame]:
    """Tabulate what was read, in minutes, hours and days."""
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    def since(status: str, unit: timedelta) -> list[float]:
        return [
            (facts.now - batch.since) / unit
            for batch in facts.waiting
            if batch.status == status and batch.since is not None
        ]

    held = since("held", _HOUR)
    columns: dict[str, dict[str, list[float]]] = {
        "windows": {"minutes_open": [(facts.now - facts.closed_through - facts.width) / _MINUTE]},
        "feeds": {"minutes_late": [(facts.now - feed.fresh_through - feed.period) / _MINUTE for feed in facts.feeds]},
        "withdrawals": {"minutes": since("withdrawing", _MINUTE)},
        "decisions": {"held": [len(held)], "hours_left": [ANSWERED_WITHIN / _HOUR - max(held, default=0)]},
        "signing keys": {
            "days_left": [
                math.inf if gap.without_from is None else (gap.without_from - facts.now) / _DAY
                for gap in facts.key_gaps
            ]
        },
        "proofs of retention": {"hours": [(facts.now - facts.proved_at) / _HOUR] if facts.proved_at else []},
    }
    return {table: pd.DataFrame(values, dtype="float64") for table, values in columns.items()}


def _below(column: str, limit: float) -> Callable[[Any, Any], Any]:
    return lambda gxe, _: gxe.ExpectColumnValuesToBeBetween(column=column, max_value=limit, strict_max=True)


def _highest_below(column: str, limit: float) -> Callable[[Any, Any], Any]:
    return lambda gxe, _: gxe.ExpectColumnMaxToBeBetween(column=column, max_value=limit, strict_max=True)


def _least(column: str, limit: float) -> Callable[[Any, Any], Any]:
    return lambda gxe, _: gxe.ExpectColumnMinToBeBetween(column=column, min_value=limit)


SUITE: tuple[Expectation, ...] = (
    Expectation(
        "windows are closed",
        "windows",
        "nothing is released of a window that is open",
        "the last window that is past closed within 5 minutes",
        _highest_below("minutes_open", 5),
        found="{value:.0f} minutes since one was past",
    ),
    Expectation(
        "feeds are fresh",
        "feeds",
        "phones find the newest keys within a minute of a batch's end (B3)",
        "of each feed a batch, released or empty, that ended less than its period and a minute ago",
        _below("minutes_late", PROMISED / _MINUTE),
        found="{count} of {of} feeds late: {facts.late_feeds}",
    ),
    Expectation(
        "withdrawals come to an end",
        "withdrawals",
        "as long as a public URL answers, phones get the file (B5)",
        "every file off the CDN within an hour",
        _below("minutes", 60),
        found="{count} that take longer, among {facts.withdrawing}",
    ),
    Expectation(
        "no batch waits for a decision",
        "decisions",
        "what is held reaches no phone (B4)",
        "no batch held",
        highest("held", 0),
        severity="warn",
        found="{facts.held}",
    ),
    Expectation(
        "held batches are decided about in time",
        "decisions",
        "after 24 hours without an answer a batch is rejected (B4)",
        "4 hours or more to answer",
        _least("hours_left", 4),
        found="{value:.1f} hours; held: {facts.held}",
    ),
    Expectation(
        "signing keys last two weeks",
        "signing keys",
        "a new key takes days to hand over to Apple and Google (export.md 3)",
        "a key for each feed and the public log for 14 days and more",
        between("days_left", 14, None),
        severity="warn",
        found="{count} without: {facts.ending_keys}",
    ),
    Expectation(
        "signing keys last two days",
        "signing keys",
        "without one, batches are held and lines of the log wait",
        "a key for each feed and the public log for 2 days and more",
        between("days_left", 2, None),
        found="{count} without: {facts.ending_keys}",
    ),
    Expectation(
        "retention is proved",
        "proofs of retention",
        "that nothing old is left is shown every hour (R3)",
        "a proof less than 3 hours ago",
        _highest_below("hours", 3),
        severity="warn",
        found="the newest {value:.1f} hours ago",
    ),
)
