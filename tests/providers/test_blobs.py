from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyserver import providers
from keyserver.errors import ConfigurationError, ConflictError, FormatError, RemoteError
from keyserver.providers.blobs import BlobMissingError, BlobStore, BlobVersion, LocalBlobs, open_blobs

ZIP = ("application/zip", "public, max-age=86400")
TEXT = ("text/plain", "no-cache, max-age=0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a store"


@pytest.fixture
def blobs(folder: Path) -> BlobStore:
    return open_blobs(f"file://{folder}".replace(" ", "%20"))


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".unfinished").iterdir()]


# One process


def test_what_is_put_is_read_and_listed(blobs: BlobStore, folder: Path) -> None:
    blobs.put_if_absent("public/at/1.zip", b"one", *ZIP)
    blobs.put_if_absent("empty", b"", *ZIP)
    assert blobs.read("public/at/1.zip").data == b"one"
    assert blobs.read("empty").data == b""
    assert blobs.list() == ["empty", "public/at/1.zip"]
    assert (folder / "public/at/1.zip").read_bytes() == b"one"
    assert unfinished(folder) == []


def test_a_name_is_put_once(blobs: BlobStore, folder: Path) -> None:
    blobs.put_if_absent("at/1.zip", b"one", *ZIP)
    before = blobs.read("at/1.zip")
    blobs.put_if_absent("at/1.zip", b"one", *ZIP)
    for other in (b"two", b"on", b"one\0", b""):
        with pytest.raises(ConflictError):
            blobs.put_if_absent("at/1.zip", other, *ZIP)
    assert blobs.read("at/1.zip") == before
    assert unfinished(folder) == []


def test_replace_asks_for_the_version_that_is_there(blobs: BlobStore, folder: Path) -> None:
    blobs.replace("at/index.txt", b"one", None, *TEXT)
    one = blobs.read("at/index.txt")
    with pytest.raises(ConflictError):
        blobs.replace("at/index.txt", b"two", None, *TEXT)
    blobs.replace("at/index.txt", b"two", one.etag, *TEXT)
    with pytest.raises(ConflictError):
        blobs.replace("at/index.txt", b"three", one.etag, *TEXT)
    assert blobs.read("at/index.txt").data == b"two"
    with pytest.raises(ConflictError):
        blobs.replace("at/other.txt", b"two", one.etag, *TEXT)
    assert blobs.list() == ["at/index.txt"]
    assert unfinished(folder) == []


def test_bytes_that_come_back_are_another_version(blobs: BlobStore) -> None:
    blobs.replace("index.txt", b"one", None, *TEXT)
    first = blobs.read("index.txt")
    etags = {first.etag}
    for data in (b"two", b"one") * 20:
        blobs.replace("index.txt", data, blobs.read("index.txt").etag, *TEXT)
        etags.add(blobs.read("index.txt").etag)
    assert len(etags) == 41
    with pytest.raises(ConflictError):
        blobs.replace("index.txt", b"late", first.etag, *TEXT)


def test_an_etag_lasts_while_nobody_writes(blobs: BlobStore) -> None:
    blobs.replace("index.txt", b"one", None, *TEXT)
    blobs.put_if_absent("other.txt", b"other", *TEXT)
    assert blobs.read("index.txt").etag == blobs.read("index.txt").etag


def test_delete(blobs: BlobStore) -> None:
    blobs.put_if_absent("at/1.zip", b"one", *ZIP)
    blobs.delete("at/1.zip")
    blobs.delete("at/1.zip")
    blobs.delete("nowhere/1.zip")
    blobs.delete("at")
    with pytest.raises(BlobMissingError):
        blobs.read("at/1.zip")
    blobs.put_if_absent("at/1.zip", b"two", *ZIP)
    assert blobs.read("at/1.zip").data == b"two"


