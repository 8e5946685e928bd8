"""An honest history: nothing is found; what cannot be proven, or does not answer, is named (rules A3, A4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from psycopg.types.json import Jsonb

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.export.index import write_all
from keyserver.export.replace import replace
from keyserver.export.transparency import publish_logs
from keyserver.export.withdraw import withdraw
from keyserver.oversight.reconcile import Hands, settle
from keyserver.oversight.restored import find
from keyserver.oversight.verify import Kept, Report
from keyserver.oversight.verify.report import MOST_FINDINGS
from keyserver.oversight.verify.said import Said
from keyserver.protocol.intervals import interval_at
from keyserver.protocol.signature import load_public_key
from tests.export.conftest import Authority, serving
from tests.oversight.verify.conftest import BEGIN, Case
from tests.retention.conftest import enforce

DAY = timedelta(days=1)
SINCE = BEGIN + timedelta(minutes=8)  # when the log's first whole day was ended


def assert_honest(report: Report) -> None:
    assert report.findings == []
    assert report.unreachable == []
    assert report.status == 0
    assert report.sentences()[-1] == "Nothing is wrong."


def told(report: Report) -> str:
    return "\n".join(report.sentences())


def log_key(case: Case, name: str = "transparency"):
    ((pem,),) = case.authority.sql("SELECT public_key FROM signing_key WHERE name = %(name)s", name=name)
    return load_public_key(pem)


def go_on(authority: Authority, seed: int) -> int:
    """Release another batch, and say so in public."""
    authority.add_keys(3, seed=seed, interval_number=interval_at(BEGIN) - 600)
    authority.close_windows()
    (released,) = authority.export()
    publish_logs(authority.runtime())
    return released


def test_an_honest_history(case):
    report = case.verify(rebuild=True)
    assert_honest(report)
    text = told(report)
    ((events, head),) = case.authority.sql(
        "SELECT count(*), encode((array_agg(hash ORDER BY seq DESC))[1], 'hex') FROM audit_event"
    )
    assert f"The audit trail has {events} events, to event {events}, {head}." in text
    assert "10 of 10 built batches were made again: 10 identical, 0 not rebuildable." in text
    assert (report.head_seq, report.head_sha256) == (events, head)
    # What was believed is named.
    assert [line for line in report.unproven if "give --public-key" in line] == report.unproven


def test_with_the_keys_of_the_log_nothing_is_believed(case):
    report = case.verify(rebuild=True, public_keys=[log_key(case)])
    assert_honest(report)
    assert report.unproven == []


def test_a_log_signed_by_another_key_than_was_announced_is_found(case):
    report = case.verify(public_keys=[log_key(case, "spare")])
    assert [str(finding) for finding in report.findings] == [
        f"public log of feed north: at the store: The segment of {day} has no signature by a key that was given."
        for day in ("2026-03-01", "2026-03-02", "2026-03-03")
    ]


def test_what_was_not_given_is_named(case):
    report = case.verify(store=False)
    assert_honest(report)
    assert [line.partition(":")[0] for line in report.unproven] == [
        "that the public logs are signed by the keys that were announced",
        "that what is public is what the database says",
        "that no old file lies in the store",
        "that files are what their rows give",
    ]


def test_through_the_cdn_and_in_the_store(case):
    with serving(case.authority):
        report = case.verify(cdn=True)
        assert_honest(report)
        assert "At the CDN: 1 index and 4 listed files were compared" in told(report)
        assert "At the store: 1 index and 4 listed files were compared" in told(report)
        # What only the CDN has otherwise is said of the CDN.
        runtime = case.auditor(store=False, cdn=True)
        assert runtime.blobs_or_none is None
    report = case.verify(cdn=True)  # it serves no more
    assert (report.findings, report.status) == ([], 2)
    assert any("at the CDN" in line for line in report.unreachable)
    assert report.sentences()[-1] == "Nothing is wrong with what was seen; not all of it was."


def test_a_database_that_does_not_answer_is_no_finding(case):
    runtime = case.auditor()
    runtime.database.forget_connections()
    with psycopg.connect(
        case.authority.database.url("postgres").replace(case.authority.database.name, "postgres", 1)
    ) as a:
        a.autocommit = True
        a.execute(f'ALTER DATABASE "{case.authority.database.name}" WITH ALLOW_CONNECTIONS false')
    with pytest.raises(RemoteError):
        case.verify()


def test_it_only_reads(case):
    before = case.authority.sql("SELECT max(seq) FROM audit_event"), case.authority.released_files()
    case.verify(rebuild=True)
    assert before == (case.authority.sql("SELECT max(seq) FROM audit_event"), case.authority.released_files())


def test_a_history_that_goes_on_is_still_honest(case):
    _, kept = case.verify_and_keep()
    go_on(case.authority, 21)
    report, later = case.verify_and_keep(kept=kept)
    assert_honest(report)
    assert later.seq > kept.seq
    assert "what the checkpoint saw up to 2026-03-03 stands." in told(report)


def test_a_release_under_way_is_no_finding(case):
    """Between the index and the log, and between the database and the index."""
    authority = case.authority
    before = (case.public / "north" / "index.txt").read_bytes()
    authority.add_keys(3, seed=31, interval_number=interval_at(BEGIN) - 600)
    authority.close_windows()
    assert len(authority.export()) == 1  # nobody has written the log yet
    assert_honest(case.verify())
    (case.public / "north" / "index.txt").write_bytes(before)
    report = case.verify()
    assert [finding.about for finding in report.findings] == ["index of feed north"]  # it was written, by its event
    case.change("UPDATE feed SET index_sha256 = %(sha256)s", sha256=hashlib.sha256(before).digest())
    report = case.verify()
    assert "index of feed north at the store: its files changed just now" in told(report)
    authority.database.pass_time(timedelta(minutes=11))
    text = told(case.verify())
    assert "is stored, and not public" in text or "are stored, and not public" in text
    assert "it does not list north/" in text


# A part of it


def test_a_part_begins_at_the_nearest_public_head(case):
    go_on(case.authority, 21)
    ((head,),) = case.authority.sql("SELECT max(head_seq) FROM transparency_segment")
    report = case.verify(rebuild=True, since=SINCE)
    assert_honest(report)
    assert f"The audit trail was walked from event {head}, which the public log of feed north, 2026-03-02," in told(
        report
    )
    assert any(line.startswith(f"what was before event {head}") for line in report.unproven)
    ((planned,),) = case.authority.sql(
        "SELECT count(*) FROM audit_event WHERE kind = 'batch.planned' AND seq > %(head)s", head=head
    )
    assert f"{planned} of {planned} built batches were made again: {planned} identical" in told(report)


def test_what_was_tampered_with_before_a_part_is_not_seen_by_it_and_after_it_is(case):
    go_on(case.authority, 21)
    since = SINCE
    case.change("UPDATE batch SET counts = '{}' WHERE id = 1")
    assert_honest(case.verify(since=since))
    assert case.verify().status == 1
    case.change("UPDATE batch SET counts = '{}' WHERE id = (SELECT max(id) FROM batch)")
    assert case.verify(since=since).status == 1


def test_a_part_that_begins_before_all_heads_is_the_whole(case):
    report = case.verify(since=BEGIN - DAY)
    assert_honest(report)
    assert "No public head is older than what was asked for" in told(report)
    assert "The audit trail has " in told(report)


def test_a_part_ends_with_what_was_planned_before(case):
    until = BEGIN + timedelta(minutes=2)
    report = case.verify(rebuild=True, until=until)
    assert_honest(report)
    assert "1 of 1 built batches were made again" in told(report)
    case.change("UPDATE batch SET reason = 'x' WHERE id = 5")
    assert_honest(case.verify(until=until))
    assert case.verify().status == 1


def test_usually_the_newest_batches_are_made_again_and_all_if_asked(case, monkeypatch):
    monkeypatch.setattr("keyserver.oversight.verify.remade.USUAL", 3)
    assert "3 of 10 built batches were made again" in told(case.verify(rebuild=True))
    assert "10 of 10 built batches were made again" in told(case.verify(rebuild=True, every_batch=True))


# What a checkpoint may be


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"seq": 1, "sha256": "x", "logs": []}', '{"seq": -1, "sha256": "", "logs": []}']
)
def test_what_is_no_checkpoint(text):
    with pytest.raises(ConfigurationError, match="none that this command wrote"):
        Kept.load(text)


def test_a_checkpoint_is_read_as_it_was_written(case):
    _, kept = case.verify_and_keep()
    assert Kept.load(kept.dump()) == kept
    assert [log.root for log in kept.logs] == ["north"]


def test_nothing_is_to_be_kept_of_what_is_wrong(case):
    case.change("UPDATE batch SET counts = '{}' WHERE id = 1")
    assert case.verify_and_keep()[1] is None


def test_a_checkpoint_of_a_log_that_was_not_read_proves_nothing(case):
    _, kept = case.verify_and_keep()
    report = case.verify(kept=kept, store=False)
    assert "the checkpoint of north: no public log of it was read" in report.unproven


def test_a_log_that_was_rewritten_is_seen_by_its_checkpoint(case):
    _, kept = case.verify_and_keep()
    other = [dataclasses.replace(log, sha256="00" * 32) for log in kept.logs]
    report = case.verify(kept=dataclasses.replace(kept, logs=other))
    assert [str(finding) for finding in report.findings] == [
        "public log of feed north: fork: what the checkpoint saw up to 2026-03-03 is gone at the store"
    ]


# After a restore


@pytest.fixture
def restored(case, history, make_database):
    """The database is that of the history's end again; the store is one that went on for another day."""
    case.lost = go_on(case.authority, 21)
    case.authority.database.pass_time(DAY)
    publish_logs(case.authority.runtime())
    case.kept = case.verify_and_keep()[1]
    backup = Case(Authority(make_database(history.database.name), case.authority.folder))
    backup.authority.database.set_time(case.authority.database.now() + timedelta(minutes=1))
    backup.kept = case.kept
    yield backup
    for opened in backup.authority.opened:
        opened.close()


