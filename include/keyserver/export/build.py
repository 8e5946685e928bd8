"""Build a batch's unsigned files and stage them under their hash (rules K2, K3, A6, B8, B10; export.md 1 and 2.8)."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from keyserver.audit import Subject, recorded
from keyserver.errors import ConflictError, RemoteError
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
    staged_path,
)
from keyserver.runtime import Runtime
from keyserver.store import batches, deletions, files
from keyserver.store.batches import Batch, BatchSigningKey, Carriers, Contents, StoredRun
from keyserver.store.database import Connection
from keyserver.store.files import File
from keyserver.version import code_version

logger = logging.getLogger(__name__)
_READERS = 2  # connections that group a batch's rows at once


def build(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `planned` to `built`; one that holds nothing was settled before (`settle_if_empty`).

    Nothing here may depend on when or how often it runs: the rows no longer change, and the order is theirs. Only
    which batches are out may: that is written down with the batch (K3).
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("built"):
            logger.info("%s was built before", batch)
            return
        built = []
        with _reading(runtime, batch) as read:
            for file, export_bin in _encoded(batch, read):
                stage(runtime, export_bin, "bin")
                built.append(file)
        _record(runtime, batch, built, read.counts, read.carriers)


def rebuild(runtime: Runtime, batch_id: int) -> list[tuple[File, bytes]]:
    """Make a batch's files again from the database, as they were built: the record of each, and its export.bin (B8).

    Nothing is staged or written. Raises `ConflictError` when the batch was never built.
    """
    with runtime.database.connection() as connection:
        batch = batches.read(connection, batch_id)
    if batch.carriers is None:
        raise ConflictError(f"{batch} is {batch.status}: it was never built")
    with _reading(runtime, batch) as read:
        return list(_encoded(batch, read))


def settle_if_empty(runtime: Runtime, batch_id: int) -> bool:
    """Bring a planned batch that holds nothing to `empty`, and tell whether that was done (export.md 2.12)."""
    with step(runtime, batch_id) as batch:
        if batch.has_reached("built"):
            return False
        with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
            carriers = batches.carriers(connection, batch_id)
            if batches.count_keys(connection, batch_id, most=1) or batches.count_revised_keys(
                connection, batch_id, carriers, most=1
            ):
                return False
            counts = {fate: found.rows for fate, found in batches.fates(connection, batch_id).items()}
            counts |= {"synthetic": 0} | batches.revision_fates(connection, batch_id, carriers)
            counts |= _deleted_on_demand(connection, batch)
        _record(runtime, batch, [], counts, carriers)
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


@dataclass(slots=True)
class _Reading:
    """What a batch is made of, read as it is asked for: first the keys, then the revised ones.

    ``counts`` says by reason what became of every row and every revision of the span (A6); whole when both are read.
    """

    connections: list[Connection]
    batch: Batch
    carriers: Carriers
    signing_keys: list[BatchSigningKey]
    counts: Counter[str]

    def keys(self) -> Iterator[KeyRun]:
        return self._counted(batches.key_runs(self.connections, self.batch.batch_id))

    def revised_keys(self) -> Iterator[KeyRun]:
        return self._counted(batches.revised_key_runs(self.connections[0], self.batch.batch_id, self.carriers))

    def _counted(self, runs: Iterable[StoredRun]) -> Iterator[KeyRun]:
        for _, alike in groupby(runs, StoredRun.place):
            released = []
            for run in alike:
                self.counts[run.fate] += run.rows
                if run.keys is not None:
                    self.counts["synthetic"] += run.synthetic
                    released.append(run)
            if released:
                yield KeyRun.of(_metadata(released[0]), b"".join(run.keys or b"" for run in released))


@contextmanager
def _reading(runtime: Runtime, batch: Batch) -> Iterator[_Reading]:
    """Read a batch in one snapshot (K2); its carriers as they were fixed when it was built, else as they are (K3)."""
    with runtime.database.snapshot(_READERS) as connections:
        if batch.carriers is None or batch.withdrawn_carriers is None:
            carriers = batches.carriers(connections[0], batch.batch_id)
        else:
            carriers = Carriers(batch.carriers, batch.withdrawn_carriers)
        signing_keys = batches.signing_keys(connections[0], batch.batch_id)
        counts = Counter({"synthetic": 0, **_deleted_on_demand(connections[0], batch)})
        yield _Reading(connections, batch, carriers, signing_keys, counts)


def _deleted_on_demand(connection: Connection, batch: Batch) -> dict[str, int]:
    """Count what was deleted of the windows of a batch's span because somebody asked for it; nothing where none was."""
    deleted = deletions.of_span(connection, batch.starts_at, batch.ends_at)
    counts = {"deleted_on_demand": deleted.keys, "revised_deleted_on_demand": deleted.revisions}
    return {what: number for what, number in counts.items() if number}


