"""`make bench-retention`: what uploads notice while a day's keys are deleted, and how fast these go.

A server of its own (`bench.server`) holds 14 days of keys, in the order in which the rewriting of closed windows leaves
them, and one day more that is due to go, which two feeds had in released batches. It takes 300 uploads a second for a
while; then as many while `delete_keys` runs as its task does, in a process of its own. Latencies count from the
intended time of sending. Last, the table is vacuumed. The last line is one JSON object.

SCALE=1 is 300,000 keys a day; SCALE=10 is 3 million, 42 million in all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg

from bench.export import FILL
from bench.load import Load
from bench.publish import CONNECTIONS, OPEN_PER_S, WARM_UP, Stream, facts, percentile_ms, spread
from bench.server import Served, served
from keyserver.audit import Actor
from keyserver.retention.keys import ROWS_A_CHUNK, SHARE, delete_keys
from keyserver.runtime import open_runtime
from keyserver.settings import Settings

KEYS_A_DAY = 300_000
DAYS = 14
MEASURED_S = 20
LEAST_MEASURED = 1000
MOST_RATIO = 1.5
_WIDTH = timedelta(minutes=Settings.window_minutes)
_DAY = timedelta(days=1)


def main() -> None:
    """Run the bench and print its figures."""
    keys_a_day = int(KEYS_A_DAY * float(os.environ.get("SCALE", "1")))
    with tempfile.TemporaryDirectory(prefix="keyserver-") as name, served() as server:
        fill(server.admin_url, keys_a_day)
        stream = Stream(Path(name), WARM_UP + 2 * MEASURED_S * OPEN_PER_S)
        print(f"{(DAYS + 1) * keys_a_day:,} keys stored, {keys_a_day:,} of them to go")
        for what, value in facts(server).items():
            print(f"  {what:22} {value}")
        figures = measure(server, stream)
    for what, figure in figures.items():
        print(f"  {what:24} {figure:12,.2f}")
    print(json.dumps(figures | {"stored": DAYS * keys_a_day, "most_publish_p99_ratio": MOST_RATIO}))


def fill(admin_url: str, keys_a_day: int) -> None:
    """Store the keys: one window a day of the days that stay, every window of the one that goes, with its batches."""
    windows = int(_DAY / _WIDTH)
    with psycopg.connect(admin_url) as connection:
        (now,) = connection.execute("SELECT keyserver_now()").fetchone() or ()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        connection.execute("SET session_replication_role = replica")  # closed windows are filled, too
        for day in range(1, DAYS + 1):
            at = today - day * _DAY + _WIDTH * (windows - 1)
            connection.execute(FILL, {"seed": -day * 10_000_000, "at": at, "keys": keys_a_day})
        old = today - (DAYS + 1) * _DAY
        for window in range(windows):
            values = {"seed": window * 10_000_000, "at": old + window * _WIDTH, "keys": keys_a_day // windows}
            connection.execute(FILL, values)
        for period in (4, 24):
            _release(connection, old, period)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _release(connection: psycopg.Connection[Any], day: datetime, period: int) -> None:
    """Store a feed and its batches of a day as released ones."""
    (feed_id,) = (
        connection.execute(
            "INSERT INTO feed (name, root, output_region, input_regions, travelers, period_minutes, active_from,"
            " max_keys, padding_minimum, padding_spread, development, paused) VALUES (%(name)s, %(name)s, 'NO', '{NO}',"
            " 'by-region', %(minutes)s, %(day)s, 500000, 0, 0, true, false) RETURNING id",
            {"name": f"feed-{period}", "minutes": period * 60, "day": day},
        ).fetchone()
        or ()
    )
    for hour in range(0, 24, period):
        starts_at = day + timedelta(hours=hour)
        connection.execute(
            "INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region, input_regions,"
            " exclude_regions, travelers, max_keys, status, carriers, withdrawn_carriers) SELECT id, %(starts_at)s,"
            " %(ends_at)s, %(starts_at)s - interval '16 days', %(ends_at)s, root, output_region, input_regions,"
            " exclude_regions, travelers, max_keys, 'released', '{}', '{}' FROM feed WHERE id = %(feed)s",
            {"feed": feed_id, "starts_at": starts_at, "ends_at": starts_at + timedelta(hours=period)},
        )


def measure(server: Served, stream: Stream, rows_a_chunk: int = ROWS_A_CHUNK, share: float = SHARE) -> dict[str, float]:
    """Publish alone, then while keys are deleted; then vacuum."""
    load = Load(server.port, 0)
    spread(load, server, CONNECTIONS)
    load.closed_loop(iter(stream.take(WARM_UP)), 600)
    alone = [latency for _, latency in load.open_loop(stream.take(MEASURED_S * OPEN_PER_S), OPEN_PER_S)]
    requests = stream.take(MEASURED_S * OPEN_PER_S)
    before = _deleted(server)
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_delete, args=(theirs, server.admin_url, rows_a_chunk, share), daemon=True
    )
    process.start()
    while (first := _deleted(server)) == before:
        time.sleep(0.01)
    began = time.perf_counter()
    answered = load.open_loop(requests, OPEN_PER_S)
    gone, ended = _deleted(server) - first, time.perf_counter()
    if ours.poll():
        ended = ours.recv()  # all was gone by then
    process.terminate()  # it may be cut off anywhere
    process.join()
    load.close()
    meanwhile = [latency for at, latency in answered if at <= ended]
    if len(meanwhile) < LEAST_MEASURED:
        raise SystemExit("the keys were gone before enough uploads were through: choose a larger SCALE")
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        vacuum_began = time.perf_counter()
        connection.execute("VACUUM exposure")
        vacuum_s = time.perf_counter() - vacuum_began
    return {
        "publish_p50_ms_alone": percentile_ms(alone, 0.5),
        "publish_p99_ms_alone": percentile_ms(alone, 0.99),
        "publish_p50_ms_meanwhile": percentile_ms(meanwhile, 0.5),
        "publish_p99_ms_meanwhile": percentile_ms(meanwhile, 0.99),
        "publish_p99_ratio": round(percentile_ms(meanwhile, 0.99) / percentile_ms(alone, 0.99), 2),
        "deleted_per_s": round(gone / (ended - began)),
        "measured_s": round(ended - began, 1),
        "vacuum_s": round(vacuum_s, 1),
    }


def _deleted(server: Served) -> int:
    """Count what was deleted, by its audit events."""
    with psycopg.connect(server.admin_url) as connection:
        (deleted,) = (
            connection.execute(
                "SELECT coalesce(sum((convert_from(body, 'UTF8')::jsonb -> 'counts' ->> 'keys')::integer), 0)"
                " FROM audit_event WHERE kind = 'retention.deleted'"
            ).fetchone()
            or ()
        )
    return int(deleted)


def _delete(told: Connection, admin_url: str, rows_a_chunk: int, share: float) -> None:
    """Delete as the task does; tell when all is gone."""
    runtime = open_runtime(Actor("bench", run="bench"), admin_url.replace("://postgres@", "://keyserver_retention@", 1))
    delete_keys(runtime, rows_a_chunk=rows_a_chunk, share=share)
    told.send(time.perf_counter())
    runtime.close()


if __name__ == "__main__":
    main()
