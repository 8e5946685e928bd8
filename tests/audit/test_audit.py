"""The audit trail (A1, A2): canonical bytes, their hashes in a chain without gaps, one transaction with the change."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import RaiseException
from psycopg.types.json import Jsonb

from keyserver.audit import Actor, Work, recorded
from keyserver.errors import RemoteError, StoreError
from keyserver.store.database import Database

ACTOR = Actor("airflow", dag="export_keys", run="run-1", task="build", map_index=3, attempt=2)
MEMBERS = {"actor", "counts", "dag", "hashes", "kind", "map_index", "run", "subject", "task", "try"}
EVENT = {**dict.fromkeys(MEMBERS), "actor": "a", "kind": "a.b", "subject": {}, "counts": {}, "hashes": {}}

# jsonb, as PostgreSQL's texts, holds no NUL; UTF-8 no half of a pair.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
awkward = st.text(st.sampled_from('"\\/\b\f\n\r\t\x01\x1f\x7f\x80\u2028\ufffféß€😀'))
names = st.text(st.characters(min_codepoint=32, max_codepoint=126))
whole = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | whole | texts | awkward,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=15,
)


def trail(test_database) -> list[tuple[int, datetime, str, bytes, bytes]]:
    with psycopg.connect(test_database.url("keyserver_auditor")) as connection:
        return connection.execute("SELECT seq, at, kind, body, hash FROM audit_event ORDER BY seq").fetchall()


def append(connection: psycopg.Connection, *events: object) -> list[int]:
    rows = connection.execute("SELECT audit_append(%s)", [[Jsonb(event) for event in events]])
    return [seq for (seq,) in rows]


def move_clock(connection: psycopg.Connection) -> None:
    """A change of state that the pipeline's role may make."""
    connection.execute("UPDATE release_clock SET closed_through = closed_through + interval '1 minute'")


def closed_through(test_database) -> datetime:
    with psycopg.connect(test_database.url("keyserver_auditor")) as connection:
        return connection.execute("SELECT closed_through FROM release_clock").fetchone()[0]


def change(database: Database, meanwhile: Callable[[Work], None] = lambda _: None, counts: object = None) -> None:
    """Move the clock and record it; do something else before the transaction ends."""
    with recorded(database, ACTOR) as work:
        move_clock(work.connection)
        work.record("clock.moved", {}, counts=counts)
        meanwhile(work)


def fail(_: Work) -> None:
    raise LookupError


@pytest.fixture
def pipeline(test_database):
    return test_database.database("pipeline")


def test_an_event_has_the_members_of_the_rule_and_no_more(test_database, pipeline, start):
    with recorded(pipeline, ACTOR) as work:
        work.record("batch.built", {"batch": 7, "feed": "north"}, counts={"keys": 30}, hashes={"zip": "00ff"})
    ((seq, at, kind, body, _),) = trail(test_database)
    assert json.loads(body) == {
        "v": 1,
        "seq": 1,
        "at": start.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "actor": "airflow",
        "kind": "batch.built",
        "subject": {"batch": 7, "feed": "north"},
        "counts": {"keys": 30},
        "hashes": {"zip": "00ff"},
        "dag": "export_keys",
        "run": "run-1",
        "task": "build",
        "map_index": 3,
        "try": 2,
        "prev": None,
    }
    assert (seq, at, kind, work.recorded) == (1, start, "batch.built", [1])


def test_the_bytes_that_are_hashed_are_fixed(test_database, pipeline):
    """What any later version must still verify, byte for byte."""
    with recorded(pipeline, Actor("a command")) as work:
        work.record("a.b", {"name": 'é"\n'}, counts={"keys": 1})
    ((_, _, _, body, digest),) = trail(test_database)
    assert body == (
        b'{"actor":"a command","at":"2026-03-02T10:00:00.000000Z","counts":{"keys":1},"dag":null,"hashes":{},'
        b'"kind":"a.b","map_index":null,"prev":null,"run":null,"seq":1,"subject":{"name":"\xc3\xa9\\"\\n"},'
        b'"task":null,"try":null,"v":1}'
    )
    assert digest.hex() == hashlib.sha256(body).hexdigest()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=st.dictionaries(names, values, max_size=5), name=awkward)
