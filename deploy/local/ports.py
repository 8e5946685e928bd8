"""The TCP ports of a stack: which variable sets each, and whether it is free."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import psutil

from keyserver.errors import ConfigurationError

VARIABLES = {
    "api": "KEYSERVER_API_PORT",
    "cdn": "KEYSERVER_CDN_PORT",
    "verification": "KEYSERVER_VERIFICATION_PORT",
    "airflow": "KEYSERVER_AIRFLOW_PORT",
    "worker_log": "KEYSERVER_AIRFLOW_WORKER_LOG_PORT",
    "trigger_log": "KEYSERVER_AIRFLOW_TRIGGER_LOG_PORT",
}


@dataclass(frozen=True)
class Ports:
    """One port a listener; the last two are Airflow's own servers of task logs, on every address of the machine."""

    api: int = 8010
    cdn: int = 8011
    verification: int = 8012
    airflow: int = 8080
    worker_log: int = 8793
    trigger_log: int = 8794

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Ports:
        """Read the ports that ``environment`` sets, the defaults for the others.

        Raises ConfigurationError for what is no port number.
        """
        chosen = {}
        for name, variable in VARIABLES.items():
            text = environment.get(variable)
            if not text:
                continue
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
                raise ConfigurationError(f"{variable} is {text!r}: give a port number from 1 to 65535.")
            chosen[name] = int(text)
        return cls(**chosen)

    @classmethod
    def unused(cls) -> Ports:
        """Return ports that are free now (for stacks that start beside another one)."""
        with contextlib.ExitStack() as stack:
            numbers = []
            for _ in fields(cls):
                probe = stack.enter_context(socket.socket())
                probe.bind(("0.0.0.0", 0))  # noqa: S104 - bound for a moment, never listening
                numbers.append(probe.getsockname()[1])
        return cls(*numbers)

    def check(self) -> None:
        """Raise ConfigurationError naming port, variable and, where it can be seen, the process that has it."""
        taken_by: dict[int, str] = {}
        problems = []
        for name, port in asdict(self).items():
            variable = VARIABLES[name]
            if port in taken_by:
                problems.append(f"Port {port} is set twice, by {taken_by[port]} and {variable}.")
            elif not _free(port):
                problems.append(f"Port {port} is taken{_by_whom(port)}: set {variable} to another one.")
            taken_by[port] = variable
        if problems:
            raise ConfigurationError("\n".join(problems))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections of an earlier run that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - bound for a moment, never listening
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def _by_whom(port: int) -> str:
    with contextlib.suppress(psutil.Error, RuntimeError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,) and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""
