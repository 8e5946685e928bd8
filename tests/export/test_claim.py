"""Who works on a batch (B3): claims, what ends them, and what takes a batch out of its feed's way."""

from __future__ import annotations

import logging
import threading
import traceback
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import KeyserverError, RemoteError, StoreError, Superseded
from keyserver.export import claim, index, sign
from keyserver.export import due as due_module
from keyserver.export.build import stage
from keyserver.export.due import claim_due
from keyserver.protocol.exportfile import staged_path
from keyserver.providers.blobs import BlobMissingError
from keyserver.store import batches
from tests.export.conftest import STEPS, run_steps


@pytest.fixture
def two_feeds(authority):
    authority.add_feed("north")
    authority.add_feed("south", input_regions=["SE"], output_region="SE")
    for seed in range(2):
        authority.add_keys(5, seed=seed)
        authority.add_keys(5, seed=10 + seed, regions=("SE",))
        authority.close_windows()
    return authority


def due(authority, run: str) -> list[tuple[str, int]]:
    return [(batch.feed, batch.batch_id) for batch in claim_due(authority.runtime(run))]


def test_a_run_claims_the_first_unsettled_batch_of_each_feed(two_feeds):
    assert due(two_feeds, "run-1") == [("north", 1), ("south", 2)]
    assert due(two_feeds, "run-2") == []
    assert due(two_feeds, "run-1") == [("north", 1), ("south", 2)]


def test_a_claim_is_lost_after_silence_and_the_slow_run_then_ends_as_superseded(two_feeds):
    due(two_feeds, "run-1")
    two_feeds.database.pass_time(timedelta(seconds=45))
    assert due(two_feeds, "run-2") == []
    two_feeds.database.pass_time(timedelta(seconds=1))
    assert due(two_feeds, "run-2") == [("north", 1), ("south", 2)]
    with pytest.raises(Superseded, match="another run"):
        STEPS["build"](two_feeds.runtime("run-1"), 1)
    STEPS["build"](two_feeds.runtime("run-2"), 1)


def test_a_claim_lost_in_the_middle_of_a_step_stops_its_update(two_feeds):
    due(two_feeds, "run-1")
    runtime = two_feeds.runtime("run-1")

    def lose_it() -> None:
        with claim.step(runtime, 1) as batch:
            two_feeds.sql("UPDATE batch SET claimed_by = 'run-2' WHERE id = 1")
            with runtime.database.transaction() as connection:
                batches.advance(connection, batch, "built", run="run-1")

    with pytest.raises(Superseded, match="taken it over"):
        lose_it()
    assert two_feeds.statuses()[1] == "planned"


def test_a_working_step_renews_its_claim(two_feeds, monkeypatch):
    monkeypatch.setattr(claim, "RENEWED_EVERY", 0.05)
    due(two_feeds, "run-1")
    with claim.step(two_feeds.runtime("run-1"), 1):
        moment = two_feeds.database.pass_time(timedelta(seconds=40))
        for _ in range(200):
            if two_feeds.sql("SELECT claim_renewed_at FROM batch WHERE id = 1") == [(moment,)]:
                break
            claim.threading.Event().wait(0.05)
        assert two_feeds.sql("SELECT claim_renewed_at FROM batch WHERE id = 1") == [(moment,)]


def test_another_run_is_asked_for_only_while_a_feed_has_a_batch_that_no_run_holds(two_feeds):
    due(two_feeds, "run-1")
    runtime = two_feeds.runtime("run-1")
    assert not claim.more_is_due(runtime)
    run_steps(runtime, 1)
    assert claim.more_is_due(runtime)
    claim.give_back(runtime)
    assert due(two_feeds, "run-2") == [("south", 2), ("north", 3)]


def test_a_paused_feed_plans_and_waits_while_others_go_on(two_feeds):
    two_feeds.sql("UPDATE feed SET paused = true WHERE name = 'north'")
    two_feeds.close_windows()
    assert due(two_feeds, "run-1") == [("south", 2)]
    two_feeds.sql("UPDATE feed SET paused = false")
    assert due(two_feeds, "run-1") == [("north", 1), ("south", 2)]


