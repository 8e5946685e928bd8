"""`make bench-audit`: how long an audit trail takes to verify, and how much memory that needs.

A trail of 100,000 events, as one feed of four hours makes them in two and a half years, each with its row, is appended
through the database's own function and verified by a process of its own with the auditor's role, against the rows, but
for signatures and files, which cost what they cost wherever they are checked. Beside it the chain alone. The last line
is one JSON object. SCALE sizes the trail.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from deploy.local import postgres
from keyserver.audit import Actor
from keyserver.oversight.verify import Asked, chain, verify
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import Said
from keyserver.runtime import open_runtime
from keyserver.store import database as databases
from tests.conftest import ROLES, role_url

EVENTS = 100_000
WINDOW = timedelta(hours=1)
PERIOD = 4  # windows
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_AT_ONCE = 2_000


def main() -> None:
    """Run the bench and print its table."""
    events = int(EVENTS * float(os.environ.get("SCALE", "1")))
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as name:
        server = postgres.server(Path(name) / "postgres")
        try:
            url = {role: role_url(server.admin_url, role, "bench") for role in ROLES}
            databases.set_up(server.admin_url, url)
            databases.migrate(url["keyserver_migrate"], 60)
            with psycopg.connect(role_url(server.admin_url, "postgres", "bench")) as connection:
                made = _make(connection, events)
            figures = {"events": made}
            for what, work in (("chain", _chain), ("verify", _verify)):
                seconds, megabytes, findings = _in_a_process(work, url["keyserver_auditor"])
                figures |= {
                    f"{what}_s": round(seconds, 2),
                    f"{what}_peak_mb": round(megabytes),
                    f"{what}_findings": findings,
                }
        finally:
            postgres.stop(Path(name) / "postgres")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{made:,} events: the chain alone {figures['chain_s']} s, {figures['chain_peak_mb']} MB at most;")
    print(f"with rows {figures['verify_s']} s, {figures['verify_peak_mb']} MB at most.")
    print(json.dumps(figures))


def _make(connection: psycopg.Connection[Any], most: int) -> int:
    """Store a history's rows and append its events; give their number."""
    connection.execute("SET session_replication_role = 'replica'")
    connection.execute(
        "INSERT INTO feed (name, root, output_region, input_regions, travelers, period_minutes, active_from, max_keys,"
        " padding_minimum, padding_spread, development, paused)"
        " VALUES ('north', 'north', 'NO', '{NO}', 'by-region', 240, %s, 1000, 0, 0, false, false)",
        [BEGIN],
    )
    waiting: list[Jsonb] = []
    appended = batch = 0
    while appended + len(waiting) < most:
        batch += 1
        waiting += [Jsonb(event) for event in _events(connection, batch)]
        if len(waiting) >= _AT_ONCE:
            connection.execute("SELECT count(*) FROM audit_append(%s)", [waiting])
            appended, waiting = appended + len(waiting), []
    waiting.append(Jsonb(_event("retention.proved", {})))
    connection.execute("SELECT count(*) FROM audit_append(%s)", [waiting])
    connection.execute("UPDATE feed SET last_release_no = (SELECT max(release_no) FROM file)")
    connection.execute(
        "UPDATE release_clock SET closed_through = (SELECT max(ends_at) FROM closed_window), rewritten_through = %s",
        [BEGIN],
    )
    connection.commit()
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE")
    return appended + len(waiting)


def _events(connection: psycopg.Connection[Any], batch: int) -> Iterator[dict[str, Any]]:
    """Give what is told of a batch and its windows; its rows are stored with it."""
    start = BEGIN + (batch - 1) * PERIOD * WINDOW
    for window in (start + number * WINDOW for number in range(PERIOD)):
        end = window + WINDOW
        connection.execute("INSERT INTO closed_window VALUES (%s, %s, 100, 0, 3, %s)", [window, end, end])
        yield _event(
            "window.closed",
            {"start": window.isoformat(), "end": end.isoformat()},
            counts={"keys": 100, "synthetic_keys": 0, "revisions": 3},
        )
        yield _event("window.rewritten", {"start": window.isoformat()}, counts={"rows": 100})
    yield from _batch(connection, batch, start, start + PERIOD * WINDOW)


