"""Remove what somebody asked to have removed."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keyserver.cli import edge

if TYPE_CHECKING:
    from keyserver.runtime import Runtime

commands = edge.group("Remove what somebody asked to have removed.")


@commands.command("delete")
def retention_delete(  # noqa: PLR0913 - an option each
    *,
    app: Annotated[str, typer.Option(help="The app whose keys go, as the configuration names it.")],
    from_: Annotated[str, typer.Option("--from", help="The start of its first window, such as 2026-03-02T10:00Z.")],
    thru: Annotated[str, typer.Option(help="The end of its last window.")],
    reason: Annotated[str, typer.Option(help="Why, in one line; the audit trail keeps it.")],
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw released files that hold some, release what remains again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
) -> None:
    """Delete all keys that one app uploaded in a span of windows that are closed. Safe to run again.

    A batch on its way that was made of some of them is made again without. Released files that hold some are named, and
    with --withdraw taken back.
    """
    from keyserver.audit import checked_reason
    from keyserver.export.decide import approve
    from keyserver.retention import demand

    command = "keyserver retention delete"
    span = edge.parse_moment(from_), edge.parse_moment(thru)
    reason = checked_reason(reason)
    with (
        edge.runtime(command, role="retention", blobs=not dry_run) as retention,
        edge.runtime(command, blobs=not dry_run) as pipeline,
    ):
        for sentence in demand.plan(retention, app, *span).sentences():
            typer.echo(sentence)
        if dry_run:
            typer.echo("This was a dry run: nothing is deleted.")
            return
        if not yes:
            typer.confirm("Delete them?", abort=True)
        done = demand.delete(retention, app, *span, reason)
        typer.echo(f"{done.keys} keys are deleted; {done.revisions} revisions went with them.")
        for batch in demand.held(retention):
            typer.echo(f"Batch {batch} is held; batch {approve(pipeline, batch, reason)} is planned in its place.")
        for batch in demand.out(retention, app, *span):
            if withdraw:
                _take_back(pipeline, batch, reason)
            else:
                typer.echo(
                    f"Batch {batch} is out and has some of them: `keyserver export withdraw {batch}` takes it back."
                )
        demand.clear_staging(retention, app, *span)


def _take_back(pipeline: Runtime, batch: int, reason: str) -> None:
    from keyserver.export.replace import replace
    from keyserver.export.withdraw import finish, withdraw

    withdraw(pipeline, batch, reason)
    planned = replace(pipeline, batch, reason)
    finish(pipeline, batch)
    typer.echo(f"Batch {batch} is withdrawn; batch {planned} is planned in its place, without them.")
