"""Deletion on demand (R5): what goes, what is counted, what is held and built again; raced, repeated and cut off."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import psycopg
import pytest

from keyserver.device import client, exportreader
from keyserver.errors import FormatError, RemoteError, StoreError, Superseded
from keyserver.export import build, claim, decide, due, release, replace, windows, withdraw
from keyserver.oversight.provenance import provenance
from keyserver.retention import demand
from keyserver.store import deletions
from tests.export.conftest import STEPS, Authority, run_steps
from tests.export.operators import events, hold_next
from tests.test_cli import keyserver

WIDTH = timedelta(minutes=1)
APP = "ours"
REASON = "the laboratory mixed its samples up"


@pytest.fixture
def fed(served: Authority, start) -> Authority:
    served.add_feed("north")
    served.start = start
    return served


def delete(authority, thru, app=APP, reason=REASON, **changes):
    return demand.delete(authority.runtime(role="retention"), app, authority.start, thru, reason, **changes)


def plan(authority, thru, app=APP):
    return demand.plan(authority.runtime(role="retention"), app, authority.start, thru)


def stored(authority) -> set[bytes]:
    return {bytes(key) for (key,) in authority.sql("SELECT exposure_key FROM exposure")}


def windows_of(authority) -> list[tuple]:
    return authority.sql(
        "SELECT starts_at - %(start)s, sum(keys)::int, sum(revisions)::int FROM deletion_window GROUP BY 1 ORDER BY 1",
        start=authority.start,
    )


def told(authority) -> list[tuple[set[bytes], set[bytes]]]:
    """The keys and the revised keys of each file that phones find in the index."""
    lines = client.fetch_index(f"{authority.public_url}/north/index.txt")
    read = [exportreader.read(client.fetch_file(f"{authority.public_url}/", line)) for line in lines]
    return [({key.key for key in file.keys}, {key.key for key in file.revised_keys}) for file in read]


def export_until(authority, last_step: str, run: str = "run-1") -> int:
    """Work on the due batch of the one feed through a step; keep the claim."""
    (batch,) = due.claim_due(authority.runtime(run))
    for name, step in STEPS.items():
        step(authority.runtime(run), batch.batch_id)
        if name == last_step:
            break
    return batch.batch_id


# What goes, and what is counted


def test_the_keys_of_one_app_go_and_nobody_else_s(fed):
    ours = fed.add_keys(3, seed=1, app_name=APP)
    others = fed.add_keys(2, seed=2, app_name="theirs")
    unnamed = fed.add_keys(2, seed=3)
    fed.close_windows()
    later = fed.add_keys(2, seed=4, app_name=APP)
    fed.close_windows()

    done = delete(fed, fed.start + WIDTH)

    assert (done.keys, done.revisions, done.held) == (3, 0, [])
    assert stored(fed) == {*others, *unnamed, *later}
    assert stored(fed).isdisjoint(ours)
    assert fed.sql("SELECT app_name, starts_at, ends_at, reason FROM deletion") == [
        (APP, fed.start, fed.start + WIDTH, REASON)
    ]
    assert windows_of(fed) == [(timedelta(0), 3, 0)]
    (event,) = events(fed, "keys.deleted_on_demand")
    assert event["subject"] == {
        "deletion": 1,
        "app": APP,
        "start": fed.start.isoformat(),
        "end": (fed.start + WIDTH).isoformat(),
        "reason": REASON,
    }
    assert event["counts"] == {"keys": 3, "revisions": 0, "windows": 1, "held": 0}


def test_a_revision_goes_with_its_key_and_is_counted_where_it_was_made(fed):
    keys = fed.add_keys(4, seed=1, app_name=APP, report_type="likely")
    fed.close_windows()
    fed.revise(keys[:2], "confirmed")  # in the second window, which is closed then
    fed.close_windows()
    fed.revise(keys[2:3], "confirmed")  # in the third, which stays open

    done = delete(fed, fed.start + WIDTH)

    assert (done.keys, done.revisions) == (4, 2)
    assert windows_of(fed) == [(timedelta(0), 4, 0), (WIDTH, 0, 2)]
    fed.close_windows()
    totals = fed.sql("SELECT keys, revisions FROM closed_window ORDER BY starts_at")
    assert totals == [(4, 0), (0, 2), (0, 0)]  # the last one never counted what was gone before it closed


def test_many_rows_go_in_parts_with_an_event_each(fed, monkeypatch):
    monkeypatch.setattr(demand, "_ROWS_A_PART", 4)
    fed.add_keys(10, seed=1, app_name=APP)
    kept = fed.add_keys(3, seed=2)
    fed.close_windows()

    assert delete(fed, fed.start + WIDTH).keys == 10

    assert stored(fed) == set(kept)
    assert [event["counts"]["keys"] for event in events(fed, "keys.deleted_on_demand")] == [4, 4, 2]
    assert windows_of(fed) == [(timedelta(0), 10, 0)]


def test_twice_is_once(fed):
    fed.add_keys(3, app_name=APP)
    fed.close_windows()
    delete(fed, fed.start + WIDTH)
    before = fed.sql("SELECT max(seq) FROM audit_event"), windows_of(fed)
    assert delete(fed, fed.start + WIDTH).keys == 0
    assert (fed.sql("SELECT max(seq) FROM audit_event"), windows_of(fed)) == before


def test_an_open_window_is_refused_and_the_latest_end_is_named(fed):
    kept = fed.add_keys(1, app_name=APP)
    fed.close_windows()
    for thru in (fed.start + 2 * WIDTH, fed.start + 9 * WIDTH):
        with pytest.raises(FormatError, match="closed through 2026-03-02T10:01Z"):
            delete(fed, thru)
        with pytest.raises(FormatError, match="closed through 2026-03-02T10:01Z"):
            plan(fed, thru)
    assert stored(fed) == set(kept)


@pytest.mark.parametrize(
    ("from_", "thru"),
    [
        (timedelta(seconds=1), WIDTH),
        (timedelta(0), timedelta(seconds=30)),
        (timedelta(0), timedelta(0)),
        (WIDTH, timedelta(0)),
    ],
)
def test_a_span_that_is_none_of_windows_is_refused(fed, from_, thru):
    fed.close_windows()
    with pytest.raises(FormatError, match="whole windows"):
        demand.plan(fed.runtime(role="retention"), APP, fed.start + from_, fed.start + thru)


def test_a_moment_without_a_zone_is_refused(fed):
    fed.close_windows()
    with pytest.raises(FormatError, match="time zone"):
        demand.plan(fed.runtime(role="retention"), APP, fed.start.replace(tzinfo=None), fed.start + WIDTH)


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
def test_without_a_reason_nothing_goes(fed, reason):
    kept = fed.add_keys(1, app_name=APP)
    fed.close_windows()
    with pytest.raises(FormatError, match="reason"):
        delete(fed, fed.start + WIDTH, reason=reason)
    assert stored(fed) == set(kept)


def test_no_other_role_deletes(fed):
    fed.add_keys(1, app_name=APP)
    fed.close_windows()
    with pytest.raises(StoreError, match="permission denied"):
        demand.delete(fed.runtime(), APP, fed.start, fed.start + WIDTH, REASON)


# The dry run


def test_the_dry_run_says_what_would_be_done_and_does_nothing(fed):
    first = fed.add_keys(3, seed=1, app_name=APP, report_type="likely")
    fed.add_keys(1, seed=2)
    fed.close_windows()
    assert fed.export() == [1]
    fed.revise(first[:1], "confirmed")
    fed.close_windows()
    assert fed.export() == [2]  # tells the revision
    fed.add_keys(2, seed=3, app_name=APP)
    fed.close_windows()
    assert export_until(fed, "sign") == 3
    claim.give_back(fed.runtime("run-1"))
    before = fed.sql("SELECT max(seq) FROM audit_event"), stored(fed), fed.statuses()

    found = plan(fed, fed.start + 3 * WIDTH)

    assert (found.keys, found.revisions) == (5, 1)
    by_window = [((row.starts_at - fed.start) // WIDTH, row.keys, row.revisions) for row in found.windows]
    assert by_window == [(0, 3, 0), (1, 0, 1), (2, 2, 0)]
    assert [(holder.batch_id, holder.keys) for holder in found.released] == [(1, 3), (2, 1)]
    assert [(holder.batch_id, holder.keys, holder.status) for holder in found.unreleased] == [(3, 2, "signed")]
    assert (found.withdrawn, found.settled) == ([], [])
    assert (fed.sql("SELECT max(seq) FROM audit_event"), stored(fed), fed.statuses()) == before
    text = "\n".join(found.sentences())
    assert f"5 keys that {APP} uploaded" in text
    assert "batch 1 of feed north, 2026-03-02 09:59 to 2026-03-02 10:01 UTC, released: 3 of the keys" in text
    assert "batch 3 of feed north, 2026-03-02 10:02 to 2026-03-02 10:03 UTC, signed: 2 of the keys" in text
    approval = demand.approval_text(fed.runtime(role="retention"), APP, fed.start, fed.start + 3 * WIDTH, REASON)
    assert all(line.startswith("    ") for line in approval.splitlines() if line)
    assert REASON in approval


def test_batches_that_were_withdrawn_or_decided_about_are_told_apart(fed):
    fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    assert fed.export() == [1]
    withdraw.withdraw(fed.runtime(), 1, "a mistake")
    withdraw.finish(fed.runtime(), 1)
    assert replace.replace(fed.runtime(), 1, "once more") == 2
    assert fed.export() == [2]
    fed.add_keys(2, seed=2, app_name=APP)
    assert hold_next(fed) == 3
    decide.reject(fed.runtime(), 3, "not that one")

    found = plan(fed, fed.start + 2 * WIDTH)

    assert [(holder.batch_id, holder.replaced_by) for holder in found.withdrawn] == [(1, 2)]
    assert [holder.batch_id for holder in found.released] == [2]
    assert [(holder.batch_id, holder.status) for holder in found.settled] == [(3, "rejected")]
    assert "withdrawn, replaced by batch 2" in "\n".join(found.sentences())


def test_keys_of_another_region_hold_no_batch(fed):
    """Its rules kept them out: no file has them, and its counts were right when it was built."""
    fed.add_keys(2, seed=1, app_name=APP, regions=("SE",))
    fed.add_keys(2, seed=2)
    fed.close_windows()
    assert export_until(fed, "build") == 1
    assert plan(fed, fed.start + WIDTH).unreleased == []
    assert delete(fed, fed.start + WIDTH).held == []
    claim.give_back(fed.runtime("run-1"))
    assert fed.export() == [1]
    assert provenance(fed.runtime(), "1").problems == []


# Batches on their way


@pytest.mark.parametrize("step", ["build", "check", "sign", "verify"])
def test_a_batch_on_its_way_is_held_and_built_again_without_them(fed, step):
    fed.add_keys(3, seed=1, app_name=APP)
    kept = fed.add_keys(2, seed=2)
    fed.close_windows()
    assert export_until(fed, step) == 1

    done = delete(fed, fed.start + WIDTH)

    assert done.held == [1]
    assert demand.held(fed.runtime(role="retention")) == [1]
    assert fed.statuses() == {1: "held"}
    ((failed, claimed),) = fed.sql("SELECT failed_expectations, claimed_by FROM batch")
    assert (failed, claimed) == ([demand.EXPECTATION], None)
    (held,) = events(fed, "batch.held")
    assert (held["subject"]["batch"], held["counts"]) == (1, {"keys": 3})
    for later in list(STEPS)[list(STEPS).index(step) + 1 :]:  # the run that had it goes on, and finds it gone
        with pytest.raises(Superseded):
            STEPS[later](fed.runtime("run-1"), 1)
    assert told_or_none(fed) == []

    assert decide.approve(fed.runtime(), 1, REASON) == 2
    assert demand.held(fed.runtime(role="retention")) == []
    assert fed.export() == [2]
    assert told(fed) == [(set(kept), set())]
    ((counts,),) = fed.sql("SELECT counts FROM batch WHERE id = 2")
    assert (counts["released"], counts["deleted_on_demand"]) == (2, 3)
    assert "revised_deleted_on_demand" not in counts


def told_or_none(authority) -> list[str]:
    return [name for name in authority.released_files() if name.endswith(".zip")]


def test_what_was_approved_before_stays_approved(fed):
    fed.add_keys(2, seed=1, app_name=APP)
    assert hold_next(fed) == 1
    approved = fed.sql("SELECT failed_expectations FROM batch WHERE id = 1")[0][0]
    assert decide.approve(fed.runtime(), 1, "meant so") == 2
    assert export_until(fed, "verify") == 2
    assert delete(fed, fed.start + WIDTH).held == [2]
    claim.give_back(fed.runtime("run-1"))
    assert decide.approve(fed.runtime(), 2, REASON) == 3
    ((carried,),) = fed.sql("SELECT approved FROM batch WHERE id = 3")
    assert set(approved) < set(carried)
    assert fed.export() == [3]


def test_a_release_that_has_put_its_files_is_beaten_and_cleans_up(fed, monkeypatch):
    fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    assert export_until(fed, "verify") == 1
    put = release._put

    def put_and_delete(runtime, batch, file):
        put(runtime, batch, file)
        assert delete(fed, fed.start + WIDTH).held == [1]

    monkeypatch.setattr(release, "_put", put_and_delete)
    with pytest.raises(Superseded):
        release.release(fed.runtime("run-1"), 1)
    assert fed.statuses() == {1: "held"}
    assert len(release.remove_unlisted(fed.runtime())) == 1
    assert told_or_none(fed) == []


def test_a_batch_built_while_keys_are_deleted_is_built_again(fed, monkeypatch):
    """Read before the deletion, written down after it: it would have the keys, and no status said so."""
    fed.add_keys(3, seed=1, app_name=APP)
    kept = fed.add_keys(2, seed=2)
    fed.close_windows()
    stage = build.stage
    deleted = []

    def stage_and_delete(runtime, data, suffix):
        stage(runtime, data, suffix)
        deleted.append(delete(fed, fed.start + WIDTH))

    monkeypatch.setattr(build, "stage", stage_and_delete)
    (batch,) = due.claim_due(fed.runtime("run-1"))
    with pytest.raises(RemoteError, match="deleted on demand while batch 1 of feed north was built"):
        build.build(fed.runtime("run-1"), batch.batch_id)
    monkeypatch.undo()
    assert deleted[0].held == []  # it was not built yet
    assert fed.statuses() == {1: "planned"}

    run_steps(fed.runtime("run-1"), batch.batch_id)
    assert told(fed) == [(set(kept), set())]


def test_a_batch_found_empty_while_keys_are_deleted_is_looked_at_again(fed):
    fed.add_keys(3, seed=1, app_name=APP, regions=("SE",))
    fed.close_windows()
    (batch,) = due.claim_due(fed.runtime("run-2")) or [None]
    assert batch is None  # settled as empty at once, with the keys counted
    assert fed.statuses() == {1: "empty"}
    assert fed.sql("SELECT counts ->> 'other_region' FROM batch") == [("3",)]
    delete(fed, fed.start + WIDTH)
    assert provenance(fed.runtime(), "1").problems == []


class Paused:
    """A function that stops when it is done, until it is told to go on; what it holds it keeps."""

    def __init__(self, monkeypatch, module, name: str) -> None:
        self.real = getattr(module, name)
        self.reached, self.goes_on = threading.Event(), threading.Event()
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments, **named):
        done = self.real(*arguments, **named)
        self.reached.set()
        assert self.goes_on.wait(30)
        return done


class Working(threading.Thread):
    """Works beside the test; ``outcome`` is what came out, or the `RemoteError` that ended it."""

    def __init__(self, work) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.outcome = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.work()
        except RemoteError as error:
            self.outcome = error


@pytest.fixture
def claimed(fed) -> Authority:
    """A batch with keys of the app and others, claimed."""
    fed.add_keys(3, seed=1, app_name=APP)
    fed.add_keys(2, seed=2)
    fed.close_windows()
    assert [batch.batch_id for batch in due.claim_due(fed.runtime("run-1"))] == [1]
    return fed


def test_a_deletion_waits_for_a_build_that_is_being_written_down_and_holds_it(claimed, monkeypatch):
    written = Paused(monkeypatch, build.batches, "settle_contents")
    building = Working(lambda: build.build(claimed.runtime("run-1"), 1))
    assert written.reached.wait(30)
    deleting = Working(lambda: delete(claimed, claimed.start + WIDTH))
    wait_for_a_lock(claimed)
    written.goes_on.set()
    building.join(30)
    deleting.join(30)
    assert building.outcome is None
    assert deleting.outcome.held == [1]
    assert claimed.statuses() == {1: "held"}


def test_a_build_waits_for_a_deletion_that_is_not_committed_and_begins_again(claimed, monkeypatch):
    read = Paused(monkeypatch, build, "stage")
    gone = Paused(monkeypatch, demand.deletions, "delete")
    building = Working(lambda: build.build(claimed.runtime("run-1"), 1))
    assert read.reached.wait(30)
    deleting = Working(lambda: delete(claimed, claimed.start + WIDTH))
    assert gone.reached.wait(30)
    read.goes_on.set()
    wait_for_a_lock(claimed)
    gone.goes_on.set()
    building.join(30)
    deleting.join(30)
    assert deleting.outcome.held == []
    assert isinstance(building.outcome, RemoteError)
    assert "built again without them" in str(building.outcome)
    assert claimed.statuses() == {1: "planned"}


def wait_for_a_lock(authority) -> None:
    """Until somebody waits for somebody else's row."""
    waited = threading.Event()
    for _ in range(600):
        waiting = authority.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if waiting:
            return
        waited.wait(0.05)
    raise AssertionError("nobody waits for a lock")


