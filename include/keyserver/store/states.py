"""What is stored now of all that audit events speak of: read by whoever compares the two (sql/queries/states.sql).

Nothing here reads a key. Rows that may be many come one after the other, a few at a time; then in a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from keyserver.store.database import Connection, queries

_SQL = queries("states")
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's time, how far windows are closed, how long keys are kept, and the newest window deleted by age."""

    now: datetime
    closed_through: datetime
    period: timedelta
    deleted_through: datetime | None


@dataclass(frozen=True, slots=True)
class WindowState:
    """A closed window's row."""

    starts_at: datetime
    ends_at: datetime
    keys: int
    synthetic_keys: int
    revisions: int


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch's row, but for what its plan holds."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    revisions_to: datetime
    status: str
    replaces: int | None
    with_keys: bool
    reason: str | None
    approved: list[str]
    counts: Mapping[str, int]
    code_version: str | None
    carriers: list[int] | None
    withdrawn_carriers: list[int] | None


@dataclass(frozen=True, slots=True)
class FileState:
    """A file's row, but for its times."""

    batch_id: int
    number: int
    name: str | None
    status: str
    keys: int
    revised_keys: int
    export_sha256: bytes
    zip_sha256: bytes | None
    zip_bytes: int | None
    release_no: int | None


@dataclass(frozen=True, slots=True)
class FeedState:
    """A feed, the SHA-256 of the index that was written last, and the last place taken in it."""

    feed_id: int
    name: str
    root: str
    index_sha256: bytes | None
    last_release_no: int


@dataclass(frozen=True, slots=True)
class KeyState:
    """A signing key; ``label`` is ``<key id>-<version>``, ``public_key`` PEM."""

    name: str
    label: str
    purpose: str
    public_key: str
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class SignatureState:
    """A stored signature over bytes of which the SHA-256 is given, by the key of a label."""

    sha256: bytes
    label: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class LineState:
    """A line of a feed's public log; ``of_file``: a file of that name is there, with this span."""

    number: int
    kind: str
    name: str
    keys: int
    zip_sha256: bytes
    export_sha256: bytes
    of_file: bool


@dataclass(frozen=True, slots=True)
class DayState:
    """A day of a feed's public log that is over."""

    day: date
    head_seq: int
    head_sha256: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class DeletionState:
    """A deletion on demand, and how much it took."""

    deletion_id: int
    app: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    keys: int
    revisions: int


@dataclass(frozen=True, slots=True)
class IndexState:
    """The names that a feed's index should list, when that last changed, and the SHA-256 of what was written last."""

    names: list[str]
    changed_at: datetime | None
    sha256: bytes | None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that phones can download; ``signing_keys``: labels in the order in which the file names them."""

    batch_id: int
    number: int
    name: str
    starts_at: datetime
    ends_at: datetime
    keys: int
    revised_keys: int
    export_sha256: bytes
    zip_sha256: bytes
    signing_keys: list[str]


@dataclass(frozen=True, slots=True)
class BuiltBatch:
    """A batch that was built, or is empty."""

    batch_id: int
    starts_at: datetime
    ends_at: datetime
    status: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OldRows:
    """Rows that should be gone: what they are, how many, the oldest one's time."""

    what: str
    rows: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class PastFile:
    """A file of which nothing should be in the store any more."""

    name: str | None
    export_sha256: bytes
    zip_sha256: bytes | None
    starts_at: datetime


def clock(connection: Connection) -> Clock:
    """Read the clock."""
    return Clock(*_SQL.clock(connection))


def windows(connection: Connection, first: datetime) -> Iterator[WindowState]:
    """Read the closed windows from a moment on, in their order."""
    return (WindowState(*row) for row in _stream(connection, "windows", {"first": first}))


def batches(connection: Connection, first: int) -> Iterator[BatchState]:
    """Read the batches from a number on, in the order of their planning."""
    return (BatchState(*row) for row in _stream(connection, "batches", {"first": first}))


