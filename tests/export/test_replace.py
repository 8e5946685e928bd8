"""A batch in place of another (B1): of the same span and rules, with its own cutoff, revisions, keys and ends."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from keyserver.device import exportreader
from keyserver.errors import ConflictError, FormatError, RemoteError
from keyserver.export import decide, replace, withdraw
from keyserver.export.due import claim_due
from keyserver.protocol.exposure import MAX_AGE
from keyserver.providers.signers import generate
from tests.conftest import START
from tests.export.conftest import STEPS, run_steps
from tests.export.operators import delete_on_demand, events, everything, hold_next

SPAN_AND_RULES = "starts_at, ends_at, root, output_region, input_regions, exclude_regions, travelers, max_keys"


@pytest.fixture
def rejected(authority):
    """An authority whose first batch is rejected and whose second is released."""
    authority.add_feed("north", input_regions=["NO", "SE"], exclude_regions=["DK"], max_keys=7)
    authority.add_keys(5, seed=1)
    assert hold_next(authority) == 1
    authority.add_keys(5, seed=2)
    authority.close_windows()
    assert authority.export() == [2]
    decide.reject(authority.runtime(), 1, "too early")
    return authority


@pytest.fixture
def withdrawn(served):
    """An authority with one batch of three files, which are withdrawn."""
    served.add_feed("north", max_keys=7)
    served.add_keys(20)
    served.close_windows()
    assert served.export() == [1]
    withdraw.withdraw(served.runtime(), 1, "wrong region")
    withdraw.finish(served.runtime(), 1)
    return served


def batch(authority, columns: str, batch_id: int) -> tuple:
    (row,) = authority.sql(f"SELECT {columns} FROM batch WHERE id = %(id)s", id=batch_id)
    return row


def ends(authority, batch_id: int) -> list[float]:
    """By how many seconds its files end after the batch."""
    rows = authority.sql(
        "SELECT file.ends_at - batch.ends_at FROM file JOIN batch ON batch.id = batch_id"
        " WHERE batch_id = %(id)s ORDER BY number",
        id=batch_id,
    )
    return [difference.total_seconds() for (difference,) in rows]


def signing_keys(authority, batch_id: int) -> list[str]:
    rows = authority.sql(
        "SELECT name FROM batch_signing_key JOIN signing_key ON signing_key.id = signing_key_id"
        " WHERE batch_id = %(id)s ORDER BY position",
        id=batch_id,
    )
    return [name for (name,) in rows]


def test_it_has_the_span_and_the_rules_of_the_batch_that_it_replaces(rejected):
    rejected.sql("UPDATE feed SET input_regions = '{FI}', max_keys = 3, output_region = 'FI'")
    planned = replace.replace(rejected.runtime(), 1, "they are good after all")
    assert planned == 3
    assert batch(rejected, SPAN_AND_RULES, 3) == batch(rejected, SPAN_AND_RULES, 1)
    assert batch(rejected, "status, replaces, with_keys, supplement, end_offset, approved, reason", 3) == (
        "planned",
        1,
        True,
        False,
        0,
        [],
        "they are good after all",
    )
    assert batch(rejected, "status, reason", 1) == ("rejected", "too early")


def test_its_cutoff_is_its_planning_s_and_it_has_the_revisions_of_all_closed_windows(rejected):
    rejected.close_windows(timedelta(hours=3))
    now = rejected.database.pass_time(timedelta(seconds=30))
    planned = replace.replace(rejected.runtime(), 1, "again")
    ((closed_through,),) = rejected.sql("SELECT closed_through FROM release_clock")
    assert batch(rejected, "cutoff, revisions_to", planned) == (now - timedelta(hours=24) - MAX_AGE, closed_through)
    assert closed_through == now - timedelta(seconds=30)


def test_it_is_signed_by_the_keys_that_are_active_now_the_newest_first(rejected):
    (feed_id,) = rejected.sql("SELECT id FROM feed")[0]
    now = rejected.database.now()
    since = {
        "old": (now - timedelta(days=9), None, None),
        "new": (now, None, None),
        "later": (now + timedelta(seconds=1), None, None),
        "retired": (now - timedelta(days=2), now, None),
        "revoked": (now - timedelta(days=2), None, now),
    }
    for name, (active_from, active_thru, revoked_at) in since.items():
        rejected.sql(
            "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, active_thru, revoked_at)"
            " VALUES (%(name)s, '242', %(name)s, %(key)s, %(active_from)s, %(active_thru)s, %(revoked_at)s)",
            name=name,
            key=generate(f"file://{rejected.folder}/signer", name),
            active_from=active_from,
            active_thru=active_thru,
            revoked_at=revoked_at,
        )
        rejected.sql(
            "INSERT INTO feed_signing_key (feed_id, signing_key_id) SELECT %(feed)s, id FROM signing_key"
            " WHERE name = %(name)s",
            feed=feed_id,
            name=name,
        )
    planned = replace.replace(rejected.runtime(), 1, "with the new key")
    assert signing_keys(rejected, planned) == ["new", "north", "old"]


def test_at_most_ten_keys_sign_it(rejected):
    rejected.sql(
        "WITH made AS (INSERT INTO signing_key (name, key_id, key_version, public_key, active_from)"
        " SELECT 'k' || n, '242', 'k' || n, 'x', keyserver_now() - make_interval(mins => n)"
        " FROM generate_series(1, 12) AS n RETURNING id)"
        " INSERT INTO feed_signing_key (feed_id, signing_key_id) SELECT feed.id, made.id FROM feed, made"
    )
    planned = replace.replace(rejected.runtime(), 1, "again")
    assert signing_keys(rejected, planned) == [f"k{n}" for n in range(1, 11)]


def test_without_a_signing_key_it_is_planned_and_its_check_holds_it(rejected):
    rejected.sql("UPDATE signing_key SET revoked_at = keyserver_now()")
    planned = replace.replace(rejected.runtime(), 1, "again")
    assert signing_keys(rejected, planned) == []
    assert batch(rejected, "status", planned) == ("planned",)


def test_it_takes_its_place_at_the_end_of_the_feed_s_order_and_is_released_there(authority):
    authority.add_feed("north")
    keys = authority.add_keys(5, seed=1)
    held = hold_next(authority)
    authority.add_keys(5, seed=2)
    authority.close_windows()
    decide.reject(authority.runtime(), held, "too early")
    delete_on_demand(authority, "interval_number = (SELECT max(interval_number) FROM exposure)")
    planned = replace.replace(authority.runtime(), held, "the key that was too early is gone")
    assert authority.export() == [2, planned]
    lines = (authority.public / "north" / "index.txt").read_text(encoding="ascii").split("\n")
    last = exportreader.read((authority.public / lines[-1]).read_bytes())
    assert {key.key for key in last.keys} == set(keys)
    assert last.start == START - timedelta(minutes=1)


def test_a_supplement_s_files_end_when_no_file_of_its_chain_did(withdrawn):
    assert ends(withdrawn, 1) == [1, 2, 3]
    planned = replace.replace(withdrawn.runtime(), 1, "signed again")
    assert batch(withdrawn, "supplement, end_offset", planned) == (True, 3)
    assert withdrawn.export() == [planned]
    assert ends(withdrawn, planned) == [4, 5, 6]

    withdraw.withdraw(withdrawn.runtime(), planned, "wrong again")
    withdraw.finish(withdrawn.runtime(), planned)
    third = replace.replace(withdrawn.runtime(), planned, "once more")
    assert batch(withdrawn, "supplement, end_offset", third) == (True, 6)
    assert withdrawn.export() == [third]
    assert ends(withdrawn, third) == [7, 8, 9]


def test_a_supplement_of_one_file_ends_later_than_the_file_of_one_that_it_replaces(served):
    served.add_feed("north")
    served.add_keys(5)
    served.close_windows()
    served.export()
    withdraw.withdraw(served.runtime(), 1, "wrong")
    planned = replace.replace(served.runtime(), 1, "again")  # its lines are out of the index, which is enough
    served.export()
    assert (ends(served, 1), ends(served, planned)) == ([0], [1])


def test_a_batch_that_was_signed_and_never_released_may_be_replaced_by_one_of_the_same_keys(authority):
    """Equal bytes would ask for a name that is taken (B9)."""
    authority.add_feed("north")
    keys = authority.add_keys(5)
    authority.close_windows()
    runtime = authority.runtime()
    claim_due(runtime)
    for step in ("build", "check", "sign", "verify"):
        STEPS[step](runtime, 1)
    authority.sql("UPDATE batch SET status = 'held', problem = 'its step release failed in 3 runs' WHERE id = 1")
    planned = decide.approve(authority.runtime(), 1, "the store is mended")
    assert authority.export() == [planned]
    (line,) = (authority.public / "north" / "index.txt").read_text(encoding="ascii").split("\n")
    assert {key.key for key in exportreader.read((authority.public / line).read_bytes()).keys} == set(keys)


def test_done_twice_it_gives_the_same_batch_and_changes_nothing(rejected):
    planned = replace.replace(rejected.runtime(), 1, "again")
    before = everything(rejected)
    assert replace.replace(rejected.runtime("run-2"), 1, "again") == planned
    assert everything(rejected) == before


def test_the_audit_trail_says_which_batch_it_replaces_and_why(rejected):
    planned = replace.replace(rejected.runtime(), 1, "  again  ")
    event = events(rejected, "batch.planned")[-1]
    assert event["subject"] == {
        "batch": planned,
        "feed": "north",
        "start": (START - timedelta(minutes=1)).isoformat(),
        "end": (START + timedelta(minutes=1)).isoformat(),
        "replaces": 1,
        "reason": "again",
        "approved": "",
    }
    assert event["counts"] == {"with_keys": 1}


def test_one_that_stands_anywhere_else_is_not_replaced(authority):
    authority.add_feed("north")
    authority.add_keys(5)
    authority.close_windows()
    runtime = authority.runtime()
    with pytest.raises(ConflictError, match=r"is planned: only a rejected or withdrawn batch is replaced$"):
        replace.replace(runtime, 1, "no")
    authority.sql("UPDATE batch SET status = 'held', problem = 'x'")
    with pytest.raises(ConflictError, match=r"is held: only a rejected .*; approve or reject it"):
        replace.replace(runtime, 1, "no")
    decide.approve(runtime, 1, "yes")
    authority.export()
    with pytest.raises(ConflictError, match=r"is released: only a rejected .*; withdraw it first"):
        replace.replace(runtime, 2, "no")
    with pytest.raises(ConflictError, match="there is no batch 77"):
        replace.replace(runtime, 77, "no")


def test_one_that_was_replaced_otherwise_names_the_batch_to_go_on_from(withdrawn):
    planned = replace.replace(withdrawn.runtime(), 1, "again")
    with pytest.raises(ConflictError, match=f"replaced by batch {planned}, which has its keys and is planned"):
        replace.replace(withdrawn.runtime(), 1, "revisions only", with_keys=False)
    withdrawn.export()
    withdraw.withdraw(withdrawn.runtime(), planned, "wrong")
    with pytest.raises(ConflictError, match=f"replaced by batch {planned}, .* is withdrawing: go on from that"):
        replace.replace(withdrawn.runtime(), 1, "again")


def test_one_without_keys_that_was_empty_may_be_followed_by_one_with_keys(rejected):
    without = replace.replace(rejected.runtime(), 1, "for its revisions", with_keys=False)
    assert rejected.export() == []
    assert batch(rejected, "status", without) == ("empty",)
    planned = replace.replace(rejected.runtime(), without, "the keys after all", with_keys=True)
    assert batch(rejected, "replaces, with_keys", planned) == (without, True)


@pytest.mark.parametrize("reason", ["", "   ", "two\nlines", "a bell \a", "x" * 501])
def test_a_reason_is_one_line_of_text(rejected, reason):
    with pytest.raises(FormatError, match="a reason is needed"):
        replace.replace(rejected.runtime(), 1, reason)
    assert batch(rejected, "count(*)", 1) == (1,)
    assert rejected.statuses() == {1: "rejected", 2: "released"}


def test_it_waits_for_a_closing_that_is_under_way_and_then_has_its_window(rejected):
    """Otherwise a batch planned by that closing would end after `revisions_to` of one behind it (B1)."""
    moment = rejected.database.now() + timedelta(minutes=1)
    planned: list[int] = []
    replacing = threading.Thread(target=lambda: planned.append(replace.replace(rejected.runtime(), 1, "again")))
    with psycopg.connect(rejected.database.url("keyserver_pipeline")) as closing:
        closing.execute("SELECT FROM release_clock FOR UPDATE")
        replacing.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE %(pid)s = ANY (pg_blocking_pids(pid))"
        while rejected.sql(waiting, pid=closing.info.backend_pid) == [(0,)]:
            assert replacing.is_alive()
            time.sleep(0.01)
        closing.execute("UPDATE release_clock SET closed_through = %s", [moment])
    replacing.join(20)
    assert batch(rejected, "revisions_to", planned[0]) == (moment,)


def test_one_that_is_withdrawn_in_the_middle_is_only_replaced_when_its_lines_are_out(withdrawn, monkeypatch):
    planned = replace.replace(withdrawn.runtime(), 1, "again")
    withdrawn.export()
    lock = replace.locked

    def withdrawn_first(connection, batch):
        withdrawn.sql("UPDATE batch SET status = 'withdrawing' WHERE id = %(id)s", id=planned)
        return lock(connection, batch)

    monkeypatch.setattr(replace, "locked", withdrawn_first)
    with pytest.raises(RemoteError, match="became withdrawing just now: try again"):
        replace.replace(withdrawn.runtime(), planned, "again")
    monkeypatch.undo()
    withdrawn.sql("UPDATE file SET status = 'withdrawing' WHERE batch_id = %(id)s", id=planned)
    assert replace.replace(withdrawn.runtime(), planned, "again") == planned + 1
    assert (withdrawn.public / "north" / "index.txt").read_bytes() == b""


def test_run_steps_release_what_a_later_run_meets(withdrawn):
    planned = replace.replace(withdrawn.runtime(), 1, "again")
    (claimed,) = claim_due(withdrawn.runtime("run-9"))
    assert claimed.batch_id == planned
    run_steps(withdrawn.runtime("run-9"), planned)
    assert withdrawn.statuses() == {1: "withdrawn", planned: "released"}
