"""Examine an installation."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated

import typer

from keyserver.cli import edge


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Look whether this installation can keep what is promised: a line a check. Status 1 if something is wrong.

    It looks at what the environment names, and says what it cannot see. It changes nothing.
    """
    from datetime import UTC, datetime

    from keyserver.oversight.doctor import examine

    diagnosis = examine(edge.settings(), datetime.now(UTC))
    edge.answer(diagnosis, diagnosis.problems, as_json=as_json)
