"""What an operator decides about a held batch: approved, another is planned in its place; or rejected (rule B4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.audit import Subject, checked_reason, recorded
from keyserver.errors import ConflictError, Superseded
from keyserver.export import replace
from keyserver.runtime import Runtime
from keyserver.store import batches
from keyserver.store.batches import Batch, Replacement

logger = logging.getLogger(__name__)

PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch that waits for a decision, and what helps to take it."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    held_at: datetime | None
    problem: str
    failed_expectations: list[str]  # what an approval would name
    revisions: int  # that it alone carries: dropped with it if the operator says so (K3)


def held(runtime: Runtime) -> list[HeldBatch]:
    """Give the batches that wait for an operator, the first planned first."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        waiting = [batches.read(connection, batch_id) for batch_id in batches.held(connection)]
        return [
            HeldBatch(
                batch.batch_id,
                batch.feed,
                batch.starts_at,
                batch.ends_at,
                decision.held_at,
                decision.problem or "",
                decision.failed_expectations,
                replace.revisions_alone_carried(connection, batch),
            )
            for batch in waiting
            for decision in [batches.decision(connection, batch.batch_id)]
        ]


def waiting(runtime: Runtime) -> list[int]:
    """Give the ids of the batches that wait for an operator, the first planned first."""
    with runtime.database.connection() as connection:
        return batches.held(connection)


def approve(runtime: Runtime, batch_id: int, reason: str) -> int:
    """Bring a held batch to `replaced`; give the batch that is planned in its place.

    That one may fail the expectations that this one failed, and no others: else it is held in its turn. Approved
    before, a batch gives the same answer again.

    Raises:
        FormatError: the reason is none.
        ConflictError: the batch is not held.
    """
    reason = checked_reason(reason)
    batch = _read(runtime, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        batch = replace.locked(work.connection, batch)
        if batch.status == "replaced" and (planned := batches.replaced_by(work.connection, batch_id)) is not None:
            logger.info("%s was approved before", batch)
            return planned
        _must_be_held(batch)
        decision = batches.decision(work.connection, batch_id)
        batches.settle(work.connection, batch, "replaced", reason)
        subject: Subject = {
            "batch": batch_id,
            "feed": batch.feed,
            "reason": reason,
            "expectations": ", ".join(decision.failed_expectations),
        }
        work.record("batch.approved", subject)
        return replace.plan(work, batch, Replacement(decision.with_keys, reason, decision.failed_expectations))


def reject(runtime: Runtime, batch_id: int, reason: str, *, keep_revisions: bool = True) -> int | None:
    """Bring a held batch to `rejected`: nothing of it is released, later batches have been going on anyway.

    If it alone carried revisions, a batch without keys is planned for these, and its id given; ``keep_revisions`` False
    drops them too (K3). While its keys live they can still be released (`replace.replace`). Rejected before, a batch
    stays as it is.

    Raises:
        FormatError: the reason is none.
        ConflictError: the batch is not held.
    """
    reason = checked_reason(reason)
    batch = _read(runtime, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        batch = replace.locked(work.connection, batch)
        if batch.status == "rejected":
            logger.info("%s was rejected before", batch)
            return batches.replaced_by(work.connection, batch_id)
        _must_be_held(batch)
        revisions = replace.revisions_alone_carried(work.connection, batch)
        kept = revisions if keep_revisions else 0
        batches.settle(work.connection, batch, "rejected", reason)
        counts = {"revisions_kept": kept, "revisions_dropped": revisions - kept}
        work.record("batch.rejected", {"batch": batch_id, "feed": batch.feed, "reason": reason}, counts=counts)
        logger.warning("%s is rejected: %s; revisions that it alone carried: %s", batch, reason, counts)
        return replace.plan(work, batch, Replacement(with_keys=False, reason=reason)) if kept else None


def answer(runtime: Runtime, batch_id: int, reason: str, *, approved: bool, keep_revisions: bool = True) -> int | None:
    """Commit what somebody answered when asked about a held batch: `approve` or `reject`; give the batch planned.

    Raises:
        FormatError: the reason is none.
        Superseded: the batch was decided about otherwise meanwhile; the answer changes nothing.
    """
    try:
        if approved:
            return approve(runtime, batch_id, reason)
        return reject(runtime, batch_id, reason, keep_revisions=keep_revisions)
    except ConflictError as error:
        raise Superseded(f"{error}. This answer came late and changes nothing") from error


def reject_unanswered(runtime: Runtime) -> list[int]:
    """Reject the batches about which nobody has decided for 24 hours, with an alert each; give their ids."""
    with runtime.database.connection() as connection:
        waiting = batches.unanswered(connection, PATIENCE)
    rejected = []
    for batch_id in waiting:
        try:
            reject(runtime, batch_id, "nobody decided within 24 hours")
        except (ConflictError, Superseded):
            logger.info("about batch %d somebody has decided just now", batch_id)
            continue
        logger.error(
            "ALERT: nobody decided about held batch %d within 24 hours: it is rejected. While its keys live, a batch"
            " that replaces it can still release them.",
            batch_id,
        )
        rejected.append(batch_id)
    return rejected


def _read(runtime: Runtime, batch_id: int) -> Batch:
    with runtime.database.connection() as connection:
        return batches.read(connection, batch_id)


def _must_be_held(batch: Batch) -> None:
    if batch.status != "held":
        raise ConflictError(f"{batch} is {batch.status}: only a held batch is approved or rejected")
