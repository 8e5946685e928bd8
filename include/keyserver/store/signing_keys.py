"""Export signing keys: which of them sign, where, and what they signed (export.md 3). They are declared elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyserver.store.database import Connection, queries

_SQL = queries("signing_key")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as it is declared, and whether it was revoked."""

    name: str
    key_id: str
    key_version: str
    purpose: str  # export, or transparency: it signs the public logs
    public_key: str  # PEM
    active_from: datetime
    active_thru: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class FeedKeys:
    """A feed, the names of the keys that it is declared with (the newest first), and its index's number of files."""

    feed: str
    active_from: datetime
    active_thru: datetime | None
    keys: tuple[str, ...]
    files: int


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """A batch that a key was to sign; ``beside``: the other keys of the batch that are not revoked."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    status: str
    beside: tuple[str, ...]


def now(connection: Connection) -> datetime:
    """Give the moment by which keys are active or not."""
    moment: datetime = _SQL.now(connection)
    return moment


def keys(connection: Connection) -> list[StoredKey]:
    """Give all keys, the newest first."""
    return [StoredKey(*row) for row in _SQL.keys(connection)]


def feeds(connection: Connection) -> list[FeedKeys]:
    """Give all feeds."""
    return [
        FeedKeys(feed, start, end, tuple(names), files) for feed, start, end, names, files in _SQL.feeds(connection)
    ]


def carried(connection: Connection) -> dict[tuple[str, str], int]:
    """Count, by feed and key, the files of the feed's index that carry a signature by the key."""
    return {(feed, key): files for feed, key, files in _SQL.carried(connection)}


def revoke(connection: Connection, name: str) -> datetime | None:
    """Revoke a key for good; None when there is none of this name that is not revoked already."""
    revoked_at: datetime | None = _SQL.revoke(connection, name=name)
    return revoked_at


def signed_batches(connection: Connection, name: str) -> list[SignedBatch]:
    """Give the batches of a key that are in an index, or may yet come into one."""
    return [
        SignedBatch(batch_id, feed, starts_at, ends_at, status, tuple(beside))
        for batch_id, feed, starts_at, ends_at, status, beside in _SQL.signed_batches(connection, name=name)
    ]


def lock_of_batch(connection: Connection, batch_id: int) -> dict[str, bool]:
    """Tell of each key of a batch whether it is revoked; which stays so until the transaction ends."""
    return dict(_SQL.lock_of_batch(connection, batch_id=batch_id))
