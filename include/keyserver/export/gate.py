"""Check a batch's staged files before anybody signs them; a batch that fails is held (rules B3, B4, E5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from keyserver.audit import recorded
from keyserver.errors import Superseded
from keyserver.export.claim import step
from keyserver.protocol.exportfile import staged_path
from keyserver.quality import exportfiles, usual
from keyserver.quality.exportfiles import FIRST_REPORTS, BatchFacts, StagedFile, check_files, usual_share
from keyserver.runtime import Runtime
from keyserver.store import batches, files, quality
from keyserver.store.batches import Batch, Carriers
from keyserver.store.database import Connection
from keyserver.store.quality import Listed, Outcome

logger = logging.getLogger(__name__)
_ALL = 2**31 - 1
_HISTORY = timedelta(days=14)


def check(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `built` to `checked`; hold it and raise `Superseded` when an expectation fails.

    A batch that was approved may fail the expectations that its approval names, and no other (B4).
    The expectations are put to the bytes that are staged, decoded by the format's own library, and to what the
    database counts anew; never to anything that the encoder kept. What became of each is kept with the batch.
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("checked"):
            logger.info("%s was checked before", batch)
            return
        facts, staged = _facts(runtime, batch)
        data = [runtime.blobs.read(staged_path(file.export_sha256, "bin")).data for file in staged]
        outcomes = check_files(
            facts, list(zip(staged, data, strict=True)), lambda keys, revised: _listed(runtime, batch, keys, revised)
        )
        failed = [outcome for outcome in outcomes if outcome.blocks]
        warnings = [outcome for outcome in outcomes if not outcome.met and not outcome.blocks]
        for outcome in [*failed, *warnings]:
            logger.warning("%s: %s", batch, outcome)
        if not {outcome.expectation for outcome in failed} <= set(batch.approved):
            _hold(runtime, batch, outcomes, failed)
        with recorded(runtime.database, runtime.actor) as work:
            batches.advance(work.connection, batch, "checked", run=runtime.actor.holder)
            _keep(work.connection, batch, outcomes, runtime.actor.holder)
            work.record(
                "batch.checked",
                {"batch": batch.batch_id, "feed": batch.feed},
                counts={
                    "files": len(staged),
                    "keys": facts.keys,
                    "revised_keys": facts.revised_keys,
                    "expectations": len(outcomes),
                    "warnings": len(warnings),
                    "approved": len(failed),
                },
                hashes={f"export_bin_{file.number}": file.export_sha256.hex() for file in staged},
            )
        logger.info("%s is checked: %d files, %d keys, %d revised", batch, len(staged), facts.keys, facts.revised_keys)


def _facts(runtime: Runtime, batch: Batch) -> tuple[BatchFacts, list[StagedFile]]:
    carriers = Carriers(batch.carriers or [], batch.withdrawn_carriers or [])
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        fates = batches.fates(connection, batch.batch_id)
        revised_keys = batches.count_revised_keys(connection, batch.batch_id, carriers, most=_ALL)
        signing_keys = batches.signing_keys(connection, batch.batch_id)
        before = quality.recorded(connection, batch.batch_id, exportfiles.LONGEST_USER)
        earlier_keys = quality.earlier_keys(connection, batch.batch_id, _HISTORY)
        shares = quality.earlier_observed(
            connection, batch.batch_id, exportfiles.NAME, list(map(usual_share, FIRST_REPORTS)), _HISTORY
        )
        staged = [
            StagedFile(file.number, file.starts_at, file.ends_at, file.keys, file.revised_keys, file.export_sha256)
            for file in files.of_batch(connection, batch.batch_id)
        ]
    keys = fates["released"].rows if "released" in fates else 0
    facts = BatchFacts(
        starts_at=batch.starts_at,
        ends_at=batch.ends_at,
        cutoff=batch.cutoff,
        region=batch.output_region,
        max_keys=batch.max_keys,
        keys=keys,
        revised_keys=revised_keys,
        signature_infos=tuple((key.key_id, key.key_version) for key in signing_keys),
        closed_through=before.closed_through,
        rows=sum(fate.rows for fate in fates.values()),
        rows_when_closed=before.rows_when_closed,
        least_keys=before.least_keys,
        most_synthetic=before.most_synthetic,
        usual_keys=usual.of_keys(earlier_keys),
        usual_shares={kind: usual.of_share(shares.get(usual_share(kind), []), keys) for kind in FIRST_REPORTS},
    )
    return facts, staged


def _listed(runtime: Runtime, batch: Batch, keys: bytes, revised_keys: bytes) -> Listed:
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        return quality.listed(connection, batch.batch_id, keys, revised_keys)


def _keep(connection: Connection, batch: Batch, outcomes: Sequence[Outcome], run: str) -> None:
    quality.insert(
        connection,
        outcomes,
        suite=exportfiles.NAME,
        subject=str(batch),
        batch_id=batch.batch_id,
        feed_id=batch.feed_id,
        run=run,
    )


def _hold(runtime: Runtime, batch: Batch, outcomes: Sequence[Outcome], failed: Sequence[Outcome]) -> None:
    problem = "; ".join(map(str, failed))
    with recorded(runtime.database, runtime.actor) as work:
        expectations = [outcome.expectation for outcome in failed]
        batches.hold(work.connection, batch, problem, run=runtime.actor.holder, failed_expectations=expectations)
        _keep(work.connection, batch, outcomes, runtime.actor.holder)
        work.record(
            "batch.held",
            {"batch": batch.batch_id, "feed": batch.feed, "expectation": failed[0].expectation},
            counts={"failed_expectations": len(failed)},
        )
    message = f"{batch} is held: {problem}. Nothing of it is released; later batches go on"
    logger.error("ALERT: %s", message)
    raise Superseded(message)
