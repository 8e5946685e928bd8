"""A deletion on demand as an operator runs it: asked for in Airflow, approved there, done, and files taken back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from keyserver.device import client, exportreader
from tests.stack.conftest import World

pytestmark = pytest.mark.slow

DAG = "delete_on_demand"
FEED = "undisturbed"  # others are held for good, or disturbed


def stored(world: World, keys: set[bytes]) -> int:
    return world.sql("SELECT count(*) FROM exposure WHERE exposure_key = ANY(%(keys)s)", keys=list(keys))[0][0]


def holders(world: World, starts_at: Any, ends_at: Any) -> dict[int, str]:
    """The feed's batches of the span that have files, and where these stand."""
    rows = world.sql(
        "SELECT batch_id, file.status FROM file JOIN batch ON batch.id = batch_id"
        " JOIN feed ON feed.id = batch.feed_id AND feed.name = %(feed)s"
        " WHERE batch.starts_at < %(ends_at)s AND batch.ends_at > %(starts_at)s AND batch.replaces IS NULL",
        starts_at=starts_at,
        ends_at=ends_at,
        feed=FEED,
    )
    return dict(rows)


def public_keys(world: World) -> set[bytes]:
    """All keys that phones find by the feed's index."""
    lines = client.fetch_index(f"{world.stack.urls.cdn}/{FEED}/index.txt")
    read = [exportreader.read(client.fetch_file(f"{world.stack.urls.cdn}/", name)) for name in lines]
    return {key.key for file in read for key in file.keys}


def test_what_an_app_uploaded_is_deleted_and_its_files_are_made_again_without(world):
    keys = world.upload(2)

    def out() -> tuple[Any, ...] | None:
        ((starts_at, ends_at, closed),) = world.sql(
            "SELECT min(created_at), max(created_at) + make_interval(mins => width_minutes),"
            " max(created_at) < min(closed_through)"
            " FROM exposure, release_clock WHERE exposure_key = ANY(%(keys)s) GROUP BY width_minutes",
            keys=list(keys),
        )
        files = holders(world, starts_at, ends_at) if closed else {}
        return (starts_at, ends_at) if files and set(files.values()) == {"released"} else None

    starts_at, ends_at = world.await_true("they are out", out)
    world.await_true("the index says so", lambda: keys <= public_keys(world))
    batches = holders(world, starts_at, ends_at)
    ((wanted,),) = world.sql(  # other tests' phones may have uploaded in the same minute
        "SELECT count(*) FROM exposure WHERE app_name = 'app' AND created_at >= %(from)s AND created_at < %(thru)s",
        **{"from": starts_at, "thru": ends_at},
    )

    conf = {
        "app": "app",
        "from": starts_at.isoformat(),
        "thru": ends_at.isoformat(),
        "reason": "a test",
        "withdraw": "withdraw them, then release what remains",
    }
    started = world.airflow.post(f"dags/{DAG}/dagRuns", json={"logical_date": None, "conf": conf})
    run = started.raise_for_status().json()["dag_run_id"]
    asked = world.await_true("it asks", lambda: request(world, run))
    assert wanted >= len(keys)
    assert f"{wanted} keys that app uploaded" in asked["body"]
    assert all(f"batch {batch} of feed" in asked["body"] for batch in batches)
    time.sleep(3)  # as in the test of a withdrawal: nobody reads faster
    path = f"dags/{DAG}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    world.airflow.patch(path, json={"chosen_options": ["Approve"], "params_input": {}}).raise_for_status()
    world.await_true("the run ends", lambda: state(world, f"dags/{DAG}/dagRuns/{run}") == "success")

    assert stored(world, keys) == 0
    assert set(holders(world, starts_at, ends_at).values()) == {"withdrawn"}
    world.await_true("no file has them", lambda: not keys & public_keys(world))
    assert len(world.sql("SELECT id FROM batch WHERE replaces = ANY(%(batches)s)", batches=list(batches))) == len(
        batches
    )
    kinds = {kind for (kind,) in world.sql("SELECT kind FROM audit_event")}
    assert "keys.deleted_on_demand" in kinds


def request(world: World, run: str) -> dict[str, Any] | None:
    found = world.airflow.get(f"dags/{DAG}/dagRuns/{run}/hitlDetails", params={"response_received": "false"})
    details = found.raise_for_status().json()["hitl_details"]
    waits = details and state(world, f"dags/{DAG}/dagRuns/{run}/taskInstances/approve") == "awaiting_input"
    return details[0] if waits else None


def state(world: World, path: str) -> str:
    return world.airflow.get(path).raise_for_status().json()["state"]
