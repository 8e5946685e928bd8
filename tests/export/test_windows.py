"""Windows that lose nothing (T1, W1 to W5), and the batches that are planned with them (B2)."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import RemoteError
from keyserver.export import due, windows
from keyserver.protocol.exposure import Exposure, ReportType
from keyserver.protocol.intervals import interval_at
from keyserver.protocol.revise import Decision, Known, Plan
from keyserver.store import exposures, release_clock
from keyserver.store.exposures import Upload
from tests.conftest import START
from tests.export.conftest import run_steps

MINUTE = timedelta(minutes=1)


def upload(seed: int, count: int = 3) -> Upload:
    source = random.Random(seed)
    start = interval_at(START) // 144 * 144 - 144 * 5
    return Upload(
        exposures=tuple(Exposure(source.randbytes(16), start + 144 * n, 144, 2, 0) for n in range(count)),
        report_type=ReportType.CONFIRMED,
        traveler=False,
        regions=("NO",),
        app_name="app",
        health_authority_id=1,
    )


@pytest.fixture
def authority_row(authority):
    authority.sql("INSERT INTO health_authority (issuer, audience, name) VALUES ('i', 'a', 'n')")


def everything(wanted: Upload) -> Plan:
    return lambda known: Decision(() if known.rows else wanted.exposures)


def test_a_window_closes_when_it_is_past_and_only_then(authority):
    assert authority.close_windows(timedelta(seconds=59)) == []
    (window,) = authority.close_windows(timedelta(seconds=1))
    assert (window.starts_at, window.ends_at) == (START, START + MINUTE)
    assert authority.close_windows(timedelta(0)) == []


def test_windows_that_were_missed_close_one_by_one_in_order(authority):
    authority.add_feed("north")
    closed = authority.close_windows(timedelta(minutes=5))
    assert [window.starts_at for window in closed] == [START + MINUTE * n for n in range(5)]
    spans = authority.sql("SELECT starts_at, ends_at FROM batch ORDER BY id")
    assert spans[0] == (START - MINUTE, START + MINUTE)
    assert spans[1:] == [(START + MINUTE * n, START + MINUTE * (n + 1)) for n in range(1, 5)]


def test_totals_of_a_window_are_those_of_its_moment_of_closing(authority):
    authority.add_keys(4)
    authority.add_keys(2, seed=2, created_at=START + MINUTE)
    (window,) = authority.close_windows()
    assert (window.keys, window.synthetic_keys, window.revisions) == (4, 0, 0)


def test_nothing_is_closed_while_the_clocks_of_host_and_database_differ(authority):
    moment = authority.database.pass_time(MINUTE)
    for host in (moment + timedelta(seconds=61), moment - timedelta(seconds=61)):
        with pytest.raises(RemoteError, match="clocks"):
            windows.close_windows(authority.runtime(), host)
    assert len(windows.close_windows(authority.runtime(), moment + timedelta(seconds=60))) == 1


@pytest.mark.parametrize("role", ["api", "pipeline"])
def test_the_database_refuses_keys_for_a_closed_window(authority, role):
    authority.close_windows()
    statement = (
        "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler, regions,"
        " created_at) VALUES (%s, 1, 1, 1, false, '{NO}', %s)"
    )
    with psycopg.connect(authority.database.url(f"keyserver_{role}"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.CheckViolation, match="closed"):
            connection.execute(statement, [bytes(16), START])
        connection.execute(statement, [bytes(16), START + MINUTE])


def test_the_database_refuses_revisions_for_a_closed_window(authority):
    (key,) = authority.add_keys(1, report_type="likely")
    authority.close_windows()
    statement = (
        "UPDATE exposure SET revised_at = %s, revised_report_type = 'confirmed', revised_transmission_risk = 2"
        " WHERE exposure_key = %s"
    )
    with psycopg.connect(authority.database.url("keyserver_api"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.CheckViolation, match="closed"):
            connection.execute(statement, [START, key])
        connection.execute(statement, [START + MINUTE, key])


def test_closing_waits_for_an_upload_that_is_not_committed_yet(authority, authority_row):
    """The upload's transaction is stopped between its insert and its commit; the closer must not pass it."""
    authority.add_feed("north")
    slow = authority.database.database("api")
    inserted, may_commit, closed = threading.Event(), threading.Event(), threading.Event()

    def plan(known: Known) -> Decision:
        inserted.set()
        assert may_commit.wait(30)
        return everything(upload(1))(known)

    def publish() -> None:
        with slow.connection() as connection:
            exposures.publish(connection, upload(1), plan)

    def close() -> None:
        authority.close_windows()
        closed.set()

    publishing = threading.Thread(target=publish)
    publishing.start()
    assert inserted.wait(30)
    closing = threading.Thread(target=close)
    closing.start()
    assert not closed.wait(1)
    may_commit.set()
    publishing.join(30)
    closing.join(30)
    assert authority.sql("SELECT keys FROM closed_window") == [(3,)]


