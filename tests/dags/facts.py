"""Prints, as JSON, what Airflow makes of our DAG files and of the plugin; run in a process of its own."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowSkipException

PROJECT = Path(__file__).parents[2]
HEAVY = ("pandas", "great_expectations", "sqlalchemy.orm", "psycopg", "keyserver.store")


def unanswered(ask: Any) -> str:
    """How the task that asks ends when nobody answers."""
    try:
        ask.execute_complete({}, {"error": "the time is over", "error_type": "timeout"})
    except AirflowSkipException as skipped:
        return f"skipped: {skipped}"
    return "not skipped"


def main() -> None:
    before = set(sys.modules)
    bag = DagBag(str(PROJECT / "dags"))
    loaded = sorted(name for name in HEAVY if name in set(sys.modules) - before)

    plugin = importlib.import_module("keyserver_airflow")
    windows = [f"2026-03-02 10:{minute:02}" for minute in range(60)] * 20

    urls = {
        "socket": Connection(
            conn_id="a", conn_type="postgres", host="/run/my pg", login="pipeline", schema="key server"
        ),
        "network": Connection(
            conn_id="b",
            conn_type="postgres",
            host="db.example",
            login="pipe line",
            password="p@ss/word?",
            port=5433,
            schema="keyserver",
            extra=json.dumps({"sslmode": "verify-full"}),
        ),
    }
    facts = {
        "errors": bag.import_errors,
        "notes": [plugin.note_of(windows[:number]) for number in (1, 3, 1200)],
        "pseudonyms": [plugin.pseudonym({"id": name, "name": name}) for name in ("ann", "ann", "bea")],
        "unanswered": unanswered(bag.dags["review_held_batch"].get_task("ask")),
        "loaded": loaded,
        "urls": {name: plugin._database_url(connection) for name, connection in urls.items()},
        "dags": {
            dag.dag_id: {
                "file": Path(dag.fileloc).name,
                "doc": dag.doc_md,
                "tags": sorted(dag.tags),
                "owner": dag.owner,
                "catchup": dag.catchup,
                "max_active_runs": dag.max_active_runs,
                "paused": dag.is_paused_upon_creation,
                "tasks": {
                    task.task_id: {
                        "owner": task.owner,
                        "retries": task.retries,
                        "retry_delay_s": task.retry_delay.total_seconds(),
                        "timeout_s": task.execution_timeout and task.execution_timeout.total_seconds(),
                        "policy": [[str(rule.exception), rule.action.value] for rule in task.retry_policy.rules]
                        if task.retry_policy
                        else None,
                        "trigger_rule": task.trigger_rule.value,
                        "upstream": sorted(task.upstream_task_ids),
                        "is_teardown": task.is_teardown,
                        "doc": task.doc_md,
                    }
                    for task in dag.tasks
                },
            }
            for dag in bag.dags.values()
        },
    }
    sys.stdout.write("FACTS" + json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
