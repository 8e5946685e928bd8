# ruff: noqa: N999 - the name that gunicorn's users know
"""How gunicorn serves the API: ``gunicorn --config api/gunicorn.conf.py``, behind a proxy that ends TLS (rule E2)."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped] # it has no types

from keyserver.settings import Settings

_SETTINGS = Settings.from_environment(os.environ)
_PATHS = ("/v1/publish", "/health")


class Log(Logger):  # type: ignore[misc] # see above
    """An access log of method, path, status, length and seconds: no address, no query, no header of the client's."""

    def atoms(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta) -> dict[str, Any]:
        """Return what the format below may name. A path that is not ours is the client's own words: left out."""
        path = environ.get("PATH_INFO")
        return {
            "m": environ.get("REQUEST_METHOD"),
            "U": path if path in _PATHS else "(elsewhere)",
            "s": resp.status_code,
            "B": resp.sent,
            "L": f"{request_time.total_seconds():.3f}",
        }

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
access_log_format = "%(m)s %(U)s %(s)s %(B)s %(L)s"

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
