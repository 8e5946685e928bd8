"""Kill any step anywhere: it ends in the same bytes and the same history as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from keyserver.device import exportreader
from keyserver.export import due, index
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


def urls(authority) -> dict[str, str]:
    return {
        "database_url": authority.database.url("keyserver_pipeline"),
        "blobs_url": f"file://{authority.folder}/blobs",
        "signer_url": f"file://{authority.folder}/signer",
    }


def killed(authority, step: str, batch_id: int, point: str, run: str = "run-1") -> None:
    process = processes.Process(target=killed_step.run, args=(urls(authority), run, step, batch_id, point))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def claim_the_batch(twins) -> int:
    ((one,), (other,)) = [due.claim_due(authority.runtime()) for authority in twins]
    assert one == other
    return one.batch_id


@contextmanager
def polled(authority) -> Iterator[None]:
    """Read the index and its files all the time, as they are served: each line is a whole file, and none goes."""
    ended, wrong, seen = threading.Event(), [], [b""]

    def poll() -> None:
        path = authority.public / "north" / "index.txt"
        while not ended.is_set():
            content = path.read_bytes() if path.exists() else b""
            if not content.startswith(seen[-1]):
                wrong.append(content)
            if content != seen[-1]:
                seen.append(content)
            try:
                for line in content.decode("ascii").split("\n") if content else []:
                    exportreader.read((authority.public / line).read_bytes())
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is wrong
                wrong.append(error)
            time.sleep(0.005)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        yield
        deadline = time.monotonic() + 20
        while reader.is_alive() and len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        ended.set()
        reader.join(20)
    assert wrong == []
    assert [content.count(b".zip") for content in seen] == [0, 3]


def assert_alike(undisturbed, disturbed) -> None:
    assert disturbed.released_files() == undisturbed.released_files()
    assert len(disturbed.released_files()) == 4
    assert history(disturbed) == history(undisturbed)
    ((batch_id,),) = disturbed.sql("SELECT id FROM batch WHERE status = 'released'")
    rows = disturbed.sql("SELECT exposure_key FROM batch_rows(%(id)s) WHERE fate = 'released'", id=batch_id)
    files = [data for name, data in disturbed.released_files().items() if name.endswith(".zip")]
    assert sorted(key.key for data in files for key in exportreader.read(data).keys) == sorted(key for (key,) in rows)


@pytest.mark.parametrize("point", killed_step.POINTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_ends_in_the_same_bytes(twins, step, point):
    undisturbed, disturbed = twins
    batch_id = claim_the_batch(twins)
    run_steps(undisturbed.runtime(), batch_id)

    with polled(disturbed):
        for name, work in STEPS.items():
            if name == step:
                killed(disturbed, step, batch_id, point)
            work(disturbed.runtime(), batch_id)
    assert_alike(undisturbed, disturbed)


def test_a_step_killed_twice_in_its_middle_ends_in_the_same_bytes(twins):
    """Every step; each time another run takes the batch over from the one that was killed."""
    undisturbed, disturbed = twins
    batch_id = claim_the_batch(twins)
    run_steps(undisturbed.runtime(), batch_id)

    run, number = "run-1", 1
    with polled(disturbed):
        for name, work in STEPS.items():
            for point in ("in the middle", "before the commit"):
                killed(disturbed, name, batch_id, point, run)
                if name != "index":  # a released batch is nobody's to take over
                    disturbed.database.pass_time(timedelta(seconds=46))
                    number += 1
                    run = f"run-{number}"
                    assert [batch.batch_id for batch in due.claim_due(disturbed.runtime(run))] == [batch_id]
            work(disturbed.runtime(run), batch_id)
    assert_alike(undisturbed, disturbed)


@pytest.mark.parametrize("step", STEPS)
def test_two_runs_of_which_one_lost_its_claim_end_in_the_same_bytes(twins, step):
    """The one freezes in the middle of a step; it wakes up while the other, which took over, does the same step."""
    undisturbed, disturbed = twins
    batch_id = claim_the_batch(twins)
    run_steps(undisturbed.runtime(), batch_id)

    frozen = processes.Process(target=killed_step.run_frozen, args=(urls(disturbed), "run-1", step, batch_id))
    with polled(disturbed):
        names = list(STEPS)
        for name in names[: names.index(step)]:
            STEPS[name](disturbed.runtime(), batch_id)
        frozen.start()
        await_frozen(frozen.pid)
        disturbed.database.pass_time(timedelta(seconds=46))
        claimed = due.claim_due(disturbed.runtime("run-2"))
        os.kill(frozen.pid, signal.SIGCONT)
        for batch in claimed:
            for name in names[names.index(step) :]:
                STEPS[name](disturbed.runtime("run-2"), batch.batch_id)
        index.write_all(disturbed.runtime("run-2"))
        frozen.join(60)
        assert frozen.exitcode == 0
    assert [batch.batch_id for batch in claimed] == ([batch_id] if step != "index" else [])
    assert_alike(undisturbed, disturbed)


def await_frozen(pid: int) -> None:
    """Wait until a process has stopped; its state is the third word of its line, behind its name."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(6000):
        if stat.read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise AssertionError("it did not stop")
