"""After a restore of an older database: what the store has that it does not know, and the end of that."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated

import typer

from keyserver.cli import edge


def reconcile(
    *, confirm: Annotated[bool, typer.Option("--confirm", help="Do it: the database was restored.")] = False
) -> None:
    """After a restore of an older backup: name what the store has and the database does not know.

    Without --confirm nothing changes, and the status is 1 if anything was found. With it unknown objects are removed,
    what the public log said is moved aside (it stays public), and the audit trail tells of the restore. Stop Airflow's
    scheduler before. Safe to run again.
    """
    from functools import partial

    from keyserver.export.index import write_all
    from keyserver.export.replace import replace
    from keyserver.export.withdraw import finish, withdraw
    from keyserver.oversight.reconcile import Hands, settle
    from keyserver.oversight.restored import find

    with edge.runtime("keyserver reconcile", blobs=True) as runtime:
        found = find(runtime)
        for sentence in found.sentences():
            typer.echo(sentence)
        if not found.problems:
            return
        if not confirm:
            typer.secho("Nothing is changed. If this is what a restore left, run it with --confirm.", err=True)
            raise typer.Exit(1)
        taken_back: list[int] = []

        def take_back(batch: int, reason: str) -> None:
            withdraw(runtime, batch, reason)
            taken_back.append(batch)

        hands = Hands(take_back, partial(replace, runtime), partial(write_all, runtime))
        for sentence in settle(runtime, found, hands):
            typer.echo(sentence)
        for batch in taken_back:
            finish(runtime, batch)  # last: until the CDN's caches are empty it asks to be run again
