"""Check a batch's staged files before anybody signs them; a batch that fails is held (rules B3, B4, E5)."""

from __future__ import annotations

import logging

from keyserver.audit import recorded
from keyserver.errors import FormatError, Superseded
from keyserver.export.claim import step
from keyserver.protocol.exportfile import staged_path
from keyserver.quality.exportfiles import BatchFacts, Finding, StagedFile, check_files
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch, Carriers

logger = logging.getLogger(__name__)
_ALL = 2**31 - 1


def check(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `built` to `checked`; hold it and raise `Superseded` when an expectation fails.

    A batch that was approved may fail the expectations that its approval names, and no other (B4).
    The expectations are put to the bytes that are staged, decoded by the format's own library, and to what the
    database counts anew; never to anything that the encoder kept.
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("checked"):
            logger.info("%s was checked before", batch)
            return
        facts, staged = _facts(runtime, batch)
        if not facts.signature_infos:
            none = "none was active when the batch was planned"
            _hold(runtime, batch, [Finding("the feed has a signing key", "block", "1 to 10 active keys", none)])
        try:
            data = [runtime.blobs.read(staged_path(file.export_sha256, "bin")).data for file in staged]
            findings = check_files(facts, list(zip(staged, data, strict=True)))
        except FormatError as error:
            findings = [Finding("files are of the format", "block", "files of the export format", str(error))]
        failed = [finding for finding in findings if finding.severity == "block"]
        for finding in findings:
            logger.warning("%s: %s", batch, finding)
        if not {finding.expectation for finding in failed} <= set(batch.approved):
            _hold(runtime, batch, failed)
        with recorded(runtime.database, runtime.actor) as work:
            batches.advance(work.connection, batch, "checked", run=runtime.actor.holder)
            work.record(
                "batch.checked",
                {"batch": batch.batch_id, "feed": batch.feed},
                counts={
                    "files": len(staged),
                    "keys": facts.keys,
                    "revised_keys": facts.revised_keys,
                    "warnings": len(findings) - len(failed),
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
        staged = [
            StagedFile(file.number, file.starts_at, file.ends_at, file.keys, file.revised_keys, file.export_sha256)
            for file in files.of_batch(connection, batch.batch_id)
        ]
    facts = BatchFacts(
        starts_at=batch.starts_at,
        ends_at=batch.ends_at,
        cutoff=batch.cutoff,
        region=batch.output_region,
        max_keys=batch.max_keys,
        keys=fates["released"].rows if "released" in fates else 0,
        revised_keys=revised_keys,
        signature_infos=tuple((key.key_id, key.key_version) for key in signing_keys),
    )
    return facts, staged


def _hold(runtime: Runtime, batch: Batch, failed: list[Finding]) -> None:
    problem = "; ".join(str(finding) for finding in failed)
    with recorded(runtime.database, runtime.actor) as work:
        expectations = [finding.expectation for finding in failed]
        batches.hold(work.connection, batch, problem, run=runtime.actor.holder, failed_expectations=expectations)
        work.record(
            "batch.held",
            {"batch": batch.batch_id, "feed": batch.feed, "expectation": failed[0].expectation},
            counts={"failed_expectations": len(failed)},
        )
    message = f"{batch} is held: {problem}. Nothing of it is released; later batches go on"
    logger.error("ALERT: %s", message)
    raise Superseded(message)
