"""Put the suites of what is watched to what is there, keep the results, and say so loudly when something is missed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from keyserver.audit import recorded
from keyserver.errors import VerificationError
from keyserver.quality import exposures, freshness, publicfiles
from keyserver.quality.suite import validate, validate_sql
from keyserver.runtime import Runtime
from keyserver.store import quality
from keyserver.store.quality import Outcome
from keyserver.watch.publicfiles import look

logger = logging.getLogger(__name__)


def check_exposures(runtime: Runtime) -> list[Outcome]:
    """Look at stored exposures; as `check_freshness` for the rest."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        facts, queries = exposures.read(connection)
    outcomes = validate_sql(exposures.SUITE, runtime.database.connect, queries, facts)
    return _settle(runtime, exposures.NAME, "what was stored since the last look", outcomes)


def check_public_files(runtime: Runtime, look: Callable[[Runtime], publicfiles.PublicFiles] = look) -> list[Outcome]:
    """Look at what phones get, and at the store; as `check_freshness` for the rest.

    Raises `ConfigurationError` when there is no public URL or no store to look at.
    """
    facts = look(runtime)
    for difference in sorted(facts.differences, key=str):
        logger.error("ALERT: %s: %s", difference.column.replace("_", " "), difference)
    outcomes = validate(publicfiles.SUITE, publicfiles.tables(facts), facts)
    return _settle(runtime, publicfiles.NAME, "what phones get", outcomes)


def check_freshness(runtime: Runtime) -> list[Outcome]:
    """Look at how fresh everything is; give the outcomes, which are kept.

    Raises:
        VerificationError: an expectation that blocks was missed; it names them.
        RemoteError: something did not answer; nothing is kept.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        facts = freshness.read(connection)
    outcomes = validate(freshness.SUITE, freshness.tables(facts), facts)
    return _settle(runtime, freshness.NAME, "all feeds", outcomes)


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count outcomes, for the result of a task."""
    return {"expectations": len(outcomes), "missed": sum(not outcome.met for outcome in outcomes)}


def _settle(runtime: Runtime, suite: str, subject: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Keep the results, with an audit event if something was missed: a check that passes changes nothing."""
    missed = [outcome for outcome in outcomes if not outcome.met]
    blocking = [outcome for outcome in missed if outcome.blocks]
    with recorded(runtime.database, runtime.actor) as work:
        quality.insert(work.connection, outcomes, suite=suite, subject=subject, run=runtime.actor.holder)
        if missed:
            of_severity = Counter(outcome.severity for outcome in missed)
            work.record(
                "quality.checked",
                {"suite": suite, "missed": "; ".join(outcome.expectation for outcome in missed)},
                counts={
                    "expectations": len(outcomes),
                    "missed_block": of_severity["block"],
                    "missed_warn": of_severity["warn"],
                },
            )
    for outcome in missed:
        if outcome.blocks:
            logger.error("ALERT: %s: %s", suite, outcome)
        else:
            logger.warning("%s: %s", suite, outcome)
    logger.info("%s: %d of %d expectations were met", suite, len(outcomes) - len(missed), len(outcomes))
    if blocking:
        raise VerificationError(f"{suite}: {'; '.join(str(outcome) for outcome in blocking)}")
    return list(outcomes)
