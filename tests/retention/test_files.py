"""Lines leave the index 14 days after their batch's start, objects a day later, staged files when they can (R2)."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.export import confirm, due, gate, index, release, replace, sign, withdraw
from keyserver.export.build import build, stage
from keyserver.protocol.exposure import RETENTION
from keyserver.protocol.retention import GRACE, STAGED_FOR
from keyserver.providers.blobs import LocalBlobs
from keyserver.retention.lines import expire_lines, hold_outlived
from keyserver.retention.objects import delete_objects
from keyserver.retention.staging import clean_staging
from keyserver.runtime import Runtime
from tests.conftest import START
from tests.export.conftest import run_steps
from tests.export.operators import hold_next
from tests.retention.conftest import enforce, events

MINUTE, MOMENT = timedelta(minutes=1), timedelta(microseconds=1)


def retention(authority, run: str = "retention-1") -> Runtime:
    return authority.runtime(run, role="retention")


def lines(authority, feed: str = "north") -> list[str]:
    return (authority.public / feed / "index.txt").read_text(encoding="ascii").split()


def zips(authority) -> list[str]:
    return sorted(name for name in authority.released_files() if name.endswith(".zip"))


def staged(authority) -> list[str]:
    return sorted(path.name for path in (authority.folder / "blobs" / "staging").glob("*"))


@pytest.fixture
def released(authority):
    """A feed with two batches, of two files and of one."""
    authority.add_feed("north", active_from=START, max_keys=5)
    authority.add_keys(8)
    authority.close_windows()
    authority.add_keys(3, seed=2)
    authority.close_windows()
    authority.export()
    return authority


def test_first_the_line_goes_then_the_index_is_written_then_the_object_goes(released):
    first, second, third = lines(released)
    released.database.set_time(START + RETENTION - MOMENT)
    assert expire_lines(retention(released)) == 0
    released.database.set_time(START + RETENTION)
    assert expire_lines(retention(released)) == 2
    assert lines(released) == [first, second, third]  # phones still find all of it
    assert index.write_all(released.runtime()) == 1
    assert lines(released) == [third]

    released.database.set_time(START + RETENTION + GRACE - MOMENT)
    assert delete_objects(retention(released)) == 0
    assert zips(released) == sorted([first, second, third])
    released.database.set_time(START + RETENTION + GRACE)
    assert delete_objects(retention(released)) == 2
    assert zips(released) == [third]
    assert released.sql("SELECT status, left_index_at FROM file ORDER BY batch_id, number") == [
        ("deleted", START + RETENTION),
        ("deleted", START + RETENTION),
        ("released", None),
    ]
    told = [{"batch": 1, "feed": "north", "file": n, "name": name} for n, name in ((1, first), (2, second))]
    assert [event["subject"] for event in events(released, "file.expired")] == told
    assert [event["subject"] for event in events(released, "file.deleted")] == told
    assert all(event["hashes"]["zip"] for event in events(released, "file.deleted"))
    assert released.statuses() == {1: "released", 2: "released"}


def test_done_again_nothing_changes(released):
    for moment in (RETENTION, RETENTION + GRACE):
        released.database.set_time(START + moment)
        enforce(released)
        before = released.sql("SELECT max(seq) FROM audit_event WHERE kind <> 'retention.proved'")
        enforce(released)
        assert released.sql("SELECT max(seq) FROM audit_event WHERE kind <> 'retention.proved'") == before


def test_no_object_goes_while_an_index_names_it(released):
    """The index could not be written; whatever the database says, phones read it."""
    before = zips(released)
    released.database.set_time(START + RETENTION)
    expire_lines(retention(released))
    released.database.pass_time(GRACE + timedelta(hours=1))
    with pytest.raises(RemoteError, match="still lists"):
        delete_objects(retention(released))
    assert zips(released) == before
    index.write_all(released.runtime())
    assert delete_objects(retention(released)) == 2


def test_b5_one_object_that_cannot_be_deleted_keeps_no_other_there(released):
    """Export.md B5: the reference's clean-up stops at it for ever."""
    first, second, _ = lines(released)
    released.database.set_time(START + RETENTION)
    expire_lines(retention(released))
    index.write_all(released.runtime())
    released.database.pass_time(GRACE)

    class Stubborn(LocalBlobs):
        def delete(self, path: str) -> None:
            if path.endswith(first):
                raise ConfigurationError("a test")
            super().delete(path)

    usual = retention(released)
    runtime = Runtime(usual.actor, usual.database, Stubborn(released.folder / "blobs"))
    with pytest.raises(ConfigurationError):
        delete_objects(runtime)
    assert released.sql("SELECT number, status FROM file WHERE batch_id = 1 ORDER BY number") == [
        (1, "expired"),
        (2, "deleted"),
    ]
    assert second not in zips(released)
    assert delete_objects(retention(released)) == 1


