"""The gate's suite on files: what each expectation says of the file that it refuses, and what is just allowed."""

from __future__ import annotations

import base64
from dataclasses import replace

import pandas as pd
import pytest

from keyserver.quality.exportfiles import SUITE, check_files
from keyserver.quality.suite import validate
from keyserver.store.quality import Outcome
from tests.quality.cases_exportfiles import (
    ALSO,
    END,
    FACTS,
    FAILING,
    KEYS,
    LISTED,
    good,
    keys_out_of_order,
    set_facts,
    set_metadata,
)


def unmet(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.met]


def leaks(outcomes: list[Outcome]) -> list[bytes]:
    """The keys that stand in outcomes, in whatever form."""
    text = "".join(repr(outcome) + str(outcome) for outcome in outcomes)
    forms = [bytes.hex, lambda key: base64.b64encode(key).decode()[:20], lambda key: repr(key)[2:-1]]
    return [key for key in KEYS if any(form(key).lower() in text.lower() for form in forms)]


@pytest.mark.parametrize(
    ("name", "spoil", "expected", "found"), FAILING, ids=[f"{n}-{name}" for n, (name, *_) in enumerate(FAILING)]
)
def test_what_an_expectation_refuses(name, spoil, expected, found):
    staging = good()
    spoil(staging)
    outcomes = staging.check()
    assert {outcome.expectation for outcome in unmet(outcomes)} == {name} | ALSO.get(name, set())
    (outcome,) = (outcome for outcome in outcomes if outcome.expectation == name)
    assert (outcome.expected, outcome.found) == (expected, found)
    assert outcome.blocks == (outcome.severity == "block")
    assert str(outcome) == f"{name}: expected {expected}, found {found}"
    assert leaks(outcomes) == []


@pytest.mark.parametrize(
    "spoil",
    [
        set_metadata(rolling_start=int(END.timestamp()) // 600 - 13),
        set_metadata(rolling_start=int(FACTS.cutoff.timestamp()) // 600 - 1),
        set_metadata(transmission_risk=8, days_since_onset=14, report_type=3, rolling_period=144),
        set_metadata(days_since_onset=-14, rolling_period=1),
        set_facts(max_keys=6),
    ],
    ids=["ended two hours before", "ended at the cutoff", "highest values", "lowest values", "a full file"],
)
def test_what_is_just_allowed_passes(spoil):
    staging = good()
    spoil(staging)
    assert unmet(staging.check()) == []


@pytest.mark.parametrize("bytes_of", [lambda data: data[:-1], lambda _: b"", lambda data: data + b"\0"])
def test_other_bytes_than_those_built_are_not_even_decoded(bytes_of):
    (first, first_data), (second, second_data) = good().files()
    (outcome,) = unmet(check_files(FACTS, [(first, first_data), (second, bytes_of(second_data))], never))
    assert str(outcome) == (
        "staged bytes are those that were built: expected the recorded SHA-256, found 1 of 2 staged files otherwise"
    )


def never(_keys: bytes, _revised_keys: bytes):
    pytest.fail("the database was asked for keys of a file that is not what was built")


def test_a_batch_without_files_is_refused():
    assert {outcome.expectation for outcome in check_files(FACTS, [], lambda *_: LISTED) if outcome.blocks} == {
        "keys number as stored",
        "revised keys number as stored",
    }


def test_an_empty_file_is_refused():
    staging = good()
    staging.keys[1], staging.revised[1] = [], []
    staging.facts = replace(FACTS, keys=4, revised_keys=2, least_keys=4)
    (outcome,) = unmet(staging.check())
    assert str(outcome) == "files are within the maximum: expected 1 to 6 keys, found 1 of 2 files otherwise: 0"


def test_what_is_not_known_is_not_asked():
    staging = good()
    staging.facts = replace(FACTS, rows_when_closed=None, most_synthetic=None)
    outcomes = staging.check()
    assert unmet(outcomes) == []
    assert {entry.name for entry in SUITE} - {outcome.expectation for outcome in outcomes} == {
        "rows number as when the windows closed",
        "keys were not padded too much",
    }


def test_what_is_expected_of_rows_is_not_asked_of_none():
    staging = good()
    staging.revised = [[], []]
    staging.facts = replace(FACTS, revised_keys=0)
    outcomes = staging.check()
    assert unmet(outcomes) == []
    assert [outcome.expectation for outcome in outcomes if "revised keys" in outcome.expectation] == [
        "revised keys number as stored",
        "revised keys were out before",
    ]


def test_outcomes_come_in_the_suites_order_and_with_what_was_measured():
    outcomes = good().check()
    assert [outcome.expectation for outcome in outcomes] == [entry.name for entry in SUITE]
    observed = {outcome.expectation: outcome.observed for outcome in outcomes}
    assert observed["keys number as stored"] == 6
    assert observed["the share of confirmed is usual"] == 0.5
    assert observed["the number of real keys is usual"] == 3


def test_a_number_is_said_whole():
    staging = good()
    staging.listed = replace(LISTED, strangers=1_234_567)
    (outcome,) = unmet(staging.check())
    assert outcome.found == "1234567"


@pytest.mark.parametrize("table", sorted({entry.table for entry in SUITE}))
def test_what_cannot_be_evaluated_is_not_met(table):
    outcomes = validate(SUITE, {table: pd.DataFrame({"another": [1]})}, FACTS)
    assert [outcome.expectation for outcome in outcomes] == [entry.name for entry in SUITE if entry.table == table]
    unanswered = [outcome for outcome in outcomes if outcome.expectation not in OF_THE_NUMBER_OF_ROWS]
    assert unanswered
    assert {(outcome.met, outcome.found) for outcome in unanswered} == {(False, "that it could not be evaluated")}


OF_THE_NUMBER_OF_ROWS = {"keys number as stored", "revised keys number as stored", "keys were padded"}


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level("INFO")
    staging = good()
    keys_out_of_order("keys")(staging)
    assert unmet(staging.check())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
