"""Batches: planned with the closing of a window, claimed by a run, moved one way by guarded updates (B1 to B3)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import chain, pairwise

from psycopg.types.json import Jsonb

from keyserver.errors import ConflictError, Superseded
from keyserver.protocol.exportfile import REPORT_TYPES
from keyserver.store.database import Connection, queries

_SQL = queries("batch")

_AFTER_EVERY_KEY = b"\xff" * 17
_BEFORE_ALL_ONSETS = -15

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
    padding_empty: bool


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
    revisions_to: datetime
    replaces: int | None
    supplement: bool
    end_offset: int  # seconds
    approved: list[str]
    root: str
    output_region: str
    max_keys: int
    status: str
    claimed_by: str | None
    failed_runs: list[str]
    carriers: list[int] | None
    withdrawn_carriers: list[int] | None

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
    """Rows of a batch's span that share their fate and their metadata (A6).

    ``keys``: 16 bytes each, in no order, in one piece; None where they are not released.
    """

    fate: str
    rows: int
    synthetic: int
    report_type: str | None
    transmission_risk: int
    days_since_onset: int | None
    interval_number: int
    interval_count: int
    keys: bytes | None

    def place(self) -> tuple[int, int, int, int, int]:
        """Say where its metadata stands in the order of a file (B10)."""
        return (
            0 if self.report_type is None else REPORT_TYPES[self.report_type],
            self.transmission_risk,
            _BEFORE_ALL_ONSETS if self.days_since_onset is None else self.days_since_onset,
            self.interval_number,
            self.interval_count,
        )


@dataclass(frozen=True, slots=True)
class Carriers:
    """The batches of a feed that may have had a revised key out: those that are released, and those that were (K3)."""

    released: list[int]
    withdrawn: list[int]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a batch turned out to hold: counts by reason (A6), where its revised keys came from, what built it."""

    counts: Mapping[str, int]
    carriers: Carriers
    code_version: str


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


