"""Anyone's reader of a public release log, written from docs/transparency.md alone: it shares nothing with its writer.

It follows the log beside an index from its newest segment to its first, and says in plain sentences what does not hold.
What it cannot see: a log that was written wrong from its beginning, and a history that was rewritten as a whole, unless
it is compared with a checkpoint that somebody kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from keyserver.device import client, exportreader
from keyserver.errors import ConfigurationError, FormatError, RemoteError

MAX_SEGMENT_SIZE = 4 * 1024 * 1024
MAX_SEGMENTS = 20_000
LISTED_FOR = timedelta(days=14)  # an index line goes then, unless the operator declares a shorter time
_LEEWAY = timedelta(hours=1)
_DAY = timedelta(days=1)
_ZEROS = "0" * 64

_TIME = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
_HASH = r"([0-9a-f]{64})"
_NAME = r"([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)"
_COUNT = r"(0|[1-9][0-9]{0,17})"
_HEADER = re.compile(rf"keyserver-log 1\nroot {_NAME}\nday ([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})\nprevious {_HASH}\n")
_ENTRY = re.compile(rf"(release|withdrawal) {_TIME} {_NAME} {_TIME} {_TIME} {_COUNT} {_HASH} {_HASH}")
_HEAD = re.compile(rf"head {_TIME} {_COUNT} {_HASH}")
_ARCHIVES = "log-before-restore"
_ARCHIVED = re.compile(rf"{_ARCHIVES}/[A-Za-z0-9-]+/([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})\.txt$")
_SIGNATURE = re.compile(r"signature [A-Za-z0-9_]+-[A-Za-z0-9_]+ ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Logged:
    """One line: a file that was released or withdrawn, its span ``[start, end)`` in UTC, its keys, hashes in hex."""

    kind: str
    at: datetime
    name: str
    start: datetime
    end: datetime
    keys: int
    zip_sha256: str
    export_sha256: str

    @property
    def facts(self) -> tuple[object, ...]:
        """All that a withdrawal repeats of the release."""
        return self.name, self.start, self.end, self.keys, self.zip_sha256, self.export_sha256


@dataclass(frozen=True, slots=True)
class LogSegment:
    """A day of a log. ``text`` is what the signature is over; a day without a head is not over yet."""

    root: str
    day: date
    previous: str
    files: tuple[Logged, ...]
    head: tuple[datetime, int, str] | None  # when, number and hash of the audit chain's newest event
    text: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What somebody saw of a log: the first lines of a day, and their SHA-256 (hex), which binds all days before."""

    root: str
    day: str
    lines: int
    sha256: str

    def dump(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def load(cls, text: str) -> Checkpoint:
        """Read what `dump` wrote; `ConfigurationError` for anything else."""
        try:
            found = json.loads(text)
            kept = cls(found["root"], found["day"], found["lines"], found["sha256"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigurationError("the checkpoint is none that this command wrote") from error
        if not isinstance(kept.lines, int) or kept.lines < 1:
            raise ConfigurationError("the checkpoint is none that this command wrote")
        return kept

    @classmethod
    def of(cls, segment: LogSegment) -> Checkpoint:
        """Write down what is seen of a log whose newest day this is."""
        sha256 = hashlib.sha256(segment.text).hexdigest()
        return cls(segment.root, segment.day.isoformat(), segment.text.count(b"\n"), sha256)

    def is_in(self, segment: LogSegment) -> bool:
        """Tell whether a day is the one that was seen, and still says it."""
        seen = b"".join(segment.text.splitlines(keepends=True)[: self.lines])
        return segment.day.isoformat() == self.day and hashlib.sha256(seen).hexdigest() == self.sha256


@dataclass(slots=True)
class LogReport:
    """What a log says (`facts`), what does not hold (`findings`), what to keep of it (`checkpoint`), and its days.

    ``may_settle``: of the findings those that may be gone in five minutes, and the file that each is about.
    """

    facts: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    may_settle: dict[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    segments: list[LogSegment] = field(default_factory=list)

    def find_for_now(self, name: str, what: str, meaning: str) -> None:
        """Add a finding about a file that a release or a withdrawal under way explains."""
        text = f"{name} {what}; if that is so in five minutes too, {meaning}."
        self.findings.append(text)
        self.may_settle[text] = name


def read_segment(content: bytes) -> LogSegment:
    """Read one segment; its signature is not checked.

    Raises:
        FormatError: it is not the format of version 1.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("it is not ASCII") from error
    header = _HEADER.match(text)
    if header is None:
        raise FormatError("it does not begin with the four lines of version 1")
    if not text.endswith("\n"):
        raise FormatError("its last line is cut off")
    *lines, last = text[header.end() : -1].split("\n")
    sealed = _SIGNATURE.fullmatch(last)
    if sealed is None:
        raise FormatError("its last line is not a signature")
    head = _HEAD.fullmatch(lines[-1]) if lines else None
    if head is not None:
        lines.pop()
    files = []
    for number, line in enumerate(lines, 5):
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise FormatError(f"its line {number} is none of a release or a withdrawal")
        kind, at, name, start, end, keys, zip_sha256, export_sha256 = entry.groups()
        files.append(
            Logged(kind, _moment(at), name, _moment(start), _moment(end), int(keys), zip_sha256, export_sha256)
        )
    try:
        signature = base64.b64decode(sealed[1], validate=True)
    except binascii.Error as error:
        raise FormatError("its signature is not base64") from error
    return LogSegment(
        root=header[1],
        day=_day(header[2]),
        previous=header[3],
        files=tuple(files),
        head=(_moment(head[1]), int(head[2]), head[3]) if head else None,
        text=content[: len(content) - len(last) - 1],
        signature=signature,
    )


def check_log(  # noqa: PLR0913 - each of them is one thing to compare with
    index_url: str,
    now: datetime,
    *,
    public_keys: Sequence[EllipticCurvePublicKey] = (),
    kept: Checkpoint | None = None,
    file: bytes | None = None,
    download: bool = False,
    listed_for: timedelta = LISTED_FOR,
    http: httpx.Client | None = None,
) -> LogReport:
    """Walk the log beside an index and compare it with the index, a file, the files listed, a checkpoint.

    ``listed_for``: how long a line stands, from its span's start; neither index nor log tells if the operator keeps it
    for less than 14 days. ``public_keys``: by one of them each segment must be signed; without any no signature is
    checked, and it is said. The index is read before the log and after it, the log from its newest segment back, so
    that what is written meanwhile is no finding.

    Raises:
        RemoteError: something did not arrive.
        ConfigurationError: the URL is not one of an index.
    """
    if not index_url.endswith("/index.txt"):
        raise ConfigurationError("give the URL of an index: it ends in /index.txt")
    report = LogReport()
    listed = client.fetch_index(index_url, http=http)
    segments = _segments(index_url.removesuffix("index.txt"), report, http)
    listed_after = client.fetch_index(index_url, http=http)
    if not segments:
        report.findings.append("There is no log that can be read beside this index.")
        return report
    root = segments[0].root
    if not index_url.endswith(f"/{root}/index.txt"):
        report.findings.append(f"The log is that of {root}, not of this index.")
        return report
    _check_signatures(segments, public_keys, report)
    _check_chain(segments, report)
    _check_times(segments, now, report)
    files = _check_files(segments, report)
    _check_index(listed, listed_after, files, now - listed_for, report)
    if download:
        _check_downloads(index_url.removesuffix(f"{root}/index.txt"), listed_after, files, report, http)
    if file is not None:
        _check_file(file, files, report)
    if kept is not None:
        _check_kept(kept, segments, index_url.removesuffix("index.txt"), report, http)
    report.checkpoint = Checkpoint.of(segments[-1])
    report.segments = segments
    return report


# What is fetched


def _segments(folder: str, report: LogReport, http: httpx.Client | None) -> list[LogSegment]:
    """Fetch the log's segments, the newest first; give those that can be read, in their order."""
    body = _fetch(f"{folder}log/index.txt", "the list of the log", client.MAX_INDEX_SIZE, http)
    if body is None:
        return []
    names = [line.rpartition("/")[2] for line in body.decode("ascii", "replace").split("\n")]
    days = [date.fromisoformat(name[:10]) for name in names if _is_segment_name(name)]
    if len(days) != len(names) or len(days) > MAX_SEGMENTS or days != sorted(set(days)):
        report.findings.append("The list of the log is not one day a line, in ascending order.")
        return []
    for earlier, later in pairwise(days):
        if later != earlier + _DAY:
            report.findings.append(f"The log lacks the days between {earlier} and {later}.")
    segments = []
    for day in reversed(days):
        try:
            content = _fetch(f"{folder}log/{day}.txt", f"the log's segment of {day}", MAX_SEGMENT_SIZE, http)
            if content is None:
                report.findings.append(f"The segment of {day} is listed and not there.")
                continue
            segment = read_segment(content)
        except FormatError as error:
            report.findings.append(f"The segment of {day} cannot be read: {error}.")
            continue
        if segment.day != day:
            report.findings.append(f"In the place of the segment of {day} lies that of {segment.day}.")
            continue
        segments.append(segment)
    return segments[::-1]


def _fetch(url: str, what: str, limit: int, http: httpx.Client | None) -> bytes | None:
    status, body = client.exchange("GET", url, what, limit, http)
    if status in {404, 410}:
        return None
    if status != 200:
        raise RemoteError(f"{what} was answered by status {status}")
    return body


def _is_segment_name(name: str) -> bool:
    try:
        return name == f"{_day(name[:10])}.txt"
    except FormatError:
        return False


# What must hold


def _check_signatures(
    segments: list[LogSegment], public_keys: Sequence[EllipticCurvePublicKey], report: LogReport
) -> None:
    if not public_keys:
        report.facts.append("No signature was checked: no public key was given.")
        return
    for segment in segments:
        if not any(_verifies(key, segment) for key in public_keys):
            report.findings.append(f"The segment of {segment.day} has no signature by a key that was given.")
    report.facts.append(f"The signatures of {len(segments)} segments were checked.")


def _verifies(key: EllipticCurvePublicKey, segment: LogSegment) -> bool:
    try:
        key.verify(segment.signature, segment.text, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _check_chain(segments: list[LogSegment], report: LogReport) -> None:
    first = segments[0]
    if first.previous != _ZEROS:
        report.findings.append(f"The log's first segment, {first.day}, follows another one, which is missing.")
    for earlier, later in pairwise(segments):
        if later.root != earlier.root:
            report.findings.append(f"The segment of {later.day} is of the log of {later.root}.")
        # Where days are missing that is said already; so far apart nothing could follow.
        elif later.day == earlier.day + _DAY and later.previous != hashlib.sha256(earlier.text).hexdigest():
            report.findings.append(
                f"The segment of {later.day} does not follow that of {earlier.day}: one of them was changed."
            )
        if earlier.head is None:
            report.findings.append(f"The segment of {earlier.day} has no head, though its day is over.")


def _check_times(segments: list[LogSegment], now: datetime, report: LogReport) -> None:
    last = datetime.min.replace(tzinfo=UTC)
    chain = (0, _ZEROS)
    for segment in segments:
        moments = [logged.at for logged in segment.files]
        if any(moment.date() != segment.day for moment in moments):
            report.findings.append(f"The segment of {segment.day} has a line of another day.")
        if segment.head is not None:
            at, seq, sha256 = segment.head
            moments.append(at)
            if at.date() <= segment.day:
                report.findings.append(f"The segment of {segment.day} was ended before its day was over.")
            if seq < chain[0] or (seq == chain[0] and sha256 != chain[1]):
                report.findings.append(f"The audit chain's head of {segment.day} goes back, to event {seq}.")
            chain = (seq, sha256)
        if any(later < earlier for earlier, later in pairwise([last, *moments])):
            report.findings.append(f"The lines of {segment.day} are not in the order of their times.")
        last = max([last, *moments])
    if segments[-1].day < (now - _LEEWAY).date():
        report.findings.append(f"The log ends with {segments[-1].day}: it is not kept up.")
    report.facts.append(
        f"The log of {segments[-1].root} has {len(segments)} segments, {segments[0].day} to {segments[-1].day};"
        f" the audit chain's newest head in it is event {chain[0]}, {chain[1]}."
    )


@dataclass(slots=True)
class _Files:
    released: dict[str, Logged] = field(default_factory=dict)
    withdrawn: dict[str, Logged] = field(default_factory=dict)


def _check_files(segments: list[LogSegment], report: LogReport) -> _Files:
    files = _Files()
    for segment in segments:
        for logged in segment.files:
            name = logged.name
            if not name.startswith(f"{segment.root}/"):
                report.findings.append(f"{name} is logged, and is no file of {segment.root}.")
            if logged.kind == "release":
                if name in files.released:
                    report.findings.append(f"{name} is released twice in the log.")
                files.released[name] = logged
            elif name not in files.released:
                report.findings.append(f"{name} is withdrawn in the log, and was never released in it.")
            elif name in files.withdrawn or logged.facts != files.released[name].facts:
                report.findings.append(f"{name} is withdrawn in the log twice, or as another file than was released.")
            else:
                files.withdrawn[name] = logged
    report.facts.append(f"{len(files.released)} files were released, {len(files.withdrawn)} of them withdrawn.")
    return files


def _check_index(before: list[str], after: list[str], files: _Files, oldest: datetime, report: LogReport) -> None:
    """Compare the index with the log. ``oldest``: lines whose span began before that should have left it."""
    for line in before:
        if line not in files.released:
            report.find_for_now(line, "is in the index and not in the log", "it was never logged")
        elif line in files.withdrawn and line in after:
            report.findings.append(f"{line} is withdrawn, and the index lists it.")
        elif line in after and files.released[line].start < oldest - 2 * _LEEWAY:
            report.findings.append(f"{line} should have left the index: its span began too long ago.")
    listed = {*before, *after}
    for name, logged in files.released.items():
        expected = name not in files.withdrawn and logged.start > oldest + _LEEWAY
        if expected and name not in listed:
            report.find_for_now(name, "is neither in the index nor withdrawn", "it vanished")
    report.facts.append(f"The index lists {len(after)} files.")


def _check_downloads(base: str, listed: list[str], files: _Files, report: LogReport, http: httpx.Client | None) -> None:
    for line in listed:
        logged = files.released.get(line)
        if logged is not None:
            difference = _difference(client.fetch_file(base, line, http=http), logged)
            if difference:
                report.findings.append(f"{line} is not the file that was logged: {difference}.")
    report.facts.append(f"{len(listed)} files were downloaded and compared.")


def _difference(data: bytes, logged: Logged) -> str | None:
    if hashlib.sha256(data).hexdigest() != logged.zip_sha256:
        return "its SHA-256 is another"
    try:
        content = exportreader.read(data)
    except FormatError as error:
        return str(error)
    found = (content.export_sha256, len(content.keys) + len(content.revised_keys), content.start, content.end)
    if found != (logged.export_sha256, logged.keys, logged.start, logged.end):
        return "the SHA-256 of export.bin, the number of keys or the span in it is another"
    return None


def _check_file(data: bytes, files: _Files, report: LogReport) -> None:
    digest = hashlib.sha256(data).hexdigest()
    found = [logged for logged in files.released.values() if logged.zip_sha256 == digest]
    if not found:
        report.findings.append(f"The file with the SHA-256 {digest} is not in the log.")
        return
    (logged, *_) = found
    export = bytes.fromhex(logged.export_sha256)
    withdrawn = files.withdrawn.get(logged.name)
    if difference := _difference(data, logged):
        report.findings.append(f"{logged.name} is not what its line says: {difference}.")
    report.facts += [
        f"The file is {logged.name}, released {logged.at:%Y-%m-%d %H:%M:%S} UTC, {logged.keys} keys"
        + (f"; WITHDRAWN {withdrawn.at:%Y-%m-%d %H:%M:%S} UTC." if withdrawn else "."),
        f"  SHA-256 of the zip: {logged.zip_sha256}; of export.bin: {logged.export_sha256}",
        f"  As phones show it: {logged.export_sha256.upper()} or {base64.b64encode(export).decode()}",
    ]


def _check_kept(
    kept: Checkpoint, segments: list[LogSegment], folder: str, report: LogReport, http: httpx.Client | None
) -> None:
    if kept.root != segments[0].root:
        report.findings.append(f"The checkpoint is of the log of {kept.root}.")
        return
    if any(kept.is_in(segment) for segment in segments):
        report.facts.append(f"What the checkpoint saw up to {kept.day} stands as it did.")
        return
    report.findings.append(
        f"The log is not the one of the checkpoint: what it said up to {kept.day} was rewritten or taken away."
    )
    if archived := _archived(folder, kept, http):
        report.findings.append(
            f"It stands in {archived}: so this server says that its database was restored from an older backup."
            " Ask why, and begin with a new checkpoint."
        )


def _archived(folder: str, kept: Checkpoint, http: httpx.Client | None) -> str | None:
    """Find the day of a checkpoint among those that were moved aside after a restore; give its name."""
    body = _fetch(f"{folder}{_ARCHIVES}/index.txt", "the list of archived logs", client.MAX_INDEX_SIZE, http)
    for line in (body or b"").decode("ascii", "replace").split("\n"):
        name = _ARCHIVED.search(line)
        if name is None or name[1] != kept.day:
            continue
        content = _fetch(f"{folder}{name[0]}", f"the archived segment of {kept.day}", MAX_SEGMENT_SIZE, http)
        try:
            if content is not None and kept.is_in(read_segment(content)):
                return line
        except FormatError:
            continue
    return None


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FormatError(f"{text} is a time that no calendar has") from error


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise FormatError("a day that no calendar has") from error
