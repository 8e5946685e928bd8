"""Held batches as operators meet them: asked about once in Airflow, decided there or by a command, seen on a page."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from deploy.local.stack import PROJECT
from keyserver.device import client
from tests.export.operators import TOO_EARLY
from tests.stack.conftest import World, keyserver

pytestmark = pytest.mark.slow

FEEDS = ("to-approve", "to-reject", "to-reject-by-command")
REGION = "XR"  # nobody uploads keys of it


@pytest.fixture(scope="module")
def held(world: World) -> dict[str, int]:
    """Three feeds with a batch each that holds a key which has not ended; by feed the batch."""
    path = world.phone.parent / "configuration.yaml"
    document = yaml.safe_load(path.read_text())
    (like,) = [feed for feed in document["feeds"] if feed["name"] == "undisturbed"]
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    own = {"output_region": REGION, "input_regions": [REGION], "from": f"{minute:%Y-%m-%dT%H:%M:%SZ}"}
    document["feeds"] += [{**like, **own, "name": name, "root": name} for name in FEEDS]
    path.write_text(json.dumps(document))  # which is YAML, without aliases
    keyserver(world.stack, "configuration", "apply", str(path))
    admin = world.stack.environment("KEYSERVER_ADMIN_DATABASE_URL")["KEYSERVER_ADMIN_DATABASE_URL"]
    with psycopg.connect(admin, dbname="keyserver") as connection:
        connection.execute(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, report_type,"
            " traveler, regions, created_at)"
            " SELECT decode(md5(number::text), 'hex'), extract(epoch FROM current_date)::integer / 600, 144, 1,"
            "        'confirmed', false, ARRAY[%s], window_start(keyserver_now(), 1)"
            "   FROM generate_series(1, 3) AS number",
            [REGION],
        )

    def all_held() -> dict[str, int] | None:
        rows = world.sql(
            "SELECT feed.name, batch.id FROM batch JOIN feed ON feed.id = feed_id"
            " WHERE status = 'held' AND feed.name = ANY (%(names)s)",
            names=list(FEEDS),
        )
        return dict(rows) if len(rows) == len(FEEDS) else None

    batches = world.await_true("the batches are held", all_held)
    for batch in batches.values():
        world.await_true("it is asked about", lambda batch=batch: task_state(world, batch, "ask") == "awaiting_input")
    # Airflow takes an answer within the second in which its worker lets go of the task for that worker's failure, and
    # asks again. Nobody reads that fast.
    time.sleep(3)
    return batches


def run_of(batch: int) -> str:
    return f"dags/review_held_batch/dagRuns/batch-{batch}"


def task_state(world: World, batch: int, task: str) -> str | None:
    found = world.airflow.get(f"{run_of(batch)}/taskInstances/{task}")
    return found.json()["state"] if found.is_success else None


def answer(airflow: httpx.Client, batch: int, option: str, **params: str) -> httpx.Response:
    return airflow.patch(
        f"{run_of(batch)}/taskInstances/ask/-1/hitlDetails", json={"chosen_options": [option], "params_input": params}
    )


def await_end(world: World, batch: int) -> None:
    def ended() -> bool:
        return world.airflow.get(run_of(batch)).raise_for_status().json()["state"] == "success"

    world.await_true("the run ends", ended)
    assert {task: task_state(world, batch, task) for task in ("describe", "ask", "decide")} == dict.fromkeys(
        ("describe", "ask", "decide"), "success"
    )


def status(world: World, batch: int) -> str:
    return world.sql("SELECT status FROM batch WHERE id = %(batch)s", batch=batch)[0][0]


def decision(world: World, kind: str, batch: int) -> dict[str, Any]:
    """The audit event of a decision."""
    with psycopg.connect(world.stack.database_url("auditor")) as connection:
        bodies = connection.execute("SELECT body FROM audit_event WHERE kind = %s", [kind]).fetchall()
    (event,) = [event for event in (json.loads(body) for (body,) in bodies) if event["subject"]["batch"] == batch]
    return event


def test_a_held_batch_is_asked_about_once_and_told(world, held):
    asked = world.airflow.get("dags/review_held_batch/dagRuns", params={"limit": 100}).json()["dag_runs"]
    runs = [run["dag_run_id"] for run in asked]
    for feed, batch in held.items():
        assert runs.count(f"batch-{batch}") == 1
        (request,) = world.airflow.get(f"{run_of(batch)}/hitlDetails").json()["hitl_details"]
        assert request["subject"] == f"Batch {batch} is held: release it?"
        assert TOO_EARLY in request["body"]
        assert f"Phones of region **{REGION}** that follow `{feed}`" in request["body"]
        assert request["options"] == ["Approve", "Reject"]
        assert request["params"].keys() == {"reason", "revisions"}


def test_the_first_page_shows_it_to_whoever_may_look_and_they_cannot_answer(world, held):
    page = f"{world.stack.urls.airflow}/keyserver/releases"
    assert httpx.get(page, trust_env=False).status_code == 401
    assert httpx.get(page, trust_env=False, headers={"Authorization": "Bearer x"}).status_code in (401, 403)
    assert world.airflow.get("plugins/importErrors").json()["total_entries"] == 0
    batch = held["to-approve"]
    with world.stack.airflow("auditor") as auditor:
        shown = auditor.get(page)
        assert shown.status_code == 200
        assert f'href="/dags/review_held_batch/runs/batch-{batch}/tasks/ask/required_actions"' in shown.text
        assert TOO_EARLY in auditor.get(f"{world.stack.urls.airflow}/keyserver/batches/{batch}").text
        assert TOO_EARLY in auditor.get(f"{world.stack.urls.airflow}/keyserver/quality").text
        assert auditor.get(f"{run_of(batch)}/taskInstances/describe/logs/1").status_code == 200
        assert answer(auditor, batch, "Approve", reason="mine", revisions="keep").status_code == 403
    assert status(world, batch) == "held"


def test_an_approved_batch_is_replaced_and_released(world, held):
    batch = held["to-approve"]
    with world.stack.airflow("op") as op:
        answer(op, batch, "Approve", reason="the phone's clock was wrong", revisions="keep").raise_for_status()
        assert answer(op, batch, "Reject", reason="no", revisions="keep").status_code == 409
    await_end(world, batch)
    event = decision(world, "batch.approved", batch)
    assert event["actor"].startswith("operator ")
    assert (event["dag"], event["run"], event["task"]) == ("review_held_batch", f"batch-{batch}", "decide")
    assert event["subject"]["reason"] == "the phone's clock was wrong"
    assert status(world, batch) == "replaced"

    def out() -> bool:
        rows = world.sql("SELECT file.name FROM file JOIN batch ON batch.id = batch_id WHERE replaces = %(b)s", b=batch)
        lines = client.fetch_index(f"{world.stack.urls.cdn}/to-approve/index.txt")
        return bool(rows) and {name for (name,) in rows} <= set(lines)

    world.await_true("the batch in its place is out", out)


def test_a_rejected_one_ends(world, held):
    batch = held["to-reject"]
    with world.stack.airflow("op") as op:
        answer(op, batch, "Reject", reason="nonsense", revisions="drop").raise_for_status()
    await_end(world, batch)
    assert status(world, batch) == "rejected"
    assert decision(world, "batch.rejected", batch)["subject"]["reason"] == "nonsense"


def test_the_command_answers_the_same_request(world, held):
    batch = held["to-reject-by-command"]
    command = ["-c", "from keyserver.cli import main; main()", "export", "reject", str(batch), "--reason", "nonsense"]
    done = subprocess.run(
        [sys.executable, *command],
        check=True,
        cwd=PROJECT,
        env=world.stack.cli_environment(),
        capture_output=True,
        text=True,
    )
    assert f"The request in Airflow is answered: run batch-{batch} of review_held_batch" in done.stdout
    await_end(world, batch)
    event = decision(world, "batch.rejected", batch)
    # The same person as in Airflow's UI, under the same pseudonym.
    assert event["actor"] == decision(world, "batch.rejected", held["to-reject"])["actor"]
