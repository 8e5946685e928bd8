"""What is watched: how fresh it is, what may be in public, and the rows that were stored (T2, B5, B6, R1, R2).

Only reading, and never a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import ClientCursor

from keyserver.store.database import Connection, queries

_SQL = queries("watch")


@dataclass(frozen=True, slots=True)
class Clock:
    """The moment, the width of a window, how far windows are closed, and how long rows and lines are kept."""

    now: datetime
    width: timedelta
    closed_through: datetime
    retention: timedelta


@dataclass(frozen=True, slots=True)
class FeedFreshness:
    """A feed that is to be fresh, and up to when it is: the end of its newest batch that is released or empty."""

    feed: str
    period: timedelta
    fresh_through: datetime


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """A batch that waits for somebody: ``withdrawing`` or ``held``, and since when (None: nobody knows)."""

    batch_id: int
    feed: str
    status: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file that may lie where phones download it: released, leaving, or about to be released (then ``staged``)."""

    feed_id: int
    batch_id: int
    name: str
    status: str
    released_at: datetime | None
    left_index_at: datetime | None
    starts_at: datetime  # of its batch
    zip_sha256: bytes
    zip_bytes: int


@dataclass(frozen=True, slots=True)
class LookedAt:
    """Which exposures a look is at: windows that closed since the last one, an hour of older ones, the last whole day.

    ``new_from``: None when no window closed.
    """

    new_from: datetime | None
    new_to: datetime
    sampled_from: datetime
    day: datetime


@dataclass(frozen=True, slots=True)
class Shares:
    """What part of the keys, 0 to 1, came with each report type."""

    confirmed: float
    likely: float
    user_report: float


def clock(connection: Connection) -> Clock:
    """Read the moment and what everything is measured by."""
    return Clock(*_SQL.clock(connection))


def feeds(connection: Connection) -> list[FeedFreshness]:
    """Give the feeds that are neither paused nor ended and have a batch."""
    return [FeedFreshness(*row) for row in _SQL.feeds(connection)]


def waiting(connection: Connection) -> list[WaitingBatch]:
    """Give the batches that wait to be withdrawn or decided about."""
    return [WaitingBatch(*row) for row in _SQL.waiting(connection)]


def newest_event(connection: Connection, kind: str, within: timedelta) -> datetime | None:
    """Tell when the newest audit event of a kind was appended; None when there was none within this time."""
    at: datetime | None = _SQL.newest_event(connection, kind=kind, within=within)
    return at


def public_files(connection: Connection) -> list[PublicFile]:
    """Give all files that may be in public; those that an index lists in its order (B6)."""
    return [PublicFile(*row) for row in _SQL.public_files(connection)]


def looked_at(connection: Connection, suite: str) -> LookedAt:
    """Choose the exposures to look at, by when the suite had its last results."""
    return LookedAt(*_SQL.looked_at(connection, suite=suite))


def exposure_queries(connection: Connection, looked: LookedAt) -> dict[str, str]:
    """Give the statements whose results the suite on stored exposures is put to, by the name of their table.

    No look costs more than six hours of new rows, one hour of older ones and, for the report types, a count of one day.
    None gives a key.
    """
    span = {
        "new_from": looked.new_from,
        "new_to": looked.new_to,
        "sampled_from": looked.sampled_from,
        "sampled_to": looked.sampled_from + timedelta(hours=1),
    }
    return {
        "exposures": _bound(connection, _SQL.exposures.sql, span),
        "windows": _bound(connection, _SQL.windows.sql, span),
        "overdue exposures": _bound(connection, _SQL.overdue_exposures.sql, {}),
        "report types": _bound(connection, _SQL.report_types.sql, {"day": looked.day}),
        "volume of the last day": _bound(connection, _SQL.volume.sql, {"day": looked.day}),
    }


def volume(connection: Connection, day: datetime) -> int:
    """Count a day's real keys; 0 if not all its windows closed."""
    return int(_SQL.volume(connection, day=day) or 0)


def volumes_before(connection: Connection, day: datetime) -> list[int]:
    """Count the real keys of each of the 14 days before that was whole."""
    return [keys for (keys,) in _SQL.volumes_before(connection, day=day)]


def report_types_before(connection: Connection, day: datetime) -> list[Shares]:
    """Give the shares of report types on each of the 14 days before that had any."""
    return [
        Shares(*(float(keys or 0) / float(of_all) for keys in by_type))
        for *by_type, of_all in _SQL.report_types_before(connection, day=day)
    ]


def _bound(connection: Connection, statement: str, values: dict[str, Any]) -> str:
    """Put values into a statement, as psycopg writes them: Great Expectations takes a text alone, for a subquery."""
    return ClientCursor(connection).mogrify(statement.rstrip().removesuffix(";"), values)
