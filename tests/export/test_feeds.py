"""Feeds as the configuration file declares them: which keys they take, when, in which files (B2, B11)."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyserver.configuration.apply import apply
from keyserver.device import exportreader
from keyserver.device.exportreader import ExportFile
from keyserver.errors import ConfigurationError
from keyserver.export import build, due, index, windows
from keyserver.protocol import exportfile
from keyserver.providers.signers import generate
from tests.conftest import START
from tests.export.conftest import Authority

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
REVOKED = 5


def feed(name: str, **rules: Any) -> dict[str, Any]:
    """A feed as the file has it."""
    declared = {
        "root": name,
        "output_region": "NO",
        "period": "1m",
        "from": START.isoformat(),
        "padding": {"minimum": 0, "spread": 0},
        "development": True,
        "signing_keys": ["north-1"],
    }
    return declared | rules | {"name": name}


@dataclass
class Site:
    """An authority whose feeds stand in a configuration file."""

    authority: Authority
    file: Path
    public_key: str

    def declare(self, *feeds: dict[str, Any]) -> list[str]:
        """Write the file (JSON is YAML) and apply it; give the sentences."""
        key = {"name": "north-1", "key_id": "242", "key_version": "v1", "public_key": self.public_key}
        document = {"version": 1, "signing_keys": [key | {"active_from": "2026-01-01T00:00:00Z"}], "feeds": feeds}
        self.file.write_text(json.dumps(document))
        return apply(self.authority.runtime("operator"), self.file)

    def publish_for(self, minutes: int, *, keys: int = 2, seed: int = 0) -> list[bytes]:
        """Put keys into each window and close it; give them all."""
        added = []
        for minute in range(minutes):
            added += self.authority.add_keys(keys, seed=1000 * seed + minute)
            self.authority.close_windows()
        return added

    def files(self, root: str) -> list[ExportFile]:
        """What a phone reads from the top of a feed's index to its end."""
        lines = (self.authority.public / root / "index.txt").read_text(encoding="ascii").split("\n")
        return [exportreader.read((self.authority.public / line).read_bytes()) for line in lines if line]

    def keys(self, root: str) -> list[bytes]:
        return [key.key for file in self.files(root) for key in file.keys]

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each batch, in minutes after the start."""
        rows = self.authority.sql("SELECT starts_at, ends_at FROM batch ORDER BY id")
        return [((start - START) // MINUTE, (end - START) // MINUTE) for start, end in rows]


@pytest.fixture
def site(authority) -> Site:
    public_key = generate(f"file://{authority.folder}/signer", "north-1")
    return Site(authority, authority.folder / "site.yaml", public_key)


def start_at(authority, moment: datetime, width: timedelta = MINUTE) -> None:
    """Let the first open window begin there."""
    authority.sql(
        "UPDATE release_clock"
        " SET closed_through = %(moment)s, rewritten_through = %(moment)s, width_minutes = %(width)s",
        moment=moment,
        width=width // MINUTE,
    )
    authority.database.set_time(moment)


# Which keys


@pytest.mark.parametrize("travelers", ["by-region", "include", "exclude"])
def test_b1_any_number_of_regions_is_taken_and_left_out_with_keys_of_an_unlisted_one_there(site, travelers):
    """Keys of every set of four regions, travelling or not; FI is in no feed's lists, and written in all files."""
    authority = site.authority
    stored: dict[bytes, tuple[set[str], bool]] = {}
    for size, traveler in itertools.product(range(1, 5), (False, True)):
        for regions in itertools.combinations(("DK", "FI", "NO", "SE"), size):
            (key,) = authority.add_keys(1, seed=len(stored), regions=regions, traveler=traveler)
            stored[key] = (set(regions), traveler)
    taken = [["NO"], ["NO", "SE"], ["DK", "NO", "SE"]]
    left_out = [[], ["SE"], ["DK", "SE"]]
    rules = {f"feed-{n}": pair for n, pair in enumerate(itertools.product(taken, left_out))}
    site.declare(
        *(
            feed(name, output_region="FI", input_regions=inputs, exclude_regions=excludes, travelers=travelers)
            for name, (inputs, excludes) in rules.items()
        )
    )
    authority.close_windows()
    runtime = authority.runtime()
    claimed = due.claim_due(runtime)
    assert len(claimed) == len(rules)
    for batch in claimed:
        inputs, excludes = map(set, rules[batch.feed])
        build.build(runtime, batch.batch_id)
        ((_, export_bin),) = build.rebuild(runtime, batch.batch_id)
        read = exportfile.decode(export_bin)
        assert read.header.region == "FI"
        assert sorted(key[0] for key in read.keys) == sorted(
            key
            for key, (regions, traveler) in stored.items()
            if (regions & inputs or (travelers == "include" and traveler))
            and not regions & excludes
            and not (travelers == "exclude" and traveler)
        )


