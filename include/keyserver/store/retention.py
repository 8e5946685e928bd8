"""Delete what is old: rows, index lines, what is known of objects (sql/queries/retention.sql; rules R1, R2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyserver.store.database import Connection, queries

_SQL = queries("retention")

# The tables beside `exposure` whose rows go when they are old.
TABLES = (
    "upload_stats",
    "profile",
    "profile_marginal",
    "attestation_seen",
    "verification_code",
    "verification_token",
    "verification_user_report",
    "verification_rate",
    "quality_result",
)


@dataclass(slots=True)
class DeletedKeys:
    """Rows of `exposure` that were deleted, and the windows that they were published in, the first and the last.

    ``unreleased``: of the real ones those that no feed ever released, by window and by why.
    """

    first: datetime
    last: datetime
    keys: int = 0
    synthetic_keys: int = 0
    revisions: int = 0
    unreleased: Counter[tuple[datetime, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file whose line has left the index, or leaves it now."""

    batch_id: int
    feed: str
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class DueObject:
    """A file whose object may go. ``root``: the folder of its feed, whose index must not list it."""

    batch_id: int
    feed: str
    root: str
    number: int
    name: str
    zip_sha256: bytes


@dataclass(frozen=True, slots=True)
class StagedFor:
    """A staged file and one batch that names it. ``wanted``: the batch still needs it."""

    sha256: bytes
    starts_at: datetime
    ends_at: datetime
    wanted: bool


def period(connection: Connection) -> timedelta:
    """Give the declared retention."""
    found: timedelta = _SQL.period(connection)
    return found


def delete_keys(connection: Connection, first: datetime, most: int) -> DeletedKeys | None:
    """Delete the oldest rows from a window on that are old enough, at most ``most``; None when none was deleted."""
    rows = list(_SQL.delete_exposures(connection, first=first, most=most))
    if not rows:
        return None
    deleted = DeletedKeys(rows[0][0], rows[-1][0])
    for window, synthetic, way, keys, revisions in rows:
        deleted.keys += keys
        deleted.revisions += revisions
        if synthetic:
            deleted.synthetic_keys += keys
        elif way != "released":
            deleted.unreleased[window, way] += keys
    _SQL.set_deleted_through(connection, window_start=deleted.last)
    return deleted


def more_keys(connection: Connection, first: datetime) -> bool:
    """Tell whether there are rows from a window on that are old enough."""
    more: bool = _SQL.more_exposures(connection, first=first)
    return more


def delete_from(connection: Connection, table: str, most: int) -> int:
    """Delete what is old in one of `TABLES`, at most ``most`` rows; give their number."""
    count: int = getattr(_SQL, f"delete_{table}")(connection, most=most)
    return count


def expire_lines(connection: Connection, most: int) -> list[OldFile]:
    """Take old lines out of the index that the database gives, at most ``most``; give their files (R2)."""
    return sorted((OldFile(*row) for row in _SQL.expire_lines(connection, most=most)), key=_place)


def hold_outlived(connection: Connection, problem: str) -> list[tuple[int, str]]:
    """Hold what was built and has outlived its keys, unless a run works on it; give batches and feeds."""
    return sorted((batch_id, feed) for batch_id, feed in _SQL.hold_outlived(connection, problem=problem))


def objects_due(connection: Connection, grace: timedelta) -> list[DueObject]:
    """Give the files whose lines have been out of the index for at least ``grace``."""
    return [DueObject(*row) for row in _SQL.objects_due(connection, grace=grace)]


def set_deleted(connection: Connection, batch_id: int, number: int) -> bool:
    """Say that an expired file's object is gone; False when it was said, or its batch is being withdrawn."""
    return _SQL.set_deleted(connection, batch_id=batch_id, number=number) is not None


def strays(connection: Connection, names: Sequence[str]) -> list[str]:
    """Give, of objects' names, those of files that no index lists or ever will."""
    return [name for (name,) in _SQL.strays(connection, names=list(names))]


def staged(connection: Connection, hashes: Sequence[bytes], wait: timedelta) -> list[StagedFor]:
    """Tell which batches name these staged files; ``wait``: how long a released one waits to be confirmed."""
    return [StagedFor(*row) for row in _SQL.staged(connection, hashes=list(hashes), wait=wait)]


def lock_span(connection: Connection, starts_at: datetime, ends_at: datetime) -> bool:
    """Lock all batches of a span; tell whether one of them may need what is staged."""
    locked = [wanted for (wanted,) in _SQL.lock_span(connection, starts_at=starts_at, ends_at=ends_at)]
    return any(locked)


def lock_makers(connection: Connection, staged_at: datetime) -> bool:
    """Lock all batches that may have made a file which none of them names; tell whether one is on its way."""
    locked = [on_its_way for (on_its_way,) in _SQL.lock_makers(connection, staged_at=staged_at)]
    return any(locked)


def _place(file: OldFile) -> tuple[int, int]:
    return file.batch_id, file.number
