from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import RemoteError
from keyserver.store.database import remote_errors
from keyserver.store.roundtrip import byte_strings, integers, round_trip, statement, texts

ECHO = statement("echo", "SELECT %(a)s::integer, %(b)s::text, %(a)s::integer + 1")
DIVIDE = statement("divide", "SELECT 1 / %(by)s::integer")
BEGIN = statement("begin", "BEGIN")
COMMIT = statement("commit", "COMMIT")
ARRAYS = statement("arrays", "SELECT %(n)s::integer[], %(b)s::bytea[], %(t)s::text[]")
TERMINATE = statement("terminate", "SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def connection(test_database):
    with test_database.admin() as connection:
        yield connection


def test_each_statement_gives_its_rows_and_is_prepared_once(connection):
    for value in range(3):
        first, second = round_trip(connection, (ECHO, {"a": str(value), "b": None}), (ECHO, {"b": "é\\'\"", "a": "7"}))
        assert (first, second) == ([(value, None, value + 1)], [(7, "é\\'\"", 8)])
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'keyserver_echo'"
    assert connection.execute(prepared).fetchone() == (1,)


def test_the_first_that_fails_is_raised_and_the_connection_goes_on(connection):
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            round_trip(connection, (BEGIN, {}), (DIVIDE, {"by": "0"}), (ECHO, {"a": "1", "b": "x"}))
        connection.execute("ROLLBACK")
    # What was not prepared because of the error is prepared now.
    assert round_trip(connection, (DIVIDE, {"by": "1"}), (ECHO, {"a": "1", "b": "x"})) == ([(1,)], [(1, "x", 2)])


def test_e4_a_commit_that_was_a_rollback_is_no_commit(connection):
    with pytest.raises(psycopg.errors.DivisionByZero):
        round_trip(connection, (BEGIN, {}), (DIVIDE, {"by": "0"}))
    with pytest.raises(RemoteError), remote_errors():
        round_trip(connection, (COMMIT, {}))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_e4_a_connection_that_is_lost_is_closed(connection):
    with pytest.raises(RemoteError), remote_errors():
        round_trip(connection, (TERMINATE, {}), (ECHO, {"a": "1", "b": "x"}))
    assert connection.closed
    with pytest.raises(RemoteError), remote_errors():
        round_trip(connection, (ECHO, {"a": "1", "b": "x"}))


def test_arrays_are_read_as_they_were(connection):
    @given(
        st.lists(st.integers(-(2**31), 2**31 - 1)),
        st.lists(st.binary()),
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    )
    def check(numbers, strings, words):
        sent = {"n": integers(numbers), "b": byte_strings(strings), "t": texts(words)}
        assert round_trip(connection, (ARRAYS, sent)) == ([(numbers, strings, words)],)

    check()
