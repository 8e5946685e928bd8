"""Whole runs under Airflow's real scheduler: undisturbed, with each step's task killed, with the scheduler killed.

One story, told once: two uploads in two windows go to nine feeds that take the same keys. In the first window six
feeds have one step's task killed, one has its staged file changed, one has lost its signing key. While the second
window's batches are made, the scheduler and all that it runs are killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import psycopg
import pytest

from deploy.local import processes
from keyserver.device import client, exportreader
from keyserver.device.settings import PhoneSettings
from keyserver.errors import RemoteError
from keyserver.protocol.exportfile import staged_path
from tests.stack.conftest import FEEDS, STEPS, World

pytestmark = pytest.mark.slow

# The status at which a batch stands when its step is about to work.
BEFORE = dict(zip(STEPS, ["planned", "built", "checked", "signed", "verified", "released"], strict=True))
# The event with which each step's work is done.
LAST_EVENTS = dict(
    zip(
        STEPS,
        ["batch.built", "batch.checked", "file.signed", "batch.verified", "file.released", "index.written"],
        strict=True,
    )
)
HEALTHY = [feed for feed in FEEDS if feed not in ("tampered", "keyless")]


@dataclass
class Story:
    """What was uploaded in each window, and whose task was killed."""

    keys: list[set[bytes]] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(world: World) -> Story:
    """Tell the story; return when the healthy feeds have released both windows."""
    told = Story()
    if datetime.now(UTC).second > 40:
        await_next_minute()
    told.keys.append(world.upload(5))
    disturbing = [threading.Thread(target=kill_task, args=[world, step, told.killed]) for step in STEPS]
    disturbing.append(threading.Thread(target=tamper, args=[world]))
    for thread in disturbing:
        thread.start()
    await_next_minute()
    told.keys.append(world.upload(5))
    for thread in disturbing:
        thread.join(240)
        assert not thread.is_alive()
    await_released(world, batches=1)
    kill_scheduler(world)
    await_released(world, batches=2)
    return told


def await_next_minute() -> None:
    time.sleep(61 - time.time() % 60)


def await_released(world: World, batches: int) -> None:
    """Wait until each healthy feed has released so many batches, and its index lists their files."""

    def released() -> bool:
        count = Counter(name for name, _, status in world.batches() if status == "released")
        return all(count[feed] >= batches for feed in HEALTHY)

    def listed() -> bool:
        stored = world.sql(
            "SELECT feed.name, count(*) FROM file JOIN feed ON feed.id = feed_id WHERE status = 'released' GROUP BY 1"
        )
        return all(len(index(world, feed)) == count for feed, count in stored)

    world.await_true("all healthy feeds have released", released)
    world.await_true("all indexes list their files", listed)


@contextlib.contextmanager
def locked_before(world: World, feed: str, status: str) -> Iterator[tuple[int, psycopg.Connection]]:
    """Stop a feed's first batch with keys as soon as it stands at a status: whoever works on it waits for its row."""
    with psycopg.connect(world.stack.database_url("pipeline")) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.commit()

        def locked() -> int | None:
            # Looked at before it is locked: a locked batch would not be claimed.
            wanted = (
                "SELECT batch.id FROM batch JOIN feed ON feed.id = feed_id"
                " WHERE name = %s AND status = %s AND claimed_by IS NOT NULL ORDER BY batch.id LIMIT 1"
            )
            if connection.execute(wanted, [feed, status]).fetchone() is not None:
                row = connection.execute(wanted + " FOR UPDATE OF batch", [feed, status]).fetchone()
                if row is not None:
                    return row[0]
            connection.rollback()
            return None

        batch_id = world.await_true(f"the batch of {feed} is {status}", locked)
        yield batch_id, connection
        connection.rollback()


def kill_task(world: World, step: str, killed: dict[str, int]) -> None:
    """SIGKILL the process of one step's task while it is at work: the one that waits for our lock on its batch."""
    while step not in killed:
        with locked_before(world, step, BEFORE[step]) as (_, connection):
            ours = connection.info.backend_pid

            def waiting() -> int | None:
                names = world.sql(
                    "SELECT application_name FROM pg_stat_activity WHERE %(ours)s = ANY(pg_blocking_pids(pid))",
                    ours=ours,  # noqa: B023 - called within this turn of the loop
                )
                return int(names[0][0].removeprefix("keyserver pid ")) if names else None

            pid = world.await_true(f"the task {step} works", waiting)
            # Others look at a batch too, `claim_due` whether it is empty: these are let through.
            if world.running_tasks().get(pid) == f"export_batch.{step}":
                os.kill(pid, signal.SIGKILL)
                killed[step] = pid
        time.sleep(0.1)


def tamper(world: World) -> None:
    """Change the staged file of one feed after it was built and before it is checked."""
    with locked_before(world, "tampered", "built") as (batch_id, _):
        for (digest,) in world.sql("SELECT export_sha256 FROM file WHERE batch_id = %(batch)s", batch=batch_id):
            staged = world.stack.blobs / staged_path(digest, "bin")
            staged.write_bytes(staged.read_bytes()[:-1] + b"\x00")