def test_a_batch_that_its_check_refuses_is_held_and_the_others_go_on(two_feeds, caplog):
    due(two_feeds, "run-1")
    runtime = two_feeds.runtime("run-1")
    STEPS["build"](runtime, 1)
    ((digest,),) = two_feeds.sql("SELECT export_sha256 FROM file WHERE batch_id = 1")
    staged = two_feeds.folder / "blobs" / staged_path(digest, "bin")
    staged.write_bytes(staged.read_bytes()[:-1] + b"\x00")
    with caplog.at_level(logging.ERROR), pytest.raises(Superseded, match="held"):
        STEPS["check"](runtime, 1)
    assert "ALERT" in caplog.text
    with pytest.raises(Superseded, match="held"):
        STEPS["sign"](runtime, 1)
    run_steps(runtime, 2)
    claim.give_back(runtime)
    assert due(two_feeds, "run-2") == [("north", 3), ("south", 4)]
    run_steps(two_feeds.runtime("run-2"), 3)
    assert two_feeds.statuses() == {1: "held", 2: "released", 3: "released", 4: "planned"}
    assert [name.split("/")[0] for name in two_feeds.released_files() if name.endswith(".zip")] == ["north", "south"]
    ((problem,),) = two_feeds.sql("SELECT problem FROM batch WHERE id = 1")
    assert "staged bytes" in problem


def test_a_step_that_fails_for_good_in_three_runs_holds_its_batch(two_feeds, caplog):
    """The signing key's file is gone: no retry heals that."""
    (two_feeds.folder / "signer" / "north.pem").unlink()
    for run in ("run-1", "run-2", "run-3"):
        runtime = two_feeds.runtime(run)
        assert dict(due(two_feeds, run))["north"] == 1
        if run == "run-1":
            STEPS["build"](runtime, 1)
            STEPS["check"](runtime, 1)
        for _ in range(2):  # a second failure in the same run counts no more
            with pytest.raises((KeyserverError, Superseded)):
                sign.sign(runtime, 1)
        claim.give_back(runtime)
    assert two_feeds.statuses()[1] == "held"
    assert "failed in 3 runs" in two_feeds.sql("SELECT problem FROM batch WHERE id = 1")[0][0]
    assert "ALERT" in caplog.text
    assert dict(due(two_feeds, "run-4"))["north"] == 3
    assert index.write_all(two_feeds.runtime("run-4")) == 2
    assert not [name for name in two_feeds.released_files() if name.endswith(".zip")]


def test_what_a_retry_can_heal_never_counts_against_a_batch(two_feeds):
    for run in ("run-1", "run-2", "run-3", "run-4"):
        due(two_feeds, run)
        with pytest.raises(RemoteError), claim.step(two_feeds.runtime(run), 1):
            raise RemoteError("the store did not answer")
        claim.give_back(two_feeds.runtime(run))
    assert two_feeds.statuses()[1] == "planned"
    assert two_feeds.sql("SELECT failed_runs FROM batch WHERE id = 1") == [([],)]


@pytest.mark.parametrize("cut_off", [MemoryError, KeyboardInterrupt])
def test_work_that_was_cut_off_never_counts_against_a_batch(two_feeds, cut_off):
    due(two_feeds, "run-1")
    with pytest.raises(cut_off), claim.step(two_feeds.runtime("run-1"), 1):
        raise cut_off
    assert two_feeds.sql("SELECT failed_runs FROM batch WHERE id = 1") == [([],)]


def test_a_claim_is_renewed_for_all_that_the_run_holds(two_feeds):
    """A batch that waits for a free worker is not taken over while the run works on another one."""
    due(two_feeds, "run-1")
    two_feeds.database.pass_time(timedelta(seconds=40))
    with claim.step(two_feeds.runtime("run-1"), 1):
        pass
    two_feeds.database.pass_time(timedelta(seconds=40))
    assert due(two_feeds, "run-2") == []


