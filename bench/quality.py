"""`make bench-quality`: what the gate before signing costs, for one file of 500,000 keys.

A batch of ordinary metadata goes through the steps `build` and `check` as the DAG runs them, on PostgreSQL with durable
defaults on this machine. Each round is a process of its own that imports Great Expectations first: a task pays for that
once whatever it checks, so it is counted apart. Of the gate's seconds it is told how many went to the database, to
reading the files back, and to the expectations. The last line is one JSON object.

SCALE takes fewer or more keys, of 500,000 a file; from SCALE=10 on, 42 million other keys are stored beside the batch.
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
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.export import KEYS_A_FILE, STORED, WINDOW_MINUTES, prepare, runtime_of, take_back
from deploy.local import postgres
from keyserver.export import build, gate
from keyserver.quality import decodedkeys, exportfiles, suite
from keyserver.store import batches, quality
from keyserver.store import database as databases
from tests.conftest import ROLES, role_url

ROUNDS = 3
MOST_SECONDS = 15.0  # for a file of 500,000 keys

# What the gate's seconds go to: what is measured, where it is called.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "database_s": [(batches, "fates"), (batches, "count_revised_keys"), (quality, "listed")],
    "decode_s": [(exportfiles, "decode")],
    "columns_s": [(exportfiles, "columns"), (exportfiles, "Keys"), (decodedkeys.Keys, "table")],
    "expectations_s": [(exportfiles, "validate")],
}


def main() -> None:
    """Run the bench and print its table."""
    scale = float(os.environ.get("SCALE", "1"))
    keys, stored = int(KEYS_A_FILE * scale), STORED if scale >= 10 else 0
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = postgres.server(folder / "postgres")
        try:
            url = {role: role_url(server.admin_url, role, "bench") for role in ROLES}
            databases.set_up(server.admin_url, url)
            databases.migrate(url["keyserver_migrate"], WINDOW_MINUTES)
            batch_id = prepare(server.admin_url, url["keyserver_pipeline"], folder, keys, stored)
            rounds = [_round(server.admin_url, url["keyserver_pipeline"], folder, batch_id) for _ in range(ROUNDS)]
        finally:
            server.stop()
    figures = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print(f"{keys:,} keys in files of {KEYS_A_FILE:,}, {stored:,} others stored; medians of {ROUNDS} rounds")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name, figure in figures.items():
        print(f"  {name:14} {figure:12,.2f}")
    print(json.dumps({name: round(figure, 2) for name, figure in figures.items()} | {"keys": keys, "stored": stored}))
    if keys <= KEYS_A_FILE and figures["gate_s"] >= MOST_SECONDS:
        raise SystemExit(
            f"the gate took {figures['gate_s']:.1f} s; a file of {KEYS_A_FILE:,} keys has {MOST_SECONDS} s"
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
    runtime = runtime_of(url, folder)
    build.build(runtime, batch_id)
    before = time.perf_counter()
    suite.library()
    imported = time.perf_counter() - before
    spent: Counter[str] = Counter()
    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, _timed(getattr(owner, name), spent, part))
    before = time.perf_counter()
    gate.check(runtime, batch_id)
    took = time.perf_counter() - before
    with runtime.database.connection() as connection:
        outcomes = quality.of_batch(connection, batch_id)
    told.send(
        {
            "gate_s": took,
            "import_s": imported,
            **{part: spent[part] for part in PARTS},
            "expectations": len(outcomes),
            "unmet": sum(not outcome.met for outcome in outcomes),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
    runtime.close()


def _timed(function: Callable[..., Any], spent: Counter[str], part: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        before = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - before

    return timed


if __name__ == "__main__":
    main()
