"""Batches made again: their counts add up, and the same rows still give the same files (rules A4, A6, B8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keyserver.errors import KeyserverError, RemoteError
from keyserver.oversight.provenance import account
from keyserver.oversight.rebuild import Builder, rebuild
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import Said
from keyserver.runtime import Runtime
from keyserver.store import oversight
from keyserver.store.database import Connection
from keyserver.store.states import BuiltBatch

USUAL = 20  # batches that are made again when nobody says which


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """What making batches again needs: the pipeline's rights, to read keys, and `export.build.rebuild`."""

    runtime: Runtime
    build: Builder


def check_counts(connection: Connection, batches: Sequence[BuiltBatch], said: Said, report: Report) -> None:
    """Put each batch's counts beside its windows' totals and its files."""
    for batch in batches:
        event = said.batches.get(batch.batch_id)
        if event is None or event.built_at is None:
            continue
        windows = oversight.windows_of_span(connection, batch.starts_at, batch.ends_at)
        files = oversight.files(connection, batch.batch_id)
        for problem in account(batch.counts, windows, files, event.built_at).problems:
            report.find(f"batch {batch.batch_id}", f"its counts do not add up: {problem}")
    report.facts.append(f"The counts of built batches, {len(batches):,} of them, were added up.")


def check_files(rebuilding: Rebuilding | None, batches: Sequence[int], of: int, report: Report) -> None:
    """Make batches again and compare; ``of``: how many there are."""
    if rebuilding is None:
        report.unproven.append(
            f"that files are what their rows give: {of:,} batches were not made again, without the pipeline's role"
            " (KEYSERVER_PIPELINE_DATABASE_URL)"
        )
        return
    results: Counter[str] = Counter()
    for batch_id in batches:
        try:
            result = rebuild(rebuilding.runtime, batch_id, rebuilding.build)
        except RemoteError as error:
            report.unreachable.append(f"batch {batch_id} was not made again: {error}")
            continue
        except KeyserverError as error:
            report.find(f"batch {batch_id}", f"it cannot be made again: {error}")
            continue
        if result.is_proven:
            results["identical"] += 1
        elif result.gone and not result.problems:
            results["not rebuildable"] += 1
            report.unproven.append(f"batch {batch_id}: {result.sentences()[-1]}")
        else:
            of_files = zip(result.files, result.sentences(), strict=False)  # the first sentences are those of its files
            wrong = [sentence for file, sentence in of_files if not file.is_proven]
            for sentence in (*wrong, *result.problems):
                report.find(f"batch {batch_id}", f"made again: {sentence}")
    report.facts.append(
        f"{len(batches):,} of {of:,} built batches were made again: {results['identical']:,} identical,"
        f" {results['not rebuildable']:,} not rebuildable."
    )
