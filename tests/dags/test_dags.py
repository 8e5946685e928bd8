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
KNOWN_TAGS = {
    "quality",
    "every 15 minutes",
    "export",
    "every minute",
    "keys",
    "every hour",
    "by hand",
    "asks",
    "retention",
}


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


def test_a_task_that_reads_its_dag_file_loads_no_part_of_airflow_s_own_server(tmp_path):
    """The import of its ORM costs more than a second, in each task where tasks run apart from the scheduler."""
    names = [path.stem for path in (PROJECT / "dags").glob("*.py")]
    script = f"import sys, airflow.sdk, {', '.join(names)}; print('airflow.models.dagrun' in sys.modules)"
    paths = os.pathsep.join(str(PROJECT / folder) for folder in ("include", "plugins", "dags"))
    environment = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("False\n")


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
    # Teardowns say nothing about a run: what comes after them does.
    assert tasks["all_well"]["upstream"] == ["confirm", "export_batch.index", "finish", "publish_log"]
    assert tasks["all_well"]["trigger_rule"] == "none_failed"


def test_a_withdrawal_is_described_approved_and_then_done_in_two_steps(facts):
    tasks = facts["dags"]["withdraw_release"]["tasks"]
    order = ["describe", "approve", "withdraw", "finish", "settle_keys"]
    assert [tasks[name]["upstream"] for name in order] == [[], *([name] for name in order[:-1])]
    assert all(task["trigger_rule"] == "all_success" for task in tasks.values())


def test_each_held_batch_is_asked_about_by_a_run_of_its_own(facts):
    """`finish` names those that nobody was asked about; where there is none, nothing is started."""
    started = facts["dags"]["export_keys"]["tasks"]["review_held"]
    assert started["upstream"] == ["finish"]
    dag = facts["dags"]["review_held_batch"]
    assert dag["paused"] is False
    order = ["describe", "ask", "decide"]
    assert [dag["tasks"][name]["upstream"] for name in order] == [[], ["describe"], ["ask"]]
    assert all(dag["tasks"][name]["trigger_rule"] == "all_success" for name in order)


def test_that_nobody_answers_about_a_held_batch_is_no_failure(facts):
    assert facts["unanswered"] == "skipped: nobody answered within 24 hours: export_keys rejects the batch"


def test_whoever_answers_has_one_pseudonym_that_is_no_name(facts):
    first, again, other = facts["pseudonyms"]
    assert first == again != other
    assert first.startswith("operator ")
    assert "ann" not in first


def test_a_deletion_is_described_approved_done_and_what_hangs_on_it_settled(facts):
    tasks = facts["dags"]["delete_on_demand"]["tasks"]
    upstream = {name: task["upstream"] for name, task in tasks.items()}
    assert upstream == {
        "describe": [],
        "approve": ["describe"],
        "delete": ["approve"],
        "held": ["delete"],
        "replace": ["held"],
        "to_withdraw": ["delete"],
        "withdrawal.withdraw": ["to_withdraw"],
        "withdrawal.finish": ["to_withdraw", "withdrawal.withdraw"],
        "withdrawal.settle_keys": ["to_withdraw", "withdrawal.finish"],
        "clear_staging": ["replace", "withdrawal.settle_keys"],
    }
    assert tasks["withdrawal.finish"]["retries"] == 60
    # Most often nothing is held and nothing withdrawn: what was mapped over nothing is skipped, and this is not.
    assert [name for name, task in tasks.items() if task["trigger_rule"] != "all_success"] == ["clear_staging"]


def test_only_the_role_of_retention_deletes():
    source = (PROJECT / "dags" / "delete_on_demand.py").read_text(encoding="utf-8")
    assert source.count('database="keyserver_retention"') == 1
    exported = source[source.index("def replace(") : source.index("def to_withdraw(")]
    assert "retention_runtime" not in exported


def test_only_the_signing_tasks_ask_for_the_signing_connection():
    """`sign` for files, and `publish_log` for the logs, whose key is another."""
    source = (PROJECT / "dags" / "export_keys.py").read_text(encoding="utf-8")
    assert source.count("signer=True") == 2
    assert "signer=True" in source[source.index("def sign(") : source.index("def verify(")]
    assert "signer=True" in source[source.index("def publish_log(") : source.index("due, finished = ")]


def test_keys_are_rotated_by_tasks_of_which_none_waits_for_another(facts):
    dag = facts["dags"]["rotate_keys"]
    assert (dag["max_active_runs"], dag["paused"]) == (1, False)
    assert {name: task["upstream"] for name, task in dag["tasks"].items()} == {
        "rotate_revision_keys": [],
        "import_jwks": [],
    }


def test_retention_writes_indexes_before_it_deletes_objects_and_proves_it_last(facts):
    dag = facts["dags"]["enforce_retention"]
    assert (dag["max_active_runs"], dag["paused"]) == (1, False)
    assert {name: task["upstream"] for name, task in dag["tasks"].items()} == {
        "delete_keys": [],
        "delete_records": [],
        "expire_lines": [],
        "write_indexes": ["expire_lines"],
        "delete_objects": ["write_indexes"],
        "prove": ["delete_keys", "delete_objects", "delete_records"],
    }
    assert all(task["trigger_rule"] == "all_success" for task in dag["tasks"].values())


def test_quality_is_checked_by_tasks_of_which_none_waits_for_another(facts):
    dag = facts["dags"]["check_data_quality"]
    assert (dag["max_active_runs"], dag["paused"]) == (1, False)
    assert {name: task["upstream"] for name, task in dag["tasks"].items()} == {
        "exposures": [],
        "public_files": [],
        "freshness": [],
    }


def test_of_the_checks_only_that_of_public_files_asks_for_the_store():
    source = (PROJECT / "dags" / "check_data_quality.py").read_text(encoding="utf-8")
    assert source.count("blobs=True") == 1
    assert "blobs=True" in source[source.index("def public_files(") : source.index("def freshness(")]


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
