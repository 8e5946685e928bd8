from __future__ import annotations

import itertools
import queue
import select
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from keyserver.errors import ConfigurationError, RemoteError, StoreError
from keyserver.protocol.exposure import Exposure, ReportType
from keyserver.protocol.revise import Decision, Known, Plan, Stored
from keyserver.protocol.statistics import Facts, Platform
from keyserver.store import exposures
from keyserver.store.database import Database
from keyserver.store.exposures import Upload
from tests.uploads import authorise, interval, key_bytes

MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(test_database):
    authorise(test_database.url("keyserver_pipeline"))
    return test_database.database("api")


@pytest.fixture
def upload(start, database) -> Callable[..., Upload]:
    """A function: an upload of keys of these names, which ended two days before the test's start."""

    def make(*names: object) -> Upload:
        end = interval(start) - 288
        taken = tuple(Exposure(key_bytes(name), end - 144, 144, 2, -1) for name in names)
        return Upload(taken, ReportType.CONFIRMED, False, ("AT", "DE"), "com.example.app", 1)

    return make


def insert_new(upload: Upload) -> Plan:
    """Insert what is not stored, revise nothing."""
    return lambda known: Decision(tuple(each for each in upload.exposures if each.key not in known.rows))


def publish(database: Database, upload: Upload, plan: Plan | None = None) -> int:
    with database.connection() as connection:
        return len(exposures.publish(connection, upload, plan or insert_new(upload)).insert)


def stored(test_database) -> dict[bytes, object]:
    with test_database.admin() as connection:
        return dict(connection.execute("SELECT exposure_key, created_at FROM exposure").fetchall())


def close_windows(test_database, through) -> None:
    """As the closer does at the end (W3), in a transaction of its own."""
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET closed_through = %s", [through])


def test_what_is_stored_of_a_key(test_database, database, upload, start):
    test_database.set_time(start + timedelta(minutes=7, seconds=31))
    assert publish(database, replace(upload("a"), traveler=True)) == 1
    with test_database.admin() as connection:
        connection.row_factory = psycopg.rows.dict_row
        (row,) = connection.execute("SELECT * FROM exposure").fetchall()
    assert {name: value for name, value in row.items() if value is not None} == {
        "exposure_key": key_bytes("a"),
        "interval_number": interval(start) - 432,
        "interval_count": 144,
        "transmission_risk": 2,
        "days_since_onset": -1,
        "report_type": "confirmed",
        "traveler": True,
        "regions": ["AT", "DE"],
        "created_at": start + 7 * MINUTE,
        "synthetic": False,
        "app_name": "com.example.app",
        "health_authority_id": 1,
    }


def test_t2_a_key_that_ended_lately_goes_to_a_later_window(test_database, database, upload, start):
    young = replace(upload("a").exposures[0], start=interval(start) - 140)
    publish(database, replace(upload("b"), exposures=(young, *upload("b").exposures)))
    end = start + timedelta(minutes=40)
    assert stored(test_database) == {key_bytes("a"): end + timedelta(hours=2), key_bytes("b"): start}


def test_a_window_that_was_closed_early_is_not_written_to(test_database, database, upload, start):
    """The database's clock went back, or the closer's host was ahead of it."""
    close_windows(test_database, start + 5 * MINUTE)
    assert publish(database, upload("a")) == 1
    assert stored(test_database) == {key_bytes("a"): start + 5 * MINUTE}


def test_a_plan_that_refuses_stores_nothing_and_leaves_the_connection_usable(test_database, database, upload):
    def refuse(known: Known) -> Decision:
        raise ConfigurationError("refused")

    with database.connection() as connection:
        with pytest.raises(ConfigurationError, match="refused"):
            exposures.publish(connection, upload("a"), refuse)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert len(exposures.publish(connection, upload("b"), insert_new(upload("b"))).insert) == 1
    assert set(stored(test_database)) == {key_bytes("b")}


def test_a_plan_of_nothing_stores_nothing(test_database, database, upload):
    assert publish(database, upload("a"), lambda _: Decision()) == 0
    assert stored(test_database) == {}


def test_the_plan_is_told_which_keys_are_stored(database, upload, start):
    publish(database, upload("a", "b"))
    told = []

    def plan(known: Known) -> Decision:
        told.append(known)
        return insert_new(upload("b", "c"))(known)

    assert publish(database, upload("b", "c"), plan) == 1
    row = Stored(interval(start) - 432, 144, ReportType.CONFIRMED, start)
    assert told == [Known({key_bytes("b"): row}, start)]


