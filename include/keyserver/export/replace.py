"""Plan a batch in place of another: the one way back that there is (rules B1, K3)."""

from __future__ import annotations

import logging

from keyserver.audit import Subject, Work, checked_reason, recorded
from keyserver.errors import ConflictError, RemoteError
from keyserver.export import index
from keyserver.protocol.exposure import MAX_AGE
from keyserver.runtime import Runtime
from keyserver.store import batches, files, plans
from keyserver.store.batches import Batch, Carriers, Replacement
from keyserver.store.database import Connection

logger = logging.getLogger(__name__)

_ALL = 2**31 - 1


def replace(runtime: Runtime, batch_id: int, reason: str, *, with_keys: bool | None = None) -> int:
    """Plan a batch of the same span and rules in place of one that is rejected or withdrawn; give its id.

    ``with_keys`` says whether it has the span's keys or only tells the revisions of the span; by default it is as the
    batch that it replaces. One that is withdrawing may be replaced as soon as its lines are out of the index, which is
    seen to here (B5); so may a batch without keys that turned out to be empty. When the batch was replaced so before,
    that batch's id is given and nothing changes.

    Raises:
        FormatError: the reason is none (`checked_reason`).
        ConflictError: the batch stands elsewhere, or was replaced otherwise.
        RemoteError: somebody else has just moved it.
    """
    reason = checked_reason(reason)
    batch = _lines_taken_out(runtime, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        batch = _locked_as_seen(work.connection, batch)
        asked = batches.decision(work.connection, batch_id).with_keys if with_keys is None else with_keys
        planned = _planned_before(work.connection, batch, with_keys=asked)
        return planned or plan(work, batch, Replacement(asked, reason))


def replace_for_its_revisions(runtime: Runtime, batch_id: int, reason: str) -> int | None:
    """Drop a withdrawn batch's keys for good: plan a batch without keys if there are revisions that it alone carried.

    As `replace` otherwise; None when there is no such revision, and nothing to plan (K3).
    """
    reason = checked_reason(reason)
    batch = _lines_taken_out(runtime, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        batch = _locked_as_seen(work.connection, batch)
        planned = _planned_before(work.connection, batch, with_keys=False)
        if planned is None and not revisions_alone_carried(work.connection, batch):
            logger.info("%s alone carried no revision: no batch is planned in its place", batch)
            return None
        return planned or plan(work, batch, Replacement(with_keys=False, reason=reason))


def revisions_alone_carried(connection: Connection, batch: Batch) -> int:
    """Count the revisions that phones learn from this batch and from no other: what is lost if it is dropped (K3)."""
    out, itself = batches.carriers(connection, batch.batch_id), {batch.batch_id}
    released = set(out.released)
    others = Carriers(sorted(released - itself), sorted({*out.withdrawn} | (released & itself)))
    return batches.count_revised_keys(connection, batch.batch_id, others, most=_ALL)


def locked(connection: Connection, batch: Batch) -> Batch:
    """Lock what planning needs, in the order in which closing takes it: clock, feed, batch. Give the batch as it is."""
    batches.lock_release_clock(connection)
    files.lock_feed(connection, batch.feed_id)
    return batches.lock(connection, batch.batch_id)


def plan(work: Work, batch: Batch, replacement: Replacement) -> int:
    """Plan a batch in place of a `locked` one, in its transaction; give its id."""
    planned = batches.plan_replacing(work.connection, batch.batch_id, replacement, MAX_AGE)
    subject: Subject = {
        "batch": planned,
        "feed": batch.feed,
        "start": batch.starts_at.isoformat(),
        "end": batch.ends_at.isoformat(),
        "replaces": batch.batch_id,
        "reason": replacement.reason,
        "approved": ", ".join(replacement.approved),
    }
    hashes = {"plan": plans.plan(work.connection, planned).sha256.hex()}
    work.record("batch.planned", subject, counts={"with_keys": int(replacement.with_keys)}, hashes=hashes)
    logger.info("batch %d is planned in place of %s", planned, batch)
    return planned


def _lines_taken_out(runtime: Runtime, batch_id: int) -> Batch:
    """Read a batch; if it is withdrawing, see to it that no index lists its files any more (B5)."""
    with runtime.database.connection() as connection:
        batch = batches.read(connection, batch_id)
        feed = files.feed(connection, batch.feed_id)
    if batch.status == "withdrawing":
        index.write(runtime, feed)
    return batch


def _planned_before(connection: Connection, batch: Batch, *, with_keys: bool) -> int | None:
    """Give the batch that replaces this one already, None when one may be planned.

    Raises `ConflictError` when none may; when that one is of the other kind; or when it is itself rejected or
    withdrawn, and so the one to replace.
    """
    planned = batches.replaced_by(connection, batch.batch_id)
    if planned is None:
        _may_be_replaced(connection, batch)
        return None
    status = batches.read(connection, planned).status
    has_keys = batches.decision(connection, planned).with_keys
    if has_keys != with_keys or status in ("rejected", "replaced", "withdrawing", "withdrawn"):
        kind = "has its keys" if has_keys else "only tells its revisions"
        raise ConflictError(
            f"{batch} was replaced by batch {planned}, which {kind} and is {status}: go on from that one"
        )
    logger.info("%s was replaced by batch %d before", batch, planned)
    return planned


def _locked_as_seen(connection: Connection, seen: Batch) -> Batch:
    """Lock as `locked` does; `RemoteError` if a batch was withdrawn since, and its lines may still be in the index."""
    batch = locked(connection, seen)
    if batch.status != seen.status:
        raise RemoteError(f"{batch} became {batch.status} just now: try again")
    return batch


def _may_be_replaced(connection: Connection, batch: Batch) -> None:
    if batch.status in ("rejected", "withdrawing", "withdrawn"):
        return
    if batch.status == "empty" and not batches.decision(connection, batch.batch_id).with_keys:
        return
    what_to_do = {"held": "approve or reject it", "released": "withdraw it first"}
    raise ConflictError(
        f"{batch} is {batch.status}: only a rejected or withdrawn batch is replaced"
        f"{'; ' + what_to_do[batch.status] if batch.status in what_to_do else ''}"
    )
