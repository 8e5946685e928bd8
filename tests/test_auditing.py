"""The commands of docs/auditing.md exist as they are written there: group, command, options, arguments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from keyserver import cli

PAGE = (Path(__file__).parents[1] / "docs" / "auditing.md").read_text(encoding="utf-8")
INLINE = sorted(set(re.findall(r"`(keyserver [^`\n]*)`", PAGE)))
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def command_of(line: str):
    """The command that a line names, and what follows it."""
    words = shlex.split(line)
    assert words.pop(0) == "keyserver"
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and words:
        command = command.commands[words.pop(0)]
    return command, words


@pytest.mark.parametrize("line", BLOCKS)
def test_a_command_that_is_written_out_can_be_run(line):
    command, words = command_of(line)
    command.make_context(line, words)


@pytest.mark.parametrize("line", INLINE)
def test_a_command_that_is_named_exists(line):
    command, words = command_of(line)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_it_begins_with_three_questions_each_with_its_command():
    sections = re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert [title.endswith("?") for title, _ in sections[:4]] == [True, True, True, False]
    for _, text in sections[:3]:
        assert "```sh\nkeyserver " in text
        assert "*How to read it.*" in text
