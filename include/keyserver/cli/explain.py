"""Say where a key is, what became of a window, or what a file is."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from typing import Annotated

import typer

from keyserver.cli import edge
from keyserver.errors import ConfigurationError


def explain(
    context: typer.Context,
    key: Annotated[
        str | None,
        typer.Argument(help="A key in base64 or hexadecimal; better -, to read it from the terminal or a pipe."),
    ] = None,
    *,
    window: Annotated[str | None, typer.Option(help="Explain a window: its start, such as 2026-03-02T10:00Z.")] = None,
    file: Annotated[str | None, typer.Option(help="Explain a file: its name as the index lists it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say where a key is or why it is nowhere, what became of a window, or what a file is. No key is printed or logged.

    A key that is an argument is seen by other users of the machine and kept in the shell's history: with - it is not.
    """
    from keyserver.oversight import explain as keys_explained
    from keyserver.oversight.provenance import provenance
    from keyserver.oversight.window import explain_window

    # Not left to the parser of options, which would repeat what it does not know, and that may be a key.
    if context.args or (key is not None) + (window is not None) + (file is not None) != 1:
        raise ConfigurationError("give one of: a key, --window START, --file NAME; and --json, if you want that")
    wanted = None if key is None else keys_explained.parse_key(_from_input() if key == "-" else key)
    with edge.runtime("keyserver explain", blobs=wanted is not None) as runtime:
        if wanted is not None:
            edge.answer(keys_explained.explain_key(runtime, wanted), [], as_json=as_json)
        elif window is not None:
            of_window = explain_window(runtime, edge.parse_moment(window))
            edge.answer(of_window, of_window.problems, as_json=as_json)
        else:
            of_file = provenance(runtime, file or "")
            edge.answer(of_file, of_file.problems, as_json=as_json)


def _from_input() -> str:
    """Read one line: unseen from a terminal, else from what is piped in."""
    from getpass import getpass

    return getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline(1000)
