"""The API as it is run: gunicorn with its configuration, over HTTP."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from deploy.local import postgres as embedded
from keyserver.device import client
from keyserver.store import database as databases
from tests.conftest import ROLES, WIDTH_MINUTES, role_url
from tests.uploads import TOKEN_AAD, add_revision_key, authorise, keys, request

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, pattern: str) -> re.Match[str]:
        for _ in range(600):
            if found := re.search(pattern, self.log.read_text()):
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        pytest.fail(f"nothing like {pattern!r} in the log:\n{self.log.read_text()}")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture
def now(test_database) -> datetime:
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


@contextmanager
def serve(folder: Path, url: str, pipeline_url: str, **variables: str) -> Iterator[Served]:
    """Run the API on the database at ``url`` for the role of the API; ``folder`` takes its log and its master key."""
    authorise(pipeline_url)
    add_revision_key(pipeline_url, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    environment |= {
        "PYTHONPATH": str(ROOT / "include"),
        "KEYSERVER_API_DATABASE_URL": url,
        "KEYSERVER_API_BIND": "127.0.0.1:0",
        "KEYSERVER_API_WORKERS": "1",
        "KEYSERVER_KEYWRAP_URL": folder.as_uri(),
        "KEYSERVER_REVISION_TOKEN_AAD": base64.b64encode(TOKEN_AAD).decode(),
        **variables,
    }
    log = folder / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "api/gunicorn.conf.py"],
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    served = Served(process, log, 0)
    try:
        served.port = int(served.wait_for(r"Listening at: http://127.0.0.1:(\d+)")[1])
        served.wait_for("Booting worker")
        yield served
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture
def served(test_database, now, tmp_path) -> Iterator[Served]:
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET settable = false")  # readiness is that of a real database
    with serve(tmp_path, test_database.url("keyserver_api"), test_database.url("keyserver_pipeline")) as served:
        yield served


def count(test_database) -> int:
    with test_database.admin() as connection:
        return connection.execute("SELECT count(*) FROM exposure").fetchone()[0]


def test_health_an_upload_by_a_phone_and_what_the_log_says(served, test_database, now):
    assert httpx.get(f"{served.url}/health", timeout=30).json() == {"status": "ok"}
    sent = keys(now, 14)
    body = request(sent, now)
    answer = client.publish(served.url, body)
    assert (answer.status, answer.inserted) == (200, 14)
    assert count(test_database) == 14
    assert httpx.get(f"{served.url}/secret/path?token=secret").status_code == 404
    rest = r"bytes=\d+ seconds=\d\.\d{3} request=[0-9a-f]{32}$"
    served.wait_for(r"(?m)^method=GET path=/health status=200 " + rest)
    served.wait_for(r"(?m)^method=POST path=/v1/publish status=200 " + rest)
    served.wait_for(r"(?m)^method=GET path=\(elsewhere\) status=404 ")
    after_start = served.log.read_text().partition("Booting worker")[2]
    for secret in ("127.0.0.1", "secret", sent[0]["key"], body["verificationPayload"], body["hmacKey"]):
        assert secret not in after_start


def test_what_is_no_http_is_refused_without_a_word_of_it_in_the_log(served):
    with served.connect() as connection:
        connection.sendall(b"secret words / HTTP/1.1 secret\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    served.wait_for("a request that is not acceptable HTTP was refused")
    after_start = served.log.read_text().partition("Booting worker")[2]
    assert "secret" not in after_start
    assert "127.0.0.1" not in after_start


@pytest.mark.parametrize("headers", [b"X: " + b"x" * 5000, b"\r\n".join(b"X-%d: x" % number for number in range(60))])
def test_headers_have_limits(served, headers):
    with served.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
        assert re.match(rb"HTTP/1.1 4\d\d ", connection.recv(65536))


def test_chunks_are_read_and_bad_ones_refused(served, test_database, now):
    body = json.dumps(request(keys(now, 2), now)).encode()
    head = (
        b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    for chunks, status in ((b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"200"), (b"zz\r\n{}\r\n0\r\n\r\n", b"400")):
        with served.connect() as connection:
            connection.sendall(head + chunks)
            assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)
    assert count(test_database) == 2


def test_a_graceful_stop_finishes_the_upload_under_way(served, test_database, now):
    body = json.dumps(request(keys(now, 3), now)).encode()
    with served.connect() as connection:
        connection.sendall(
            b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # it is being handled
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("Handling signal: term")
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert served.process.wait(30) == 0
    assert count(test_database) == 3
    with pytest.raises(ConnectionRefusedError):
        served.connect()


def test_chaff_is_logged_like_any_request(served):
    for headers in ({}, {"X-Chaff": "1"}):
        httpx.post(f"{served.url}/v1/publish", content=b"{}", headers=headers, timeout=30)
    served.wait_for(r"path=/v1/publish status=200 ")
    chaff = next(line for line in served.log.read_text().splitlines() if "status=200" in line)
    assert re.fullmatch(r"method=POST path=/v1/publish status=200 bytes=\d+ seconds=\d\.\d{3} request=\w{32}", chaff)


def test_metrics_of_all_workers_on_a_port_of_their_own_survive_a_recycled_worker(test_database, now, tmp_path):
    api, pipeline = test_database.url("keyserver_api"), test_database.url("keyserver_pipeline")
    with serve(tmp_path, api, pipeline, KEYSERVER_METRICS_BIND="127.0.0.1:0") as served:
        metrics = served.wait_for(r"Metrics at: (http://127.0.0.1:\d+/metrics)")[1]

        def requests() -> dict[str, float]:
            text = httpx.get(metrics, timeout=30).text
            return {
                found[1]: float(found[2]) for found in re.finditer(r"(?m)^keyserver_api_requests_total(.*) (.*)$", text)
            }

        for _ in range(3):
            assert httpx.get(f"{served.url}/health", timeout=30).status_code == 200
        httpx.get(f"{served.url}/somebody", timeout=30)
        health = '{code="",route="/health",status="200"}'
        assert requests() == {health: 3.0, '{code="not_found",route="(elsewhere)",status="404"}': 1.0}
        assert httpx.get(f"{served.url}/metrics", timeout=30).status_code == 404

        children = psutil.Process(served.process.pid).children()
        (worker,) = [child for child in children if "api.metrics_server" not in child.cmdline()]
        worker.terminate()
        served.wait_for(r"(?s)Booting worker.*Booting worker")
        assert httpx.get(f"{served.url}/health", timeout=30).status_code == 200
        assert requests()[health] == 4.0
        children = psutil.Process(served.process.pid).children()
    assert psutil.wait_procs(children, 30)[1] == []


@pytest.fixture
def own_server() -> Iterator[embedded.Server]:
    """A PostgreSQL that this test may stop."""
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as folder:
        running = embedded.server(Path(folder) / "postgres")
        yield running
        embedded.stop(running.folder)


def test_e4_a_restart_of_postgresql_loses_no_upload_that_was_answered_as_stored(own_server, tmp_path):
    url = {role: role_url(own_server.admin_url, role, "restarted") for role in ROLES}
    databases.set_up(own_server.admin_url, url)
    databases.migrate(url["keyserver_migrate"], WIDTH_MINUTES)
    stored: list[bytes] = []
    seen: list[int] = []

    with serve(tmp_path, url["keyserver_api"], url["keyserver_pipeline"]) as served, httpx.Client(timeout=30) as phone:

        def upload() -> int:
            now = datetime.now(UTC)
            sent = keys(now, 3, len(seen))
            answer = phone.post(f"{served.url}/v1/publish", json=request(sent, now))
            if answer.status_code == 200:
                stored.extend(base64.b64decode(key["key"]) for key in sent)
            else:
                assert (answer.headers["Retry-After"], answer.json()["code"]) == ("5", "temporarily_unavailable")
            seen.append(answer.status_code)
            return answer.status_code

        assert [upload() for _ in range(5)] == [200] * 5
        uploads = threading.Event()

        def stream() -> None:
            while not uploads.is_set():
                upload()

        streaming = threading.Thread(target=stream)
        streaming.start()
        embedded.stop(own_server.folder)
        while seen[-1] != 503 and streaming.is_alive():
            time.sleep(0.01)
        uploads.set()
        streaming.join(60)
        assert set(seen) == {200, 503}
        assert upload() == 503
        assert httpx.get(f"{served.url}/health", timeout=30).status_code == 503

        embedded.server(own_server.folder)
        assert httpx.get(f"{served.url}/health", timeout=30).status_code == 200
        assert [upload() for _ in range(5)] == [200] * 5
        assert httpx.get(f"{served.url}/ready", timeout=30).status_code == 200

    with psycopg.connect(own_server.admin_url.replace("/postgres?", "/restarted?", 1)) as connection:
        found = {key for (key,) in connection.execute("SELECT exposure_key FROM exposure")}
    assert set(stored) <= found
    assert len(stored) == len(set(stored)) >= 30
