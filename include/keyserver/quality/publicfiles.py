"""What the CDN must serve: indexes, files, public logs, and nothing else in the store (B5 to B9, R2, A3).

The expectations are put to what a look found (`keyserver.watch.publicfiles`): rows of names, and what was otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyserver.quality.suite import Expectation

if TYPE_CHECKING:
    import pandas as pd

NAME = "public files"

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it should be: a column of a table's row of this name, and what of it in particular."""

    table: str
    column: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        """Name it."""
        return f"{self.name} ({self.detail})" if self.detail else self.name


@dataclass(frozen=True, slots=True)
class PublicFiles:
    """What a look found. Of the index lines, some were asked for and fewer fetched whole; the others had no turn."""

    feeds: Sequence[str]
    lines: Sequence[str]
    objects: Sequence[str]
    asked: frozenset[str] = frozenset()
    fetched: frozenset[str] = frozenset()
    differences: frozenset[Difference] = frozenset()

    @property
    def named(self) -> dict[str, str]:
        """Name, by the column, what is not as it should be."""
        columns = {difference.column for difference in self.differences}
        return {column: self._named(column) for column in columns}

    def _named(self, column: str) -> str:
        named = sorted(str(difference) for difference in self.differences if difference.column == column)
        more = f" and {len(named) - _MOST_NAMED} more" if named[_MOST_NAMED:] else ""
        return ", ".join(named[:_MOST_NAMED]) + more


def tables(facts: PublicFiles) -> dict[str, pd.DataFrame]:
    """Tabulate a look: a row for each name, a column for each expectation; none where it had no turn."""
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    rows = {"indexes": facts.feeds, "index lines": facts.lines, "objects": facts.objects}
    looked_at = {"line_answers": facts.asked, "bytes_as_recorded": facts.asked, "line_verifies": facts.fetched}
    otherwise = {(difference.table, difference.column, difference.name) for difference in facts.differences}
    columns: dict[str, dict[str, list[bool | None]]] = {table: {} for table in rows}
    for entry, column in _COLUMNS.items():
        table = _TABLES[entry]
        seen = looked_at.get(column)
        columns[table][column] = [
            (table, column, name) not in otherwise if seen is None or name in seen else None for name in rows[table]
        ]
    return {table: pd.DataFrame(content, dtype="object") for table, content in columns.items()}


def _holds(column: str) -> Callable[[Any, Any], Any]:
    return lambda gxe, _: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True])


def _expect(name: str, table: str, column: str, reason: str, expected: str) -> tuple[Expectation, str]:
    found = f"{{count}} of {{of}} {{table}} otherwise: {{facts.named[{column}]}}"
    return Expectation(name, table, reason, expected, _holds(column), found=found), column


_ENTRIES = (
    _expect(
        "indexes can be read",
        "indexes",
        "index_readable",
        "without its index a phone finds no file",
        "an answer of one relative path a line",
    ),
    _expect(
        "indexes are in order",
        "indexes",
        "index_ordered",
        "phones remember the last line that they read (B6)",
        "lines in the order of their release",
    ),
    _expect(
        "public logs are current",
        "indexes",
        "log_current",
        "what is released or withdrawn is said in public (A3)",
        "every line that the database has",
    ),
    _expect(
        "indexes list every released file",
        "index lines",
        "line_served",
        "an index is a function of the database (B6)",
        "a line for each released file",
    ),
    _expect(
        "indexes list released files only",
        "index lines",
        "line_known",
        "an index is a function of the database (B6)",
        "no line that the database does not know as released",
    ),
    _expect(
        "no line is too old",
        "index lines",
        "line_in_time",
        "a line goes 14 days after its batch's start (R2)",
        "none older than the retention period and one run of enforce_retention",
    ),
    _expect(
        "files are in the store",
        "index lines",
        "line_stored",
        "no index names what is missing (B5)",
        "an object for each line",
    ),
    _expect(
        "files can be fetched",
        "index lines",
        "line_answers",
        "a phone gives up an index of which a file is missing",
        "an answer for each line",
    ),
    _expect(
        "files are those that were released",
        "index lines",
        "bytes_as_recorded",
        "a file never changes (B9)",
        "the recorded size, and SHA-256 where the file's turn has come",
    ),
    _expect(
        "files verify",
        "index lines",
        "line_verifies",
        "a phone refuses any other",
        "a file that both platforms accept, signed by its batch's keys, where its turn has come",
    ),
    _expect(
        "the store holds nothing unlisted",
        "objects",
        "object_known",
        "whoever guesses a name can fetch what is there",
        "files of an index, in their grace, being withdrawn or about to be released; indexes and logs",
    ),
    _expect(
        "no file is kept too long",
        "objects",
        "object_in_time",
        "a file goes a day after its line (R2)",
        "none older than its grace and one run of enforce_retention",
    ),
)

SUITE: tuple[Expectation, ...] = tuple(expectation for expectation, _ in _ENTRIES)
_COLUMNS = {expectation.name: column for expectation, column in _ENTRIES}
_TABLES = {expectation.name: expectation.table for expectation in SUITE}
