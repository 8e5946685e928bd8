"""Which batches a run works on: of each feed the first that is not settled and has something to release (rule B3)."""

from __future__ import annotations

import logging

from keyserver.errors import KeyserverError, RemoteError, Superseded
from keyserver.export.build import settle_if_empty
from keyserver.runtime import Runtime
from keyserver.store import batches
from keyserver.store.batches import ClaimedBatch

logger = logging.getLogger(__name__)


def claim_due(runtime: Runtime) -> list[ClaimedBatch]:
    """Claim, for this run, the due batch of each feed. Other runs' claims and paused feeds are left.

    Batches without a key are settled on the way, so that a quiet night does not hold up the morning. One that cannot
    even be looked into is counted as failed and left out; the other feeds do not wait for it.
    """
    claimed: list[ClaimedBatch] = []
    broken: set[int] = set()
    while True:
        with runtime.database.transaction() as connection:
            found = [b for b in batches.claim_due(connection, runtime.actor.holder) if b.batch_id not in broken]
        claimed = [batch for batch in found if not _settled(runtime, batch, broken)]
        if len(claimed) == len(found):
            break
    for batch in claimed:
        logger.info("claimed batch %d of feed %s, %s to %s", batch.batch_id, batch.feed, batch.starts_at, batch.ends_at)
    return claimed


def _settled(runtime: Runtime, batch: ClaimedBatch, broken: set[int]) -> bool:
    """Settle a batch if it is empty; True when there is no more to do for it in this run."""
    try:
        return settle_if_empty(runtime, batch.batch_id)
    except RemoteError:
        raise
    except Superseded:
        return True
    except KeyserverError as error:
        logger.error("ALERT: batch %d of feed %s cannot be looked into: %s", batch.batch_id, batch.feed, error)
        broken.add(batch.batch_id)
        return True
