"""Take old files out of the index that the database gives: the first of two phases (rules R2, B6).

The index itself is written after it (`export.index.write_all`), and only then do objects go (`objects`).
"""

from __future__ import annotations

import logging

from keyserver.audit import recorded
from keyserver.runtime import Runtime
from keyserver.store import retention

logger = logging.getLogger(__name__)

_LINES_AT_ONCE = 500


def expire_lines(runtime: Runtime) -> int:
    """Bring files from `released` to `expired` a period after their batch's start; give their number.

    Every feed's, also of those that ended or are paused.
    """
    expired = 0
    while True:
        with recorded(runtime.database, runtime.actor) as work:
            files = retention.expire_lines(work.connection, _LINES_AT_ONCE)
            for file in files:
                work.record(
                    "file.expired",
                    {"batch": file.batch_id, "feed": file.feed, "file": file.number, "name": file.name},
                )
        expired += len(files)
        if len(files) < _LINES_AT_ONCE:
            break
    logger.info("%d lines leave their index", expired)
    return expired


def hold_outlived(runtime: Runtime) -> list[int]:
    """Hold batches that were built and not released for a period, as in a feed that is paused; give their numbers.

    Their files hold keys that are deleted, and their lines would leave the index at once. Like any batch that is held
    they can be decided on; a batch in their place is made of what is stored then.
    """
    problem = "it was built, and not released before its keys were to be deleted"
    with recorded(runtime.database, runtime.actor) as work:
        held = retention.hold_outlived(work.connection, problem)
        for batch_id, feed in held:
            work.record("batch.held", {"batch": batch_id, "feed": feed, "error": problem})
    for batch_id, feed in held:
        logger.error("ALERT: batch %d of feed %s is held: %s", batch_id, feed, problem)
    return [batch_id for batch_id, _ in held]
