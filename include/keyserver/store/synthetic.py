"""Synthetic users: rows like any other, flagged (P2, P4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyserver.store.database import Connection, queries

_SQL = queries("exposure")


@dataclass(frozen=True, slots=True)
class SyntheticUser:
    """The keys of one user who does not exist; the three lists run in step."""

    regions: list[str]
    traveler: bool
    report_type: str
    transmission_risk: int
    interval_count: int
    keys: list[bytes]
    interval_numbers: list[int]
    days_since_onset: list[int]


def insert(connection: Connection, users: Sequence[SyntheticUser], created_at: datetime) -> None:
    """Store users in a window, in key order, so that a user's rows do not lie together."""
    rows = sorted(
        (
            key,
            number,
            user.interval_count,
            user.transmission_risk,
            onset,
            user.report_type,
            user.traveler,
            user.regions,
            created_at,
        )
        for user in users
        for key, number, onset in zip(user.keys, user.interval_numbers, user.days_since_onset, strict=True)
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
