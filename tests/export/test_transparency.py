"""The public log: a signed function of the database, whoever writes it, however often, and whatever kills them (A3)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyserver.audit import recorded
from keyserver.device.releaselog import check_log
from keyserver.errors import ConfigurationError, RemoteError, VerificationError
from keyserver.export import due, logline
from keyserver.export.transparency import publish_log, publish_logs
from keyserver.protocol import signature
from keyserver.protocol.intervals import interval_at
from keyserver.protocol.transparency import NOTHING, parse, sha256
from keyserver.store import batches, files
from tests.conftest import START
from tests.export.conftest import Authority, run_steps

TODAY = START.date()
DAY = timedelta(days=1)
BEFORE, AFTER = TODAY - DAY, TODAY + DAY


def log(authority: Authority, root: str = "north") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((authority.public / root / "log").glob("*.txt"))}


def segment(authority: Authority, day: date, root: str = "north"):
    return parse(log(authority, root)[f"{day}.txt"])[0]


def events(authority: Authority) -> list[dict]:
    return [json.loads(body) for (body,) in authority.sql("SELECT body FROM audit_event ORDER BY seq")]


def release_one(authority: Authority, seed: int = 1) -> int:
    authority.add_keys(5, seed=seed, interval_number=interval_at(START - 3 * DAY))
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    run_steps(authority.runtime(), claimed.batch_id)
    return claimed.batch_id


def withdraw(authority: Authority, batch_id: int) -> None:
    """Say it, as the withdrawal does in its transaction."""
    runtime = authority.runtime()
    with runtime.database.connection() as connection:
        batch = batches.read(connection, batch_id)
    with recorded(runtime.database, runtime.actor) as work:
        logline.say(work, batch, "withdrawal")


@pytest.fixture
def north(authority: Authority) -> Authority:
    authority.add_feed("north")
    authority.add_log_key()
    return authority


# What it says


def test_a_log_begins_with_the_head_of_the_day_before(north):
    assert publish_logs(north.runtime()) == 3
    assert list(log(north)) == [f"{BEFORE}.txt", f"{TODAY}.txt", "index.txt"]
    assert log(north)["index.txt"] == f"north/log/{BEFORE}.txt\nnorth/log/{TODAY}.txt".encode()
    first, second = segment(north, BEFORE), segment(north, TODAY)
    assert (first.previous, first.entries, first.head.seq, first.head.at) == (NOTHING, (), 0, START)
    assert (second.entries, second.head) == ((), None)


def test_a_release_is_one_line_a_file_with_what_phones_can_compare(authority):
    authority.add_feed("north", max_keys=3, padding_minimum=4)
    authority.add_log_key()
    batch_id = release_one(authority)
    publish_logs(authority.runtime())

    lines = segment(authority, TODAY).entries
    names = (authority.public / "north" / "index.txt").read_text().split("\n")
    assert [line.name for line in lines] == names
    rows = authority.sql(
        "SELECT starts_at, ends_at, keys + revised_keys, export_sha256"
        " FROM file WHERE batch_id = %(batch)s ORDER BY number",
        batch=batch_id,
    )
    for line, row in zip(lines, rows, strict=True):
        assert (line.kind, line.at) == ("release", authority.database.now())
        assert (line.starts_at, line.ends_at, line.keys, line.export_sha256) == row
        assert line.zip_sha256 == hashlib.sha256((authority.public / line.name).read_bytes()).digest()


def test_a_withdrawal_repeats_what_was_released(north):
    batch_id = release_one(north)
    north.database.pass_time(timedelta(minutes=1))
    withdraw(north, batch_id)
    publish_logs(north.runtime())
    released, withdrawn = segment(north, TODAY).entries
    assert withdrawn == replace(released, kind="withdrawal", at=north.database.now())


def test_counts_by_reason_are_not_in_it(north):
    """Of a padded file only the total is told."""
    north.sql("UPDATE feed SET padding_minimum = 40")
    release_one(north)
    publish_logs(north.runtime())
    (line,) = segment(north, TODAY).entries
    assert line.keys >= 40
    (text,) = [line for line in log(north)[f"{TODAY}.txt"].decode().split("\n") if line.startswith("release")]
    assert text.split(" ")[5] == str(line.keys)
    assert len(text.split(" ")) == 8


def test_a_day_ends_with_the_audit_chains_head(north):
    release_one(north)
    publish_logs(north.runtime())
    ((seq, head),) = north.sql("SELECT seq, hash FROM audit_event ORDER BY seq DESC LIMIT 1")
    north.database.set_time(START + timedelta(hours=14, seconds=3))
    assert publish_logs(north.runtime()) == 3
    today = segment(north, TODAY)
    assert (today.head.at, today.head.seq, today.head.sha256) == (north.database.now(), seq, head)
    _, text = parse(log(north)[f"{TODAY}.txt"])
    assert segment(north, AFTER).previous == sha256(text)
    closed = [event for event in events(north) if event["kind"] == "log.day_closed"]
    assert [event["subject"] for event in closed] == [{"feed": "north", "day": str(day)} for day in (BEFORE, TODAY)]
    assert closed[1]["hashes"] == {"segment": sha256(text).hex(), "head": head.hex()}


def test_the_first_release_of_a_day_ends_the_day_before(authority):
    """Though the step did not run between them."""
    last_minutes = START + timedelta(hours=13, minutes=58)
    authority.sql("UPDATE release_clock SET closed_through = %(at)s, rewritten_through = %(at)s", at=last_minutes)
    authority.database.set_time(last_minutes)
    authority.add_feed("north")
    authority.add_log_key()
    for seed in (1, 2, 3):
        release_one(authority, seed)
    publish_logs(authority.runtime())
    assert [len(segment(authority, day).entries) for day in (BEFORE, TODAY, AFTER)] == [0, 1, 2]
    assert segment(authority, TODAY).head.at == segment(authority, AFTER).entries[0].at


def test_every_day_has_a_segment_also_after_days_of_silence(north):
    publish_logs(north.runtime())
    north.database.set_time(START + 4 * DAY)
    assert publish_logs(north.runtime()) == 6
    days = [TODAY + n * DAY for n in range(-1, 5)]
    assert list(log(north)) == [*(f"{day}.txt" for day in days), "index.txt"]
    assert [segment(north, day).head is None for day in days] == [False] * 5 + [True]


def test_a_clock_that_goes_back_turns_nothing_around(north):
    release_one(north)
    north.database.set_time(START + DAY)
    publish_logs(north.runtime())
    north.database.set_time(START + timedelta(hours=1))
    with_key = north.sql("SELECT id FROM batch")[0][0]
    withdraw(north, with_key)
    publish_logs(north.runtime())
    (line,) = segment(north, AFTER).entries
    assert line.at == segment(north, TODAY).head.at == START + DAY


def test_times_in_it_are_of_whole_seconds(north):
    north.database.set_time(START + timedelta(seconds=1, microseconds=7))
    publish_logs(north.runtime())
    assert segment(north, BEFORE).head.at == START + timedelta(seconds=1)


def test_each_feed_has_a_log_of_its_own(north):
    north.add_feed("south", input_regions=["SE"])
    release_one(north)
    publish_logs(north.runtime())
    assert [len(segment(north, TODAY, root).entries) for root in ("north", "south")] == [1, 0]
    assert segment(north, TODAY, "south").root == "south"


# Signed


def test_openssl_verifies_a_segment_as_documented(north, tmp_path):
    """The very commands of docs/transparency.md, on a day of that date; sha256sum gives what the next one names."""
    page = (Path(__file__).parents[2] / "docs" / "transparency.md").read_text(encoding="utf-8")
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "openssl dgst" in block]
    assert f"{TODAY}.txt" in commands
    release_one(north)
    north.database.set_time(START + DAY)
    publish_logs(north.runtime())
    for name, content in log(north).items():
        (tmp_path / name).write_bytes(content)
    ((public_key,),) = north.sql("SELECT public_key FROM signing_key WHERE purpose = 'transparency'")
    (tmp_path / "log.pem").write_text(public_key)
    done = subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"Verified OK\n{segment(north, AFTER).previous.hex()}  lines.txt\n"


def test_a_reader_that_shares_no_code_with_it_finds_nothing_wrong(served):
    served.add_feed("north", max_keys=3)
    key = signature.load_public_key(served.add_log_key())
    release_one(served)
    publish_logs(served.runtime())
    served.database.set_time(START + DAY)
    publish_logs(served.runtime())
    file = (served.public / segment(served, TODAY).entries[0].name).read_bytes()
    index_url = f"{served.public_url}/north/index.txt"
    report = check_log(index_url, served.database.now(), public_keys=[key], file=file, download=True)
    assert report.findings == []
    assert "2 files were released, 0 of them withdrawn." in report.facts


def test_it_is_signed_by_the_logs_own_key(north):
    release_one(north)
    publish_logs(north.runtime())
    keys = dict(north.sql("SELECT purpose, public_key FROM signing_key"))
    for name, content in log(north).items():
        if name != "index.txt":
            _, text = parse(content)
            made = base64.b64decode(content[len(text) :].split(b" ")[2])
            signature.verify(signature.load_public_key(keys["transparency"]), made, sha256(text))
            with pytest.raises(VerificationError):
                signature.verify(signature.load_public_key(keys["export"]), made, sha256(text))


ANOTHER_PURPOSE = {
    "a feed": """INSERT INTO feed_signing_key (feed_id, signing_key_id)
                 SELECT feed.id, signing_key.id FROM feed, signing_key WHERE signing_key.purpose = 'transparency'""",
    "a batch": """INSERT INTO batch_signing_key (batch_id, position, signing_key_id)
                  SELECT batch.id, 9, signing_key.id FROM batch, signing_key
                   WHERE signing_key.purpose = 'transparency'""",
    "a segment": """INSERT INTO transparency_signature (sha256, signing_key_id, signature)
                    SELECT sha256(''), id, '' FROM signing_key WHERE purpose = 'export'""",
}


@pytest.mark.parametrize("what", ANOTHER_PURPOSE)
def test_no_key_has_two_purposes(north, what):
    release_one(north)
    with (
        psycopg.connect(north.database.url("keyserver_pipeline")) as connection,
        pytest.raises(psycopg.errors.ForeignKeyViolation),
    ):
        connection.execute(ANOTHER_PURPOSE[what])


def test_the_logs_key_signs_no_file(north):
    release_one(north)
    assert north.sql("SELECT purpose FROM signature JOIN signing_key ON id = signing_key_id") == [("export",)]


def test_without_an_active_key_nothing_is_published_and_days_end_all_the_same(authority):
    authority.add_feed("north")
    release_one(authority)
    with pytest.raises(ConfigurationError, match="purpose: transparency"):
        publish_logs(authority.runtime())
    assert log(authority) == {}
    authority.database.set_time(START + DAY)
    with pytest.raises(ConfigurationError):
        publish_logs(authority.runtime())
    authority.add_log_key()
    publish_logs(authority.runtime())
    assert [len(segment(authority, day).entries) for day in (BEFORE, TODAY, AFTER)] == [0, 1, 0]


def test_a_new_key_changes_nothing_that_was_published(north):
    publish_logs(north.runtime())
    published = log(north)
    north.database.pass_time(timedelta(minutes=1))
    north.add_log_key("transparency-2", "log2")
    assert publish_logs(north.runtime()) == 0
    release_one(north)
    publish_logs(north.runtime())
    assert log(north)[f"{BEFORE}.txt"] == published[f"{BEFORE}.txt"]
    assert b"\nsignature 900-log2 " in log(north)[f"{TODAY}.txt"]


def test_after_a_revocation_another_key_signs_what_changes_no_line(north):
    publish_logs(north.runtime())
    texts = {name: content.rpartition(b"signature ")[0] for name, content in log(north).items()}
    north.add_log_key("transparency-2", "log2")
    north.sql("UPDATE signing_key SET revoked_at = keyserver_now() WHERE name = 'transparency'")
    assert publish_logs(north.runtime()) == 2
    assert {name: content.rpartition(b"signature ")[0] for name, content in log(north).items()} == texts
    assert all(b"\nsignature 900-log2 " in content for name, content in log(north).items() if name != "index.txt")


def test_what_a_key_signed_while_it_was_revoked_is_not_published(north):
    signer = north.runtime().signer

    class Revoked:
        def sign(self, name: str, digest: bytes) -> bytes:
            north.sql("UPDATE signing_key SET revoked_at = keyserver_now() WHERE name = 'transparency'")
            return signer.sign(name, digest)

    with pytest.raises(RemoteError, match="revoked while it signed"):
        publish_logs(replace(north.runtime(), signer_or_none=Revoked()))
    assert log(north) == {}
    with pytest.raises(ConfigurationError):
        publish_logs(north.runtime())
    north.add_log_key("transparency-2", "log2")
    assert publish_logs(north.runtime()) == 3


# A function of the database


class ForgetfulSigner:
    """Signs the same bytes otherwise each time, as most KMSs do."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.signed = 0

    def sign(self, name: str, digest: bytes) -> bytes:
        self.signed += 1
        key = load_pem_private_key((self.folder / f"{name}.pem").read_bytes(), None)
        return key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def test_written_twice_it_is_the_same_and_nothing_is_said(north):
    release_one(north)
    runtime = replace(north.runtime(), signer_or_none=ForgetfulSigner(north.folder / "signer"))
    publish_logs(runtime)
    published, before, signed = log(north), events(north), runtime.signer.signed
    assert publish_logs(runtime) == 0
    assert (log(north), events(north), runtime.signer.signed) == (published, before, signed)


