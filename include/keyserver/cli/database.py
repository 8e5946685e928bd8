"""Set the database up."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import typer

from keyserver.cli import edge

commands = edge.group("Set the database up.")

_ROLES = ("migrate", "api", "pipeline", "rewriter", "retention", "auditor", "verification")


@commands.command("setup")
def database_setup() -> None:
    """Make the roles and the database, as the superuser of KEYSERVER_ADMIN_DATABASE_URL. Safe to run again."""
    from keyserver.store.database import set_up

    settings = edge.settings()
    set_up(settings.url("admin"), {f"keyserver_{role}": settings.url(role) for role in _ROLES})
    typer.echo("The database and its roles are there.")


@commands.command("migrate")
def database_migrate() -> None:
    """Bring the schema to the newest version and start the release clock. Safe to run again."""
    from keyserver.store.database import migrate

    settings = edge.settings()
    migrate(settings.url("migrate"), settings.window_minutes)
    typer.echo(f"The schema is the newest; windows are {settings.window_minutes} minutes wide.")
