"""Declare authorities, apps, feeds and signing keys."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyserver.cli import edge

commands = edge.group("Declare authorities, apps, feeds and signing keys.")


@commands.command("check")
def configuration_check(file: Path) -> None:
    """Check a document by itself, without the database, and print the SHA-256 of its content."""
    from keyserver.configuration.load import load

    typer.echo(f"{file} has no mistakes. SHA-256 of its content: {load(file).sha256}")


@commands.command("apply")
def configuration_apply(
    file: Path,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make the database hold what a document declares. Safe to run again."""
    from keyserver.configuration.apply import apply

    with edge.runtime("keyserver configuration apply") as runtime:
        sentences = apply(runtime, file, dry_run=dry_run)
    for sentence in sentences:
        typer.echo(sentence)
    if not sentences:
        typer.echo("Nothing changes: all of it is stored already.")
    elif dry_run:
        typer.echo("This was a dry run: nothing is changed yet.")