def test_lost_objects_are_written_again_in_the_same_bytes(north):
    release_one(north)
    north.database.set_time(START + 3 * DAY)
    runtime = replace(north.runtime(), signer_or_none=ForgetfulSigner(north.folder / "signer"))
    publish_logs(runtime)
    published = log(north)
    for name in (f"{TODAY}.txt", f"{START.date() + 3 * DAY}.txt", "index.txt"):
        (north.public / "north" / "log" / name).unlink()
    assert publish_logs(runtime) == 3
    assert log(north) == published


def test_a_damaged_object_is_written_again(north):
    release_one(north)
    publish_logs(north.runtime())
    published = log(north)
    (north.public / "north" / "log" / f"{TODAY}.txt").write_bytes(b"\xff" * 100)
    assert publish_logs(north.runtime()) == 1
    assert log(north) == published


def test_a_database_that_knows_less_takes_nothing_back(north, make_database, make_authority):
    """A backup is restored that is older than the last release: what people read stays, and somebody is told."""
    publish_logs(north.runtime())
    for opened in north.opened:
        opened.close()
    restored = make_authority(make_database(north.database.name), "restored")
    release_one(north)
    publish_logs(north.runtime())
    for folder in ("blobs", "signer"):
        shutil.copytree(north.folder / folder, restored.folder / folder, dirs_exist_ok=True)
    published = log(restored)
    with pytest.raises(VerificationError, match="was it restored"):
        publish_logs(restored.runtime())
    restored.database.set_time(START + DAY)
    with pytest.raises(VerificationError, match="was it restored"):
        publish_logs(restored.runtime())
    assert log(restored) == published


