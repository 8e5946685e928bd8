"""`make bench-export`: from a closed window to signed zips, keys a second, bytes a key, memory.

One batch of 5 million keys of ordinary metadata, in files of 500,000, goes through the steps `build` and `sign` as the
DAG runs them, on PostgreSQL with durable defaults on this machine; the gate between them is passed over (it has a bench
of its own). Each round is a process of its own, so that its memory is its own. Then one file is deflated by what there
is to choose from. The last line is one JSON object.

SCALE below 1 takes fewer keys; SCALE=10 stores 42 million other keys beside the batch first: 14 days of 3 million. Rows
are stored in the order of their keys, as the rewriting of closed windows leaves them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
import zlib
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg

from deploy.local import postgres
from keyserver.audit import Actor
from keyserver.export import build, due, sign, windows
from keyserver.providers.signers import generate
from keyserver.runtime import Runtime, open_runtime
from keyserver.store import batches
from keyserver.store import database as databases
from tests.conftest import ROLES, role_url

KEYS = 5_000_000
STORED = 42_000_000
STORED_DAYS = 14
KEYS_A_FILE = 500_000
ROUNDS = 3
WINDOW_MINUTES = 15

# 14 days, three report types with the risks that are filled in for them, onset two weeks around, one in ten shorter
# than a day: some 4,700 combinations.
FILL = """
INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
                      traveler, regions, created_at)
SELECT substr(sha256(int8send(%(seed)s + n)), 1, 16),
       (extract(epoch FROM date_trunc('day', %(at)s::timestamptz - interval '2 hours')) / 600)::integer
       - 144 * (1 + n %% 14),
       CASE WHEN n %% 10 = 0 THEN 12 * (1 + n / 10 %% 3) ELSE 144 END,
       CASE WHEN n %% 100 < 80 THEN 2 WHEN n %% 100 < 88 THEN 4 ELSE 0 END,
       n / 7 %% 29 - 14,
       (CASE WHEN n %% 100 < 80 THEN 'confirmed' WHEN n %% 100 < 88 THEN 'likely' ELSE 'user-report' END)::report_type,
       false, '{NO}', %(at)s
  FROM generate_series(1, %(keys)s) AS n
 ORDER BY 1
