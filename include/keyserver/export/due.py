"""Which batches a run works on: of each feed the first that is not settled and has something to release (rule B3)."""

from __future__ import annotations

import logging

from keyserver.errors import Superseded
from keyserver.export.build import settle_if_empty
from keyserver.runtime import Runtime
from keyserver.store import batches
from keyserver.store.batches import ClaimedBatch

logger = logging.getLogger(__name__)


def claim_due(runtime: Runtime) -> list[ClaimedBatch]:
    """Claim, for this run, the due batch of each feed. Other runs' claims and paused feeds are left.

    Batches without a key are settled on the way, so that a quiet night does not hold up the morning.
    """
    claimed: list[ClaimedBatch] = []
    while True:
        with runtime.database.transaction() as connection:
            found = batches.claim_due(connection, runtime.actor.holder)
        claimed = [batch for batch in found if not _settled(runtime, batch)]
        if len(claimed) == len(found):
            break
    for batch in claimed:
        logger.info("claimed batch %d of feed %s, %s to %s", batch.batch_id, batch.feed, batch.starts_at, batch.ends_at)
    return claimed


def _settled(runtime: Runtime, batch: ClaimedBatch) -> bool:
    try:
        return settle_if_empty(runtime, batch.batch_id)
    except Superseded:
        return True
