"""Every suite of `keyserver.quality`: what holds for all its expectations, and that each can fail and can be met.

A module with a `SUITE` has its cases in `cases_<module>.py`: `passing`, which puts every expectation of the suite so
that it is met, and `CASES`, pairs of an expectation's name and what puts the suite so that this one is not. Both are
given pytest's request, for the fixtures that they need, and give outcomes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

import pytest

from keyserver import quality

MODULES = [
    module
    for name in sorted(module.name for module in pkgutil.iter_modules(quality.__path__))
    if hasattr(module := importlib.import_module(f"keyserver.quality.{name}"), "SUITE")
]
CASES = {module: importlib.import_module(f"tests.quality.cases_{module.__name__.split('.')[-1]}") for module in MODULES}
ENTRIES = [
    pytest.param(module, entry, id=f"{module.NAME}: {entry.name}") for module in MODULES for entry in module.SUITE
]
FAILING = [
    pytest.param(module, name, case, id=f"{module.NAME}: {name} {number}")
    for module in MODULES
    for number, (name, case) in enumerate(CASES[module].CASES)
]
by_suite = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.NAME)


def test_every_suite_has_a_name_of_its_own():
    assert MODULES
    assert len({module.NAME for module in MODULES}) == len(MODULES)


@by_suite
def test_a_suite_names_an_expectation_once(module):
    assert [name for name, count in Counter(entry.name for entry in module.SUITE).items() if count > 1] == []


@by_suite
def test_every_case_is_of_an_expectation(module):
    assert {name for name, _ in CASES[module].CASES} <= {entry.name for entry in module.SUITE}


@pytest.mark.parametrize(("module", "entry"), ENTRIES)
def test_an_expectation_has_a_case_in_which_it_fails(module, entry):
    assert entry.name in {name for name, _ in CASES[module].CASES}


@pytest.mark.parametrize(("module", "entry"), ENTRIES)
def test_an_expectation_says_why_whose_and_how_grave_it_is(module, entry):
    assert entry.reason
    assert entry.owner
    assert entry.expected
    assert entry.severity in ("block", "warn")


@by_suite
def test_every_expectation_is_put_and_met(module, request):
    outcomes = CASES[module].passing(request)
    assert [str(outcome) for outcome in outcomes if not outcome.met] == []
    assert [outcome.expectation for outcome in outcomes] == [entry.name for entry in module.SUITE]


@pytest.mark.parametrize(("module", "name", "case"), FAILING)
def test_an_expectation_is_not_met_in_its_case(module, name, case, request):
    found = {outcome.expectation: outcome.found for outcome in case(request) if not outcome.met}
    assert name in found
    assert found[name] != "that it could not be evaluated"