def key_runs(connections: Sequence[Connection], batch_id: int) -> Iterator[StoredRun]:
    """Read a batch's span, grouped by fate and metadata, in the order of the file, as the rows arrive (K2, B10).

    Each connection groups its share of all possible keys, at the same time; a group comes once from each that has rows
    of it. They must see the same rows (`Database.snapshot`), and how they plan is changed until their transactions end.
    """
    edges = [bytes([256 * share // len(connections)]) for share in range(len(connections))] + [_AFTER_EVERY_KEY]
    shares = [
        _key_runs(connection, batch_id, low, high)
        for connection, (low, high) in zip(connections, pairwise(edges), strict=True)
    ]
    with ThreadPoolExecutor(len(shares)) as executor:
        firsts = list(executor.map(lambda share: next(share, None), shares))
    return heapq.merge(
        *(chain([first], share) for first, share in zip(firsts, shares, strict=True) if first is not None),
        key=StoredRun.place,
    )


def _key_runs(connection: Connection, batch_id: int, low: bytes, high: bytes) -> Iterator[StoredRun]:
    _SQL.read_hashed(connection)
    with connection.cursor(binary=True) as cursor:
        share = {"batch_id": batch_id, "low": low, "high": high}
        yield from (StoredRun(*row) for row in cursor.stream(_SQL.key_runs.sql, share))


def carriers(connection: Connection, batch_id: int) -> Carriers:
    """Look up where a batch's revised keys may have been released before (K3)."""
    return Carriers(*_SQL.carriers(connection, batch_id=batch_id))


def count_revised_keys(connection: Connection, batch_id: int, carriers: Carriers, most: int) -> int:
    """Count a batch's revised keys as build would select them, up to a bound."""
    count: int = _SQL.count_revised_keys(
        connection, batch_id=batch_id, carriers=carriers.released, withdrawn=carriers.withdrawn, most=most
    )
    return count


def revised_key_runs(connection: Connection, batch_id: int, carriers: Carriers) -> Iterator[StoredRun]:
    """Read what a batch has to tell of revisions as `key_runs` reads its keys (K3); fates as `revision_fates`."""
    told = {"batch_id": batch_id, "carriers": carriers.released, "withdrawn": carriers.withdrawn}
    with connection.cursor(binary=True) as cursor:
        yield from (StoredRun(*row) for row in cursor.stream(_SQL.revised_key_runs.sql, told))


def revision_fates(connection: Connection, batch_id: int, carriers: Carriers) -> dict[str, int]:
    """Count what became of each revision of the batch's span (A6), as ``revised_<fate>``.

    ``revised_retold_outside``: revocations that a supplement tells again and that are of another span.
    """
    rows = _SQL.revision_fates(connection, batch_id=batch_id, carriers=carriers.released, withdrawn=carriers.withdrawn)
    return dict(rows)


def fates(connection: Connection, batch_id: int) -> dict[str, Fate]:
    """Count what became of each row of the batch's span (A6)."""
    return {fate: Fate(rows, synthetic) for fate, rows, synthetic in _SQL.fates(connection, batch_id=batch_id)}


def advance(connection: Connection, batch: Batch, to_status: str, *, run: str) -> None:
    """Move a batch one step on, if it stands where it was read and the run still holds it; `Superseded` otherwise."""
    moved = _SQL.advance(connection, batch_id=batch.batch_id, from_status=batch.status, to_status=to_status, run=run)
    if moved is None:
        raise Superseded(f"{batch} is no longer {batch.status} and claimed by this run: another run has taken it over")


def settle_contents(connection: Connection, batch_id: int, contents: Contents) -> None:
    """Write down what a batch holds, in the transaction that sets `built` or `empty`."""
    _SQL.settle_contents(
        connection,
        batch_id=batch_id,
        counts=Jsonb(contents.counts),
        carriers=contents.carriers.released,
        withdrawn=contents.carriers.withdrawn,
        code_version=contents.code_version,
    )


def hold(
    connection: Connection, batch: Batch, problem: str, *, run: str, failed_expectations: Sequence[str] = ()
) -> None:
    """Take a batch out of its feed's way until somebody decides about it (B3, B4)."""
    held = _SQL.hold(
        connection, batch_id=batch.batch_id, problem=problem, failed_expectations=list(failed_expectations), run=run
    )
    if held is None:
        raise Superseded(f"{batch} is no longer claimed by this run, or is settled: it is not held")


def add_failed_run(connection: Connection, batch_id: int, run: str) -> int | None:
    """Count a run whose step failed for good; give the number of such runs, None when it was counted before."""
    count: int | None = _SQL.add_failed_run(connection, batch_id=batch_id, run=run)
    return count


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator decides on: why and since when a batch is held; and the reason of what was decided (B4)."""

    with_keys: bool
    problem: str | None
    failed_expectations: list[str]
    held_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Replacement:
    """How a replacing batch differs from the one that it replaces (B1)."""

    with_keys: bool
    reason: str
    approved: Sequence[str] = ()  # expectations that it may fail


def lock_release_clock(connection: Connection) -> None:
    """Let no window be closed, and no other batch be planned, until the transaction ends (B1)."""
    _SQL.lock_release_clock(connection)


def lock(connection: Connection, batch_id: int) -> Batch:
    """Lock a batch until the transaction ends, and read it as its last writer left it."""
    _SQL.lock(connection, batch_id=batch_id)
    return read(connection, batch_id)


def replaced_by(connection: Connection, batch_id: int) -> int | None:
    """Give the batch that was planned in place of this one."""
    replacing: int | None = _SQL.replaced_by(connection, batch_id=batch_id)
    return replacing


def plan_replacing(connection: Connection, batch_id: int, replacement: Replacement, max_age: timedelta) -> int:
    """Plan a batch in place of another, in a transaction that holds the release clock's lock; give its id (B1)."""
    planned: int = _SQL.plan_replacing(
        connection,
        batch_id=batch_id,
        max_age=max_age,
        with_keys=replacement.with_keys,
        approved=list(replacement.approved),
        reason=replacement.reason,
    )
    return planned


def decision(connection: Connection, batch_id: int) -> Decision:
    """Read what an operator decides on; the batch is there."""
    return Decision(*_SQL.decision(connection, batch_id=batch_id))


def held(connection: Connection) -> list[int]:
    """Give the batches that wait for an operator, the first planned first."""
    return [batch_id for (batch_id,) in _SQL.held(connection)]


def unanswered(connection: Connection, patience: timedelta) -> list[int]:
    """Give the batches that have been held for longer."""
    return [batch_id for (batch_id,) in _SQL.unanswered(connection, patience=patience)]


def settle(connection: Connection, batch: Batch, to_status: str, reason: str | None = None) -> None:
    """Move a batch as an operator decided, if it stands where it was read; keep the reason. `Superseded` otherwise."""
    settled = _SQL.settle(
        connection, batch_id=batch.batch_id, from_status=batch.status, to_status=to_status, reason=reason
    )
    if settled is None:
        raise Superseded(f"{batch} is no longer {batch.status}: somebody else decided")


@dataclass(frozen=True, slots=True)
class Situation:
    """A batch's feed as it stands: what phones have of it, and how many keys its batches used to have (B4).

    ``counts``: what the batch holds, as `Contents` has it, empty until it is built. ``newest_end``: where the newest
    batch with keys ends that is settled. ``median``: of the real keys of its batches in some time before this one;
    ``medians``: of those of each day. None and empty when there were none.
    """

    period: timedelta
    counts: Mapping[str, int]
    now: datetime
    newest_end: datetime | None
    median: float | None
    medians: Mapping[date, float]


def situation(connection: Connection, batch_id: int, before: timedelta) -> Situation:
    """Look at a batch's feed, and at its batches within ``before`` it; the batch is there."""
    rows = dict(_SQL.earlier_keys(connection, batch_id=batch_id, before=before))
    median = rows.pop(None, None)
    period, counts, now, newest_end = _SQL.situation(connection, batch_id=batch_id)
    return Situation(period, counts, now, newest_end, median, rows)