def test_an_error_of_the_database_stores_nothing(test_database, database, upload):
    bad = replace(upload("b").exposures[0], transmission_risk=9)
    with pytest.raises(StoreError, match="transmission_risk"):
        publish(database, replace(upload("a"), exposures=(*upload("a").exposures, bad)))
    assert stored(test_database) == {}
    assert publish(database, upload("a")) == 1


def test_a_clock_that_does_not_run_is_said_plainly(test_database, database, upload):
    with test_database.admin() as connection:
        connection.execute("DELETE FROM release_clock")
    with pytest.raises(ConfigurationError, match="release clock does not run"):
        publish(database, upload("a"))


# Revisions and counters


def revise_all(upload: Upload) -> Plan:
    return lambda _: Decision(revise=upload.exposures)


def revisions(test_database) -> list[tuple]:
    with test_database.admin() as connection:
        return connection.execute(
            "SELECT exposure_key, revised_report_type, revised_at FROM exposure"
            " WHERE revised_at IS NOT NULL ORDER BY exposure_key"
        ).fetchall()


def test_k2_a_revision_writes_the_revised_columns_and_nothing_else(test_database, database, upload, start):
    publish(database, replace(upload("a"), report_type=ReportType.LIKELY))
    close_windows(test_database, start + 2 * MINUTE)
    changed = replace(upload("a").exposures[0], transmission_risk=7, days_since_onset=3, period=9, start=1)
    publish(
        database,
        replace(upload(), exposures=(changed,), traveler=True, regions=("CH",), app_name="other"),
        lambda _: Decision(revise=(changed,)),
    )
    with test_database.admin() as connection:
        connection.row_factory = psycopg.rows.dict_row
        (row,) = connection.execute("SELECT * FROM exposure").fetchall()
    assert row == {
        "exposure_key": key_bytes("a"),
        "interval_number": interval(start) - 432,
        "interval_count": 144,
        "transmission_risk": 2,
        "days_since_onset": -1,
        "report_type": "likely",
        "traveler": False,
        "regions": ["AT", "DE"],
        "created_at": start,
        "synthetic": False,
        "app_name": "com.example.app",
        "health_authority_id": 1,
        "revised_at": start + 2 * MINUTE,
        "revised_report_type": "confirmed",
        "revised_transmission_risk": 7,
        "revised_days_since_onset": 3,
        "revised_authority_id": 1,
    }


def test_w2_a_revision_that_was_overtaken_starts_again_and_counts_nothing(test_database, database, upload):
    publish(database, upload("a", "b"))
    other = test_database.database("api")
    told = []

    def plan(known: Known) -> Decision:
        told.append([row.revised_report_type for row in known.rows.values()])
        if len(told) == 1:
            publish(other, upload("b"), revise_all(upload("b")))
            return Decision(upload("c").exposures, upload("a", "b").exposures)
        return Decision()

    publish(database, replace(upload("a", "b", "c"), facts=Facts(Platform.IOS, 2, None)), plan)
    assert sorted(told[1], key=str) == [None, ReportType.CONFIRMED]
    assert [key for key, _, _ in revisions(test_database)] == [key_bytes("b")]
    assert key_bytes("c") not in stored(test_database)
    with test_database.admin() as connection:
        assert connection.execute("SELECT count(*) FROM upload_stats").fetchone() == (0,)


def test_w5_a_revision_of_a_row_that_is_being_rewritten_starts_again(test_database, database, upload, start):
    """The rewriter takes the row out and puts it back while the revision waits for it."""
    publish(database, upload("a"))
    close_windows(test_database, start + MINUTE)
    with psycopg.connect(test_database.url("keyserver_rewriter")) as rewriter:
        taken = rewriter.execute("DELETE FROM exposure RETURNING exposure_key, interval_number, created_at").fetchone()
        with in_another_thread(lambda: publish(database, upload("a"), revise_all(upload("a")))) as published:
            wait_until_waiting(test_database)
            rewriter.execute(
                "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler,"
                " regions, created_at) VALUES (%s, %s, 144, 2, false, '{DE}', %s)",
                taken,
            )
            rewriter.commit()
            published.result()
    assert revisions(test_database) == [(key_bytes("a"), "confirmed", start + MINUTE)]


