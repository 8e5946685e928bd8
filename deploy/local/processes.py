"""Which processes are ours, and how they end.

Every process of a stack inherits one variable, `MARK`, with its home: so they are found even when the process that
started them was killed. A pid alone names nobody (it may have been given away since): recorded ones carry the
process's start time as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "KEYSERVER_STACK"
GRACE_S = 15.0

# Airflow and gunicorn rewrite their titles, by default over their environment, which would wipe the mark out.
KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}


@dataclass(frozen=True)
class Identity:
    """A process that can be told from a later one with the same pid; ``started`` is seconds since the epoch."""

    pid: int
    started: float


def mark(home: Path) -> dict[str, str]:
    """Return the variables that make a process and its descendants findable by `marked`."""
    return {MARK: str(home), **KEEP_ENVIRONMENT}


def identify(pid: int) -> Identity | None:
    """Return the identity of a process, or None when it is gone."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def alive(identity: Identity) -> bool:
    """Whether that very process still runs; one that ended and was not yet collected by its parent does not."""
    try:
        process = psutil.Process(identity.pid)
        return process.create_time() == identity.started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def marked(home: Path) -> list[psutil.Process]:
    """Return all running processes that carry the mark of ``home``, the calling one excepted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(home):
                found.append(process)
    return found


def end(find: Callable[[], Iterable[psutil.Process]], grace_s: float = GRACE_S) -> None:
    """End every process that ``find`` returns: SIGTERM, ``grace_s`` seconds, then SIGKILL.

    ``find`` is asked again each time, so that a process started meanwhile does not slip away.
    """
    asked: set[Identity] = set()
    deadline = time.monotonic() + grace_s
    while remaining := list(find()):
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                identity = Identity(process.pid, process.create_time())
                if time.monotonic() >= deadline:
                    process.send_signal(signal.SIGKILL)
                elif identity not in asked:
                    asked.add(identity)
                    process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
