"""The public log of each feed: lines of releases and withdrawals, days that are over, signatures (rule A3).

Rows are only ever added, under the feed's row lock, so the log is one story and a pure function of them. A feed's log
begins with the day before it is first written to: a segment with nothing but the audit chain's head.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from keyserver.protocol import transparency
from keyserver.protocol.transparency import Entry, Head, Kind, Segment
from keyserver.store.database import Connection, queries

_SQL = queries("transparency")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ClosedDay:
    """A day of a feed's log that is over, and the head that its last line names."""

    day: date
    sha256: bytes
    head: Head


@dataclass(frozen=True, slots=True)
class LogKey:
    """The key that signs the log now; phones do not know it, readers of the log do."""

    signing_key_id: int
    name: str
    key_id: str
    key_version: str
    public_key: str  # PEM


@dataclass(frozen=True, slots=True)
class Signature:
    """The stored signature of a segment, and the key's id and version, parted by a hyphen."""

    key: str
    signature: bytes


def append(connection: Connection, feed_id: int, kind: Kind, batch_id: int) -> list[ClosedDay]:
    """Say in the log that a batch's files were released or withdrawn, in the transaction in which they are.

    Days that are over meanwhile are closed first; give them.
    """
    closed, open_day, now = _close(connection, feed_id)
    _SQL.append(connection, feed_id=feed_id, day=open_day, at=now, kind=kind, batch_id=batch_id)
    return closed


def close_days(connection: Connection, feed_id: int) -> list[ClosedDay]:
    """Close the days of a feed's log that are over, each with the audit chain's head; give those that were closed."""
    closed, _, _ = _close(connection, feed_id)
    return closed


def _close(connection: Connection, feed_id: int) -> tuple[list[ClosedDay], date, datetime]:
    root = _SQL.lock_feed(connection, feed_id=feed_id)
    now, seq, digest = _SQL.clock(connection, feed_id=feed_id)
    now = now.astimezone(UTC)
    head = Head(now, seq, digest or transparency.NOTHING)
    newest = _SQL.newest_closed(connection, feed_id=feed_id)
    day, previous = (newest[0] + _DAY, newest[1]) if newest else (now.date() - _DAY, transparency.NOTHING)
    closed = []
    while day < now.date():
        segment = Segment(root, day, previous, _lines(connection, feed_id, day), head)
        previous = transparency.sha256(transparency.encode(segment))
        _SQL.close(
            connection,
            feed_id=feed_id,
            day=day,
            closed_at=now,
            head_seq=head.seq,
            head_sha256=head.sha256,
            sha256=previous,
        )
        closed.append(ClosedDay(day, previous, head))
        day += _DAY
    return closed, day, now


def days(connection: Connection, feed_id: int) -> list[date]:
    """Give the days of a feed's log in their order, the last one open; none before its first is closed."""
    closed = [day for (day,) in _SQL.days(connection, feed_id=feed_id)]
    return [*closed, closed[-1] + _DAY] if closed else []


def segment(connection: Connection, feed_id: int, day: date) -> Segment:
    """Give one of the days of a feed's log, as its rows make it; of the open one, a part that was true just now."""
    # The head first: once it is there, no line comes after it.
    closed = _SQL.closed(connection, feed_id=feed_id, day=day)
    before = _SQL.closed(connection, feed_id=feed_id, day=day - _DAY)
    return Segment(
        _SQL.root(connection, feed_id=feed_id),
        day,
        before[3] if before else transparency.NOTHING,
        _lines(connection, feed_id, day),
        Head(*closed[:3]) if closed else None,
    )


def signing_key(connection: Connection) -> LogKey | None:
    """Give the newest transparency key that is active; None when there is none."""
    row = _SQL.signing_key(connection)
    return LogKey(*row) if row else None


def store_signature(connection: Connection, sha256: bytes, signing_key_id: int, signature: bytes) -> bool:
    """Keep a segment's first signature by a key; a later one is dropped (False)."""
    stored = _SQL.store_signature(connection, sha256=sha256, signing_key_id=signing_key_id, signature=signature)
    return stored is not None


def signature(connection: Connection, sha256: bytes) -> Signature | None:
    """Give the stored signature that counts for a segment's bytes: by the oldest key that was not revoked."""
    row = _SQL.signature(connection, sha256=sha256)
    return Signature(f"{row[0]}-{row[1]}", row[2]) if row else None


def _lines(connection: Connection, feed_id: int, day: date) -> tuple[Entry, ...]:
    return tuple(
        Entry(kind, at, name, starts_at, ends_at, keys, zip_sha256, export_sha256)
        for kind, at, name, starts_at, ends_at, keys, zip_sha256, export_sha256 in _SQL.lines(
            connection, feed_id=feed_id, day=day
        )
    )
