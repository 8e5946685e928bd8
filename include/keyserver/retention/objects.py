"""Delete the objects of files whose lines left the index long enough ago: the second of two phases (rule R2)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from keyserver.audit import recorded
from keyserver.errors import KeyserverError, RemoteError
from keyserver.protocol.exportfile import INDEX_NAME, public_path
from keyserver.protocol.retention import GRACE
from keyserver.providers.blobs import BlobMissingError
from keyserver.runtime import Runtime
from keyserver.store import retention
from keyserver.store.retention import DueObject

logger = logging.getLogger(__name__)

_FILES_AT_ONCE = 100


def delete_objects(runtime: Runtime) -> int:
    """Delete what is due from the store and the CDN, and bring its files from `expired` to `deleted`; give a number.

    An object that the index in the store still names stays, and so does one that cannot be deleted; neither keeps the
    others from it. Objects of files that are listed nowhere and never will be go too: a run that lost its batch may
    have put one late.

    Raises, at the end:
        RemoteError: an index was not written yet, or the store failed.
        ConfigurationError: the process may not delete.
    """
    with runtime.database.connection() as connection:
        due = retention.objects_due(connection, GRACE)
    listed = _listed(runtime, {file.root for file in due})
    failed: list[KeyserverError] = [
        RemoteError(f"the index of feed {file.feed} still lists {file.name}: it stays in the store")
        for file in due
        if file.name in listed
    ]
    free = [file for file in due if file.name not in listed]
    deleted = 0
    for at in range(0, len(free), _FILES_AT_ONCE):
        gone = list(_deleted(runtime, free[at : at + _FILES_AT_ONCE], failed))
        _purge(runtime, [file.name for file in gone])
        deleted += _record(runtime, gone)
    logger.info("%d files are deleted from the store", deleted)
    _purge(runtime, _remove_strays(runtime))
    for problem in failed:
        logger.error("ALERT: an old file is not deleted: %s", problem)
    if failed:
        raise next((problem for problem in failed if not isinstance(problem, RemoteError)), failed[0])
    return deleted


def _listed(runtime: Runtime, roots: Iterable[str]) -> set[str]:
    """Read the indexes as they are in the store."""
    names: set[str] = set()
    for root in sorted(roots):
        try:
            content = runtime.blobs.read(public_path(f"{root}/{INDEX_NAME}")).data
        except BlobMissingError:
            continue
        names.update(content.decode("ascii", "replace").split("\n"))
    return names


def _deleted(runtime: Runtime, files: list[DueObject], failed: list[KeyserverError]) -> Iterator[DueObject]:
    """Give the files whose objects are gone; note what failed."""
    for file in files:
        try:
            runtime.blobs.delete(public_path(file.name))
        except KeyserverError as error:
            failed.append(error)
        else:
            yield file


def _remove_strays(runtime: Runtime) -> list[str]:
    prefix = public_path("")
    names = [path.removeprefix(prefix) for path in runtime.blobs.list(prefix)]
    with runtime.database.connection() as connection:
        strays = retention.strays(connection, names)
    for name in strays:
        runtime.blobs.delete(public_path(name))
        logger.warning("%s was in the store though no index lists it: it is removed", name)
    return strays


def _purge(runtime: Runtime, names: list[str]) -> None:
    if names:
        runtime.blobs.purge([public_path(name) for name in names])


def _record(runtime: Runtime, files: list[DueObject]) -> int:
    with recorded(runtime.database, runtime.actor) as work:
        deleted = [file for file in files if retention.set_deleted(work.connection, file.batch_id, file.number)]
        for file in deleted:
            work.record(
                "file.deleted",
                {"batch": file.batch_id, "feed": file.feed, "file": file.number, "name": file.name},
                hashes={"zip": file.zip_sha256.hex()},
            )
    return len(deleted)
