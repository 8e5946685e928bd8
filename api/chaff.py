"""Requests that only pretend, so that nobody who counts requests learns who has something to upload (rule E1).

A request with the header ``X-Chaff`` is answered like a success of its route: status, headers, the distribution of
lengths (`api.answers`) and of times. Real answers are never slowed. Each route has its own times (publish.md 11, 17).
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus

from flask import Response

from api.answers import Answers
from keyserver.errors import RemoteError

HEADER = "X-Chaff"

# Seconds that uploads of 14 keys took on two cores with PostgreSQL beside: a start, until there are own ones.
PRIOR_S = (0.0021, 0.0023, 0.0025, 0.0026, 0.0027, 0.0028, 0.0029, 0.0030, 0.0031, 0.0034)
ENOUGH = 30
# Few, so that draws follow a load that changes. See docs/performance.md for what more of them did.
KEPT = 50
# A single slow success must not become a wait that holds a thread: the reference's CHAFF_REQUEST_MAX_LATENCY_MS.
LONGEST_S = 1.0


# How much later than asked for a sleeping thread may wake: that much of a wait is spent watching the clock.
_LATE_S = 0.0005


def sleep_exactly(seconds: float) -> None:
    """Sleep as long as asked for and no longer: the usual tenth of a millisecond more would tell chaff apart."""
    end = time.monotonic() + seconds
    if seconds > _LATE_S:
        time.sleep(seconds - _LATE_S)
    while time.monotonic() < end:
        time.sleep(0)


# One answer that hung must not make all the next ones early.
_LATEST_S = 0.001


class Chaff:
    """What one route answers to chaff, in one process. Threads share it."""

    def __init__(
        self,
        answers: Answers,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        version: bool = True,
        most_at_once: int = 2,
    ) -> None:
        """Take the route's `answers`; ``clock`` and ``sleep`` in seconds; ``version``: whether it sends x-api-version.

        At most ``most_at_once`` wait at a time: they hold threads that real requests need.
        """
        self.answers = answers
        self.clock = clock
        self.sleep = sleep
        self._version = version
        self._places = threading.BoundedSemaphore(most_at_once)
        self._times: deque[float] = deque(maxlen=KEPT)
        self._here = threading.local()
        self._late = 0.0  # seconds that an answer takes to leave after its wait, lately

    def remember(self, seconds: float) -> None:
        """Take note of how long a real success took."""
        self._times.append(min(seconds, LONGEST_S))

    def time(self) -> float:
        """Return the time of a recent real success, in seconds, drawn at random."""
        if len(self._times) < ENOUGH:
            return random.choice(PRIOR_S)  # noqa: S311 - a delay, no secret
        return self._times[random.randrange(len(self._times))]  # noqa: S311 - a delay, no secret

    def left(self, seconds: float) -> None:
        """Take note of how long a chaff answer of this thread took, measured where real ones are."""
        late = seconds - self._here.due + self._late
        self._late = 0.9 * self._late + 0.1 * min(max(late, 0.0), _LATEST_S)

    def answer(self, started: float, read_body: Callable[[], object]) -> Response:
        """Answer a request that began at ``started`` by the clock; its body is read and not looked at.

        Raises:
            RemoteError: too much chaff is under way; it is answered like a real request in an overload.
        """
        if not self._places.acquire(blocking=False):
            raise RemoteError("too much chaff at once")
        try:
            read_body()
            response = self.answers.respond(HTTPStatus.OK, {}, version=self._version)
            self._here.due = self.time()
            self.sleep(max(0.0, self._here.due - self._late - (self.clock() - started)))
            return response
        finally:
            self._places.release()