def test_no_window_is_closed_and_no_batch_planned_while_a_part_is_deleted(fed, monkeypatch):
    """A window that closed in between would count rows that are gone a moment later, and nobody would know."""
    fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    fed.database.pass_time(WIDTH)
    outcome = {}
    real = demand.deletions.delete

    def close_meanwhile(*arguments, **named):
        gone = real(*arguments, **named)
        with psycopg.connect(fed.database.url("keyserver_pipeline"), autocommit=True) as connection:
            connection.execute("SET lock_timeout = '200ms'")
            try:
                connection.execute("SELECT FROM release_clock FOR UPDATE")
            except psycopg.errors.LockNotAvailable as error:
                outcome["closing"] = error
        return gone

    monkeypatch.setattr(demand.deletions, "delete", close_meanwhile)
    delete(fed, fed.start + WIDTH)
    assert "closing" in outcome
    assert len(windows.close_windows(fed.runtime("closing"), fed.database.now())) == 1


def test_a_rewriter_at_work_hides_no_row(fed):
    """Rewriting takes rows out and puts them back (W5): in between a statement would find none."""
    fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    with psycopg.connect(fed.database.url("keyserver_rewriter")) as rewriting:
        rewriting.execute("SELECT pg_advisory_xact_lock(3, 0)")
        rewriting.execute("WITH taken AS (DELETE FROM exposure RETURNING *) INSERT INTO exposure SELECT * FROM taken")
        done = {}
        deleting = threading.Thread(target=lambda: done.update(it=delete(fed, fed.start + WIDTH)), daemon=True)
        deleting.start()
        wait_for_a_lock(fed)
        rewriting.commit()
        deleting.join(30)
    assert done["it"].keys == 3
    assert stored(fed) == set()