def test_steps_of_one_run_that_renew_at_the_same_moment_both_keep_their_claim(two_feeds):
    """Each renews the other's batch too: neither may take that for a loss."""
    due(two_feeds, "run-1")
    kept: list[bool] = []

    def renew(batch_id: int) -> None:
        database = two_feeds.runtime("run-1").database
        for _ in range(150):
            with database.transaction() as connection:
                kept.append(batches.renew_claim(connection, batch_id, "run-1"))

    threads = [threading.Thread(target=renew, args=[batch_id]) for batch_id in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kept == [True] * 300


def test_a_feed_that_is_paused_after_the_claim_releases_nothing_until_it_is_resumed(two_feeds):
    due(two_feeds, "run-1")
    runtime = two_feeds.runtime("run-1")
    for step in ("build", "check", "sign", "verify"):
        STEPS[step](runtime, 1)
    two_feeds.sql("UPDATE feed SET paused = true WHERE name = 'north'")
    with pytest.raises(Superseded, match="paused"):
        STEPS["release"](runtime, 1)
    assert two_feeds.released_files() == {}
    two_feeds.sql("UPDATE feed SET paused = false")
    STEPS["release"](runtime, 1)
    assert two_feeds.statuses()[1] == "released"


def test_a_run_that_lost_its_claim_puts_nothing_where_phones_look(two_feeds):
    due(two_feeds, "run-1")
    runtime = two_feeds.runtime("run-1")
    for step in ("build", "check", "sign", "verify"):
        STEPS[step](runtime, 1)
    two_feeds.sql("UPDATE batch SET claimed_by = 'run-2' WHERE id = 1")
    with pytest.raises(Superseded, match="another run"):
        STEPS["release"](runtime, 1)
    assert two_feeds.released_files() == {}


def test_a_batch_that_was_planned_without_an_active_signing_key_is_held_with_that_reason(authority):
    authority.add_feed("north")
    authority.sql("UPDATE signing_key SET active_thru = active_from")
    authority.add_keys(3)
    authority.close_windows()
    assert due(authority, "run-1") == [("north", 1)]
    STEPS["build"](authority.runtime("run-1"), 1)
    with pytest.raises(Superseded, match="is held"):
        STEPS["check"](authority.runtime("run-1"), 1)
    ((status, problem),) = authority.sql("SELECT status, problem FROM batch")
    assert status == "held"
    assert "active when the batch was planned, found 0" in problem


def test_a_lost_staging_area_is_a_failure_of_the_step_and_holds_nothing_at_once(two_feeds):
    due(two_feeds, "run-1")
    STEPS["build"](two_feeds.runtime("run-1"), 1)
    for path in (two_feeds.folder / "blobs" / "staging").iterdir():
        path.unlink()
    with pytest.raises(BlobMissingError):
        STEPS["check"](two_feeds.runtime("run-1"), 1)
    assert two_feeds.statuses()[1] == "built"


def test_a_damaged_file_in_the_staging_area_does_not_stop_it_from_being_built(two_feeds):
    due(two_feeds, "run-1")
    STEPS["build"](two_feeds.runtime("run-1"), 1)
    ((digest,),) = two_feeds.sql("SELECT export_sha256 FROM file WHERE batch_id = 1")
    staged = two_feeds.folder / "blobs" / staged_path(digest, "bin")
    whole = staged.read_bytes()
    staged.write_bytes(b"torn")
    stage(two_feeds.runtime("run-1"), whole, "bin")
    assert staged.read_bytes() == whole


def test_a_feed_whose_batch_cannot_be_looked_into_does_not_stop_the_others(two_feeds, monkeypatch):
    settle = due_module.settle_if_empty

    def broken(runtime, batch_id: int) -> bool:
        if batch_id == 1:
            raise StoreError("refused")
        return settle(runtime, batch_id)

    monkeypatch.setattr(due_module, "settle_if_empty", broken)
    assert due(two_feeds, "run-1") == [("south", 2)]


def test_an_index_that_cannot_be_written_does_not_stop_the_others(two_feeds):
    (two_feeds.public / "north" / "index.txt").mkdir(parents=True)
    with pytest.raises(KeyserverError):
        index.write_all(two_feeds.runtime("run-1"))
    assert two_feeds.released_files() == {"south/index.txt": b""}


@pytest.mark.parametrize("status", ["planned", "built", "verified", "held"])
def test_a_batch_never_goes_back(two_feeds, status):
    due(two_feeds, "run-1")
    run_steps(two_feeds.runtime("run-1"), 1)
    with pytest.raises(psycopg.errors.CheckViolation, match="does not go"):
        two_feeds.sql("UPDATE batch SET status = %(status)s, problem = 'x' WHERE id = 1", status=status)


def test_an_error_of_the_database_quotes_no_row(two_feeds):
    (key,) = two_feeds.add_keys(1, seed=77)
    with pytest.raises(StoreError) as refused, two_feeds.runtime("run-1").database.transaction() as connection:
        connection.execute(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler, regions,"
            " created_at) SELECT exposure_key, 1, 1, 1, false, regions, created_at FROM exposure"
        )
    shown = "".join(traceback.format_exception(refused.value))
    assert "exposure_pkey" in shown
    for text in (key.hex(), repr(key), str(key)):
        assert text not in shown
