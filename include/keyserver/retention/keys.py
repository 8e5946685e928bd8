"""Delete keys a period after their window's start: real and synthetic ones, with their revisions (rule R1)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from keyserver.audit import recorded
from keyserver.runtime import Runtime
from keyserver.store import retention
from keyserver.store.retention import DeletedKeys

logger = logging.getLogger(__name__)

# Measured (docs/performance.md): some 900 keys a second, where three million come a day those of an hour in two and a
# half minutes; and uploads hardly notice. With a share of 0.2 their slowest 1 % take twice as long.
ROWS_A_CHUNK = 1_000
SHARE = 0.01
_SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)

# Why a real key was in no file of any feed that was released; a revoked one was not to be.
_WHY = {
    "waiting": "their batch still waits for its release",
    "paused": "their feed is paused",
    "held": "their batch is held",
    "rejected": "their batch was rejected",
    "left_out": "they were left out by decision",
    "expired": "they had ended too long before their batch",
    "excluded": "feeds of their region leave them out",
    "no_feed": "no feed has their region and their window",
}


@dataclass(frozen=True, slots=True)
class KeysDeleted:
    """What a run deleted: rows, by what they were; real keys that were never released, but for revoked ones."""

    keys: int
    synthetic_keys: int
    revisions: int
    unreleased: int


def delete_keys(
    runtime: Runtime,
    *,
    rows_a_chunk: int = ROWS_A_CHUNK,
    share: float = SHARE,
    pause: Callable[[float], None] = time.sleep,
) -> KeysDeleted:
    """Delete all that is old enough, the oldest first, in chunks of one short transaction each.

    Uploads go on meanwhile: the work takes this ``share`` of the time, the rest are pauses after each chunk. What was
    never released is reported before it goes: in the log as ALERT, with its window and the reason, and in the chunk's
    event. Cut off anywhere, the next call goes on; two at once share the work.
    """
    first, totals = _SINCE_EVER, Counter[str]()
    while True:
        began = time.monotonic()
        with recorded(runtime.database, runtime.actor) as work:
            deleted = retention.delete_keys(work.connection, first, rows_a_chunk)
            if deleted is not None:
                _report(deleted)
                counts = _counts(deleted)
                work.record(
                    "retention.deleted",
                    {"what": "exposure", "from": deleted.first.isoformat(), "to": deleted.last.isoformat()},
                    counts=counts,
                )
                totals.update(counts)
                first = deleted.first
        if not _more(runtime, first):
            # Nor any that moved meanwhile, or that another run was about to delete.
            if not _more(runtime, _SINCE_EVER):
                break
            first = _SINCE_EVER
        pause((time.monotonic() - began) * (1 / share - 1))
    logger.info(
        "deleted %d keys, of these %d synthetic, with %d revisions",
        totals["keys"],
        totals["synthetic_keys"],
        totals["revisions"],
    )
    unreleased = sum(totals[f"unreleased_{why}"] for why in _WHY)
    return KeysDeleted(totals["keys"], totals["synthetic_keys"], totals["revisions"], unreleased)


def _more(runtime: Runtime, first: datetime) -> bool:
    with runtime.database.connection() as connection:
        return retention.more_keys(connection, first)


def _counts(deleted: DeletedKeys) -> Counter[str]:
    counts = Counter(keys=deleted.keys, synthetic_keys=deleted.synthetic_keys, revisions=deleted.revisions)
    for (_, why), keys in deleted.unreleased.items():
        counts[f"unreleased_{why}"] += keys
    return counts


def _report(deleted: DeletedKeys) -> None:
    for (window, why), keys in sorted(deleted.unreleased.items()):
        if why in _WHY:
            logger.error(
                "ALERT: %d keys published in the window from %s go without ever having been released: %s",
                keys,
                window.astimezone(UTC).isoformat(timespec="minutes"),
                _WHY[why],
            )
