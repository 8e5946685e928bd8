# ruff: noqa: N999 - the name that gunicorn's users know
"""How gunicorn serves the API: ``gunicorn --config api/gunicorn.conf.py``, behind a proxy that ends TLS (rule E2)."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped] # it has no types

from keyserver.settings import Settings

_SETTINGS = Settings.from_environment(os.environ)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_PATHS: tuple[str, ...] = (
    "/v1/publish",
    "/v1/stats",
    "/v1/attestation/challenge",
    "/health",
    "/ready",
    "/openapi.json",
    "/docs",
)
_PATHS += ("/api/verify", "/api/certificate", "/api/user-report", "/jwks")
_PATHS += ("/api/issue", "/api/batch-issue", "/api/checkcodestatus", "/api/expirecode")
_METRICS: dict[str, Any] = {}


class Log(Logger):  # type: ignore[misc] # see above
    """An access log of method, path, status, bytes, seconds and request id.

    No address, no query, no body, no header of the client's but the id, which has hex digits and dashes only. Chaff is
    logged like any request.
    """

    def access(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Write a request's line. A path that is not ours is the client's own words: left out.

        To the stream itself: `logging` took as long over it as the certificate takes, some thirty times this.
        """
        method = environ.get("REQUEST_METHOD")
        path = environ.get("PATH_INFO")
        request_id = next((value for name, value in resp.headers if name.lower() == "x-request-id"), "-")
        sys.stdout.write(
            f"method={method if method in _METHODS else '(other)'} path={path if path in _PATHS else '(elsewhere)'}"
            f" status={resp.status_code} bytes={resp.sent} seconds={request_time.total_seconds():.3f}"
            f" request={request_id}\n"
        )
        sys.stdout.flush()

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning; that a request was no HTTP is said without the client's address and words."""
        if msg.startswith("Invalid request from"):
            msg, args = "a request that is not acceptable HTTP was refused", ()
        super().warning(msg, *args, **kwargs)


wsgi_app = "api:create_app()"
bind = _SETTINGS.api_bind
workers = _SETTINGS.api_workers
worker_class = "gthread"
threads = 4
logger_class = Log
accesslog = "-"

# What listens is started, stopped and watched from outside.
control_socket_disable = True

# The longest request is a body of 64,000 bytes, which the API itself limits; its lines are short.
limit_request_line = 1024
limit_request_fields = 50
limit_request_field_size = 4096

timeout = 30
graceful_timeout = 20
keepalive = 5
max_requests = 20_000
max_requests_jitter = 2_000
# The heartbeat's file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

# Metrics. Read by prometheus_client when a worker imports it.
if _SETTINGS.metrics_bind:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _METRICS["folder"] = tempfile.mkdtemp(prefix="keyserver-metrics-")


def when_ready(_server: Any) -> None:
    """Start what serves /metrics; it ends with this process, which holds its standard input."""
    if _METRICS:
        host, _, port = _SETTINGS.metrics_bind.rpartition(":")
        _METRICS["process"] = subprocess.Popen(  # noqa: S603 - of ours
            [sys.executable, "-m", "api.metrics_server", host, port, _METRICS["folder"]], stdin=subprocess.PIPE
        )


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker a place of its own, the lowest that is free: its successor goes on counting in its files.

    Otherwise each recycled worker would leave files behind, and every look at the metrics would read all of them.
    """
    taken = {other.place for other in server.WORKERS.values()}
    worker.place = min(set(range(len(taken) + 1)) - taken)


def post_fork(_server: Any, worker: Any) -> None:
    """Let the metrics of this worker be those of its place."""
    if _METRICS:
        from prometheus_client import values  # noqa: PLC0415 - after PROMETHEUS_MULTIPROC_DIR is set

        values.ValueClass = values.MultiProcessValue(lambda: worker.place)  # type: ignore[no-untyped-call]


def post_worker_init(_worker: Any) -> None:
    """Leave what was loaded out of garbage collections: each would go through all of it, and uploads would wait."""
    gc.collect()
    gc.freeze()


def on_exit(_server: Any) -> None:
    """Stop what serves /metrics, and leave nothing behind."""
    if "process" in _METRICS:
        _METRICS["process"].stdin.close()
        _METRICS["process"].wait()
    if _METRICS:
        shutil.rmtree(_METRICS["folder"], ignore_errors=True)
