"""Synthetic users (P2, P4): enough of them, where real ones could be, once and for all."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyserver.device import exportreader
from keyserver.export import claim, due, windows
from keyserver.export.padding import draw_user
from keyserver.protocol.exposure import Limits, created_at
from keyserver.protocol.intervals import interval_at, interval_start
from tests.conftest import START
from tests.export.conftest import STEPS, run_steps

MINUTE = timedelta(minutes=1)
MOST_KEYS_OF_A_USER = 14


def close(authority, seed: int = 1, step: timedelta = MINUTE) -> list[windows.Window]:
    """Close what is past, with padding of its own for each seed."""
    moment = authority.database.pass_time(step)
    return windows.close_windows(authority.runtime(f"closing-{seed}"), moment, random.Random(seed))


def add_app(authority, name: str, *regions: str) -> None:
    authority.sql(
        "INSERT INTO authorised_app (name, regions) VALUES (%(name)s, %(regions)s)", name=name, regions=list(regions)
    )


def released(authority, feed_id: int, *, synthetic: bool | None = None) -> set[bytes]:
    """The keys that a feed's batches would release: all, or only real or synthetic ones."""
    rows = authority.sql(
        "SELECT exposure_key, synthetic FROM batch, batch_rows(batch.id)"
        " WHERE feed_id = %(feed)s AND fate = 'released'",
        feed=feed_id,
    )
    return {key for key, flag in rows if synthetic in {None, flag}}


def synthetic_rows(authority) -> list[tuple]:
    return authority.sql("SELECT * FROM exposure WHERE synthetic ORDER BY exposure_key")


def test_a_batch_with_few_keys_is_padded_to_its_target_with_whole_users(authority):
    feed = authority.add_feed("north", padding_minimum=100)
    real = authority.add_keys(3)
    (window,) = close(authority)
    assert 100 <= len(released(authority, feed)) < 100 + MOST_KEYS_OF_A_USER
    assert released(authority, feed, synthetic=False) == set(real)
    assert (window.keys, window.synthetic_keys) == (
        len(released(authority, feed)),
        len(released(authority, feed, synthetic=True)),
    )


@pytest.mark.parametrize(
    ("keys", "columns"),
    [(0, {}), (20, {}), (21, {}), (5, {"regions": ("FI",)}), (5, {"created_at": START + MINUTE})],
    ids=["no key", "as many as the target", "more", "keys of another region", "keys of a later window"],
)
def test_no_other_batch_is_padded(authority, keys, columns):
    authority.add_feed("north", padding_minimum=20)
    authority.add_keys(keys, **columns)
    close(authority)
    assert synthetic_rows(authority) == []


@pytest.mark.parametrize("minimum", [20, 0])
def test_the_target_is_drawn_between_the_minimum_and_the_spread_above_it(authority, minimum):
    authority.add_feed("north", padding_minimum=minimum, padding_spread=100, active_from=START)
    totals = []
    for seed in range(8):
        authority.add_keys(1, seed=seed)
        totals += [window.keys for window in close(authority, seed)]
    assert all(max(minimum, 1) <= total < minimum + 100 + MOST_KEYS_OF_A_USER for total in totals)
    assert max(totals) - min(totals) > 3 * MOST_KEYS_OF_A_USER


def test_rows_are_flagged_and_lie_in_the_window_like_real_ones(authority):
    authority.add_feed("north", padding_minimum=300)
    authority.add_keys(1)
    close(authority)
    columns = authority.sql(
        "SELECT DISTINCT created_at, app_name, health_authority_id, revised_at, regions FROM exposure WHERE synthetic"
    )
    assert columns == [(START, None, None, None, ["NO"])]
    ends = authority.sql("SELECT DISTINCT interval_number + interval_count FROM exposure WHERE synthetic")
    assert {created_at(START, end, MINUTE) for (end,) in ends} == {START}
    # One person's metadata for all of them would show who is real (export.md, defect B10).
    ((metadata,),) = authority.sql(
        "SELECT count(DISTINCT (report_type, transmission_risk, days_since_onset, interval_number))"
        " FROM exposure WHERE synthetic"
    )
    assert metadata > 50


