"""`make bench-publish`: uploads a second, how long they take at 300/s, and where the time goes.

A server of its own (`bench.server`) takes uploads of 14 fresh keys with certificate and HMAC, made before anything is
timed. First as many as it can over 16 connections, then 300/s whatever it can, with latencies from the intended time
of sending. Then one process without gunicorn takes some, for the breakdown and the round trips to PostgreSQL. The last
line is one JSON object.

SCALE sizes the durations: 1 is 20 s and 15 s.
"""

from __future__ import annotations

import io
import json
import mmap
import multiprocessing
import os
import platform
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import psycopg

from api import answers, create_app
from api import publish as route
from bench.load import Load, ceiling
from bench.server import Served, served
from keyserver.protocol import certificate, revise, revision, statistics
from keyserver.publish import accept
from keyserver.settings import Settings
from keyserver.store import exposures
from tests.uploads import issuer, keys, request

KEYS = 14
CONNECTIONS = 16
CLOSED_S = 20.0
OPEN_S = 15.0
OPEN_PER_S = 300
# More than can be stored, and so more than enough; but signing takes its time too.
MOST_PER_S = 1600
WARM_UP = 400
ALONE = 2000
MEMORY_EVERY = 10_000
CEILING_S = 2.0
ACCEPT_S = 0.5

# What belongs to which part of an upload, by where it is called from. Time in one counts in no other.
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((route, "decode_request"),),
    "certificate": ((certificate, "verify"),),
    "key rules": ((accept, "transform"), (revise, "decide"), (statistics, "facts"), (revision, "unseal")),
    "database": ((exposures, "publish_new"), (exposures, "publish")),
    "answer": ((revision, "union"), (revision, "seal"), (answers.Answers, "respond")),
}
REST = "flask and the rest"


