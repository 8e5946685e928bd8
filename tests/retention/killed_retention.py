"""Runs retention in a process of its own that is killed at a chosen point, as SIGKILL does: no clean-up of any kind."""

from __future__ import annotations

from keyserver.audit import Actor, Work
from keyserver.export import index
from keyserver.retention.keys import delete_keys
from keyserver.retention.lines import expire_lines
from keyserver.retention.objects import delete_objects
from keyserver.retention.proof import prove
from keyserver.retention.records import delete_records
from keyserver.retention.staging import clean_staging
from keyserver.runtime import Runtime, open_runtime
from tests.export.killed_step import DyingBlobs, InterruptedBlobs, die

COMMITS = ("before a commit", "after a commit")
OBJECTS = ("before an object goes", "after an object went")


def run(urls: dict[str, str], blobs_url: str, point: str | None) -> None:
    """Do all of it, in small chunks, until the first time that the point is reached."""
    runtime = open_runtime(Actor("test", run="retention-1"), urls["retention"], blobs_url=blobs_url)
    pipeline = open_runtime(Actor("test", run="retention-1"), urls["pipeline"], blobs_url=blobs_url)
    if point == "before an object goes":
        runtime = _with(runtime, DyingBlobs(runtime.blobs, "delete"))
    elif point == "after an object went":
        runtime = _with(runtime, InterruptedBlobs(runtime.blobs, "delete", die))
    elif point is not None:
        _die_around_commit(point)
    delete_keys(runtime, rows_a_chunk=4, pause=lambda _: None)
    delete_records(runtime)
    expire_lines(runtime)
    index.write_all(pipeline)
    clean_staging(runtime)
    delete_objects(runtime)
    prove(runtime)
    for opened in (runtime, pipeline):
        opened.close()


def _with(runtime: Runtime, blobs: object) -> Runtime:
    return Runtime(runtime.actor, runtime.database, blobs)


def _die_around_commit(point: str) -> None:
    commit = Work._commit

    def dying(work: Work) -> None:
        if work.events and point == "before a commit":
            die()
        commit(work)
        if work.events:
            die()

    Work._commit = dying