def test_feeds_of_the_same_rules_share_their_padding(authority):
    small = authority.add_feed("small", padding_minimum=30)
    large = authority.add_feed("large", padding_minimum=80)
    without = authority.add_feed("without")
    authority.add_keys(3)
    close(authority)
    assert 80 <= len(released(authority, large)) < 80 + MOST_KEYS_OF_A_USER
    assert released(authority, small) == released(authority, large) == released(authority, without)


def test_feeds_that_overlap_all_reach_their_targets_and_see_the_same_rows(authority):
    add_app(authority, "norway", "NO")
    add_app(authority, "sweden", "SE")
    add_app(authority, "finland", "FI")
    feeds = {
        ("NO",): authority.add_feed("north", padding_minimum=60),
        ("NO", "SE"): authority.add_feed("west", input_regions=["NO", "SE"], padding_minimum=90),
        ("SE", "FI"): authority.add_feed("east", input_regions=["SE", "FI"], padding_minimum=90),
        ("FI",): authority.add_feed("finland", input_regions=["FI"], padding_minimum=40),
    }
    authority.add_keys(2)
    authority.add_keys(2, seed=2, regions=("SE",))
    authority.add_keys(1, seed=3, regions=("FI",))
    close(authority)
    rows = authority.sql("SELECT exposure_key, regions FROM exposure WHERE synthetic")
    for (regions, feed), target in zip(feeds.items(), (60, 90, 90, 40), strict=True):
        assert len(released(authority, feed)) >= target
        covered = {key for key, carried in rows if set(carried) & set(regions)}
        assert released(authority, feed, synthetic=True) == covered


def test_a_feed_that_got_its_first_keys_from_anothers_padding_is_padded_too(authority):
    """In a later round: a batch of a handful of keys, all synthetic, would tell that nobody real is in it."""
    add_app(authority, "norway", "NO")
    add_app(authority, "sweden", "SE")
    north = authority.add_feed("north", padding_minimum=100)
    authority.add_feed("west", input_regions=["NO", "SE"], padding_minimum=60)
    authority.add_keys(1, regions=("SE",))
    close(authority)
    assert released(authority, north, synthetic=False) == set()
    assert len(released(authority, north)) >= 100


def test_users_carry_the_regions_of_authorised_apps(authority):
    add_app(authority, "norway", "NO")
    add_app(authority, "border", "NO", "SE")
    add_app(authority, "denmark", "DK", "NO")
    add_app(authority, "finland", "FI")
    authority.add_feed("north", exclude_regions=["DK"], padding_minimum=300)
    authority.add_keys(1)
    close(authority)
    assert authority.sql("SELECT DISTINCT regions FROM exposure WHERE synthetic ORDER BY regions") == [
        (["NO"],),
        (["NO", "SE"],),
    ]


def test_without_an_app_users_carry_one_of_the_feeds_regions_that_it_does_not_exclude(authority):
    feed = authority.add_feed("north", input_regions=["NO", "SE", "DK"], exclude_regions=["DK"], padding_minimum=200)
    authority.add_keys(1)
    close(authority)
    assert len(released(authority, feed)) >= 200
    assert authority.sql("SELECT DISTINCT regions FROM exposure WHERE synthetic ORDER BY regions") == [
        (["NO"],),
        (["SE"],),
    ]


@pytest.mark.parametrize(("travelers", "some"), [("by-region", True), ("include", True), ("exclude", False)])
def test_users_travel_where_their_feed_takes_travelers(authority, travelers, some):
    feed = authority.add_feed("north", travelers=travelers, padding_minimum=1000)
    authority.add_keys(1)
    close(authority)
    assert len(released(authority, feed)) >= 1000
    ((travelling, total),) = authority.sql(
        "SELECT count(*) FILTER (WHERE traveler), count(*) FROM exposure WHERE synthetic"
    )
    assert (travelling > 0) is some
    assert travelling < total / 5


def test_a_feed_of_travelers_of_other_regions_is_padded(authority):
    feed = authority.add_feed("north", travelers="include", padding_minimum=40)
    authority.add_keys(2, regions=("FI",), traveler=True)
    close(authority)
    assert len(released(authority, feed)) >= 40


def test_a_padded_batch_reaches_phones_and_its_padding_is_never_counted_as_real(authority):
    authority.add_feed("north", padding_minimum=100, max_keys=60)
    real = authority.add_keys(3)
    close(authority)
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    files = [
        exportreader.read(content)
        for name, content in authority.released_files().items()
        if not name.endswith("index.txt")
    ]
    keys = [key.key for file in files for key in file.keys]
    assert len(files) == 2
    assert len(keys) == len(set(keys)) >= 100
    assert set(real) < set(keys)
    ((counts,),) = authority.sql("SELECT counts FROM batch")
    assert counts["released"] - counts["synthetic"] == len(real)


