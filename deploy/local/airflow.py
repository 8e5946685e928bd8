"""Airflow's REST API as the stack, the demo and the tests use it: 0.1 s a call, where its command line takes 5 s."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime

import httpx

COMPONENTS = ("scheduler", "triggerer", "dag_processor")


class _Login(httpx.Auth):
    """Gets a token at the first call, and a new one when the old one is no longer taken."""

    requires_response_body = True

    def __init__(self, url: str, user: str, password: str) -> None:
        self._request = httpx.Request("POST", f"{url}/auth/token", json={"username": user, "password": password})
        self._token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is None:
            yield from self._log_in()
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            yield from self._log_in()
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _log_in(self) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield self._request
        response.raise_for_status()
        self._token = response.json()["access_token"]


def client(url: str, user: str, password: str) -> httpx.Client:
    """Return a client whose paths start at ``url``/api/v2/ and whose calls carry that user's token."""
    return httpx.Client(base_url=f"{url}/api/v2/", auth=_Login(url, user, password), timeout=10.0, trust_env=False)


def unhealthy(url: str, since: datetime) -> list[str]:
    """Return what is not healthy, a phrase each, by heartbeats after ``since``: earlier ones were an earlier run's."""
    try:
        health = httpx.get(f"{url}/api/v2/monitor/health", timeout=10.0, trust_env=False).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return [f"Airflow's API does not answer ({type(error).__name__})"]
    problems = []
    if health["metadatabase"]["status"] != "healthy":
        problems.append("Airflow's metadata database is not healthy")
    for component in COMPONENTS:
        beat = health[component][f"latest_{component}_heartbeat"]
        if health[component]["status"] != "healthy" or not beat or datetime.fromisoformat(beat) < since:
            problems.append(f"Airflow's {component} is not healthy")
    return problems


def parse_errors(airflow: httpx.Client, since: datetime) -> list[str]:
    """Return the errors that importing the DAG files gave since then, each with its file."""
    errors = airflow.get("importErrors").raise_for_status().json()["import_errors"]
    return [
        f"{error['filename']}:\n{error['stack_trace']}"
        for error in errors
        if datetime.fromisoformat(error["timestamp"]) >= since
    ]


def unparsed(airflow: httpx.Client, wanted: str, since: datetime) -> list[str]:
    """Return what is missing until every DAG was parsed since then, ``wanted`` among them, a phrase each."""
    dags = airflow.get("dags", params={"limit": 100}).raise_for_status().json()["dags"]
    problems = [
        f"DAG {dag['dag_id']} is not parsed yet"
        for dag in dags
        if not dag["last_parsed_time"] or datetime.fromisoformat(dag["last_parsed_time"]) < since
    ]
    if wanted not in {dag["dag_id"] for dag in dags}:
        problems.append(f"DAG {wanted} is not parsed yet")
    return problems
