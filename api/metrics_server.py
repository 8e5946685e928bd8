"""Serves /metrics on its own port: ``python -m api.metrics_server HOST PORT FOLDER``, started by gunicorn's master.

A process of its own, since a thread of the master's would be forked into every worker. It ends when its standard input
does, which the master holds: so it cannot outlive it.
"""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector


def main(host: str, port: str, folder: str) -> None:
    """Serve the sum of the workers' files in ``folder`` until standard input ends."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call] # it has no types
    server, _ = start_http_server(int(port), host, registry)
    print(f"Metrics at: http://{host}:{server.server_port}/metrics", flush=True)  # noqa: T201 - for the log
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
