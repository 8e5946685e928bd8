"""The command line: one group a topic, each command a call of one use case.

Settings come from the environment. A command that cannot do its work ends with one message and status 1, or 2 when
trying again may help.
"""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyserver.errors import ConfigurationError, KeyserverError, RemoteError

if TYPE_CHECKING:
    from keyserver.runtime import Runtime
    from keyserver.settings import Settings

_ROLES = ("migrate", "api", "pipeline", "rewriter", "auditor")


def _group(help_: str) -> typer.Typer:
    return typer.Typer(help=help_, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


app = _group("Run an Exposure Notifications key server.")
database = _group("Set the database up.")
configuration = _group("Declare authorities, apps, feeds and signing keys.")
keys = _group("Keep the keys that sign released files.")
app.add_typer(database, name="database")
app.add_typer(configuration, name="configuration")
app.add_typer(keys, name="keys")


def main() -> None:
    """Run the command that the arguments name."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keyserver").setLevel(logging.INFO)
    try:
        app()
    except KeyserverError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(2 if isinstance(error, RemoteError) else 1)


@database.command("setup")
def database_setup() -> None:
    """Make the roles and the database, as the superuser of KEYSERVER_ADMIN_DATABASE_URL. Safe to run again."""
    from keyserver.store.database import set_up

    settings = _settings()
    set_up(settings.url("admin"), {f"keyserver_{role}": settings.url(role) for role in _ROLES})
    typer.echo("The database and its roles are there.")


@database.command("migrate")
def database_migrate() -> None:
    """Bring the schema to the newest version and start the release clock. Safe to run again."""
    from keyserver.store.database import migrate

    settings = _settings()
    migrate(settings.url("migrate"), settings.window_minutes)
    typer.echo(f"The schema is the newest; windows are {settings.window_minutes} minutes wide.")


@configuration.command("check")
def configuration_check(file: Path) -> None:
    """Check a document by itself, without the database, and print the SHA-256 of its content."""
    from keyserver.configuration.load import load

    typer.echo(f"{file} has no mistakes. SHA-256 of its content: {load(file).sha256}")


@configuration.command("apply")
def configuration_apply(
    file: Path,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make the database hold what a document declares. Safe to run again."""
    from keyserver.configuration.apply import apply

    with _pipeline("keyserver configuration apply") as runtime:
        sentences = apply(runtime, file, dry_run=dry_run)
    for sentence in sentences:
        typer.echo(sentence)
    if not sentences:
        typer.echo("Nothing changes: all of it is stored already.")
    elif dry_run:
        typer.echo("This was a dry run: nothing is changed yet.")


@keys.command("generate")
def keys_generate(
    name: str,
    *,
    public: Annotated[Path, typer.Option(help="The new file for the public key, in PEM.")],
) -> None:
    """Make an export signing key in the signer of KEYSERVER_SIGNER_URL. The private key never leaves it."""
    from keyserver.providers.signers import generate

    url = _settings().url("signer")
    try:
        # Before the key: one that was made is never made again.
        with public.open("x") as file:
            try:
                file.write(generate(url, name))
            except BaseException:
                public.unlink()
                raise
    except OSError as error:
        raise ConfigurationError(f"{public} cannot be written: {error.strerror}") from error
    typer.echo(f"Signing key {name} is made; its public key is in {public}.")


def _settings() -> Settings:
    from keyserver.settings import Settings

    return Settings.from_environment(os.environ)


@contextmanager
def _pipeline(command: str) -> Iterator[Runtime]:
    """Lend a runtime with the pipeline's rights, for a command that audit events will name."""
    from keyserver.audit import Actor
    from keyserver.runtime import open_runtime

    runtime = open_runtime(Actor(command), _settings().url("pipeline"))
    try:
        yield runtime
    finally:
        runtime.close()
