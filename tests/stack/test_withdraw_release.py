"""A withdrawal as an operator runs it: asked for in Airflow, approved there, done, and its keys released again."""

from __future__ import annotations

import time
from typing import Any

import pytest

from keyserver.device import client, exportreader
from keyserver.errors import RemoteError
from tests.stack.conftest import World

pytestmark = pytest.mark.slow

FEED = "undisturbed"


@pytest.fixture(scope="module")
def released(world: World) -> int:
    """A batch of the feed that phones can download; its keys were uploaded here."""
    world.upload(3)
    return world.await_true("a batch is out", lambda: confirmed(world))


def confirmed(world: World) -> int | None:
    rows = world.sql(
        "SELECT max(batch_id) FROM file JOIN feed ON feed.id = feed_id"
        " WHERE feed.name = %(feed)s AND file.status = 'released' AND confirmed_at IS NOT NULL",
        feed=FEED,
    )
    return rows[0][0]


def ask(world: World, batch: int) -> dict[str, Any]:
    """Start the DAG; give the request for approval that it makes."""
    conf = {"batch": batch, "reason": "a test", "then": "release again"}
    started = world.airflow.post("dags/withdraw_release/dagRuns", json={"logical_date": None, "conf": conf})
    run = started.raise_for_status().json()["dag_run_id"]

    def asked() -> dict[str, Any] | None:
        found = world.airflow.get(
            f"dags/withdraw_release/dagRuns/{run}/hitlDetails", params={"response_received": "false"}
        )
        details = found.raise_for_status().json()["hitl_details"]
        waits = details and task_state(world, run, "approve") == "awaiting_input"
        return {**details[0], "run": run} if waits else None

    found = world.await_true("it asks", asked)
    # Airflow takes an answer within the second in which its worker lets go of the task for that worker's failure, and
    # asks again. Nobody reads that fast.
    time.sleep(3)
    return found


def answer(world: World, asked: dict[str, Any], option: str) -> None:
    path = f"dags/withdraw_release/dagRuns/{asked['run']}/taskInstances/approve/-1/hitlDetails"
    world.airflow.patch(path, json={"chosen_options": [option], "params_input": {}}).raise_for_status()


def state(world: World, run: str) -> str:
    return world.airflow.get(f"dags/withdraw_release/dagRuns/{run}").raise_for_status().json()["state"]


def task_state(world: World, run: str, task: str) -> str:
    path = f"dags/withdraw_release/dagRuns/{run}/taskInstances/{task}"
    return world.airflow.get(path).raise_for_status().json()["state"]


def files(world: World, batch: int) -> dict[str, str]:
    return dict(world.sql("SELECT name, status FROM file WHERE batch_id = %(batch)s", batch=batch))


def index(world: World) -> list[str]:
    return client.fetch_index(f"{world.stack.urls.cdn}/{FEED}/index.txt")


def keys(world: World, names: list[str]) -> set[bytes]:
    read = [exportreader.read(client.fetch_file(f"{world.stack.urls.cdn}/", name)) for name in names]
    return {key.key for file in read for key in file.keys}


def test_a_rejected_request_does_nothing(world, released):
    asked = ask(world, released)
    answer(world, asked, "Reject")
    world.await_true("the run ends", lambda: state(world, asked["run"]) == "success")
    assert set(files(world, released).values()) == {"released"}
    assert set(files(world, released)) <= set(index(world))


def test_an_approved_one_takes_the_files_off_and_releases_the_keys_again(world, released):
    names = list(files(world, released))
    before = keys(world, names)
    asked = ask(world, released)
    assert "Confirmed matches on phones cannot be recalled" in asked["body"]
    assert all(name in asked["body"] for name in names)
    answer(world, asked, "Approve")
    world.await_true("the run ends", lambda: state(world, asked["run"]) == "success")
    assert set(files(world, released).values()) == {"withdrawn"}
    for name in names:
        with pytest.raises(RemoteError, match="status 404"):
            client.fetch_file(f"{world.stack.urls.cdn}/", name)

    ((replacing,),) = world.sql("SELECT id FROM batch WHERE replaces = %(batch)s", batch=released)
    world.await_true("it is released again", lambda: set(files(world, replacing).values()) == {"released"})
    again = list(files(world, replacing))
    world.await_true("the index says so", lambda: set(again) <= set(index(world)))
    assert not set(names) & set(index(world))
    assert keys(world, again) == before
