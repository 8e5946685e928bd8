"""Look into what is released, and decide about it."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from keyserver.cli import edge
from keyserver.errors import ConfigurationError, RemoteError

commands = edge.group("Look into what is released, and decide about it.")


@commands.command("provenance")
def export_provenance(
    file_or_batch: Annotated[str, typer.Argument(help="A file as the index lists it, its URL, or a batch's number.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a batch's files were made of, by which rules, code and keys. Status 1 if its counts do not add up."""
    from keyserver.oversight.provenance import provenance

    with edge.runtime("keyserver export provenance") as runtime:
        record = provenance(runtime, file_or_batch)
    edge.answer(record, record.problems, as_json=as_json)


@commands.command("rebuild")
def export_rebuild(
    batch: int,
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare with what was recorded.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the files that come out to this folder.")] = None,
) -> None:
    """Make a batch's files again from the database. With --check: status 0 only if they are proven to be identical."""
    from keyserver.export.build import rebuild as build
    from keyserver.oversight.rebuild import rebuild

    if not check and out is None:
        raise ConfigurationError("give --check, --out FOLDER or both")
    with edge.runtime("keyserver export rebuild") as runtime:
        rebuilt = rebuild(runtime, batch, build, out)
    if out is not None:
        typer.echo(f"{len(rebuilt.files)} files come out, in {out}.")
    if check:
        for sentence in rebuilt.sentences():
            typer.echo(sentence)
        if not rebuilt.is_proven:
            raise typer.Exit(1)


@commands.command("held")
def export_held() -> None:
    """List the batches that wait for a decision, why, and since when. After 24 hours without one they are rejected."""
    from keyserver.export.decide import held

    with edge.runtime("keyserver export held") as runtime:
        waiting = held(runtime)
    for batch in waiting:
        since = f"held since {edge.moment(batch.held_at)}" if batch.held_at else "held"
        span = f"{edge.moment(batch.starts_at)} to {edge.moment(batch.ends_at)}"
        typer.echo(f"batch {batch.batch_id} of feed {batch.feed}, {span}, {since}: {batch.problem}")
        if batch.revisions:
            typer.echo(f"  It alone carries {batch.revisions} revisions; a rejection keeps them unless told otherwise.")
    if not waiting:
        typer.echo("No batch is held.")


_Reason = Annotated[str, typer.Option("--reason", help="Why, in one line; the audit trail keeps it.")]


@commands.command("approve")
def export_approve(batch: int, *, reason: _Reason) -> None:
    """Plan a batch in place of a held one; it may fail the same expectations, and no other. Safe to run again.

    Where KEYSERVER_AIRFLOW_URL is set and the request about the batch is open, that is answered.
    """
    from keyserver.export.decide import approve

    if _answered_in_airflow(batch, reason, approved=True):
        return
    with edge.runtime("keyserver export approve") as runtime:
        planned = approve(runtime, batch, reason)
    typer.echo(f"Batch {batch} is approved: batch {planned} is planned in its place.")


@commands.command("reject")
def export_reject(
    batch: int,
    *,
    reason: _Reason,
    drop_revisions: Annotated[
        bool, typer.Option("--drop-revisions", help="Also drop the revisions that it alone carried.")
    ] = False,
) -> None:
    """End a held batch: nothing of it is released. Safe to run again.

    Where KEYSERVER_AIRFLOW_URL is set and the request about the batch is open, that is answered.
    """
    from keyserver.export.decide import reject

    if _answered_in_airflow(batch, reason, approved=False, keep_revisions=not drop_revisions):
        return
    with edge.runtime("keyserver export reject") as runtime:
        planned = reject(runtime, batch, reason, keep_revisions=not drop_revisions)
    told = f"batch {planned} tells its revisions" if planned else "no batch is planned in its place"
    typer.echo(f"Batch {batch} is rejected: {told}.")


@commands.command("replace")
def export_replace(
    batch: int,
    *,
    reason: _Reason,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Release the span's keys, though this batch only told revisions.")
    ] = False,
) -> None:
    """Plan a batch in place of a rejected or withdrawn one: its keys are released after all. Safe to run again."""
    from keyserver.export.replace import replace

    with edge.runtime("keyserver export replace", blobs=True) as runtime:
        planned = replace(runtime, batch, reason, with_keys=True if with_keys else None)
    typer.echo(f"Batch {planned} is planned in place of batch {batch}.")


@commands.command("withdraw")
def export_withdraw(
    batch: int,
    *,
    reason: _Reason,
    then: Annotated[
        Literal["release-again", "drop", "drop-with-revisions"] | None, typer.Option(help="What becomes of its keys.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
) -> None:
    """Take a released batch's files out of the index, the store and the CDN. Safe to run again."""
    from keyserver.export.replace import replace
    from keyserver.export.withdraw import approval_text, finish, for_good, withdraw

    with edge.runtime("keyserver export withdraw", blobs=True) as runtime:
        typer.echo(approval_text(runtime, batch, reason))
        if not yes:
            typer.confirm("Withdraw it?", abort=True)
        withdraw(runtime, batch, reason)
        finish(runtime, batch)
        typer.echo(f"Batch {batch} is withdrawn: its public URLs say so.")
        if then == "release-again":
            typer.echo(f"Batch {replace(runtime, batch, reason)} is planned in its place.")
        elif then is not None:
            planned = for_good(runtime, batch, reason, keep_revisions=then == "drop")
            told = f"batch {planned} tells its revisions" if planned else "no batch is planned in its place"
            typer.echo(f"Its keys are dropped: {told}.")


def _answered_in_airflow(batch: int, reason: str, *, approved: bool, keep_revisions: bool = True) -> bool:
    """Answer the open request in Airflow, whose task commits the decision; False when there is none to answer (B4)."""
    settings = edge.settings()
    if "airflow" not in settings.urls:
        return False
    from keyserver.audit import checked_reason
    from keyserver.providers.reviews import DAG, Answer, Reviews, run_of

    reviews = Reviews(settings.url("airflow"), settings.airflow_login, settings.airflow_password)
    try:
        answered = reviews.answer(batch, Answer(approved, checked_reason(reason), keep_revisions))
    except RemoteError as error:
        edge.warn([f"{error}: the decision is committed without it. If a request is open there, it changes nothing."])
        return False
    if answered:
        typer.echo(f"The request in Airflow is answered: run {run_of(batch)} of {DAG} commits the decision.")
    return answered
