"""Runs one decision in a process of its own that is killed at a chosen point, as SIGKILL does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyserver.audit import Actor
from keyserver.export import confirm, decide, replace, withdraw
from keyserver.runtime import Runtime, open_runtime
from tests.export.killed_step import DyingBlobs, _die_around_commit, die

# On an authority whose first batch has three released files and whose second is held and carries revisions.
DECISIONS: dict[str, Callable[[Runtime], object]] = {
    "confirm": confirm.confirm,
    "approve": lambda runtime: decide.approve(runtime, 2, "so it is"),
    "reject": lambda runtime: decide.reject(runtime, 2, "so it is"),
    "withdraw": lambda runtime: withdraw.withdraw(runtime, 1, "so it is"),
    "finish": lambda runtime: withdraw.finish(runtime, 1),
    "replace": lambda runtime: replace.replace(runtime, 1, "so it is"),
    "for good": lambda runtime: withdraw.for_good(runtime, 1, "so it is"),
}
# What must have been done before.
AFTER = {"finish": ["withdraw"], "replace": ["withdraw"], "for good": ["withdraw"]}
# The event with which each decision is made.
EVENT = {
    "confirm": "file.confirmed",
    "approve": "batch.approved",
    "reject": "batch.rejected",
    "withdraw": "batch.withdrawing",
    "finish": "batch.withdrawn",
    "replace": "batch.planned",
}
# Points within, beside those around the commit: an operation of the store, and how many of them are let pass.
WITHIN = {"withdraw": [("replace", 0)], "finish": [("delete", 0), ("delete", 1), ("purge", 0)]}


class DyingLater(DyingBlobs):
    """A store whose process dies when an operation is asked for once too often."""

    def __init__(self, blobs: Any, operation: str, allowed: int) -> None:
        super().__init__(blobs, operation)
        self._allowed = allowed

    def __getattr__(self, name: str) -> Any:
        if name == self._operation:
            if not self._allowed:
                die()
            self._allowed -= 1
        return getattr(self._blobs, name)


def run(urls: dict[str, str], decision: str, point: str | tuple[str, int]) -> None:
    runtime = open_runtime(Actor("operator"), **urls)
    if isinstance(point, tuple):
        blobs = DyingLater(runtime.blobs, *point)
        runtime = Runtime(runtime.actor, runtime.database, blobs, public_url_or_none=runtime.public_url_or_none)
    else:
        _die_around_commit(EVENT[decision], point)
    DECISIONS[decision](runtime)
