"""What operators and auditors ask of the database; nothing here changes it (sql/queries/oversight.sql)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.store.batches import Carriers
from keyserver.store.database import Connection, queries

_SQL = queries("oversight")


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's time, the width of windows, how far they are closed, and how long rows are kept."""

    now: datetime
    width: timedelta
    closed_through: datetime
    retention: timedelta


@dataclass(frozen=True, slots=True)
class StoredKey:
    """All of a stored key but its bytes that decides where it goes; ``created_at`` and ``revised_at`` are windows."""

    created_at: datetime
    ended_at: datetime
    report_type: str | None
    traveler: bool
    regions: list[str]
    synthetic: bool
    revised_at: datetime | None
    revised_report_type: str | None


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """A feed: where its next ordinary batch starts, and when the one is planned that will have some moment (B2)."""

    feed_id: int
    name: str
    active_from: datetime
    active_thru: datetime | None
    paused: bool
    next_starts_at: datetime
    planned_at: datetime


@dataclass(frozen=True, slots=True)
class BatchOfKey:
    """A batch whose span has a key's window or its revision's.

    ``fate``: what it makes of the key (`key_fate`), None when only the revision is of its span. ``replaced_by``: the
    batch that replaces it. ``waits_for``: the first batch before it in its feed's order that is not settled.
    """

    batch_id: int
    feed_id: int
    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    revisions_to: datetime
    status: str
    replaces: int | None
    replaced_by: int | None
    problem: str | None
    held_at: datetime | None
    reason: str | None
    claimed: bool
    failed_runs: int
    released_carriers: list[int] | None
    withdrawn_carriers: list[int] | None
    waits_for: int | None
    fate: str | None

    @property
    def carriers(self) -> Carriers | None:
        """Where its revised keys came from, fixed when it was built (K3); None before."""
        return _carriers(self.released_carriers, self.withdrawn_carriers)


@dataclass(frozen=True, slots=True)
class WindowTotals:
    """A closed window: the rows that it held when it was closed, and those of them that are there now.

    ``keys_on_demand``, ``revisions_on_demand``: how many were deleted on demand. ``swept``: retention has deleted rows
    of it, or of a later one; it does so from ``kept_until`` on.
    """

    starts_at: datetime
    ends_at: datetime
    keys: int
    synthetic_keys: int
    revisions: int
    keys_now: int
    revisions_now: int
    keys_on_demand: int
    revisions_on_demand: int
    swept: bool
    kept_until: datetime

    @property
    def keys_gone(self) -> int:
        """How many keys are there no more, but for what was deleted on demand."""
        return max(0, self.keys - self.keys_now - self.keys_on_demand)

    @property
    def revisions_gone(self) -> int:
        """How many revisions are there no more, but for what was deleted on demand."""
        return max(0, self.revisions - self.revisions_now - self.revisions_on_demand)


@dataclass(frozen=True, slots=True)
class StandingBatch:
    """The batch of a feed that stands for a window: the last of those that replaced each other."""

    batch_id: int
    feed_id: int
    status: str
    replaces: int | None
    released_carriers: list[int] | None
    withdrawn_carriers: list[int] | None

    @property
    def carriers(self) -> Carriers | None:
        """As those of `BatchOfKey`."""
        return _carriers(self.released_carriers, self.withdrawn_carriers)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch with its feed's rules as they were copied when it was planned, and what it turned out to hold."""

    batch_id: int
    feed: str
    root: str
    starts_at: datetime
    ends_at: datetime
    status: str
    cutoff: datetime
    revisions_to: datetime
    output_region: str
    input_regions: list[str]
    exclude_regions: list[str]
    travelers: str
    max_keys: int
    with_keys: bool
    supplement: bool
    replaces: int | None
    replaced_by: int | None
    reason: str | None
    problem: str | None
    approved: list[str]
    counts: Mapping[str, int]
    code_version: str | None
    carriers: list[int] | None
    withdrawn_carriers: list[int] | None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file with all that is recorded of it."""

    number: int
    name: str | None
    status: str
    starts_at: datetime
    ends_at: datetime
    keys: int
    revised_keys: int
    export_sha256: bytes
    zip_sha256: bytes | None
    zip_bytes: int | None
    compressor: str | None
    release_no: int | None
    released_at: datetime | None
    confirmed_at: datetime | None  # when it was seen through its public URL
    left_index_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """An audit event, without what it says of its subject."""

    seq: int
    at: datetime
    kind: str
    actor: str
    run: str | None
    task: str | None
    dag: str | None = None
    map_index: int | None = None


@dataclass(frozen=True, slots=True)
class EventBody:
    """An audit event as it is hashed: its bytes as text, and their SHA-256 in hexadecimal."""

    seq: int
    at: datetime
    kind: str
    body: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FeedNow:
    """How a feed stands: its rules, its newest batch that is out or was empty, and the batches behind or beside it.

    ``waiting``: how many are on their way or wait for their turn; ``held`` and ``withdrawing``: their numbers.
    """

    name: str
    region: str
    period: timedelta
    paused: bool
    development: bool
    active_from: datetime
    active_thru: datetime | None
    newest: int | None
    newest_end: datetime | None
    newest_status: str | None
    waiting: int
    held: list[int]
    withdrawing: list[int]


def clock(connection: Connection) -> Clock:
    """Read the database's clock and how far windows are closed."""
    return Clock(*_SQL.clock(connection))


