"""Runs one step in a process of its own that is killed at a chosen point, as SIGKILL does: no clean-up of any kind."""

from __future__ import annotations

import os
import signal
from typing import Any

from keyserver.audit import Actor, Work
from keyserver.runtime import Runtime, open_runtime
from tests.export.conftest import STEPS

POINTS = ("before the side effect", "before the commit", "after the commit")

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


class DyingBlobs:
    """A store whose process dies when a chosen operation is asked for."""

    def __init__(self, blobs: Any, operation: str) -> None:
        self._blobs = blobs
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        if name == self._operation:
            die()
        return getattr(self._blobs, name)


def run(urls: dict[str, str], holder: str, step: str, batch_id: int, point: str) -> None:
    runtime = open_runtime(Actor("test", run=holder), **urls)
    if point == "before the side effect":
        blobs = DyingBlobs(runtime.blobs, SIDE_EFFECT[step])
        runtime = Runtime(runtime.actor, runtime.database, blobs, runtime.signer)
    else:
        _die_around_commit(LAST_EVENT[step], point)
    STEPS[step](runtime, batch_id)


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