def test_an_upload_that_nobody_vouches_for_is_stored_and_not_counted(test_database, database, upload):
    facts = Facts(Platform.IOS, 2, None)
    publish(database, replace(upload("a"), report_type=None, health_authority_id=None, facts=facts))
    assert set(stored(test_database)) == {key_bytes("a")}
    with test_database.admin() as connection:
        for table in ("upload_stats", "profile", "profile_marginal"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_the_plans_look_keys_up_though_the_table_was_empty_when_they_were_made(test_database, database, upload):
    """As counted by the server: those of `publish_keys` cannot be looked at."""
    publish_new(database, upload("a"))
    publish(database, upload("a"), revise_all(upload("a")))
    database.forget_connections()  # its counts are told when it ends
    scans = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'exposure'"
    with test_database.admin() as connection:
        for _ in range(1000):
            whole, looked_up = connection.execute(scans).fetchone()
            if looked_up:
                break
            time.sleep(0.01)
    # Its look, the insert that found no such key, the look of the revision and the revision itself.
    assert (whole, looked_up >= 3) == (0, True)


# The usual upload: nothing of it is stored


def publish_new(database: Database, upload: Upload, now: datetime | None = None) -> bool:
    with database.connection() as connection:
        decision = Decision(upload.exposures)
        return exposures.publish_new(connection, upload, decision, now or datetime.now(UTC))


def counted(test_database) -> tuple[int, int, int]:
    with test_database.admin() as connection:
        return tuple(
            connection.execute(f"SELECT coalesce(sum({what}), 0)::int FROM {table}").fetchone()[0]
            for what, table in (("teks", "upload_stats"), ("uploads", "profile"), ("count", "profile_marginal"))
        )


def test_new_keys_are_stored_and_counted_as_with_a_look_first(test_database, database, upload, start):
    """T2 included: of the second key the embargo is not over."""
    test_database.set_time(start + timedelta(minutes=7, seconds=31))

    def wanted(name: str) -> Upload:
        young = replace(upload(f"{name}2").exposures[0], start=interval(start) - 140)
        taken = (young, *upload(f"{name}1", f"{name}3").exposures)
        return replace(upload("any"), exposures=taken, traveler=True, facts=Facts(Platform.IOS, 2, 3))

    def rows(name: str) -> list[tuple]:
        columns = (
            "interval_number, interval_count, transmission_risk, days_since_onset, report_type, traveler, regions,"
            " created_at, synthetic, app_name, health_authority_id, revised_at"
        )
        with test_database.admin() as connection:
            return [
                connection.execute(f"SELECT {columns} FROM exposure WHERE exposure_key = %s", [each.key]).fetchone()
                for each in wanted(name).exposures
            ]

    now = start + timedelta(minutes=7, seconds=31)
    assert publish_new(database, wanted("a"), now)
    once = counted(test_database)
    assert publish(database, wanted("b")) == 3
    assert rows("a") == rows("b")
    assert [row[7] for row in rows("a")] == [start + timedelta(hours=2, minutes=40), *[start + 7 * MINUTE] * 2]
    assert counted(test_database) == tuple(2 * each for each in once) == (6, 2, 2 * (3 + 3 + 1 + 1))


@pytest.mark.parametrize("known", ["a", "b", "c"])
def test_with_a_key_that_is_stored_nothing_is_done(test_database, database, upload, known):
    publish(database, upload(known))
    wanted = replace(upload("a", "b", "c"), facts=Facts(Platform.IOS, 2, 3))
    assert not publish_new(database, wanted)
    assert set(stored(test_database)) == {key_bytes(known)}
    assert counted(test_database) == (0, 0, 0)


def test_with_a_window_that_is_closed_nothing_is_done(test_database, database, upload, start):
    close_windows(test_database, start + MINUTE)
    assert not publish_new(database, upload("a"))
    assert stored(test_database) == {}


def test_without_a_clock_nothing_is_done(test_database, database, upload):
    with test_database.admin() as connection:
        connection.execute("DELETE FROM release_clock")
    assert not publish_new(database, upload("a"))
    assert stored(test_database) == {}


def test_w2_new_keys_that_waited_for_the_closer_are_not_stored_in_its_window(test_database, database, upload, start):
    with test_database.admin() as closer:
        closer.execute("BEGIN")
        closer.execute("SELECT pg_advisory_xact_lock(1, window_lock(%s))", [start])
        with in_another_thread(lambda: publish_new(database, upload("a"))) as published:
            wait_until_waiting(test_database)
            closer.execute("UPDATE release_clock SET closed_through = %s", [start + MINUTE])
            closer.execute("COMMIT")
            assert published.result() is False
    assert stored(test_database) == {}


def test_w2_new_keys_hold_their_window_until_they_are_committed(test_database, database, upload, start):
    """The upload is stopped before its commit, by another one of its key that does not end."""
    with test_database.admin() as other:
        other.execute("BEGIN")
        other.execute(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler, regions,"
            " created_at) VALUES (%s, 1, 144, 0, false, '{DE}', %s)",
            [key_bytes("a"), start],
        )
        with in_another_thread(lambda: publish_new(database, upload("a", "b"))) as published:
            wait_until_waiting(test_database)
            with test_database.admin() as connection:
                held = connection.execute(
                    "SELECT objid::integer, mode FROM pg_locks WHERE locktype = 'advisory' AND classid = 1"
                ).fetchall()
            other.execute("COMMIT")
            # The other one's key is stored: there is no way but to look.
            assert published.result() is False
    assert held == [(int(start.timestamp()) // 60, "ShareLock")]
    assert set(stored(test_database)) == {key_bytes("a")}
    assert publish_new(database, upload("b"))


def test_w2_the_api_takes_a_snapshot_a_statement_whatever_the_database_says(test_database, database):
    """With one snapshot a transaction, `publish_keys` would not see what its lock waited for."""
    with test_database.admin() as connection:
        connection.execute(f"ALTER DATABASE {test_database.name} SET default_transaction_isolation = 'serializable'")
    with database.connection() as connection:
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)


def test_w2_a_window_that_is_closed_gets_no_more_keys(test_database, database, upload, start):
    """Uploads and a closer (W3) race; what the closer counts is what there is in the end."""
    stop = threading.Event()

    def upload_on(worker: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            wanted = upload(f"{worker}/{number}")
            assert publish_new(database, wanted) or publish(database, wanted)

    def close(window: datetime) -> int:
        with test_database.admin() as closer:
            closer.execute("BEGIN")
            closer.execute("SELECT pg_advisory_xact_lock(1, window_lock(%s))", [window])
            closer.execute("UPDATE release_clock SET closed_through = %s", [window + MINUTE])
            (keys,) = closer.execute("SELECT count(*) FROM exposure WHERE created_at = %s", [window]).fetchone()
            closer.execute("COMMIT")
        return keys

    counted = {}
    with ThreadPoolExecutor(4) as pool:
        uploading = [pool.submit(upload_on, worker) for worker in range(4)]
        try:
            for window in (start + number * MINUTE for number in range(20)):
                while window not in stored(test_database).values():
                    assert not any(each.done() for each in uploading)
                test_database.set_time(window + MINUTE)
                counted[window] = close(window)
        finally:
            stop.set()
        for each in uploading:
            each.result()
    found = Counter(stored(test_database).values())
    assert {window: found[window] for window in counted} == counted


# Waiting for others


@contextmanager
def in_another_thread(work: Callable[[], object]) -> Iterator[Future[object]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def wait_until_waiting(test_database, count: int = 1) -> None:
    """Return when this many of the API's connections wait for a lock."""
    with test_database.admin() as connection:
        for _ in range(1000):
            (waiting,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'keyserver_api' AND wait_event_type = 'Lock'"
            ).fetchone()
            if waiting == count:
                return
            time.sleep(0.01)
    pytest.fail("the upload does not wait for the lock")


def test_w2_an_upload_that_waited_for_the_closer_goes_to_the_next_window(test_database, database, upload, start):
    with test_database.admin() as closer:
        closer.execute("BEGIN")
        closer.execute("SELECT pg_advisory_xact_lock(1, window_lock(%s))", [start])
        with in_another_thread(lambda: publish(database, upload("a"))) as published:
            wait_until_waiting(test_database)
            closer.execute("UPDATE release_clock SET closed_through = %s", [start + MINUTE])
            closer.execute("COMMIT")
            assert published.result() == 1
    assert stored(test_database) == {key_bytes("a"): start + MINUTE}


def test_w2_the_window_written_to_stays_locked_until_the_commit(test_database, database, upload, start):
    held = []

    def plan(known: Known) -> Decision:
        with test_database.admin() as connection:
            held.extend(
                connection.execute(
                    "SELECT objid::integer, mode FROM pg_locks"
                    " WHERE locktype = 'advisory' AND classid = 1 AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY objid"
                ).fetchall()
            )
        return insert_new(upload("a"))(known)

    close_windows(test_database, start + 2 * MINUTE)
    publish(database, upload("a"), plan)
    minutes = int(start.timestamp()) // 60
    assert held == [(minutes, "ShareLock"), (minutes + 2, "ShareLock")]
    with test_database.admin() as connection:
        assert connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


@pytest.mark.parametrize(("closings", "outcome"), [(3, "stored"), (4, "given up")])
def test_w2_windows_that_close_again_and_again(test_database, database, upload, start, closings, outcome):
    """Each window is closed while the upload waits for its lock: three times it goes on to the next."""
    windows = [start + number * MINUTE for number in range(closings)]
    closers = [test_database.admin() for _ in windows]
    for closer, window in zip(closers, windows, strict=True):
        closer.execute("BEGIN")
        closer.execute("SELECT pg_advisory_xact_lock(1, window_lock(%s))", [window])
    with in_another_thread(lambda: publish(database, upload("a"))) as published:
        for closer, window in zip(closers, windows, strict=True):
            wait_until_waiting(test_database)
            closer.execute("UPDATE release_clock SET closed_through = %s", [window + MINUTE])
            closer.execute("COMMIT")
            closer.close()
        if outcome == "stored":
            assert published.result() == 1
            assert stored(test_database) == {key_bytes("a"): start + closings * MINUTE}
        else:
            with pytest.raises(RemoteError, match="windows close faster"):
                published.result()
            assert stored(test_database) == {}


def test_w2_an_upload_that_was_overtaken_starts_again(test_database, database, upload):
    """The other upload of the key commits between this one's look and its insert."""
    other = test_database.database("api")
    calls = queue.SimpleQueue[set[bytes]]()

    def plan(known: Known) -> Decision:
        calls.put(set(known.rows))
        if calls.qsize() == 1:
            publish(other, upload("a"))
        return insert_new(upload("a", "b"))(known)

    assert publish(database, upload("a", "b"), plan) == 1
    assert [calls.get() for _ in range(calls.qsize())] == [set(), {key_bytes("a")}]
    assert set(stored(test_database)) == {key_bytes("a"), key_bytes("b")}


def test_w2_an_upload_overtaken_for_ever_gives_up_with_nothing_stored(test_database, database, upload):
    attempts = []

    def plan(known: Known) -> Decision:
        attempts.append(known)
        return Decision(upload("a", "b").exposures)  # whatever is stored

    publish(database, upload("a"))
    with pytest.raises(RemoteError, match="again and again"):
        publish(database, upload("a", "b"), plan)
    assert len(attempts) == 4
    assert set(stored(test_database)) == {key_bytes("a")}


def test_w2_a_deadlock_starts_again(test_database, database, upload):
    """Another transaction inserted a key, and waits for ours, which waits for its key."""
    with test_database.admin() as connection:
        connection.execute("ALTER DATABASE " + test_database.name + " SET deadlock_timeout = '10ms'")
    attempts = []
    other = psycopg.connect(test_database.url("postgres"), autocommit=True)
    other.execute("SET deadlock_timeout = '60s'")  # ours is the one that notices

    def hold() -> None:
        other.execute("SELECT pg_advisory_xact_lock(1, window_lock(keyserver_now()))")
        other.execute("ROLLBACK")

    with ThreadPoolExecutor(1) as pool:

        def plan(known: Known) -> Decision:
            attempts.append(known)
            if len(attempts) == 1:
                other.execute("BEGIN")
                other.execute(
                    "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler,"
                    " regions, created_at) VALUES (%s, 1, 144, 0, false, '{DE}', keyserver_now())",
                    [key_bytes("a")],
                )
                pool.submit(hold)
            return insert_new(upload("a"))(known)

        assert publish(database, upload("a"), plan) == 1
    other.close()
    assert len(attempts) == 2
    assert set(stored(test_database)) == {key_bytes("a")}


def test_e4_a_lock_that_does_not_come_can_be_tried_again(test_database, upload, start):
    api = Database(test_database.url("keyserver_api") + "&options=" + quote("-c lock_timeout=50ms"))
    with test_database.admin() as closer:
        closer.execute("SELECT pg_advisory_lock(1, window_lock(%s))", [start])
        with pytest.raises(RemoteError, match="55P03"):
            publish(api, upload("a"))
    api.forget_connections()
    assert stored(test_database) == {}


# What goes over the wire


class Wire:
    """A Unix socket in front of PostgreSQL's. It counts round trips: the client spoke, and the server before it."""

    def __init__(self, folder: str, target: str) -> None:
        self.round_trips = 0
        self.cut_after: int | None = None
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._carry, args=[client]))
            self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target)
        server_spoke = True
        with client, server:
            while True:
                # The server's words first: what it said before the client went on was said before.
                ready, _, _ = select.select([server, client], [], [])
                source = server if server in ready else client
                data = source.recv(1 << 16)
                if not data:
                    return
                if source is server:
                    server_spoke = True
                    if self.cut_after is not None and self.round_trips >= self.cut_after:
                        return
                    client.sendall(data)
                    continue
                # A Flush by itself, which psycopg sends after a pipeline's Sync, asks for what is on its way already.
                if data != b"H\0\0\0\4":
                    self.round_trips += server_spoke
                    server_spoke = False
                server.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def wire(test_database, database) -> Iterator[tuple[Wire, Database]]:
    url = test_database.url("keyserver_api")
    folder = parse_qs(urlsplit(url).query)["host"][0]
    (target,) = Path(folder).glob(".s.PGSQL.*[0-9]")
    with tempfile.TemporaryDirectory() as front:
        wire = Wire(front, str(target))
        through = Database(url.replace(quote(folder, safe=""), front).replace(quote(folder), front))
        yield wire, through
        through.forget_connections()
        wire.close()


@pytest.mark.parametrize("count", [1, 14, 30])
def test_w2_an_upload_is_three_round_trips_with_new_keys_revisions_and_counters(test_database, wire, upload, count):
    counter, database = wire
    with database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    counts = []
    # More uploads than psycopg waits for before it prepares a statement.
    for number in range(8):
        old = upload(*(f"{number}/{key}" for key in range(count))).exposures
        new = upload(f"{number}/new").exposures
        for decision in (Decision(insert=old), Decision(insert=new, revise=old)):
            wanted = replace(
                upload("any"), exposures=decision.insert + decision.revise, facts=Facts(Platform.IOS, 2, 3)
            )
            before = counter.round_trips
            publish(database, wanted, lambda _, decision=decision: decision)
            counts.append(counter.round_trips - before)
    assert counts == [3] * 16
    with test_database.admin() as connection:
        revised = connection.execute("SELECT count(*) FROM exposure WHERE revised_at IS NOT NULL").fetchone()
        counted = connection.execute("SELECT sum(teks), sum(revisions) FROM upload_stats").fetchone()
    assert (revised, counted) == ((8 * count,), (8 * (2 * count + 1), 8))


@pytest.mark.parametrize("count", [1, 14, 30])
def test_w2_new_keys_are_one_round_trip(test_database, wire, upload, count):
    counter, database = wire
    publish_new(database, upload("first"))
    before = counter.round_trips
    for number in range(4):
        new = upload(*(f"{number}/{key}" for key in range(count)))
        assert publish_new(database, replace(new, facts=Facts(Platform.IOS, 2, 3)))
    assert counter.round_trips - before == 4
    assert counted(test_database)[0] == 4 * count


def test_e4_new_keys_whose_commit_was_not_confirmed_are_not_answered_as_stored(test_database, wire, upload):
    counter, database = wire
    publish_new(database, upload("first"))
    counter.cut_after = counter.round_trips + 1
    with pytest.raises(RemoteError):
        publish_new(database, upload("a"))
    counter.cut_after = None
    assert key_bytes("a") in stored(test_database)
    # Sent again, it is found: K4 answers it.
    assert not publish_new(database, upload("a"))


def test_e4_new_keys_whose_commit_fails_are_not_answered_as_stored(test_database, database, upload):
    with test_database.admin() as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON exposure DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    with pytest.raises(RemoteError, match="53100"):
        publish_new(database, upload("a"))
    assert stored(test_database) == {}


def test_e4_an_upload_whose_commit_was_not_confirmed_is_not_answered_as_stored(test_database, wire, upload):
    counter, database = wire
    publish(database, upload("first"))
    counter.cut_after = counter.round_trips + 3
    with pytest.raises(RemoteError):
        publish(database, upload("a"))
    # It is stored all the same: only nobody may say so. The next upload has a connection of its own.
    counter.cut_after = None
    assert key_bytes("a") in stored(test_database)
    assert publish(database, upload("b")) == 1


@pytest.mark.parametrize("round_trip", [1, 2])
def test_e4_a_connection_lost_before_the_commit_stores_nothing(test_database, wire, upload, round_trip):
    counter, database = wire
    publish(database, upload("first"))
    counter.cut_after = counter.round_trips + round_trip
    with pytest.raises(RemoteError):
        publish(database, upload("a"))
    counter.cut_after = None
    assert publish(database, upload("a")) == 1
    assert set(stored(test_database)) == {key_bytes("first"), key_bytes("a")}
