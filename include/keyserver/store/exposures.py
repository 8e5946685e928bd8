"""The publish path: an upload's keys into their windows, in three round trips (rule W2; sql/queries/exposure.sql)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import psycopg

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.protocol import statistics
from keyserver.protocol.exposure import EMBARGO, Exposure, ReportType, base, created_at
from keyserver.protocol.intervals import floor_window, interval_at
from keyserver.protocol.revise import Decision, Known, Plan, Stored
from keyserver.protocol.statistics import AGE_BUCKETS, ONSET_BUCKETS, Facts, Platform
from keyserver.store.database import Connection, queries, rolled_back_on_error
from keyserver.store.roundtrip import Text, byte_strings, integers, round_trip, statement, texts

_QUERIES = queries("exposure")
_BEGIN = statement("begin", "BEGIN ISOLATION LEVEL READ COMMITTED")
_LOCK_OPEN_WINDOW = statement("lock_open_window", _QUERIES.lock_open_window.sql)
_LOCK_LATER_WINDOW = statement("lock_later_window", _QUERIES.lock_later_window.sql)
_CLOSED_THROUGH = statement("closed_through", _QUERIES.closed_through.sql)
_EXISTING = statement("existing", _QUERIES.existing.sql)
_WRITE = statement("write_published", _QUERIES.write_published.sql)
_COMMIT = statement("commit", "COMMIT")
_NOTHING: dict[str, Text] = {}

_MOST_LATER_WINDOWS = 3
_MOST_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload's keys (distinct, not empty) and what is stored with each of them.

    No authority: nobody's word stands behind it (publish.md 2.9). ``facts``: what is counted of it; None: nothing is.
    """

    exposures: tuple[Exposure, ...]
    report_type: ReportType | None
    traveler: bool
    regions: tuple[str, ...]
    app_name: str
    health_authority_id: int | None
    facts: Facts | None = None


def publish(connection: Connection, upload: Upload, plan: Plan) -> Decision:
    """Store an upload in a transaction of its own; return what was done of it, once the commit is confirmed.

    The one function of the store that begins and commits, since both are part of how rule W2 starts again and of its
    round trips. ``connection`` is in autocommit. ``plan`` decides what is done. It may be called again, for
    another state of the same keys; what it raises ends the transaction with nothing stored.

    Raises:
        RemoteError: windows closed, or other uploads of these keys came, faster than this one could be stored; or the
            commit was not confirmed.
    """
    for _ in range(1 + _MOST_RESTARTS):
        try:
            with rolled_back_on_error(connection):
                decision = _attempt(connection, upload, plan)
        except (_OvertakenError, psycopg.errors.DeadlockDetected):
            continue
        return decision
    raise RemoteError("other uploads of the same keys were first, again and again")


class _OvertakenError(Exception):
    """Fewer rows were written than planned."""


@dataclass(frozen=True, slots=True)
class _OpenWindows:
    """What may be written to, held open by a lock: windows of ``width`` from ``earliest`` on."""

    now: datetime
    width: timedelta
    earliest: datetime

    def of(self, exposures: Iterable[Exposure]) -> Iterable[datetime]:
        """Return the start of the window that each key is published in."""
        over = interval_at(self.now - EMBARGO)
        for exposure in exposures:
            # What ended so long ago is published now.
            embargoed = exposure.end > over
            yield max(self.earliest, created_at(self.now, exposure.end, self.width)) if embargoed else self.earliest


def _attempt(connection: Connection, upload: Upload, plan: Plan) -> Decision:
    windows, known = _begin(connection, upload)
    decision = plan(known)
    if decision.insert or decision.revise:
        _write(connection, upload, decision, windows)
    round_trip(connection, (_COMMIT, _NOTHING))
    return decision


def _begin(connection: Connection, upload: Upload) -> tuple[_OpenWindows, Known]:
    """Lock the window of now, or the next that is still open; return the keys that are stored already."""
    keys = {"exposure_keys": byte_strings(exposure.key for exposure in upload.exposures)}
    # They leave together but have their own snapshots: those after the lock see what it waited for.
    _, clock, through, stored = round_trip(
        connection, (_BEGIN, _NOTHING), (_LOCK_OPEN_WINDOW, _NOTHING), (_CLOSED_THROUGH, _NOTHING), (_EXISTING, keys)
    )
    now, width_minutes, window, _ = _only(clock)
    (closed_through,) = _only(through)
    for _ in range(_MOST_LATER_WINDOWS):
        if closed_through <= window:
            break
        window = closed_through
        starts_at = {"starts_at": window.isoformat()}
        _, through, stored = round_trip(
            connection, (_LOCK_LATER_WINDOW, starts_at), (_CLOSED_THROUGH, _NOTHING), (_EXISTING, keys)
        )
        (closed_through,) = _only(through)
    if closed_through > window:
        raise RemoteError("windows close faster than this upload could be stored")
    windows = _OpenWindows(now, timedelta(minutes=width_minutes), base(window, closed_through))
    return windows, Known({row[0]: _stored(row[1:]) for row in stored}, closed_through)