def test_a_log_that_cannot_be_written_keeps_no_other_from_it(north):
    publish_logs(north.runtime())
    north.add_feed("south", input_regions=["SE"])
    (north.public / "north" / "log" / f"{TODAY}.txt").write_bytes(log(north)[f"{BEFORE}.txt"])
    with pytest.raises(VerificationError):
        publish_logs(north.runtime())
    assert list(log(north, "south")) == [f"{BEFORE}.txt", f"{TODAY}.txt", "index.txt"]


# Killed, raced


class Killed(BaseException):
    """The end of a process."""


class DyingBlobs:
    """A store whose process ends just before, or just after, one of its operations."""

    def __init__(self, blobs, operations: int, *, after: bool) -> None:
        self._blobs, self._left, self._after = blobs, operations, after

    def __getattr__(self, name: str):
        def operation(*arguments, **more):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            try:
                return getattr(self._blobs, name)(*arguments, **more)
            finally:
                if self._left == 0:
                    raise Killed

        return operation


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_anywhere_it_ends_in_the_same_bytes(north, make_database, make_authority, after):
    release_one(north)
    publish_logs(north.runtime())
    shutil.rmtree(north.public / "north" / "log")
    north.database.set_time(START + DAY)
    for opened in north.opened:
        opened.close()
    ended = []
    for operations in range(1, 30):
        twin = make_authority(make_database(north.database.name), f"twin-{operations}")
        for folder in ("blobs", "signer"):
            shutil.copytree(north.folder / folder, twin.folder / folder, dirs_exist_ok=True)
        runtime = twin.runtime()
        dying = replace(runtime, blobs_or_none=DyingBlobs(runtime.blobs, operations, after=after))
        try:
            publish_logs(dying)
            break
        except Killed:
            publish_logs(runtime)
        finally:
            ended.append((log(twin), [event["kind"] for event in events(twin)]))
            for opened in twin.opened:
                opened.close()
            twin.database.close()
    assert len(ended) > 8
    undisturbed = ended[-1]
    assert len(undisturbed[0]) == 4
    assert [other[0] == undisturbed[0] for other in ended] == [True] * len(ended)
    assert [sorted(other[1]) == sorted(undisturbed[1]) for other in ended] == [True] * len(ended)


