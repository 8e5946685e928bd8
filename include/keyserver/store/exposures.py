"""The publish path: an upload's keys into their windows, in three round trips (rule W2; sql/queries/exposure.sql)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.protocol.exposure import Exposure, ReportType, base, created_at
from keyserver.store.database import Connection, queries, rolled_back_on_error

_QUERIES = queries("exposure")
_LOCK_OPEN_WINDOW = _QUERIES.lock_open_window.sql
_LOCK_LATER_WINDOW = _QUERIES.lock_later_window.sql
_CLOSED_THROUGH = _QUERIES.closed_through.sql
_EXISTING = _QUERIES.existing.sql
_INSERT = _QUERIES.insert_published.sql

_MOST_LATER_WINDOWS = 3
_MOST_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload's keys (distinct, not empty) and what is stored with each of them."""

    exposures: tuple[Exposure, ...]
    report_type: ReportType
    traveler: bool
    regions: tuple[str, ...]
    app_name: str
    health_authority_id: int


# From an upload and those of its keys that are stored already to what is to be inserted; refuses by raising.
Plan = Callable[[Upload, frozenset[bytes]], Sequence[Exposure]]


def publish(connection: Connection, upload: Upload, plan: Plan) -> int:
    """Store an upload in a transaction of its own; return how many keys were inserted, once the commit is confirmed.

    The one function of the store that begins and commits, since both are part of how rule W2 starts again and of its
    round trips. ``connection`` is in autocommit. ``plan`` may be called again, for another state of the same keys; what
    it raises ends the transaction with nothing stored.

    Raises:
        RemoteError: windows closed, or other uploads of these keys came, faster than this one could be stored; or the
            commit was not confirmed.
    """
    for _ in range(1 + _MOST_RESTARTS):
        try:
            with rolled_back_on_error(connection):
                inserted = _attempt(connection, upload, plan)
        except (_OvertakenError, psycopg.errors.DeadlockDetected):
            continue
        return inserted
    raise RemoteError("other uploads of the same keys were first, again and again")


class _OvertakenError(Exception):
    """Fewer rows were written than planned."""


@dataclass(frozen=True, slots=True)
class _OpenWindows:
    """What may be written to, held open by a lock: windows of ``width`` from ``earliest`` on."""

    now: datetime
    width: timedelta
    earliest: datetime

    def of(self, exposure: Exposure) -> datetime:
        """Return the start of the window that a key is published in."""
        return max(self.earliest, created_at(self.now, exposure.end, self.width))


def _attempt(connection: Connection, upload: Upload, plan: Plan) -> int:
    windows, existing = _begin(connection, upload)
    planned = plan(upload, existing)
    if planned:
        _insert(connection, upload, planned, windows)
    with connection.pipeline():
        commit = connection.execute("COMMIT")
    if commit.statusmessage != "COMMIT":
        raise RemoteError("the database did not commit")
    return len(planned)


def _begin(connection: Connection, upload: Upload) -> tuple[_OpenWindows, frozenset[bytes]]:
    """Lock the window of now, or the next that is still open; return the keys that are stored already."""
    keys = {"exposure_keys": [exposure.key for exposure in upload.exposures]}
    # A pipeline's statements leave together but have their own snapshots: those after the lock see what it waited for.
    with connection.pipeline():
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        clock = connection.execute(_LOCK_OPEN_WINDOW)
        through = connection.execute(_CLOSED_THROUGH)
        stored = connection.execute(_EXISTING, keys)
    now, width_minutes, window, _ = _only_row(clock)
    (closed_through,) = _only_row(through)
    for _ in range(_MOST_LATER_WINDOWS):
        if closed_through <= window:
            break
        window = closed_through
        with connection.pipeline():
            connection.execute(_LOCK_LATER_WINDOW, {"starts_at": window})
            through = connection.execute(_CLOSED_THROUGH)
            stored = connection.execute(_EXISTING, keys)
        (closed_through,) = _only_row(through)
    if closed_through > window:
        raise RemoteError("windows close faster than this upload could be stored")
    windows = _OpenWindows(now, timedelta(minutes=width_minutes), base(window, closed_through))
    return windows, frozenset(key for (key,) in stored)


def _insert(connection: Connection, upload: Upload, planned: Sequence[Exposure], windows: _OpenWindows) -> None:
    parameters = {
        "report_type": upload.report_type.value,
        "traveler": upload.traveler,
        "regions": list(upload.regions),
        "app_name": upload.app_name,
        "health_authority_id": upload.health_authority_id,
        "exposure_keys": [exposure.key for exposure in planned],
        "interval_numbers": [exposure.start for exposure in planned],
        "interval_counts": [exposure.period for exposure in planned],
        "transmission_risks": [exposure.transmission_risk for exposure in planned],
        "days_since_onset": [exposure.days_since_onset for exposure in planned],
        "created_at": [windows.of(exposure) for exposure in planned],
    }
    # A pipeline of one: preparing the statement, when its turn comes, then costs no round trip.
    with connection.pipeline():
        inserted = connection.execute(_INSERT, parameters)
    if inserted.rowcount < len(planned):
        raise _OvertakenError


def _only_row(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise ConfigurationError("the release clock does not run: migrate the database")
    return row