def test_b13_a_feed_that_ended_and_one_that_is_paused_are_cleaned_too(authority):
    authority.add_feed("ended")
    authority.add_feed("paused")
    authority.add_keys(3)
    authority.close_windows()
    authority.export()
    authority.sql("UPDATE feed SET active_thru = %(end)s WHERE name = 'ended'", end=START + MINUTE)
    authority.sql("UPDATE feed SET paused = true WHERE name = 'paused'")
    authority.database.set_time(START + RETENTION)
    enforce(authority)
    assert [lines(authority, feed) for feed in ("ended", "paused")] == [[], []]
    authority.database.pass_time(GRACE)
    enforce(authority)
    assert zips(authority) == []


def test_b20_a_line_goes_by_the_start_of_its_batch_and_its_object_at_least_a_day_later(authority):
    authority.add_feed("hourly", period_minutes=60)
    authority.add_keys(3, created_at=START + timedelta(minutes=59))
    authority.close_windows(timedelta(hours=1))
    authority.export()
    ((starts_at,),) = authority.sql("SELECT starts_at FROM batch WHERE status = 'released'")
    authority.database.set_time(starts_at + RETENTION)
    assert expire_lines(retention(authority)) == 1


def test_a_withdrawal_that_hangs_keeps_no_object(served):
    served.add_feed("north", active_from=START)
    served.add_keys(3)
    served.close_windows()
    served.export()
    withdraw.withdraw(served.runtime(), 1, "wrong")
    served.database.pass_time(GRACE)
    assert delete_objects(retention(served)) == 0
    assert zips(served) == []
    assert served.sql("SELECT status FROM file") == [("withdrawing",)]
    withdraw.finish(served.runtime(), 1)
    assert served.sql("SELECT status FROM file") == [("withdrawn",)]


def test_an_object_put_late_by_a_frozen_run_goes_however_late(released):
    name = lines(released)[0]
    data = (released.public / name).read_bytes()
    released.database.set_time(START + RETENTION)
    enforce(released)
    released.database.pass_time(GRACE)
    enforce(released)
    (released.public / name).write_bytes(data)
    assert delete_objects(retention(released)) == 0
    assert name not in zips(released)


# Staging


def test_staged_files_go_once_their_release_is_confirmed(served):
    served.add_feed("north", active_from=START, max_keys=5)
    served.add_keys(8)
    served.close_windows()
    served.export()
    assert len(staged(served)) == 4
    assert clean_staging(retention(served)) == 0  # nobody has looked at them as a phone does
    confirm.confirm(served.runtime())
    assert clean_staging(retention(served)) == 4
    assert staged(served) == []


def test_staged_files_go_a_day_after_a_release_that_nobody_confirms(released):
    released.database.pass_time(STAGED_FOR - MINUTE)
    assert clean_staging(retention(released)) == 0
    released.database.pass_time(MINUTE)
    assert clean_staging(retention(released)) == 6


def test_staged_files_of_a_batch_on_its_way_stay_until_it_is_done(authority):
    authority.add_feed("north", active_from=START)
    authority.add_keys(3)
    authority.close_windows()
    (batch,) = due.claim_due(authority.runtime())
    steps = (build, gate.check, sign.sign)
    for count, step in enumerate(steps, 1):
        step(authority.runtime(), batch.batch_id)
        authority.database.pass_time(timedelta(seconds=1))
        assert clean_staging(retention(authority)) == 0
        assert len(staged(authority)) == (2 if count == 3 else 1)


def test_a_held_batch_s_files_stay_until_it_is_decided_on(authority):
    authority.add_feed("north", active_from=START)
    held = hold_next(authority)
    assert clean_staging(retention(authority)) == 0
    authority.sql("UPDATE batch SET status = 'rejected' WHERE id = %(id)s", id=held)
    assert clean_staging(retention(authority)) == 1


