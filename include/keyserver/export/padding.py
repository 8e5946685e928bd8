"""Pad the batches just planned with whole synthetic users, once and for all (rules P2, P4, P5).

Rows are what makes a rebuilt batch equal: they are drawn in the transaction that closes the window, never later and
never again. Whom they are drawn from: `keyserver.export.population`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.export.population import Population
from keyserver.store import batches, synthetic
from keyserver.store.batches import PlannedBatch
from keyserver.store.database import Connection
from keyserver.store.synthetic import SyntheticUser


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
    """Add synthetic users until no batch that is to be padded has fewer than its feed's minimum; give their number.

    To be padded are batches with a key, and those without one whose feed asks for a file all the same (P5). A user
    added for one batch counts in every other whose rules cover it, so the round is repeated until none asks.
    """
    targets = [
        _Target(batch, batch.padding_minimum + source.randint(0, batch.padding_spread), _regions(connection, batch))
        # The shortest first: what was drawn for a longer one need not look like the uploads of its last window.
        for batch in sorted(planned, key=lambda batch: batch.ends_at - batch.starts_at)
        if batch.padding_minimum + batch.padding_spread > 0
    ]
    population: Population | None = None
    added = 0
    asked = True
    while asked:
        asked = False
        for target in targets:
            keys = batches.count_keys(connection, target.batch.batch_id, target.keys)
            if not target.regions or keys >= target.keys or not (keys or target.batch.padding_empty):
                continue
            asked = True
            population = population or Population(
                synthetic.recent_uploads(connection, (window_end - timedelta(microseconds=1)).date())
            )
            users = _users(target, target.keys - keys, population, source)
            synthetic.insert(connection, users, window_start)
            added += len(users)
    return added


def _regions(connection: Connection, batch: PlannedBatch) -> list[list[str]]:
    """Give the sets of regions that real uploads to the feed carry, else each of its own."""
    return batches.regions_of_apps(connection, batch) or [
        [region] for region in batch.input_regions if region not in batch.exclude_regions
    ]


def _users(target: _Target, keys: int, population: Population, source: random.Random) -> list[SyntheticUser]:
    users: list[SyntheticUser] = []
    while keys > 0:
        user = population.draw(
            source.choice(target.regions),
            target.batch.starts_at,
            target.batch.ends_at,
            source,
            traveler=target.batch.travelers != "exclude" and source.random() < population.travelers,
        )
        users.append(user)
        keys -= len(user.keys)
    return users