def files(connection: Connection, first: int) -> Iterator[FileState]:
    """Read the files of the batches from a number on, in their order."""
    return (FileState(*row) for row in _stream(connection, "files", {"first": first}))


def feeds(connection: Connection) -> list[FeedState]:
    """Read all feeds."""
    return [FeedState(*row) for row in _SQL.feeds(connection)]


def signing_keys(connection: Connection) -> list[KeyState]:
    """Read all signing keys."""
    return [KeyState(*row) for row in _SQL.signing_keys(connection)]


def signatures(connection: Connection) -> Iterator[SignatureState]:
    """Read the signatures over all files."""
    return (SignatureState(*row) for row in _stream(connection, "signatures", {}))


def log_signatures(connection: Connection) -> Iterator[SignatureState]:
    """Read the signatures over all segments of the public logs."""
    return (SignatureState(*row) for row in _stream(connection, "log_signatures", {}))


def log_lines(connection: Connection, feed_id: int) -> Iterator[LineState]:
    """Read the lines of a feed's public log, in their order."""
    return (LineState(*row) for row in _stream(connection, "log_lines", {"feed_id": feed_id}))


def logged_at(connection: Connection, name: str) -> datetime | None:
    """Give when a file was last spoken of in its feed's public log; None for never."""
    at: datetime | None = _SQL.logged_at(connection, name=name)
    return at


def log_days(connection: Connection, feed_id: int) -> list[DayState]:
    """Read the days of a feed's public log that are over, in their order."""
    return [DayState(*row) for row in _SQL.log_days(connection, feed_id=feed_id)]


def deletions(connection: Connection) -> list[DeletionState]:
    """Read all deletions on demand."""
    return [DeletionState(*row) for row in _SQL.deletions(connection)]


def index(connection: Connection, feed_id: int) -> IndexState:
    """Give what a feed's index should be now."""
    return IndexState(*_SQL.index(connection, feed_id=feed_id))


def listed_files(connection: Connection, feed_id: int, first: int) -> list[ListedFile]:
    """Read a feed's files that phones can download, of the batches from a number on, in the order of the index."""
    return [ListedFile(*row) for row in _SQL.listed_files(connection, feed_id=feed_id, first=first)]


def is_listed(connection: Connection, name: str) -> bool:
    """Tell whether a file is one that phones can download."""
    listed: bool = _SQL.is_listed(connection, name=name)
    return listed


def named_files(connection: Connection, feed_id: int) -> dict[str, tuple[str, str]]:
    """Give the status of each file of a feed that has a name, and that of its batch."""
    return {name: (of_file, of_batch) for name, of_file, of_batch in _SQL.named_files(connection, feed_id=feed_id)}


def built_batches(connection: Connection, first: int) -> list[BuiltBatch]:
    """Read the batches, from a number on, of which it is known what they hold."""
    return [BuiltBatch(*row) for row in _SQL.spans_of_built(connection, first=first)]


def old_rows(connection: Connection) -> list[OldRows]:
    """Give what should have been deleted by now (R1)."""
    return [OldRows(*row) for row in _SQL.old_rows(connection)]


def old_lines(connection: Connection) -> Sequence[tuple[str, datetime]]:
    """Give the files that should have left the index by now, and when their batches began (R2)."""
    return list(_SQL.old_lines(connection))


def past_files(connection: Connection, grace: timedelta) -> Iterator[PastFile]:
    """Read the files of which nothing should be in the store any more (R2)."""
    return (PastFile(*row) for row in _stream(connection, "past_files", {"grace": grace}))


def first_window(connection: Connection) -> datetime | None:
    """Give the start of the first window that was closed."""
    starts_at: datetime | None = _SQL.first_window(connection)
    return starts_at


def _stream(connection: Connection, name: str, values: Mapping[str, object]) -> Iterator[tuple[Any, ...]]:
    with connection.cursor(f"states_{name}") as cursor:
        cursor.itersize = _AT_ONCE
        yield from cursor.execute(getattr(_SQL, name).sql, values)
