"""Which keys may sign a batch: those that it was planned with, while none of them is revoked (B17)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from keyserver.audit import Work, recorded
from keyserver.errors import Superseded
from keyserver.runtime import Runtime
from keyserver.store import batches, signing_keys
from keyserver.store.batches import Batch

logger = logging.getLogger(__name__)

# As a held batch names it (B4). No approval waives it: the batch in its place has keys of its own, and is asked again.
EXPECTATION = "signing keys are in force"


@contextmanager
def keys_in_force(runtime: Runtime, batch: Batch) -> Iterator[Work]:
    """Begin the transaction that ends a step, as `audit.recorded` does; no key of the batch is revoked before it ends.

    A batch of which one is revoked, or that has none, is held instead and `Superseded` raised: a batch's keys stand in
    its files and never change, so only one that replaces it can have today's (B1).
    """
    with recorded(runtime.database, runtime.actor) as work:
        revoked = signing_keys.lock_of_batch(work.connection, batch.batch_id)
        names = [name for name, is_revoked in revoked.items() if is_revoked]
        if revoked and not names:
            yield work
            return
        problem = f"{EXPECTATION}: " + (f"{', '.join(names)} revoked" if names else "the batch was planned with none")
        batches.hold(work.connection, batch, problem, run=runtime.actor.holder, failed_expectations=[EXPECTATION])
        work.record(
            "batch.held",
            {"batch": batch.batch_id, "feed": batch.feed, "expectation": EXPECTATION},
            counts={"failed_expectations": 1, "revoked_keys": len(names)},
        )
    message = f"{batch} is held: {problem}. Nothing of it is released; later batches go on"
    logger.error("ALERT: %s", message)
    raise Superseded(message)
