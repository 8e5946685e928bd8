"""Files taken back (B5, B6): out of the index, then out of the store; and what becomes of their keys."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from keyserver.device import client, exportreader
from keyserver.errors import ConfigurationError, ConflictError, FormatError, KeyserverError, RemoteError
from keyserver.export import decide, index, release, replace, withdraw
from keyserver.export.due import claim_due
from tests.export.conftest import STEPS
from tests.export.operators import events, everything, hold_next


@pytest.fixture
def published(served):
    """An authority with two released batches, the first of three files."""
    served.add_feed("north", max_keys=7)
    served.add_keys(20, seed=1)
    served.close_windows()
    served.add_keys(5, seed=2)
    served.close_windows()
    assert served.export() == [1, 2]
    return served


def lines(authority) -> list[str]:
    return client.fetch_index(f"{authority.public_url}/north/index.txt")


def objects(authority) -> set[str]:
    return {name for name in authority.released_files() if name.endswith(".zip")}


def names(authority, batch_id: int) -> set[str]:
    return {name for (name,) in authority.sql("SELECT name FROM file WHERE batch_id = %(id)s", id=batch_id)}


def told(authority, line: str) -> tuple[set[bytes], set[bytes]]:
    file = exportreader.read(client.fetch_file(f"{authority.public_url}/", line))
    return {key.key for key in file.keys}, {key.key for key in file.revised_keys}


class Reader(threading.Thread):
    """Reads the index, and the files that it ends with, all the time."""

    def __init__(self, authority) -> None:
        super().__init__()
        self.authority = authority
        self.seen: set[tuple[str, ...]] = set()
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.read()
        except KeyserverError as error:
            self.wrong.append(repr(error))

    def read(self) -> None:
        listed = lines(self.authority)  # raises for a torn one
        for line in listed[-3:]:
            try:
                told(self.authority, line)
            except RemoteError:
                if line in lines(self.authority):
                    self.wrong.append(line)
        self.seen.add(tuple(listed))

    def await_the_present(self) -> None:
        while tuple(lines(self.authority)) not in self.seen:
            assert self.is_alive(), self.wrong
            time.sleep(0.01)


def test_lines_leave_the_index_first_and_objects_the_store_after(published):
    first, second = names(published, 1), names(published, 2)
    withdraw.withdraw(published.runtime(), 1, "wrong region")
    assert set(lines(published)) == second
    assert objects(published) == first | second
    assert published.statuses() == {1: "withdrawing", 2: "released"}

    withdraw.finish(published.runtime(), 1)
    assert objects(published) == second
    assert published.statuses() == {1: "withdrawn", 2: "released"}
    assert published.sql("SELECT DISTINCT status, left_index_at IS NULL FROM file WHERE batch_id = 1") == [
        ("withdrawn", False)
    ]
    assert published.sql("SELECT reason FROM batch WHERE id = 1") == [("wrong region",)]


def test_the_audit_trail_tells_both_steps_and_why(published):
    withdraw.withdraw(published.runtime(), 1, "wrong region")
    withdraw.finish(published.runtime(), 1)
    begun, ended = events(published, "batch.withdrawing", "batch.withdrawn")
    assert begun["subject"] == {"batch": 1, "feed": "north", "reason": "wrong region"}
    assert begun["counts"] == {"files": 3, "lines": 3}
    assert len(begun["hashes"]) == 3
    assert (ended["subject"], ended["counts"]) == ({"batch": 1, "feed": "north"}, {"files": 3})


def test_done_twice_each_step_changes_nothing(published):
    for step in (lambda run: withdraw.withdraw(run, 1, "wrong"), lambda run: withdraw.finish(run, 1)):
        step(published.runtime())
        before = everything(published)
        step(published.runtime("run-2"))
        assert everything(published) == before
    withdraw.withdraw(published.runtime(), 1, "wrong")
    assert everything(published) == before


def test_it_is_only_withdrawn_when_the_public_urls_say_so(published):
    """A CDN that still has the file: the objects are gone, the batch stays where it is, and the same call ends it."""
    withdraw.withdraw(published.runtime(), 1, "wrong")
    copies = {name: (published.public / name).read_bytes() for name in sorted(names(published, 1))}
    runtime = published.runtime()
    purge = type(runtime.blobs).purge
    purged: list[str] = []

    def slow_cache(blobs, paths) -> None:
        purge(blobs, paths)
        purged.extend(paths)
        for name, data in copies.items():
            (published.public / name).write_bytes(data)
        copies.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runtime.blobs), "purge", slow_cache)
        with pytest.raises(RemoteError, match=r"3 of 3 public URLs of batch 1 .* by status 200"):
            withdraw.finish(runtime, 1)
        assert published.statuses()[1] == "withdrawing"
        withdraw.finish(runtime, 1)
    assert published.statuses()[1] == "withdrawn"
    assert set(purged) == {f"public/{name}" for name in (*names(published, 1), "north/index.txt")}


def test_without_a_public_url_the_objects_go_and_the_batch_is_not_said_to_be_gone(published):
    published.public_url = None
    withdraw.withdraw(published.runtime(), 1, "wrong")
    with pytest.raises(ConfigurationError, match="KEYSERVER_PUBLIC_URL"):
        withdraw.finish(published.runtime(), 1)
    assert objects(published) == names(published, 2)
    assert published.statuses()[1] == "withdrawing"


@pytest.mark.parametrize(
    ("status", "message"),
    [("planned", "is planned, not released and withdrawn$"), ("held", "it was never released; reject it")],
)
def test_what_was_never_released_is_not_withdrawn(authority, status, message):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    authority.sql("UPDATE batch SET status = %(status)s, problem = 'x'", status=status)
    for attempt in (
        lambda: withdraw.withdraw(authority.runtime(), 1, "wrong"),
        lambda: withdraw.finish(authority.runtime(), 1),
        lambda: withdraw.for_good(authority.runtime(), 1, "wrong"),
        lambda: withdraw.approval_text(authority.runtime(), 1, "wrong"),
    ):
        with pytest.raises(ConflictError, match=message):
            attempt()
    assert authority.statuses() == {1: status}


def test_it_needs_a_reason_and_two_steps(published):
    with pytest.raises(FormatError, match="a reason is needed"):
        withdraw.withdraw(published.runtime(), 1, " ")
    with pytest.raises(ConflictError, match="is released, not released and withdrawn"):
        withdraw.finish(published.runtime(), 1)
    with pytest.raises(ConflictError, match="there is no batch 9"):
        withdraw.withdraw(published.runtime(), 9, "wrong")
    assert published.statuses() == {1: "released", 2: "released"}


def test_its_keys_can_be_released_again_below_all_others(published):
    before = [told(published, line)[0] for line in lines(published)[:3]]
    withdraw.withdraw(published.runtime(), 1, "signed by a stolen key")
    withdraw.finish(published.runtime(), 1)
    replace.replace(published.runtime(), 1, "signed again")
    assert published.export() == [3]
    after = lines(published)
    assert after[0] in names(published, 2)
    assert set(after[1:]) == names(published, 3)
    assert [told(published, line)[0] for line in after[1:]] == before


def test_dropped_for_good_nothing_of_it_comes_back_but_the_revisions_that_it_alone_carried(served):
    served.add_feed("north")
    old = served.add_keys(4, seed=1)
    served.close_windows()
    served.export()
    served.revise(old[:1], "negative")
    served.revise(old[1:2], "confirmed")
    new = served.add_keys(4, seed=2)
    served.close_windows()
    assert served.export() == [2]
    assert told(served, lines(served)[1]) == (set(new), set(old[:2]))

    withdraw.withdraw(served.runtime(), 2, "wrong")
    withdraw.finish(served.runtime(), 2)
    assert "Revisions that this batch alone carried: **2**" in withdraw.approval_text(served.runtime(), 2, "wrong")
    planned = withdraw.for_good(served.runtime(), 2, "these people were never tested")
    assert served.sql("SELECT with_keys, supplement FROM batch WHERE id = 3") == [(False, True)]
    before = everything(served)
    assert withdraw.for_good(served.runtime("run-2"), 2, "these people were never tested") == planned
    assert everything(served) == before
    assert served.export() == [planned]
    assert told(served, lines(served)[1]) == (set(), set(old[:2]))


def test_dropped_for_good_with_its_revisions_nothing_comes_back(published):
    withdraw.withdraw(published.runtime(), 1, "wrong")
    withdraw.finish(published.runtime(), 1)
    before = everything(published)
    assert withdraw.for_good(published.runtime(), 1, "wrong", keep_revisions=False) is None
    assert withdraw.for_good(published.runtime(), 1, "wrong") is None  # it carried none
    assert everything(published) == before


def test_a_batch_that_is_built_meanwhile_does_not_tell_revisions_of_keys_that_are_taken_back(served):
    """The withdrawal comes between the building and its writing down: what was built is thrown away (K3)."""
    served.add_feed("north")
    keys = served.add_keys(4)
    served.close_windows()
    served.export()
    served.revise(keys[:1], "confirmed")
    served.revise(keys[1:2], "negative")
    served.add_keys(2, seed=2)
    served.close_windows()
    (claimed,) = claim_due(served.runtime())
    runtime = served.runtime()
    put = type(runtime.blobs).put_if_absent

    def withdrawn_meanwhile(blobs, *arguments, **named) -> None:
        put(blobs, *arguments, **named)
        if served.statuses()[1] == "released":
            withdraw.withdraw(served.runtime("operator"), 1, "wrong")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runtime.blobs), "put_if_absent", withdrawn_meanwhile)
        with pytest.raises(RemoteError, match="was withdrawn while"):
            STEPS["build"](runtime, claimed.batch_id)
    for step in STEPS.values():
        step(runtime, claimed.batch_id)
    (line,) = lines(served)
    assert told(served, line)[1] == {keys[1]}


def test_the_approval_text_says_what_cannot_be_undone(published):
    text = withdraw.approval_text(published.runtime(), 1, "wrong *region* <script>")
    assert "batch 1 of feed north" in text
    assert "files 3, keys 20" in text
    assert all(name in text for name in names(published, 1))
    assert "Confirmed matches on phones cannot be recalled" in text
    assert "read the whole index again" in text
    assert r"wrong \*region\* \<script\>" in text


def test_a_reader_never_sees_a_torn_index_or_a_line_whose_file_is_missing(published):
    """It polls while batches are released, withdrawn, and released again, and sees each index that there was."""
    reader = Reader(published)
    reader.start()
    try:
        for seed in (11, 12):
            published.add_keys(9, seed=seed)
            published.close_windows()
            published.export()
            reader.await_the_present()
            newest = max(published.statuses())
            withdraw.withdraw(published.runtime(), newest, "wrong")
            reader.await_the_present()
            withdraw.finish(published.runtime(), newest)
            replace.replace(published.runtime(), newest, "again")
            published.export()
            reader.await_the_present()
    finally:
        reader.ended.set()
        reader.join(30)
    assert reader.wrong == []


def test_lines_that_had_expired_are_taken_out_of_the_store_too(published):
    published.sql("UPDATE file SET status = 'expired' WHERE batch_id = 1 AND number = 1")
    withdraw.withdraw(published.runtime(), 1, "wrong")
    withdraw.finish(published.runtime(), 1)
    assert objects(published) == names(published, 2)
    assert published.sql("SELECT status FROM file WHERE batch_id = 1 ORDER BY number") == [
        ("deleted",),
        ("withdrawn",),
        ("withdrawn",),
    ]


def test_an_object_that_a_lost_release_put_is_removed_once_its_batch_is_held(authority):
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    claim_due(authority.runtime())
    for step in ("build", "check", "sign", "verify"):
        STEPS[step](authority.runtime(), 1)
    runtime = authority.runtime()
    (path,) = (f"public/{name}" for name in names(authority, 1))
    ((digest,),) = authority.sql("SELECT zip_sha256 FROM file")
    data = runtime.blobs.read(f"staging/{digest.hex()}.zip").data
    runtime.blobs.put_if_absent(path, data, content_type="application/zip", cache_control="no-store")
    assert release.remove_unlisted(runtime) == []  # it may just be on its way
    authority.sql("UPDATE batch SET status = 'held', problem = 'its steps failed'")
    assert release.remove_unlisted(runtime) == sorted(names(authority, 1))
    assert objects(authority) == set()
    assert release.remove_unlisted(runtime) == []


def test_nothing_else_in_the_public_folder_is_removed(published):
    (published.public / "north" / "by-hand.zip").write_bytes(b"x")
    assert hold_next(published) == 3
    decide.approve(published.runtime(), 3, "fine")
    published.export()
    before = published.released_files()
    assert release.remove_unlisted(published.runtime()) == []
    assert index.write_all(published.runtime()) == 0
    assert published.released_files() == before


def test_an_object_put_late_by_a_frozen_run_is_removed_after_the_withdrawal(published):
    name = min(names(published, 1))
    data = (published.public / name).read_bytes()
    withdraw.withdraw(published.runtime(), 1, "wrong")
    withdraw.finish(published.runtime(), 1)
    (published.public / name).write_bytes(data)
    assert release.remove_unlisted(published.runtime()) == [name]
    (published.public / name).write_bytes(data)
    published.database.pass_time(timedelta(days=15))
    assert release.remove_unlisted(published.runtime()) == []  # retention's from here on