def _metadata(run: StoredRun) -> Metadata:
    report_type = None if run.report_type is None else REPORT_TYPES[run.report_type]
    return Metadata(report_type, run.transmission_risk, run.days_since_onset, run.interval_number, run.interval_count)


def _encoded(batch: Batch, read: _Reading) -> Iterator[tuple[File, bytes]]:
    """Make a batch's files, one at a time: the record of each, and its bytes."""
    infos = tuple(SignatureInfo(key.key_id, key.key_version) for key in read.signing_keys)
    used = batch.end_offset if batch.supplement else None
    files_of_batch = split(read.keys(), read.revised_keys(), batch.max_keys)
    number, following = 0, next(files_of_batch, None)
    while following is not None:
        (keys, revised_keys), following = following, next(files_of_batch, None)
        number += 1
        is_split = number > 1 or following is not None
        end = end_timestamp(batch.ends_at, number, split=is_split, used=used)
        header = Header(batch.starts_at, end, batch.output_region, infos)
        export_bin = encode(header, keys, revised_keys)
        file = File(
            number,
            header.start,
            header.end,
            keys=sum(run.count for run in keys),
            revised_keys=sum(run.count for run in revised_keys),
            export_sha256=hashlib.sha256(export_bin).digest(),
        )
        yield file, export_bin


def _record(
    runtime: Runtime, batch: Batch, built: Sequence[File], counts: Mapping[str, int], carriers: Carriers
) -> None:
    status = "built" if built else "empty"
    hashes = {f"export_bin_{file.number}": file.export_sha256.hex() for file in built}
    with recorded(runtime.database, runtime.actor) as work:
        # A withdrawal locks the feed too: what was out when this was read still is when it is written down (K3).
        files.lock_feed(work.connection, batch.feed_id)
        if batches.carriers(work.connection, batch.batch_id) != carriers:
            raise RemoteError(f"a batch of feed {batch.feed} was withdrawn while {batch} was built: it is built again")
        # A deletion locks the batch, too: it comes after this and finds it built, or came before and is seen here (R5).
        batches.lock(work.connection, batch.batch_id)
        if not _deleted_on_demand(work.connection, batch).items() <= counts.items():
            raise RemoteError(f"keys were deleted on demand while {batch} was built: it is built again without them")
        batches.advance(work.connection, batch, status, run=runtime.actor.holder)
        contents = Contents(counts, carriers, code_version())
        batches.settle_contents(work.connection, batch.batch_id, contents)
        for file in built:
            files.insert(work.connection, batch.batch_id, batch.feed_id, file)
        subject: Subject = {
            "batch": batch.batch_id,
            "feed": batch.feed,
            "code": contents.code_version,
            "carriers": ", ".join(map(str, carriers.released)),
            "withdrawn_carriers": ", ".join(map(str, carriers.withdrawn)),
        }
        work.record(f"batch.{status}", subject, counts=counts, hashes=hashes)
    logger.info("%s is %s: rows %s, files %s", batch, status, dict(counts), hashes)
