"""A check keeps its results, says aloud what is missed, and is red for what blocks."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial

import pytest

from keyserver.errors import ConflictError, VerificationError
from keyserver.export import withdraw
from keyserver.quality import exposures, freshness, publicfiles
from keyserver.watch import check
from keyserver.watch.publicfiles import look
from keyserver.watch.results import results
from tests.export.conftest import Authority
from tests.export.operators import events, hold_next

HOUR = timedelta(hours=1)


def kept(authority: Authority) -> list[tuple]:
    return authority.sql("SELECT suite, subject, expectation, severity, met, run FROM quality_result ORDER BY id")


def public_files(authority: Authority) -> list:
    return check.check_public_files(authority.runtime("watch"), partial(look, pause=lambda: None))


def test_what_is_met_is_kept_and_leaves_no_event(published):
    before = len(events(published))
    for checked, suite in (
        (check.check_exposures(published.runtime("watch")), exposures),
        (public_files(published), publicfiles),
        (check.check_freshness(published.runtime("watch")), freshness),
    ):
        assert checked
        assert all(outcome.met for outcome in checked), [str(outcome) for outcome in checked if not outcome.met]
        rows = [row for row in kept(published) if row[0] == suite.NAME]
        assert [row[2] for row in rows] == [outcome.expectation for outcome in checked]
        assert {row[4:] for row in rows} == {(True, "watch")}
        assert check.summary(checked) == {"expectations": len(checked), "missed": 0}
    assert len(events(published)) == before


def test_what_blocks_is_kept_told_and_raised(published, caplog):
    (published.public / "north" / "strange.zip").write_bytes(b"PK")
    with pytest.raises(VerificationError) as raised:
        public_files(published)
    missed = (
        "the store holds nothing unlisted: expected files of an index, in their grace, being withdrawn or about to be"
        " released; indexes and logs, found 1 of 9 objects otherwise: north/strange.zip"
    )
    assert str(raised.value) == f"public files: {missed}"
    assert f"ALERT: public files: {missed}" in caplog.messages
    assert [row[2] for row in kept(published) if not row[4]] == ["the store holds nothing unlisted"]
    (event,) = events(published, "quality.checked")
    assert event["subject"] == {"suite": "public files", "missed": "the store holds nothing unlisted"}
    assert event["counts"] == {"expectations": 12, "missed_block": 1, "missed_warn": 0}


def test_a_warning_is_kept_and_told_and_the_task_stays_green(authority, caplog):
    authority.add_log_key()
    authority.add_feed("north")
    assert hold_next(authority) == 1
    with caplog.at_level(logging.WARNING):
        outcomes = check.check_freshness(authority.runtime("watch"))
    (missed,) = (outcome for outcome in outcomes if not outcome.met)
    assert str(missed) == "no batch waits for a decision: expected no batch held, found batch 1 of feed north"
    assert f"freshness: {missed}" in caplog.messages
    assert "ALERT: freshness" not in caplog.text
    (event,) = events(authority, "quality.checked")
    assert event["counts"] == {"expectations": len(outcomes), "missed_block": 0, "missed_warn": 1}
    assert check.summary(outcomes)["missed"] == 1


def test_everything_that_is_missed_is_named(published):
    withdraw.withdraw(published.runtime(), 2, "wrong")
    published.database.pass_time(HOUR)
    with pytest.raises(VerificationError) as raised:
        check.check_freshness(published.runtime("watch"))
    message = str(raised.value)
    assert "windows are closed: expected the last window that is past closed within 5 minutes, found 59 m" in message
    assert "feeds are fresh" in message
    assert "found 1 of 1 feeds late: north by 59 minutes" in message
    assert "withdrawals come to an end" in message


def test_results_are_told_the_last_of_each_expectation(published):
    check.check_freshness(published.runtime("watch"))
    published.database.pass_time(HOUR)
    with pytest.raises(VerificationError):
        check.check_freshness(published.runtime("watch"))
    told = [result for result in results(published.runtime()).results if result.suite == freshness.NAME]
    assert len(told) == len({result.outcome.expectation for result in told}) > 4
    assert {result.at for result in told} == {published.database.now()}
    missed = results(published.runtime(), missed=True)
    assert [result.outcome.expectation for result in missed.results] == ["feeds are fresh", "windows are closed"]
    assert missed.sentences()[1] == (
        "2026-03-02T11:02:00Z MISSED (block): freshness, all feeds: windows are closed: expected the last window that"
        " is past closed within 5 minutes, found 59 minutes since one was past"
    )


def test_results_of_a_batch_are_those_of_its_check(authority):
    authority.add_feed("north")
    assert hold_next(authority) == 1
    told = results(authority.runtime(), batch_id=1)
    assert {result.subject for result in told.results} == {"batch 1 of feed north"}
    missed = results(authority.runtime(), batch_id=1, missed=True)
    assert [result.outcome.expectation for result in missed.results] == ["keys ended two hours before the batch did"]
    with pytest.raises(ConflictError, match="no batch 2"):
        results(authority.runtime(), batch_id=2)


def test_that_there_is_nothing_to_tell_is_said(authority):
    assert results(authority.runtime()).sentences() == ["No check has left a result."]
    check.check_freshness(authority.runtime("watch"))
    assert results(authority.runtime(), missed=True).sentences() == ["Nothing was missed."]
