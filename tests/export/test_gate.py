"""The gate on real batches: what it asks of the database, what it keeps, and what it holds a batch for."""

from __future__ import annotations

import hashlib
import logging
import random
from datetime import timedelta

import pytest

from keyserver.errors import Superseded
from keyserver.export import replace, windows
from keyserver.export.due import claim_due
from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo, decode, encode, staged_path
from keyserver.quality.exportfiles import NAME, SUITE
from keyserver.store import quality
from tests.export.conftest import STEPS
from tests.export.operators import TOO_EARLY, events, hold_next

MINUTE = timedelta(minutes=1)


def forced(authority, statement: str, **values: object) -> None:
    """Change what no trigger lets pass."""
    with authority.database.admin() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement, values)


def outcomes(authority, batch_id: int) -> dict[str, quality.Outcome]:
    with authority.database.database("pipeline").connection() as connection:
        return {outcome.expectation: outcome for outcome in quality.of_batch(connection, batch_id)}


def missed(authority, batch_id: int) -> dict[str, str]:
    """What a batch failed in its last check, and what was found."""
    return {name: outcome.found for name, outcome in outcomes(authority, batch_id).items() if not outcome.met}


def built(authority) -> int:
    (claimed,) = claim_due(authority.runtime())
    STEPS["build"](authority.runtime(), claimed.batch_id)
    return claimed.batch_id


def check(authority, batch_id: int) -> None:
    STEPS["check"](authority.runtime(), batch_id)


def refused(authority, batch_id: int) -> dict[str, str]:
    with pytest.raises(Superseded, match="held"):
        check(authority, batch_id)
    assert authority.statuses()[batch_id] == "held"
    return missed(authority, batch_id)


@pytest.fixture
def north(authority):
    """An authority with one feed, whose first batch of five keys was built."""
    authority.add_feed("north")
    authority.add_keys(5)
    authority.close_windows()
    assert built(authority) == 1
    return authority


def test_what_became_of_every_expectation_is_kept_with_a_checked_batch(north):
    check(north, 1)
    kept = outcomes(north, 1)
    assert list(kept) == [
        entry.name for entry in SUITE if entry.table != "revised keys" or entry.name == "revised keys number as stored"
    ]
    assert all(outcome.met for outcome in kept.values())
    assert kept["keys number as stored"] == quality.Outcome(
        "keys number as stored",
        "block",
        "export",
        "no key is lost or added between the database and the file",
        True,
        "5 keys, as the batch's rules select",
        "5",
        5.0,
    )
    assert north.sql("SELECT DISTINCT at, suite, subject, batch_id, feed_id, run FROM quality_result") == [
        (north.database.now(), NAME, "batch 1 of feed north", 1, 1, "run-1")
    ]
    (event,) = events(north, "batch.checked")
    assert event["counts"] == {
        "files": 1,
        "keys": 5,
        "revised_keys": 0,
        "expectations": len(kept),
        "warnings": 0,
        "approved": 0,
    }


def test_it_is_kept_with_a_held_batch_too_and_no_key_is_in_it(authority):
    authority.add_feed("north")
    keys = authority.add_keys(5)
    assert hold_next(authority) == 1
    assert missed(authority, 1) == {TOO_EARLY: "1 of 6 keys otherwise"}
    assert len(outcomes(authority, 1)) > 30
    text = str(authority.sql("SELECT * FROM quality_result"))
    assert not any(key.hex() in text or repr(key)[2:-1] in text for key in keys)


def test_nothing_is_kept_of_a_check_that_lost_its_batch(north):
    forced(north, "UPDATE batch SET claimed_by = 'run-2'")
    with pytest.raises(Superseded, match="another run"):
        check(north, 1)
    assert north.sql("SELECT count(*) FROM quality_result") == [(0,)]


def test_a_batch_without_a_signing_key_is_held(north):
    forced(north, "DELETE FROM batch_signing_key")
    assert refused(north, 1) == {
        "the feed has a signing key": "0",
        "files name the signing keys": "1 of 1 files otherwise",
    }