def test_a_restore_that_nobody_declared_is_a_fork(restored):
    report = restored.verify(kept=restored.kept)
    text = told(report)
    assert (
        "public log of feed north: fork: what it says of 2026-03-03, at the store, is not what the database has" in text
    )
    assert "fork: the public log of feed north, 2026-03-03, at the store, has its hash, and the trail does not" in text
    assert "fork: the checkpoint has its hash, and the trail does not have it" in text
    assert "it lies in the store, and no file of this name was ever made" in text
    assert report.status == 1


def test_a_restore_that_was_declared_is_a_fact(restored):
    runtime = restored.authority.runtime("reconcile")
    hands = Hands(partial(withdraw, runtime), partial(replace, runtime), partial(write_all, runtime))
    settle(runtime, find(runtime), hands)
    publish_logs(restored.authority.runtime())
    report = restored.verify(kept=restored.kept)
    assert_honest(report)
    text = told(report)
    assert "A restore of an older database was declared by event " in text
    assert "what the checkpoint saw up to 2026-03-04 lies aside after a restore." in text
    assert any("what was lost with it nobody can show" in line for line in report.unproven)
    # What lies aside is what was declared.
    (newest,) = list((restored.public / "north" / "log-before-restore").glob("*/2026-03-04.txt"))
    newest.write_bytes(newest.read_bytes().replace(b"day 2026-03-04", b"day 2026-03-05"))
    assert "is not what event " in told(restored.verify())


