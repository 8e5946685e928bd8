"""Deletion on demand: an app's rows of a span, the files that hold some of them, and what was deleted (R5, A6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.errors import ConflictError
from keyserver.store.database import Connection, queries

_SQL = queries("deletion")

BEFORE_EVERY_KEY = b""
AFTER_EVERY_KEY = b"\xff" * 17


@dataclass(frozen=True, slots=True)
class Clock:
    """How wide windows are, and how far they are closed."""

    width: timedelta
    closed_through: datetime


@dataclass(frozen=True, slots=True)
class WindowRows:
    """Rows of the asked span by a window: those that it published, and those that it revised."""

    starts_at: datetime
    keys: int
    revisions: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A batch that was made with files, and how many of the rows they hold (``keys``)."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    status: str
    approved: list[str]
    replaced_by: int | None
    keys: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """Rows deleted on demand that windows of a span had published, and that they had revised."""

    keys: int
    revisions: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked to have deleted, and why."""

    app: str
    starts_at: datetime
    ends_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one app and one window whose keys lie in ``[low, high)``."""

    app: str
    window: datetime
    low: bytes
    high: bytes


def clock(connection: Connection) -> Clock:
    """Read how wide windows are, and how far they are closed."""
    width_minutes, closed_through = _SQL.clock(connection)
    return Clock(timedelta(minutes=width_minutes), closed_through)


def windows(connection: Connection, app: str, starts_at: datetime, ends_at: datetime) -> list[WindowRows]:
    """Count what an app has in a span; a window after it may have revised some."""
    rows = _SQL.windows(connection, app_name=app, starts_at=starts_at, ends_at=ends_at)
    return [WindowRows(*row) for row in rows]


def holders(connection: Connection, app: str, starts_at: datetime, ends_at: datetime) -> list[Holder]:
    """Give the batches whose files hold some of an app's rows of a span, in the order of their numbers."""
    rows = _SQL.holders(
        connection, app_name=app, starts_at=starts_at, ends_at=ends_at, low=BEFORE_EVERY_KEY, high=AFTER_EVERY_KEY
    )
    return [Holder(*row) for row in rows]


def part(connection: Connection, app: str, window: datetime, low: bytes, most: int) -> Part:
    """Give the next part of a window's rows, of this many at most; the last one ends with `AFTER_EVERY_KEY`."""
    high: bytes | None = _SQL.edge(connection, app_name=app, starts_at=window, low=low, most=most)
    return Part(app, window, low, AFTER_EVERY_KEY if high is None else high)


def hold_clock(connection: Connection) -> datetime:
    """Let no window be closed and no batch be planned until the transaction ends; give how far windows are closed."""
    closed_through: datetime = _SQL.hold_clock(connection)
    return closed_through


def lock_unreleased(connection: Connection, starts_at: datetime) -> None:
    """Lock every batch that is on its way and ends after a moment: its next step waits for this transaction."""
    _SQL.lock_unreleased(connection, starts_at=starts_at)


def holders_of_part(connection: Connection, part: Part, width: timedelta) -> list[Holder]:
    """Give the batches whose files hold some of a part's rows, in the order of their numbers."""
    rows = _SQL.holders(
        connection,
        app_name=part.app,
        starts_at=part.window,
        ends_at=part.window + width,
        low=part.low,
        high=part.high,
    )
    return [Holder(*row) for row in rows]


def hold(connection: Connection, holder: Holder, problem: str, expectation: str) -> None:
    """Bring a batch that was built, and is locked, to `held`. What it was approved for before, it keeps."""
    expectations = [*holder.approved, expectation]
    held = _SQL.hold(connection, batch_id=holder.batch_id, problem=problem, failed_expectations=expectations)
    if held is None:
        raise ConflictError(f"batch {holder.batch_id} of feed {holder.feed} is not on its way: it is not held")


def delete(connection: Connection, part: Part, closed_through: datetime) -> list[WindowRows]:
    """Delete a part's rows; count them by the closed windows that had published and that had revised them."""
    rows = _SQL.delete(
        connection,
        app_name=part.app,
        starts_at=part.window,
        low=part.low,
        high=part.high,
        closed_through=closed_through,
    )
    return [WindowRows(*row) for row in rows]


def insert(connection: Connection, asked: Asked, carried: Sequence[int], rows: Sequence[WindowRows]) -> int:
    """Remember what was deleted, and the batches whose files had some of it; give its number."""
    deletion_id: int = _SQL.insert(
        connection,
        app_name=asked.app,
        starts_at=asked.starts_at,
        ends_at=asked.ends_at,
        reason=asked.reason,
        carried=list(carried),
    )
    for row in rows:
        _SQL.insert_window(
            connection, deletion_id=deletion_id, starts_at=row.starts_at, keys=row.keys, revisions=row.revisions
        )
    return deletion_id


def of_span(connection: Connection, starts_at: datetime, ends_at: datetime) -> Deleted:
    """Count what was deleted on demand of the windows of a span (A6)."""
    return Deleted(*_SQL.of_span(connection, starts_at=starts_at, ends_at=ends_at))


def of_window(connection: Connection, starts_at: datetime) -> Deleted:
    """Count what was deleted on demand of one window (A6)."""
    return of_span(connection, starts_at, starts_at + timedelta(microseconds=1))


def carried(connection: Connection, app: str, starts_at: datetime, ends_at: datetime) -> list[Holder]:
    """Give the batches whose files had some of what was deleted, as they are now; ``keys`` is not known any more."""
    return [Holder(*row) for row in _SQL.carried(connection, app_name=app, starts_at=starts_at, ends_at=ends_at)]


def held(connection: Connection, expectation: str) -> list[int]:
    """Give the batches that deletions have held and nobody has replaced yet."""
    return [batch_id for (batch_id,) in _SQL.held(connection, expectation=expectation)]


def staged(connection: Connection, batch_ids: Sequence[int]) -> list[tuple[bytes, bytes | None]]:
    """Give the hashes under which files of these batches were staged: of each export.bin and, once made, its zip."""
    return list(_SQL.staged(connection, batch_ids=list(batch_ids)))