def test_a_batch_whose_windows_are_open_is_held(north):
    now = north.database.now()
    north.sql("UPDATE release_clock SET closed_through = closed_through - interval '1 minute'")
    assert refused(north, 1) == {
        "the batch's windows are closed": f"that they are closed up to {now - MINUTE:%Y-%m-%d %H:%M:%S} UTC"
    }


def test_a_row_that_was_moved_into_a_closed_window_is_noticed(north):
    """It is of this span now, so the file has it; its window held one row less when it was closed."""
    check(north, 1)
    forced(north, "UPDATE batch SET status = 'released'")
    north.add_keys(3, seed=2)
    north.close_windows()
    forced(
        north,
        "UPDATE exposure SET created_at = created_at + interval '1 minute'"
        " WHERE exposure_key = (SELECT min(exposure_key) FROM exposure WHERE created_at < %(window)s)",
        window=north.database.now() - MINUTE,
    )
    assert refused(north, built(north)) == {"rows number as when the windows closed": "4"}


def test_keys_that_another_batch_has_are_not_released_again(north):
    check(north, 1)
    forced(north, "UPDATE batch SET status = 'withdrawn'")
    assert replace.replace(north.runtime(), 1, "once more") == 2
    forced(north, "UPDATE batch SET status = 'released' WHERE id = 1")
    assert refused(north, built(north)) == {"keys were not carried before": "5"}


def test_a_withdrawn_or_rejected_batchs_keys_may_come_again(north):
    check(north, 1)
    forced(north, "UPDATE batch SET status = 'withdrawn'")
    assert replace.replace(north.runtime(), 1, "once more") == 2
    assert built(north) == 2
    check(north, 2)
    assert missed(north, 2) == {}


def test_a_file_with_a_key_of_another_batch_is_noticed(north):
    """As an encoder would that mixes up two batches: as many keys, but one of them was in the file before."""
    check(north, 1)
    forced(north, "UPDATE batch SET status = 'released'")
    carried = north.sql("SELECT min(exposure_key) FROM exposure")[0][0]
    north.add_keys(3, seed=2)
    north.close_windows()
    batch_id = built(north)
    ((digest,),) = north.sql("SELECT export_sha256 FROM file WHERE batch_id = %(id)s", id=batch_id)
    staging = north.folder / "blobs"
    content = decode((staging / staged_path(digest, "bin")).read_bytes())
    infos = tuple(SignatureInfo(info.key_id, info.key_version) for info in content.header.signature_infos)
    rows = sorted([(*row[1:], row[0]) for row in content.keys[1:]] + [(*content.keys[0][1:], carried)], key=placed)
    runs = [KeyRun(Metadata(*row[:5]), row[5]) for row in rows]
    other = encode(Header(content.header.start, content.header.end, "NO", infos), runs, [])
    (staging / staged_path(hashlib.sha256(other).digest(), "bin")).write_bytes(other)
    forced(
        north,
        "UPDATE file SET export_sha256 = %(sha256)s WHERE batch_id = %(id)s",
        sha256=hashlib.sha256(other).digest(),
        id=batch_id,
    )
    assert refused(north, batch_id) == {"keys are of the batch": "1", "keys were not carried before": "1"}


def placed(row: tuple) -> tuple:
    return tuple(-99 if value is None else value for value in row)


def test_revised_keys_that_were_never_out_are_noticed(authority):
    authority.add_feed("north")
    keys = authority.add_keys(5)
    authority.close_windows()
    authority.export()
    authority.revise(keys[:2], "negative")
    authority.close_windows()
    batch_id = built(authority)
    forced(authority, "UPDATE batch SET carriers = '{}' WHERE id = %(id)s", id=batch_id)
    assert refused(authority, batch_id) == {"revised keys number as stored": "2", "revised keys were out before": "2"}