# Retention


def test_what_is_too_old_is_found_and_named(case):
    case.authority.database.set_time(BEGIN + timedelta(days=15, hours=3))
    publish_logs(case.authority.runtime())
    report = case.verify(rebuild=True)
    text = told(report)
    for pattern in (
        "retention: keys: ",
        "its line should have left the index: its batch began at 2026-03-02 23:5",
        "object public/north/",
        "object staging/",
        "retention: nothing was proved for a day",
    ):
        assert pattern in text, pattern
    assert report.status == 1


def test_what_is_gone_as_it_should_be_is_named_as_not_provable(case):
    """The same, where retention does its work: rows first, lines with them, objects a day later."""
    for passed in (timedelta(days=14, hours=2), timedelta(days=15, hours=3)):
        case.authority.database.set_time(BEGIN + passed)
        publish_logs(case.authority.runtime())
        enforce(case.authority)
        assert_honest(case.verify())
    report = case.verify(rebuild=True)
    assert_honest(report)
    text = told(report)
    ((identical, gone),) = re.findall(r"10 of 10 built batches were made again: (\d+) identical, (\d+) not", text)
    assert int(identical) + int(gone) == 10
    assert int(gone) >= 4
    assert "batch 1: Batch 1 of feed north is not rebuildable: rows deleted by retention." in text
    assert "The last proof of retention is event " in text
    assert case.authority.sql("SELECT count(*) FROM exposure WHERE created_at < keyserver_now()") == [(0,)]


