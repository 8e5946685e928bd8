"""Publish each feed's log beside its index: signed segments, a day each, a pure function of the database (rule A3).

Lines are said with what they tell of (`logline`); here they are signed and written. A segment is one object, its
signature the last line, so a reader never meets one without the other. The older segments are written first: who reads
the newest one can rely on those that it follows.
"""

from __future__ import annotations

import logging
from datetime import date

from keyserver.audit import recorded
from keyserver.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    RemoteError,
    VerificationError,
)
from keyserver.export.index import of_every_feed, read_public
from keyserver.export.logline import close_days
from keyserver.protocol import signature
from keyserver.protocol.exportfile import index_content, public_path
from keyserver.protocol.transparency import (
    CACHE_CONTROL,
    CONTENT_TYPE,
    Segment,
    continues,
    encode,
    list_name,
    parse,
    seal,
    segment_name,
    sha256,
)
from keyserver.runtime import Runtime
from keyserver.store import transparency
from keyserver.store.files import FeedIndex
from keyserver.store.transparency import Signature

logger = logging.getLogger(__name__)
_MOST_TRIES = 10


def publish_logs(runtime: Runtime) -> int:
    """Close the days that are over and write what differs, for every feed; give the number of objects written.

    A feed whose log cannot be written does not keep the others' from it; its error is raised at the end.
    """
    return of_every_feed(runtime, publish_log, "public log")


def publish_log(runtime: Runtime, feed: FeedIndex) -> int:
    """Bring one feed's log up to date; give the number of objects written.

    Raises:
        ConfigurationError: no transparency key is active.
        VerificationError: what is public says what the database does not; it is left as it is.
        RemoteError: others kept writing.
    """
    with recorded(runtime.database, runtime.actor) as work:
        close_days(work, feed.feed_id, feed.feed)
    path = public_path(list_name(feed.root))
    written = 0
    for _ in range(_MOST_TRIES):
        days = _days(runtime, feed)
        written += sum(_write_segment(runtime, feed, day) for day in _unwritten(runtime, feed, days))
        current, etag = read_public(runtime, path)
        if _days(runtime, feed) != days:
            continue  # another day ended meanwhile: no list names a segment before it is there, nor loses one
        content = index_content([segment_name(feed.root, day) for day in days])
        if content == current:
            return written
        if _replace(runtime, path, content, etag):
            return written + 1
    raise _kept_changing(feed)


def _days(runtime: Runtime, feed: FeedIndex) -> list[date]:
    with runtime.database.connection() as connection:
        return transparency.days(connection, feed.feed_id)


def _unwritten(runtime: Runtime, feed: FeedIndex, days: list[date]) -> list[date]:
    """Give the days whose objects are missing or may not be as they should, in their order.

    They were written in their order, so where one is right, those before it are too, unless they were lost.
    """
    there = set(runtime.blobs.list(public_path(f"{feed.root}/log/")))
    unwritten = {day for day in days if public_path(segment_name(feed.root, day)) not in there}
    for day in reversed(days):
        if day not in unwritten:
            current, _ = read_public(runtime, public_path(segment_name(feed.root, day)))
            if current == _sealed(runtime, feed, _segment(runtime, feed, day)):
                break
            unwritten.add(day)
    return sorted(unwritten)


def _write_segment(runtime: Runtime, feed: FeedIndex, day: date) -> bool:
    """Write one segment unless it stands as it should: ETag first, database after it, so never an older one (B7)."""
    path = public_path(segment_name(feed.root, day))
    for _ in range(_MOST_TRIES):
        current, etag = read_public(runtime, path)
        segment = _segment(runtime, feed, day)
        _refuse_to_take_back(feed, current, segment)
        content = _sealed(runtime, feed, segment)
        if content == current:
            return False
        if _replace(runtime, path, content, etag):
            logger.info("the log of feed %s, %s: %d lines are public", feed.feed, day, len(segment.entries))
            return True
    raise _kept_changing(feed)


def _segment(runtime: Runtime, feed: FeedIndex, day: date) -> Segment:
    with runtime.database.connection() as connection:
        return transparency.segment(connection, feed.feed_id, day)


def _refuse_to_take_back(feed: FeedIndex, current: bytes | None, segment: Segment) -> None:
    """Stop before a line that people may have read is replaced: a database that was restored knows less than they."""
    if current is None:
        return
    try:
        public, _ = parse(current)
    except FormatError:
        logger.warning("the log of feed %s, %s: what is public is damaged, it is written anew", feed.feed, segment.day)
        return
    if not continues(public, segment):
        raise VerificationError(
            f"the public log of feed {feed.feed} has lines of {segment.day} that the database has not: was it restored?"
            " They are left as they are; `keyserver reconcile` and docs/transparency.md say what to do"
        )


def _sealed(runtime: Runtime, feed: FeedIndex, segment: Segment) -> bytes:
    """Give a segment with its stored signature, or with one made and stored now."""
    text = encode(segment)
    digest = sha256(text)
    with runtime.database.connection() as connection:
        stored = transparency.signature(connection, digest)
    if stored is None:
        stored = _signature(runtime, feed, segment, digest)
    return seal(text, stored.key, stored.signature)


def _signature(runtime: Runtime, feed: FeedIndex, segment: Segment, digest: bytes) -> Signature:
    with runtime.database.connection() as connection:
        key = transparency.signing_key(connection)
    if key is None:
        raise ConfigurationError(
            "no key for the public logs is active: declare one under signing_keys with `purpose: transparency`"
        )
    made = runtime.signer.sign(key.name, digest)
    signature.verify(signature.load_public_key(key.public_key), made, digest)
    label = f"{key.key_id}-{key.key_version}"
    with recorded(runtime.database, runtime.actor) as work:
        if transparency.store_signature(work.connection, digest, key.signing_key_id, made):
            work.record(
                "log.signed",
                {"feed": feed.feed, "day": segment.day.isoformat(), "key": label},
                counts={"lines": len(segment.entries)},
                hashes={"segment": digest.hex()},
            )
    with runtime.database.connection() as connection:
        stored = transparency.signature(connection, digest)
    if stored is None:
        raise RemoteError(f"the key {label} of the public logs was revoked while it signed")
    return stored


def _replace(runtime: Runtime, path: str, content: bytes, etag: str | None) -> bool:
    try:
        runtime.blobs.replace(path, content, etag, content_type=CONTENT_TYPE, cache_control=CACHE_CONTROL)
    except ConflictError:
        return False
    return True


def _kept_changing(feed: FeedIndex) -> RemoteError:
    return RemoteError(f"the log of feed {feed.feed} was changed by others {_MOST_TRIES} times while it was written")
