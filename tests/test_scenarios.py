"""Publish.md 10 and export.md 5: each scenario has a test named after it, or stands in docs/quirks.md.

Those of export.md have no numbers there: tests/export/test_reference_scenarios.py says which they are.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# The scenarios, how the names of their tests begin, and the heading above those that were changed or dropped.
PUBLISH = (range(1, 111), "scenario", "## Scenarios ")
EXPORT = (range(1, 33), "export_scenario", "## Export scenarios ")


def numbers(name: str) -> set[int]:
    """The numbers of 12_..., 29_and_109_..., 40_to_47_..., up to the first word that is something else."""
    found: set[int] = set()
    until = False
    for word in name.split("_"):
        if word.isdigit():
            found |= set(range(max(found), int(word) + 1)) if until else {int(word)}
        elif word not in {"and", "to"}:
            break
        until = word == "to"
    return found


def with_a_test(begins: str) -> set[int]:
    names = [
        name
        for path in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(rf"^def test_{begins}s?_(\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return set().union(*map(numbers, names))


def decided_otherwise(heading: str) -> set[int]:
    section = (PROJECT / "docs" / "quirks.md").read_text(encoding="utf-8").partition(heading)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
    return {int(number) for row in rows for number in row.split(",")}


def test_numbers_are_read():
    assert numbers("29_and_109_equivalent_encodings") == {29, 109}
    assert numbers("43_to_48_which_2") == set(range(43, 49))
    assert numbers("57_60_62_and_65_the_token") == {57, 60, 62, 65}


@pytest.mark.parametrize(("scenarios", "begins", "heading"), [PUBLISH, EXPORT], ids=["publish", "export"])
def test_every_scenario_has_a_test_or_a_reason(scenarios, begins, heading):
    assert len(decided_otherwise(heading)) > 10
    assert set(scenarios) - with_a_test(begins) - decided_otherwise(heading) == set()
    assert with_a_test(begins) | decided_otherwise(heading) <= set(scenarios)
