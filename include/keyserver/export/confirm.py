"""Fetch what was released through the public URL and read it as a phone does: the end of every release.

What is wrong with a file takes nothing back: that is for an operator to decide (`withdraw`). A file that could not be
fetched, or was not as it should be, stays to be looked at: by the next try, and by every later run.
"""

from __future__ import annotations

import hashlib
import logging

from keyserver.audit import recorded
from keyserver.device import client, exportreader
from keyserver.errors import KeyserverError, RemoteError, VerificationError
from keyserver.protocol.signature import load_public_key
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch
from keyserver.store.files import File

logger = logging.getLogger(__name__)


def confirm(runtime: Runtime) -> int:
    """Look at each released file that nobody has looked at yet, of this run or an earlier one; give their number.

    The index that phones get lists it, its bytes are those that were released, and a phone accepts them. One batch does
    not keep another from it: errors are raised at the end, first one that no retry heals.

    Raises:
        RemoteError: something did not answer, or not yet as it should.
        FormatError: a phone cannot read the index or a file.
        VerificationError: a phone refuses a file, or gets other bytes than were released.
    """
    if runtime.public_url_or_none is None:
        logger.warning("nobody looks at what phones get: KEYSERVER_PUBLIC_URL is not set")
        return 0
    with runtime.database.connection() as connection:
        waiting = files.unconfirmed(connection)
    confirmed = 0
    failed: list[KeyserverError] = []
    for batch_id in waiting:
        try:
            confirmed += _confirm_batch(runtime, batch_id)
        except KeyserverError as error:
            logger.error("ALERT: phones do not get what was released: %s", error)
            failed.append(error)
    if failed:
        raise next((error for error in failed if not isinstance(error, RemoteError)), failed[0])
    logger.info("%d released files were fetched and verified as a phone does", confirmed)
    return confirmed


def _confirm_batch(runtime: Runtime, batch_id: int) -> int:
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = batches.read(connection, batch_id)
        signing_keys = batches.signing_keys(connection, batch_id)
        released = [file for file in files.of_batch(connection, batch_id) if _is_waiting(file)]
    trusted = {(key.key_id, key.key_version): load_public_key(key.public_key) for key in signing_keys}
    try:
        lines = client.fetch_index(f"{runtime.public_url}{batch.root}/index.txt")
        for file in released:
            exportreader.verify(_fetch(runtime, batch, file, lines), trusted)
    except KeyserverError:
        if not _still_waits(runtime, batch_id):
            logger.info("%s was withdrawn, or looked at by another run, meanwhile", batch)
            return 0
        raise
    with recorded(runtime.database, runtime.actor) as work:
        seen = [file for file in released if files.confirm(work.connection, batch_id, file.number)]
        for file in seen:
            work.record(
                "file.confirmed",
                {"batch": batch_id, "feed": batch.feed, "file": file.number, "name": file.name},
                hashes={"zip": (file.zip_sha256 or b"").hex()},
            )
    return len(seen)


def _fetch(runtime: Runtime, batch: Batch, file: File, lines: list[str]) -> bytes:
    name = file.name or ""
    if name not in lines:
        raise RemoteError(f"the index of feed {batch.feed}, as phones get it, does not list {name} yet")
    data = client.fetch_file(runtime.public_url, name)
    if hashlib.sha256(data).digest() != file.zip_sha256:
        raise VerificationError(f"{name} of {batch}, as phones get it, has other bytes than were released")
    return data


def _is_waiting(file: File) -> bool:
    return file.status == "released" and file.confirmed_at is None


def _still_waits(runtime: Runtime, batch_id: int) -> bool:
    with runtime.database.connection() as connection:
        return any(_is_waiting(file) for file in files.of_batch(connection, batch_id))
