"""What is recorded of a batch and its files, and that its counts add up (A6)."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.configuration.apply import apply
from keyserver.configuration.load import load
from keyserver.errors import ConflictError
from keyserver.oversight.provenance import account, log_provenance, provenance
from keyserver.oversight.wording import KEY_FATES, REVISION_FATES, to_json
from keyserver.protocol.exposure import RETENTION
from keyserver.store.oversight import FileRecord, WindowTotals
from keyserver.version import code_version
from tests.conftest import START

EXAMPLE = Path(__file__).parents[2] / "docs" / "configuration.example.yaml"
MINUTE = timedelta(minutes=1)


def test_counts_add_up_in_a_history_of_every_fate(history):
    records = [provenance(history.runtime(), str(batch)) for batch in history.statuses()]
    accounts = [record.account for record in records]
    assert [record.problems for record in records] == [[]] * 8
    for found in accounts:
        assert found.deleted_keys == found.deleted_revisions == 0
        assert sum(found.keys.values()) == found.counted_keys
        assert sum(found.revisions.values()) == found.counted_revisions
    assert {fate for found in accounts for fate, keys in found.keys.items() if keys} == {*KEY_FATES}
    # A revocation that is told again is of a later window than the batch that had the key (K3): always outside.
    told = {fate for found in accounts for fate, revisions in found.revisions.items() if revisions}
    assert told == {*REVISION_FATES} - {"retold"}
    assert [found.retold_outside for found in accounts] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert all("These counts add up." in record.sentences() for record in records)


def test_the_other_fields_tell_how_a_batch_came_about(history):
    by_number = {batch: provenance(history.runtime(), str(batch)) for batch in history.statuses()}
    one, six, five, eight = (by_number[number].batch for number in (1, 6, 5, 8))
    assert (one.status, one.replaced_by, one.reason) == ("withdrawn", 6, "a mistake")
    assert (six.replaces, six.supplement, six.with_keys, six.withdrawn_carriers) == (1, True, True, [1])
    assert (five.replaces, five.with_keys, five.carriers) == (3, False, [2])
    assert eight.approved == ["keys ended two hours before the batch did"]
    texts = {number: "\n".join(record.sentences()) for number, record in by_number.items()}
    assert "Why an operator decided about it: a mistake." in texts[1]
    assert "is withdrawn" in texts[1]
    assert "It is a supplement of what was out: it replaces batch 1." in texts[6]
    assert "Revocations of other spans that it tells again: 1." in texts[6]
    assert "It replaces batch 3; without its keys." in texts[5]
    assert "approved though it failed: keys ended two hours before the batch did" in texts[8]


def test_a_released_file_is_described_whole(authority):
    apply(authority.runtime(), EXAMPLE)
    authority.add_feed("mine")
    authority.add_keys(9)
    authority.close_windows()
    (batch,) = authority.export()
    ((name, zip_sha256),) = authority.sql("SELECT name, zip_sha256 FROM file")

    record = provenance(authority.runtime(), name)
    assert record == provenance(authority.runtime(), f"https://cdn.example/exposure/{name}")
    assert record == provenance(authority.runtime(), str(batch))
    assert record.batch.code_version == code_version()
    assert record.configuration.sha256 == load(EXAMPLE).sha256
    assert [(key.name, key.key_id, key.key_version) for key in record.signing_keys] == [("mine", "242", "mine")]
    assert [event.kind for event in record.events][:2] == ["batch.planned", "batch.built"]
    assert {"planned", "built", "checked", "signed", "verified", "released", "index_written"} <= set(record.timings)
    assert record.events == sorted(record.events, key=lambda event: event.seq)
    assert (record.span.windows, record.span.keys) == (1, 9)
    (file,) = record.files
    assert (file.name, file.zip_sha256, file.status, file.keys) == (name, zip_sha256, "released", 9)

    text = "\n".join(record.sentences())
    for said in (name, zip_sha256.hex(), code_version(), load(EXAMPLE).sha256, "phones can download it", "9 released"):
        assert said in text
    assert json.loads(to_json(record))["files"][0]["zip_sha256"] == zip_sha256.hex()
    assert json.loads(to_json(record))["batch"]["starts_at"] == "2026-03-02T09:59:00Z"


def test_before_it_is_built_a_batch_has_no_account(north):
    north.add_keys(1)
    north.close_windows()
    record = provenance(north.runtime(), "1")
    assert (record.account, record.problems, record.files) == (None, [], [])
    assert "It is not built: nothing is counted yet." in record.sentences()
    assert "No configuration was applied before it was planned." in record.sentences()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("staged", "was not released"),
        ("expired", "is too old for it, and leaves the store a day later"),
        ("withdrawing", "is being withdrawn"),
        ("deleted", "is deleted from the store"),
    ],
)
def test_the_state_of_a_file_is_told(north, status, says):
    north.add_keys(1)
    north.close_windows()
    north.export()
    north.sql(
        "UPDATE file SET status = %(status)s,"
        " released_at = CASE WHEN %(status)s <> 'staged' THEN released_at END,"
        " release_no = CASE WHEN %(status)s <> 'staged' THEN release_no END",
        status=status,
    )
    assert says in "\n".join(provenance(north.runtime(), "1").sentences())


@pytest.mark.parametrize("unknown", ["2", "9" * 30, "9" * 5000, "north/none.zip", "", "-1", "é", "%", "\x01"])
def test_what_there_is_not_is_said(north, unknown):
    north.add_keys(1)
    north.close_windows()
    north.export()
    with pytest.raises(ConflictError):
        provenance(north.runtime(), unknown)


@pytest.mark.parametrize("fate", ["released", "synthetic", "other_region", "revised_released", "something"])
def test_counts_that_were_changed_are_noticed(north, fate):
    keys = north.add_keys(3)
    north.close_windows()
    north.export()
    north.revise(keys, "confirmed")
    north.add_keys(4, seed=2)
    north.close_windows()
    (batch,) = north.export()
    north.sql(
        "UPDATE batch SET counts = jsonb_set(counts, ARRAY[%(fate)s],"
        " to_jsonb(coalesce((counts ->> %(fate)s)::integer, 0) + 5)) WHERE id = %(id)s",
        fate=fate,
        id=batch,
    )
    record = provenance(north.runtime(), str(batch))
    assert record.problems
    assert "These counts add up." not in record.sentences()
    assert record.problems[0] in record.sentences()


# The account alone

COUNTS = st.integers(0, 50)


def windows(keys: int, revisions: int, *, starts_at=START) -> list[WindowTotals]:
    kept_until = starts_at + RETENTION
    return [WindowTotals(starts_at, starts_at + MINUTE, keys, 0, revisions, keys, revisions, 0, 0, False, kept_until)]


def files(keys: int, revised: int) -> list[FileRecord]:
    if not keys + revised:
        return []
    return [FileRecord(1, None, "staged", START, START + MINUTE, keys, revised, bytes(32), *[None] * 7)]


@st.composite
def settled(draw):
    """Counts of a batch, and the windows and files that they fit."""
    keys = {fate: draw(COUNTS) for fate in KEY_FATES}
    revisions = {fate: draw(COUNTS) for fate in REVISION_FATES}
    outside = draw(COUNTS)
    counts = {fate: number for fate, number in keys.items() if number}
    counts |= {f"revised_{fate}": number for fate, number in revisions.items() if number}
    counts |= {"synthetic": draw(st.integers(0, keys["released"])), "revised_retold_outside": outside}
    told = revisions["released"] + revisions["retold"] + outside
    return (
        counts,
        windows(sum(keys.values()), sum(revisions.values())),
        files(keys["released"], told),
    )


@given(settled())
def test_an_account_that_adds_up_has_no_problem(made):
    found = account(*made, START + MINUTE)
    assert (found.problems, found.deleted_keys, found.deleted_revisions) == ([], 0, 0)


@given(settled(), st.sampled_from([*KEY_FATES]), st.integers(-50, 50).filter(bool))
def test_any_other_count_of_keys_is_noticed(made, fate, change):
    counts, of_windows, of_files = made
    changed = {**counts, fate: counts.get(fate, 0) + change}
    assert account(changed, of_windows, of_files, START + MINUTE).problems


@given(settled(), st.sampled_from([*REVISION_FATES, "retold_outside"]), st.integers(1, 50))
def test_too_many_revisions_are_noticed(made, fate, more):
    counts, of_windows, of_files = made
    changed = {**counts, f"revised_{fate}": counts.get(f"revised_{fate}", 0) + more}
    assert account(changed, of_windows, of_files, START + MINUTE).problems


@given(settled(), st.integers(1, 50), st.integers(1, 50))
def test_rows_that_retention_deleted_before_the_batch_was_built_are_counted_as_deleted(made, keys, revisions):
    counts, (window,), of_files = made
    (held,) = windows(window.keys + keys, window.revisions + revisions)
    found = account(counts, [held], of_files, START + RETENTION)
    assert (found.problems, found.deleted_keys, found.deleted_revisions) == ([], keys, revisions)
    assert account(counts, [held], of_files, START + RETENTION - MINUTE).problems


@given(settled(), st.integers(1, 50), st.integers(1, 50))
def test_what_was_deleted_on_demand_is_a_count_of_its_own(made, keys, revisions):
    counts, (window,), of_files = made
    (held,) = windows(window.keys + keys, window.revisions + revisions)
    told = {**counts, "deleted_on_demand": keys, "revised_deleted_on_demand": revisions}
    found = account(told, [held], of_files, START + MINUTE)
    assert (found.problems, found.deleted_keys, found.deleted_revisions) == ([], 0, 0)
    assert (found.keys_on_demand, found.revisions_on_demand) == (keys, revisions)
    assert account({**told, "deleted_on_demand": keys - 1}, [held], of_files, START + MINUTE).problems


def test_a_batch_s_record_stands_in_the_log(north, caplog):
    north.add_keys(3)
    north.close_windows()
    (batch_id,) = north.export()
    with caplog.at_level(logging.INFO):
        log_provenance(north.runtime(), batch_id)
    told = [record.getMessage() for record in caplog.records if record.name == "keyserver.oversight.provenance"]
    assert told == provenance(north.runtime(), str(batch_id)).sentences()
    assert "3 released" in "\n".join(told)
