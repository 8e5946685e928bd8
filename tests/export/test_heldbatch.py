"""What an operator reads before deciding about a held batch (B4): each question in its place, whatever was found."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from keyserver.errors import ConflictError, Superseded
from keyserver.export import decide
from keyserver.export.heldbatch import Failure, Review, picture, read, review_text, text
from keyserver.export.markdown import escaped
from keyserver.quality.exportfiles import SUITE
from keyserver.store.batches import Batch, Decision, Situation
from tests.export.operators import TOO_EARLY, events, everything, hold_next

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
END = START + timedelta(hours=4)
HEADINGS = ["What failed", "How many keys", "Who waits", "What an answer does"]
BATCH = Batch(
    batch_id=12,
    feed_id=1,
    feed="north",
    starts_at=START,
    ends_at=END,
    cutoff=END - timedelta(days=16),
    revisions_to=END,
    replaces=None,
    supplement=False,
    end_offset=0,
    approved=[],
    root="north",
    output_region="NO",
    max_keys=1000,
    status="held",
    claimed_by=None,
    failed_runs=[],
    carriers=[],
    withdrawn_carriers=[],
)
USUAL = {date(2026, 2, 16) + timedelta(days=day): 100.0 + 10 * day for day in range(14) if day != 4}
SITUATION = Situation(
    period=timedelta(hours=4),
    counts={"released": 930, "synthetic": 30},
    now=END + timedelta(minutes=1),
    newest_end=END,
    median=150.0,
    medians=USUAL,
)


def review(*failures: Failure, problem: str = "it is wrong", revisions: int = 0, **situation: object) -> Review:
    decision = Decision(True, problem, [one.expectation for one in failures], END + timedelta(seconds=30), None)
    return Review(BATCH, decision, failures, [], replace(SITUATION, **situation), revisions)


def in_order(written: str, *parts: str) -> None:
    places = [written.index(part) for part in parts]
    assert places == sorted(places)


# Every expectation that can hold a batch.
FINDINGS = [
    Failure(entry.name, entry.reason, "what it should be", "1 of 6 otherwise")
    for entry in SUITE
    if entry.severity == "block"
]


@pytest.mark.parametrize("failure", FINDINGS, ids=lambda failure: failure.expectation)
def test_each_finding_is_told_with_what_was_expected_and_found_and_what_an_approval_lets_pass(failure):
    written = text(review(failure))
    in_order(
        written,
        "**Feed `north`, 2026-03-02 08:00 UTC to 2026-03-02 12:00 UTC** (batch 12).",
        *(f"#### {heading}" for heading in HEADINGS),
    )
    table = written[written.index("| Expectation |") : written.index("#### How many keys")]
    row = table.splitlines()[2]
    cells = [re.sub(r"\\(.)", r"\1", cell) for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell.strip() for cell in cells[1:5]] == [
        failure.expectation,
        failure.expected,
        failure.found,
        failure.reason,
    ]
    assert f'It may fail "{escaped(failure.expectation)}", and nothing else' in written


def test_what_is_only_odd_is_told_beside_what_failed():
    odd = Failure("the number of real keys is usual", "a flood tells of an error", "50 to 250", "930")
    written = text(replace(review(FINDINGS[0]), warnings=[odd]))
    in_order(written, "#### What failed", FINDINGS[0].reason[:10], "Odd, though it would hold no batch:", "50 to 250")
    assert f'It may fail "{escaped(FINDINGS[0].expectation)}", and nothing else' in written


def test_the_keys_are_set_against_the_days_before_with_a_picture():
    written = text(review(FINDINGS[0]))
    assert "**900** real keys, and 30 synthetic ones" in written
    assert "in the 14 days before is **150**, **6.0 times as many**." in written
    days, own = picture(USUAL, date(2026, 2, 16), 900)
    assert f"| the median of each day's batches, 02-16 to 03-01 | `{days}` |\n" in written
    assert f"| this batch, to the same scale | `{own}` |\n" in written
    assert (len(days), days[4], own) == (14, "·", "█")


@pytest.mark.parametrize(
    ("medians", "own", "days", "bar"),
    [
        ({}, 0, "·" * 14, "▁"),
        ({date(2026, 2, 16): 0.0, date(2026, 2, 17): 8.0}, 4, "▁█" + "·" * 12, "▅"),
        ({date(2026, 2, 15): 99.0, date(2026, 3, 1): 1.0, date(2026, 3, 2): 99.0}, 1, "·" * 13 + "█", "█"),
    ],
    ids=["nothing", "nought and more", "only the days before"],
)
def test_a_picture(medians, own, days, bar):
    assert picture(medians, date(2026, 2, 16), own) == (days, bar)


def test_what_was_never_built_or_has_nothing_to_compare_with_says_so():
    assert "It could not be built, so nothing is counted." in text(review(counts={}))
    assert "no batch in the 14 days before: nothing to compare" in text(review(median=None, medians={}))
    assert "is **0**.\n" in text(review(median=0.0))
    assert "is **9,001**, **less than a tenth as many**.\n" in text(review(median=9001.0))


def test_who_waits_since_when_and_until_when():
    written = text(review())
    assert "Phones of region **NO** that follow `north` (a batch every 4 hours)" in written
    assert "have been without the keys of this span since 2026-03-02 12:00 UTC" in written
    assert "**No answer until 2026-03-03 12:00 UTC**: it is rejected" in written
    for minutes, said in ((1, "minute"), (30, "30 minutes"), (60, "hour"), (90, "90 minutes"), (1440, "day")):
        assert f"(a batch every {said})" in text(review(period=timedelta(minutes=minutes)))
    assert "they have had no batch yet" in text(review(newest_end=None))


def test_what_a_rejection_does_to_revisions():
    assert "`revisions` makes no difference" in text(review())
    assert "It alone carries **1 revision**: with `revisions` at `keep`" in text(review(revisions=1))
    assert "It alone carries **1,200 revisions**" in text(review(revisions=1200))


def test_a_batch_whose_steps_failed_must_meet_everything_when_it_is_approved():
    written = text(review(problem="its step sign failed in 3 runs, lastly with FormatError"))
    in_order(
        written, "#### What failed", "its step sign failed in 3 runs, lastly with FormatError", "#### How many keys"
    )
    assert "It must meet every expectation; otherwise" in written


def test_nothing_of_it_becomes_markup():
    hostile = "a | b\n\n# heading <script>[x](http://y)`"
    written = text(review(Failure("keys", hostile, hostile, hostile), problem=hostile))
    assert len(written.splitlines()) == len(text(review(FINDINGS[0])).splitlines())
    assert "<script>" not in written
    assert "](http" not in written
    assert "\\<script\\>" in written


@pytest.fixture
def holding(authority):
    """An authority with a day of batches before one that is held for a key that has not ended."""
    authority.add_feed("north")
    for number in range(3):
        authority.add_keys(4 + number, seed=number)
        authority.close_windows()
        authority.export()
    authority.add_keys(9, seed=7)
    return authority, hold_next(authority)


def test_it_is_read_from_what_the_check_found(holding):
    authority, held = holding
    found = read(authority.runtime(), held)
    (failure,) = found.failures
    assert (failure.expectation, failure.found) == (TOO_EARLY, "1 of 10 keys otherwise")
    assert failure.reason
    assert found.situation.counts["released"] == 10
    assert found.situation.median == 5.5
    assert found.situation.medians == {date(2026, 3, 2): 5.5}
    assert found.situation.newest_end == found.batch.starts_at
    assert found.rejected_at == authority.database.now() + timedelta(hours=24)
    written = review_text(authority.runtime(), held)
    assert "**10** real keys" in written
    assert "**1.8 times as many**" in written


def test_what_is_decided_needs_no_decision(holding):
    authority, held = holding
    decide.reject(authority.runtime(), held, "nonsense")
    with pytest.raises(Superseded, match=f"batch {held} of feed north is rejected: there is nothing to decide"):
        review_text(authority.runtime(), held)
    with pytest.raises(ConflictError, match="there is no batch 99"):
        review_text(authority.runtime(), 99)


def test_an_answer_is_committed_once_and_a_late_one_changes_nothing(holding):
    authority, held = holding
    assert decide.waiting(authority.runtime()) == [held]
    planned = decide.answer(authority.runtime(), held, "known", approved=True)
    assert planned is not None
    assert decide.waiting(authority.runtime()) == []
    before = everything(authority)
    assert decide.answer(authority.runtime(), held, "again", approved=True) == planned
    with pytest.raises(
        Superseded, match=r"is replaced: only a held batch is approved or rejected\. This answer came late"
    ):
        decide.answer(authority.runtime(), held, "no", approved=False)
    assert everything(authority) == before


def test_a_rejection_may_drop_the_revisions(authority):
    authority.add_feed("north")
    keys = authority.add_keys(3)
    authority.close_windows()
    authority.export()
    authority.revise(keys[:2], "negative")
    held = hold_next(authority)
    assert "It alone carries **2 revisions**" in review_text(authority.runtime(), held)
    assert decide.answer(authority.runtime(), held, "no", approved=False, keep_revisions=False) is None
    (event,) = events(authority, "batch.rejected")
    assert event["counts"] == {"revisions_kept": 0, "revisions_dropped": 2}
