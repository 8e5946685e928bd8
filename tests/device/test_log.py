"""A public log as anybody reads it over HTTP: a good one without findings, and one bad log for each flaw.

The logs are written here, by hand, from docs/transparency.md: neither by the exporter nor by its codec.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyserver.device import exportreader
from keyserver.device.releaselog import MAX_SEGMENT_SIZE, Checkpoint, LogReport, check_log, read_segment
from keyserver.errors import ConfigurationError, FormatError, RemoteError

# The files of `make_file` begin in July 2024.
DAYS = [date(2024, 7, 3) + timedelta(days=n) for n in range(5)]
NOW = datetime(2024, 7, 7, 12, tzinfo=UTC)
KEY = {"key_data": b"\1" * 16, "rolling_start_interval_number": 2866608, "report_type": 1}


def written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Cdn:
    """What lies there, by path; and the key that signs its log."""

    key: ec.EllipticCurvePrivateKey
    make_file: Callable[..., bytes]
    objects: dict[str, bytes | list[bytes]] = field(default_factory=dict)  # a list: one after the other
    days: dict[date, list[str]] = field(default_factory=dict)  # the lines after `previous`
    listed: list[str] = field(default_factory=list)
    url: str = ""

    def release(self, day: date, keys: int = 3) -> str:
        data = self.make_file([KEY | {"key_data": bytes([n]) * 16} for n in range(1, keys + 1)])
        name = f"north/{len(self.objects)}.zip"
        self.objects[name] = data
        self.listed.append(name)
        self.days[day].append(self.line("release", day, name, data, keys))
        return name

    def withdraw(self, day: date, name: str) -> None:
        self.listed.remove(name)
        self.days[day].append(self.line("withdrawal", day, name, self.objects.pop(name), 3))

    def line(self, kind: str, day: date, name: str, data: bytes, keys: int) -> str:
        read = exportreader.read(data)
        at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=2 + len(self.days[day]))
        zip_sha256 = hashlib.sha256(data).hexdigest()
        span = f"{written(read.start)} {written(read.end)}"
        return f"{kind} {written(at)} {name} {span} {keys} {zip_sha256} {read.export_sha256}"

    def write(self) -> None:
        """Seal every day in its order, and list them and the files."""
        previous = "0" * 64
        for day, lines in self.days.items():
            text = "".join(
                f"{line}\n" for line in ("keyserver-log 1", "root north", f"day {day}", f"previous {previous}", *lines)
            )
            self.seal(day, text)
            previous = hashlib.sha256(text.encode()).hexdigest()
        self.objects["north/log/index.txt"] = "\n".join(f"north/log/{day}.txt" for day in self.days).encode()
        self.objects["north/index.txt"] = "\n".join(self.listed).encode()

    def seal(self, day: date, text: str, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        signature = (key or self.key).sign(text.encode(), ec.ECDSA(SHA256()))
        sealed = f"{text}signature 900-log1 {base64.b64encode(signature).decode()}\n"
        self.objects[self.path(day)] = sealed.encode()

    def text(self, day: date) -> str:
        return self.objects[self.path(day)].decode().rpartition("signature ")[0]

    def path(self, day: date) -> str:
        return f"north/log/{day}.txt"

    def check(self, **options) -> LogReport:
        options = {"public_keys": [self.key.public_key()], "now": NOW} | options
        return check_log(f"{self.url}/north/index.txt", **options)

    def findings(self, **options) -> list[str]:
        return self.check(**options).findings


@pytest.fixture(scope="module")
def served(serve):
    """A web server that serves whatever `objects` holds."""
    objects: dict[str, bytes | list[bytes]] = {}

    async def answer(request: Request) -> Response:
        content = objects.get(request.path_params["path"])
        content = content.pop(0) if isinstance(content, list) else content
        return Response(status_code=404) if content is None else Response(content, media_type="text/plain")

    return objects, serve(Starlette(routes=[Route("/{path:path}", answer)]))


@pytest.fixture
def cdn(served, make_file) -> Cdn:
    """A good log of five days: a file a day but the first, one of them withdrawn; the fifth day is running."""
    objects, url = served
    objects.clear()
    cdn = Cdn(ec.generate_private_key(ec.SECP256R1()), make_file, objects, {day: [] for day in DAYS}, url=url)
    names = [cdn.release(day) for day in DAYS[1:]]
    cdn.withdraw(DAYS[3], names[1])
    for seq, day in enumerate(DAYS[:-1], 7):
        at = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC) + timedelta(seconds=20)
        cdn.days[day].append(f"head {written(at)} {seq} {hashlib.sha256(bytes(seq)).hexdigest()}")
    cdn.write()
    return cdn


def test_a_good_log_has_no_findings(cdn):
    report = cdn.check(download=True)
    assert report.findings == []
    assert report.facts == [
        "The signatures of 5 segments were checked.",
        "The log of north has 5 segments, 2024-07-03 to 2024-07-07; the audit chain's newest head in it is event 10, "
        + hashlib.sha256(bytes(10)).hexdigest()
        + ".",
        "4 files were released, 1 of them withdrawn.",
        "The index lists 3 files.",
        "3 files were downloaded and compared.",
    ]


def test_without_a_key_it_is_said_that_no_signature_was_checked(cdn):
    assert cdn.check(public_keys=[]).facts[0] == "No signature was checked: no public key was given."
    assert cdn.findings(public_keys=[]) == []


def test_a_key_before_and_one_after_a_rotation(cdn):
    newer = ec.generate_private_key(ec.SECP256R1())
    cdn.seal(DAYS[4], cdn.text(DAYS[4]), newer)
    assert cdn.findings(public_keys=[newer.public_key(), cdn.key.public_key()]) == []
    assert len(cdn.findings()) == 1


# One bad log a flaw


def changed(cdn: Cdn, day: date, old: str, new: str, *, signed: bool) -> None:
    text = cdn.text(day)
    assert old in text
    if signed:
        cdn.seal(day, text.replace(old, new, 1))
    else:
        path = cdn.path(day)
        cdn.objects[path] = cdn.objects[path].replace(old.encode(), new.encode(), 1)


def line_removed(cdn: Cdn) -> None:
    (line, *_) = cdn.days[DAYS[1]]
    changed(cdn, DAYS[1], f"{line}\n", "", signed=True)


def line_changed(cdn: Cdn) -> None:
    changed(cdn, DAYS[1], ".zip ", "-other.zip ", signed=False)


def line_changed_and_signed_again(cdn: Cdn) -> None:
    changed(cdn, DAYS[2], " 3 ", " 4 ", signed=True)


def lines_reordered(cdn: Cdn) -> None:
    first, second, *_ = cdn.days[DAYS[3]]
    cdn.days[DAYS[3]][:2] = [second, first]
    cdn.write()


def segment_missing(cdn: Cdn) -> None:
    del cdn.objects[cdn.path(DAYS[2])]


def segment_missing_in_the_list(cdn: Cdn) -> None:
    cdn.objects["north/log/index.txt"] = cdn.objects["north/log/index.txt"].replace(
        f"north/log/{DAYS[2]}.txt\n".encode(), b""
    )


def beginning_missing(cdn: Cdn) -> None:
    cdn.objects["north/log/index.txt"] = cdn.objects["north/log/index.txt"].partition(b"\n")[2]


def end_missing(cdn: Cdn) -> None:
    cdn.objects["north/log/index.txt"] = cdn.objects["north/log/index.txt"].rpartition(b"\n")[0]


def another_key(cdn: Cdn) -> None:
    cdn.seal(DAYS[2], cdn.text(DAYS[2]), ec.generate_private_key(ec.SECP256R1()))


def signature_of_another_segment(cdn: Cdn) -> None:
    last = cdn.objects[cdn.path(DAYS[1])].splitlines(keepends=True)[-1]
    cdn.objects[cdn.path(DAYS[2])] = cdn.text(DAYS[2]).encode() + last


def another_segment_in_its_place(cdn: Cdn) -> None:
    cdn.objects[cdn.path(DAYS[2])] = cdn.objects[cdn.path(DAYS[1])]


def head_going_back(cdn: Cdn) -> None:
    cdn.days[DAYS[3]][-1] = cdn.days[DAYS[3]][-1].replace(" 10 ", " 8 ")
    cdn.write()


def another_head_of_the_same_number(cdn: Cdn) -> None:
    cdn.days[DAYS[3]][-1] = cdn.days[DAYS[3]][-1].replace(" 10 ", " 9 ")
    cdn.write()


def head_missing(cdn: Cdn) -> None:
    cdn.days[DAYS[1]].pop()
    cdn.write()


def ended_too_early(cdn: Cdn) -> None:
    cdn.days[DAYS[1]][-1] = cdn.days[DAYS[1]][-1].replace(f"{DAYS[2]}T00:00:20Z", f"{DAYS[1]}T23:59:20Z")
    cdn.write()


def line_of_another_day(cdn: Cdn) -> None:
    cdn.days[DAYS[1]][0] = cdn.days[DAYS[1]][0].replace(f"release {DAYS[1]}", f"release {DAYS[0]}")
    cdn.write()


def not_ascii(cdn: Cdn) -> None:
    changed(cdn, DAYS[1], "north", "nørth", signed=True)


def another_version(cdn: Cdn) -> None:
    changed(cdn, DAYS[1], "keyserver-log 1", "keyserver-log 2", signed=True)


def an_unknown_line(cdn: Cdn) -> None:
    changed(cdn, DAYS[1], "release ", "increase ", signed=True)


def a_time_of_no_calendar(cdn: Cdn) -> None:
    changed(cdn, DAYS[1], f"release {DAYS[1]}T02:00:00Z", f"release {DAYS[1]}T24:61:00Z", signed=True)


def without_a_signature(cdn: Cdn) -> None:
    cdn.objects[cdn.path(DAYS[1])] = cdn.text(DAYS[1]).encode()


def cut_off(cdn: Cdn) -> None:
    cdn.objects[cdn.path(DAYS[1])] = cdn.objects[cdn.path(DAYS[1])][:-1]


def empty(cdn: Cdn) -> None:
    cdn.objects[cdn.path(DAYS[1])] = b""


def huge(cdn: Cdn) -> None:
    cdn.objects[cdn.path(DAYS[1])] = b"x" * (MAX_SEGMENT_SIZE + 1)


def of_another_feed(cdn: Cdn) -> None:
    changed(cdn, DAYS[4], "root north", "root south", signed=True)


def a_file_of_another_feed(cdn: Cdn) -> None:
    name = cdn.release(DAYS[4])
    cdn.days[DAYS[4]][-1] = cdn.days[DAYS[4]][-1].replace(name, "south/9.zip")
    cdn.listed.remove(name)
    cdn.listed.append("south/9.zip")
    cdn.write()


def released_twice(cdn: Cdn) -> None:
    at = f"{DAYS[4]}T05:00:00Z"
    cdn.days[DAYS[4]].append(cdn.days[DAYS[4]][0].replace(f"{DAYS[4]}T02:00:00Z", at))
    cdn.write()


def withdrawn_and_never_released(cdn: Cdn) -> None:
    line = cdn.days[DAYS[4]][0].replace("release ", "withdrawal ").replace(".zip ", "-other.zip ")
    cdn.days[DAYS[4]].append(line)
    cdn.write()


def withdrawn_as_another_file(cdn: Cdn) -> None:
    name = cdn.listed[-1]
    cdn.withdraw(DAYS[4], name)
    cdn.days[DAYS[4]][-1] = cdn.days[DAYS[4]][-1].replace(" 3 ", " 4 ")
    cdn.write()


def listed_and_not_logged(cdn: Cdn) -> None:
    cdn.listed.append("north/secret.zip")
    cdn.write()


def listed_though_withdrawn(cdn: Cdn) -> None:
    (line,) = [line for lines in cdn.days.values() for line in lines if line.startswith("withdrawal ")]
    cdn.listed.append(line.split(" ")[2])
    cdn.write()


def vanished_from_the_index(cdn: Cdn) -> None:
    cdn.listed.pop()
    cdn.write()


def a_list_that_is_none(cdn: Cdn) -> None:
    cdn.objects["north/log/index.txt"] = b"north/log/yesterday.txt"


def no_log(cdn: Cdn) -> None:
    for path in [path for path in cdn.objects if "/log/" in path]:
        del cdn.objects[path]


FLAWS = {
    line_removed: "does not follow that of 2024-07-04: one of them was changed",
    line_changed: "2024-07-04 has no signature by a key",
    line_changed_and_signed_again: "does not follow that of 2024-07-05: one of them was changed",
    lines_reordered: "The lines of 2024-07-06 are not in the order of their times",
    segment_missing: "The segment of 2024-07-05 is listed and not there",
    segment_missing_in_the_list: "lacks the days between 2024-07-04 and 2024-07-06",
    beginning_missing: "first segment, 2024-07-04, follows another one, which is missing",
    end_missing: "The log ends with 2024-07-06: it is not kept up",
    another_key: "2024-07-05 has no signature by a key",
    signature_of_another_segment: "2024-07-05 has no signature by a key",
    another_segment_in_its_place: "In the place of the segment of 2024-07-05 lies that of 2024-07-04",
    head_going_back: "head of 2024-07-06 goes back, to event 8",
    another_head_of_the_same_number: "head of 2024-07-06 goes back, to event 9",
    head_missing: "The segment of 2024-07-04 has no head, though its day is over",
    ended_too_early: "2024-07-04 was ended before its day was over",
    line_of_another_day: "2024-07-04 has a line of another day",
    not_ascii: "2024-07-04 cannot be read: it is not ASCII",
    another_version: "2024-07-04 cannot be read: it does not begin with the four lines of version 1",
    an_unknown_line: "2024-07-04 cannot be read: its line 5 is none of a release or a withdrawal",
    a_time_of_no_calendar: "2024-07-04T24:61:00Z is a time that no calendar has",
    without_a_signature: "2024-07-04 cannot be read: its last line is not a signature",
    cut_off: "2024-07-04 cannot be read: its last line is cut off",
    empty: "2024-07-04 cannot be read: it does not begin with the four lines of version 1",
    huge: f"is larger than {MAX_SEGMENT_SIZE} bytes",
    of_another_feed: "The segment of 2024-07-07 is of the log of south",
    a_file_of_another_feed: "south/9.zip is logged, and is no file of north",
    released_twice: "is released twice in the log",
    withdrawn_and_never_released: "was never released in it",
    withdrawn_as_another_file: "twice, or as another file than was released",
    listed_and_not_logged: "north/secret.zip is in the index and not in the log",
    listed_though_withdrawn: "is withdrawn, and the index lists it",
    vanished_from_the_index: "is neither in the index nor withdrawn",
    a_list_that_is_none: "The list of the log is not one day a line",
    no_log: "There is no log that can be read beside this index",
}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_a_flaw_is_found(cdn, flaw):
    flaw(cdn)
    findings = cdn.findings()
    assert any(FLAWS[flaw] in finding for finding in findings), findings


def test_a_file_that_is_another_one_is_found_by_downloading(cdn, make_file):
    cdn.objects[cdn.listed[0]] = make_file([KEY])
    assert cdn.findings() == []
    assert cdn.findings(download=True) == [f"{cdn.listed[0]} is not the file that was logged: its SHA-256 is another."]


@pytest.mark.parametrize("place", [5, 7], ids=["keys", "export.bin"])
def test_a_line_that_is_not_what_the_file_says_is_found_by_downloading(cdn, place):
    words = cdn.days[DAYS[4]][0].split(" ")
    words[place] = "4" if place == 5 else "0" * 64
    cdn.days[DAYS[4]][0] = " ".join(words)
    cdn.write()
    assert cdn.findings() == []
    (finding,) = cdn.findings(download=True)
    assert "of export.bin, the number of keys or the span in it is another" in finding


def test_what_was_released_between_two_looks_is_no_finding(cdn):
    before = cdn.objects["north/index.txt"]
    cdn.release(DAYS[4])
    cdn.write()
    cdn.objects["north/index.txt"] = [before, cdn.objects["north/index.txt"]]
    assert cdn.findings() == []


def test_what_was_withdrawn_between_two_looks_is_no_finding(cdn):
    before = cdn.objects["north/index.txt"]
    cdn.withdraw(DAYS[4], cdn.listed[-1])
    cdn.write()
    cdn.objects["north/index.txt"] = [before, cdn.objects["north/index.txt"]]
    assert cdn.findings() == []


def test_a_line_leaves_the_index_after_its_days(cdn):
    """R2: that is no finding. The log is then not kept up, here."""
    later = NOW + timedelta(days=30)
    cdn.objects["north/index.txt"] = b""
    assert cdn.findings(now=later) == ["The log ends with 2024-07-07: it is not kept up."]


def test_a_line_may_leave_the_index_earlier_if_the_operator_says_so(cdn):
    (first, *_) = cdn.listed
    start = exportreader.read(cdn.objects[first]).start
    days = (NOW - start).days
    cdn.objects["north/index.txt"] = b""
    assert len(cdn.findings(listed_for=timedelta(days=days + 1))) == len(cdn.listed)
    assert cdn.findings(listed_for=timedelta(days=days)) == []


def test_a_line_that_stays_in_the_index_for_too_long_is_a_finding(cdn):
    age = NOW - min(exportreader.read(cdn.objects[name]).start for name in cdn.listed)
    assert cdn.findings(listed_for=age - timedelta(hours=2)) == []  # retention runs every hour
    found = cdn.findings(listed_for=age - timedelta(hours=2, seconds=1))
    assert f"{cdn.listed[0]} should have left the index: its span began too long ago." in found


# A file of one's own


def test_a_file_is_found_in_the_log_with_what_phones_show(cdn):
    data = cdn.objects[cdn.listed[0]]
    report = cdn.check(file=data)
    export = bytes.fromhex(exportreader.read(data).export_sha256)
    assert report.findings == []
    assert report.facts[-3] == f"The file is {cdn.listed[0]}, released 2024-07-04 02:00:00 UTC, 3 keys."
    assert report.facts[-1] == (f"  As phones show it: {export.hex().upper()} or {base64.b64encode(export).decode()}")


def test_a_withdrawn_file_is_told_to_be(cdn):
    data = cdn.objects[cdn.listed[0]]
    cdn.withdraw(DAYS[4], cdn.listed[0])
    cdn.write()
    report = cdn.check(file=data)
    assert report.facts[-3].endswith("; WITHDRAWN 2024-07-07 03:00:00 UTC.")


def test_a_file_that_nobody_logged_is_a_finding(cdn, make_file):
    data = make_file([KEY])
    assert cdn.findings(file=data) == [
        f"The file with the SHA-256 {hashlib.sha256(data).hexdigest()} is not in the log."
    ]


# A checkpoint


def test_a_log_that_went_on_is_that_of_the_checkpoint(cdn):
    kept = cdn.check().checkpoint
    assert Checkpoint.load(kept.dump()) == kept
    cdn.release(DAYS[4])
    cdn.write()
    report = cdn.check(kept=kept)
    assert report.findings == []
    assert report.facts[-1] == "What the checkpoint saw up to 2024-07-07 stands as it did."
    assert report.checkpoint != kept


@pytest.mark.parametrize("day", [0, 1, 3, 4])
def test_a_history_rewritten_as_a_whole_is_seen_by_who_kept_a_checkpoint(cdn, day):
    """It is signed and chained anew by the true key: nothing else shows it."""
    kept = cdn.check().checkpoint
    line = cdn.days[DAYS[day]][0]
    place = -1 if line.startswith("head ") else 6
    cdn.days[DAYS[day]][0] = " ".join([*line.split(" ")[:place], "f" * 64, *line.split(" ")[place:][1:]])
    cdn.write()
    assert cdn.findings() == []
    assert cdn.findings(kept=kept) == [
        "The log is not the one of the checkpoint: what it said up to 2024-07-07 was rewritten or taken away."
    ]


def test_a_log_that_lost_its_end_is_not_that_of_the_checkpoint(cdn):
    kept = cdn.check().checkpoint
    del cdn.days[DAYS[4]]
    cdn.write()
    assert any("rewritten or taken away" in finding for finding in cdn.findings(kept=kept))


def test_the_checkpoint_of_another_log_is_a_finding(cdn):
    kept = Checkpoint("south", "2024-07-07", 5, "0" * 64)
    assert cdn.findings(kept=kept) == ["The checkpoint is of the log of south."]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "[" * 100_000, json.dumps({"root": "n", "day": "d", "lines": "1", "sha256": ""})]
)
def test_what_is_no_checkpoint(text):
    with pytest.raises(ConfigurationError, match="none that this command wrote"):
        Checkpoint.load(text)


# The command


def command(cdn: Cdn, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it by itself; a log of today, so that it is kept up."""
    return subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", "from keyserver.cli import main; main()", "device", "log", "verify"),
            *(f"{cdn.url}/north/index.txt", *options),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "include")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def today(cdn, tmp_path) -> Cdn:
    """The log of a feed that began today; its public key lies in log.pem."""
    cdn.days = {datetime.now(UTC).date(): []}
    cdn.listed = []
    cdn.write()
    pem = cdn.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "log.pem").write_bytes(pem)
    return cdn


