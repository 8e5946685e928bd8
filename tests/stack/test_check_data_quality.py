"""The checks as the real scheduler runs them, beside the export."""

from __future__ import annotations

import pytest

from tests.stack.conftest import World
from tests.stack.test_withdraw_release import confirmed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(world: World) -> str:
    """A run that has ended, with files in public."""
    world.upload(2)
    world.await_true("a batch is out", lambda: confirmed(world))
    started = world.airflow.post("dags/check_data_quality/dagRuns", json={"logical_date": None})
    run = started.raise_for_status().json()["dag_run_id"]
    world.await_true("it has ended", lambda: state(world, f"dagRuns/{run}") in {"success", "failed"})
    return run


def state(world: World, path: str) -> str:
    return world.airflow.get(f"dags/check_data_quality/{path}").raise_for_status().json()["state"]


def test_what_is_stored_and_public_is_as_it_should_be(world, run):
    assert {task: state(world, f"dagRuns/{run}/taskInstances/{task}") for task in ("exposures", "public_files")} == {
        "exposures": "success",
        "public_files": "success",
    }


def test_each_task_has_left_its_results(world, run):
    results = world.sql(
        "SELECT suite, bool_and(met OR severity = 'warn') FROM quality_result WHERE run = %(run)s GROUP BY suite",
        run=run,
    )
    red = state(world, f"dagRuns/{run}/taskInstances/freshness") == "failed"
    assert dict(results) == {"stored exposures": True, "public files": True, "freshness": not red}