def _stored(row: tuple[Any, ...]) -> Stored:
    start, period, report_type, window, revised_report_type, synthetic = row
    return Stored(
        start,
        period,
        ReportType(report_type) if report_type else None,
        window,
        ReportType(revised_report_type) if revised_report_type else None,
        # Nobody uploaded a made-up key, so nobody can revise one.
        local=not synthetic,
    )


def _write(connection: Connection, upload: Upload, decision: Decision, windows: _OpenWindows) -> None:
    parameters = {
        "report_type": upload.report_type.value if upload.report_type else None,
        "traveler": str(upload.traveler),
        "regions": texts(upload.regions),
        "app_name": upload.app_name,
        "health_authority_id": None if upload.health_authority_id is None else str(upload.health_authority_id),
        "exposure_keys": byte_strings(exposure.key for exposure in decision.insert),
        "interval_numbers": integers(exposure.start for exposure in decision.insert),
        "interval_counts": integers(exposure.period for exposure in decision.insert),
        "transmission_risks": integers(exposure.transmission_risk for exposure in decision.insert),
        "days_since_onset": integers(exposure.days_since_onset for exposure in decision.insert),
        "created_at": texts([start.isoformat() for start in windows.of(decision.insert)]),
        "revised_keys": byte_strings(exposure.key for exposure in decision.revise),
        "revised_transmission_risks": integers(exposure.transmission_risk for exposure in decision.revise),
        "revised_days_since_onset": integers(exposure.days_since_onset for exposure in decision.revise),
        "base": windows.earliest.isoformat(),
        # One a connection, as far as they go: two that met in a row would wait for each other's commit.
        "shard": str(connection.pgconn.backend_pid % statistics.SHARDS),
        **_counters(upload, decision, windows.now),
        **_profile(upload, decision, windows.now),
    }
    (written,) = round_trip(connection, (_WRITE, parameters))
    if _only(written) != (len(decision.insert), len(decision.revise)):
        raise _OvertakenError


def _counters(upload: Upload, decision: Decision, now: datetime) -> dict[str, Text]:
    """Return what is counted for the authority, as arrays with a 1 where it counts, and their places (from 1)."""
    added = None
    if upload.facts is not None and upload.health_authority_id is not None:
        added = statistics.increments(upload.facts, len(decision.insert), len(decision.revise))
    platform = added.platform if added else Platform.UNKNOWN
    oldest = added.oldest_bucket if added else None
    onset = added.onset_bucket if added else None
    return {
        "counted": str(added is not None),
        "hour": floor_window(now, timedelta(hours=1)).isoformat(),
        "platform": str(1 + platform),
        "publish": _one_at(platform, len(Platform)),
        "teks": str(added.teks if added else 0),
        "revisions": str(added.revisions if added else 0),
        "oldest_bucket": str(1 + (oldest or 0)),
        "oldest_tek_days": _one_at(oldest, AGE_BUCKETS),
        "onset_bucket": str(1 + (onset or 0)),
        "onset_age_days": _one_at(onset, ONSET_BUCKETS),
        "missing_onset": str(added.missing_onset if added else 0),
    }


def _profile(upload: Upload, decision: Decision, now: datetime) -> dict[str, Text]:
    added = None
    if upload.facts is not None:
        added = statistics.profile(upload.facts, decision.insert, upload.report_type, now, traveler=upload.traveler)
    marginals = added.marginals if added else ()
    return {
        "profiled": str(added is not None),
        "day": now.astimezone(UTC).date().isoformat(),
        "profile_keys": str(added.keys if added else 0),
        "profile_oldest_days": str(added.oldest_days if added else 0),
        "marginal_whats": texts([what for what, _, _ in marginals]),
        "marginal_values": integers(value for _, value, _ in marginals),
        "marginal_counts": integers(count for _, _, count in marginals),
    }


@cache
def _one_at(place: int | None, size: int) -> str:
    return integers(int(index == place) for index in range(size))


def _only(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not rows:
        raise ConfigurationError("the release clock does not run: migrate the database")
    return rows[0]
