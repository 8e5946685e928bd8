"""The audit trail as it is stored, for those who read it; it is written by `keyserver.audit` alone (A1, A2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from keyserver.store.database import Connection, queries

_SQL = queries("audit")
_AT_ONCE = 2_000  # events that are held in memory


class StoredEvent(NamedTuple):
    """An event's row: what is hashed (``body``), the hash, and three columns that repeat what the body says."""

    seq: int
    at: datetime
    kind: str
    body: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for; None asks for nothing. ``kind``: the whole of it, or its first word."""

    kind: str | None = None
    batch: int | None = None
    run: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def events(connection: Connection, after: int = 0) -> Iterator[StoredEvent]:
    """Read all events after a number, in their order, a few at a time; in a transaction."""
    with connection.cursor("audit_events") as cursor:
        cursor.itersize = _AT_ONCE
        for row in cursor.execute(_SQL.events.sql, {"after": after}):
            yield StoredEvent(*row)


def event(connection: Connection, seq: int) -> StoredEvent | None:
    """Read one event."""
    row = _SQL.event(connection, seq=seq)
    return None if row is None else StoredEvent(*row)


def head(connection: Connection) -> StoredEvent | None:
    """Read the newest event."""
    row = _SQL.head(connection)
    return None if row is None else StoredEvent(*row)


def listed(connection: Connection, wanted: Wanted, most: int) -> list[StoredEvent]:
    """Read the newest events that are asked for, at most so many, the oldest of them first."""
    rows = _SQL.listed(
        connection,
        kind=wanted.kind,
        batch_id=wanted.batch,
        run=wanted.run,
        since=wanted.since,
        until=wanted.until,
        most=most,
    )
    return [StoredEvent(*row) for row in rows][::-1]