# Files that are out


def test_released_files_are_named_and_taken_back_if_wanted(fed):
    ours = fed.add_keys(3, seed=1, app_name=APP)
    kept = fed.add_keys(2, seed=2)
    fed.close_windows()
    assert fed.export() == [1]
    retention = fed.runtime(role="retention")
    thru = fed.start + WIDTH

    done = delete(fed, thru)

    assert [(holder.batch_id, holder.status) for holder in done.carried] == [(1, "released")]
    assert demand.out(retention, APP, fed.start, thru) == [1]
    assert delete(fed, thru).carried == done.carried  # what was deleted cannot be found again; it was written down
    assert told(fed) == [({*ours, *kept}, set())]
    assert demand.clear_staging(retention, APP, fed.start, thru) == 0  # phones have the files anyway

    withdraw.withdraw(fed.runtime(), 1, REASON)
    assert demand.out(retention, APP, fed.start, thru) == [1]  # its URLs may still answer
    withdraw.finish(fed.runtime(), 1)
    assert demand.out(retention, APP, fed.start, thru) == []
    assert replace.replace(fed.runtime(), 1, REASON) == 2
    assert fed.export() == [2]
    assert told(fed) == [(set(kept), set())]


def test_staged_files_that_had_the_keys_are_removed_with_the_batch(fed):
    fed.add_keys(3, seed=1, app_name=APP)
    fed.add_keys(2, seed=2)
    fed.close_windows()
    assert export_until(fed, "sign") == 1
    delete(fed, fed.start + WIDTH)
    decide.approve(fed.runtime(), 1, REASON)
    assert fed.export("run-2") == [2]
    retention = fed.runtime(role="retention")
    before = set(retention.blobs.list("staging/"))
    assert demand.clear_staging(retention, APP, fed.start, fed.start + WIDTH) == 2
    gone = before - set(retention.blobs.list("staging/"))
    hashes = fed.sql("SELECT export_sha256, zip_sha256 FROM file WHERE batch_id = 1")
    assert gone == {f"staging/{hashes[0][0].hex()}.bin", f"staging/{hashes[0][1].hex()}.zip"}
    assert demand.clear_staging(retention, APP, fed.start, fed.start + WIDTH) == 0