def test_versions_are_listed_with_the_time_of_their_writing(blobs: BlobStore, folder: Path) -> None:
    blobs.put_if_absent("public/at/2.zip", b"two", *ZIP)
    blobs.put_if_absent("public/at/1.zip", b"one", *ZIP)
    blobs.put_if_absent("staging/3", b"three", *ZIP)
    os.utime(folder / "public/at/1.zip", (1_772_445_600, 1_772_445_600))
    one, two = blobs.versions("public/")
    assert one == BlobVersion("public/at/1.zip", datetime(2026, 3, 2, 10, 0, tzinfo=UTC), is_current=True)
    assert (two.path, two.modified.utcoffset()) == ("public/at/2.zip", timedelta())
    assert [version.path for version in blobs.versions()] == ["public/at/1.zip", "public/at/2.zip", "staging/3"]
    blobs.delete("public/at/1.zip")
    assert [version.path for version in blobs.versions("public/")] == ["public/at/2.zip"]
    assert blobs.keeps_deleted() is None


def test_list_takes_any_beginning(blobs: BlobStore) -> None:
    paths = ["a-b/1", "a/1", "a/10", "a/b/2", "b/1"]
    for path in reversed(paths):
        blobs.put_if_absent(path, path.encode(), *ZIP)
    assert blobs.list() == paths
    assert blobs.list("a") == ["a-b/1", "a/1", "a/10", "a/b/2"]
    assert blobs.list("a/") == ["a/1", "a/10", "a/b/2"]
    assert blobs.list("a/1") == ["a/1", "a/10"]
    assert blobs.list("a/1/") == []
    assert blobs.list("c/") == []


def test_an_empty_store(blobs: BlobStore) -> None:
    assert blobs.list() == []
    assert blobs.list("a/b") == []
    blobs.delete("a/b")
    with pytest.raises(BlobMissingError):
        blobs.read("a/b")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../a", "a/..", "a/../b", ".", "./a", "a//b", "a/", "a\n", "a b", "ä", "a\0", "a\\b",
     ".unfinished/a", "a/.b", "a" * 201, "/".join(["a" * 100] * 10)],
)  # fmt: skip
def test_what_is_no_path(blobs: BlobStore, folder: Path, path: str) -> None:
    for operation in (
        lambda: blobs.read(path),
        lambda: blobs.put_if_absent(path, b"", *ZIP),
        lambda: blobs.replace(path, b"", None, *ZIP),
        lambda: blobs.delete(path),
        lambda: blobs.purge([path]),
    ):
        with pytest.raises(FormatError):
            operation()
    assert not folder.exists()


@pytest.mark.parametrize("prefix", ["/", "..", "../", "a//", ".un", "a/.", "a\n"])
def test_what_is_no_prefix(blobs: BlobStore, prefix: str) -> None:
    with pytest.raises(FormatError):
        blobs.list(prefix)


def test_a_folder_is_no_blob(blobs: BlobStore) -> None:
    blobs.put_if_absent("a/b", b"", *ZIP)
    with pytest.raises(BlobMissingError):
        blobs.read("a")
    with pytest.raises(BlobMissingError):
        blobs.read("a/b/c")
    for path in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(ConflictError):
            blobs.put_if_absent(path, b"", *ZIP)
        with pytest.raises(ConflictError):
            blobs.replace(path, b"", None, *ZIP)


