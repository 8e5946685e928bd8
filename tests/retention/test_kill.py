"""Kill retention anywhere, again and again, or run it twice at once: it ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections import Counter

import pytest

from keyserver.export import confirm
from keyserver.protocol.exposure import RETENTION
from keyserver.protocol.retention import GRACE
from tests.conftest import START
from tests.retention import killed_retention
from tests.retention.conftest import enforce, events
from tests.retention.killed_retention import COMMITS, OBJECTS

# One process that has paid for the heavy imports, forked for each case.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["great_expectations", "tests.retention.killed_retention"])


@pytest.fixture
def aged(served):
    """Two feeds whose first batch's line has expired a day ago; the others' are to expire now, and their keys to go."""
    for feed in ("north", "south"):
        served.add_feed(feed, active_from=START, max_keys=3)
    for seed in (1, 2):
        keys = served.add_keys(5, seed=seed, report_type="likely")
        served.revise(keys[:1], "confirmed")
        served.close_windows()
        served.export()
    confirm.confirm(served.runtime())
    served.database.set_time(START + RETENTION)
    enforce(served)
    served.database.set_time(START + RETENTION + GRACE)
    for opened in served.opened:
        opened.close()
    served.opened.clear()
    return served


@pytest.fixture
def twins(aged, make_authority, make_database):
    """Two worlds that are alike: one is disturbed, the other is not."""
    made = []
    for name in ("undisturbed", "disturbed"):
        authority = make_authority(make_database(aged.database.name), name)
        shutil.copytree(aged.folder / "blobs", authority.folder / "blobs", copy_function=shutil.copy2)
        made.append(authority)
    return made


def started(authority, point: str | None) -> multiprocessing.Process:
    urls = {role: authority.database.url(f"keyserver_{role}") for role in ("retention", "pipeline")}
    process = processes.Process(target=killed_retention.run, args=(urls, f"file://{authority.folder}/blobs", point))
    process.start()
    return process


def outcome(authority) -> tuple:
    """All that retention changes, and what it says of it: that it was cut off tells in the number of chunks alone."""
    sums = Counter()
    for event in events(authority, "retention.deleted"):
        sums.update({(event["subject"]["what"], name): number for name, number in event["counts"].items()})
    return (
        authority.sql("SELECT batch_id, number, status FROM file ORDER BY batch_id, number"),
        authority.sql("SELECT count(*) FROM exposure") + authority.sql("SELECT count(*) FROM quality_result"),
        authority.released_files(),
        sorted(event["subject"]["name"] for event in events(authority, "file.expired")),
        sorted(event["subject"]["name"] for event in events(authority, "file.deleted")),
        [event["hashes"] for event in events(authority, "index.written")],
        sums,
    )


def killed(authority, point: str) -> bool:
    process = started(authority, point)
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def test_killed_around_every_commit_it_ends_as_if_nothing_had_happened(twins):
    """Each run gets one commit further than the one before."""
    undisturbed, disturbed = twins
    enforce(undisturbed)
    kills = 0
    while outcome(disturbed) != outcome(undisturbed):
        kills += sum(killed(disturbed, point) for point in COMMITS)
        assert kills < 100
    assert kills > 12
    enforce(disturbed)
    assert outcome(disturbed) == outcome(undisturbed)


@pytest.mark.parametrize("point", OBJECTS)
def test_killed_between_two_objects_it_ends_as_if_nothing_had_happened(twins, point):
    undisturbed, disturbed = twins
    enforce(undisturbed)
    assert killed(disturbed, point)
    enforce(disturbed)
    assert outcome(disturbed) == outcome(undisturbed)


def test_two_at_once_share_the_work(twins):
    undisturbed, disturbed = twins
    enforce(undisturbed)
    both = [started(disturbed, None) for _ in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert outcome(disturbed) == outcome(undisturbed)