def test_a_revised_key_names_the_batch_that_told_it(fed):
    keys = fed.add_keys(3, seed=1, app_name=APP, report_type="likely")
    fed.close_windows()
    assert fed.export() == [1]
    fed.revise(keys[:1], "negative")
    fed.add_keys(2, seed=2)
    fed.close_windows()
    assert export_until(fed, "build") == 2
    done = delete(fed, fed.start + WIDTH)
    assert done.held == [2]
    assert [holder.batch_id for holder in done.carried] == [1, 2]
    claim.give_back(fed.runtime("run-1"))
    assert decide.approve(fed.runtime(), 2, REASON) == 3
    assert fed.export() == [3]
    ((counts,),) = fed.sql("SELECT counts FROM batch WHERE id = 3")
    assert (counts["released"], counts["revised_deleted_on_demand"]) == (2, 1)


def test_counts_are_asked_by_span_and_by_window(fed):
    fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    fed.add_keys(2, seed=2, app_name=APP)
    fed.close_windows()
    delete(fed, fed.start + 2 * WIDTH)
    with fed.runtime().database.connection() as connection:
        assert deletions.of_span(connection, fed.start, fed.start + 2 * WIDTH) == deletions.Deleted(5, 0)
        assert deletions.of_window(connection, fed.start) == deletions.Deleted(3, 0)
        assert deletions.of_window(connection, fed.start + WIDTH) == deletions.Deleted(2, 0)
        assert deletions.of_window(connection, fed.start + 2 * WIDTH) == deletions.Deleted(0, 0)


