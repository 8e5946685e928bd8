"""Several statements in one round trip, at the least cost to this process: for publishing alone (rule W2).

psycopg's cursors do the same and take five times the processor's time, half of an upload's: what they turn back and
forth between Python's types and the wire's is written here as the text that PostgreSQL reads. The wire itself, errors
and the loading of rows stay psycopg's (`psycopg.pq`, its wrapper of libpq).
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import InFailedSqlTransaction
from psycopg.errors import error_from_result as error_of
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from keyserver.store.database import Connection

# A value as PostgreSQL reads it from text; None is NULL.
Text = str | None

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_FAILED = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE})


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """A statement that each connection prepares once, under its ``name``. Its parameters need casts in ``sql``."""

    name: bytes
    sql: bytes = field(repr=False)
    parameters: tuple[str, ...]


def statement(name: str, sql: str) -> Statement:
    """Return the statement that aiosql gives as text with ``%(parameter)s`` in it."""
    places: dict[str, int] = {}
    numbered = _PLACEHOLDER.sub(lambda found: f"${places.setdefault(found[1], len(places) + 1)}", sql)
    return Statement(f"keyserver_{name}".encode(), numbered.encode(), tuple(places))


# What each connection has prepared. A connection is used by one thread at a time.
_prepared: WeakKeyDictionary[Connection, set[Statement]] = WeakKeyDictionary()


def round_trip(
    connection: Connection, *calls: tuple[Statement, Mapping[str, Text]]
) -> tuple[list[tuple[Any, ...]], ...]:
    """Send the statements together, wait once, and return the rows of each; the first that fails ends it.

    Raises:
        psycopg.Error: what psycopg's own cursors would raise. A connection that was lost or left in the middle, by
            whatever error, is closed.
    """
    pgconn = connection.pgconn
    known = _prepared.setdefault(connection, set())
    prepared: list[Statement] = []
    try:
        pgconn.enter_pipeline_mode()
        for call, values in calls:
            if call not in known and call not in prepared:
                pgconn.send_prepare(call.name, call.sql)
                prepared.append(call)
            pgconn.send_query_prepared(call.name, [_encoded(values[name]) for name in call.parameters])
        pgconn.pipeline_sync()
        results = _results(pgconn)
        pgconn.exit_pipeline_mode()
    except BaseException:
        # What is under way can be neither taken back nor left unread.
        connection.close()
        raise
    rows: list[list[tuple[Any, ...]]] = []
    transformer = Transformer(connection)
    ordered = iter(results)
    for call, _ in calls:
        if call in prepared:
            _succeeded(next(ordered))
            known.add(call)
            prepared.remove(call)
        result = _succeeded(next(ordered))
        if call.sql == b"COMMIT" and result.command_status != b"COMMIT":
            raise InFailedSqlTransaction
        if not result.ntuples:
            rows.append([])
            continue
        transformer.set_pgresult(result)
        rows.append(transformer.load_rows(0, result.ntuples, tuple))
    for result in ordered:
        _succeeded(result)  # a transaction of the statement's own can still fail at its commit
    return tuple(rows)


def _encoded(value: Text) -> bytes | None:
    return None if value is None else value.encode()


def _results(pgconn: PGconn) -> list[PGresult]:
    """Return a result for each thing that was sent, in order; other threads run meanwhile."""
    socket = select.poll()
    socket.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():
        socket.poll()
        pgconn.consume_input()
    socket.modify(pgconn.socket, select.POLLIN)
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            socket.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == ConnStatus.BAD:
                raise error_of(results[-1]) if results else psycopg.OperationalError("connection lost")
            continue  # the end of one statement's results
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


def _succeeded(result: PGresult) -> PGresult:
    if result.status in _FAILED:
        raise error_of(result)
    return result


def integers(values: Iterable[int]) -> str:
    """Return an array of integers."""
    return "{" + ",".join(map(str, values)) + "}"


def byte_strings(values: Iterable[bytes]) -> str:
    r"""Return an array of byte strings, each ``\x`` and hex digits."""
    return "{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}"


def texts(values: Sequence[str]) -> str:
    """Return an array of texts."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"
