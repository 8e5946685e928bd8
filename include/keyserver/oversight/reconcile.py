"""Bring the store in line with a database that was restored from a backup, and say so for good (rules A3, B9).

What the database does not know it can never take back or let expire, so it goes. But the public log is not destroyed:
its segments are moved aside and stay public, and an audit event tells of them. What was withdrawn since the backup is
withdrawn again. `settle` may be run again at any time: one that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from keyserver.audit import Subject, recorded
from keyserver.errors import ConflictError, RemoteError
from keyserver.oversight.restored import SERVED, Findings, RootFindings, read_segment
from keyserver.oversight.wording import counted
from keyserver.protocol.exportfile import (
    FILE_CACHE_CONTROL,
    FILE_CONTENT_TYPE,
    index_content,
    public_path,
    staged_path,
)
from keyserver.protocol.transparency import (
    CACHE_CONTROL,
    CONTENT_TYPE,
    NOTHING,
    Head,
    archive_list_name,
    archived_name,
    list_name,
    segment_name,
    sha256,
)
from keyserver.providers.blobs import BlobMissingError
from keyserver.runtime import Runtime
from keyserver.store import reconciliation
from keyserver.store.reconciliation import KnownFile

logger = logging.getLogger(__name__)

RESTORED = "database.restored"
RECONCILED = "store.reconciled"

_MOST_TRIES = 10


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last that a log said, as whoever reads it writes it down, and the newest head of the audit chain in it."""

    day: date
    lines: int
    sha256: bytes
    head: Head | None


@dataclass(frozen=True, slots=True)
class Hands:
    """What others do for `settle`; each is safe to run again.

    ``withdraw``: take a batch's lines out of the index and its files out of the store; ``replace``: plan a batch in
    place of one that is withdrawn, and give its number; ``write_indexes``: write each as the database has it.
    """

    withdraw: Callable[[int, str], None]
    replace: Callable[[int, str], int]
    write_indexes: Callable[[], int]


def settle(runtime: Runtime, found: Findings, hands: Hands) -> list[str]:
    """Make the store what the database knows, and say so in the audit trail; give what was done, a sentence each.

    In this order, so that no index ever names a missing file and nothing of the log is lost: the log's segments are
    copied aside and listed there; the audit events are appended; files that were withdrawn before are withdrawn again,
    missing ones put back from the staging area; indexes are written; then unknown objects and the old segments go.
    """
    done: list[str] = []
    for root in (root for root in found.roots if root):
        archives = _archive(runtime, root)
        _record(runtime, root, archives)
        done += [f"{root.root}: its log before the restore lies in {archive}." for archive in archives]
    for root in found.roots:
        done += _mend_files(runtime, root, found.kept_from, hands)
    hands.write_indexes()
    for root in found.roots:
        _take_out_of_log(runtime, root)
        done += _remove(runtime, root.root, root.unknown)
    return [*done, *_remove(runtime, "objects of no feed", found.others)]


# The public log


def _archive(runtime: Runtime, found: RootFindings) -> list[str]:
    """Copy the segments aside and list them there; give the archives of which an event has to tell."""
    archive = found.archive
    if archive is None:
        return found.declared_never
    names = []
    for segment in found.log:
        names.append(archived_name(archive, segment.day))
        runtime.blobs.put_if_absent(public_path(names[-1]), segment.content, CONTENT_TYPE, CACHE_CONTROL)
    path = public_path(archive_list_name(found.root))
    _rewrite(runtime, path, lambda listed: [*listed, *(name for name in names if name not in listed)])
    return [*found.declared_never, archive]


def _rewrite(runtime: Runtime, path: str, change: Callable[[list[str]], list[str]]) -> None:
    """Write a list of segments anew, from what it says; no other's change is lost."""
    for _ in range(_MOST_TRIES):
        try:
            blob = runtime.blobs.read(path)
            listed, etag = blob.data.decode("ascii", "replace").splitlines(), blob.etag
        except BlobMissingError:
            listed, etag = [], None
        if (changed := change(listed)) == listed:
            return
        try:
            runtime.blobs.replace(path, index_content(changed), etag, CONTENT_TYPE, CACHE_CONTROL)
        except ConflictError:
            continue
        return
    raise RemoteError(f"{path} was changed by others {_MOST_TRIES} times while it was written")


def _take_out_of_log(runtime: Runtime, found: RootFindings) -> None:
    """Shorten the log to what the database knows: first its list, then the segments, the newest last."""
    if not found.log:
        return
    path = public_path(list_name(found.root))
    _rewrite(runtime, path, lambda _: [segment_name(found.root, segment.day) for segment in found.before])
    paths = [public_path(segment_name(found.root, segment.day)) for segment in found.log]
    for old in paths:
        runtime.blobs.delete(old)
    if found.feed is None:
        runtime.blobs.delete(path)
    runtime.blobs.purge([*paths, path])


