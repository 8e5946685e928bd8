"""The API as it is run: gunicorn with its configuration, over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from keyserver.device import client
from tests.uploads import authorise, keys, request

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


@pytest.fixture
def served(test_database, now, tmp_path) -> Iterator[Served]:
    authorise(test_database.url("keyserver_pipeline"))
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET settable = false")  # /health is that of a real database
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    environment |= {
        "PYTHONPATH": str(ROOT / "include"),
        "KEYSERVER_API_DATABASE_URL": test_database.url("keyserver_api"),
        "KEYSERVER_API_BIND": "127.0.0.1:0",
        "KEYSERVER_API_WORKERS": "1",
    }
    log = tmp_path / "api.log"
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
    served.wait_for(r"(?m)^GET /health 200 \d+ \d\.\d{3}$")
    served.wait_for(r"(?m)^POST /v1/publish 200 \d+ \d\.\d{3}$")
    served.wait_for(r"(?m)^GET \(elsewhere\) 404 ")
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
