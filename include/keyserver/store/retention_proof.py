"""Ask what is there that should be gone (sql/queries/retention_proof.sql; rule R3); shares nothing with deleting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.store.database import Connection, queries

_SQL = queries("retention_proof")


@dataclass(frozen=True, slots=True)
class RowsFound:
    """A table: how many of its rows should be gone, and the age of its oldest row in seconds."""

    kind: str
    remaining: int
    oldest_s: int


def clock(connection: Connection) -> tuple[datetime, timedelta]:
    """Read the database's clock and the declared retention."""
    now, period = _SQL.clock(connection)
    return now, period


def rows(connection: Connection, cadence: timedelta) -> list[RowsFound]:
    """Look at each table that has rows."""
    return [RowsFound(*row) for row in _SQL.rows(connection, cadence=cadence)]


def listed(connection: Connection, names: Sequence[str], cadence: timedelta) -> dict[str, int]:
    """Give, of names in an index, those that should have left it, and the age of their spans in seconds."""
    return dict(_SQL.listed(connection, names=list(names), cadence=cadence))


def objects(
    connection: Connection, names: Sequence[str], grace: timedelta, cadence: timedelta
) -> dict[str, tuple[datetime | None, datetime]]:
    """Give, of objects that the database knows, when each must be gone (None: it is listed) and its span's start."""
    found = _SQL.objects(connection, names=list(names), grace=grace, cadence=cadence)
    return {name: (gone_by, starts_at) for name, gone_by, starts_at in found}


def staged(connection: Connection, hashes: Sequence[bytes], cadence: timedelta) -> dict[bytes, tuple[bool, datetime]]:
    """Give, of staged files that batches name, whether every one of these is done with it, and their latest start."""
    found: dict[bytes, tuple[bool, datetime]] = {}
    for sha256, left, starts_at in _SQL.staged(connection, hashes=list(hashes), cadence=cadence):
        others_left, latest = found.get(sha256, (True, starts_at))
        found[sha256] = (others_left and bool(left), max(latest, starts_at))
    return found


def oldest_maker(connection: Connection) -> datetime | None:
    """Give the end of the oldest batch that may still name a staged file which none names yet."""
    ends_at: datetime | None = _SQL.oldest_maker(connection)
    return ends_at