def test_revised_keys_that_were_out_pass(authority):
    authority.add_feed("north")
    keys = authority.add_keys(5)
    authority.close_windows()
    authority.export()
    authority.revise(keys[:2], "negative")
    authority.close_windows()
    assert authority.export() == [2]
    assert missed(authority, 2) == {}
    assert outcomes(authority, 2)["revised keys number as stored"].found == "2"


@pytest.fixture
def padded(authority):
    """Two feeds of one region, of which each pads its own batches: one a window, and one every two of them."""
    authority.add_feed("north", padding_minimum=20, padding_spread=10)
    authority.add_feed("broad", padding_minimum=40, padding_spread=0, period_minutes=2)
    for seed in (1, 2, 3, 4):
        authority.add_keys(2, seed=seed)
        windows.close_windows(authority.runtime(), authority.database.pass_time(MINUTE), random.Random(seed))
    return authority


def test_padding_of_all_feeds_is_within_bounds(padded):
    assert len(padded.export()) > 4
    assert [batch_id for batch_id in padded.statuses() if missed(padded, batch_id)] == []
    expected = {outcomes(padded, batch_id)["keys were not padded too much"].expected for batch_id in padded.statuses()}
    # 30 + 15 for a window's own batch; what the other feed's target may add where its batch ends in it is 40 + 15 more.
    assert expected == {
        "45 synthetic keys or fewer",
        "100 synthetic keys or fewer",
        "145 synthetic keys or fewer",
    }


def test_more_padding_than_there_can_be_is_noticed(authority):
    authority.add_feed("north", padding_minimum=20, padding_spread=10)
    authority.add_keys(2)
    source, now = random.Random(3), authority.database.now()
    columns = {"synthetic": True, "regions": ["NO"], "created_at": now}
    ((interval,),) = authority.sql("SELECT max(interval_number) FROM exposure")
    for _ in range(46):
        values = {"exposure_key": source.randbytes(16), "interval_number": interval, **columns}
        authority.sql(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, report_type,"
            " traveler, regions, created_at, synthetic) VALUES (%(exposure_key)s, %(interval_number)s, 144, 2,"
            " 'confirmed', false, %(regions)s, %(created_at)s, %(synthetic)s)",
            **values,
        )
    authority.close_windows()
    assert refused(authority, built(authority)) == {"keys were not padded too much": "46"}


def test_a_batch_that_was_not_padded_is_noticed(north):
    north.sql("UPDATE batch SET padding_minimum = 10, padding_spread = 0")
    assert refused(north, 1) == {"keys were padded": "5"}


def test_a_batch_of_before_padding_was_written_down_passes(north):
    north.sql("UPDATE batch SET padding_minimum = NULL, padding_spread = NULL")
    check(north, 1)
    assert "keys were not padded too much" not in outcomes(north, 1)


def test_an_unusual_number_of_keys_and_shares_are_told_as_warnings_and_hold_nothing(authority, caplog):
    authority.add_feed("north")
    for seed in range(9):  # the first batch is longer than the others
        authority.add_keys(20, seed=seed, report_type="likely")
        authority.close_windows()
    authority.export()
    authority.add_keys(300, seed=10, report_type="user-report")
    authority.close_windows()
    batch_id = built(authority)
    with caplog.at_level(logging.WARNING):
        check(authority, batch_id)
    assert authority.statuses()[batch_id] == "checked"
    assert missed(authority, batch_id) == {
        "the number of real keys is usual": "300",
        "the share of likely is usual": "0.0%",
        "the share of user-report is usual": "100.0%",
    }
    assert outcomes(authority, batch_id)["the number of real keys is usual"].expected.endswith(
        ": 20 is the median of the 8 before, and 5 median absolute deviations each way are usual"
    )
    (warned,) = (record for record in caplog.records if "the number of real keys" in record.message)
    assert warned.message.startswith(
        f"batch {batch_id} of feed north: the number of real keys is usual: expected 0 to "
    )
    assert events(authority, "batch.checked")[-1]["counts"]["warnings"] == 3
