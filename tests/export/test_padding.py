"""Synthetic users (P2, P4): enough of them, where real ones could be, once and for all."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyserver.device import exportreader
from keyserver.export import claim, due, windows
from keyserver.export.population import Population, _TodaysKeys
from keyserver.protocol.exposure import Limits, created_at
from keyserver.protocol.intervals import interval_at
from keyserver.store import synthetic
from keyserver.store.synthetic import RecentUploads, SyntheticUser
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


# What `profile` and `profile_marginal` may say: any combination, any values, counted by whatever uploads.
RECENT = st.builds(
    RecentUploads,
    combinations=st.dictionaries(
        st.tuples(st.sampled_from(["confirmed", "likely", "user-report"]), st.integers(1, 30), st.integers(0, 15)),
        st.integers(10, 5000),
        max_size=12,
    ),
    rarer=st.integers(0, 200),
    rarer_types=st.dictionaries(st.sampled_from(["confirmed", "likely", "user-report"]), st.integers(10, 200)),
    rarer_oldest=st.dictionaries(st.integers(0, 15), st.integers(10, 200)),
    rarer_missing=st.dictionaries(st.integers(-15, 14), st.integers(10, 200)),
    marginals=st.fixed_dictionaries(
        {},
        optional={
            "onset_days": st.dictionaries(st.integers(0, 29), st.integers(10, 5000), max_size=12),
            "transmission_risk": st.dictionaries(st.integers(0, 8), st.integers(10, 5000)),
            "interval_count": st.dictionaries(st.integers(1, 144), st.integers(10, 5000), max_size=12),
            "traveler": st.dictionaries(st.integers(0, 1), st.integers(10, 5000)),
        },
    ),
    rarer_values=st.dictionaries(st.sampled_from(["onset_days", "interval_count", "traveler"]), st.integers(1, 500)),
)


@settings(max_examples=300, deadline=None)
@given(
    recent=st.one_of(st.just(RecentUploads()), RECENT),
    seed=st.integers(0, 2**32),
    width=st.sampled_from([1, 5, 60, 240, 1440]),
    windows=st.integers(1, 6),
    place=st.integers(0, 1500),
    traveler=st.booleans(),
)
def test_a_user_is_one_that_publish_would_have_taken_in_this_batch(recent, seed, width, windows, place, traveler):
    window = timedelta(minutes=width)
    starts_at = datetime(2026, 3, 2, tzinfo=UTC) + window * place
    ends_at = starts_at + window * windows
    user = Population(recent).draw(["NO"], starts_at, ends_at, random.Random(seed), traveler=traveler)
    assert 1 <= len(user.keys) <= 16
    assert len({key.key for key in user.keys}) == len({key.start for key in user.keys}) == len(user.keys)
    assert (user.regions, user.traveler) == (["NO"], traveler)
    last_moment = ends_at - timedelta(microseconds=1)
    for key in user.keys:
        assert (len(key.key), key.start % 144) == (16, 0)
        assert 1 <= key.period <= 144
        assert 0 <= key.transmission_risk <= 8
        assert abs(key.days_since_onset) <= Limits().max_onset_days
        assert created_at(last_moment, key.end, window) == ends_at - window  # T2: not embargoed to a later window
        assert interval_at(ends_at - timedelta(days=16)) <= key.end  # T3: nor too old for the batch


def drawn(recent: RecentUploads, starts_at: datetime, hours: int, number: int = 1500) -> list[SyntheticUser]:
    population, source = Population(recent), random.Random(1)
    ends_at = starts_at + timedelta(hours=hours)
    return [population.draw(["NO"], starts_at, ends_at, source, traveler=False) for _ in range(number)]


def shares(values) -> dict:
    counts = Counter(values)
    return {value: count / counts.total() for value, count in counts.items()}


NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_p1_without_a_profile_the_prior_draws_what_people_send():
    users = drawn(RecentUploads(), NOON, 4)
    assert 0.35 < sum(len(user.keys) >= 13 for user in users) / len(users) < 0.65
    assert {user.report_type for user in users} == {"confirmed", "likely", "user-report"}
    assert {len(user.keys) for user in users} == set(range(1, 15))


def test_p1_combinations_are_drawn_as_often_as_they_were_sent():
    recent = RecentUploads({("confirmed", 5, 5): 300, ("likely", 3, 7): 100})
    found = shares((user.report_type, len(user.keys), oldest(user)) for user in drawn(recent, NOON, 4))
    assert set(found) == {("confirmed", 5, 5), ("likely", 3, 7)}
    assert found["likely", 3, 7] == pytest.approx(0.25, abs=0.04)


def oldest(user: SyntheticUser) -> int:
    return (interval_at(NOON) // 144 * 144 - min(key.start for key in user.keys)) // 144


def test_p1_what_is_rarer_is_drawn_from_the_prior_as_often_as_it_was_sent():
    users = drawn(RecentUploads({("likely", 3, 7): 100}, rarer=300), NOON, 4)
    assert sum(oldest(user) == 7 and len(user.keys) == 3 for user in users) / len(users) == pytest.approx(
        0.25, abs=0.04
    )
    assert any(len(user.keys) == 14 for user in users)


def test_p1_what_is_rare_agrees_with_others_where_enough_of_them_agree():
    recent = RecentUploads(
        rarer=300, rarer_types={"user-report": 290}, rarer_oldest={6: 150, 9: 150}, rarer_missing={1: 290}
    )
    found = shares((user.report_type, len(user.keys), oldest(user)) for user in drawn(recent, NOON, 4))
    assert found == pytest.approx({("user-report", 5, 6): 0.5, ("user-report", 8, 9): 0.5}, abs=0.05)


def test_how_often_todays_key_is_sent_follows_from_the_days_that_are_missing():
    # Of 7 days, each missing with the same small chance; today's key is sent by 60 of 100.
    source = random.Random(1)
    sent: Counter = Counter()
    for _ in range(20_000):
        days = 1 + sum(source.random() > 0.08 for _ in range(6))
        sent["confirmed", days + (source.random() < 0.6), 7] += 1
    todays = _TodaysKeys(sent)
    found = sum(todays.share(number, 7) * n for (_, number, _), n in sent.items()) / sent.total()
    assert found == pytest.approx(0.6, abs=0.03)


def test_p1_onsets_risks_and_travelers_are_drawn_from_their_counts():
    recent = RecentUploads(
        {("confirmed", 5, 5): 400},
        marginals={
            "onset_days": {3: 100, 9: 100},
            "transmission_risk": {2: 1000, 7: 1000},
            "traveler": {0: 300, 1: 100},
        },
    )
    assert Population(recent).travelers == 0.25
    keys = [key for user in drawn(recent, NOON, 4) for key in user.keys]
    assert shares(key.transmission_risk for key in keys) == pytest.approx({2: 0.5, 7: 0.5}, abs=0.05)
    today = interval_at(NOON) // 144
    onsets = shares(today - key.start // 144 + key.days_since_onset for key in keys)
    # Half of the uploads told no onset: 4 days before them is stored.
    assert onsets == pytest.approx({4: 0.5, 3: 0.25, 9: 0.25}, abs=0.05)


def test_a_risk_that_no_app_sent_goes_with_the_report_type():
    recent = RecentUploads(
        {("confirmed", 5, 5): 100, ("likely", 5, 5): 100}, marginals={"transmission_risk": {2: 500, 4: 500}}
    )
    found = {(user.report_type, key.transmission_risk) for user in drawn(recent, NOON, 4) for key in user.keys}
    assert found == {("confirmed", 2), ("likely", 4)}


def test_apps_that_send_the_days_around_the_onset_are_found_out():
    onsets = {1: 100, 2: 200, 3: 200, 4: 150, 5: 100, 6: 50}
    combinations = {("confirmed", day + 2, day + 2): n for day, n in onsets.items()}
    users = drawn(RecentUploads(combinations, marginals={"onset_days": onsets}), NOON, 4)
    assert {min(key.days_since_onset for key in user.keys) for user in users} == {-2}


def test_todays_key_comes_free_the_next_day_and_a_short_one_two_hours_after_it_was_sent():
    whole = RecentUploads({("confirmed", 15, 14): 100}, marginals={"interval_count": {144: 1500}})
    assert {len(user.keys) for user in drawn(whole, NOON, 4)} == {14}
    # In the hour after 2:00 those of a whole day, and the keys of whoever uploads in it.
    found = shares(len(user.keys) for user in drawn(whole, NOON.replace(hour=2), 1))
    assert set(found) == {1, 14}
    assert found[1] == pytest.approx(26 / 27, abs=0.03)

    short = RecentUploads(
        {("confirmed", 15, 14): 100}, marginals={"interval_count": {144: 1400}}, rarer_values={"interval_count": 100}
    )
    keys = [key for user in drawn(short, NOON, 4) for key in user.keys if key.start == interval_at(NOON) // 144 * 144]
    assert keys
    assert all(10 * 6 <= key.period < 14 * 6 for key in keys)


def test_a_profile_that_fits_no_upload_of_the_span_gives_way_to_the_prior():
    only_todays = RecentUploads({("confirmed", 1, 0): 100})
    assert drawn(only_todays, NOON, 4, 3)


def profile_upload(authority, count: int, number: int, oldest_days: int, day: datetime = START) -> None:
    for shard in range(2):
        authority.sql(
            "INSERT INTO profile VALUES (%(day)s, 'confirmed', %(keys)s, %(oldest)s, %(shard)s, %(count)s)",
            day=day.date(),
            keys=number,
            oldest=oldest_days,
            shard=shard,
            count=count // 2 + count % 2 * shard,
        )


def test_p1_what_counts_less_than_ten_never_leaves_the_database_but_in_sums(authority):
    profile_upload(authority, 9, 3, 7)
    profile_upload(authority, 8, 4, 8)
    profile_upload(authority, 10, 5, 5)
    profile_upload(authority, 6, 6, 6, START - timedelta(days=13))
    profile_upload(authority, 6, 6, 6)
    profile_upload(authority, 50, 7, 7, START - timedelta(days=14))
    profile_upload(authority, 50, 8, 8, START + timedelta(days=1))
    authority.sql(
        "INSERT INTO profile_marginal VALUES (%(d)s, 'onset_days', 3, 0, 12), (%(d)s, 'onset_days', 4, 0, 5),"
        " (%(d)s, 'onset_days', 5, 0, 2), (%(d)s, 'traveler', 0, 0, 40)",
        d=START.date(),
    )
    with authority.runtime().database.connection() as connection:
        found = synthetic.recent_uploads(connection, START.date())
    assert found == RecentUploads(
        {("confirmed", 5, 5): 10, ("confirmed", 6, 6): 12},
        17,
        rarer_types={"confirmed": 17},
        rarer_missing={4: 17},
        marginals={"onset_days": {3: 12}, "traveler": {0: 40}},
        rarer_values={"onset_days": 7},
    )


def test_p1_padding_is_drawn_from_recent_uploads(authority):
    profile_upload(authority, 500, 2, 9)
    authority.add_feed("north", padding_minimum=300)
    authority.add_keys(1)
    close(authority)
    day = interval_at(START) // 144 * 144
    oldest_days = authority.sql("SELECT DISTINCT interval_number FROM exposure WHERE synthetic ORDER BY 1 LIMIT 1")
    assert oldest_days == [(day - 9 * 144,)]
    ((rows, nines),) = authority.sql(
        "SELECT count(*), count(*) FILTER (WHERE interval_number = %(day)s) FROM exposure WHERE synthetic",
        day=day - 9 * 144,
    )
    assert nines == rows / 2


@pytest.mark.parametrize("empty", [True, False])
def test_p5_a_batch_without_a_key_is_a_file_of_synthetic_ones_where_its_feed_asks_for_it(authority, empty):
    authority.add_feed("north", padding_minimum=100, padding_empty=empty)
    (window,) = close(authority)
    assert (window.keys >= 100, window.keys - window.synthetic_keys) == (empty, 0)
    for claimed in due.claim_due(authority.runtime()):
        STEPS["build"](authority.runtime(), claimed.batch_id)
    assert set(authority.statuses().values()) == {"built" if empty else "empty"}


def test_p5_one_feeds_silence_is_not_anothers(authority):
    add_app(authority, "norway", "NO")
    add_app(authority, "sweden", "SE")
    authority.add_feed("north", padding_minimum=100, padding_empty=True)
    east = authority.add_feed("east", output_region="SE", input_regions=["SE"], padding_minimum=100)
    close(authority)
    assert released(authority, east) == set()


def test_p3_a_batch_of_revisions_alone_is_not_padded(authority):
    feed = authority.add_feed("north", padding_minimum=20)
    keys = authority.add_keys(20, report_type="likely")
    close(authority)
    authority.export()
    before = synthetic_rows(authority)
    authority.revise(keys[:3], "confirmed")
    close(authority, 2)
    assert synthetic_rows(authority) == before
    (batch_id,) = authority.export()
    assert authority.sql("SELECT keys, revised_keys FROM file WHERE batch_id = %(id)s", id=batch_id) == [(0, 3)]
    assert released(authority, feed) >= set(keys)