def test_writers_that_race_show_only_whole_signed_segments_that_grow(north):
    """Two writers, a database that goes on to the next day, and a reader that polls all the time."""
    batch_id = release_one(north)
    publish_logs(north.runtime())
    key = signature.load_public_key(
        north.sql("SELECT public_key FROM signing_key WHERE purpose = 'transparency'")[0][0]
    )
    done = threading.Event()
    seen: list[dict[str, bytes]] = []

    def poll() -> None:
        while not done.is_set():
            seen.append({name: content for name, content in log(north).items() if name != "index.txt"})

    def write(number: int) -> None:
        runtime = replace(north.runtime(f"run-{number}"), signer_or_none=ForgetfulSigner(north.folder / "signer"))
        for _ in range(8):
            publish_logs(runtime)

    def go_on() -> None:
        for hour in range(1, 5):
            north.database.set_time(START + timedelta(hours=6 * hour))
            if hour == 2:
                withdraw(north, batch_id)

    with ThreadPoolExecutor() as pool:
        polling = pool.submit(poll)
        working = [pool.submit(write, 1), pool.submit(write, 2), pool.submit(go_on)]
        for work in working:
            work.result(60)
        done.set()
        polling.result(60)
    publish_logs(north.runtime())
    seen.append({name: content for name, content in log(north).items() if name != "index.txt"})

    longest = grown(seen, key)
    today = hashlib.sha256(longest[f"{TODAY}.txt"]).hexdigest()
    assert longest[f"{AFTER}.txt"].split(b"\n")[3] == f"previous {today}".encode()
    assert [entry.kind for entry in segment(north, TODAY).entries] == ["release", "withdrawal"]


