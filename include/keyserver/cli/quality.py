"""Look at what is stored, public and fresh; show what checks found."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated, Literal

import typer

from keyserver.cli import edge
from keyserver.errors import VerificationError

commands = edge.group("Look at what is stored, public and fresh; show what checks found.")


@commands.command("check")
def quality_check(
    what: Annotated[
        Literal["exposures", "public", "freshness"] | None, typer.Argument(help="One suite; else all three.")
    ] = None,
) -> None:
    """Put the suites of `check_data_quality` now. Ends with status 1 if an expectation that blocks is missed."""
    from keyserver.watch.check import check_exposures, check_freshness, check_public_files

    checks = {"exposures": check_exposures, "public": check_public_files, "freshness": check_freshness}
    chosen = [what] if what else list(checks)
    problems = []
    with edge.runtime("keyserver quality check", blobs="public" in chosen) as runtime:
        for name in chosen:
            try:
                outcomes = checks[name](runtime)
            except VerificationError as error:
                problems.append(str(error))
                continue
            edge.warn([str(outcome) for outcome in outcomes if not outcome.met])
            typer.echo(f"{name}: {sum(outcome.met for outcome in outcomes)} of {len(outcomes)} expectations are met.")
    if problems:
        raise VerificationError("\n".join(problems))


@commands.command("results")
def quality_results(
    *,
    missed: Annotated[bool, typer.Option("--missed", help="Only what was missed.")] = False,
    batch: Annotated[int | None, typer.Option(help="What the last check of this batch found.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the last result of each expectation: when it was asked, whether it was met, what was expected and found."""
    from keyserver.watch.results import results

    with edge.runtime("keyserver quality results") as runtime:
        found = results(runtime, missed=missed, batch_id=batch)
    edge.answer(found, [], as_json=as_json)