def kill_scheduler(world: World) -> None:
    """SIGKILL the scheduler and all that it runs while the second window's batches are made."""

    def at_work() -> bool:
        return any(status in ("built", "checked", "signed", "verified") for _, _, status in world.batches())

    world.await_true("second batches are being made", at_work)
    keepers = [p for p in processes.marked(world.stack.home) if "tests.stack.restarted" in p.cmdline()]
    (scheduler,) = keepers[0].children()
    for process in [scheduler, *scheduler.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def index(world: World, feed: str) -> list[str]:
    with contextlib.suppress(RemoteError):  # not there before the first run has ended
        return client.fetch_index(f"{world.stack.urls.cdn}/{feed}/index.txt")
    return []


def files(world: World, feed: str) -> list[bytes]:
    return [client.fetch_file(f"{world.stack.urls.cdn}/", line) for line in index(world, feed)]


def events(world: World, kind: str, feed: str) -> list[dict]:
    with psycopg.connect(world.stack.database_url("auditor")) as connection:
        bodies = connection.execute("SELECT body FROM audit_event WHERE kind = %s ORDER BY seq", [kind]).fetchall()
    found = [json.loads(body) for (body,) in bodies]
    return [event for event in found if event["subject"].get("feed") == feed]


def test_both_uploads_reach_phones_whole(world, story):
    trusted = PhoneSettings.load(world.phone).trusted()
    read = [exportreader.verify(data, trusted) for data in files(world, "undisturbed")]
    released = [key.key for file in read for key in file.keys]
    assert sorted(released) == sorted(story.keys[0] | story.keys[1])
    assert len(read) > 2


@pytest.mark.parametrize("step", STEPS)
def test_neither_a_killed_task_nor_a_killed_scheduler_changes_a_byte(world, story, step):
    assert step in story.killed
    assert files(world, step) == files(world, "undisturbed")


def test_killed_tasks_were_tried_again_by_the_scheduler(world, story):
    for step, kind in LAST_EVENTS.items():
        assert max(event["try"] for event in events(world, kind, step)) > 1, step


def test_a_batch_that_its_check_refuses_is_held_and_later_ones_go_on(world, story):
    world.await_true("the later batch is released", lambda: statuses(world, "tampered") == ["held", "released"])
    assert [event["subject"]["expectation"] for event in events(world, "batch.held", "tampered")] == [
        "staged bytes are those that were built"
    ]
    read = [exportreader.read(data) for data in files(world, "tampered")]
    assert {key.key for file in read for key in file.keys} == story.keys[1]


def test_a_batch_whose_step_fails_in_three_runs_is_held_and_nothing_of_it_is_released(world, story):
    world.await_true("the first batch is held", lambda: statuses(world, "keyless")[0] == "held", seconds=300)
    failures = events(world, "batch.step_failed", "keyless")
    assert [event["counts"]["failed_runs"] for event in failures][:3] == [1, 2, 3]
    runs = [world.airflow.get(f"dags/export_keys/dagRuns/{event['run']}").json()["state"] for event in failures[:2]]
    assert runs == ["failed", "failed"]  # the third may not have ended
    assert files(world, "keyless") == []


def statuses(world: World, feed: str) -> list[str]:
    return [status for name, _, status in world.batches() if name == feed]


def test_operators_and_auditors_see_what_happened(world, story):
    """From an event to its task and back: names of mapped tasks, logs with ids, counts and hashes but never a key."""
    everything = ""
    for step, kind in LAST_EVENTS.items():
        # The index may have been written by a run's last task as well.
        event = next(e for e in events(world, kind, "undisturbed") if e["task"] == f"export_batch.{step}")
        (task,) = [
            task
            for task in world.task_instances(event["run"])
            if (task["task_id"], task["map_index"]) == (f"export_batch.{step}", event["map_index"])
        ]
        assert task["state"] == "success"
        assert task["rendered_map_index"].startswith("undisturbed ")
        log = log_of(world, task, event["try"])
        assert f"audit event {event['seq']}: {kind}" in log
        assert all(digest in log for digest in event["hashes"].values())
        assert step == "index" or f"batch {event['subject']['batch']} of feed undisturbed" in log
        everything += log
    for key in story.keys[0]:
        assert key.hex() not in everything
        assert base64.b64encode(key).decode() not in everything
    notes = [run["note"] for run in world.airflow.get("dags/export_keys/dagRuns").json()["dag_runs"] if run["note"]]
    assert any(note.startswith("Closed windows (1): 20") for note in notes)


def log_of(world: World, task: dict, attempt: int) -> str:
    answer = world.airflow.get(
        f"dags/export_keys/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/logs/{attempt}",
        params={"map_index": task["map_index"], "full_content": True},
    )
    return answer.raise_for_status().text
