"""A YAML document as plain values that know their lines.

Only what a configuration needs is accepted: mappings with text as keys, lists, text, plain whole numbers, true and
false, null, times. Tags, merge keys and aliases are refused, so nothing is ever constructed but these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from keyserver.errors import ConfigurationError

MAX_BYTES = 1_000_000

Place = tuple[str | int, ...]
Problem = tuple[Place, str]

_TAG = "tag:yaml.org,2002:"
_PLAIN_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass
class Document:
    """The values of a document, where each stands, and what was found wrong while reading.

    A place is the way to a value, as ``("feeds", 0, "period")``. Times are left as text.
    """

    file: Path
    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)  # scalars that are not text, as they were typed
    problems: list[tuple[int, Place, str]] = field(default_factory=list)
    unread: set[Place] = field(default_factory=set)  # their values are missing from `value`

    def line(self, place: Place) -> int:
        """Return the line of a value, or of what it is missing from."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)

    def refuse(self, place: Place, message: str) -> None:
        """Note a problem of the value at ``place``, unless there was no value to judge."""
        if not any(place[:depth] in self.unread for depth in range(len(place) + 1)):
            self.problems.append((self.line(place), place, message))

    def check(self) -> None:
        """Raise one ConfigurationError that lists every problem noted so far, in the order of the lines."""
        if self.problems:
            raise ConfigurationError(
                "\n".join(
                    f"{self.file}:{line}: {_way(place)}{message}"
                    for line, place, message in sorted(self.problems, key=lambda problem: problem[0])
                )
            )

    def refused(self, problems: Iterable[Problem]) -> None:
        """Raise one ConfigurationError for ``problems``, if there are any."""
        for place, message in problems:
            self.refuse(place, message)
        self.check()


def read(file: Path) -> Document:
    """Read a YAML document.

    What can be told apart is noted in the document's ``problems``. Raises ConfigurationError, with the line where there
    is one, for what stops the reading: no such file, more than `MAX_BYTES`, not UTF-8, not YAML.
    """
    document = Document(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{file} is larger than {MAX_BYTES} bytes; a configuration is far smaller")
    try:
        text = content.decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise ConfigurationError(f"{file}:1: the document is empty")
        document.value = _Reading(document).value(node, (), node.start_mark.line + 1)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{file}:{line}: this is not UTF-8") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(f"{file}:{line}: a character that YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(f"{file}:{_line(error)}: this is not YAML: {_reason(error)}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{file}: the document is nested too deeply") from error
    except (ValueError, OverflowError) as error:
        # PyYAML turns escapes such as "\UFFFFFFFF" into characters without looking.
        raise ConfigurationError(f"{file}: this is not YAML: an escape that names no character") from error
    return document


@dataclass
class _Reading:
    document: Document
    seen: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, place: Place, line: int) -> Any:
        self.document.lines[place] = line
        if id(node) in self.seen:
            return self.unreadable(place, "aliases (*name) are not supported: write the value out")
        self.seen.add(id(node))
        kind = node.tag.removeprefix(_TAG)
        match node:
            case yaml.MappingNode() if kind == "map":
                return self.mapping(node, place)
            case yaml.SequenceNode() if kind == "seq":
                return [self.value(item, (*place, n), item.start_mark.line + 1) for n, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self.scalar(node, kind, place)
        return self.unreadable(place, f"the tag {node.tag} is not supported")

    def mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                written = f"{key.value!r} as a name" if isinstance(key, yaml.ScalarNode) else "a name that is no text"
                self.document.problems.append((line, place, f"{written} is not supported; names are plain text"))
            elif key.value in values:
                first = self.document.lines[*place, key.value]
                self.document.problems.append((line, (*place, key.value), f"stands twice, first on line {first}"))
            else:
                values[key.value] = None  # so that a second one is noticed whatever becomes of the first
                values[key.value] = self.value(item, (*place, key.value), line)
        return values

    def scalar(self, node: yaml.ScalarNode, kind: str, place: Place) -> Any:
        text = node.value
        if kind == "str":
            return text
        self.document.written[place] = text
        if kind == "timestamp":
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in SafeConstructor.bool_values:
            return SafeConstructor.bool_values[text.lower()]
        if kind == "int" and _PLAIN_NUMBER.fullmatch(text):
            return int(text)
        return self.unreadable(
            place, f"YAML reads {text} as something that no configuration has: text goes in quotes, numbers are plain"
        )

    def unreadable(self, place: Place, message: str) -> None:
        self.document.refuse(place, message)
        self.document.unread.add(place)


def _way(place: Place) -> str:
    """Return ``feeds[0].period: ``; nothing for the document itself."""
    way = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
    return f"{way}: " if way else ""


def _line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return int(mark.line) + 1 if mark else 1


def _reason(error: yaml.MarkedYAMLError) -> str:
    reason = error.problem or error.context or "it cannot be parsed"
    if r"'\t'" in reason:
        return "a tab stands where only spaces may (indent with spaces)"
    return reason