def test_without_input_regions_a_feed_takes_its_output_region_and_no_other(site):
    site.declare(feed("north"))
    own = site.authority.add_keys(2, seed=1)
    site.authority.add_keys(2, seed=2, regions=("SE",))
    site.authority.close_windows()
    site.authority.export()
    assert sorted(site.keys("north")) == sorted(own)
    assert [file.region for file in site.files("north")] == ["NO"]


def test_b19_regions_are_the_same_in_any_letter_case(site):
    site.declare(feed("north", output_region="no", input_regions=["no", "se"], exclude_regions=["dk"]))
    keys = site.authority.add_keys(1, seed=1) + site.authority.add_keys(1, seed=2, regions=("SE",))
    site.authority.add_keys(1, seed=3, regions=("DK", "NO"))
    site.authority.close_windows()
    site.authority.export()
    assert sorted(site.keys("north")) == sorted(keys)


def test_each_feed_has_its_own_maximum_of_keys_a_file(site):
    wide, narrow = feed("wide"), feed("narrow", max_keys=4)
    site.declare(wide, narrow)
    first = site.publish_for(1, keys=10)
    site.declare(wide, feed("narrow", max_keys=7))
    second = site.publish_for(1, keys=10, seed=1)
    site.authority.export()
    assert [len(file.keys) for file in site.files("wide")] == [10, 10]
    assert [len(file.keys) for file in site.files("narrow")] == [4, 4, 2, 7, 3]
    assert sorted(site.keys("wide")) == sorted(site.keys("narrow")) == sorted(first + second)


# Several feeds over the same keys


def test_an_hourly_and_a_daily_feed_tell_the_same_over_a_day(site):
    """Padded, revised and revoked keys: each key once a feed, and the hours of a day together are the day."""
    authority, source = site.authority, random.Random(1)
    start_at(authority, START, HOUR)
    padding = {"minimum": 12, "spread": 4}
    site.declare(
        *(
            feed(name, period=period, development=False, padding=padding)
            for name, period in (("hourly", "1h"), ("daily", "24h"))
        )
    )
    midnight = START.replace(hour=0) + DAY
    while (now := authority.database.now()) < midnight + DAY:
        if now.hour in (11, 14, 23, 3, 9):
            keys = authority.add_keys(5, seed=int(now.timestamp()), report_type="likely")
            authority.revise(keys[:1], "confirmed")
        if now.hour in (14, 9):
            earlier = authority.sql("SELECT exposure_key FROM exposure WHERE revised_at IS NULL AND NOT synthetic")
            authority.revise([key for (key,) in earlier[:2]], "negative")
            authority.revise([key for (key,) in earlier[2:3]], "confirmed")
        windows.close_windows(authority.runtime("closing"), authority.database.pass_time(HOUR), source)
    authority.export()

    hourly, daily = site.files("hourly"), site.files("daily")
    assert [(file.start, file.end) for file in daily] == [(START, midnight), (midnight, midnight + DAY)]
    for day in daily:
        hours = [file for file in hourly if day.start <= file.start < day.end]
        assert len(hours) >= 2
        assert all(file.end - file.start == HOUR and (not file.keys or len(file.keys) >= 12) for file in hours)
        of_hours = Counter(key.key for file in hours for key in file.keys)
        assert set(of_hours.values()) == {1}
        # Who was revoked within the day never was in the daily file.
        revoked = {key.key for file in hours for key in file.revised_keys if key.report_type == REVOKED}
        assert {key.key for key in day.keys} == set(of_hours) - (revoked & set(of_hours))
        assert len(day.keys) == len({key.key for key in day.keys})
    assert known(hourly) == known(daily)
    ((real,),) = authority.sql("SELECT count(*) FROM exposure WHERE NOT synthetic")
    assert all(sum(len(file.keys) for file in files) > real for files in (hourly, daily))


def known(files: list[ExportFile]) -> dict[bytes, tuple[int | None, int, int | None]]:
    """What a phone knows after reading them in order, without the keys that it dropped as revoked."""
    state = {
        key.key: (key.report_type, key.transmission_risk, key.days_since_onset)
        for file in files
        for key in (*file.keys, *file.revised_keys)
    }
    return {key: value for key, value in state.items() if value[0] != REVOKED}


# When


