"""What commands share: groups, settings, a runtime for the time of a command, and how answers are printed."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

import typer

from keyserver.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from keyserver.runtime import Runtime
    from keyserver.settings import Settings


class Answer(Protocol):
    """What a use case found, to be told in plain sentences or, being a dataclass, as JSON."""

    def sentences(self) -> list[str]:
        """Say it, a line each."""


def group(help_: str) -> typer.Typer:
    """Make a group of commands; alone it prints its help."""
    return typer.Typer(help=help_, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def settings() -> Settings:
    """Read the environment."""
    from keyserver.settings import Settings

    return Settings.from_environment(os.environ)


@contextmanager
def runtime(
    command: str,
    *,
    role: Literal["pipeline", "retention", "auditor"] = "pipeline",
    blobs: bool = False,
    keywrap: bool = False,
    signer: bool = False,
) -> Iterator[Runtime]:
    """Lend a runtime with a role's rights, for a command that audit events will name."""
    from keyserver.audit import Actor
    from keyserver.runtime import open_runtime

    given = settings()
    blobs_url = given.url("blobs") if blobs else None
    keywrap_url = given.url("keywrap") if keywrap else None
    signer_url = given.url("signer") if signer else None
    opened = open_runtime(
        Actor(command),
        given.url(role),
        blobs_url=blobs_url,
        signer_url=signer_url,
        keywrap_url=keywrap_url,
        public_url=given.urls.get("public"),
    )
    try:
        yield opened
    finally:
        opened.close()


def answer(found: Answer, problems: Sequence[str], *, as_json: bool) -> None:
    """Print what was found; with problems, the status is 1."""
    from keyserver.oversight.wording import to_json

    typer.echo(to_json(found) if as_json else "\n".join(found.sentences()))
    if problems:
        raise typer.Exit(1)


def warn(warnings: Sequence[str]) -> None:
    """Print warnings, a line each."""
    for warning in warnings:
        typer.secho(f"WARNING: {warning}", fg=typer.colors.YELLOW)


def moment(at: datetime) -> str:
    """Write a moment in UTC, RFC 3339."""
    from datetime import UTC

    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_moment(text: str) -> datetime:
    """Read a moment; without a zone it is in UTC.

    Raises `ConfigurationError` for what is none.
    """
    from datetime import UTC, datetime

    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("give a moment in UTC, such as 2026-03-02T10:00Z") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def content(file: Path) -> bytes:
    """Read a file; `ConfigurationError` when that cannot be done."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


def replace(file: Path, text: str) -> None:
    """Write a file so that whoever interrupts it leaves the old one."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        unfinished.write_text(text)
        unfinished.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
