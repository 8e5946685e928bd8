"""Runs one step in a process of its own that is killed at a chosen point, as SIGKILL does: no clean-up of any kind.

Or that is frozen there, as a machine that swaps, and goes on later as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from keyserver.audit import Actor, Work
from keyserver.errors import Superseded
from keyserver.runtime import Runtime, open_runtime
from tests.export.conftest import STEPS

POINTS = ("before the side effect", "in the middle", "before the commit", "after the commit")

# The event with which each step's last transaction ends.
LAST_EVENT = {
    "build": "batch.built",
    "check": "batch.checked",
    "sign": "file.signed",
    "verify": "batch.verified",
    "release": "file.released",
    "index": "index.written",
}
# What each step does outside the database; a step that only looks is killed before it does.
SIDE_EFFECT = {
    "build": "put_if_absent",
    "check": "read",
    "sign": "put_if_absent",
    "verify": "read",
    "release": "put_if_absent",
    "index": "replace",
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class DyingBlobs:
    """A store whose process dies when a chosen operation is asked for."""

    def __init__(self, blobs: Any, operation: str) -> None:
        self._blobs = blobs
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        if name == self._operation:
            die()
        return getattr(self._blobs, name)


class InterruptedBlobs:
    """A store whose process is interrupted just after the first operation of a kind: the first of three files, say."""

    def __init__(self, blobs: Any, operation: str, interrupt: Callable[[], None]) -> None:
        self._blobs = blobs
        self._operation = operation
        self._interrupts = [interrupt]

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._blobs, name)
        if name != self._operation:
            return operation

        def interrupted(*arguments: Any, **named: Any) -> Any:
            result = operation(*arguments, **named)
            while self._interrupts:
                self._interrupts.pop()()
            return result

        return interrupted


def run(urls: dict[str, str], holder: str, step: str, batch_id: int, point: str) -> None:
    runtime = open_runtime(Actor("test", run=holder), **urls)
    if point == "before the side effect":
        runtime = _with(runtime, DyingBlobs(runtime.blobs, SIDE_EFFECT[step]))
    elif point == "in the middle":
        runtime = _with(runtime, InterruptedBlobs(runtime.blobs, SIDE_EFFECT[step], die))
    else:
        _die_around_commit(LAST_EVENT[step], point)
    STEPS[step](runtime, batch_id)


def run_frozen(urls: dict[str, str], holder: str, step: str, batch_id: int) -> None:
    """Freeze in the middle of a step; woken up, go on with it until it is noticed that another run took over."""
    runtime = open_runtime(Actor("test", run=holder), **urls)
    try:
        STEPS[step](_with(runtime, InterruptedBlobs(runtime.blobs, SIDE_EFFECT[step], freeze)), batch_id)
    except Superseded:
        return
    if step != "index":
        raise AssertionError(f"{step} was done by a run that had lost its claim")


def _with(runtime: Runtime, blobs: Any) -> Runtime:
    return Runtime(runtime.actor, runtime.database, blobs, runtime.signer)


def _die_around_commit(kind: str, point: str) -> None:
    commit = Work._commit

    def dying(work: Work) -> None:
        last = any(event.obj["kind"] == kind for event in work.events)
        if last and point == "before the commit":
            die()
        commit(work)
        if last:
            die()

    Work._commit = dying
