"""Put a verified batch's files where phones download them (rules B7, B9)."""

from __future__ import annotations

import logging
from datetime import timedelta

from keyserver.errors import Superseded, VerificationError
from keyserver.export.claim import step
from keyserver.export.logline import say
from keyserver.export.signingkeys import keys_in_force
from keyserver.protocol.exportfile import FILE_CACHE_CONTROL, FILE_CONTENT_TYPE, public_path, staged_path
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch
from keyserver.store.database import Connection
from keyserver.store.files import File

logger = logging.getLogger(__name__)

_KEPT = timedelta(days=15)  # R2: an older file's object goes with its retention


def release(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `verified` to `released`: first all its files are put, never over another, then it is said."""
    with step(runtime, batch_id) as batch:
        if batch.has_reached("released"):
            logger.info("%s was released before", batch)
            return
        with runtime.database.transaction() as connection:
            verified = files.of_batch(connection, batch_id)
            _may_release(connection, runtime, batch)
        with keys_in_force(runtime, batch):
            logger.info("%s may be released: no key of it is revoked", batch)
        for file in verified:
            _put(runtime, batch, file)
        with keys_in_force(runtime, batch) as work:
            _may_release(work.connection, runtime, batch)
            batches.advance(work.connection, batch, "released", run=runtime.actor.holder)
            places = files.release(work.connection, batch_id, batch.feed_id)
            say(work, batch, "release")
            for file in verified:
                work.record(
                    "file.released",
                    {"batch": batch_id, "feed": batch.feed, "file": file.number, "name": file.name},
                    counts={"keys": file.keys, "revised_keys": file.revised_keys, "release_no": places[file.number]},
                    hashes={"export_bin": file.export_sha256.hex(), "zip": (file.zip_sha256 or b"").hex()},
                )
        for file in verified:
            logger.info(
                "%s: file %d is released as %s, %d keys, SHA-256 %s",
                batch,
                file.number,
                file.name,
                file.keys,
                (file.zip_sha256 or b"").hex(),
            )
        logger.info("what it was made of: keyserver export provenance %d", batch_id)


def remove_unlisted(runtime: Runtime) -> list[str]:
    """Remove public objects that no index lists or ever will; give the names of those that were there.

    A run that lost its batch between putting a file and saying so leaves one, if the batch is then held or withdrawn.
    What the database does not know, and what may still be released, is left alone.
    """
    with runtime.database.connection() as connection:
        names = files.unlisted(connection, _KEPT)
    roots = sorted({name.rpartition("/")[0] for name in names})
    there = {path for root in roots for path in runtime.blobs.list(public_path(f"{root}/"))}
    unlisted = [name for name in names if public_path(name) in there]
    for name in unlisted:
        runtime.blobs.delete(public_path(name))
        logger.warning("%s was in the store though no index lists it: it is removed", name)
    runtime.blobs.purge([public_path(name) for name in unlisted])
    return unlisted


def _may_release(connection: Connection, runtime: Runtime, batch: Batch) -> None:
    """Stop here when the feed was paused, or the claim lost, since the run began: what is public stays public (B11)."""
    if files.lock_feed(connection, batch.feed_id):
        raise Superseded(f"feed {batch.feed} is paused: {batch} waits until it is resumed")
    if batches.read(connection, batch.batch_id).claimed_by != runtime.actor.holder:
        raise Superseded(f"{batch} was taken over by another run")


def _put(runtime: Runtime, batch: Batch, file: File) -> None:
    if file.name is None or file.zip_sha256 is None:
        raise VerificationError(f"{batch}: file {file.number} was never signed")
    data = runtime.blobs.read(staged_path(file.zip_sha256, "zip")).data
    runtime.blobs.put_if_absent(
        public_path(file.name), data, content_type=FILE_CONTENT_TYPE, cache_control=FILE_CACHE_CONTROL
    )
