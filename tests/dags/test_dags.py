"""Every DAG: no import error, documented, owned, tagged, retried as our errors ask, cheap to read; and the wiring."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

PROJECT = Path(__file__).parents[2]
KNOWN_TAGS = {"export", "every minute", "keys", "every hour", "by hand"}


@pytest.fixture(scope="session")
def facts(tmp_path_factory) -> dict:
    """What Airflow makes of our files, without any database behind it."""
    home = tmp_path_factory.mktemp("airflow")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "facts.py")],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody@127.0.0.1:1/none",
            "PYTHONPATH": os.pathsep.join([str(PROJECT / "include"), str(PROJECT / "plugins")]),
        },
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FACTS")]
    return json.loads(line.removeprefix("FACTS"))


def test_every_file_is_a_dag_without_errors(facts):
    assert facts["errors"] == {}
    files = {path.name for path in (PROJECT / "dags").glob("*.py")}
    assert {dag["file"] for dag in facts["dags"].values()} == files


def test_reading_a_dag_file_loads_nothing_heavy(facts):
    """Each task reads its file anew."""
    assert facts["loaded"] == []


def test_every_dag_says_what_it_is_for_when_it_runs_and_what_to_do(facts):
    for dag in facts["dags"].values():
        for part in ("**Purpose.**", "**Schedule.**", "**What to do when it fails**"):
            assert part in dag["doc"]
        assert dag["tags"]
        assert set(dag["tags"]) <= KNOWN_TAGS
        assert not dag["catchup"]


def test_every_task_is_owned_bounded_and_retried_as_its_error_asks(facts):
    for dag in facts["dags"].values():
        for name, task in dag["tasks"].items():
            assert task["owner"] == "export team", name
            assert task["retries"] > 0, name
            assert 0 < task["retry_delay_s"] <= 10, name
            assert task["timeout_s"], name
            assert task["doc"], name
            assert task["policy"] == [
                ["keyserver.errors.RemoteError", "retry"],
                ["['airflow.sdk.exceptions.AirflowTaskTimeout', 'builtins.MemoryError']", "retry"],
                ["builtins.Exception", "fail"],
            ], name


def test_the_export_runs_its_steps_in_their_order(facts):
    dag = facts["dags"]["export_keys"]
    assert (dag["max_active_runs"], dag["paused"]) == (4, False)
    tasks = dag["tasks"]
    steps = ["build", "check", "sign", "verify", "release", "index"]
    for earlier, later in itertools.pairwise(steps):
        assert f"export_batch.{earlier}" in tasks[f"export_batch.{later}"]["upstream"]
    assert tasks["claim_due"]["upstream"] == ["close_windows"]
    assert tasks["claim_due"]["trigger_rule"] == "all_done"
    assert tasks["rewrite_windows"]["upstream"] == ["close_windows"]
    for last in ("confirm", "finish", "publish_log"):
        assert tasks[last]["is_teardown"]
        assert tasks[last]["upstream"] == ["export_batch.index"]


def test_a_withdrawal_is_described_approved_and_then_done_in_two_steps(facts):
    tasks = facts["dags"]["withdraw_release"]["tasks"]
    order = ["describe", "approve", "withdraw", "finish", "settle_keys"]
    assert [tasks[name]["upstream"] for name in order] == [[], *([name] for name in order[:-1])]
    assert all(task["trigger_rule"] == "all_success" for task in tasks.values())


def test_only_the_signing_tasks_ask_for_the_signing_connection():
    """`sign` for files, and `publish_log` for the logs, whose key is another."""
    source = (PROJECT / "dags" / "export_keys.py").read_text(encoding="utf-8")
    assert source.count("signer=True") == 2
    assert "signer=True" in source[source.index("def sign(") : source.index("def verify(")]
    assert "signer=True" in source[source.index("def publish_log(") : source.index("due = claim_due()")]


def test_keys_are_rotated_by_tasks_of_which_none_waits_for_another(facts):
    dag = facts["dags"]["rotate_keys"]
    assert (dag["max_active_runs"], dag["paused"]) == (1, False)
    assert {name: task["upstream"] for name, task in dag["tasks"].items()} == {
        "rotate_revision_keys": [],
        "import_jwks": [],
    }


def test_only_the_rotation_asks_for_the_master_key():
    for file in (PROJECT / "dags").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert source.count("keywrap=True") == (1 if file.name == "rotate_keys.py" else 0)
        if file.name == "rotate_keys.py":
            rotation = source[source.index("def rotate_revision_keys(") : source.index("def import_jwks(")]
            assert "keywrap=True" in rotation


def test_a_connection_becomes_a_libpq_url(facts):
    assert conninfo_to_dict(facts["urls"]["socket"]) == {
        "user": "pipeline",
        "dbname": "key server",
        "host": "/run/my pg",
    }
    assert conninfo_to_dict(facts["urls"]["network"]) == {
        "user": "pipe line",
        "password": "p@ss/word?",
        "host": "db.example",
        "port": "5433",
        "dbname": "keyserver",
        "sslmode": "verify-full",
    }


def test_the_note_of_a_run_fits_its_column_however_many_windows_were_closed(facts):
    """Airflow's scheduler ends when it cannot store a note: dag_run_note.content takes 1000 characters."""
    one, some, many = facts["notes"]
    assert one == "Closed windows (1): 2026-03-02 10:00"
    assert some == "Closed windows (3): 2026-03-02 10:00, 2026-03-02 10:01, 2026-03-02 10:02"
    assert many == "Closed windows (1200): 2026-03-02 10:00 to 2026-03-02 10:59"
    assert len(many) < 1000
