"""From a task's log to its audit events and back; what an event says, and that it can be read by the auditor's role."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from keyserver.audit import Actor, recorded
from keyserver.errors import ConflictError, FormatError
from keyserver.oversight.trail import listed, parse, raw, show
from keyserver.runtime import open_runtime
from keyserver.store.audit_trail import Wanted
from tests.test_cli import done, keyserver, refused

ACTOR = Actor("airflow", dag="export_keys", run="scheduled__2026-03-02T10:00", task="release", map_index=3, attempt=2)


@pytest.fixture
def auditor(test_database):
    runtime = open_runtime(Actor("keyserver audit list"), test_database.url("keyserver_auditor"))
    yield runtime
    runtime.close()


@pytest.fixture
def settings(test_database) -> dict[str, str]:
    return {"KEYSERVER_AUDITOR_DATABASE_URL": test_database.url("keyserver_auditor")}


def record(test_database, actor: Actor, kind: str, **subject: object) -> None:
    with recorded(test_database.database("pipeline"), actor) as work:
        work.record(kind, subject, counts={"keys": 30}, hashes={"zip": "00ff"})


def test_from_the_log_of_a_task_to_the_event_and_back(test_database, auditor, caplog):
    """The log has the event's number; the event has DAG, run, task, map index and try: where that log is found."""
    caplog.set_level("INFO", logger="keyserver.audit")
    record(test_database, Actor("keyserver export reject"), "batch.rejected", batch=6)
    record(test_database, ACTOR, "file.released", batch=7)
    line = caplog.messages[-1]
    (number,) = re.findall(r"audit event (\d+): file.released", line)
    event = show(auditor, int(number))
    assert (event.dag, event.run, event.task, event.map_index, event.attempt) == (
        ACTOR.dag,
        ACTOR.run,
        ACTOR.task,
        ACTOR.map_index,
        ACTOR.attempt,
    )
    assert event.by == "task release of DAG export_keys, run scheduled__2026-03-02T10:00, map index 3, try 2"
    # All that a run did, and nothing else.
    assert [event.seq for event in listed(auditor, Wanted(run=ACTOR.run), 10)] == [int(number)]
    assert show(auditor, 1).by == "keyserver export reject"


def test_an_event_is_printed(test_database, settings):
    record(test_database, ACTOR, "file.released", batch=7, feed="north")
    assert done(keyserver("audit", "show", "1", **settings)).splitlines() == [
        (
            "Event 1, 2026-03-02 10:00 UTC: file.released, by task release of DAG export_keys, run"
            " scheduled__2026-03-02T10:00, map index 3, try 2"
        ),
        "  of: batch 7, feed north",
        "  counts: keys 30",
        "  hashes: zip 00ff",
    ]
    text = done(keyserver("audit", "show", "1", "--json", **settings))
    assert json.loads(text)["subject"] == {"batch": 7, "feed": "north"}
    assert parse(text.rstrip("\n").encode()).seq == 1
    assert "no audit event 2" in refused(keyserver("audit", "show", "2", **settings))
    assert "no audit event 999" in refused(keyserver("audit", "show", "9" * 30, **settings))


def test_events_are_listed_by_what_is_asked_for(test_database, auditor, settings, start):
    record(test_database, ACTOR, "batch.built", batch=7)
    record(test_database, Actor("x"), "batch.held", batch=8)
    later = test_database.pass_time(timedelta(minutes=5))
    record(test_database, Actor("x"), "file.signed", batch=8)

    def found(most: int = 9, **wanted: object) -> list[int]:
        return [event.seq for event in listed(auditor, Wanted(**wanted), most)]

    assert found() == [1, 2, 3]
    assert found(most=2) == [2, 3]
    assert found(kind="batch.held") == [2]
    assert found(kind="batch") == [1, 2]
    assert found(kind="bat") == []
    assert found(batch=8) == [2, 3]
    assert found(run=ACTOR.run) == [1]
    assert found(since=later) == [3]
    assert found(until=later) == [1, 2]
    text = done(
        keyserver("audit", "list", "--batch", "8", "--kind", "batch", "--from", "2026-03-02T10:00Z", **settings)
    )
    assert text.splitlines()[0] == "Event 2, 2026-03-02 10:00 UTC: batch.held, by x"
    assert "There is no such event." in done(keyserver("audit", "list", "--to", start.isoformat(), **settings))
    assert "give a moment" in refused(keyserver("audit", "list", "--from", "yesterday", **settings))


def test_a_damaged_event_is_said_to_be_one(test_database, auditor):
    record(test_database, ACTOR, "batch.built", batch=7)
    with test_database.admin() as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute("UPDATE audit_event SET body = 'x', hash = sha256('x')")
    for ask in (lambda: show(auditor, 1), lambda: raw(auditor, 1), lambda: listed(auditor, Wanted(), 5)):
        with pytest.raises(FormatError, match="audit event 1 cannot be read"):
            ask()
    with pytest.raises(ConflictError):
        show(auditor, 0)


WHOLE = {
    **dict.fromkeys(["actor", "kind"], "x"),
    **{name: {} for name in ("subject", "counts", "hashes")},
    **dict.fromkeys(["dag", "run", "task", "map_index", "try", "prev"]),
    "v": 1,
    "seq": 1,
    "at": "2026-03-02T10:00:00.000000Z",
}


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"seq": "1"},
        {"seq": True},
        {"actor": None},
        {"kind": 1},
        {"subject": []},
        {"counts": None},
        {"dag": 1},
        {"map_index": "1"},
        {"prev": 1},
        {"at": "2026-03-02T10:00:00Z"},
        {"at": "2026-02-31T10:00:00.000000Z"},
        {"another": 1},
    ],
    ids=repr,
)
def test_what_is_no_event_is_refused(change):
    def written(event: dict) -> bytes:
        return json.dumps(event, sort_keys=True, separators=(",", ":")).encode()

    assert parse(written(WHOLE)).kind == "x"
    with pytest.raises(FormatError):
        parse(written(WHOLE | change))
