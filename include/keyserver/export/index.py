"""Write a feed's index, a pure function of the database (rules B6, B7; export.md 2.11)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from keyserver.audit import recorded
from keyserver.errors import ConflictError, KeyserverError, RemoteError
from keyserver.export.claim import step
from keyserver.protocol.exportfile import INDEX_CACHE_CONTROL, INDEX_CONTENT_TYPE, index_content, public_path
from keyserver.providers.blobs import BlobMissingError
from keyserver.runtime import Runtime
from keyserver.store import files
from keyserver.store.files import FeedIndex

logger = logging.getLogger(__name__)
_MOST_TRIES = 10


def index(runtime: Runtime, batch_id: int) -> None:
    """Write the index of a released batch's feed."""
    with step(runtime, batch_id) as batch:
        batch.has_reached("released")  # a batch that was settled otherwise has nothing to list
        with runtime.database.connection() as connection:
            feed = files.feed(connection, batch.feed_id)
        write(runtime, feed)


def write_all(runtime: Runtime) -> int:
    """Write every index that differs from its function; give their number. Ends every run.

    A feed whose index cannot be written does not keep the others' from it; its error is raised at the end.
    """
    return of_every_feed(runtime, write, "index")


def of_every_feed(runtime: Runtime, write_one: Callable[[Runtime, FeedIndex], int], what: str) -> int:
    """Write what each feed has in public, and give the number of objects written; the first error is raised last."""
    with runtime.database.connection() as connection:
        feeds = files.feeds(connection)
    written = 0
    failed: KeyserverError | None = None
    for feed in feeds:
        try:
            written += write_one(runtime, feed)
        except KeyserverError as error:
            logger.error("ALERT: the %s of feed %s cannot be written: %s", what, feed.feed, error)
            failed = failed or error
    if failed is not None:
        raise failed
    return written


def write(runtime: Runtime, feed: FeedIndex) -> bool:
    """Write one index unless it stands as it should; tell whether it was written.

    The ETag is read first and the database after it, so what is written is never older than what it replaces.
    Raises `RemoteError` when others kept writing it.
    """
    path = public_path(f"{feed.root}/index.txt")
    for _ in range(_MOST_TRIES):
        current, etag = read_public(runtime, path)
        with runtime.database.connection() as connection:
            lines = files.index_lines(connection, feed.feed_id)
        content = index_content(lines)
        written = content != current
        if written:
            try:
                runtime.blobs.replace(
                    path, content, etag, content_type=INDEX_CONTENT_TYPE, cache_control=INDEX_CACHE_CONTROL
                )
            except ConflictError:
                continue
        _record(runtime, feed, content, len(lines))
        return written
    raise RemoteError(f"the index of feed {feed.feed} was changed by others {_MOST_TRIES} times while it was written")


def read_public(runtime: Runtime, path: str) -> tuple[bytes | None, str | None]:
    """Give an object and the ETag that replacing it asks for; None for both where there is none (B7)."""
    try:
        blob = runtime.blobs.read(path)
    except BlobMissingError:
        return None, None
    return blob.data, blob.etag


def _record(runtime: Runtime, feed: FeedIndex, content: bytes, lines: int) -> None:
    """Say in the audit trail what the index now holds, once: also when the one who wrote it was killed before."""
    digest = hashlib.sha256(content)
    with recorded(runtime.database, runtime.actor) as work:
        files.lock_feed(work.connection, feed.feed_id)
        if index_content(files.index_lines(work.connection, feed.feed_id)) != content:
            return  # it is not the newest any more: whoever writes that says so
        if files.set_index(work.connection, feed.feed_id, digest.digest()):
            work.record(
                "index.written", {"feed": feed.feed}, counts={"lines": lines}, hashes={"index": digest.hexdigest()}
            )
            logger.info("the index of feed %s has %d lines, SHA-256 %s", feed.feed, lines, digest.hexdigest())