def _batch(connection: psycopg.Connection[Any], batch: int, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    export, zip_ = (hashlib.sha256(f"{what} {batch}".encode()).digest() for what in ("export", "zip"))
    name, of = f"north/{batch}.zip", {"batch": batch, "feed": "north"}
    counts = {"released": 400, "synthetic": 0, "revised_in_state": 12}
    connection.execute(
        "INSERT INTO batch (id, feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region, input_regions,"
        " exclude_regions, travelers, max_keys, status, counts, code_version, carriers, withdrawn_carriers)"
        " OVERRIDING SYSTEM VALUE SELECT %s, id, %s, %s, %s::timestamptz - interval '16 days', %s, root, output_region,"
        " input_regions, exclude_regions, travelers, max_keys, 'released', %s, '1', '{}', '{}' FROM feed",
        [batch, start, end, end, end, Jsonb(counts)],
    )
    connection.execute(
        "INSERT INTO file (batch_id, number, starts_at, ends_at, keys, revised_keys, export_sha256, name, zip_sha256,"
        " zip_bytes, compressor, status, feed_id, release_no, released_at, left_index_at)"
        " SELECT %s, 1, %s, %s, 400, 0, %s, %s, %s, 9000, 'x', 'deleted', id, %s, %s, %s FROM feed",
        [batch, start, end, export, name, zip_, batch, end, end],
    )
    connection.execute(
        "INSERT INTO transparency_line SELECT id, %s, %s, %s, 'release', %s, %s, %s, 400, %s, %s FROM feed",
        [batch, end.date(), end, name, start, end, zip_, export],
    )
    file = {**of, "file": 1, "name": name}
    both = {"export_bin": export.hex(), "zip": zip_.hex()}
    yield _event("batch.planned", {**of, "start": start.isoformat(), "end": end.isoformat()})
    built = {**of, "code": "1", "carriers": "", "withdrawn_carriers": ""}
    yield _event("batch.built", built, counts=counts, hashes={"export_bin_1": export.hex()})
    yield _event("batch.checked", of, counts={"files": 1}, hashes={"export_bin_1": export.hex()})
    yield _event("file.signed", file, counts={"signatures": 1, "zip_bytes": 9000}, hashes=both)
    yield _event("batch.verified", of, counts={"files": 1}, hashes={"zip_1": zip_.hex()})
    yield _event("file.released", file, counts={"keys": 400, "revised_keys": 0, "release_no": batch}, hashes=both)
    yield _event("file.confirmed", file, hashes={"zip": zip_.hex()})
    yield _event("file.expired", file)
    yield _event("file.deleted", file, hashes={"zip": zip_.hex()})


def _event(
    kind: str, subject: dict[str, Any], counts: dict[str, int] | None = None, hashes: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "actor": "airflow",
        "dag": "export_keys",
        "run": f"scheduled__{BEGIN.isoformat()}",
        "task": "release",
        "map_index": 0,
        "try": 1,
        "kind": kind,
        "subject": subject,
        "counts": counts or {},
        "hashes": hashes or {},
    }


def _in_a_process(work: Any, url: str) -> tuple[float, float, int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(url, theirs))
    process.start()
    theirs.close()
    told: tuple[float, float, int] = ours.recv()
    process.join()
    return told


def _chain(url: str, told: Connection) -> None:
    runtime = open_runtime(Actor("bench"), url)
    report = Report()
    began = time.perf_counter()
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        chain.walk(connection, _Deaf(report, whole=True), report, [], None)
    _tell(told, began, report)
    runtime.close()


class _Deaf(Said):
    """Takes nothing in, so that the chain alone is measured."""

    def take(self, event: Any) -> None:
        """Do nothing."""


def _verify(url: str, told: Connection) -> None:
    runtime = open_runtime(Actor("bench"), url)
    began = time.perf_counter()
    report, _ = verify(runtime, Asked())
    _tell(told, began, report)
    runtime.close()


def _tell(told: Connection, began: float, report: Report) -> None:
    seconds = time.perf_counter() - began
    told.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(report.findings) + report.more))


if __name__ == "__main__":
    main()