def test_an_upload_that_finds_its_window_closed_takes_the_next_open_one(authority, authority_row):
    """The clock went back after a window was closed: what is written must still be in an open window."""
    authority.close_windows()
    authority.database.set_time(START + timedelta(seconds=30))
    with authority.database.database("api").connection() as connection:
        assert len(exposures.publish(connection, upload(1), everything(upload(1))).insert) == 3
    assert authority.sql("SELECT DISTINCT created_at FROM exposure") == [(START + MINUTE,)]


def test_two_closers_at_once_close_each_window_once(authority):
    authority.add_feed("north")
    moment = authority.database.pass_time(timedelta(minutes=20))
    closed: list[windows.Window] = []
    threads = [
        threading.Thread(target=lambda run=run: closed.extend(windows.close_windows(authority.runtime(run), moment)))
        for run in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if len(closed) < 20:  # a closer that found another one first leaves the rest to it, or to the next run
        closed.extend(windows.close_windows(authority.runtime("three"), moment))
    assert sorted(window.starts_at for window in closed) == [START + MINUTE * n for n in range(20)]
    assert authority.sql("SELECT count(*) FROM batch") == [(20,)]


def test_a_closer_that_dies_leaves_the_window_open_for_the_next_one(authority):
    authority.add_feed("north")
    authority.add_keys(5)
    moment = authority.database.pass_time(MINUTE)

    class Died(BaseException):
        pass

    class Dying(random.Random):
        def randint(self, *_: int) -> int:
            raise Died

    authority.sql("UPDATE feed SET padding_minimum = 10")
    with pytest.raises(Died):
        windows.close_windows(authority.runtime(), moment, Dying(1))
    assert authority.statuses() == {}
    assert authority.sql("SELECT closed_through FROM release_clock") == [(START,)]
    (window,) = windows.close_windows(authority.runtime(), moment, random.Random(1))
    assert window.keys >= 10


class Race:
    """Uploads from many threads while time runs, closers that race, and something that cuts closers off."""

    def __init__(self, authority) -> None:
        self.authority = authority
        self.accepted: list[bytes] = []
        self.stop = threading.Event()

    def publish(self, worker: int) -> None:
        database = self.authority.database.database("api")
        seed = worker * 1_000_000
        while not self.stop.is_set():
            seed += 1
            wanted = upload(seed)
            try:
                with database.connection() as connection:
                    exposures.publish(connection, wanted, everything(wanted))
            except RemoteError:
                continue
            self.accepted.extend(exposure.key for exposure in wanted.exposures)

    def close(self, run: str) -> None:
        runtime = self.authority.runtime(run)
        source = random.Random(run)
        while not self.stop.is_set():
            try:
                windows.close_windows(runtime, self.authority.database.now(), source)
            except RemoteError:
                continue

    def cut_off(self) -> None:
        while not self.stop.wait(0.2):
            self.authority.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND usename = 'keyserver_pipeline' AND state = 'active' LIMIT 1"
            )

    def run(self) -> None:
        workers = [threading.Thread(target=self.publish, args=[number]) for number in range(8)]
        workers += [threading.Thread(target=self.close, args=[run]) for run in ("one", "two")]
        workers.append(threading.Thread(target=self.cut_off))
        for worker in workers:
            worker.start()
        for _ in range(15):
            time.sleep(0.2)
            self.authority.database.pass_time(timedelta(seconds=20))
        self.stop.set()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()


def carried_keys(authority) -> list[bytes]:
    """Every key of every batch, as often as batches carry it."""
    rows = authority.sql("SELECT exposure_key FROM batch, batch_rows(batch.id) WHERE fate = 'released'")
    return [key for (key,) in rows]


