"""Build a batch's unsigned files and stage them under their hash (rules K2, B8, B10; export.md 1 and 2.8)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial

from keyserver.audit import recorded
from keyserver.errors import ConflictError
from keyserver.export.claim import step
from keyserver.protocol.exportfile import (
    REPORT_TYPES,
    Header,
    KeyRun,
    Metadata,
    SignatureInfo,
    encode,
    end_timestamp,
    split,
)
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch, BatchSigningKey, Fate, StoredRun
from keyserver.store.files import File

logger = logging.getLogger(__name__)


def build(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `planned` to `built`; one without keys was settled before (`settle_if_empty`).

    Nothing here may depend on when or how often it runs: the rows no longer change, and the order is theirs.
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("built"):
            logger.info("%s was built before", batch)
            return
        runs, fates, signing_keys = _read(runtime, batch)
        encoded = _encode(batch, runs, signing_keys)
        for _, export_bin in encoded:
            stage(runtime, export_bin, "bin")
        _record(runtime, batch, [file for file, _ in encoded], fates)


def settle_if_empty(runtime: Runtime, batch_id: int) -> bool:
    """Bring a planned batch without keys to `empty`, and tell whether that was done (export.md 2.12)."""
    with step(runtime, batch_id) as batch:
        if batch.has_reached("built"):
            return False
        with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
            if batches.count_keys(connection, batch_id, most=1):
                return False
            fates = batches.fates(connection, batch_id)
        _record(runtime, batch, [], fates)
        return True


def stage(runtime: Runtime, data: bytes, suffix: str) -> None:
    """Put bytes into the staging area under their own hash: whoever stages them again finds them there."""
    path = staged_path(hashlib.sha256(data).digest(), suffix)
    put = partial(
        runtime.blobs.put_if_absent, path, data, content_type="application/octet-stream", cache_control="no-store"
    )
    try:
        put()
    except ConflictError:
        # Its name is its hash, so what lies there under it is damaged.
        runtime.blobs.delete(path)
        put()


def staged_path(sha256: bytes, suffix: str) -> str:
    """Name a staged file: nothing under ``staging/`` is served."""
    return f"staging/{sha256.hex()}.{suffix}"


def _read(runtime: Runtime, batch: Batch) -> tuple[list[KeyRun], dict[str, Fate], list[BatchSigningKey]]:
    """Read all that a batch is made of in one snapshot (K2)."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        # It never takes the audit chain's lock, so a large batch may take its time (A1).
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
        runs = [_run_of(stored) for stored in batches.key_runs(connection, batch.batch_id)]
        return runs, batches.fates(connection, batch.batch_id), batches.signing_keys(connection, batch.batch_id)


def _run_of(stored: StoredRun) -> KeyRun:
    report_type = None if stored.report_type is None else REPORT_TYPES[stored.report_type]
    metadata = Metadata(
        report_type, stored.transmission_risk, stored.days_since_onset, stored.interval_number, stored.interval_count
    )
    return KeyRun(metadata, stored.keys)


def _encode(batch: Batch, runs: Sequence[KeyRun], signing_keys: Sequence[BatchSigningKey]) -> list[tuple[File, bytes]]:
    """Make a batch's files: the record of each, and its bytes."""
    infos = tuple(SignatureInfo(key.key_id, key.key_version) for key in signing_keys)
    divided = split(runs, [], batch.max_keys)
    encoded = []
    for number, (keys, revised_keys) in enumerate(divided, start=1):
        header = Header(batch.starts_at, end_timestamp(batch.ends_at, number, len(divided)), batch.output_region, infos)
        export_bin = encode(header, keys, revised_keys)
        file = File(
            number,
            header.start,
            header.end,
            keys=sum(run.count for run in keys),
            revised_keys=sum(run.count for run in revised_keys),
            export_sha256=hashlib.sha256(export_bin).digest(),
        )
        encoded.append((file, export_bin))
    return encoded


def _record(runtime: Runtime, batch: Batch, built: Sequence[File], fates: dict[str, Fate]) -> None:
    counts = {name: fate.rows for name, fate in fates.items()}
    counts["synthetic"] = fates["released"].synthetic if "released" in fates else 0
    status = "built" if built else "empty"
    hashes = {f"export_bin_{file.number}": file.export_sha256.hex() for file in built}
    with recorded(runtime.database, runtime.actor) as work:
        batches.advance(work.connection, batch, status, run=runtime.actor.holder, counts=counts)
        for file in built:
            files.insert(work.connection, batch.batch_id, batch.feed_id, file)
        work.record(f"batch.{status}", {"batch": batch.batch_id, "feed": batch.feed}, counts=counts, hashes=hashes)
    logger.info("%s is %s: rows %s, files %s", batch, status, counts, hashes)
