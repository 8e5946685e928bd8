"""Airflow's REST API as `providers.reviews` calls it, on a socket of the test: what it answers, a case may spoil."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PASSWORD = "a password of the test"
RUN = "/api/v2/dags/review_held_batch/dagRuns/batch-1"
OPEN = f"{RUN}/hitlDetails?response_received=false"
TASK = f"{RUN}/taskInstances/ask/-1"
ANSWER = f"{TASK}/hitlDetails"


@dataclass
class AirflowApi:
    """``answers``: a status and a body by method and path; ``received``: the answers that were given."""

    url: str
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    received: list[Any] = field(default_factory=list)

    def ask(self) -> None:
        """Open the request about batch 1."""
        self.answers |= {
            "POST /auth/token": (201, {"access_token": "a-token"}),
            f"GET {OPEN}": (200, {"hitl_details": [{"subject": "Batch 1 is held"}]}),
            f"GET {TASK}": (200, {"state": "awaiting_input"}),
            f"PATCH {ANSWER}": (200, {}),
        }


@contextmanager
def serving() -> Iterator[AirflowApi]:
    """Serve until the end."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = json.loads(body) if body else None
            status, said = api.answers.get(f"{self.command} {self.path}", (404, {"detail": "not found"}))
            if self.path == "/auth/token":
                status = status if given == {"username": "op", "password": PASSWORD} else 401
            elif self.headers["Authorization"] != "Bearer a-token":
                status = 401
            if self.command == "PATCH":
                api.received.append(given)
            sent = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = AirflowApi(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
