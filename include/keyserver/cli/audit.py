"""Read the audit trail, and verify all that is recorded, stored and public against it."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyserver.cli import edge

if TYPE_CHECKING:
    from datetime import datetime

    from keyserver.oversight.verify import Kept, Rebuilding
    from keyserver.runtime import Runtime
    from keyserver.settings import Settings

commands = edge.group("Read the audit trail, and verify what is stored and public against it.")

_SINCE = typer.Option("--from", help="A moment in UTC, such as 2026-03-02T10:00Z.")
_UNTIL = typer.Option("--to", help="A moment in UTC, not included.")
_JSON = typer.Option("--json", help="Print JSON.")


@commands.command("show")
def audit_show(event: int, *, as_json: Annotated[bool, _JSON] = False) -> None:
    """Print an audit event: of what, when, by which task, run, map index and try. With --json its very bytes."""
    from keyserver.oversight.trail import raw, show

    with edge.runtime("keyserver audit show", role="auditor") as runtime:
        typer.echo(raw(runtime, event) if as_json else "\n".join(show(runtime, event).sentences()))


@commands.command("list")
def audit_list(  # noqa: PLR0913 - an option each
    *,
    kind: Annotated[str | None, typer.Option(help="A kind, such as batch.held, or its first word.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="What events say of a batch.")] = None,
    run: Annotated[str | None, typer.Option(help="What a run of Airflow did: its run id.")] = None,
    since: Annotated[str | None, _SINCE] = None,
    until: Annotated[str | None, _UNTIL] = None,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most, the newest.")] = 100,
) -> None:
    """List audit events, the newest last, each with the task that made it."""
    from keyserver.oversight.trail import listed
    from keyserver.store.audit_trail import Wanted

    wanted = Wanted(kind, batch, run, _moment(since), _moment(until))
    with edge.runtime("keyserver audit list", role="auditor") as runtime:
        found = listed(runtime, wanted, most)
    for event in found:
        for sentence in event.sentences():
            typer.echo(sentence)
    if not found:
        typer.echo("There is no such event.")


@commands.command("verify")
def audit_verify(  # noqa: PLR0913 - an option each
    *,
    since: Annotated[str | None, _SINCE] = None,
    until: Annotated[str | None, _UNTIL] = None,
    cdn: Annotated[
        str | None, typer.Option(help="Where phones find indexes and files; else KEYSERVER_PUBLIC_URL.")
    ] = None,
    public_key: Annotated[
        list[Path],
        typer.Option(default_factory=list, help="A key that signs public logs, in PEM; once for each that ever did."),
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Compare with what this file says, then write down what was seen now.")
    ] = None,
    every_batch: Annotated[bool, typer.Option("--all", help="Make every batch again, not only the newest 20.")] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare audit trail, rows, public logs, files and ages with each other; one line a finding.

    Status 0 if nothing is wrong, 1 if something is, 2 if something did not answer. It reads as the auditor
    (KEYSERVER_AUDITOR_DATABASE_URL) and, if they are set, in the store (KEYSERVER_BLOBS_URL) and as the pipeline
    (KEYSERVER_PIPELINE_DATABASE_URL), whose rights making files again needs.
    """
    from keyserver.device.settings import load_trusted_key
    from keyserver.oversight.verify import Asked, verify
    from keyserver.oversight.wording import to_json

    keys = [load_trusted_key(path) for path in public_key]
    asked = Asked(_moment(since), _moment(until), keys, _kept(checkpoint), every_batch)
    settings = edge.settings()
    with _auditor(settings, cdn) as runtime, _rebuilding(settings) as rebuilding:
        report, to_keep = verify(runtime, asked, rebuilding)
    if as_json:
        typer.echo(to_json(report))
    else:
        for sentence in report.sentences():
            typer.secho(sentence, fg=typer.colors.RED if sentence.startswith("FINDING") else None)
    if checkpoint is not None and to_keep is not None:
        edge.replace(checkpoint, to_keep.dump())
    if report.status:
        raise typer.Exit(report.status)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else edge.parse_moment(text)


def _kept(checkpoint: Path | None) -> Kept | None:
    from keyserver.oversight.verify import Kept

    if checkpoint is None or not checkpoint.exists():
        return None
    return Kept.load(edge.content(checkpoint).decode(errors="replace"))


@contextmanager
def _auditor(settings: Settings, cdn: str | None) -> Iterator[Runtime]:
    """Lend a runtime with the auditor's rights, and the store and the public URL if they are given."""
    from keyserver.audit import Actor
    from keyserver.runtime import open_runtime

    runtime = open_runtime(
        Actor("keyserver audit verify"),
        settings.url("auditor"),
        blobs_url=settings.urls.get("blobs"),
        public_url=cdn or settings.urls.get("public"),
    )
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def _rebuilding(settings: Settings) -> Iterator[Rebuilding | None]:
    """Lend what making batches again needs, if the pipeline's role is given."""
    from keyserver.export.build import rebuild as build
    from keyserver.oversight.verify import Rebuilding

    if "pipeline" not in settings.urls:
        yield None
        return
    with edge.runtime("keyserver audit verify") as runtime:
        yield Rebuilding(runtime, build)
