"""Where a key is, or why it is nowhere: one test a reason."""

from __future__ import annotations

import base64
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.device import exportreader
from keyserver.errors import FormatError, VerificationError
from keyserver.export import decide, replace, withdraw
from keyserver.export.due import claim_due
from keyserver.oversight.explain import KeyExplanation, explain_key, parse_key
from keyserver.oversight.wording import to_json
from keyserver.protocol.intervals import interval_at
from tests.conftest import START
from tests.export.conftest import STEPS
from tests.export.operators import hold_next

MINUTE = timedelta(minutes=1)


def explain(authority, key: bytes) -> KeyExplanation:
    explained = explain_key(authority.runtime(), key)
    for text in (base64.b64encode(key).decode(), key.hex(), repr(key)):
        assert text not in to_json(explained) + repr(explained) + "\n".join(explained.sentences())
    return explained


def codes(authority, key: bytes, feed: str = "north") -> list[str]:
    (of_feed,) = [one for one in explain(authority, key).feeds if one.feed == feed]
    return [reason.code for reason in of_feed.reasons]


def reason(authority, key: bytes, code: str):
    (found,) = [r for feed in explain(authority, key).feeds for r in feed.reasons if r.code == code]
    return found


def name_of(authority, batch_id: int) -> str:
    return authority.sql("SELECT name FROM file WHERE batch_id = %(id)s", id=batch_id)[0][0]


def build_next(authority, steps: int) -> int:
    (batch,) = claim_due(authority.runtime())
    for step in list(STEPS.values())[:steps]:
        step(authority.runtime(), batch.batch_id)
    return batch.batch_id


# Out


def test_a_released_key_is_named_with_its_file_and_its_place_there(north):
    keys = north.add_keys(30)
    north.close_windows()
    (batch,) = north.export()
    listed = exportreader.read((north.public / name_of(north, batch)).read_bytes()).keys
    for key in keys[:3]:
        found = reason(north, key, "released")
        assert (found.batch, found.file, found.list) == (batch, name_of(north, batch), "keys")
        assert listed[found.position - 1].key == key
        assert f"number {found.position} of 30" in found.text


def test_the_file_of_a_split_batch_that_has_the_key_is_found(authority):
    authority.add_feed("north", max_keys=7)
    keys = authority.add_keys(30)
    authority.close_windows()
    authority.export()
    files = {reason(authority, key, "released").file for key in keys}
    assert len(files) == 5


def test_a_key_is_explained_for_each_feed(authority):
    for name in ("hourly", "daily"):
        authority.add_feed(name)
    (key,) = authority.add_keys(1)
    authority.close_windows()
    authority.export()
    assert codes(authority, key, "hourly") == codes(authority, key, "daily") == ["released"]


def test_when_it_was_accepted_is_told_by_its_window_alone(north):
    (key,) = north.add_keys(1)
    (about, *_) = explain(north, key).about
    assert about == "It was accepted in the window 2026-03-02 10:00 UTC to 2026-03-02 10:01 UTC."
    # It ended at 08:10, two hours before.
    at = START + 10 * MINUTE
    (embargoed,) = north.add_keys(1, seed=2, interval_number=interval_at(START) - 12, interval_count=1, created_at=at)
    explained = explain(north, embargoed)
    assert "accepted in that window or an earlier one" in explained.about[0]
    assert (explained.window_start, explained.window_end) == (START + 10 * MINUTE, START + 11 * MINUTE)


def test_padding_is_called_padding(authority):
    authority.add_feed("north", padding_minimum=5)
    authority.add_keys(1)
    authority.close_windows()
    ((key,), *_) = authority.sql("SELECT exposure_key FROM exposure WHERE synthetic")
    assert explain(authority, key).about[0].startswith("It is padding of the window")


# Not yet


def test_under_embargo(north):
    later = START + timedelta(hours=2)
    (key,) = north.add_keys(1, created_at=later)
    assert codes(north, key) == ["embargo"]
    assert "until 2026-03-02 12:00 UTC" in reason(north, key, "embargo").text