def grown(seen: list[dict[str, bytes]], key: ec.EllipticCurvePublicKey) -> dict[str, bytes]:
    """The last text of each segment that a reader saw: each was signed, and began with what it was before."""
    longest: dict[str, bytes] = {}
    for contents in seen:
        for name, content in contents.items():
            _, text = parse(content)
            made = base64.b64decode(content[len(text) :].split(b" ")[2])
            signature.verify(key, made, sha256(text))
            assert text.startswith(longest.get(name, b""))
            longest[name] = text
    return longest


def test_one_writer_that_was_asleep_does_not_bring_an_older_state_back(north):
    """It read the object and the database, slept, and writes when others went on."""
    publish_logs(north.runtime())
    runtime = north.runtime()

    class Sleeping:
        def __init__(self) -> None:
            self.slept = False

        def __getattr__(self, name: str):
            return getattr(runtime.blobs, name)

        def replace(self, *arguments, **more) -> None:
            if not self.slept:
                self.slept = True
                withdraw(north, batch_id)
                publish_logs(north.runtime("other"))
            runtime.blobs.replace(*arguments, **more)

    batch_id = release_one(north)
    with runtime.database.connection() as connection:
        (feed,) = files.feeds(connection)
    publish_log(replace(runtime, blobs_or_none=Sleeping()), feed)
    assert [entry.kind for entry in segment(north, TODAY).entries] == ["release", "withdrawal"]