class Stream:
    """Uploads that were made before, as HTTP requests in a file; each is taken once."""

    def __init__(self, folder: Path, count: int) -> None:
        """Make them, with all processors."""
        processes = os.cpu_count() or 1
        size = -(-count // processes)
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            self.files = pool.map(partial(_make, folder, size), range(processes))
        self._requests = self._all()

    def __iter__(self) -> Iterator[bytes]:
        return self._requests

    def take(self, count: int) -> list[bytes]:
        """Return the next ones."""
        return [next(self._requests) for _ in range(count)]

    def _all(self) -> Iterator[bytes]:
        for file in self.files:
            with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                at = 0
                while at < len(content):
                    (size,) = struct.unpack_from("<I", content, at)
                    yield content[at + 4 : at + 4 + size]
                    at += 4 + size


def _make(folder: Path, count: int, number: int) -> Path:
    now = datetime.now(UTC)
    signer = issuer()
    run = os.urandom(8).hex()
    file = folder / f"{number}.requests"
    with file.open("wb") as opened:
        for upload in range(count):
            body = json.dumps(request(keys(now, KEYS, f"{run}/{upload}"), now, by=signer)).encode()
            head = "POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            opened.write(struct.pack("<I", len(whole)) + whole)
    return file


class Memory:
    """The resident memory of the largest worker, in MB, at the start and after each 10,000 requests."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._before = self._last = 0
        self.seen = [self._now()]

    def look(self, answered: int) -> None:
        """Note it if that many answers of the current loop make another 10,000."""
        self._last = answered
        if (self._before + answered) // MEMORY_EVERY >= len(self.seen):
            self.seen.append(self._now())

    def next_loop(self) -> None:
        """Count on from here."""
        self._before, self._last = self._before + self._last, 0

    def end(self) -> float:
        """Return what it is now."""
        self.seen.append(self._now())
        return self.seen[-1]

    def _now(self) -> float:
        return round(max(worker.memory_info().rss for worker in self._server.workers) / 1e6, 1)


class Stopwatch:
    """Times parts that may be inside each other; each second counts once, for the innermost."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys([*PARTS, REST], 0.0)
        self._inside: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Count for ``part`` from now on."""
        self._turn()
        self._inside.append(part)

    def leave(self) -> None:
        """Count for what was before."""
        self._turn()
        self._inside.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with its time counted for ``part``."""

        def timed(*values: Any, **named: Any) -> Any:
            self.enter(part)
            try:
                return function(*values, **named)
            finally:
                self.leave()

        return timed


class Wire:
    """A Unix socket before PostgreSQL's, for one client. It counts round trips: the client spoke after the server."""

    def __init__(self, folder: Path, target: str) -> None:
        self.round_trips = 0
        self.url = f"postgresql://keyserver_api@/bench?host={quote(str(folder))}"
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            threading.Thread(target=self._relay, args=(client, server), daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        server_spoke = True
        with client, server:
            while True:
                for speaker in select.select([client, server], [], [])[0]:
                    if not (part := speaker.recv(65536)):
                        return
                    if speaker is client:
                        self.round_trips += server_spoke
                    server_spoke = speaker is server
                    (server if speaker is client else client).sendall(part)


def spread(load: Load, server: Served, connections: int) -> None:
    """Give each worker its share of the connections.

    Left to themselves, idle workers may all see a new connection, and one of them takes most or all: its processor then
    does all the work. nginx in front connects for each request, so there they share.
    """
    workers = server.workers
    for number, worker in enumerate(workers):
        others = [other for other in workers if other != worker]
        for other in others:
            other.suspend()
        load.connect(connections * (number + 1) // len(workers) - connections * number // len(workers))
        time.sleep(ACCEPT_S)
        for other in others:
            other.resume()


@contextmanager
def timed_parts(watch: Stopwatch) -> Iterator[None]:
    """Let each part's functions be timed where they are called."""
    patches = [
        mock.patch.object(owner, name, watch.timed(part, getattr(owner, name)))
        for part, functions in PARTS.items()
        for owner, name in functions
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _call(app: Any, whole: bytes) -> None:
    body = whole[whole.index(b"\r\n\r\n") + 4 :]
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/publish",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
    }
    status: list[str] = []
    answer = b"".join(app(environ, lambda told, _headers, _error=None: status.append(told)))
    if not status[0].startswith("200"):
        raise SystemExit(f"answered {status[0]}: {answer[:300]!r}")


def alone(server: Served, requests: Sequence[bytes]) -> dict[str, float]:
    """Return microseconds an upload of each part, in this process, one upload at a time."""
    watch = Stopwatch()
    app = create_app(server.settings)
    warm, rest = requests[: len(requests) // 10], requests[len(requests) // 10 :]
    for whole in warm:
        _call(app, whole)
    with timed_parts(watch):
        for whole in rest:
            watch.enter(REST)
            _call(app, whole)
            watch.leave()
    app.extensions["keyserver.database"].forget_connections()
    return {part: round(seconds / len(rest) * 1e6, 1) for part, seconds in watch.seconds.items()}


def round_trips(server: Served, requests: Sequence[bytes]) -> float:
    """Return how often an upload waits for PostgreSQL, statements being prepared."""
    with tempfile.TemporaryDirectory() as name, psycopg.connect(server.admin_url) as connection:
        wire = Wire(Path(name), f"{connection.info.host}/.s.PGSQL.{connection.info.port}")
        app = create_app(Settings.from_environment(server.environ | {"KEYSERVER_API_DATABASE_URL": wire.url}))
        warm, rest = requests[: len(requests) // 2], requests[len(requests) // 2 :]
        for whole in warm:
            _call(app, whole)
        before = wire.round_trips
        for whole in rest:
            _call(app, whole)
        trips = (wire.round_trips - before) / len(rest)
        app.extensions["keyserver.database"].forget_connections()
    return trips


def facts(server: Served) -> dict[str, str]:
    """Return what the figures depend on."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_sync_method")
    with psycopg.connect(server.admin_url) as connection:
        values = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
    said = {name: str(value and value[0]) for name, value in values.items()}
    return {
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
        "PostgreSQL": said.pop("server_version"),
        "settings": ", ".join(f"{name} {value}" for name, value in said.items()),
        "API": f"{server.settings.api_workers} workers, gunicorn gthread",
    }


def percentile_ms(latencies: Sequence[float], part: float) -> float:
    """Return the latency, in ms, that ``part`` (0 to 1) of them do not exceed."""
    return round(sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * part))] * 1000, 2)


def main() -> None:
    """Print the figures."""
    scale = float(os.environ.get("SCALE", "1"))
    closed_s, opened = CLOSED_S * scale, int(OPEN_S * scale * OPEN_PER_S)
    measured_alone = max(200, min(ALONE, int(ALONE * scale)))
    count = WARM_UP + int(closed_s * MOST_PER_S) + opened + measured_alone + 100
    with tempfile.TemporaryDirectory(prefix="keyserver-") as name, served() as server:
        began = time.perf_counter()
        stream = Stream(Path(name), count)
        print(f"{count:,} uploads of {KEYS} keys made in {time.perf_counter() - began:.1f} s")
        own = list(stream.take(100))
        most = ceiling((own[number % 100] for number in iter(int, 1) for number in range(100)), CONNECTIONS, CEILING_S)
        for what, value in facts(server).items():
            print(f"  {what:22} {value}")

        load = Load(server.port, 0)
        spread(load, server, CONNECTIONS)
        load.closed_loop(iter(stream.take(WARM_UP)), 600)
        memory = Memory(server)
        load.check = memory.look
        closed = load.closed_loop(iter(stream), closed_s)
        per_s = len(closed) / (closed[-1][0] - closed[0][0] + closed[0][1])
        memory.next_loop()
        requests = stream.take(opened)
        latencies = [latency for _, latency in load.open_loop(requests, OPEN_PER_S)]
        end = memory.end()
        load.close()

        parts = alone(server, stream.take(measured_alone))
        trips = round_trips(server, stream.take(40))

    p50, p99 = percentile_ms(latencies, 0.5), percentile_ms(latencies, 0.99)
    spent = [latency for _, latency in closed]
    print(f"  generator alone        {most:,.0f}/s")
    print(
        f"  as many as it can      {per_s:,.0f}/s over {CONNECTIONS} connections in {closed_s:.0f} s"
        f" (p50 {percentile_ms(spent, 0.5)} ms, p99 {percentile_ms(spent, 0.99)} ms)"
    )
    print(f"  at {OPEN_PER_S}/s               p50 {p50} ms, p99 {p99} ms, of {opened:,} from the intended time")
    print(f"  round trips            {trips:g} an upload")
    print(
        f"  memory of a worker     {', '.join(str(size) for size in memory.seen)} MB, every {MEMORY_EVERY:,} requests"
    )
    print(f"  one upload, alone      {sum(parts.values()):,.0f} us:")
    for part, microseconds in parts.items():
        print(f"    {part:20} {microseconds:8,.1f} us")
    result = {
        "publish_per_s": round(per_s),
        "p50_ms_at_300_per_s": p50,
        "p99_ms_at_300_per_s": p99,
        "round_trips": trips,
        "breakdown_us": parts,
        "worker_rss_mb_start": memory.seen[0],
        "worker_rss_mb_end": end,
        "generator_ceiling_per_s": round(most),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