def test_a_feed_is_paused_and_resumed_and_loses_nothing(site):
    north, south = feed("north"), feed("south")
    site.declare(north, south)
    keys = site.publish_for(1)
    site.authority.export()
    assert site.declare(north | {"paused": True}, south) == ["Feed north changes: paused from false to true."]
    keys += site.publish_for(2, seed=1)
    assert index.write_all(site.authority.runtime()) == 0
    site.authority.export()
    assert (len(site.files("north")), len(site.files("south"))) == (1, 3)

    site.declare(north, south)
    keys += site.publish_for(1, seed=2)
    site.authority.export()
    for root in ("north", "south"):
        assert sorted(site.keys(root)) == sorted(keys)
        assert [(file.start - START) // MINUTE for file in site.files(root)] == [0, 1, 2, 3]


def test_a_paused_feed_that_is_changed_meanwhile_releases_what_was_planned_before_as_it_was(site):
    site.declare(feed("north", paused=True))
    keys = site.publish_for(2)
    site.declare(feed("north", input_regions=["SE"], output_region="SE", max_keys=1, period="5m"))
    site.publish_for(3, seed=1)
    site.authority.export()
    assert sorted(site.keys("north")) == sorted(keys)
    assert [(file.region, len(file.keys)) for file in site.files("north")] == [("NO", 2), ("NO", 2)]
    assert site.spans() == [(0, 1), (1, 2), (2, 5)]


def test_a_period_that_is_changed_in_mid_span_loses_and_repeats_no_key(site):
    site.declare(feed("north", period="4m"))
    keys = site.publish_for(5)
    assert site.declare(feed("north", period="6m")) == ["Feed north changes: period from 4m to 6m."]
    keys += site.publish_for(7, seed=1)
    site.authority.export()
    assert [(file.start - START, file.end - START) for file in site.files("north")] == [
        (0 * MINUTE, 4 * MINUTE),
        (4 * MINUTE, 6 * MINUTE),
        (6 * MINUTE, 12 * MINUTE),
    ]
    assert Counter(site.keys("north")) == Counter(keys)


@pytest.mark.parametrize("seed", range(4))
def test_any_changes_of_period_and_pauses_over_a_midnight_lose_and_repeat_no_key(site, seed):
    """By the batches themselves; that their files have just their keys is shown elsewhere."""
    authority, source = site.authority, random.Random(seed)
    midnight = START.replace(hour=0) + DAY
    begins = midnight - 23 * MINUTE
    start_at(authority, begins)
    declared = feed("north", period="3m", **{"from": begins.isoformat()})
    site.declare(declared)
    period = 3
    keys, ends = [], []
    while (now := authority.database.now()) < midnight + 20 * MINUTE:
        if not source.randrange(3):
            period = source.choice([1, 2, 3, 5, 8, 12, 20, 60])
            site.declare(declared | {"period": f"{period}m", "paused": bool(source.randrange(2))})
        keys += authority.add_keys(1, seed=len(keys))
        authority.close_windows()
        if (now + MINUTE - midnight) % (period * MINUTE) == timedelta():
            ends.append(now + MINUTE)
    assert midnight in ends
    assert authority.sql("SELECT starts_at, ends_at FROM batch ORDER BY id") == list(
        itertools.pairwise([begins, *ends])
    )
    carried = authority.sql("SELECT exposure_key FROM batch, batch_rows(batch.id) WHERE fate = 'released'")
    assert Counter(key for (key,) in carried) == Counter(keys[: (ends[-1] - begins) // MINUTE])


def test_a_feed_created_late_has_the_keys_since_its_from_and_no_older_ones(site):
    """Its first batch reaches back over windows that are closed, to the next end of its period."""
    older = site.publish_for(2)
    since = site.publish_for(3, seed=1)
    begins = START + 2 * MINUTE + timedelta(seconds=30)
    site.declare(feed("north", period="4m", **{"from": begins.isoformat()}))
    since += site.publish_for(7, seed=2)
    site.authority.export()
    assert site.spans() == [(2, 8), (8, 12)]
    assert sorted(site.keys("north")) == sorted(since)
    assert not set(older) & set(since)


def test_a_feed_that_is_to_begin_later_plans_nothing_before(site):
    site.declare(feed("north", period="5m", **{"from": (START + 7 * MINUTE).isoformat()}))
    site.publish_for(7)
    keys = site.publish_for(3, seed=1)
    site.authority.export()
    assert site.spans() == [(7, 10)]
    assert sorted(site.keys("north")) == sorted(keys)


def test_a_feed_ended_early_is_flushed_and_the_one_after_it_goes_on_without_a_gap(site):
    """B16: what it had until `thru`, which is rounded up to a window's end, is released; its index stays."""
    north = feed("north", period="5m")
    site.declare(north)
    first = site.publish_for(6)
    with pytest.raises(ConfigurationError, match="the earliest possible is 2026-03-02T10:07:00Z"):
        site.declare(north | {"thru": (START + 5 * MINUTE).isoformat()})
    ended = north | {"thru": (START + 6 * MINUTE + timedelta(seconds=10)).isoformat()}
    following = feed("north-2", period="5m", **{"from": (START + 7 * MINUTE).isoformat()})
    site.declare(ended, following)
    first += site.publish_for(1, seed=1)
    second = site.publish_for(3, seed=2)
    site.authority.export()
    assert site.spans() == [(0, 5), (5, 7), (7, 10)]
    assert sorted(site.keys("north")) == sorted(first)
    assert sorted(site.keys("north-2")) == sorted(second)
    with pytest.raises(ConfigurationError, match="the feed ended at 2026-03-02T10:07:00Z, and stays so"):
        site.declare(north, following)


# What the reference got wrong about feeds and their padding (export.md, section 4)


def test_b3_and_b4_padding_counts_for_the_whole_batch_and_is_not_in_its_last_file_alone(site):
    """25 keys, padded to 60 or more, split at ten: no file has more, and padding stands where its metadata puts it."""
    site.declare(feed("north", max_keys=10, padding={"minimum": 60, "spread": 0}))
    real = set(site.publish_for(1, keys=25))
    site.authority.export()
    files = [{key.key for key in file.keys} for file in site.files("north")]
    sizes = [len(keys) for keys in files]
    assert sum(sizes) >= 60
    assert (set(sizes[:-1]), sizes[-1] <= 10) == ({10}, True)
    assert real <= set().union(*files)
    assert len([keys for keys in files[:-1] if keys - real]) > 2


def test_b12_a_root_is_one_feed_s_alone(site):
    site.declare(feed("north"))
    with pytest.raises(ConfigurationError, match="root"):
        site.declare(feed("north"), feed("other", root="north"))


def test_b13_the_index_of_a_feed_that_ended_is_written_all_the_same(site):
    site.declare(feed("north", thru=(START + MINUTE).isoformat()))
    site.publish_for(2)
    site.authority.export()
    before = site.authority.released_files()
    (site.authority.public / "north" / "index.txt").write_text("north/none.zip", encoding="ascii")
    assert index.write_all(site.authority.runtime()) == 1
    assert site.authority.released_files() == before


def test_b15_what_retention_took_during_a_long_outage_is_caught_up_without_a_file(site):
    """Twenty days without a closing; by then only the keys of the last fourteen are stored (R1)."""
    authority = site.authority
    start_at(authority, START.replace(hour=0), DAY)
    site.declare(feed("north", period="24h", **{"from": START.replace(hour=0).isoformat()}))
    stored = []
    for day in (1, 15):
        window = START.replace(hour=0) + day * DAY
        stored.append(
            authority.add_keys(2, seed=day, created_at=window, interval_number=int(window.timestamp()) // 600 - 288)
        )
    authority.sql("DELETE FROM exposure WHERE created_at < %(limit)s", limit=START + 6 * DAY)
    assert len(authority.close_windows(20 * DAY)) == 20
    (released,) = authority.export()
    assert list(authority.statuses().values()) == ["empty"] * 15 + ["released"] + ["empty"] * 4
    assert authority.statuses()[released] == "released"
    assert sorted(site.keys("north")) == sorted(stored[1])


def test_b28_closing_and_planning_need_one_connection(site):
    authority = site.authority
    site.declare(feed("north", padding={"minimum": 20, "spread": 0}), feed("south"))
    authority.add_keys(12)
    for opened in authority.opened:
        opened.close()
    authority.sql(f'ALTER DATABASE "{authority.database.name}" CONNECTION LIMIT 1')
    assert len(authority.close_windows(2 * MINUTE)) == 2
    assert set(authority.statuses().values()) == {"planned"}


def test_b29_and_b30_a_key_too_old_to_match_is_in_no_batch(site):
    """T3: a key that ended sixteen days before its batch does; the younger one ended a day later."""
    authority = site.authority
    site.declare(feed("north"))
    day = int(START.replace(hour=0).timestamp()) // 600
    authority.add_keys(1, seed=1, interval_number=day - 144 * 16, interval_count=1)
    young = authority.add_keys(1, seed=2, interval_number=day - 144 * 15, interval_count=144)
    authority.close_windows()
    (batch,) = due.claim_due(authority.runtime())
    build.build(authority.runtime(), batch.batch_id)
    ((counts,),) = authority.sql("SELECT counts FROM batch")
    assert (counts["expired"], counts["released"]) == (1, len(young))
