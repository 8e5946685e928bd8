"""The engine: the same expectations on pandas and on PostgreSQL give the same outcomes, and tell nothing else."""

from __future__ import annotations

import logging

import pandas as pd
import psycopg
import pytest

from keyserver.errors import RemoteError, StoreError
from keyserver.quality.suite import Expectation, Outcome, between, highest, in_set, validate, validate_sql

SUITE = (
    Expectation("sizes are small", "fish", "the net is small", "1 to {facts[most]}", between("size", 1, 3)),
    Expectation(
        "sizes are known",
        "fish",
        "the scale is coarse",
        "1 or 2",
        in_set("size", 1, 2),
        found="{count} of {of} {table}: {values}",
    ),
    Expectation("none is larger", "fish", "the net is small", "{facts[most]} or less", highest("size", 2)),
    Expectation(
        "sizes are usual",
        "fish",
        "the season",
        "1 to 2",
        lambda gxe, _: gxe.ExpectColumnMeanToBeBetween(column="size", min_value=1, max_value=2),
        severity="warn",
        owner="fishers",
        found="{value:.2f}",
    ),
    Expectation(
        "fish number as told",
        "fish",
        "none is lost",
        "{facts[fish]}",
        lambda gxe, facts: gxe.ExpectTableRowCountToEqual(value=facts["fish"]),
        of_rows=False,
    ),
    Expectation(
        "boats number as told",
        "boats",
        "none is lost",
        "{facts[boats]}",
        lambda gxe, facts: gxe.ExpectTableRowCountToEqual(value=facts["boats"]),
        of_rows=False,
    ),
    Expectation("boats float", "boats", "of rows", "true", in_set("floats", True)),
    Expectation("what is not known is not asked", "fish", "a fact is missing", "nothing", lambda _gxe, _facts: None),
)
FACTS = {"most": 3, "fish": 5, "boats": 0}
SIZES = [1, 2, 2, 3, 4, None]


def on_pandas(sizes, test_database):
    fish = pd.DataFrame({"size": sizes}, dtype=float)
    return validate(SUITE, {"fish": fish, "boats": pd.DataFrame({"floats": []})}, FACTS)


def on_postgresql(sizes, test_database):
    values = ", ".join("(NULL::integer)" if size is None else f"({size})" for size in sizes)
    queries = {
        "fish": f"SELECT size FROM (VALUES {values}) AS fish (size);\n",
        "boats": "SELECT true AS floats WHERE false",
    }
    return validate_sql(SUITE, test_database.database("pipeline").connect, queries, FACTS)


both = pytest.mark.parametrize("put", [on_pandas, on_postgresql])


@both
def test_outcomes_say_what_was_expected_and_found(put, test_database):
    outcomes = {outcome.expectation: outcome for outcome in put(SIZES, test_database)}
    assert list(outcomes) == [entry.name for entry in SUITE if entry.name not in ("boats float", NOT_ASKED)]
    assert [str(outcome) for outcome in outcomes.values() if not outcome.met] == [
        "sizes are small: expected 1 to 3, found 1 of 6 fish otherwise",
        "sizes are known: expected 1 or 2, found 2 of 6 fish: 3, 4",
        "none is larger: expected 3 or less, found 4",
        "sizes are usual: expected 1 to 2, found 2.40",
        "fish number as told: expected 5, found 6",
    ]
    assert outcomes["boats number as told"] == Outcome(
        "boats number as told", "block", "export", "none is lost", True, "0", "0", 0.0
    )
    assert outcomes["sizes are usual"].observed == pytest.approx(2.4)
    assert outcomes["sizes are usual"].owner == "fishers"
    assert {outcome.expectation: outcome.blocks for outcome in outcomes.values()} == {
        "sizes are small": True,
        "sizes are known": True,
        "none is larger": True,
        "sizes are usual": False,
        "fish number as told": True,
        "boats number as told": False,
    }


NOT_ASKED = "what is not known is not asked"


@both
def test_all_may_be_met(put, test_database):
    outcomes = put([1, 2, 2, 1, 2], test_database)
    assert [str(outcome) for outcome in outcomes if not outcome.met] == []
    assert [outcome.found for outcome in outcomes] == ["5 fish, all so", "5 fish, all so", "2", "1.60", "5", "0"]


@both
def test_values_are_shown_up_to_a_few(put, test_database):
    outcomes = {outcome.expectation: outcome for outcome in put([*range(-5, 6), 2.5], test_database)}
    assert outcomes["sizes are known"].found == "10 of 12 fish: -5, -4, -3, -2, -1, ..."


@both
def test_nothing_is_printed_or_logged(put, test_database, capfd, caplog):
    caplog.set_level(logging.INFO)
    assert put(SIZES, test_database)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_column_that_is_missing_is_not_met_and_the_others_are(test_database, caplog):
    queries = {"fish": "SELECT 7 AS length", "boats": "SELECT true AS floats"}
    outcomes = validate_sql(SUITE, test_database.database("pipeline").connect, queries, FACTS | {"boats": 1})
    assert {outcome.expectation: outcome.found for outcome in outcomes} == {
        "sizes are small": "that it could not be evaluated",
        "sizes are known": "that it could not be evaluated",
        "none is larger": "that it could not be evaluated",
        "sizes are usual": "that it could not be evaluated",
        "fish number as told": "1",
        "boats number as told": "1",
        "boats float": "1 boats, all so",
    }
    assert {outcome.expectation for outcome in outcomes if outcome.met} == {"boats number as told", "boats float"}
    assert caplog.records == []


def test_postgresql_is_only_read_from_and_no_connection_is_left(test_database):
    opened = []

    def connect():
        opened.append(test_database.database("pipeline").connect())
        opened[-1].execute("SET default_transaction_read_only = on")
        return opened[-1]

    outcomes = validate_sql(SUITE, connect, {"fish": "SELECT 1 AS size"}, FACTS)
    assert {outcome.found for outcome in outcomes} == {"1 fish, all so", "1", "1.00"}
    assert opened
    assert all(connection.closed for connection in opened)


def test_a_database_out_of_reach_says_so_without_its_address():
    def connect():
        return psycopg.connect("postgresql://somebody:secret@127.0.0.1:1/nowhere", connect_timeout=1)

    with pytest.raises(RemoteError) as raised:
        validate_sql(SUITE, connect, {"fish": "SELECT 1 AS size"}, FACTS)
    assert "secret" not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)


def test_a_query_that_the_database_refuses_is_an_error_of_ours(test_database):
    with pytest.raises(StoreError, match="syntax error"):
        validate_sql(SUITE, test_database.database("pipeline").connect, {"fish": "SELECT FROM FROM"}, FACTS)
