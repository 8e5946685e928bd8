"""Pad the batches just planned with whole synthetic users, once and for all (rules P2, P4).

Rows are what makes a rebuilt batch equal: they are drawn in the transaction that closes the window, never later and
never again. They are drawn from a shipped prior; what was learned from recent uploads takes its place once it is known.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from keyserver.protocol.exposure import EMBARGO
from keyserver.protocol.intervals import INTERVALS_PER_DAY, interval_at, utc_midnight
from keyserver.store import batches, synthetic
from keyserver.store.batches import PlannedBatch
from keyserver.store.database import Connection
from keyserver.store.synthetic import SyntheticUser

T = TypeVar("T")

# The shipped prior, in rounded shares of uploads: report type; number of keys, jointly with the age in days of the
# oldest; days from onset to upload. Shapes of published statistics of 2020 to 2022: most people send what they have.
_REPORT_TYPES = {"confirmed": 80, "likely": 8, "user-report": 12}
_KEYS_AND_AGE = {
    (14, 14): 38,
    (13, 13): 9,
    (12, 12): 7,
    (11, 11): 5,
    (10, 10): 6,
    (9, 9): 4,
    (8, 8): 4,
    (7, 7): 5,
    (6, 6): 4,
    (5, 5): 4,
    (4, 4): 3,
    (3, 3): 3,
    (2, 2): 2,
    (1, 1): 2,
    (10, 12): 2,
    (12, 14): 2,
}
_ONSET_DAYS_AGO = {0: 3, 1: 9, 2: 16, 3: 18, 4: 26, 5: 10, 6: 7, 7: 5, 8: 3, 9: 2, 10: 1}
_TRAVELERS_IN_A_HUNDRED = 4
# A risk that no app sent is filled by report type when a key is published (publish.md 2.7).
_FILLED_RISK = {"confirmed": 2, "likely": 4, "user-report": 0}
_MOST_DAYS_FROM_ONSET = 14


@dataclass(frozen=True, slots=True)
class _Target:
    batch: PlannedBatch
    keys: int
    regions: list[list[str]]  # the sets that its users may carry


def pad(
    connection: Connection,
    planned: Sequence[PlannedBatch],
    window_start: datetime,
    window_end: datetime,
    source: random.Random,
) -> int:
    """Add synthetic users until no batch with a key has fewer than its feed's minimum; give their number.

    A user added for one batch counts in every other whose rules cover it, so the round is repeated until none asks.
    """
    targets = [
        _Target(batch, batch.padding_minimum + source.randint(0, batch.padding_spread), _regions(connection, batch))
        for batch in planned
        if batch.padding_minimum + batch.padding_spread > 0
    ]
    added = 0
    asked = True
    while asked:
        asked = False
        for target in targets:
            keys = batches.count_keys(connection, target.batch.batch_id, target.keys)
            if not target.regions or not 0 < keys < target.keys:
                continue
            asked = True
            users = _users(target, target.keys - keys, window_end, source)
            synthetic.insert(connection, users, window_start)
            added += len(users)
    return added


def _regions(connection: Connection, batch: PlannedBatch) -> list[list[str]]:
    """Give the sets of regions that real uploads to the feed carry, else each of its own."""
    return batches.regions_of_apps(connection, batch) or [
        [region] for region in batch.input_regions if region not in batch.exclude_regions
    ]


def _users(target: _Target, keys: int, window_end: datetime, source: random.Random) -> list[SyntheticUser]:
    users: list[SyntheticUser] = []
    while keys > 0:
        user = draw_user(
            source.choice(target.regions),
            traveler=target.batch.travelers != "exclude" and source.randrange(100) < _TRAVELERS_IN_A_HUNDRED,
            window_end=window_end,
            source=source,
        )
        users.append(user)
        keys -= len(user.keys)
    return users


def draw_user(regions: list[str], *, traveler: bool, window_end: datetime, source: random.Random) -> SyntheticUser:
    """Draw one user: whole days that ended two hours before the window's end, as those of a real upload do (T2)."""
    newest_day = utc_midnight(window_end - timedelta(days=1) - EMBARGO - timedelta(microseconds=1))
    report_type = _draw(_REPORT_TYPES, source)
    number, oldest = _draw(_KEYS_AND_AGE, source)
    onset_day = utc_midnight(window_end) - timedelta(days=_draw(_ONSET_DAYS_AGO, source))
    ages = sorted([oldest, *source.sample(range(1, oldest), number - 1)] if oldest > 1 else [1])
    days = [newest_day - timedelta(days=age - 1) for age in ages]
    drawn = [(day, (day - onset_day).days) for day in days]
    kept = [(day, onset) for day, onset in drawn if abs(onset) <= _MOST_DAYS_FROM_ONSET]
    return SyntheticUser(
        regions=regions,
        traveler=traveler,
        report_type=report_type,
        transmission_risk=_FILLED_RISK[report_type],
        interval_count=INTERVALS_PER_DAY,
        keys=[source.randbytes(16) for _ in kept],
        interval_numbers=[interval_at(day) for day, _ in kept],
        days_since_onset=[onset for _, onset in kept],
    )


def _draw(shares: dict[T, int], source: random.Random) -> T:
    return source.choices(list(shares), weights=list(shares.values()))[0]
