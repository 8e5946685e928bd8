"""Kill any decision anywhere: done again it ends as if nothing had happened, with the same history."""

from __future__ import annotations

import multiprocessing
import shutil
import signal

import pytest

from tests.export import killed_decision
from tests.export.operators import events, everything, hold_next

# One process that has paid for the imports, forked for each case.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.export.killed_decision"])

CASES = [
    *((decision, point) for decision in killed_decision.EVENT for point in ("before the commit", "after the commit")),
    *((decision, point) for decision, points in killed_decision.WITHIN.items() for point in points),
]


@pytest.fixture
def prepared(authority):
    """An authority whose first batch has three released files and whose second is held and carries revisions."""
    authority.add_feed("north", max_keys=7)
    keys = authority.add_keys(20)
    authority.close_windows()
    authority.export()
    authority.revise(keys[:2], "negative")
    hold_next(authority)
    for runtime in authority.opened:
        runtime.close()
    return authority


@pytest.fixture
def twins(prepared, make_authority, make_database, serve):
    """Two authorities with the same rows and files: one is disturbed, the other is not."""
    made = []
    for name in ("undisturbed", "disturbed"):
        authority = make_authority(make_database(prepared.database.name), name)
        shutil.copytree(prepared.folder, authority.folder, dirs_exist_ok=True)
        serve(authority)
        made.append(authority)
    return made


@pytest.mark.parametrize(("decision", "point"), CASES)
def test_a_killed_decision_ends_as_if_nothing_had_happened(twins, decision, point):
    undisturbed, disturbed = twins
    for authority in twins:
        for earlier in killed_decision.AFTER.get(decision, []):
            killed_decision.DECISIONS[earlier](authority.runtime("operator"))
    killed_decision.DECISIONS[decision](undisturbed.runtime("operator"))

    urls = {
        "database_url": disturbed.database.url("keyserver_pipeline"),
        "blobs_url": f"file://{disturbed.folder}/blobs",
        "public_url": disturbed.public_url,
    }
    process = processes.Process(target=killed_decision.run, args=(urls, decision, point))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for _ in range(2):
        killed_decision.DECISIONS[decision](disturbed.runtime("operator"))
        assert everything(disturbed) == everything(undisturbed)
    assert kinds(disturbed) == kinds(undisturbed)


def kinds(authority) -> list[str]:
    return [event["kind"] for event in events(authority)]
