"""Close the windows that are past, plan and pad the batches that end with them, rewrite the rows (W3, W5, B2, P2)."""

from __future__ import annotations

import logging
import random
from datetime import datetime, timedelta

from keyserver.audit import recorded
from keyserver.errors import RemoteError
from keyserver.export.padding import pad
from keyserver.protocol.exposure import MAX_AGE
from keyserver.runtime import Runtime
from keyserver.store import batches, plans, release_clock
from keyserver.store.release_clock import Window

logger = logging.getLogger(__name__)

MOST_CLOCK_DIFFERENCE = timedelta(seconds=60)  # T1
_ROWS_A_CHUNK = 20_000  # W5: well under a second each


def close_windows(runtime: Runtime, host_now: datetime, source: random.Random | None = None) -> list[Window]:
    """Close every window that is past, each in a short transaction of its own; give those that this call closed.

    ``host_now`` is this host's clock: closing is refused (`RemoteError`: it may be mended meanwhile) when it and the
    database's differ by more than a minute. ``source`` draws the padding.
    """
    source = source or random.SystemRandom()
    with runtime.database.connection() as connection:
        database_now = release_clock.now(connection)
    if abs(database_now - host_now) > MOST_CLOCK_DIFFERENCE:
        raise RemoteError(
            f"the clocks of this host and of the database differ by {abs(database_now - host_now)}:"
            " no window is closed until they agree within a minute"
        )
    closed = []
    while (window := _close_next(runtime, source)) is not None:
        closed.append(window)
    logger.info("closed %d windows", len(closed))
    return closed


def _close_next(runtime: Runtime, source: random.Random) -> Window | None:
    """Close one window; None when the next one is not past, or another closer was first."""
    with runtime.database.connection() as connection:
        expected, is_past = release_clock.next_window(connection)
    if not is_past:
        return None
    with recorded(runtime.database, runtime.actor) as work:
        release_clock.lock_window(work.connection, expected)
        starts_at, ends_at, is_past = release_clock.read_for_closing(work.connection)
        if starts_at != expected or not is_past:
            return None
        planned = batches.plan(work.connection, ends_at, MAX_AGE)
        pad(work.connection, planned, starts_at, ends_at, source)
        window = release_clock.close(work.connection, starts_at, ends_at)
        work.record(
            "window.closed",
            {"start": starts_at.isoformat(), "end": ends_at.isoformat()},
            counts={"keys": window.keys, "synthetic_keys": window.synthetic_keys, "revisions": window.revisions},
        )
        for batch in planned:
            work.record(
                "batch.planned",
                {
                    "batch": batch.batch_id,
                    "feed": batch.feed,
                    "start": batch.starts_at.isoformat(),
                    "end": batch.ends_at.isoformat(),
                },
                hashes={"plan": plans.plan(work.connection, batch.batch_id).sha256.hex()},
            )
    logger.info(
        "closed the window %s to %s: %d keys, of these %d synthetic; planned %d batches",
        starts_at,
        ends_at,
        window.keys,
        window.synthetic_keys,
        len(planned),
    )
    return window


def rewrite_windows(runtime: Runtime) -> int:
    """Put the rows of closed windows in key order, so that their place tells nothing of who sent them (W5).

    Runs as the rewriting role. Gives the number of windows that were finished.
    """
    finished = 0
    while True:
        with runtime.database.connection() as connection:
            starts_at = release_clock.next_to_rewrite(connection)
        if starts_at is None:
            return finished
        _rewrite(runtime, starts_at)
        finished += 1


def _rewrite(runtime: Runtime, starts_at: datetime) -> None:
    after, rows = b"", 0
    while True:
        with recorded(runtime.database, runtime.actor) as work:
            release_clock.lock_rewriting(work.connection)
            if release_clock.next_to_rewrite(work.connection) != starts_at:
                return
            chunk = release_clock.rewrite_chunk(work.connection, starts_at, after, _ROWS_A_CHUNK)
            if chunk is None:
                release_clock.set_rewritten(work.connection, starts_at)
                if rows:
                    work.record("window.rewritten", {"start": starts_at.isoformat()}, counts={"rows": rows})
                break
            after, rows = chunk[0], rows + chunk[1]
    logger.info("rewrote the window from %s: %d rows in key order", starts_at, rows)