def test_every_accepted_key_is_in_exactly_one_batch_whatever_races(authority, authority_row):
    authority.add_feed("north")
    race = Race(authority)
    race.run()
    authority.close_windows(timedelta(minutes=5))
    carried = carried_keys(authority)
    assert len(race.accepted) > 100
    assert len(carried) == len(set(carried))
    assert set(race.accepted) <= set(carried)
    assert authority.sql("SELECT sum(keys) FROM closed_window") == [(len(carried),)]


def test_rows_of_a_closed_window_lie_in_key_order_and_share_no_transaction_with_their_upload(authority, authority_row):
    with authority.database.database("api").connection() as connection:
        for seed in range(20):
            exposures.publish(connection, upload(seed), everything(upload(seed)))
    authority.add_keys(7, seed=99, created_at=START + MINUTE)
    authority.close_windows()
    before = authority.sql("SELECT count(DISTINCT xmin::text) FROM exposure WHERE created_at = %(w)s", w=START)
    assert before == [(20,)]

    assert windows.rewrite_windows(authority.runtime(role="rewriter")) == 1
    rows = authority.sql(
        "SELECT exposure_key, xmin::text FROM exposure WHERE created_at = %(w)s ORDER BY ctid", w=START
    )
    assert [key for key, _ in rows] == sorted(key for key, _ in rows)
    assert len({xmin for _, xmin in rows}) == 1
    assert authority.sql("SELECT rewritten_through = closed_through FROM release_clock") == [(True,)]
    assert windows.rewrite_windows(authority.runtime(role="rewriter")) == 0


def test_rewriting_that_was_cut_off_is_taken_up_again_and_loses_nothing(authority, monkeypatch):
    keys = authority.add_keys(30)
    authority.close_windows()
    monkeypatch.setattr(windows, "_ROWS_A_CHUNK", 7)
    runtime = authority.runtime(role="rewriter")
    with runtime.database.transaction() as connection:
        release_clock.rewrite_chunk(connection, START, b"", 7)
    assert authority.sql("SELECT rewritten_through FROM release_clock") == [(START,)]
    assert windows.rewrite_windows(runtime) == 1
    assert {key for (key,) in authority.sql("SELECT exposure_key FROM exposure")} == set(keys)


def test_a_feed_with_a_longer_period_ends_its_batches_at_multiples_from_midnight(authority):
    authority.add_feed("north", period_minutes=5, active_from=START + timedelta(minutes=2))
    authority.close_windows(timedelta(minutes=11))
    assert authority.sql("SELECT starts_at - %(s)s, ends_at - %(s)s FROM batch ORDER BY id", s=START) == [
        (timedelta(minutes=2), timedelta(minutes=5)),
        (timedelta(minutes=5), timedelta(minutes=10)),
    ]


def test_a_feed_that_ends_is_flushed_and_planned_no_more(authority):
    authority.add_feed("north", period_minutes=5, active_from=START, active_thru=START + timedelta(minutes=7))
    authority.close_windows(timedelta(minutes=20))
    assert authority.sql("SELECT starts_at - %(s)s, ends_at - %(s)s FROM batch ORDER BY id", s=START) == [
        (timedelta(0), timedelta(minutes=5)),
        (timedelta(minutes=5), timedelta(minutes=7)),
    ]


def test_a_changed_period_neither_loses_nor_repeats_a_window(authority):
    authority.add_feed("north", period_minutes=2, active_from=START)
    authority.close_windows(timedelta(minutes=3))
    authority.sql("UPDATE feed SET period_minutes = 5")
    authority.close_windows(timedelta(minutes=9))
    assert authority.sql("SELECT starts_at - %(s)s, ends_at - %(s)s FROM batch ORDER BY id", s=START) == [
        (timedelta(minutes=0), timedelta(minutes=2)),
        (timedelta(minutes=2), timedelta(minutes=5)),
        (timedelta(minutes=5), timedelta(minutes=10)),
    ]


def test_a_batch_keeps_the_rules_it_was_planned_with(authority):
    authority.add_feed("north")
    authority.add_keys(5)
    authority.close_windows()
    authority.sql("UPDATE feed SET input_regions = '{SE}', max_keys = 1, output_region = 'SE'")
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    assert authority.sql("SELECT count(*), max(keys) FROM file") == [(1, 5)]
