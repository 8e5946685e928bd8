"""Files of batches, their signatures, and the index of a feed (B6 to B9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.store.database import Connection, queries

_SQL = queries("file")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a batch; name, hash and size of the zip are known once it is signed."""

    number: int
    starts_at: datetime
    ends_at: datetime
    keys: int
    revised_keys: int
    export_sha256: bytes
    name: str | None = None
    zip_sha256: bytes | None = None
    zip_bytes: int | None = None
    status: str = "staged"
    confirmed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """The zip that was made of a file, and by what (B8)."""

    name: str
    zip_sha256: bytes
    zip_bytes: int
    compressor: str


@dataclass(frozen=True, slots=True)
class FeedIndex:
    """A feed as its index sees it."""

    feed_id: int
    feed: str
    root: str


def insert(connection: Connection, batch_id: int, feed_id: int, file: File) -> None:
    """Record a file that was built and staged."""
    _SQL.insert(
        connection,
        batch_id=batch_id,
        feed_id=feed_id,
        number=file.number,
        starts_at=file.starts_at,
        ends_at=file.ends_at,
        keys=file.keys,
        revised_keys=file.revised_keys,
        export_sha256=file.export_sha256,
    )


def of_batch(connection: Connection, batch_id: int) -> list[File]:
    """Give a batch's files in their order."""
    return [File(*row) for row in _SQL.of_batch(connection, batch_id=batch_id)]


def set_packed(connection: Connection, batch_id: int, number: int, packed: Packed) -> None:
    """Record the zip that was made of a file."""
    _SQL.set_packed(
        connection,
        batch_id=batch_id,
        number=number,
        name=packed.name,
        zip_sha256=packed.zip_sha256,
        zip_bytes=packed.zip_bytes,
        compressor=packed.compressor,
    )


def store_signature(connection: Connection, export_sha256: bytes, signing_key_id: int, signature: bytes) -> bool:
    """Keep the first signature by a key over a file; a later one is dropped (False): a zip made again is the same."""
    stored = _SQL.store_signature(
        connection, export_sha256=export_sha256, signing_key_id=signing_key_id, signature=signature
    )
    return stored is not None


def signature(connection: Connection, export_sha256: bytes, signing_key_id: int) -> bytes | None:
    """Give the stored signature by a key over a file."""
    stored: bytes | None = _SQL.signature(connection, export_sha256=export_sha256, signing_key_id=signing_key_id)
    return stored


def release(connection: Connection, batch_id: int, feed_id: int) -> dict[int, int]:
    """Mark a batch's files released; give each file's place in the index, by its number (B7)."""
    return dict(sorted(_SQL.release(connection, batch_id=batch_id, feed_id=feed_id)))


def feeds(connection: Connection) -> list[FeedIndex]:
    """Give every feed."""
    return [FeedIndex(*row) for row in _SQL.feeds(connection)]


def feed(connection: Connection, feed_id: int) -> FeedIndex:
    """Give one feed."""
    return FeedIndex(*_SQL.feed(connection, feed_id=feed_id))


def lock_feed(connection: Connection, feed_id: int) -> bool:
    """Lock a feed's row until the transaction ends; tell whether the feed is paused."""
    paused: bool = _SQL.lock_feed(connection, feed_id=feed_id)
    return paused


def index_lines(connection: Connection, feed_id: int) -> list[str]:
    """Give the names that a feed's index lists, the oldest first (B6)."""
    return [name for (name,) in _SQL.index_lines(connection, feed_id=feed_id)]


def set_index(connection: Connection, feed_id: int, sha256: bytes) -> bool:
    """Remember the index that was written last; False when it was this one already."""
    return _SQL.set_index(connection, feed_id=feed_id, sha256=sha256) is not None


def begin_withdrawal(connection: Connection, batch_id: int) -> int:
    """Take the lines of a batch out of the index that the database gives; tell how many they were (B5)."""
    count: int = _SQL.begin_withdrawal(connection, batch_id=batch_id)
    return count


def end_withdrawal(connection: Connection, batch_id: int) -> None:
    """Say of a batch's files that their objects are no more (B5)."""
    _SQL.end_withdrawal(connection, batch_id=batch_id)


def unlisted(connection: Connection, since: timedelta) -> list[str]:
    """Give the names of files that no index lists or ever will, of batches that began within this time."""
    return [name for (name,) in _SQL.unlisted(connection, since=since)]


def unconfirmed(connection: Connection) -> list[int]:
    """Give the batches of released files that nobody has yet fetched as a phone does."""
    return [batch_id for (batch_id,) in _SQL.unconfirmed(connection)]


def confirm(connection: Connection, batch_id: int, number: int) -> bool:
    """Remember that a file was fetched as a phone does; False if that was known, or it is no longer released."""
    return _SQL.confirm(connection, batch_id=batch_id, number=number) is not None
