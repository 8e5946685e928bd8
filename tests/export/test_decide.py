"""What becomes of a held batch (B4): approved, rejected, or left without an answer for 24 hours."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import pytest

from keyserver.device import exportreader
from keyserver.errors import ConflictError, FormatError, Superseded
from keyserver.export import claim, decide, replace
from keyserver.export.due import claim_due
from keyserver.protocol.exportfile import staged_path
from tests.export.conftest import STEPS
from tests.export.operators import TOO_EARLY, delete_on_demand, events, everything, hold_next, work_until_held


@pytest.fixture
def holding(authority):
    """An authority whose first batch is held for a key that has not ended."""
    authority.add_feed("north")
    authority.add_keys(5)
    assert hold_next(authority) == 1
    return authority


@pytest.fixture
def holding_revisions(authority):
    """An authority whose first batch is out, and whose second is held and alone tells of two of its keys."""
    authority.add_feed("north")
    keys = authority.add_keys(5)
    authority.close_windows()
    authority.export()
    authority.revise(keys[:1], "negative")
    authority.revise(keys[1:2], "confirmed")
    assert hold_next(authority) == 2
    return authority, keys


def newest_file(authority) -> exportreader.ExportFile:
    line = (authority.public / "north" / "index.txt").read_text(encoding="ascii").split("\n")[-1]
    return exportreader.read((authority.public / line).read_bytes())


def test_what_waits_is_shown_with_what_helps_to_decide(holding_revisions):
    authority, _ = holding_revisions
    (waiting,) = decide.held(authority.runtime())
    assert (waiting.batch_id, waiting.feed, waiting.revisions) == (2, "north", 2)
    assert waiting.failed_expectations == [TOO_EARLY]
    assert TOO_EARLY in waiting.problem
    assert waiting.held_at == authority.database.now()
    assert waiting.ends_at - waiting.starts_at == timedelta(minutes=1)


def test_an_approved_batch_is_replaced_by_one_that_may_fail_the_same_and_is_released(holding):
    planned = decide.approve(holding.runtime(), 1, "the phone's clock is known to be wrong")
    assert holding.statuses() == {1: "replaced", planned: "planned"}
    assert holding.sql("SELECT approved, with_keys FROM batch WHERE id = 2") == [([TOO_EARLY], True)]
    assert holding.export() == [planned]
    assert len(newest_file(holding).keys) == 6
    (event,) = events(holding, "batch.approved")
    assert event["subject"] == {
        "batch": 1,
        "feed": "north",
        "reason": "the phone's clock is known to be wrong",
        "expectations": TOO_EARLY,
    }


def test_an_approval_covers_no_other_expectation(holding):
    planned = decide.approve(holding.runtime(), 1, "the phone's clock is known to be wrong")
    claim_due(holding.runtime())
    STEPS["build"](holding.runtime(), planned)
    ((digest,),) = holding.sql("SELECT export_sha256 FROM file WHERE batch_id = %(id)s", id=planned)
    staged = holding.folder / "blobs" / staged_path(digest, "bin")
    staged.write_bytes(staged.read_bytes()[:-1] + b"\x00")
    with pytest.raises(Superseded, match="held"):
        STEPS["check"](holding.runtime(), planned)
    claim.give_back(holding.runtime())

    (waiting,) = decide.held(holding.runtime())
    assert waiting.failed_expectations == ["staged bytes are those that were built"]
    third = decide.approve(holding.runtime(), planned, "the disk was replaced")
    assert holding.statuses() == {1: "replaced", planned: "replaced", third: "planned"}
    assert holding.sql("SELECT approved FROM batch WHERE id = 3") == [(waiting.failed_expectations,)]
    assert work_until_held(holding) == third  # for what the first approval named, and this one did not


def test_a_batch_held_for_its_steps_is_approved_without_naming_any_expectation(authority):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    authority.sql("UPDATE batch SET status = 'held', problem = 'its step sign failed in 3 runs'")
    planned = decide.approve(authority.runtime(), 1, "the key is back")
    assert authority.sql("SELECT approved FROM batch WHERE id = 2") == [([],)]
    assert authority.export() == [planned]


def test_a_rejected_batch_ends_and_later_ones_go_on(holding):
    assert decide.reject(holding.runtime(), 1, "nonsense") is None
    assert holding.statuses() == {1: "rejected"}
    holding.add_keys(3, seed=2)
    holding.close_windows()
    assert holding.export() == [2]
    (event,) = events(holding, "batch.rejected")
    assert event["subject"] == {"batch": 1, "feed": "north", "reason": "nonsense"}
    assert event["counts"] == {"revisions_kept": 0, "revisions_dropped": 0}
    assert holding.sql("SELECT reason FROM batch WHERE id = 1") == [("nonsense",)]


def test_the_revisions_that_a_rejected_batch_alone_carried_come_in_one_without_keys(holding_revisions):
    authority, keys = holding_revisions
    planned = decide.reject(authority.runtime(), 2, "nonsense")
    assert authority.sql("SELECT with_keys, replaces, supplement FROM batch WHERE id = 3") == [(False, 2, False)]
    assert authority.export() == [planned]
    file = newest_file(authority)
    assert file.keys == ()
    assert {key.key for key in file.revised_keys} == set(keys[:2])
    (event,) = events(authority, "batch.rejected")
    assert event["counts"] == {"revisions_kept": 2, "revisions_dropped": 0}


def test_they_are_dropped_if_the_operator_says_so(holding_revisions):
    authority, _ = holding_revisions
    assert decide.reject(authority.runtime(), 2, "nonsense", keep_revisions=False) is None
    assert authority.statuses() == {1: "released", 2: "rejected"}
    (event,) = events(authority, "batch.rejected")
    assert event["counts"] == {"revisions_kept": 0, "revisions_dropped": 2}


def test_a_rejected_batch_can_still_be_released_by_one_that_replaces_it(holding):
    decide.reject(holding.runtime(), 1, "nonsense")
    delete_on_demand(holding, "interval_number = (SELECT max(interval_number) FROM exposure)")
    planned = replace.replace(holding.runtime(), 1, "the odd key is gone")
    assert holding.export() == [planned]
    assert len(newest_file(holding).keys) == 5


def test_keys_that_were_removed_by_hand_hold_the_batch_once_more(holding):
    decide.reject(holding.runtime(), 1, "nonsense")
    holding.sql("DELETE FROM exposure WHERE interval_number = (SELECT max(interval_number) FROM exposure)")
    planned = replace.replace(holding.runtime(), 1, "the odd key is gone")
    assert work_until_held(holding) == planned
    (waiting,) = decide.held(holding.runtime())
    assert waiting.failed_expectations == ["rows number as when the windows closed"]


def test_nobody_s_answer_for_24_hours_is_a_rejection_with_an_alert(holding_revisions, caplog):
    authority, _ = holding_revisions
    authority.database.pass_time(timedelta(hours=24) - timedelta(seconds=1))
    assert decide.reject_unanswered(authority.runtime()) == []
    authority.database.pass_time(timedelta(seconds=1))
    with caplog.at_level(logging.ERROR):
        assert decide.reject_unanswered(authority.runtime()) == [2]
    assert "ALERT: nobody decided about held batch 2" in caplog.text
    assert authority.statuses() == {1: "released", 2: "rejected", 3: "planned"}
    before = everything(authority)
    assert decide.reject_unanswered(authority.runtime("run-2")) == []
    assert everything(authority) == before


@pytest.mark.parametrize("decision", [decide.approve, decide.reject])
def test_a_decision_taken_twice_changes_nothing(holding_revisions, decision):
    authority, _ = holding_revisions
    planned = decision(authority.runtime(), 2, "so it is")
    before = everything(authority)
    assert decision(authority.runtime("run-2"), 2, "so it is") == planned == 3
    assert everything(authority) == before


def test_a_decision_is_not_taken_back(holding):
    decide.reject(holding.runtime(), 1, "no")
    with pytest.raises(ConflictError, match="is rejected: only a held batch is approved or rejected"):
        decide.approve(holding.runtime(), 1, "yes")
    assert hold_next(holding) == 2
    decide.approve(holding.runtime(), 2, "yes")
    with pytest.raises(ConflictError, match="is replaced: only a held batch"):
        decide.reject(holding.runtime(), 2, "no")


@pytest.mark.parametrize("decision", [decide.approve, decide.reject])
def test_only_a_held_batch_is_decided_on_and_only_with_a_reason(authority, decision):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    with pytest.raises(ConflictError, match="is planned: only a held batch"):
        decision(authority.runtime(), 1, "yes")
    with pytest.raises(FormatError, match="a reason is needed"):
        decision(authority.runtime(), 1, "\n")
    assert authority.statuses() == {1: "planned"}


def test_of_two_decisions_at_the_same_time_one_counts(holding):
    """They wait for each other on the release clock; the second finds the batch decided."""
    first, second = holding.runtime("operator-1"), holding.runtime("operator-2")
    outcomes: list[object] = []
    both = threading.Barrier(2)

    def decide_(decision, runtime) -> None:
        both.wait()
        try:
            outcomes.append(decision(runtime, 1, "mine"))
        except ConflictError as error:
            outcomes.append(error)

    threads = [
        threading.Thread(target=decide_, args=arguments)
        for arguments in ((decide.approve, first), (decide.reject, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 1
    assert len(events(holding, "batch.approved", "batch.rejected")) == 1