"""


def main() -> None:
    """Run the bench and print its tables."""
    scale = float(os.environ.get("SCALE", "1"))
    keys, stored = int(KEYS * min(scale, 1)), STORED if scale >= 10 else 0
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = postgres.server(folder / "postgres")
        try:
            url = {role: role_url(server.admin_url, role, "bench") for role in ROLES}
            databases.set_up(server.admin_url, url)
            databases.migrate(url["keyserver_migrate"], WINDOW_MINUTES)
            batch_id = prepare(server.admin_url, url["keyserver_pipeline"], folder, keys, stored)
            rounds = [_round(server.admin_url, url["keyserver_pipeline"], folder, batch_id) for _ in range(ROUNDS)]
            export_bin = max((folder / "blobs/staging").glob("*.bin"), key=lambda path: path.stat().st_size)
            deflated = _deflate(export_bin.read_bytes())
        finally:
            server.stop()
    _print(rounds, deflated, keys, stored)


def runtime_of(url: str, folder: Path) -> Runtime:
    """Open what a step works with, whose store and signing keys lie in a folder."""
    return open_runtime(
        Actor("bench", run="bench"),
        url,
        blobs_url=(folder / "blobs").as_uri(),
        signer_url=(folder / "signer").as_uri(),
    )


def prepare(admin_url: str, url: str, folder: Path, keys: int, stored: int) -> int:
    """Store keys in the last hour's windows, close them, and give the batch that is due."""
    (folder / "signer").mkdir(mode=0o700)
    public_key = generate((folder / "signer").as_uri(), "bench")
    with psycopg.connect(admin_url, dbname="bench") as connection:
        (end,) = connection.execute("SELECT date_trunc('hour', keyserver_now())").fetchone() or ()
        start = end - timedelta(hours=1)
        connection.execute("SET session_replication_role = replica")  # closed windows are filled, too
        for day in range(STORED_DAYS if stored else 0):
            at = start - timedelta(days=STORED_DAYS - day)
            connection.execute(FILL, {"seed": -(day + 1) * 10_000_000, "at": at, "keys": stored // STORED_DAYS})
        for quarter in range(4):
            at = start + quarter * timedelta(minutes=WINDOW_MINUTES)
            connection.execute(FILL, {"seed": quarter * 10_000_000, "at": at, "keys": keys // 4})
        connection.execute("UPDATE release_clock SET closed_through = %s, rewritten_through = %s", [start, start])
        (feed_id,) = (
            connection.execute(
                "INSERT INTO feed (name, root, output_region, input_regions, travelers, period_minutes, active_from,"
                " max_keys, padding_minimum, padding_spread, development, paused)"
                " VALUES ('bench', 'bench', 'NO', '{NO}', 'by-region', 60, %s, %s, 0, 0, true, false) RETURNING id",
                [start, KEYS_A_FILE],
            ).fetchone()
            or ()
        )
        connection.execute(
            "WITH key AS (INSERT INTO signing_key (name, key_id, key_version, public_key, active_from)"
            " VALUES ('bench', '242', 'v1', %s, %s) RETURNING id)"
            " INSERT INTO feed_signing_key (feed_id, signing_key_id) SELECT %s, id FROM key",
            [public_key, start - timedelta(days=1), feed_id],
        )
    with psycopg.connect(admin_url, dbname="bench", autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    runtime = runtime_of(url, folder)
    try:
        with runtime.database.connection() as connection:
            now = connection.execute("SELECT keyserver_now()").fetchone()
        windows.close_windows(runtime, now[0] if now else end)
        (claimed,) = due.claim_due(runtime)
    finally:
        runtime.close()
    with psycopg.connect(admin_url, dbname="bench", autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE exposure")
    return claimed.batch_id


def take_back(admin_url: str, batch_id: int) -> None:
    """Take a batch back to `planned`, claimed by this bench."""
    with psycopg.connect(admin_url, dbname="bench") as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM file")
        connection.execute("DELETE FROM signature")
        connection.execute(
            "UPDATE batch SET status = 'planned', claimed_by = 'bench', claim_renewed_at = now(), carriers = NULL,"
            " withdrawn_carriers = NULL WHERE id = %s",
            [batch_id],
        )


def _round(admin_url: str, url: str, folder: Path, batch_id: int) -> dict[str, float]:
    """Take the batch back to `planned` and work on it in a new process."""
    take_back(admin_url, batch_id)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, url, folder, batch_id))
    process.start()
    theirs.close()
    figures: dict[str, float] = ours.recv()
    process.join()
    return figures


def _work(told: Connection, url: str, folder: Path, batch_id: int) -> None:
    for staged in (folder / "blobs").glob("staging/*"):
        staged.unlink()
    runtime = runtime_of(url, folder)
    before = time.perf_counter()
    build.build(runtime, batch_id)
    built = time.perf_counter()
    with runtime.database.transaction() as connection:
        batches.advance(connection, batches.read(connection, batch_id), "checked", run="bench")
    unchecked = time.perf_counter()
    sign.sign(runtime, batch_id)
    signed = time.perf_counter()
    with runtime.database.connection() as connection:
        keys, size = connection.execute("SELECT sum(keys), sum(zip_bytes) FROM file").fetchone() or (0, 0)
    told.send(
        {
            "build_s": built - before,
            "sign_s": signed - unchecked,
            "keys_per_s": int(keys) / (built - before + signed - unchecked),
            "bytes_per_key": int(size) / int(keys),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )


def _deflate(export_bin: bytes) -> list[tuple[str, float, int]]:
    """Deflate one file by some choices: level, window, seconds, bytes. The memory level is 9."""
    deflated = []
    for level in (1, 4, 6, 9):
        for window in (9, 11, 13, 15):
            times, size = [], 0
            for _ in range(ROUNDS):
                before = time.perf_counter()
                compressor = zlib.compressobj(level, zlib.DEFLATED, -window, 9)
                size = len(compressor.compress(export_bin)) + len(compressor.flush())
                times.append(time.perf_counter() - before)
            deflated.append((f"{level}, 2^{window}", statistics.median(times), size))
    return deflated


def _print(rounds: list[dict[str, float]], deflated: list[tuple[str, float, int]], keys: int, stored: int) -> None:
    figures = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print(f"{keys:,} keys in files of {KEYS_A_FILE:,}, {stored:,} others stored; medians of {ROUNDS} rounds")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name, figure in figures.items():
        print(f"  {name:14} {figure:12,.2f}")
    print(f"One file of {KEYS_A_FILE:,} keys, deflated by zlib {zlib.ZLIB_RUNTIME_VERSION} (level, window):")
    for name, seconds, size in deflated:
        print(f"  {name:14} {seconds:8.3f} s {size / KEYS_A_FILE:8.2f} bytes a key")
    print(json.dumps({name: round(figure, 2) for name, figure in figures.items()} | {"stored": stored}))


if __name__ == "__main__":
    main()