def test_the_command_says_what_it_found(today, tmp_path):
    done = command(today, "--public-key", str(tmp_path / "log.pem"), "--download")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("0 files were downloaded and compared.\nNothing is wrong with it.\n")


def test_the_command_keeps_a_checkpoint_only_of_what_is_right(today, tmp_path):
    options = ["--public-key", str(tmp_path / "log.pem"), "--checkpoint", str(tmp_path / "north.json")]
    assert command(today, *options).returncode == 0
    kept = (tmp_path / "north.json").read_text()
    assert Checkpoint.load(kept) == today.check().checkpoint
    (day,) = today.days
    today.days = {day - timedelta(days=1): [], day: []}
    today.write()
    done = command(today, *options)
    assert done.returncode == 1
    assert "rewritten or taken away" in done.stderr
    assert "Nothing is wrong" not in done.stdout
    assert (tmp_path / "north.json").read_text() == kept


def test_the_command_ends_with_status_2_where_another_try_may_help(today):
    del today.objects["north/index.txt"]
    done = command(today)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# The rest


def test_what_is_no_index(cdn):
    with pytest.raises(ConfigurationError, match=r"ends in /index\.txt"):
        check_log(f"{cdn.url}/north/", NOW)


def test_an_index_that_is_not_there_may_come_back(cdn):
    del cdn.objects["north/index.txt"]
    with pytest.raises(RemoteError):
        cdn.check()


@given(st.binary(max_size=500))
def test_any_bytes_are_refused(content):
    with pytest.raises(FormatError):
        read_segment(content)
