"""Export.md, section 5: the reference's own tests as scenarios, as our rules change them.

They are numbered in the order of that section: batch ranges 1 to 10, file format 11 to 13, worker 14 to 19, database
20 to 28, the rest 29 to 32. `tests/test_scenarios.py` sees to it that each has a test named after it, here or
elsewhere, or a line in docs/quirks.md.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keyserver.configuration.apply import apply
from keyserver.configuration.load import load
from keyserver.device import exportreader
from keyserver.export import build, due, windows
from keyserver.protocol import exportfile
from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo
from keyserver.protocol.exposure import Limits
from keyserver.protocol.messages import decode_request
from keyserver.protocol.pb import export_pb2
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.accept import Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.store import declared
from tests.conftest import START
from tests.export.conftest import STEPS, Authority, run_steps
from tests.uploads import TOKEN_AAD, add_revision_key, authorise, keys, request

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 12, 10, 10, 11, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0)
TEN = NOW.replace(minute=0)


# Batch ranges: it is 10:11. What is planned is planned when its last window is closed.


def close_until(authority: Authority, moment: datetime) -> None:
    authority.database.set_time(moment)
    windows.close_windows(authority.runtime("closing"), moment, random.Random(1))


def ranges(
    authority: Authority, width: timedelta, period: timedelta, latest: datetime, before: timedelta | None = None
) -> list[tuple[datetime, datetime]]:
    """The batches that are planned until 10:11, oldest first.

    ``latest``: where the newest batch ends, whose length is ``before``; without, where the feed begins.
    """
    begins = latest - (before or timedelta())
    authority.sql(
        "UPDATE release_clock SET closed_through = %(at)s, rewritten_through = %(at)s, width_minutes = %(width)s",
        at=begins,
        width=width // MINUTE,
    )
    authority.database.set_time(begins)
    authority.add_feed("north", period_minutes=(before or period) // MINUTE, active_from=begins)
    if before:
        close_until(authority, latest)
        assert authority.sql("SELECT starts_at, ends_at FROM batch") == [(begins, latest)]
        authority.sql("UPDATE feed SET period_minutes = %(period)s", period=period // MINUTE)
    close_until(authority, NOW)
    return authority.sql("SELECT starts_at, ends_at FROM batch ORDER BY id OFFSET %(known)s", known=int(bool(before)))


def hours(*ends: datetime) -> list[tuple[datetime, datetime]]:
    return [(end - HOUR, end) for end in ends]


def test_export_scenario_1_nothing_is_planned_before_the_next_end(authority):
    assert ranges(authority, HOUR, HOUR, TEN, before=HOUR) == []


def test_export_scenario_2_the_first_batch_begins_with_its_feed(authority):
    assert ranges(authority, HOUR, HOUR, TEN - HOUR) == hours(TEN)


def test_export_scenario_3_the_next_hour_is_planned(authority):
    assert ranges(authority, HOUR, HOUR, TEN - HOUR, before=HOUR) == hours(TEN)


def test_export_scenario_4_missed_hours_are_planned_the_oldest_first(authority):
    assert ranges(authority, HOUR, HOUR, TEN - 3 * HOUR, before=HOUR) == hours(TEN - 2 * HOUR, TEN - HOUR, TEN)


def test_export_scenario_5_no_batch_ends_in_an_open_window(authority):
    quarter = 15 * MINUTE
    found = ranges(authority, quarter, quarter, TEN - HOUR, before=quarter)
    assert found == [(TEN - n * quarter, TEN - (n - 1) * quarter) for n in (4, 3, 2, 1)]


@pytest.mark.parametrize("days", [1, 2])
def test_export_scenario_6_whole_days(authority, days):
    found = ranges(authority, HOUR, DAY, MIDNIGHT - days * DAY, before=DAY)
    assert found == [(MIDNIGHT - n * DAY, MIDNIGHT - (n - 1) * DAY) for n in range(days, 0, -1)]


def test_export_scenario_6_a_first_day_begins_with_its_feed(authority):
    begins = MIDNIGHT - 5 * HOUR
    assert ranges(authority, HOUR, DAY, begins) == [(begins, MIDNIGHT)]


def test_export_scenario_7_a_span_that_is_out_of_step_is_made_up_and_overlaps_nothing(authority):
    quarter = 15 * MINUTE
    latest = TEN - 3 * quarter
    assert ranges(authority, quarter, HOUR, latest, before=quarter) == [(latest, TEN)]


def test_export_scenario_8_minutes(authority):
    """Windows are then of a minute too: up to the one that is open."""
    found = ranges(authority, MINUTE, MINUTE, NOW - 2 * MINUTE, before=MINUTE)
    assert found == [(NOW - 2 * MINUTE, NOW - MINUTE), (NOW - MINUTE, NOW)]


def test_export_scenario_9_ten_minutes(authority):
    ten = 10 * MINUTE
    assert ranges(authority, ten, ten, TEN - ten) == [(TEN - ten, TEN), (TEN, TEN + ten)]


def test_export_scenario_10_all_but_first_last_and_changed_batches_have_the_length_of_their_period(authority):
    quarter = 15 * MINUTE
    found = ranges(authority, MINUTE, quarter, TEN - HOUR - 8 * MINUTE)
    assert [end - start for start, end in found] == [8 * MINUTE, *[quarter] * 4]


# File format (11 and 12, the golden vector, are in tests/protocol/test_exportfile.py)


def test_export_scenario_13_a_streamed_zip_without_a_date_is_read_and_verified():
    """In the form of the reference's sample: deflate, sizes in a descriptor behind the data, no date, two keys."""
    key = ec.generate_private_key(ec.SECP256R1())
    runs = [KeyRun.of(Metadata(1, 2, None, 2_650_000, 144), random.Random(1).randbytes(32))]
    export_bin = exportfile.encode(Header(TEN - HOUR, TEN, "NO", (SignatureInfo("some_id", "1"),)), runs, [])
    signed = key.sign(export_bin, ec.ECDSA(hashes.SHA256()))
    export_sig = exportfile.encode_signatures((SignatureInfo("some_id", "1"),), [signed])

    class Stream(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.written += bytes(data)
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as streamed:
        for name, content in (("export.bin", export_bin), ("export.sig", export_sig)):
            info = zipfile.ZipInfo(name, date_time=(1980, 0, 0, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            streamed.writestr(info, content)
    assert stream.written[6:14] == bytes([8, 0, 8, 0, 0, 0, 0, 0])  # flag 8, method 8, no time, no date
    read = exportreader.verify(stream.written, {("some_id", "1"): key.public_key()})
    assert len(read.keys) == 2


# The worker


def built(authority: Authority) -> dict[str, list[list[bytes]]]:
    """Build the due batch of each feed: by its name, the keys of its files."""
    runtime = authority.runtime()
    found = {}
    for batch in due.claim_due(runtime):
        build.build(runtime, batch.batch_id)
        files = [exportfile.decode(export_bin) for _, export_bin in build.rebuild(runtime, batch.batch_id)]
        found[batch.feed] = [[key[0] for key in file.keys] for file in files]
    return found


def test_export_scenario_15_no_keys_are_padded_with_none(authority):
    authority.add_feed("north", padding_minimum=100)
    authority.close_windows()
    assert authority.export() == []
    assert authority.sql("SELECT count(*) FROM exposure") == [(0,)]


@pytest.mark.parametrize("travelers", ["include", "exclude"])
@pytest.mark.parametrize(("keys", "most"), [(4, 1), (1000, 100_000)])
def test_export_scenario_17_hours_together_are_the_four_hours_and_none_has_a_key_twice(
    authority, travelers, keys, most
):
    """Keys of here and of elsewhere, of travelers and of others, in each hour; minutes stand for hours."""
    for name, period in (("hourly", 1), ("four-hourly", 4)):
        authority.add_feed(name, period_minutes=period, max_keys=most, travelers=travelers, active_from=START)
    for hour in range(4):
        for place, (region, traveler) in enumerate((r, t) for r in ("NO", "SE") for t in (False, True)):
            authority.sql(
                "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler,"
                " regions, created_at, report_type)"
                " SELECT substring(sha256((%(place)s || '/' || n)::bytea) FOR 16), 2953872 - n %% 10 * 144, 144, 2,"
                " %(traveler)s, ARRAY[%(region)s], %(now)s, 'confirmed' FROM generate_series(1, %(keys)s) AS n",
                place=f"{hour}/{place}",
                traveler=traveler,
                region=region,
                now=authority.database.now(),
                keys=keys,
            )
        authority.close_windows()
    expected = [
        key
        for (key,) in authority.sql(
            "SELECT exposure_key FROM exposure WHERE regions = '{NO}' AND NOT traveler"
            + (" OR traveler OR regions = '{NO}'" if travelers == "include" else "")
        )
    ]
    assert len(expected) == 4 * keys * (3 if travelers == "include" else 1)

    found: dict[str, list[list[bytes]]] = {"hourly": [], "four-hourly": []}
    for _ in range(4):
        for name, files in built(authority).items():
            found[name] += files
        authority.sql(
            "UPDATE batch SET status = 'held', problem = 'built is enough', held_at = keyserver_now(),"
            " claimed_by = NULL, claim_renewed_at = NULL WHERE status = 'built'"
        )
    for files in found.values():
        assert Counter(key for file in files for key in file) == Counter(expected)
        assert max(map(len, files)) <= most


def test_export_scenario_18_whatever_the_maximum_each_key_is_in_one_file(authority):
    """20 keys, a feed for each maximum of keys a file from 1 to 20."""
    for most in range(1, 21):
        authority.add_feed(f"feed-{most}", max_keys=most)
    stored = authority.add_keys(20)
    authority.close_windows()
    found = built(authority)
    assert len(found) == 20
    for most in range(1, 21):
        files = found[f"feed-{most}"]
        assert Counter(key for file in files for key in file) == Counter(stored)
        assert {len(file) for file in files[:-1]} <= {most}
        assert len(files) == -(-20 // most)


# The database


def test_export_scenario_20_the_valid_keys_sign_the_newest_first(authority):
    authority.add_feed("north")
    until = {"expired": START - DAY, "until-tomorrow": START + DAY, "no-end": None}
    authority.sql("DELETE FROM feed_signing_key")
    for n, (name, end) in enumerate(until.items()):
        authority.sql(
            "WITH made AS (INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, active_thru)"
            " SELECT %(name)s, '242', %(version)s, public_key, %(since)s, %(end)s FROM signing_key"
            " WHERE name = 'north' RETURNING id)"
            " INSERT INTO feed_signing_key SELECT feed.id, made.id FROM feed, made",
            name=name,
            version=f"v{n}",
            since=START - DAY * (10 - n),
            end=end,
        )
    authority.close_windows()
    assert authority.sql(
        "SELECT name FROM batch_signing_key JOIN signing_key ON id = signing_key_id ORDER BY position"
    ) == [("no-end",), ("until-tomorrow",)]


def test_export_scenario_21_a_feed_is_declared_read_and_changed(authority, tmp_path):
    runtime = authority.runtime("operator")
    authority.add_feed("south")
    ((public_key,),) = authority.sql("SELECT public_key FROM signing_key")
    ((since,),) = authority.sql("SELECT active_from FROM signing_key")
    south = {
        "name": "south", "root": "south", "output_region": "NO", "period": "1m", "development": True, "max_keys": 1000,
        "padding": {"minimum": 0, "spread": 0}, "from": (START - MINUTE).isoformat(), "signing_keys": ["south"],
    }  # fmt: skip
    first = {"thru": (START + DAY).isoformat(), "input_regions": ["NO", "SE"], "max_keys": 100, "period": "4h"}
    then = {"input_regions": ["DK"], "exclude_regions": ["SE"], "travelers": "include"}
    for rules in (first, then, {}):
        document = {
            "version": 1,
            "signing_keys": [
                {"name": "south", "key_id": "242", "key_version": "south", "public_key": public_key}
                | {"active_from": since.isoformat()}
            ],
            "feeds": [south, south | {"name": "north", "root": "north"} | rules],
        }
        file = tmp_path / "site.yaml"
        file.write_text(json.dumps(document))
        assert len(apply(runtime, file)) == 1
        with runtime.database.transaction() as connection:
            assert set(declared.read_locked(connection).declared.feeds) == set(load(file).declared.feeds)


def test_export_scenario_22_only_feeds_that_are_active_are_planned(authority):
    spans = {
        "active with end": (START - DAY, START + DAY),
        "active without end": (START - DAY, None),
        "done": (START - DAY, START),
        "not yet": (START + MINUTE, None),
    }
    for number, (since, until) in enumerate(spans.values()):
        authority.add_feed(f"feed-{number}", active_from=since, active_thru=until)
    authority.close_windows()
    assert authority.sql("SELECT feed.name FROM batch JOIN feed ON feed.id = feed_id ORDER BY 1") == [
        ("feed-0",),
        ("feed-1",),
    ]


@pytest.mark.parametrize("most", [1, 1000])
def test_export_scenario_23_each_batch_is_claimed_once_and_again_when_its_claim_is_lost(authority, most):
    for name in ("north", "south"):
        authority.add_feed(name, max_keys=most)
    authority.add_keys(2)
    assert due.claim_due(authority.runtime("run-1")) == []
    authority.close_windows()
    assert len(due.claim_due(authority.runtime("run-1"))) == 2
    assert due.claim_due(authority.runtime("run-2")) == []
    authority.database.pass_time(timedelta(seconds=46))
    claimed = due.claim_due(authority.runtime("run-2"))
    assert len(claimed) == 2
    for batch in claimed:
        run_steps(authority.runtime("run-2"), batch.batch_id)
    authority.database.pass_time(timedelta(seconds=46))
    assert due.claim_due(authority.runtime("run-3")) == []
    assert set(authority.statuses().values()) == {"released"}


def test_export_scenario_24_a_released_batch_has_numbered_files_that_are_listed(authority):
    authority.add_feed("north", max_keys=2)
    authority.add_keys(6)
    authority.close_windows()
    authority.export()
    files = authority.sql("SELECT number, status, name FROM file ORDER BY release_no")
    assert [row[:2] for row in files] == [(number, "released") for number in (1, 2, 3)]
    assert (authority.public / "north" / "index.txt").read_text().split("\n") == [name for *_, name in files]


def test_export_scenario_25_a_traveler_from_elsewhere_is_taken_and_a_key_of_the_next_window_is_not(authority):
    authority.add_feed("north", travelers="include")
    own = authority.add_keys(1, seed=1)
    traveler = authority.add_keys(1, seed=2, regions=("SE",), traveler=True)
    authority.add_keys(1, seed=3, created_at=START + MINUTE)
    authority.close_windows()
    assert [sorted(keys) for keys in built(authority)["north"]] == [sorted(own + traveler)]
    ((starts_at, ends_at),) = authority.sql("SELECT starts_at, ends_at FROM batch")
    assert (starts_at, ends_at) == (START - MINUTE, START + MINUTE)


def test_export_scenario_26_excluded_regions_and_travelers(authority):
    authority.add_feed("without-eu", exclude_regions=["EU"])
    authority.add_feed("no-travelers", travelers="exclude")
    authority.add_feed("both-no-travelers", input_regions=["EU", "NO"], travelers="exclude")
    own = authority.add_keys(1, seed=1)
    eu = authority.add_keys(1, seed=2, regions=("EU",))
    authority.add_keys(1, seed=3, regions=("EU",), traveler=True)
    authority.add_keys(1, seed=4, regions=("EU", "NO"), traveler=True)
    authority.close_windows()
    found = {name: sorted(key for file in files for key in file) for name, files in built(authority).items()}
    assert found == {"without-eu": own, "no-travelers": own, "both-no-travelers": sorted(own + eu)}


def test_export_scenario_27_the_start_of_a_span_is_in_it_and_its_end_is_not(authority):
    authority.add_feed("north", active_from=START)
    at_start = authority.add_keys(1, seed=1, created_at=START)
    authority.add_keys(1, seed=2, created_at=START + MINUTE)
    authority.close_windows()
    assert built(authority) == {"north": [at_start]}


def test_export_scenario_28_a_name_stands_once_and_the_first_row_stays(authority):
    authority.add_feed("north", max_keys=1)
    authority.add_keys(2)
    authority.close_windows()
    authority.export()
    before = authority.sql("SELECT * FROM file ORDER BY number")
    with pytest.raises(psycopg.errors.UniqueViolation, match="file_name_key"):
        authority.sql("UPDATE file SET name = (SELECT name FROM file WHERE number = 1) WHERE number = 2")
    assert authority.sql("SELECT * FROM file ORDER BY number") == before


# From an upload to a file


def test_export_scenario_32_twelve_keys_from_an_upload_to_a_file(authority, tmp_path):
    url = authority.database.url("keyserver_pipeline")
    authorise(url, regions=("TEST",))
    add_revision_key(url, tmp_path)
    authority.add_feed("north", input_regions=["TEST"], output_region="TEST")
    database = authority.database.database("api")
    revision_keys = RevisionKeys(database, open_keywrap(f"file://{tmp_path}"))
    intake = Intake(database, Configuration(database, Limits()), revision_keys, TOKEN_AAD)
    sent = keys(START, 12)
    onset = sent[3]["rollingStartNumber"]
    body = request(sent, START, onset=onset)
    accepted = accept(intake, decode_request("application/json", json.dumps(body).encode()), START)
    assert (accepted.inserted, accepted.errors) == (12, ())
    assert authority.sql("SELECT count(*) FROM exposure") == [(12,)]
    authority.close_windows()
    (batch,) = due.claim_due(authority.runtime())
    for step in STEPS.values():
        step(authority.runtime(), batch.batch_id)

    (line,) = (authority.public / "north" / "index.txt").read_text().split("\n")
    file = exportreader.read((authority.public / line).read_bytes())
    assert file.region == "TEST"
    assert sorted((key.report_type, key.rolling_start, key.days_since_onset) for key in file.keys) == sorted(
        (1, key["rollingStartNumber"], (key["rollingStartNumber"] - onset) // 144) for key in sent
    )
    with zipfile.ZipFile(authority.public / line) as opened:
        export_bin = opened.read("export.bin")
    message = export_pb2.TemporaryExposureKeyExport.FromString(export_bin.removeprefix(b"EK Export v1    "))
    assert (message.batch_num, message.batch_size, len(message.keys)) == (1, 1, 12)
    assert not any(key.HasField("rolling_period") for key in message.keys)
