"""The engine: puts a suite's expectations to tables, in pandas or in PostgreSQL, by Great Expectations.

A suite is a tuple of `Expectation`s. What comes out is an `Outcome` each, in numbers and our own words: no value of a
row but those that an expectation asks to be shown, and nothing that a library says in an exception, which may quote
rows, statements and addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from keyserver.errors import RemoteError
from keyserver.store.database import Connection, remote_errors
from keyserver.store.quality import Outcome, Severity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Expectation", "Outcome", "Severity", "between", "highest", "in_set", "validate", "validate_sql"]

_NOT_EVALUATED = "that it could not be evaluated"
_MOST_VALUES = 5


@dataclass(frozen=True, slots=True)
class Expectation:
    """One entry of a suite.

    ``build`` gives Great Expectations' object from its namespace of expectations and the facts of the run, or None when
    these leave nothing to ask.
    ``expected`` and ``found`` are what an outcome says, formatted with ``facts`` and what was measured: ``count`` of
    ``of`` rows were otherwise, with the distinct ``values`` (only where a column holds nothing that must stay secret),
    or the table's ``value``. ``of_rows``: False for what is asked of the table as a whole, and so of an empty one too.
    """

    name: str
    table: str
    reason: str
    expected: str
    build: Callable[[Any, Any], Any]
    severity: Severity = "block"
    owner: str = "export"
    of_rows: bool = True
    found: str | None = None


def between(column: str, low: float | None, high: float | None) -> Callable[[Any, Any], Any]:
    """Build: every row's value, where it has one, lies between these."""
    return lambda gxe, _: gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def in_set(column: str, *values: object) -> Callable[[Any, Any], Any]:
    """Build: every row's value, where it has one, is one of these."""
    return lambda gxe, _: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))


def highest(column: str, most: float) -> Callable[[Any, Any], Any]:
    """Build: the highest value of a column is at most this; for a table of one row, its value."""
    return lambda gxe, _: gxe.ExpectColumnMaxToBeBetween(column=column, max_value=most)


def validate(suite: Sequence[Expectation], tables: Mapping[str, pd.DataFrame], facts: Any) -> list[Outcome]:
    """Put the expectations of these tables to them; give the outcomes in the suite's order.

    What is expected of rows is not asked of an empty table. One that cannot be evaluated is not met.
    """
    context = _context()
    # One asset for all: each that is added writes the whole configuration out as YAML.
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
    definition = asset.add_batch_definition_whole_dataframe("whole")
    outcomes: dict[str, Outcome] = {}
    for name, table in tables.items():
        asked = [entry for entry in suite if entry.table == name and not (table.empty and entry.of_rows)]
        outcomes |= _put(definition.get_batch(batch_parameters={"dataframe": table}), asked, facts)
    return [outcomes[entry.name] for entry in suite if entry.name in outcomes]


def validate_sql(
    suite: Sequence[Expectation], connect: Callable[[], Connection], queries: Mapping[str, str], facts: Any
) -> list[Outcome]:
    """As `validate`, on tables that are each a SELECT, evaluated by PostgreSQL; nothing is written there.

    ``connect`` opens a connection as a role that may read them: its address and password are not handed on. A column
    must not be a key: values of columns are counted, and shown where an expectation asks for it.

    Raises:
        RemoteError: the database cannot be reached.
    """
    from great_expectations.exceptions.exceptions import GreatExpectationsError  # noqa: PLC0415 - costs seconds

    queries = {name: query.rstrip().rstrip(";") for name, query in queries.items()}
    with ExitStack() as opened:

        def opening() -> Connection:
            return opened.enter_context(connect())

        with remote_errors():
            connection = opening()
            filled = {name for name, query in queries.items() if _has_rows(connection, query)}
        try:
            # `creator` opens the connections; the address only says which dialect they speak.
            source = _context().data_sources.add_postgres(
                "queries", connection_string="postgresql+psycopg://none@localhost/none", kwargs={"creator": opening}
            )
        except GreatExpectationsError:
            raise RemoteError("the database cannot be reached for its quality checks") from None
        outcomes: dict[str, Outcome] = {}
        for name, query in queries.items():
            asked = [entry for entry in suite if entry.table == name and (name in filled or not entry.of_rows)]
            definition = source.add_query_asset(name, query=query).add_batch_definition_whole_table(name)
            outcomes |= _put(definition.get_batch(), asked, facts)
    return [outcomes[entry.name] for entry in suite if entry.name in outcomes]


def _has_rows(connection: Connection, query: str) -> bool:
    (found,) = connection.execute(cast("Any", f"SELECT EXISTS ({query})")).fetchone() or (False,)
    return bool(found)


def library() -> Any:
    """Import Great Expectations, which takes seconds for the first time, and keep it quiet."""
    import great_expectations  # noqa: PLC0415 - costs seconds

    # Both, since the latter sets a level of its own. What goes wrong in there is told by outcomes, without its values.
    for chatty in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    return great_expectations


def _context() -> Any:
    context = library().get_context(mode="ephemeral")
    from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415 - costs seconds

    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _put(batch: Any, asked: Sequence[Expectation], facts: Any) -> dict[str, Outcome]:
    """Put expectations to one table in one pass, which measures a column once for all of them."""
    gx = library()
    built = [(entry, entry.build(gx.expectations, facts)) for entry in asked]
    put = [(entry, expectation) for entry, expectation in built if expectation is not None]
    if not put:
        return {}
    for entry, expectation in put:
        expectation.meta = {"name": entry.name}
    together = gx.ExpectationSuite("suite", expectations=[expectation for _, expectation in put])
    results = batch.validate(together, result_format="BASIC").results
    by_name = {result.expectation_config.meta["name"]: result for result in results}
    return {entry.name: _outcome(entry, by_name.get(entry.name), facts) for entry, _ in put}


def _outcome(entry: Expectation, result: Any, facts: Any) -> Outcome:
    met, found, observed = False, _NOT_EVALUATED, None
    if result is not None and (measured := _found(entry, result.result or {}, facts)) is not None:
        met, (found, observed) = bool(result.success), measured
    return Outcome(
        entry.name,
        entry.severity,
        entry.owner,
        entry.reason,
        met,
        entry.expected.format(facts=facts),
        found,
        observed,
    )


def _found(entry: Expectation, result: Mapping[str, Any], facts: Any) -> tuple[str, float] | None:
    """Say what was found, and give the number that was measured; None when nothing was."""
    if (count := result.get("unexpected_count")) is not None:
        text = entry.found or "{count} of {of} {table} otherwise"
        if not count and "{count}" in text:
            return f"{result['element_count']} {entry.table}, all so", 0.0
        shown = {
            "count": count,
            "of": result["element_count"],
            "table": entry.table,
            "values": _values(result.get("partial_unexpected_list") or ()) if "{values}" in text else "",
        }
        return text.format(facts=facts, **shown), float(count)
    if (value := result.get("observed_value")) is not None:
        return (entry.found or "{value}").format(facts=facts, value=_number(value)), float(value)
    return None


def _values(rows: Sequence[float | str]) -> str:
    distinct = sorted(set(rows))
    said = [value if isinstance(value, str) else str(_number(value)) for value in distinct[:_MOST_VALUES]]
    return ", ".join(said + ["..."] * (len(distinct) > _MOST_VALUES))


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)
