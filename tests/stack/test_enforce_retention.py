"""Retention as Airflow runs it: green, by its own role, and with its proof in the audit trail."""

from __future__ import annotations

import pytest

from tests.stack.conftest import World

pytestmark = pytest.mark.slow


def test_it_runs_green_and_leaves_its_proof(world: World) -> None:
    started = world.airflow.post("dags/enforce_retention/dagRuns", json={"logical_date": None}).raise_for_status()
    run = started.json()["dag_run_id"]

    def ended() -> str | None:
        state = world.airflow.get(f"dags/enforce_retention/dagRuns/{run}").raise_for_status().json()["state"]
        return state if state in {"success", "failed"} else None

    assert world.await_true("the run ends", ended, seconds=600) == "success"
    found = world.sql(
        "SELECT body ->> 'dag', body ->> 'task' FROM (SELECT convert_from(body, 'UTF8')::jsonb AS body"
        " FROM audit_event WHERE kind = 'retention.proved') AS event WHERE body ->> 'run' = %(run)s",
        run=run,
    )
    assert found == [("enforce_retention", "prove")]
