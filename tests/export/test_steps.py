"""One batch through all its steps: what a phone then finds, and that doing it again changes nothing."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

from keyserver.device import exportreader
from keyserver.export import claim, due, index
from keyserver.protocol.signature import load_public_key
from tests.conftest import START
from tests.export.conftest import AFTER, STEPS, run_steps


def trusted(authority) -> dict:
    rows = authority.sql("SELECT key_id, key_version, public_key FROM signing_key")
    return {(key_id, version): load_public_key(pem) for key_id, version, pem in rows}


def index_lines(authority, root: str) -> list[str]:
    content = (authority.public / root / "index.txt").read_text(encoding="ascii")
    return content.split("\n") if content else []


def test_keys_reach_phones(authority):
    authority.add_feed("north")
    keys = authority.add_keys(30)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)

    (line,) = index_lines(authority, "north")
    data = (authority.public / line).read_bytes()
    read = exportreader.verify(data, trusted(authority))
    assert sorted(key.key for key in read.keys) == sorted(keys)
    assert (read.start, read.end, read.region) == (START - timedelta(minutes=1), START + timedelta(minutes=1), "NO")
    span = f"{int(read.start.timestamp())}-{int(read.end.timestamp())}"
    assert line == f"north/{span}-00001-{hashlib.sha256(data).hexdigest()[:8]}.zip"


def test_a_split_batch_has_distinct_ends_and_all_keys_once(authority):
    authority.add_feed("north", max_keys=7)
    keys = authority.add_keys(30)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)

    files = [
        exportreader.verify((authority.public / line).read_bytes(), trusted(authority))
        for line in index_lines(authority, "north")
    ]
    assert [len(file.keys) for file in files] == [7, 7, 7, 7, 2]
    assert [file.end - START - timedelta(minutes=1) for file in files] == [timedelta(seconds=n) for n in range(1, 6)]
    assert sorted(key.key for file in files for key in file.keys) == sorted(keys)


def test_keys_are_ordered_by_metadata_then_key(authority):
    authority.add_feed("north")
    authority.add_keys(200)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)

    (line,) = index_lines(authority, "north")
    order = [
        (
            key.report_type or 0,
            key.transmission_risk,
            -99 if key.days_since_onset is None else key.days_since_onset,
            key.rolling_start,
            key.rolling_period,
            key.key,
        )
        for key in exportreader.read((authority.public / line).read_bytes()).keys
    ]
    assert order == sorted(order)


def test_doing_every_step_again_changes_nothing(authority):
    authority.add_feed("north")
    authority.add_keys(30)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    files, events = authority.released_files(), authority.sql("SELECT max(seq) FROM audit_event")

    run_steps(authority.runtime(), claimed.batch_id)
    assert authority.released_files() == files
    assert authority.sql("SELECT max(seq) FROM audit_event") == events


def test_each_step_moves_the_batch_on_with_one_audit_event_that_says_so(authority):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    for name, step in STEPS.items():
        step(authority.runtime(), claimed.batch_id)
        assert authority.statuses() == {claimed.batch_id: AFTER[name]}
    kinds = [json.loads(body)["kind"] for (body,) in authority.sql("SELECT body FROM audit_event ORDER BY seq")]
    assert kinds == [
        "window.closed",
        "batch.planned",
        "batch.built",
        "batch.checked",
        "signature.stored",
        "file.signed",
        "batch.verified",
        "log.day_closed",
        "file.released",
        "index.written",
    ]


def test_empty_batches_are_settled_without_a_file_and_their_feed_has_an_empty_index(authority):
    authority.add_feed("north")
    authority.close_windows(timedelta(minutes=3))
    runtime = authority.runtime()
    assert due.claim_due(runtime) == []
    assert authority.statuses() == {1: "empty", 2: "empty", 3: "empty"}
    assert index.write_all(runtime) == 1
    assert authority.released_files() == {"north/index.txt": b""}


def test_empty_batches_do_not_hold_up_the_first_with_keys(authority):
    authority.add_feed("north")
    authority.close_windows(timedelta(minutes=3))
    authority.add_keys(3)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    assert (claimed.batch_id, authority.statuses()) == (4, {1: "empty", 2: "empty", 3: "empty", 4: "planned"})


def test_rows_of_a_span_add_up_by_what_became_of_them(authority):
    authority.add_feed("north", input_regions=["NO", "SE"], exclude_regions=["DK"], travelers="exclude")
    authority.add_keys(5, seed=1)
    authority.add_keys(4, seed=2, regions=("SE",))
    authority.add_keys(3, seed=3, regions=("FI",))
    authority.add_keys(2, seed=4, regions=("NO", "DK"))
    authority.add_keys(6, seed=5, traveler=True)
    (window,) = authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    STEPS["build"](authority.runtime(), claimed.batch_id)

    ((counts,),) = authority.sql("SELECT counts FROM batch")
    assert counts == {"released": 9, "other_region": 3, "excluded_region": 2, "traveler": 6, "synthetic": 0}
    assert sum(rows for fate, rows in counts.items() if fate != "synthetic") == window.keys


def test_travelers_of_other_regions_are_included_where_the_feed_says_so(authority):
    authority.add_feed("north", travelers="include")
    keys = authority.add_keys(2, seed=1, regions=("FI",), traveler=True)
    authority.add_keys(2, seed=2, regions=("FI",))
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    (line,) = index_lines(authority, "north")
    assert {key.key for key in exportreader.read((authority.public / line).read_bytes()).keys} == set(keys)


def test_the_index_lists_files_in_the_order_of_release(authority):
    authority.add_feed("north")
    for seed in range(3):
        authority.add_keys(3, seed=seed)
        authority.close_windows()
        (claimed,) = due.claim_due(authority.runtime())
        run_steps(authority.runtime(), claimed.batch_id)
        claim.give_back(authority.runtime())
    lines = index_lines(authority, "north")
    assert len(lines) == 3
    assert lines == sorted(lines)


def test_a_torn_or_old_index_is_mended_at_the_end_of_every_run(authority):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    before = authority.released_files()
    (authority.public / "north" / "index.txt").write_text("north/none.zip", encoding="ascii")
    assert index.write_all(authority.runtime()) == 1
    assert authority.released_files() == before
    assert index.write_all(authority.runtime()) == 0