def test_a_web_server_of_another_user_may_read(blobs: BlobStore, folder: Path) -> None:
    before = os.umask(0o022)
    try:
        blobs.put_if_absent("at/1.zip", b"one", *ZIP)
        blobs.replace("at/index.txt", b"at/1.zip", None, *TEXT)
        blobs.replace("at/index.txt", b"", blobs.read("at/index.txt").etag, *TEXT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "at/1.zip").stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "at/index.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "at").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "url",
    ["", "/folder", "file:", "file://", "file:///", "file://host/folder", "file:///folder?x", "file:///folder#x",
     "file:///a%00b", "s3://user:hunter2@bucket", "gs://bucket", "http://[", "folder"],
)  # fmt: skip
def test_what_names_no_store(url: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        open_blobs(url)
    assert "file:///" in str(error.value) or "not a URL" in str(error.value)
    assert "hunter2" not in str(error.value)


# Several processes

INCLUDE = Path(providers.__file__).parents[2]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that runs `program`, with the store as `blobs` and `arguments` as `argv[2:]`."""
    started = []

    def start(program: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
        heading = (
            "import os, signal, sys; from pathlib import Path; from sys import argv\n"
            "from keyserver.errors import ConflictError\n"
            "from keyserver.providers.blobs import LocalBlobs\n"
            "blobs = LocalBlobs(Path(argv[1]))\n"
        )
        command = [sys.executable, "-c", heading + program, str(folder), *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(INCLUDE)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that wait for a line go on at once; return what each printed."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [output(process) for process in processes]


def output(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed


PUT = """
print("ready", flush=True); sys.stdin.readline()
for number in range(20):
    try:
        blobs.put_if_absent(f"at/{number}.zip", argv[2].encode() * 100_000, "application/zip", "")
        print(number)
    except ConflictError:
        pass
"""


def test_one_of_many_wins_a_name(start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore) -> None:
    winners = dict(zip("abcd", together([start(PUT, folder, letter) for letter in "abcd"]), strict=True))
    won = {letter: {int(number) for number in printed.split()} for letter, printed in winners.items()}
    for number in range(20):
        (winner,) = [letter for letter, numbers in won.items() if number in numbers]
        assert blobs.read(f"at/{number}.zip").data == winner.encode() * 100_000
    assert unfinished(folder) == []


def test_all_who_put_the_same_bytes_succeed(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore
) -> None:
    printed = together([start(PUT, folder, "a") for _ in range(4)])
    assert {tuple(map(int, one.split())) for one in printed} == {tuple(range(20))}
    assert blobs.list() == sorted(f"at/{number}.zip" for number in range(20))


# An index whose first line is the hash of the others, so that a torn one shows.
ADD = """
import hashlib
print("ready", flush=True); sys.stdin.readline()
for number in range(25):
    while True:
        found = blobs.read("at/index.txt")
        lines = found.data.decode().split("\\n")[1:] + [f"{argv[2]}-{number}-" + "x" * 500]
        body = "\\n".join(lines)
        try:
            head = hashlib.sha256(body.encode()).hexdigest()
            blobs.replace("at/index.txt", f"{head}\\n{body}".encode(), found.etag, "", "")
            break
        except ConflictError:
            pass
"""


def index_lines(data: bytes) -> list[str]:
    head, _, body = data.partition(b"\n")
    assert hashlib.sha256(body).hexdigest() == head.decode()
    return body.decode().split("\n")


def test_no_update_is_lost_and_no_reader_sees_half_of_one(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore
) -> None:
    blobs.replace("at/index.txt", hashlib.sha256(b"first").hexdigest().encode() + b"\nfirst", None, *TEXT)
    writers = [start(ADD, folder, letter) for letter in "abcd"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen = ["first"]
    while any(writer.poll() is None for writer in writers):
        # As a web server reads it: by its name, knowing nothing of the store.
        lines = index_lines((folder / "at/index.txt").read_bytes())
        assert lines[: len(seen)] == seen
        seen = lines
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    added = [line.split("-")[:2] for line in index_lines(blobs.read("at/index.txt").data)[1:]]
    for letter in "abcd":
        assert [number for who, number in added if who == letter] == [str(number) for number in range(25)]
    assert len(added) == 100
    assert blobs.list() == ["at/index.txt"]
    assert unfinished(folder) == []


# Stops before it gives the new bytes their name, until it is told to go on.
STOPS = """
def stopping(call):
    def stopped(*paths):
        print("ready", flush=True); sys.stdin.readline()
        call(*paths)
    return stopped
os.link, os.replace = stopping(os.link), stopping(os.replace)
try:
    blobs.replace("at/index.txt", b"late", argv[2] or None, "text/plain", "")
    print("replaced")
except ConflictError:
    print("conflict")
"""


def test_a_first_version_never_overwrites(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore
) -> None:
    process = start(STOPS, folder, "")
    assert process.stdout.readline() == "ready\n"
    blobs.put_if_absent("at/index.txt", b"early", *TEXT)
    process.stdin.write("go\n")
    assert output(process) == "conflict\n"
    assert blobs.read("at/index.txt").data == b"early"


def test_nothing_is_deleted_between_the_look_and_the_replacing(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore
) -> None:
    blobs.put_if_absent("at/index.txt", b"early", *TEXT)
    process = start(STOPS, folder, blobs.read("at/index.txt").etag)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(RemoteError):
        LocalBlobs(folder, patience=0.05).delete("at/index.txt")
    process.stdin.write("go\n")
    assert output(process) == "replaced\n"
    assert blobs.read("at/index.txt").data == b"late"


# Killed in the middle: before the name is given, and between that and the end.
KILLED = """
def killed(*paths):
    if argv[2] == "after":
        link(*paths)
    os.kill(os.getpid(), signal.SIGKILL)
link, os.link = os.link, killed
blobs.put_if_absent("at/1.zip", b"one", "application/zip", "")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_killed_process_leaves(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore, moment: str
) -> None:
    process = start(KILLED, folder, moment)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (leftover,) = unfinished(folder)
    assert (folder / ".unfinished" / leftover).read_bytes() == b"one"
    assert blobs.list() == ([] if moment == "before" else ["at/1.zip"])
    blobs.delete("at/other.zip")
    assert unfinished(folder) == []
    blobs.put_if_absent("at/1.zip", b"one", *ZIP)
    assert blobs.read("at/1.zip").data == b"one"


FAILS = """
import resource
from keyserver.errors import ConfigurationError, RemoteError
if argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
elif os.geteuid() == 0:
    os.setuid(65534)
for attempt in (
    lambda: blobs.put_if_absent("at/2.zip", bytes(2000), "application/zip", ""),
    lambda: blobs.replace("at/1.zip", bytes(2000), argv[3], "application/zip", ""),
):
    try:
        attempt()
    except (ConfigurationError, RemoteError) as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize(("trouble", "error"), [("full", "RemoteError"), ("forbidden", "ConfigurationError")])
def test_a_write_that_fails_leaves_all_as_it_was(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore, trouble: str, error: str
) -> None:
    blobs.put_if_absent("at/1.zip", b"one", *ZIP)
    before = blobs.read("at/1.zip")
    for inner in (folder / "at", folder / ".unfinished"):
        inner.chmod(0o555 if trouble == "forbidden" else 0o755)
    assert output(start(FAILS, folder, trouble, before.etag)).split() == [error, error]
    assert blobs.read("at/1.zip") == before
    assert blobs.list() == ["at/1.zip"]
    assert unfinished(folder) == []


WAITS = """
def waits(*paths):
    print("ready", flush=True); sys.stdin.readline()
    link(*paths)
link, os.link = os.link, waits
blobs.put_if_absent("at/1.zip", b"one", "application/zip", "")
"""


def test_what_is_still_being_written_is_no_leftover(
    start: Callable[..., subprocess.Popen[str]], folder: Path, blobs: BlobStore
) -> None:
    process = start(WAITS, folder)
    assert process.stdout.readline() == "ready\n"
    blobs.put_if_absent("at/2.zip", b"two", *ZIP)
    blobs.delete("at/2.zip")
    assert len(unfinished(folder)) == 1
    process.stdin.write("go\n")
    output(process)
    assert blobs.read("at/1.zip").data == b"one"
    assert unfinished(folder) == []


def test_a_frozen_process_stops_nobody_for_ever(folder: Path, blobs: BlobStore) -> None:
    blobs.replace("at/index.txt", b"one", None, *TEXT)
    etag = blobs.read("at/index.txt").etag
    impatient = LocalBlobs(folder, patience=0.05)
    descriptor = os.open(folder / "at", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(RemoteError):
            impatient.replace("at/index.txt", b"two", etag, *TEXT)
        # Other feeds go on, and so do names that nobody replaces.
        impatient.replace("de/index.txt", b"two", None, *TEXT)
        impatient.put_if_absent("at/1.zip", b"one", *ZIP)
    finally:
        os.close(descriptor)
    assert unfinished(folder) == []
    impatient.replace("at/index.txt", b"two", etag, *TEXT)
    assert blobs.read("at/index.txt").data == b"two"
