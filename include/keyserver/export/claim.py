"""Who works on a batch: the run that claimed it (`due`), while its steps renew the claim (rule B3)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from keyserver.audit import Subject, recorded
from keyserver.errors import KeyserverError, RemoteError, Superseded
from keyserver.runtime import Runtime
from keyserver.store import batches
from keyserver.store.batches import Batch

logger = logging.getLogger(__name__)

RENEWED_EVERY = 10.0  # seconds, while a step works
MOST_FAILED_RUNS = 3


def more_is_due(runtime: Runtime) -> bool:
    """Tell whether another run would find work at once: a later batch of a feed whose batch this run settled."""
    with runtime.database.connection() as connection:
        return batches.more_is_due(connection)


def give_back(runtime: Runtime) -> None:
    """Give back what this run still holds, at its end."""
    with runtime.database.transaction() as connection:
        count = batches.give_back_claims(connection, runtime.actor.holder)
    logger.info("gave back %d claims", count)


@contextmanager
def step(runtime: Runtime, batch_id: int) -> Iterator[Batch]:
    """Work on a batch that this run has claimed; renew the claim meanwhile.

    An error that no retry heals is counted against the batch; in the third run that meets one the batch is held, and
    the next one of its feed goes on. A `RemoteError`, a lost claim (`Superseded`) and work that was cut off (a killed
    process, a time limit, no memory left) never count.
    """
    run = runtime.actor.holder
    with runtime.database.transaction() as connection:
        renewed = batches.renew_claim(connection, batch_id, run)
        batch = batches.read(connection, batch_id)
    if not renewed:
        raise Superseded(f"{batch} is not claimed by this run: another run has taken it over")
    done = threading.Event()
    renewing = threading.Thread(target=_keep_renewing, args=(runtime, batch, done), daemon=True)
    renewing.start()
    try:
        yield batch
    except (RemoteError, Superseded, MemoryError):
        raise
    except Exception as error:
        _count_failure(runtime, batch, error)
        raise
    except BaseException as error:
        logger.error("ALERT: work on %s was cut off (%s); the batch stays due", batch, type(error).__name__)
        raise
    finally:
        done.set()
        renewing.join(timeout=1)  # it may hang with the database, and is a daemon


def _keep_renewing(runtime: Runtime, batch: Batch, done: threading.Event) -> None:
    while not done.wait(RENEWED_EVERY):
        try:
            with runtime.database.transaction() as connection:
                if not batches.renew_claim(connection, batch.batch_id, runtime.actor.holder):
                    logger.warning("%s was taken over by another run", batch)
                    return
        except KeyserverError as error:
            logger.warning("the claim of %s could not be renewed, trying again: %s", batch, error)


def _count_failure(runtime: Runtime, batch: Batch, error: Exception) -> None:
    step_name = runtime.actor.task or runtime.actor.name
    try:
        with recorded(runtime.database, runtime.actor) as work:
            failed_runs = batches.add_failed_run(work.connection, batch.batch_id, runtime.actor.holder)
            if failed_runs is None:
                return
            subject: Subject = {"batch": batch.batch_id, "feed": batch.feed, "error": type(error).__name__}
            work.record("batch.step_failed", subject, counts={"failed_runs": failed_runs})
            if failed_runs >= MOST_FAILED_RUNS:
                problem = f"its step {step_name} failed in {failed_runs} runs, lastly with {type(error).__name__}"
                batches.hold(work.connection, batch, problem, run=runtime.actor.holder)
                work.record("batch.held", subject, counts={"failed_runs": failed_runs})
                logger.error("ALERT: %s is held: %s. Nothing of it is released; later batches go on.", batch, problem)
    except (RemoteError, Superseded):
        logger.warning("the failure of %s could not be counted", batch)
