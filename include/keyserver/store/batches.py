"""Batches: planned with the closing of a window, claimed by a run, moved one way by guarded updates (B1 to B3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.types.json import Jsonb

from keyserver.errors import ConflictError, Superseded
from keyserver.store.database import Connection, queries

_SQL = queries("batch")

# The way of a batch that nothing stops. Each status is reached by one step.
WAY = ("planned", "built", "checked", "signed", "verified", "released")


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch just planned, and what padding needs to know of its feed (P2)."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    input_regions: list[str]
    exclude_regions: list[str]
    travelers: str
    padding_minimum: int
    padding_spread: int


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """A batch that a run has claimed."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its steps see it."""

    batch_id: int
    feed_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    root: str
    output_region: str
    max_keys: int
    status: str
    claimed_by: str | None
    failed_runs: list[str]

    def __str__(self) -> str:
        """Name it as logs and operators do."""
        return f"batch {self.batch_id} of feed {self.feed}"

    def has_reached(self, status: str) -> bool:
        """Tell whether the step that leads to ``status`` was done before; `Superseded` when it will never be done."""
        if self.status not in WAY:
            raise Superseded(f"{self} is {self.status}: nothing is left to do for it")
        return WAY.index(self.status) >= WAY.index(status)


@dataclass(frozen=True, slots=True)
class BatchSigningKey:
    """One of the keys that a batch was planned with."""

    signing_key_id: int
    name: str
    key_id: str
    key_version: str
    public_key: str  # PEM


@dataclass(frozen=True, slots=True)
class StoredRun:
    """Keys of equal metadata: 16 bytes each, ascending, in one piece."""

    report_type: str | None
    transmission_risk: int
    days_since_onset: int | None
    interval_number: int
    interval_count: int
    keys: bytes


@dataclass(frozen=True, slots=True)
class Fate:
    """How many rows of a batch's span took one way (A6)."""

    rows: int
    synthetic: int


def plan(connection: Connection, ends_at: datetime, max_age: timedelta) -> list[PlannedBatch]:
    """Plan the batches that end where a window ends, in the transaction that closes it (B2)."""
    return [PlannedBatch(*row) for row in _SQL.plan(connection, ends_at=ends_at, max_age=max_age)]


def count_keys(connection: Connection, batch_id: int, most: int) -> int:
    """Count a batch's keys as build would select them, up to a bound."""
    count: int = _SQL.count_keys(connection, batch_id=batch_id, most=most)
    return count


def regions_of_apps(connection: Connection, batch: PlannedBatch) -> list[list[str]]:
    """Give the sets of regions that real uploads of the batch's feed carry."""
    rows = _SQL.regions_of_apps(connection, input_regions=batch.input_regions, exclude_regions=batch.exclude_regions)
    return [regions for (regions,) in rows]


def claim_due(connection: Connection, run: str) -> list[ClaimedBatch]:
    """Claim the due batch of each feed for a run (B3)."""
    return [ClaimedBatch(*row) for row in _SQL.claim_due(connection, run=run)]


def renew_claim(connection: Connection, batch_id: int, run: str) -> bool:
    """Tell the others, in a transaction, that the run still works on the batch; False when it has lost it."""
    if _SQL.lock_claimed(connection, batch_id=batch_id, run=run) is None:
        return False
    _SQL.renew_claims(connection, batch_id=batch_id, run=run)
    return True


def give_back_claims(connection: Connection, run: str) -> int:
    """Let other runs take what this one held; give their number."""
    count: int = _SQL.give_back_claims(connection, run=run)
    return count


def more_is_due(connection: Connection) -> bool:
    """Tell whether another run would find work at once."""
    more: bool = _SQL.more_is_due(connection)
    return more


def read(connection: Connection, batch_id: int) -> Batch:
    """Read a batch; `ConflictError` when there is none of that number."""
    row = _SQL.read(connection, batch_id=batch_id)
    if row is None:
        raise ConflictError(f"there is no batch {batch_id}")
    return Batch(*row)


def signing_keys(connection: Connection, batch_id: int) -> list[BatchSigningKey]:
    """Give the keys that the batch was planned with, the newest first."""
    return [BatchSigningKey(*row) for row in _SQL.signing_keys(connection, batch_id=batch_id)]


def key_runs(connection: Connection, batch_id: int) -> list[StoredRun]:
    """Read a batch's keys, grouped by their metadata and in the order of the file (K2, B10)."""
    with connection.cursor(binary=True) as cursor:
        cursor.execute(_SQL.key_runs.sql, {"batch_id": batch_id})
        return [StoredRun(*row) for row in cursor]


def fates(connection: Connection, batch_id: int) -> dict[str, Fate]:
    """Count what became of each row of the batch's span (A6)."""
    return {fate: Fate(rows, synthetic) for fate, rows, synthetic in _SQL.fates(connection, batch_id=batch_id)}


def advance(
    connection: Connection, batch: Batch, to_status: str, *, run: str, counts: Mapping[str, int] | None = None
) -> None:
    """Move a batch one step on, if it stands where it was read and the run still holds it; `Superseded` otherwise."""
    moved = _SQL.advance(
        connection,
        batch_id=batch.batch_id,
        from_status=batch.status,
        to_status=to_status,
        run=run,
        counts=None if counts is None else Jsonb(counts),
    )
    if moved is None:
        raise Superseded(f"{batch} is no longer {batch.status} and claimed by this run: another run has taken it over")


def hold(connection: Connection, batch: Batch, problem: str, *, run: str) -> None:
    """Take a batch out of its feed's way until somebody decides about it (B3, B4)."""
    if _SQL.hold(connection, batch_id=batch.batch_id, problem=problem, run=run) is None:
        raise Superseded(f"{batch} is no longer claimed by this run, or is settled: it is not held")


def add_failed_run(connection: Connection, batch_id: int, run: str) -> int | None:
    """Count a run whose step failed for good; give the number of such runs, None when it was counted before."""
    count: int | None = _SQL.add_failed_run(connection, batch_id=batch_id, run=run)
    return count
