"""The demo's second story: a mistake that must not reach phones, and the proof of what became of it.

Somebody with the rights of the pipeline adds keys by hand, past the API, and forgets that today's keys are still valid:
who released them now would let others replay their owners' beacons. The batch's check notices, and the batch is held.
An operator is asked in Airflow and rejects it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import psycopg

from deploy.local.development import REGIONS, Development
from deploy.local.stack import Stack, StackError
from keyserver.device import client, exportreader

MISTAKEN_IN = REGIONS[0]
KEYS = 12
REASON = "keys of today, added by hand"
MOST_WAIT_S = 240.0
# Airflow takes an answer that arrives while its worker still lets go of the question for that worker's failure, and
# asks again. Nobody reads that fast; a program does.
READING_S = 3.0

Found = TypeVar("Found")

# Into the open window, unless it is about to close: then nothing, and it is tried again.
_ADD = """
WITH clock AS MATERIALIZED (SELECT keyserver_now() AS now),
     open_window AS (
         SELECT window_start(now, width_minutes) AS starts_at, now FROM release_clock, clock
          WHERE window_start(now, width_minutes) + make_interval(mins => width_minutes) - now > interval '5 seconds')
INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
                      traveler, regions, created_at)
SELECT key, extract(epoch FROM date_trunc('day', now AT TIME ZONE 'UTC'))::bigint / 600, 144, 2, 0, 'confirmed',
       false, ARRAY[%(region)s], starts_at
  FROM open_window, unnest(%(keys)s::bytea[]) AS key
"""


@dataclass(frozen=True)
class Mistake:
    """What was held, why, and what became of it."""

    batch: int
    problem: str
    status: str
    keys: frozenset[bytes]


def make_and_reject(stack: Stack, say: Callable[[str], None]) -> Mistake:
    """Add the keys, wait until their batch is held, answer Airflow's question about it with a rejection."""
    keys = [secrets.token_bytes(16) for _ in range(KEYS)]
    with psycopg.connect(stack.database_url("pipeline"), autocommit=True) as connection:
        values = {"region": MISTAKEN_IN.code, "keys": keys}
        _wait("a window that is not about to close", lambda: connection.execute(_ADD, values).rowcount)
        say(f"{KEYS} keys of today are added by hand to the {MISTAKEN_IN.name}")

        def held() -> tuple[int, str] | None:
            found = connection.execute("SELECT id, problem FROM batch WHERE status = 'held' ORDER BY id LIMIT 1")
            return found.fetchone()

        batch, problem = _wait("the batch of these keys is held", held)
        say(f"batch {batch} is held: {problem}")
        with stack.airflow("op") as airflow:
            question = _wait("Airflow asks about it", lambda: _question(airflow, batch))
            say(f"Airflow asks: {question['subject']}")
            time.sleep(READING_S)
            _reject(airflow, batch)

        def settled() -> str | None:
            (status,) = connection.execute("SELECT status FROM batch WHERE id = %s", [batch]).fetchone() or ("",)
            return None if status == "held" else status

        status = _wait("the answer is carried out", settled)
    say(f"batch {batch} is {status}: {REASON}")
    return Mistake(batch, problem, status, frozenset(keys))


def released(stack: Stack, keys: frozenset[bytes]) -> int:
    """Give how many of these keys phones could download just now."""
    found = 0
    with httpx.Client(timeout=30.0, trust_env=False) as http:
        for region in REGIONS:
            for line in client.fetch_index(f"{stack.urls.cdn}/{region.name}/index.txt", http=http):
                content = exportreader.read(client.fetch_file(f"{stack.urls.cdn}/", line, http=http))
                found += len(keys & {key.key for key in (*content.keys, *content.revised_keys)})
    return found


def audit(stack: Stack, development: Development) -> tuple[bool, list[str]]:
    """Run `keyserver audit verify` as an auditor would; give whether it passed, and its lines."""
    done = stack.keyserver("audit", "verify", "--public-key", str(development.log_key))
    return done.returncode == 0, (done.stdout + done.stderr).splitlines()


def _question(airflow: httpx.Client, batch: int) -> dict[str, Any] | None:
    path = f"dags/review_held_batch/dagRuns/batch-{batch}"
    found = airflow.get(f"{path}/hitlDetails", params={"response_received": "false"})
    if found.status_code == httpx.codes.NOT_FOUND:
        return None
    details: list[dict[str, Any]] = found.raise_for_status().json()["hitl_details"]
    if not details:
        return None
    state = airflow.get(f"{path}/taskInstances/ask").raise_for_status().json()["state"]
    return details[0] if state == "awaiting_input" else None


def _reject(airflow: httpx.Client, batch: int) -> None:
    given = {"reason": REASON, "revisions": "keep"}
    path = f"dags/review_held_batch/dagRuns/batch-{batch}/taskInstances/ask/-1/hitlDetails"
    airflow.patch(path, json={"chosen_options": ["Reject"], "params_input": given}).raise_for_status()


def _wait(what: str, condition: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + MOST_WAIT_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise StackError(f"not within {MOST_WAIT_S:.0f} s: {what}; see the runs of export_keys in Airflow")
        time.sleep(0.5)
    return found
