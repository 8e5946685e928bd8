"""Synthetic users: what recent real ones look like, in counts, and rows like any other, flagged (P1, P2, P4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from keyserver.protocol.exposure import Exposure
from keyserver.store.database import Connection, queries

_SQL = queries("exposure")
_PROFILE_SQL = queries("profile")

# P1: what counts less is never reproduced.
LEAST_COUNT = 10

# Report type, number of keys, age of the oldest in days.
Combination = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class RecentUploads:
    """The uploads of the last 14 days, in counts of at least `LEAST_COUNT`, and sums of all that count less (P1).

    ``combinations``: uploads by combination. ``rarer``: those of all others, and the same by report type, by age of the
    oldest in days, and by days without a key (that age less the number of keys; -1: today's was sent too).
    ``marginals``: by what is counted, its values' counts; ``rarer_values`` the sums of its others.
    """

    combinations: Mapping[Combination, int] = field(default_factory=dict)
    rarer: int = 0
    rarer_types: Mapping[str, int] = field(default_factory=dict)
    rarer_oldest: Mapping[int, int] = field(default_factory=dict)
    rarer_missing: Mapping[int, int] = field(default_factory=dict)
    marginals: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    rarer_values: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyntheticUser:
    """One user who does not exist, and those of their keys that a batch has."""

    regions: list[str]
    traveler: bool
    report_type: str
    keys: list[Exposure]


def recent_uploads(connection: Connection, last_day: date) -> RecentUploads:
    """Read the counters of the 14 days that end with ``last_day``, in UTC."""
    asked = {"last_day": last_day, "least": LEAST_COUNT}
    combinations = {
        (report_type, keys, oldest): uploads
        for report_type, keys, oldest, uploads in _PROFILE_SQL.combinations(connection, **asked)
    }
    rarer = 0
    types: dict[str, int] = {}
    oldest_days: dict[int, int] = {}
    missing_days: dict[int, int] = {}
    for report_type, oldest, missing, uploads in _PROFILE_SQL.rarer(connection, **asked):
        if report_type is not None:
            types[report_type] = uploads
        elif oldest is not None:
            oldest_days[oldest] = uploads
        elif missing is not None:
            missing_days[missing] = uploads
        else:
            rarer = uploads
    marginals: dict[str, dict[int, int]] = {}
    rarer_values: dict[str, int] = {}
    for what, value, count in _PROFILE_SQL.marginals(connection, **asked):
        if value is None:
            rarer_values[what] = count
        else:
            marginals.setdefault(what, {})[value] = count
    return RecentUploads(combinations, rarer, types, oldest_days, missing_days, marginals, rarer_values)


def insert(connection: Connection, users: Sequence[SyntheticUser], created_at: datetime) -> None:
    """Store users in a window, in key order, so that a user's rows do not lie together."""
    rows = sorted(
        (
            key.key,
            key.start,
            key.period,
            key.transmission_risk,
            key.days_since_onset,
            user.report_type,
            user.traveler,
            user.regions,
            created_at,
        )
        for user in users
        for key in user.keys
    )
    with connection.cursor() as cursor:
        cursor.executemany(_SQL.insert_synthetic.sql, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])


_COLUMNS = (
    "exposure_key",
    "interval_number",
    "interval_count",
    "transmission_risk",
    "days_since_onset",
    "report_type",
    "traveler",
    "regions",
    "created_at",
)