def _checkpoint(runtime: Runtime, found: RootFindings, archive: str) -> tuple[Checkpoint, int]:
    """Say what the last was that an archived log said; and how many of its segments lie in the archive."""
    prefix = public_path(f"{archive}/")
    archived = []
    for path in runtime.blobs.list(prefix):
        try:
            day = date.fromisoformat(path.removeprefix(prefix).removesuffix(".txt"))
        except ValueError:
            continue
        if (segment := read_segment(runtime, path.removeprefix("public/"), day)) is not None:
            archived.append(segment)
    if not archived:
        raise ConflictError(f"there is no segment in {archive}, of which an audit event should tell")
    newest = archived[-1]
    earlier = [segment for segment in found.before if segment.day < archived[0].day]
    heads = [segment.parsed.head for segment in [*earlier, *archived] if segment.parsed and segment.parsed.head]
    checkpoint = Checkpoint(newest.day, newest.text.count(b"\n"), sha256(newest.text), heads[-1] if heads else None)
    return checkpoint, len(archived)


def _record(runtime: Runtime, found: RootFindings, archives: Sequence[str]) -> None:
    """Say once of each archive what the last was that the public log said, and what will be done to the store."""
    told = [(archive, *_checkpoint(runtime, found, archive)) for archive in archives]
    removed = len(found.unknown)
    with recorded(runtime.database, runtime.actor) as work:
        declared = reconciliation.declared(work.connection, archives)
        for archive, last, segments in told:
            if archive in declared:
                continue
            subject: Subject = {
                "feed": found.feed,
                "root": found.root,
                "day": last.day.isoformat(),
                "archive": archive,
            }
            head = last.head
            work.record(
                RESTORED,
                subject,
                counts={"lines": last.lines, "head_seq": head.seq if head else 0, "segments": segments},
                hashes={"segment": last.sha256.hex(), "head": (head.sha256 if head else NOTHING).hex()},
            )
        counts = {
            "removed": removed,
            "altered": len(found.altered),
            "missing": len(found.missing),
            "withdrawn_again": len(found.withdrawn_before),
        }
        if any(counts.values()):
            work.record(RECONCILED, {"feed": found.feed, "root": found.root}, counts=counts)


# Files


def _mend_files(runtime: Runtime, found: RootFindings, kept_from: datetime, hands: Hands) -> Iterator[str]:
    for batch_id in found.withdrawn_before:
        hands.withdraw(batch_id, "it was withdrawn before the database was restored")
        yield (
            f"Batch {batch_id} is withdrawn again. If its keys had been released again since:"
            f" `keyserver export replace {batch_id}`."
        )
    for file in found.altered:
        runtime.blobs.delete(public_path(file.name))
        runtime.blobs.purge([public_path(file.name)])
    lacking: dict[int, bool] = {}
    for file in [*found.altered, *found.missing]:
        if file.batch_id in found.withdrawn_before or file.status not in SERVED:
            continue
        if file.starts_at <= kept_from:
            yield f"{file.name} is too old: enforce_retention takes it out of the index."
            continue
        # What the log does not vouch for may have been taken away on purpose: that is for the operator to say.
        is_meant = file.name in found.still_out
        if is_meant and _put_back(runtime, file):
            yield f"{file.name} is put back."
        elif file.status == "released":
            lacking[file.batch_id] = lacking.get(file.batch_id, True) and is_meant
    for batch_id, is_meant in sorted(lacking.items()):
        hands.withdraw(batch_id, "its files were lost")
        if is_meant:
            planned = hands.replace(batch_id, "its files were lost")
            yield f"Batch {batch_id} is withdrawn, its files are lost; batch {planned} is planned in its place."
        else:
            yield (
                f"Batch {batch_id} is withdrawn: its files are not there, and no public log says that they should be."
                f" If they should, `keyserver export replace {batch_id}` releases its keys again."
            )


def _put_back(runtime: Runtime, file: KnownFile) -> bool:
    try:
        data = runtime.blobs.read(staged_path(file.zip_sha256, "zip")).data
    except BlobMissingError:
        return False
    if hashlib.sha256(data).digest() != file.zip_sha256:
        return False
    runtime.blobs.put_if_absent(public_path(file.name), data, FILE_CONTENT_TYPE, FILE_CACHE_CONTROL)
    return True


def _remove(runtime: Runtime, of: str, names: Sequence[str]) -> Iterator[str]:
    """Remove objects, an index before the files that it names; give a sentence if there were any."""
    if not names:
        return
    paths = [public_path(name) for name in sorted(names, key=lambda name: (not name.endswith("/index.txt"), name))]
    for path in paths:
        runtime.blobs.delete(path)
        logger.warning("%s is removed: the database does not know it", path)
    runtime.blobs.purge(paths)
    yield f"{of}: {counted(len(paths), 'object')} that the database does not know removed."
