"""The requests in Airflow that ask about held batches, answered through its REST API (rule B4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from keyserver.errors import ConfigurationError, ConflictError, RemoteError

DAG = "review_held_batch"
_TASK = "ask"
_TIMEOUT_S = 10.0


def run_of(batch_id: int) -> str:
    """Name the run that asks about a batch."""
    return f"batch-{batch_id}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operator answers; ``keep_revisions``: what a rejection does to those that the batch alone carries."""

    approved: bool
    reason: str
    keep_revisions: bool = True

    def body(self) -> dict[str, Any]:
        """Write it as the request's form does."""
        return {
            "chosen_options": ["Approve" if self.approved else "Reject"],
            "params_input": {"reason": self.reason, "revisions": "keep" if self.keep_revisions else "drop"},
        }


@dataclass(frozen=True, slots=True)
class Reviews:
    """Airflow's API server, and who answers there. ``url``: where it is, without ``/api/v2``."""

    url: str
    login: str
    password: str = field(repr=False)

    def answer(self, batch_id: int, answer: Answer) -> bool:
        """Answer the request about a batch; False when none is open.

        Raises:
            ConfigurationError: Airflow does not take the login, or this login may not answer.
            ConflictError: somebody else has answered just now.
            RemoteError: Airflow did not answer as it should.
        """
        run = f"{self.url.rstrip('/')}/api/v2/dags/{DAG}/dagRuns/{run_of(batch_id)}"
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as http:
            http.headers["Authorization"] = f"Bearer {self._token(http)}"
            asked = self._call(http, "GET", f"{run}/hitlDetails?response_received=false")
            if not asked.get("hitl_details"):
                return False
            path = f"{run}/taskInstances/{_TASK}/-1"
            if self._call(http, "GET", path).get("state") != "awaiting_input":
                return False
            self._call(http, "PATCH", f"{path}/hitlDetails", answer.body())
            return True

    def _token(self, http: httpx.Client) -> str:
        body = {"username": self.login, "password": self.password}
        token = self._call(http, "POST", f"{self.url.rstrip('/')}/auth/token", body).get("access_token")
        if not isinstance(token, str):
            raise RemoteError("Airflow gave no token")
        return token

    def _call(self, http: httpx.Client, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call Airflow; an empty answer where it knows no such run."""
        try:
            answered = http.request(method, url, json=body)
            status = answered.status_code
            found = answered.json() if answered.is_success else {}
        except httpx.InvalidURL:
            raise ConfigurationError("KEYSERVER_AIRFLOW_URL is not one that HTTP knows") from None
        except (httpx.HTTPError, ValueError) as error:
            raise RemoteError(f"Airflow did not answer as it should ({type(error).__name__})") from None
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise ConfigurationError(
                f"Airflow refuses the login {self.login} (status {status}): give one that may answer requests in"
                " KEYSERVER_AIRFLOW_LOGIN, or unset KEYSERVER_AIRFLOW_URL to decide without Airflow"
            )
        if status == HTTPStatus.CONFLICT:
            raise ConflictError("somebody else has answered the request in Airflow just now")
        if status != HTTPStatus.NOT_FOUND and not answered.is_success:
            raise RemoteError(f"Airflow did not answer as it should (status {status})")
        if not isinstance(found, dict):
            raise RemoteError("Airflow did not answer as it should (another JSON)")
        return found
