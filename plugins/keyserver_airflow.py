"""What Airflow loads of ours: the hook from its Connections to our runtime, and the note on a run.

Connections (from whichever secrets backend the operator has): ``keyserver_pipeline`` and ``keyserver_rewriter`` are
PostgreSQL ones; ``keyserver_blobs``, ``keyserver_signer`` and ``keyserver_keywrap`` hold a URL in their extra field,
{"url": "file:///folder"}. Where phones find the store's files is no secret: KEYSERVER_PUBLIC_URL in the environment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowSkipException

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import Connection

    from keyserver.runtime import Runtime

logger = logging.getLogger(__name__)

_MOST_LISTED = 10

# What a retry can heal is tried again soon, and so is what was cut off; any other error ends the task at once.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule("keyserver.errors.RemoteError", RetryAction.RETRY, timedelta(seconds=5), "a retry can heal it"),
        RetryRule(
            ["airflow.sdk.exceptions.AirflowTaskTimeout", "builtins.MemoryError"],
            RetryAction.RETRY,
            timedelta(seconds=5),
            "it was cut off",
        ),
        RetryRule("builtins.Exception", RetryAction.FAIL, reason="no retry heals it"),
    ]
)

# One set of defaults for every DAG. A killed task is not an exception: it is retried after `retry_delay` (rule B12).
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "export team",
    "retries": 3,
    "retry_delay": timedelta(seconds=5),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(minutes=10),
}


@contextmanager
def task_runtime(
    context: dict[str, Any],
    *,
    database: str = "keyserver_pipeline",
    blobs: bool = False,
    signer: bool = False,
    keywrap: bool = False,
) -> Iterator[Runtime]:
    """Build the runtime of one task from Connections, and no more of it than the task asks for.

    Work that was done or taken over by somebody else (`Superseded`) ends the task as skipped (rule B3).
    """
    from keyserver.audit import Actor  # noqa: PLC0415 - a DAG file is read by every task
    from keyserver.errors import Superseded  # noqa: PLC0415
    from keyserver.runtime import open_runtime  # noqa: PLC0415

    task_instance = context["ti"]
    actor = Actor(
        name="airflow",
        dag=task_instance.dag_id,
        run=task_instance.run_id,
        task=task_instance.task_id,
        map_index=task_instance.map_index,
        attempt=task_instance.try_number,
    )
    runtime = open_runtime(
        actor,
        _database_url(_connection(database)),
        blobs_url=_url("keyserver_blobs") if blobs else None,
        signer_url=_url("keyserver_signer") if signer else None,
        keywrap_url=_url("keyserver_keywrap") if keywrap else None,
        public_url=os.environ.get("KEYSERVER_PUBLIC_URL") if blobs else None,
    )
    try:
        yield runtime
    except Superseded as superseded:
        raise AirflowSkipException(str(superseded)) from superseded
    finally:
        runtime.close()


def _connection(name: str) -> Connection:
    from airflow.sdk import Connection  # noqa: PLC0415

    return Connection.get(name)


def _url(name: str) -> str:
    url: str = _connection(name).extra_dejson["url"]
    return url


def _database_url(connection: Connection) -> str:
    """Write a PostgreSQL Connection as a libpq URL: a host that is a folder is a Unix socket."""
    user = quote(connection.login or "", safe="")
    if connection.password:
        user += f":{quote(connection.password, safe='')}"
    options = {**connection.extra_dejson}
    if connection.host:
        options["host"] = connection.host
    if connection.port:
        options["port"] = str(connection.port)
    database = quote(connection.schema or "", safe="")
    return f"postgresql://{user}@/{database}?{urlencode(options, quote_via=quote)}"


class RunNotes:
    """Writes into a finished run's note which windows it closed, so that an operator sees it in the list of runs."""

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun, msg: str) -> None:  # noqa: ARG002 - the hook's signature
        """Note a run that went well."""
        _write_note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun, msg: str) -> None:  # noqa: ARG002 - the hook's signature
        """Note a run that did not."""
        _write_note(dag_run)


def _write_note(dag_run: DagRun) -> None:
    from airflow.models.xcom import XComModel  # noqa: PLC0415 - only the scheduler has the database behind it
    from sqlalchemy.orm import object_session  # noqa: PLC0415

    session = object_session(dag_run)
    if dag_run.dag_id != "export_keys" or dag_run.note or session is None:
        return
    closed = session.execute(
        XComModel.get_many(
            key="return_value", run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids="close_windows"
        ).with_only_columns(XComModel.value)
    ).first()
    windows = XComModel.deserialize_value(closed) if closed is not None else []
    if windows:
        dag_run.note = note_of(windows)


def note_of(windows: list[str]) -> str:
    """Say which windows a run closed. Airflow's column takes 1000 characters, and a longer note stops its scheduler."""
    listed = ", ".join(windows) if len(windows) <= _MOST_LISTED else f"{windows[0]} to {windows[-1]}"
    return f"Closed windows ({len(windows)}): {listed}"


class KeyserverPlugin(AirflowPlugin):
    """The plugin's entry."""

    name = "keyserver"
    listeners = [RunNotes()]  # noqa: RUF012 - Airflow's own way to declare them
