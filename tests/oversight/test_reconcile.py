"""The database was restored from an older backup: what the store knows beside it is found, and settled (A3, B9).

A restore is played as it is: the database is cloned, more is released from the original, and then work goes on with the
clone and the store that the original has written to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from keyserver.device import client, releaselog
from keyserver.errors import VerificationError
from keyserver.export import index, replace, transparency, withdraw
from keyserver.oversight import reconcile
from keyserver.oversight.restored import Findings, find
from keyserver.protocol.signature import load_public_key
from tests.export.conftest import Authority
from tests.export.operators import events
from tests.test_cli import keyserver

EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def settle(authority: Authority, found: Findings | None = None) -> list[str]:
    """As the command does."""
    runtime = authority.runtime()
    taken_back = []

    def take_back(batch: int, reason: str) -> None:
        withdraw.withdraw(runtime, batch, reason)
        taken_back.append(batch)

    hands = reconcile.Hands(take_back, partial(replace.replace, runtime), partial(index.write_all, runtime))
    done = reconcile.settle(runtime, found or find(runtime), hands)
    for batch in taken_back:
        withdraw.finish(runtime, batch)
    return done


def publish(authority: Authority) -> None:
    transparency.publish_logs(authority.runtime())


def release(authority: Authority, keys: int, seed: int, at: datetime | None = None) -> int:
    """Release what is uploaded in one window; those since the last one had no upload, and are closed at once."""
    if at is not None:
        authority.database.set_time(at)
    now = authority.database.now()
    authority.sql("UPDATE release_clock SET closed_through = %(now)s, rewritten_through = %(now)s", now=now)
    authority.add_keys(keys, seed=seed)
    authority.close_windows()
    batch = authority.export()[-1]
    publish(authority)
    return batch


def lines(authority: Authority) -> list[str]:
    return client.fetch_index(f"{authority.public_url}/north/index.txt")


def objects(authority: Authority) -> set[str]:
    return {name for name in authority.released_files() if name.endswith(".zip")}


def log(authority: Authority, kept: releaselog.Checkpoint | None = None) -> releaselog.LogReport:
    return releaselog.check_log(
        f"{authority.public_url}/north/index.txt",
        authority.database.now(),
        public_keys=[load_public_key(authority.log_key)],
        kept=kept,
    )


@pytest.fixture
def running(served: Authority) -> Authority:
    """A feed with one released batch and two days of a log."""
    served.log_key = served.add_log_key()
    served.add_feed("north")
    release(served, 3, seed=1)
    release(served, 2, seed=2, at=EVENING)
    return served


@pytest.fixture
def restore(make_database: Callable[..., object]) -> Callable[[Authority], Callable[[], None]]:
    """Back a database up; what is given puts the backup in its place."""

    def back_up(authority: Authority) -> Callable[[], None]:
        close(authority)
        backup = make_database(authority.database.name)

        def put_in_place() -> None:
            close(authority)
            now = authority.database.now()
            authority.database = backup
            backup.set_time(now)  # a restored database does not stop the clock

        return put_in_place

    return back_up


def close(authority: Authority) -> None:
    for opened in authority.opened:
        opened.close()
    authority.opened.clear()


@pytest.fixture
def restored(running: Authority, restore) -> Authority:
    """Restored from before a third batch and the end of a day, both of which were public."""
    put_in_place = restore(running)
    assert release(running, 4, seed=3, at=NOON) == 3
    running.lost = set(lines(running)) - {*names(running, 1), *names(running, 2)}
    running.database.set_time(NOON + DAY)
    publish(running)
    running.before = log(running)
    assert running.before.findings == []
    put_in_place()
    return running


def names(authority: Authority, batch: int) -> set[str]:
    return {name for (name,) in authority.sql("SELECT name FROM file WHERE batch_id = %(batch)s", batch=batch)}


# Looking


def test_where_nothing_was_restored_nothing_is_found_and_nothing_done(running):
    before = running.released_files(), running.sql("SELECT max(seq) FROM audit_event")
    found = find(running.runtime())
    assert found.problems == []
    assert found.sentences() == [
        "Store and database agree: every public object is known, and every listed file is there."
    ]
    assert settle(running, found) == []
    assert (running.released_files(), running.sql("SELECT max(seq) FROM audit_event")) == before


def test_while_work_goes_on_nothing_is_found(running):
    """A file that is put and not released yet, a line that is said and not public yet, a batch being withdrawn."""
    running.add_keys(1, seed=9)
    running.close_windows()
    running.export()  # its lines are not published
    withdraw.withdraw(running.runtime(), 1, "a mistake")
    assert find(running.runtime()).problems == []


def test_looking_names_what_is_unknown_and_changes_nothing(restored):
    before = restored.released_files(), restored.sql("SELECT max(seq) FROM audit_event")
    found = find(restored.runtime())
    (north,) = found.roots
    assert set(north.unknown) == restored.lost
    assert [segment.day for segment in north.log] == [date(2026, 3, day) for day in (2, 3, 4)]
    assert north.unsigned == []
    assert (north.lost_files, north.lost_keys) == (1, 4)
    text = "\n".join(found.sentences())
    assert next(iter(restored.lost)) in text
    assert "the public log says from 2026-03-02 to 2026-03-04 what the database does not" in text
    assert "1 file with 4 keys were released since the backup" in text
    assert "has to be decided again" in text
    assert (restored.released_files(), restored.sql("SELECT max(seq) FROM audit_event")) == before


def test_a_log_that_no_key_of_ours_signed_is_said_to_be_somebody_else_s(restored):
    restored.sql("DELETE FROM transparency_signature")
    restored.sql("DELETE FROM signing_key WHERE purpose = 'transparency'")
    (north,) = find(restored.runtime()).roots
    assert north.unsigned == [segment.day for segment in north.log]
    assert "somebody else wrote them" in "\n".join(find(restored.runtime()).sentences())


# Settling


def test_what_is_unknown_goes_and_the_log_is_moved_aside(restored):
    with pytest.raises(VerificationError, match="keyserver reconcile"):
        publish(restored)
    old = {name: data for name, data in restored.released_files().items() if name.startswith("north/log/2026")}

    done = settle(restored)

    assert find(restored.runtime()).problems == []
    assert objects(restored) == {*names(restored, 1), *names(restored, 2)}
    assert set(lines(restored)) == objects(restored)
    (archive,) = {name.rpartition("/")[0] for name in restored.released_files() if "before-restore/2026" in name}
    files = restored.released_files()
    days = ["2026-03-02", "2026-03-03", "2026-03-04"]  # the first was open when the backup was made, and ended since
    moved = [f"{archive}/{day}.txt" for day in days]
    assert [files[name] for name in moved] == [old[f"north/log/{day}.txt"] for day in days]
    assert files["north/log-before-restore/index.txt"].decode().split("\n") == moved
    assert any(archive in sentence for sentence in done)
    assert client.fetch_index(f"{restored.public_url}/north/log/index.txt") == ["north/log/2026-03-01.txt"]


def test_an_event_tells_of_the_last_public_checkpoint_and_of_the_archive(restored):
    settle(restored)
    (told,) = events(restored, "database.restored")
    last = restored.before.checkpoint
    head = restored.before.segments[-2].head
    assert told["subject"] == {
        "feed": "north",
        "root": "north",
        "day": last.day,
        "archive": f"north/log-before-restore/{last.day}-{last.sha256[:8]}",
    }
    assert told["counts"] == {"lines": last.lines, "head_seq": head[1], "segments": 3}
    assert told["hashes"] == {"segment": last.sha256, "head": head[2]}
    (reconciled,) = events(restored, "store.reconciled")
    assert reconciled["counts"] == {"removed": 1, "altered": 0, "missing": 0, "withdrawn_again": 0}


def test_the_log_goes_on_from_the_restored_database(restored):
    settle(restored)
    publish(restored)
    release(restored, 5, seed=5)
    report = log(restored)
    assert report.findings == []
    days = [segment.day for segment in report.segments]
    assert days == [date(2026, 3, 1) + number * DAY for number in range(4)]
    assert find(restored.runtime()).problems == []


def test_whoever_kept_a_checkpoint_sees_the_restore_and_is_shown_where_the_old_log_lies(restored):
    settle(restored)
    publish(restored)
    changed, where = log(restored, restored.before.checkpoint).findings
    assert "rewritten or taken away" in changed
    assert "north/log-before-restore/2026-03-04" in where
    assert "restored from an older backup" in where
    older = releaselog.Checkpoint.of(restored.before.segments[0])
    assert log(restored, older).findings == []  # what was before the backup stands


def test_what_was_withdrawn_since_the_backup_is_withdrawn_again(running, restore):
    put_in_place = restore(running)
    withdraw.withdraw(running.runtime(), 1, "a bad file")
    withdraw.finish(running.runtime(), 1)
    publish(running)
    put_in_place()
    assert running.statuses() == {1: "released", 2: "released"}

    found = find(running.runtime())
    assert [root.withdrawn_before for root in found.roots] == [[1]]
    assert "withdrawn by the public log: batch 1" in "\n".join(found.sentences())
    done = settle(running, found)

    assert any("keyserver export replace 1" in sentence for sentence in done)
    assert running.statuses() == {1: "withdrawn", 2: "released"}
    assert set(lines(running)) == names(running, 2) == objects(running)
    publish(running)
    assert log(running).findings == []


def test_a_feed_that_the_database_does_not_know_is_taken_down_and_its_log_kept(running, restore):
    put_in_place = restore(running)
    running.add_feed("south")
    running.add_keys(2, seed=5)
    running.close_windows()
    assert len(running.export()) == 2
    publish(running)
    put_in_place()

    found = find(running.runtime())
    south = next(root for root in found.roots if root.root == "south")
    assert south.feed is None
    settle(running, found)

    left = {name for name in running.released_files() if name.startswith("south/")}
    assert all(name.startswith("south/log-before-restore/") for name in left)
    assert len(left) == 3  # two days and their list
    told = {event["subject"]["root"]: event["subject"]["feed"] for event in events(running, "database.restored")}
    assert told == {"south": None, "north": "north"}
    assert find(running.runtime()).problems == []


def test_objects_of_no_feed_are_named_and_removed(running):
    running.runtime().blobs.put_if_absent("public/strange/file.txt", b"x", "text/plain", "no-store")
    running.runtime().blobs.put_if_absent("public/north/strange.zip", b"x", "text/plain", "no-store")
    found = find(running.runtime())
    assert found.others == ["strange/file.txt"]
    assert found.roots[0].unknown == ["north/strange.zip"]
    settle(running, found)
    assert find(running.runtime()).problems == []
    assert events(running, "database.restored") == []
    assert len(events(running, "store.reconciled")) == 1


def test_a_listed_file_that_is_missing_or_altered_is_put_back(running):
    (first,), (second,) = names(running, 1), names(running, 2)
    before = running.released_files()
    (running.public / first).unlink()
    (running.public / second).write_bytes(b"other bytes")
    found = find(running.runtime())
    assert [file.name for file in found.roots[0].missing] == [first]
    assert [file.name for file in found.roots[0].altered] == [second]
    assert settle(running, found) == [f"{second} is put back.", f"{first} is put back."]
    assert running.released_files() == before
    assert running.statuses() == {1: "released", 2: "released"}


def test_a_lost_file_of_which_nothing_is_staged_is_made_again(running):
    (name,) = names(running, 1)
    (running.public / name).unlink()
    for staged in (running.folder / "blobs" / "staging").iterdir():
        staged.unlink()
    (sentence,) = settle(running)
    assert sentence == "Batch 1 is withdrawn, its files are lost; batch 3 is planned in its place."
    assert running.export() == [3]
    assert find(running.runtime()).problems == []
    assert len(lines(running)) == 2


def test_a_missing_file_that_no_log_vouches_for_is_not_put_back(served):
    """Without a log nobody can tell a lost file from one that was taken away since the backup."""
    served.add_feed("north")
    served.add_keys(3)
    served.close_windows()
    assert served.export() == [1]
    (name,) = names(served, 1)
    (served.public / name).unlink()
    (sentence,) = settle(served)
    assert "keyserver export replace 1" in sentence
    assert served.statuses() == {1: "withdrawn"}
    assert lines(served) == []
    assert find(served.runtime()).problems == []


def test_a_file_that_is_gone_because_it_is_too_old_is_left_to_retention(running):
    (name,) = names(running, 1)
    (running.public / name).unlink()
    running.database.pass_time(14 * DAY)
    assert settle(running) == [f"{name} is too old: enforce_retention takes it out of the index."]
    assert running.statuses() == {1: "released", 2: "released"}


def test_a_second_restore_from_the_same_backup_has_an_archive_of_its_own(running, restore, make_database):
    close(running)
    backups = [make_database(running.database.name) for _ in range(2)]
    release(running, 4, seed=3, at=NOON)
    for number, backup in enumerate(backups):
        close(running)
        backup.set_time(running.database.now())
        running.database = backup
        settle(running)
        if number == 0:
            release(running, 5, seed=5)
    assert find(running.runtime()).problems == []
    archives = client.fetch_index(f"{running.public_url}/north/log-before-restore/index.txt")
    folders = list(dict.fromkeys(name.rpartition("/")[0] for name in archives))
    assert len(folders) == 2
    # The second restore lost the event of the first one, too: it is told again.
    told = [event["subject"]["archive"] for event in events(running, "database.restored")]
    assert sorted(told) == sorted(folders)


# Cut off


class Dies(Exception):  # noqa: N818 - a process that ends, not an error
    """Where a process is killed."""


OPERATIONS = ("put_if_absent", "replace", "delete", "purge")


class DyingBlobs:
    """A store whose process dies at one of its writes."""

    def __init__(self, blobs, after: int) -> None:
        self.blobs, self.left = blobs, after

    def __getattr__(self, name: str):
        if name in OPERATIONS:
            if self.left == 0:
                raise Dies
            self.left -= 1
        return getattr(self.blobs, name)


def test_cut_off_at_any_write_and_run_again_it_ends_the_same(restored, make_database):
    """Everything that is said is said once, whichever write it died at."""
    close(restored)
    source = restored.database.name
    store = everything_in(restored)
    results = []
    for after in range(40):
        restored.database = make_database(source)
        put_back(restored, store)
        runtime = restored.runtime()
        dying = DyingBlobs(runtime.blobs, after)
        object.__setattr__(runtime, "blobs_or_none", dying)
        hands = reconcile.Hands(
            partial(withdraw.withdraw, runtime), partial(replace.replace, runtime), partial(index.write_all, runtime)
        )
        try:
            reconcile.settle(runtime, find(runtime), hands)
            is_through = True
        except Dies:
            is_through = False
            assert find(restored.runtime()).problems != [] or dying.left == 0
        settle(restored)
        assert find(restored.runtime()).problems == []
        told = [(event["subject"], event["counts"], event["hashes"]) for event in events(restored, "database.restored")]
        results.append((restored.released_files(), told))
        close(restored)
        if is_through:
            break
    assert is_through
    assert len(results) > 8
    assert all(result == results[0] for result in results)
    assert len(results[0][1]) == 1


def everything_in(authority: Authority) -> dict[str, bytes]:
    blobs = authority.folder / "blobs"
    return {
        str(path.relative_to(blobs)): path.read_bytes()
        for path in blobs.rglob("*")
        if path.is_file() and ".unfinished" not in path.parts
    }


def put_back(authority: Authority, store: dict[str, bytes]) -> None:
    blobs = authority.folder / "blobs"
    for name in everything_in(authority):
        (blobs / name).unlink()
    for name, data in store.items():
        (blobs / name).parent.mkdir(parents=True, exist_ok=True)
        (blobs / name).write_bytes(data)


# The command


def command(authority: Authority, *arguments: str) -> subprocess.CompletedProcess[str]:
    return keyserver(
        "reconcile",
        *arguments,
        KEYSERVER_PIPELINE_DATABASE_URL=authority.database.url("keyserver_pipeline"),
        KEYSERVER_BLOBS_URL=f"file://{authority.folder}/blobs",
        KEYSERVER_PUBLIC_URL=authority.public_url,
    )


def test_the_command_looks_unless_it_is_told_to_confirm(restored):
    looked = command(restored)
    assert looked.returncode == 1
    assert next(iter(restored.lost)) in looked.stdout
    assert "run it with --confirm" in looked.stderr
    assert events(restored, "database.restored") == []
    done = command(restored, "--confirm")
    assert done.returncode == 0, done.stderr
    assert "north/log-before-restore/" in done.stdout
    again = command(restored, "--confirm")
    assert (again.returncode, "agree" in again.stdout) == (0, True)
    (told,) = events(restored, "database.restored")
    assert told["actor"] == "keyserver reconcile"
