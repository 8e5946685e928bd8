"""What Prometheus is told: requests by route, status and code, and their times. No label holds a client's words.

Each worker writes its own file (`prometheus_client`'s multiprocess mode); `api.metrics_server` adds them up.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

ELSEWHERE = "(elsewhere)"

_REQUESTS = Counter(
    "keyserver_api_requests",
    "Requests by route, status and code (publish.md 1.5)",
    ["route", "status", "code"],
)
_SECONDS = Histogram(
    "keyserver_api_request_seconds",
    "Time from the first look at a request to its answer, chaff included",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


def count(route: str | None, status: int, code: str) -> None:
    """Count an answer. ``route`` is the rule of ours that matched, None for any other path."""
    _REQUESTS.labels(route or ELSEWHERE, str(status), code).inc()


def time(route: str, seconds: float) -> None:
    """Take note of how long an answer took."""
    _SECONDS.labels(route).observe(seconds)