def stored_key(connection: Connection, key: bytes) -> StoredKey | None:
    """Look a key up."""
    row = _SQL.stored_key(connection, exposure_key=key)
    return None if row is None else StoredKey(*row)


def feeds(connection: Connection, moment: datetime) -> list[FeedPlan]:
    """Give every feed, by name, and what each plans next for ``moment``."""
    return [FeedPlan(*row) for row in _SQL.feeds(connection, moment=moment)]


def prospects(connection: Connection, key: bytes, max_age: timedelta) -> dict[int, str]:
    """Tell for each feed, by its id, what its rules of now make of a key."""
    return dict(_SQL.prospects(connection, exposure_key=key, max_age=max_age))


def batches_of_key(connection: Connection, key: bytes) -> list[BatchOfKey]:
    """Give every batch whose span has a key's window or its revision's, in the order of planning."""
    return [BatchOfKey(*row) for row in _SQL.batches_of_key(connection, exposure_key=key)]


def revision_of_key(connection: Connection, batch_id: int, carriers: Carriers, key: bytes) -> str | None:
    """Tell what a batch with these carriers makes of a key's revision; None when it is not for it to tell (K3)."""
    fate: str | None = _SQL.revision_of_key(
        connection, batch_id=batch_id, carriers=carriers.released, withdrawn=carriers.withdrawn, exposure_key=key
    )
    return fate


def window_totals(connection: Connection, starts_at: datetime) -> WindowTotals | None:
    """Give the totals of the closed window that starts there."""
    windows = windows_of_span(connection, starts_at, starts_at + datetime.resolution)
    return windows[0] if windows else None


def windows_of_span(connection: Connection, starts_at: datetime, ends_at: datetime) -> list[WindowTotals]:
    """Give the closed windows of a span, in their order."""
    return [WindowTotals(*row) for row in _SQL.windows_of_span(connection, starts_at=starts_at, ends_at=ends_at)]


def standing_batches(connection: Connection, moment: datetime) -> dict[int, StandingBatch]:
    """Give, by feed id, the batch that stands for the window of a moment."""
    found = [StandingBatch(*row) for row in _SQL.standing_batches(connection, moment=moment)]
    return {batch.feed_id: batch for batch in found}


def window_fates(connection: Connection, batch_id: int, starts_at: datetime) -> tuple[dict[str, int], int]:
    """Count what a batch makes of a window's keys; and how many of the released ones are synthetic."""
    rows = list(_SQL.window_fates(connection, batch_id=batch_id, starts_at=starts_at))
    return {fate: keys for fate, keys, _ in rows}, sum(synthetic for fate, _, synthetic in rows if fate == "released")


def window_revision_fates(
    connection: Connection, batch_id: int, carriers: Carriers, starts_at: datetime
) -> dict[str, int]:
    """Count what a batch makes of a window's revisions."""
    rows = _SQL.window_revision_fates(
        connection,
        batch_id=batch_id,
        carriers=carriers.released,
        withdrawn=carriers.withdrawn,
        starts_at=starts_at,
    )
    return dict(rows)


def batch_of_file(connection: Connection, name: str) -> int | None:
    """Find the batch of a file by the name that the index lists, or by an address that ends with it."""
    batch_id: int | None = _SQL.batch_of_file(connection, name=name)
    return batch_id


def batch(connection: Connection, batch_id: int) -> BatchRecord | None:
    """Read all that is recorded of a batch."""
    row = _SQL.batch(connection, batch_id=batch_id)
    return None if row is None else BatchRecord(*row)


def files(connection: Connection, batch_id: int) -> list[FileRecord]:
    """Read all that is recorded of a batch's files, in their order."""
    return [FileRecord(*row) for row in _SQL.files(connection, batch_id=batch_id)]


def events_of_batch(connection: Connection, batch_id: int) -> list[Event]:
    """Give the audit events that name a batch, in their order."""
    return [Event(*row) for row in _SQL.events_of_batch(connection, batch_id=batch_id)]


def feeds_now(connection: Connection) -> list[FeedNow]:
    """Give every feed as it stands, by name."""
    return [FeedNow(*row) for row in _SQL.feeds_now(connection)]


def last_event(connection: Connection, kind: str, within: timedelta) -> tuple[int, datetime] | None:
    """Give the number and time of the last event of a kind, if it is no older than ``within``."""
    row = _SQL.last_event(connection, kind=kind, within=within)
    return None if row is None else (row[0], row[1])


def event(connection: Connection, seq: int) -> EventBody | None:
    """Read one event whole."""
    row = _SQL.event(connection, seq=seq)
    return None if row is None else EventBody(*row)


def configuration_before(connection: Connection, seq: int) -> tuple[int, str] | None:
    """Give the number of the last ``configuration.applied`` before an event, and the hash that it names."""
    row = _SQL.configuration_before(connection, seq=seq)
    return None if row is None else (row[0], row[1])


def index_after(connection: Connection, feed: str, seq: int) -> tuple[int, datetime] | None:
    """Give the number and time of the first ``index.written`` of a feed after an event."""
    row = _SQL.index_after(connection, feed=feed, seq=seq)
    return None if row is None else (row[0], row[1])


def _carriers(released: list[int] | None, withdrawn: list[int] | None) -> Carriers | None:
    return None if released is None or withdrawn is None else Carriers(released, withdrawn)