def test_bytes_are_those_of_rfc_8785(test_database, subject, name):
    event = {**EVENT, "actor": name, "subject": subject}
    with psycopg.connect(test_database.url("keyserver_pipeline")) as connection:
        (seq,) = append(connection, event)
        body, digest = connection.execute("SELECT body, hash FROM audit_event WHERE seq = %s", [seq]).fetchone()
    sent = json.loads(body)
    assert body == rfc8785.dumps(sent)
    assert digest == hashlib.sha256(body).digest()
    assert {member: sent[member] for member in MEMBERS} == event


@pytest.mark.parametrize(
    "subject",
    [
        {"n": 0.5},
        {"n": [{"m": 1e-7}]},
        {"n": 2**53},
        {"n": -(2**53)},
        {"n": 1e300},
        {"é": 1},
        {"n": [{"\n": 1}]},
        {"n": {"\x7f": 1}},
    ],
    ids=repr,
)
def test_what_has_no_canonical_form_of_ours_is_refused(test_database, subject):
    with psycopg.connect(test_database.url("keyserver_pipeline")) as connection, pytest.raises(RaiseException):
        append(connection, {**EVENT, "subject": subject})
    assert trail(test_database) == []


@pytest.mark.parametrize("missing", sorted(MEMBERS))
def test_an_event_that_lacks_a_member_is_refused(test_database, missing):
    event = {name: value for name, value in EVENT.items() if name != missing}
    with (
        psycopg.connect(test_database.url("keyserver_pipeline")) as connection,
        pytest.raises(RaiseException, match="members"),
    ):
        append(connection, event)


@pytest.mark.parametrize("added", ["key", "v", "seq", "at", "prev", "Actor"])
def test_an_event_with_another_member_is_refused(test_database, added):
    with (
        psycopg.connect(test_database.url("keyserver_pipeline")) as connection,
        pytest.raises(RaiseException, match="members"),
    ):
        append(connection, {**EVENT, added: 1})


def assert_whole(events: list[tuple[int, datetime, str, bytes, bytes]]) -> None:
    """The chain as an auditor walks it: from the bytes alone."""
    previous = None
    for place, (seq, at, kind, body, digest) in enumerate(events, start=1):
        event = json.loads(body)
        assert seq == event["seq"] == place
        assert event["prev"] == previous
        assert event["kind"] == kind
        assert datetime.fromisoformat(event["at"]) == at
        assert digest == hashlib.sha256(body).digest()
        previous = digest.hex()


def test_each_event_carries_the_hash_of_the_one_before(test_database, pipeline):
    for _ in range(2):
        with recorded(pipeline, ACTOR) as work:
            work.record("window.closed", {"n": 1})
            work.record("batch.planned", {"n": 2})
        test_database.pass_time(timedelta(microseconds=1500))
    events = trail(test_database)
    assert [kind for _, _, kind, _, _ in events] == ["window.closed", "batch.planned"] * 2
    assert work.recorded == [3, 4]
    assert_whole(events)