def test_nothing_is_too_old_until_an_hour_after_its_limit(case):
    """What is proved by then is another matter."""
    case.authority.database.set_time(BEGIN + timedelta(days=14, minutes=58))
    publish_logs(case.authority.runtime())
    assert "should" not in told(case.verify())


def test_a_proof_that_found_something_is_told(case):
    append(case, "retention.proved")
    assert_honest(case.verify())
    append(case, "retention.not_proved")
    assert "something was left" in told(case.verify())
    append(case, "retention.proved")
    assert_honest(case.verify())


# Hostile events: whoever may append says nonsense


def append(case: Case, kind: str, **members: object) -> None:
    event = {
        **dict.fromkeys(["actor", "dag", "map_index", "run", "task", "try"]),
        "actor": "somebody",
        "kind": kind,
        "subject": {},
        "counts": {},
        "hashes": {},
        **members,
    }
    with psycopg.connect(case.authority.database.url("keyserver_pipeline")) as connection:
        connection.execute("SELECT audit_append(%s)", [[Jsonb(event)]])


NONSENSE = {
    "nothing": {},
    "another type": {"subject": {"batch": "1", "feed": 1, "file": "x", "start": 1, "name": 1, "key": 1, "day": 1}},
    "a truth": {"subject": {"batch": True}},
    "no moment": {
        "subject": {"batch": 1, "feed": "north", "start": "x", "end": "2026-03-02", "day": "x", "what": "exposure"}
    },
    "no zone": {"subject": {"start": "2026-03-02T10:00", "end": "2026-03-02T10:00"}},
    "no hash": {"hashes": {"index": "00", "export_bin": 1, "plan": "x", "zip": ["x"], "export_bin_x": "00"}},
    "a number too large": {"subject": {"batch": 2**53 - 1, "file": 2**53 - 1, "feed": "north"}},
    "counts of another type": {"counts": {"keys": "1", "head": None, "release_no": [1]}},
}


@pytest.mark.parametrize("members", NONSENSE.values(), ids=NONSENSE)
def test_events_that_say_nonsense_are_findings(case, members):
    kinds = list(Said(Report(), whole=True)._take)
    for kind in kinds:
        append(case, kind, **members)
    report = case.verify()
    assert report.findings
    assert {finding.about for finding in report.findings} >= {f"event {report.head_seq}"} or report.more == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b'"x"', b"1", b"[" * 100_000, b'{"a":1.5}', b'{"a":NaN}', b'{"a":"\\ud800"}', b"1e999"],
)
def test_an_event_of_any_bytes_is_a_finding(case, body):
    case.change("UPDATE audit_event SET body = %(body)s, hash = sha256(%(body)s) WHERE seq = 3", body=body)
    assert case.verify().findings[0].about == "event 3"


def test_a_trail_that_is_broken_throughout_is_told_in_part():
    report = Report()
    for number in range(MOST_FINDINGS + 5):
        report.find(f"event {number}", "broken")
    assert (len(report.findings), report.more) == (MOST_FINDINGS, 5)
    assert "5 more, which are not told one by one." in told(report)
    assert f"{MOST_FINDINGS + 5:,} findings" in report.sentences()[-1]


def test_a_store_without_the_log_and_indexes(case):
    shutil.rmtree(case.public)
    report = case.verify()
    assert "index of feed north: the store has none" in told(report)
    assert report.status == 1
    assert json.loads(json.dumps(dataclasses.asdict(report)))["findings"]
