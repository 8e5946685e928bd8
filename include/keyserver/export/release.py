"""Put a verified batch's files where phones download them (rules B7, B9)."""

from __future__ import annotations

import logging

from keyserver.audit import recorded
from keyserver.errors import Superseded, VerificationError
from keyserver.export.build import staged_path
from keyserver.export.claim import step
from keyserver.protocol.exportfile import FILE_CACHE_CONTROL, FILE_CONTENT_TYPE
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch
from keyserver.store.database import Connection
from keyserver.store.files import File

logger = logging.getLogger(__name__)


def release(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `verified` to `released`: first all its files are put, never over another, then it is said."""
    with step(runtime, batch_id) as batch:
        if batch.has_reached("released"):
            logger.info("%s was released before", batch)
            return
        with runtime.database.transaction() as connection:
            verified = files.of_batch(connection, batch_id)
            _may_release(connection, runtime, batch)
        for file in verified:
            _put(runtime, batch, file)
        with recorded(runtime.database, runtime.actor) as work:
            _may_release(work.connection, runtime, batch)
            batches.advance(work.connection, batch, "released", run=runtime.actor.holder)
            places = files.release(work.connection, batch_id, batch.feed_id)
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


def public_path(name: str) -> str:
    """Name an object as the web server's folder has it: ``name`` is as the index lists it."""
    return f"public/{name}"


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
