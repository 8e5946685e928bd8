"""Say in a feed's public log what happens to its files, in the transaction in which it happens (rule A3)."""

from __future__ import annotations

from keyserver.audit import Work
from keyserver.protocol.transparency import Kind
from keyserver.store import transparency
from keyserver.store.batches import Batch
from keyserver.store.transparency import ClosedDay


def say(work: Work, batch: Batch, kind: Kind) -> None:
    """Append a line for each file of a batch that is released or withdrawn."""
    _record(work, batch.feed, transparency.append(work.connection, batch.feed_id, kind, batch.batch_id))


def close_days(work: Work, feed_id: int, feed: str) -> int:
    """Close the days of a feed's log that are over; give their number."""
    closed = transparency.close_days(work.connection, feed_id)
    _record(work, feed, closed)
    return len(closed)


def _record(work: Work, feed: str, closed: list[ClosedDay]) -> None:
    for day in closed:
        work.record(
            "log.day_closed",
            {"feed": feed, "day": day.day.isoformat()},
            counts={"head": day.head.seq},
            hashes={"segment": day.sha256.hex(), "head": day.head.sha256.hex()},
        )
