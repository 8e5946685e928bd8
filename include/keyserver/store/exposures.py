"""The publish path: an upload's keys into their windows (rule W2; sql/queries/exposure.sql).

One round trip for keys that are all new, as nearly all are; three for others, after that one found them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

import psycopg

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.protocol import statistics
from keyserver.protocol.exposure import EMBARGO, Exposure, ReportType, base
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
_WRITE = statement("publish_keys", _QUERIES.publish_keys.sql)
_COMMIT = statement("commit", "COMMIT")
_NOTHING: dict[str, Text] = {}
_EMBARGO = f"{EMBARGO.total_seconds():.0f} seconds"

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


def publish_new(connection: Connection, upload: Upload, decision: Decision, now: datetime) -> bool:
    """Store an upload in one round trip, if none of its keys is stored and the window of now is open.

    ``decision`` inserts its keys and revises none; ``now`` is the host's time, for the profile. If a key is stored or
    the window closed, nothing is done and False is returned: `publish` looks first.

    That is what rule W2 comes to for nearly all uploads: the window's lock, the looks and the insert are statements of
    one function, in a transaction of its own, and its commit is confirmed last. ``connection`` is in autocommit.

    Raises:
        RemoteError: the commit was not confirmed.
    """
    parameters = _parameters(connection, upload, decision, now, None)
    try:
        (written,) = round_trip(connection, (_WRITE, parameters))
    except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
        return False  # another upload of these keys at this moment
    return _only(written) == (len(decision.insert), 0)


def publish(connection: Connection, upload: Upload, plan: Plan) -> Decision:
    """Store an upload in a transaction of its own; return what was done of it, once the commit is confirmed.

    Beside `publish_new` the one function of the store that begins and commits, since both are part of how rule W2
    starts again and of its round trips. ``connection`` is in autocommit. ``plan`` decides what is done. It may be
    called again, for another state of the same keys; what it raises ends the transaction with nothing stored.

    Raises:
        RemoteError: windows closed, or other uploads of these keys came, faster than this one could be stored; or the
            commit was not confirmed.
    """
    for _ in range(1 + _MOST_RESTARTS):
        try:
            with rolled_back_on_error(connection):
                decision = _attempt(connection, upload, plan)
        except (_OvertakenError, psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            continue
        return decision
    raise RemoteError("other uploads of the same keys were first, again and again")


class _OvertakenError(Exception):
    """Fewer rows were written than planned."""


def _attempt(connection: Connection, upload: Upload, plan: Plan) -> Decision:
    now, earliest, known = _begin(connection, upload)
    decision = plan(known)
    if decision.insert or decision.revise:
        (written,) = round_trip(connection, (_WRITE, _parameters(connection, upload, decision, now, earliest)))
        if _only(written) != (len(decision.insert), len(decision.revise)):
            raise _OvertakenError
    round_trip(connection, (_COMMIT, _NOTHING))
    return decision


def _begin(connection: Connection, upload: Upload) -> tuple[datetime, datetime, Known]:
    """Lock the window of now, or the next that is still open; return now, that window and the keys stored already."""
    keys = {"exposure_keys": byte_strings(exposure.key for exposure in upload.exposures)}
    # They leave together but have their own snapshots: those after the lock see what it waited for.
    _, clock, through, stored = round_trip(
        connection, (_BEGIN, _NOTHING), (_LOCK_OPEN_WINDOW, _NOTHING), (_CLOSED_THROUGH, _NOTHING), (_EXISTING, keys)
    )
    now, window, _ = _only(clock)
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
    return now, base(window, closed_through), Known({row[0]: _stored(row[1:]) for row in stored}, closed_through)


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


# Rows are met in one order by all uploads.
_BY_KEY = attrgetter("key")


def _parameters(
    connection: Connection, upload: Upload, decision: Decision, now: datetime, held_from: datetime | None
) -> dict[str, Text]:
    insert = sorted(decision.insert, key=_BY_KEY)
    revise = sorted(decision.revise, key=_BY_KEY)
    return {
        "held_from": held_from.isoformat() if held_from else None,
        "embargo": _EMBARGO,
        "report_type": upload.report_type.value if upload.report_type else None,
        "traveler": str(upload.traveler),
        "regions": texts(upload.regions),
        "app_name": upload.app_name,
        "health_authority_id": None if upload.health_authority_id is None else str(upload.health_authority_id),
        "exposure_keys": byte_strings([exposure.key for exposure in insert]),
        "interval_numbers": integers([exposure.start for exposure in insert]),
        "interval_counts": integers([exposure.period for exposure in insert]),
        "transmission_risks": integers([exposure.transmission_risk for exposure in insert]),
        "days_since_onset": integers([exposure.days_since_onset for exposure in insert]),
        "revised_keys": byte_strings([exposure.key for exposure in revise]),
        "revised_transmission_risks": integers([exposure.transmission_risk for exposure in revise]),
        "revised_days_since_onset": integers([exposure.days_since_onset for exposure in revise]),
        # One a connection, as far as they go: two that met in a row would wait for each other's commit.
        "shard": str(connection.pgconn.backend_pid % statistics.SHARDS),
        **_counters(upload, decision),
        **_profile(upload, decision, now),
    }


# What is not counted.
_NO_COUNTERS: dict[str, Text] = dict.fromkeys(
    (
        "publish",
        "teks",
        "revisions",
        "oldest_tek_days",
        "onset_age_days",
        "missing_onset",
        "platform",
        "oldest_bucket",
        "onset_bucket",
    )
)
_NO_PROFILE: dict[str, Text] = dict.fromkeys(
    ("profile_keys", "profile_oldest_days", "marginal_whats", "marginal_values", "marginal_counts")
)


def _counters(upload: Upload, decision: Decision) -> dict[str, Text]:
    """Return what is counted for the authority, as arrays with a 1 where it counts, and their places (from 1)."""
    if upload.facts is None or upload.health_authority_id is None:
        return _NO_COUNTERS
    added = statistics.increments(upload.facts, len(decision.insert), len(decision.revise))
    if added is None:
        return _NO_COUNTERS
    return {
        "publish": _one_at(added.platform, len(Platform)),
        "teks": str(added.teks),
        "revisions": str(added.revisions),
        "oldest_tek_days": _one_at(added.oldest_bucket, AGE_BUCKETS),
        "onset_age_days": _one_at(added.onset_bucket, ONSET_BUCKETS),
        "missing_onset": str(added.missing_onset),
        "platform": str(1 + added.platform),
        "oldest_bucket": str(1 + (added.oldest_bucket or 0)),
        "onset_bucket": str(1 + (added.onset_bucket or 0)),
    }


def _profile(upload: Upload, decision: Decision, now: datetime) -> dict[str, Text]:
    if upload.facts is None:
        return _NO_PROFILE
    added = statistics.profile(upload.facts, decision.insert, upload.report_type, now, traveler=upload.traveler)
    if added is None:
        return _NO_PROFILE
    return {
        "profile_keys": str(added.keys),
        "profile_oldest_days": str(added.oldest_days),
        "marginal_whats": texts([what for what, _, _ in added.marginals]),
        "marginal_values": integers([value for _, value, _ in added.marginals]),
        "marginal_counts": integers([count for _, _, count in added.marginals]),
    }


@cache
def _one_at(place: int | None, size: int) -> str:
    return integers([int(index == place) for index in range(size)])


def _only(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not rows:
        raise ConfigurationError("the release clock does not run: migrate the database")
    return rows[0]
