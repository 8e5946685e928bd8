"""Cases of the suite on public files: what a look found. How a look finds it is tested in tests/watch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyserver.quality.publicfiles import SUITE, Difference, PublicFiles, tables
from keyserver.quality.suite import validate
from keyserver.store.quality import Outcome

LINES = ["north/1.zip", "north/2.zip", "south/1.zip"]
OBJECTS = [*LINES, "north/index.txt", "north/log/index.txt", "south/index.txt"]


def check(*differences: Difference) -> list[Outcome]:
    """Put the suite to a look at which one file had no turn, and another was only asked for."""
    facts = PublicFiles(
        ["north", "south"], LINES, OBJECTS, frozenset(LINES[1:]), frozenset(LINES[2:]), frozenset(differences)
    )
    return validate(SUITE, tables(facts), facts)


def passing(_: pytest.FixtureRequest) -> list[Outcome]:
    return check()


def _case(table: str, column: str, name: str) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    return lambda _: check(Difference(table, column, name))


CASES = [
    ("indexes can be read", _case("indexes", "index_readable", "north")),
    ("indexes are in order", _case("indexes", "index_ordered", "north")),
    ("public logs are current", _case("indexes", "log_current", "south")),
    ("indexes list every released file", _case("index lines", "line_served", "north/1.zip")),
    ("indexes list released files only", _case("index lines", "line_known", "north/1.zip")),
    ("no line is too old", _case("index lines", "line_in_time", "north/1.zip")),
    ("files are in the store", _case("index lines", "line_stored", "north/1.zip")),
    ("files can be fetched", _case("index lines", "line_answers", "north/2.zip")),
    ("files are those that were released", _case("index lines", "bytes_as_recorded", "north/2.zip")),
    ("files verify", _case("index lines", "line_verifies", "south/1.zip")),
    ("the store holds nothing unlisted", _case("objects", "object_known", "north/1.zip")),
    ("no file is kept too long", _case("objects", "object_in_time", "north/1.zip")),
]