def test_no_event_and_no_answer_has_a_key(fed, caplog):
    caplog.set_level("INFO")
    keys = fed.add_keys(3, seed=1, app_name=APP)
    fed.close_windows()
    assert export_until(fed, "build") == 1
    found = plan(fed, fed.start + WIDTH)
    done = delete(fed, fed.start + WIDTH)
    texts = caplog.text + json.dumps(events(fed)) + "\n".join(found.sentences()) + repr(done)
    assert [key for key in keys if key.hex() in texts.lower()] == []


# The command


def command(authority, *arguments: str, **changes: str):
    return keyserver(
        "retention",
        "delete",
        *("--app", APP, "--from", "2026-03-02T10:00Z", "--thru", "2026-03-02T10:01Z", "--reason", REASON),
        *arguments,
        KEYSERVER_RETENTION_DATABASE_URL=authority.database.url("keyserver_retention"),
        KEYSERVER_PIPELINE_DATABASE_URL=authority.database.url("keyserver_pipeline"),
        KEYSERVER_BLOBS_URL=f"file://{authority.folder}/blobs",
        KEYSERVER_PUBLIC_URL=authority.public_url,
        **changes,
    )


@pytest.fixture
def two_feeds(fed) -> Authority:
    """One of them has released the keys, the other one's batch is on its way."""
    fed.add_feed("south")
    fed.ours = fed.add_keys(3, seed=1, app_name=APP)
    fed.kept = fed.add_keys(2, seed=2)
    fed.close_windows()
    north, south = due.claim_due(fed.runtime("run-1"))
    run_steps(fed.runtime("run-1"), north.batch_id)
    STEPS["build"](fed.runtime("run-1"), south.batch_id)
    claim.give_back(fed.runtime("run-1"))
    return fed