def test_a_padded_batch_built_again_has_the_same_bytes(authority):
    authority.add_feed("north", padding_minimum=100)
    authority.add_keys(3)
    close(authority)
    built = []
    for run in ("one", "two"):
        (claimed,) = due.claim_due(authority.runtime(run))
        STEPS["build"](authority.runtime(run), claimed.batch_id)
        claim.give_back(authority.runtime(run))
        built += authority.sql("DELETE FROM file RETURNING export_sha256, keys")
        authority.sql("ALTER TABLE batch DISABLE TRIGGER batch_one_way")
        authority.sql("UPDATE batch SET status = 'planned'")
        authority.sql("ALTER TABLE batch ENABLE TRIGGER batch_one_way")
    assert built[0] == built[1]
    assert built[0][1] >= 100


def test_nothing_is_drawn_again_for_a_batch_that_covers_padded_windows(authority):
    authority.add_feed("minutes", padding_minimum=50, active_from=START)
    longer = authority.add_feed("longer", period_minutes=5, padding_minimum=40, active_from=START)
    authority.add_keys(3)
    close(authority, 1)
    before = synthetic_rows(authority)
    assert len(before) >= 47

    assert close(authority, 2, timedelta(0)) == []
    close(authority, 3, timedelta(minutes=4))
    assert synthetic_rows(authority) == before
    assert len(released(authority, longer)) == len(before) + 3


def test_a_longer_batch_is_padded_in_its_last_window_only_by_what_it_lacks(authority):
    authority.add_feed("minutes", padding_minimum=30, active_from=START)
    longer = authority.add_feed("longer", period_minutes=5, padding_minimum=90, active_from=START)
    authority.add_keys(3)
    close(authority, 1)
    before = {row[0] for row in synthetic_rows(authority)}
    close(authority, 2, timedelta(minutes=4))
    assert 90 <= len(released(authority, longer)) < 90 + MOST_KEYS_OF_A_USER
    drawn = authority.sql(
        "SELECT exposure_key, created_at FROM exposure WHERE synthetic AND created_at > %(s)s", s=START
    )
    assert {at for _, at in drawn} == {START + MINUTE * 4}
    assert before | {key for key, _ in drawn} == released(authority, longer, synthetic=True)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from([1, 5, 60, 240, 1440]),
    place=st.integers(0, 1500),
    traveler=st.booleans(),
)
def test_a_user_is_one_that_publish_would_have_taken_in_this_window(seed, width, place, traveler):
    window = timedelta(minutes=width)
    window_start = datetime(2026, 3, 2, tzinfo=UTC) + window * place
    window_end = window_start + window
    user = draw_user(["NO"], traveler=traveler, window_end=window_end, source=random.Random(seed))
    assert 1 <= len(user.keys) <= MOST_KEYS_OF_A_USER
    assert len(set(user.keys)) == len(user.keys) == len(user.interval_numbers) == len(user.days_since_onset)
    assert len(set(user.interval_numbers)) == len(user.interval_numbers)
    assert {len(key) for key in user.keys} == {16}
    assert all(abs(onset) <= Limits().max_onset_days for onset in user.days_since_onset)
    assert 0 <= user.transmission_risk <= 8
    assert (user.regions, user.traveler) == (["NO"], traveler)
    last_moment = window_end - timedelta(microseconds=1)
    for number in user.interval_numbers:
        end = number + user.interval_count
        assert number % 144 == 0
        assert created_at(last_moment, end, window) == window_start  # T2: neither embargoed to a later window
        assert interval_at(window_end - timedelta(days=15)) <= end  # T3: nor too old
        assert interval_start(end) + timedelta(hours=2) < window_end


def test_the_prior_draws_what_people_send():
    source = random.Random(1)
    users = [draw_user(["NO"], traveler=False, window_end=START, source=source) for _ in range(2000)]
    whole = sum(len(user.keys) >= 13 for user in users)
    assert 0.35 < whole / len(users) < 0.65
    assert {user.report_type for user in users} == {"confirmed", "likely", "user-report"}
    assert {len(user.keys) for user in users} == set(range(1, 15))