def test_its_window_is_open(north):
    (key,) = north.add_keys(1)
    assert "until 2026-03-02 10:01 UTC" in reason(north, key, "window_open").text


def test_its_batch_is_not_planned_before_the_period_ends(authority):
    authority.add_feed("north", period_minutes=60)
    (key,) = authority.add_keys(1)
    authority.close_windows()
    assert "planned at 2026-03-02 11:00 UTC" in reason(authority, key, "not_planned").text


def test_a_feed_that_ends_before_its_period_plans_its_batch_then(authority):
    authority.add_feed("north", period_minutes=60, active_thru=START + 5 * MINUTE)
    (key,) = authority.add_keys(1)
    authority.close_windows()
    assert "planned at 2026-03-02 10:05 UTC" in reason(authority, key, "not_planned").text


def test_its_batch_is_due(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    assert (codes(north, key), reason(north, key, "due").batch) == (["due"], 1)


def test_its_batch_is_being_built_and_its_place_is_known_as_soon_as_it_is(north):
    (key, *_) = north.add_keys(3)
    north.close_windows()
    (claimed,) = claim_due(north.runtime())
    assert reason(north, key, "being_built").position is None
    for step in list(STEPS.values())[:4]:
        step(north.runtime(), claimed.batch_id)
        assert reason(north, key, "being_built").position in (1, 2, 3)


def test_its_batch_waits_for_one_before_it(north):
    north.add_keys(1)
    north.close_windows()
    (key,) = north.add_keys(1, seed=2)
    north.close_windows()
    assert "waits for batch 1" in reason(north, key, "waiting").text


def test_failed_runs_are_told(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    north.sql("UPDATE batch SET failed_runs = '{a,b}'")
    assert "its steps failed in 2 runs" in reason(north, key, "due").text


def test_the_feed_is_paused(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    north.sql("UPDATE feed SET paused = true")
    assert codes(north, key) == ["feed_paused"]


def test_its_batch_is_held(north):
    (key,) = north.add_keys(1)
    batch = hold_next(north)
    found = reason(north, key, "held")
    assert found.batch == batch
    assert "held since 2026-03-02 10:01 UTC" in found.text
    assert "keys ended two hours before the batch did" in found.text


# Not at all


@pytest.mark.parametrize(
    ("code", "rules", "columns"),
    [
        ("other_region", {}, {"regions": ("SE",)}),
        ("excluded_region", {"exclude_regions": ["SE"]}, {"regions": ("NO", "SE")}),
        ("traveler", {"travelers": "exclude"}, {"traveler": True}),
    ],
)
def test_the_feed_does_not_take_it(authority, code, rules, columns):
    """By the rules of now as long as no batch is planned, by those of the batch afterwards."""
    authority.add_feed("north", **rules)
    (key,) = authority.add_keys(1, **columns)
    authority.add_keys(1, seed=2)
    assert codes(authority, key) == [code]
    authority.close_windows()
    authority.export()
    authority.sql("UPDATE feed SET input_regions = '{NO,SE}', exclude_regions = '{}', travelers = 'include'")
    (of_feed,) = explain(authority, key).feeds
    assert ([r.code for r in of_feed.reasons], of_feed.belongs) == ([code], False)
    assert of_feed.reasons[0].batch == 1


def test_the_feed_has_ended(authority):
    authority.add_feed("north", active_thru=START + MINUTE)
    authority.close_windows(2 * MINUTE)
    (key,) = authority.add_keys(1)
    assert codes(authority, key) == ["feed_ended"]


def test_the_feed_begins_later(authority):
    authority.add_feed("north", active_from=START + timedelta(hours=1))
    (key,) = authority.add_keys(1)
    (of_feed,) = explain(authority, key).feeds
    assert ([r.code for r in of_feed.reasons], of_feed.belongs) == (["feed_not_active"], False)


def test_its_window_is_before_the_feed_s_first_batch(authority):
    (key,) = authority.add_keys(1)
    authority.add_feed("north", active_from=START + MINUTE)
    authority.close_windows(2 * MINUTE)
    authority.sql("UPDATE feed SET active_from = %(earlier)s", earlier=START)
    (of_feed,) = explain(authority, key).feeds
    assert ([r.code for r in of_feed.reasons], of_feed.belongs) == (["not_covered"], False)


def test_a_period_that_was_made_shorter_plans_its_batch_at_its_next_end(authority):
    authority.add_feed("north", period_minutes=240, active_from=START - timedelta(hours=2))
    (key,) = authority.add_keys(1)
    authority.close_windows(90 * MINUTE)
    authority.sql("UPDATE feed SET period_minutes = 60")
    assert "planned at 2026-03-02 12:00 UTC" in reason(authority, key, "not_planned").text


def test_it_is_revoked_before_its_batch_is_planned(north):
    (key,) = north.add_keys(1)
    north.revise([key], "negative")
    assert codes(north, key) == ["revoked"]
    north.close_windows()
    (of_feed,) = explain(north, key).feeds
    assert ([r.code for r in of_feed.reasons], of_feed.reasons[0].batch, of_feed.belongs) == (["revoked"], 1, True)
    assert "It was revoked in the window 2026-03-02 10:00 UTC to 2026-03-02 10:01 UTC." in explain(north, key).about


def test_it_expired_while_its_batch_was_held(north):
    (key,) = north.add_keys(1)
    held = hold_next(north)
    north.database.pass_time(timedelta(days=16))
    decide.approve(north.runtime(), held, "in time")
    assert codes(north, key) == ["replaced", "expired"]


def test_its_batch_was_rejected(north):
    (key,) = north.add_keys(1)
    held = hold_next(north)
    decide.reject(north.runtime(), held, "made of nothing")
    assert codes(north, key) == ["rejected"]
    assert "(made of nothing)" in reason(north, key, "rejected").text


def test_its_batch_was_approved_and_replaced(north):
    (key,) = north.add_keys(1)
    held = hold_next(north)
    planned = decide.approve(north.runtime(), held, "it is right")
    assert codes(north, key) == ["replaced", "due"]
    assert f"batch {planned} replaces it" in reason(north, key, "replaced").text
    north.export()
    assert codes(north, key) == ["replaced", "released"]


def test_its_batch_is_withdrawn_and_its_keys_are_left_out(served):
    served.add_feed("north")
    keys = served.add_keys(2)
    served.close_windows()
    (batch,) = served.export()
    withdraw.withdraw(served.runtime(), batch, "a mistake")
    found = reason(served, keys[0], "withdrawing")
    assert "(a mistake)" in found.text
    assert found.position in (1, 2)
    withdraw.finish(served.runtime(), batch)
    assert codes(served, keys[0]) == ["withdrawn"]
    planned = replace.replace(served.runtime(), batch, "without them", with_keys=False)
    assert codes(served, keys[0]) == ["withdrawn", "left_out"]
    assert reason(served, keys[0], "left_out").batch == planned


def test_its_line_has_left_the_index(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    north.export()
    north.sql("UPDATE file SET status = 'expired'")
    assert codes(north, key) == ["left_index"]


def test_it_is_not_stored(north):
    north.add_keys(1)
    explained = explain(north, bytes(16))
    assert (explained.stored, explained.feeds) == (False, [])
    assert "cannot be told" in explained.about[0]
    assert explained.sentences() == explained.about


# Revisions


def test_a_revision_is_named_with_its_place(north):
    keys = north.add_keys(3, report_type="likely")
    north.close_windows()
    north.export()
    north.revise(keys, "confirmed")
    assert codes(north, keys[0]) == ["released", "revision_window_open"]
    north.close_windows()
    assert codes(north, keys[0]) == ["released", "revision_due"]
    (second,) = north.export()
    listed = exportreader.read((north.public / name_of(north, second)).read_bytes()).revised_keys
    found = reason(north, keys[0], "revision_released")
    assert (found.batch, found.list, listed[found.position - 1].key) == (second, "revised_keys", keys[0])


def test_a_revision_that_the_key_s_own_file_shows_needs_no_word(north):
    (key,) = north.add_keys(1, report_type="likely")
    north.revise([key], "confirmed")
    north.close_windows()
    north.export()
    assert codes(north, key) == ["released"]


def test_a_revision_whose_carrier_is_held_is_passed_over(north):
    (key,) = north.add_keys(1, report_type="likely")
    hold_next(north)
    north.revise([key], "confirmed")
    north.close_windows()
    assert codes(north, key) == ["held", "revision_carrier_not_released"]
    assert "as things stand" in reason(north, key, "revision_carrier_not_released").text
    north.export()
    assert "does not tell" in reason(north, key, "revision_carrier_not_released").text


def test_a_supplement_tells_a_revocation_again(served):
    served.add_feed("north")
    keys = served.add_keys(2, report_type="likely")
    served.close_windows()
    (batch,) = served.export()
    withdraw.withdraw(served.runtime(), batch, "a mistake")
    withdraw.finish(served.runtime(), batch)
    served.revise(keys[:1], "negative")
    served.close_windows()
    served.export()
    planned = replace.replace(served.runtime(), batch, "once more")
    served.export()
    # Batch 2 told those who had read the withdrawn file; batch 3, the supplement, tells whoever reads only that.
    assert codes(served, keys[0]) == ["withdrawn", "revoked", "revision_released", "revision_released"]
    assert f"told again: batch {planned} was released" in "\n".join(explain(served, keys[0]).sentences())
    assert codes(served, keys[1]) == ["withdrawn", "released"]


# What is wrong


def test_a_key_that_should_be_in_a_file_and_is_not_raises_an_alarm(north):
    north.add_keys(3)
    north.close_windows()
    north.export()
    (late,) = north.add_keys(1, seed=2)
    with psycopg.connect(north.database.url("postgres")) as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute("UPDATE exposure SET created_at = %s WHERE exposure_key = %s", [START, late])
    assert codes(north, late) == ["missing"]
    assert reason(north, late, "missing").text.startswith("ALARM")


def test_so_does_one_that_should_be_in_a_batch_that_is_empty(north):
    north.close_windows()
    north.export()
    (late,) = north.add_keys(1)
    with psycopg.connect(north.database.url("postgres")) as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute("UPDATE exposure SET created_at = %s", [START])
    assert codes(north, late) == ["missing"]


def test_a_file_that_was_changed_in_the_store_is_an_error(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    (batch,) = north.export()
    (north.public / name_of(north, batch)).write_bytes(b"something else")
    with pytest.raises(VerificationError, match="not the file that was released"):
        explain(north, key)


def test_files_that_are_gone_do_not_hide_that_they_were_released(north):
    (key,) = north.add_keys(1)
    north.close_windows()
    north.export()
    for path in [*north.public.rglob("*.zip"), *(north.folder / "blobs" / "staging").iterdir()]:
        path.unlink()
    assert "no longer in the store" in reason(north, key, "released").text


# A key as text


@given(st.binary(min_size=16, max_size=16))
def test_a_key_is_read_in_any_of_its_forms(key):
    forms = [key.hex(), key.hex().upper(), base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()]
    assert {parse_key(f" {form}\n") for form in [*forms, forms[2].rstrip("=")]} == {key}


@pytest.mark.parametrize("text", ["", "-", "zz", "00" * 15, "AAAA" * 6, "!" * 22, "é" * 16])
def test_what_is_no_key_is_refused_and_not_repeated(text):
    with pytest.raises(FormatError) as raised:
        parse_key(text)
    assert len(text) < 3 or text not in str(raised.value)
