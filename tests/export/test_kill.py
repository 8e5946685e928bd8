"""Kill any step anywhere: it ends in the same bytes and the same history as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal

import pytest

from keyserver.export import due
from tests.export import killed_step
from tests.export.conftest import STEPS, run_steps

# One process that has paid for the heavy imports, forked for each case.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["great_expectations", "tests.export.killed_step"])


def history(authority) -> list[str]:
    return [json.loads(body)["kind"] for (body,) in authority.sql("SELECT body FROM audit_event ORDER BY seq")]


@pytest.fixture
def planned(make_authority, test_database):
    """An authority whose feed has one batch of three files to make, closed and planned."""
    authority = make_authority(test_database, "planned")
    authority.add_feed("north", max_keys=8)
    authority.add_keys(20)
    authority.close_windows()
    for runtime in authority.opened:
        runtime.close()
    return authority


@pytest.fixture
def twins(planned, make_authority, make_database):
    """Two authorities with the same rows and the same signing key: one is disturbed, the other is not."""
    made = []
    for name in ("undisturbed", "disturbed"):
        authority = make_authority(make_database(planned.database.name), name)
        shutil.copytree(planned.folder / "signer", authority.folder / "signer", dirs_exist_ok=True)
        made.append(authority)
    return made


@pytest.mark.parametrize("point", killed_step.POINTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_ends_in_the_same_bytes(twins, step, point):
    undisturbed, disturbed = twins
    for authority in twins:
        ((batch_id,),) = [(batch.batch_id,) for batch in due.claim_due(authority.runtime())]
    run_steps(undisturbed.runtime(), batch_id)

    for name, work in STEPS.items():
        if name == step:
            urls = {
                "database_url": disturbed.database.url("keyserver_pipeline"),
                "blobs_url": f"file://{disturbed.folder}/blobs",
                "signer_url": f"file://{disturbed.folder}/signer",
            }
            process = processes.Process(target=killed_step.run, args=(urls, "run-1", step, batch_id, point))
            process.start()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        work(disturbed.runtime(), batch_id)

    assert disturbed.released_files() == undisturbed.released_files()
    assert len(disturbed.released_files()) == 4
    assert history(disturbed) == history(undisturbed)