def test_a_file_that_two_feeds_share_stays_until_both_are_done(authority):
    """Equal rules, keys and spans give equal bytes, which lie in one place."""
    authority.add_feed("north", active_from=START)
    authority.add_feed("other", active_from=START)
    authority.sql("UPDATE feed_signing_key SET signing_key_id = 1 WHERE feed_id = 2")
    authority.add_keys(3)
    authority.close_windows()
    first, second = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), first.batch_id)
    authority.database.pass_time(STAGED_FOR)
    before = staged(authority)
    assert clean_staging(retention(authority)) == 0
    assert [b.batch_id for b in due.claim_due(authority.runtime("run-2"))] == [second.batch_id]
    build(authority.runtime("run-2"), second.batch_id)
    assert staged(authority) == before
    for step in (gate.check, sign.sign):
        step(authority.runtime("run-2"), second.batch_id)
    authority.database.pass_time(STAGED_FOR)
    assert clean_staging(retention(authority)) == 0


def orphan(authority, data: bytes, age: timedelta) -> str:
    """What a killed build leaves: a staged file that no batch names."""
    before = set(staged(authority))
    stage(authority.runtime(), data, "bin")
    (name,) = set(staged(authority)) - before
    modified = (authority.database.now() - age).timestamp()
    os.utime(authority.folder / "blobs" / "staging" / name, (modified, modified))
    return name


def test_what_a_killed_build_left_goes_after_a_day(released):
    name = orphan(released, b"left", STAGED_FOR - MINUTE)
    assert clean_staging(retention(released)) == 0
    os.utime(released.folder / "blobs" / "staging" / name, (START.timestamp() - 86_400,) * 2)
    assert clean_staging(retention(released)) == 1
    assert name not in staged(released)


def test_what_a_killed_build_left_stays_while_a_batch_may_need_it(authority):
    """Its build is done again once the feed goes on, finds the file, and relies on it."""
    authority.add_feed("north", active_from=START)
    authority.add_keys(3)
    authority.close_windows()
    authority.sql("UPDATE feed SET paused = true")
    authority.database.pass_time(timedelta(days=3))
    orphan(authority, b"left", timedelta(days=2))
    assert clean_staging(retention(authority)) == 0
    authority.sql("UPDATE feed SET paused = false")
    authority.export()
    assert clean_staging(retention(authority)) == 1


def test_what_was_built_and_outlived_its_keys_is_held_and_leaves_the_store(authority, caplog):
    authority.add_feed("north", active_from=START)
    authority.add_keys(3)
    authority.close_windows()
    (batch,) = due.claim_due(authority.runtime())
    build(authority.runtime(), batch.batch_id)
    authority.sql("UPDATE feed SET paused = true")
    authority.database.set_time(START + RETENTION - MOMENT)
    assert hold_outlived(retention(authority)) == []
    authority.database.set_time(START + RETENTION)
    assert hold_outlived(retention(authority)) == [batch.batch_id]
    assert "ALERT: batch 1 of feed north is held" in caplog.text
    assert authority.sql("SELECT status, problem, claimed_by FROM batch") == [
        ("held", "it was built, and not released before its keys were to be deleted", None)
    ]
    assert clean_staging(retention(authority)) == 1
    assert staged(authority) == []


def test_a_batch_that_a_run_works_on_is_left_to_it_however_old(authority):
    authority.add_feed("north", active_from=START)
    authority.add_keys(3)
    authority.close_windows()
    authority.database.set_time(START + RETENTION)
    (batch,) = due.claim_due(authority.runtime())
    build(authority.runtime(), batch.batch_id)
    assert hold_outlived(retention(authority)) == []
    assert clean_staging(retention(authority)) == 0
    for step in (gate.check, sign.sign):
        step(authority.runtime(), batch.batch_id)


def test_a_withdrawn_batch_s_lines_and_its_supplement_s_go_by_the_same_span(served):
    served.add_feed("north", active_from=START)
    served.add_keys(3)
    served.close_windows()
    served.export()
    withdraw.withdraw(served.runtime(), 1, "wrong")
    withdraw.finish(served.runtime(), 1)
    served.database.pass_time(timedelta(days=2))
    replace.replace(served.runtime(), 1, "again")
    served.export()
    assert len(lines(served)) == 1
    served.database.set_time(START + RETENTION)
    enforce(served)
    assert lines(served) == []
    assert release.remove_unlisted(served.runtime()) == []
