"""Take a released batch's files back: out of the index, then out of the store and the CDN (rules B5, B6, K3).

`withdraw` and `finish` are two steps; each looks where the batch stands and can be run again at any time. What becomes
of its keys is decided after them: `replace.replace` releases them again, `for_good` drops them.
"""

from __future__ import annotations

import logging

from keyserver.audit import checked_reason, recorded
from keyserver.device import client
from keyserver.errors import ConflictError, RemoteError
from keyserver.export import index, replace
from keyserver.export.logline import say
from keyserver.export.markdown import escaped
from keyserver.protocol.exportfile import public_path
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch
from keyserver.store.files import FeedIndex, File

logger = logging.getLogger(__name__)

_GONE = (404, 410)

_APPROVAL = """\
Withdraw **{batch}** ({start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, now {status}): files {files}, keys {keys},
revised keys {revised_keys}.

Reason given: {reason}

{names}

What a withdrawal cannot do, and what it does to phones:

* **Confirmed matches on phones cannot be recalled.** Who was warned because of these files stays warned.
* Phones that remember one of these lines as the last that they read do not find it, and read the whole index again.
* A phone that has read the index just before may ask for a file that is gone.

Revisions that this batch alone carried: **{revisions}**. A batch in its place tells phones of them, whether it has the
keys again or not; if they are dropped with it, nothing does.
"""


def withdraw(runtime: Runtime, batch_id: int, reason: str) -> None:
    """Bring a batch from `released` to `withdrawing` and take its lines out of the index. The first of two steps.

    Raises:
        FormatError: the reason is none (`checked_reason`).
        ConflictError: the batch was never released.
    """
    reason = checked_reason(reason)
    batch, feed, _ = _read(runtime, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        # Who builds a batch meanwhile takes this lock too, and sees that the carrier of its revisions is gone (K3).
        files.lock_feed(work.connection, batch.feed_id)
        batch = batches.lock(work.connection, batch_id)
        withdrawn = files.of_batch(work.connection, batch_id)
        if batch.status == "released":
            batches.settle(work.connection, batch, "withdrawing", reason)
            lines = files.begin_withdrawal(work.connection, batch_id)
            say(work, batch, "withdrawal")
            work.record(
                "batch.withdrawing",
                {"batch": batch_id, "feed": batch.feed, "reason": reason},
                counts={"files": len(withdrawn), "lines": lines},
                hashes={f"zip_{file.number}": (file.zip_sha256 or b"").hex() for file in withdrawn},
            )
        else:
            _must_be_withdrawn(batch)
    index.write(runtime, feed)
    logger.info("the index of feed %s lists no file of %s", batch.feed, batch)


def finish(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `withdrawing` to `withdrawn`: its objects leave the store and the CDN. The second step.

    Raises:
        ConflictError: it is not being withdrawn.
        RemoteError: a public URL does not answer 404 or 410 yet. The objects are deleted by then; run it again.
        ConfigurationError: there is no public URL to look at.
    """
    batch, feed, withdrawn = _read(runtime, batch_id)
    _must_be_withdrawn(batch)
    if batch.status == "withdrawn":
        logger.info("%s was withdrawn before", batch)
        return
    index.write(runtime, feed)  # no index names what is missing
    names = [file.name for file in withdrawn if file.name is not None]
    for name in names:
        runtime.blobs.delete(public_path(name))
    runtime.blobs.purge([public_path(name) for name in (*names, f"{feed.root}/index.txt")])
    _must_be_gone(runtime, batch, names)
    with recorded(runtime.database, runtime.actor) as work:
        files.lock_feed(work.connection, batch.feed_id)
        batch = batches.lock(work.connection, batch_id)
        if batch.status == "withdrawn":
            return
        batches.settle(work.connection, batch, "withdrawn")
        files.end_withdrawal(work.connection, batch_id)
        work.record("batch.withdrawn", {"batch": batch_id, "feed": batch.feed}, counts={"files": len(names)})
    logger.info("%s is withdrawn: the public URLs of its %d files say so", batch, len(names))


def for_good(runtime: Runtime, batch_id: int, reason: str, *, keep_revisions: bool = True) -> int | None:
    """Drop the keys of a batch that is withdrawn; give the batch that tells the revisions which it alone carried (K3).

    None when there are none, or ``keep_revisions`` is False and they are dropped too.

    Raises:
        FormatError: the reason is none.
        ConflictError: the batch was not withdrawn, or it was replaced otherwise.
    """
    checked_reason(reason)
    batch, _, _ = _read(runtime, batch_id)
    _must_be_withdrawn(batch)
    if not keep_revisions:
        logger.warning("%s is dropped, with the revisions that it alone carried", batch)
        return None
    return replace.replace_for_its_revisions(runtime, batch_id, reason)


def approval_text(runtime: Runtime, batch_id: int, reason: str) -> str:
    """Say, in Markdown, what an operator is about to approve: what is taken back, and what cannot be (B5).

    Raises `FormatError` when the reason is none, `ConflictError` when the batch was never released.
    """
    reason = checked_reason(reason)
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = batches.read(connection, batch_id)
        if batch.status != "released":
            _must_be_withdrawn(batch)
        withdrawn = files.of_batch(connection, batch_id)
        revisions = replace.revisions_alone_carried(connection, batch)
    return _APPROVAL.format(
        batch=batch,
        start=batch.starts_at,
        end=batch.ends_at,
        status=batch.status,
        files=len(withdrawn),
        keys=sum(file.keys for file in withdrawn),
        revised_keys=sum(file.revised_keys for file in withdrawn),
        reason=escaped(reason),
        names="\n".join(f"* `{file.name}`" for file in withdrawn),
        revisions=revisions,
    )


def _read(runtime: Runtime, batch_id: int) -> tuple[Batch, FeedIndex, list[File]]:
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = batches.read(connection, batch_id)
        return batch, files.feed(connection, batch.feed_id), files.of_batch(connection, batch_id)


def _must_be_withdrawn(batch: Batch) -> None:
    if batch.status not in ("withdrawing", "withdrawn"):
        what_to_do = ": it was never released; reject it" if batch.status == "held" else ""
        raise ConflictError(f"{batch} is {batch.status}, not released and withdrawn{what_to_do}")


def _must_be_gone(runtime: Runtime, batch: Batch, names: list[str]) -> None:
    """Look at the public URLs as a phone does."""
    answered = {
        name: client.exchange("GET", runtime.public_url + name, f"the file {name}", client.MAX_FILE_SIZE, None)[0]
        for name in names
    }
    there = {name: status for name, status in answered.items() if status not in _GONE}
    if there:
        name, status = next(iter(there.items()))
        raise RemoteError(
            f"{len(there)} of {len(names)} public URLs of {batch} do not answer 404 or 410 yet: {name} is answered by"
            f" status {status}. Its objects are out of the store; purge the CDN's cache if this stays so"
        )
