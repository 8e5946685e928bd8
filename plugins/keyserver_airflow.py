"""What Airflow loads of ours: the hook from its Connections to our runtime, the note on a run, the operators' pages.

Connections (from whichever secrets backend the operator has): ``keyserver_pipeline``, ``keyserver_rewriter``,
``keyserver_retention`` and, for the pages of the API server, ``keyserver_auditor`` are PostgreSQL ones;
``keyserver_blobs``, ``keyserver_signer`` and ``keyserver_keywrap`` hold a URL in their extra field,
{"url": "file:///folder"}. Where phones find the store's files is no secret: KEYSERVER_PUBLIC_URL in the environment.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlencode

from airflow.configuration import conf
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
def task_runtime(  # noqa: PLR0913 - one a part
    context: dict[str, Any],
    *,
    actor: str = "airflow",
    database: str = "keyserver_pipeline",
    blobs: bool = False,
    signer: bool = False,
    keywrap: bool = False,
) -> Iterator[Runtime]:
    """Build the runtime of one task from Connections, and no more of it than the task asks for.

    ``actor`` is who decided what the task commits: audit events name them. Work that was done or taken over by somebody
    else (`Superseded`) ends the task as skipped (rule B3).
    """
    from keyserver.audit import Actor  # noqa: PLC0415 - a DAG file is read by every task
    from keyserver.errors import Superseded  # noqa: PLC0415
    from keyserver.runtime import open_runtime  # noqa: PLC0415

    task_instance = context["ti"]
    by = Actor(
        name=actor,
        dag=task_instance.dag_id,
        run=task_instance.run_id,
        task=task_instance.task_id,
        map_index=task_instance.map_index,
        attempt=task_instance.try_number,
    )
    runtime = open_runtime(
        by,
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


def pseudonym(user: dict[str, str]) -> str:
    """Name whoever answered a request in Airflow as the audit trail does: always alike, and not by a name (rule A2).

    ``user``: as Airflow keeps it with the answer. Without Airflow's Fernet key nobody finds out by trying all logins;
    who it was stands with the task in Airflow.
    """
    mac = hmac.new(conf.get("core", "fernet_key").encode(), f"keyserver operator {user['id']}".encode(), hashlib.sha256)
    return f"operator {mac.hexdigest()[:12]}"


def unasked(context: dict[str, Any], batches: list[int]) -> list[int]:
    """Give those of these batches that no run of `review_held_batch` asks about."""
    if not batches:
        return []
    from keyserver.providers.reviews import DAG, run_of  # noqa: PLC0415 - a DAG file is read by every task

    count = context["ti"].get_dr_count
    return [batch for batch in batches if not count(dag_id=DAG, run_ids=[run_of(batch)])]


def start_review(batch: int) -> NoReturn:
    """End a task by starting the run that asks about a held batch; skipped if there is one.

    So does TriggerDagRunOperator, whose import would cost each task of its DAG more than a second.
    """
    from airflow.sdk.exceptions import DagRunTriggerException  # noqa: PLC0415

    from keyserver.providers.reviews import DAG, run_of  # noqa: PLC0415

    raise DagRunTriggerException(
        trigger_dag_id=DAG,
        dag_run_id=run_of(batch),
        conf={"batch": batch},
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=[],
        failed_states=[],
        poke_interval=0,
        deferrable=False,
    )


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


class Pages:
    """The operators' pages as an ASGI application, made when the first of them is asked for.

    Every process of Airflow loads this plugin, tasks included; only the API server shows pages.
    """

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on."""
        if self._app is None:
            from airflow.api_fastapi.auth.managers.models.resource_details import AccessView  # noqa: PLC0415
            from airflow.api_fastapi.core_api.security import requires_access_view  # noqa: PLC0415

            from keyserver_pages import create_app  # noqa: PLC0415

            self._app = create_app(_pages_runtime, requires_access_view(AccessView.WEBSITE))
        await self._app(scope, receive, send)


def _pages_runtime() -> Runtime:
    """Open a runtime that reads as the auditor and changes nothing."""
    from airflow.exceptions import AirflowNotFoundException  # noqa: PLC0415

    from keyserver.audit import Actor  # noqa: PLC0415
    from keyserver.errors import ConfigurationError  # noqa: PLC0415
    from keyserver.runtime import open_runtime  # noqa: PLC0415

    try:
        url = _database_url(_connection("keyserver_auditor"))
    except AirflowNotFoundException:
        raise ConfigurationError("the API server has no Connection keyserver_auditor") from None
    return open_runtime(Actor("operators' pages"), url)


class KeyserverPlugin(AirflowPlugin):
    """The plugin's entry."""

    name = "keyserver"
    # Class attributes are Airflow's own way to declare them.
    listeners = [RunNotes()]  # noqa: RUF012
    fastapi_apps = [{"app": Pages(), "url_prefix": "/keyserver", "name": "keyserver"}]  # noqa: RUF012
    # Within Airflow's UI the pages stand in a frame that lets no link lead out of it, so they open beside it as well.
    external_views = [  # noqa: RUF012
        {
            "name": "Key server",
            "href": "/keyserver/releases",
            "destination": "nav",
            "url_route": "keyserver",
            "icon": "/keyserver/icon.svg",
            "nav_top_level": True,
        },
        {
            "name": "Key server pages",
            "href": "/keyserver/releases",
            "destination": "nav",
            "category": "browse",
        },
    ]
