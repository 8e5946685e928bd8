"""A load generator: prepared requests over keep-alive connections, from one thread that does nothing else.

It reads of an answer what tells its status and its end. `ceiling` measures what it can do itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ANSWER_BYTES = 6000


class Load:
    """Connections to 127.0.0.1:``port``. `check` is called now and then with the number of answers so far."""

    def __init__(self, port: int, connections: int, check: Callable[[int], None] = lambda _: None) -> None:
        self._selector = selectors.EpollSelector()
        self.check = check
        self._free: deque[socket.socket] = deque()
        self._began: dict[socket.socket, float] = {}
        self._read: dict[socket.socket, bytearray] = {}
        self._port = port
        self.connect(connections)

    def connect(self, count: int) -> None:
        """Open that many connections more."""
        for _ in range(count):
            self._connect()

    def closed_loop(self, requests: Iterator[bytes], seconds: float) -> list[tuple[float, float]]:
        """Send on each connection, one request after the other; return each answer's arrival and latency in seconds.

        Ends after ``seconds``, or when there is nothing left to send.
        """
        answered: list[tuple[float, float]] = []
        with _no_collection():
            started = time.perf_counter()
            while True:
                now = time.perf_counter()
                while self._free and now - started < seconds and (request := next(requests, None)) is not None:
                    self._send(request, now)
                if not self._began:
                    return answered
                self._receive(None, answered)
                self.check(len(answered))

    def open_loop(self, requests: Sequence[bytes], per_s: float) -> list[tuple[float, float]]:
        """Send ``per_s`` requests a second, whatever becomes of those before; latencies count from the intended time.

        One that finds no free connection waits for it here, and its latency shows it (coordinated omission).
        """
        answered: list[tuple[float, float]] = []
        sent = 0
        with _no_collection():
            # Only now: what is collected first would count as the wait of the first requests.
            started = time.perf_counter()
            while len(answered) < len(requests):
                now = time.perf_counter()
                while self._free and sent < len(requests) and (intended := started + sent / per_s) <= now:
                    self._send(requests[sent], intended)
                    sent += 1
                wait = max(0.0, started + sent / per_s - now) if self._free and sent < len(requests) else None
                self._receive(wait, answered)
                self.check(len(answered))
        return answered

    def close(self) -> None:
        """Hang up."""
        for connection in self._read:
            connection.close()
        self._selector.close()

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._free.append(connection)
        self._read[connection] = bytearray()

    def _hang_up(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._read[connection]
        connection.close()

    def _send(self, request: bytes, began: float) -> None:
        connection = self._free.popleft()
        self._began[connection] = began
        if connection.send(request) != len(request):
            raise SystemExit("a request did not fit into the socket's buffer")

    def _receive(self, wait: float | None, answered: list[tuple[float, float]]) -> None:
        for event, _ in self._selector.select(wait):
            connection: Any = event.fileobj
            if not (part := connection.recv(65536)):
                if connection in self._began:
                    raise SystemExit("the server hung up")
                self._free.remove(connection)
                self._hang_up(connection)
                self._connect()
                continue
            read = self._read[connection]
            read += part
            if _complete(read):
                now = time.perf_counter()
                answered.append((now, now - self._began.pop(connection)))
                if read.find(b"\r\nConnection: close\r\n", 0, 1000) > 0:
                    self._hang_up(connection)
                    self._connect()
                else:
                    self._free.append(connection)
                    read.clear()


def _complete(read: bytearray) -> bool:
    head = read.find(b"\r\n\r\n")
    if head < 0:
        return False
    if not read.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"answered {bytes(read[:600])!r}")
    at = read.find(b"Content-Length: ") + 16
    return len(read) >= head + 4 + int(read[at : read.find(b"\r\n", at)])


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let no pause of this process's count as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ceiling(requests: Iterator[bytes], connections: int, seconds: float) -> float:
    """Return how many requests a second this generator sends to a server that answers at once with a constant."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(listener,), daemon=True)
    process.start()
    try:
        load = Load(listener.getsockname()[1], connections)
        started = time.perf_counter()
        count = len(load.closed_loop(requests, seconds))
        took = time.perf_counter() - started
        load.close()
    finally:
        process.terminate()
        process.join()
        listener.close()
    return count / took


def _answer(listener: socket.socket) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (ANSWER_BYTES, bytes(ANSWER_BYTES))
    selector = selectors.EpollSelector()
    selector.register(listener, selectors.EVENT_READ)
    wanted: dict[socket.socket, int] = {}
    while True:
        for event, _ in selector.select():
            connection: Any = event.fileobj
            if connection is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ)
                wanted[connection] = 0
                continue
            part = connection.recv(65536)
            if not part:
                selector.unregister(connection)
                connection.close()
                continue
            if not wanted[connection]:
                at = part.find(b"Content-Length: ") + 16
                wanted[connection] = part.find(b"\r\n\r\n") + 4 + int(part[at : part.find(b"\r\n", at)])
            wanted[connection] -= len(part)
            if wanted[connection] <= 0:
                wanted[connection] = 0
                connection.sendall(answer)