def test_the_command_tries_first_when_it_is_told_to(two_feeds):
    said = command(two_feeds, "--dry-run")
    assert said.returncode == 0, said.stderr
    assert said.stdout.endswith("This was a dry run: nothing is deleted.\n")
    assert stored(two_feeds) == {*two_feeds.ours, *two_feeds.kept}


def test_the_command_deletes_replaces_what_it_held_and_names_what_is_out(two_feeds):
    said = command(two_feeds, "--yes")
    assert said.returncode == 0, said.stderr
    assert "3 keys are deleted; 0 revisions went with them." in said.stdout
    assert "Batch 2 is held; batch 3 is planned in its place." in said.stdout
    assert "Batch 1 is out and has some of them: `keyserver export withdraw 1` takes it back." in said.stdout
    assert stored(two_feeds) == set(two_feeds.kept)
    assert two_feeds.statuses() == {1: "released", 2: "replaced", 3: "planned"}
    assert {event["actor"] for event in events(two_feeds, "keys.deleted_on_demand", "batch.approved")} == {
        "keyserver retention delete"
    }


def test_the_command_takes_back_what_is_out_when_it_is_told_to(two_feeds):
    said = command(two_feeds, "--yes", "--withdraw")
    assert said.returncode == 0, said.stderr
    assert "Batch 1 is withdrawn; batch 4 is planned in its place, without them." in said.stdout
    assert sorted(two_feeds.export()) == [3, 4]
    assert told(two_feeds) == [(set(two_feeds.kept), set())]
    before = two_feeds.statuses()
    assert command(two_feeds, "--yes", "--withdraw").returncode == 0
    assert two_feeds.statuses() == before


def test_the_command_without_a_yes_does_nothing(two_feeds):
    said = command(two_feeds)  # nobody is there to answer
    assert said.returncode == 1
    assert stored(two_feeds) == {*two_feeds.ours, *two_feeds.kept}