def test_four_writers_at_once_leave_a_chain_without_gaps(test_database):
    numbers: list[int] = []
    ready = threading.Barrier(4)

    def write(worker: int) -> None:
        database = test_database.database("pipeline")
        ready.wait(30)
        for turn in range(25):
            try:
                with recorded(database, ACTOR) as work:
                    work.record("a.one", {"worker": worker, "turn": turn})
                    work.record("a.two", {"worker": worker, "turn": turn})
                    if turn % 5 == 4:
                        fail(work)  # a transaction that is rolled back takes no number
            except LookupError:
                continue
            numbers.extend(work.recorded)

    writers = [threading.Thread(target=write, args=[worker]) for worker in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
    events = trail(test_database)
    assert_whole(events)
    assert sorted(numbers) == [seq for seq, *_ in events] == list(range(1, 161))
    for first, second in zip(events[::2], events[1::2], strict=True):
        one, two = json.loads(first[3]), json.loads(second[3])
        assert (one["kind"], two["kind"]) == ("a.one", "a.two")
        assert one["subject"] == two["subject"]


def test_the_chain_is_only_locked_to_commit(test_database, pipeline):
    """A transaction that has recorded but still works stops nobody."""
    with recorded(pipeline, ACTOR) as slow:
        slow.record("slow.done", {})
        with recorded(pipeline, ACTOR) as quick:
            quick.record("quick.done", {})
        assert quick.recorded == [1]
    assert slow.recorded == [2]
    assert_whole(trail(test_database))


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_older_than_the_lock_may_not_append(test_database, pipeline, isolation):
    with (
        pytest.raises(StoreError, match="READ COMMITTED"),
        pipeline.transaction(isolation) as connection,
    ):
        append(connection, EVENT)
    assert trail(test_database) == []


def test_a_change_and_its_event_are_committed_together(test_database, pipeline, start):
    with recorded(pipeline, ACTOR) as work:
        move_clock(work.connection)
        work.record("clock.moved", {})
        assert trail(test_database) == []
        assert closed_through(test_database) == start
    assert [kind for _, _, kind, _, _ in trail(test_database)] == ["clock.moved"]
    assert closed_through(test_database) == start + timedelta(minutes=1)


def test_an_error_after_the_change_leaves_neither(test_database, pipeline, start):
    with pytest.raises(LookupError):
        change(pipeline, fail)
    assert trail(test_database) == []
    assert closed_through(test_database) == start


def test_an_event_that_is_refused_takes_its_change_with_it(test_database, pipeline, start):
    with pytest.raises(StoreError, match="not whole"):
        change(pipeline, counts={"half": 0.5})
    assert trail(test_database) == []
    assert closed_through(test_database) == start


def test_a_change_that_fails_at_its_commit_takes_its_event_with_it(test_database, pipeline, start):
    """Between the append, which succeeded, and the commit, which does not."""
    with test_database.admin() as connection:
        connection.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE division_by_zero; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER fails_at_commit AFTER INSERT ON audit_event"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
        )
    with pytest.raises(StoreError):
        change(pipeline)
    assert trail(test_database) == []
    assert closed_through(test_database) == start


def test_a_lost_connection_leaves_neither_and_the_next_writer_goes_on(test_database, pipeline, start):
    def cut_off(work: Work) -> None:
        with test_database.admin() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", [work.connection.info.backend_pid])

    with pytest.raises(RemoteError):
        change(pipeline, cut_off)
    assert trail(test_database) == []
    assert closed_through(test_database) == start
    with recorded(pipeline, ACTOR) as work:
        work.record("clock.moved", {})
    assert work.recorded == [1]


def test_nothing_recorded_leaves_no_trace_but_its_change(test_database, pipeline, start):
    with recorded(pipeline, ACTOR) as work:
        move_clock(work.connection)
    assert work.recorded == []
    assert trail(test_database) == []
    assert closed_through(test_database) == start + timedelta(minutes=1)


def test_task_logs_name_the_events(test_database, pipeline, caplog):
    caplog.set_level("INFO", logger="keyserver.audit")
    with recorded(pipeline, ACTOR) as work:
        work.record("batch.built", {"batch": 7}, hashes={"zip": "00ff"})
        assert caplog.messages == []
    assert caplog.messages == ["audit event 1: batch.built {'subject': {'batch': 7}, 'hashes': {'zip': '00ff'}}"]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_event SET kind = 'c.d'", "DELETE FROM audit_event", "TRUNCATE audit_event"],
)
def test_history_is_kept_even_from_a_superuser(test_database, pipeline, statement):
    with recorded(pipeline, ACTOR) as work:
        work.record("a.b", {})
    before = trail(test_database)
    with (
        test_database.admin() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed or removed"),
    ):
        connection.execute(statement)
    assert trail(test_database) == before


def test_a_row_whose_hash_is_not_that_of_its_bytes_is_refused(test_database):
    with test_database.admin() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO audit_event VALUES (1, now(), 'a.b', '\\x00', sha256('\\x01'))")


def test_a_run_holds_claims_by_its_name_and_a_command_by_its_own():
    assert ACTOR.holder == "run-1"
    assert Actor("configuration apply").holder == "configuration apply"
