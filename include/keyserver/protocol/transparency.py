"""The public log beside a feed's index: its lines and its daily segments (rule A3; docs/transparency.md).

A segment is one object of US-ASCII text, a day of one feed. Its last line is the signature over all bytes before it, so
that no reader can meet one without the other. The SHA-256 of the bytes before the signature stands in the next segment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal, TypeAlias

from keyserver.errors import FormatError

CONTENT_TYPE = "text/plain"
CACHE_CONTROL = "no-cache, max-age=0"
NOTHING = bytes(32)  # before the first segment, and before the audit chain's first event

Kind: TypeAlias = Literal["release", "withdrawal"]

_VERSION = "keyserver-log 1"
_KINDS: dict[str, Kind] = {"release": "release", "withdrawal": "withdrawal"}
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_LABEL = re.compile(r"[A-Za-z0-9_]+-[A-Za-z0-9_]+")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was released, or taken back: its name in the index, its span, the number of all its keys, its hashes.

    Times are aware, in UTC, of whole seconds; hashes have 32 bytes. ``keys`` counts both lists of the file.
    """

    kind: Kind
    at: datetime
    name: str
    starts_at: datetime
    ends_at: datetime
    keys: int
    zip_sha256: bytes
    export_sha256: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The audit chain's newest event when a day was closed: its number and hash; 0 and `NOTHING` before the first."""

    at: datetime
    seq: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A day of a feed's log. ``previous`` is the SHA-256 of the segment before; a day without a head is not over."""

    root: str
    day: date
    previous: bytes
    entries: tuple[Entry, ...] = ()
    head: Head | None = None


def segment_name(root: str, day: date) -> str:
    """Name a day's object as phones see it, beside the index of the feed with this root."""
    return f"{root}/log/{day.isoformat()}.txt"


def list_name(root: str) -> str:
    """Name the list of a feed's segments: one name a line, the oldest first, in the form of an index."""
    return f"{root}/log/index.txt"


def archives_folder(root: str) -> str:
    """Name the folder of what a restored database did not know of a feed's log: an archive for each restore."""
    return f"{root}/log-before-restore"


def archive_list_name(root: str) -> str:
    """Name the list of all archived segments: one name a line, in the form of an index."""
    return f"{archives_folder(root)}/index.txt"


def archive_name(root: str, day: date, newest_sha256: bytes) -> str:
    """Name an archive after its newest segment: its day and its hash."""
    return f"{archives_folder(root)}/{day.isoformat()}-{newest_sha256[:4].hex()}"


def archived_name(archive: str, day: date) -> str:
    """Name a segment in an archive."""
    return f"{archive}/{day.isoformat()}.txt"


def continues(public: Segment, segment: Segment) -> bool:
    """Tell whether a segment goes on where what is public of its day stands: nothing that was said is taken back."""
    return (
        (public.root, public.day, public.previous) == (segment.root, segment.day, segment.previous)
        and public.entries == segment.entries[: len(public.entries)]
        and (public.head is None or (public.head, len(public.entries)) == (segment.head, len(segment.entries)))
    )


def encode(segment: Segment) -> bytes:
    """Write all lines of a segment but its signature: the bytes that are signed and chained.

    Raises:
        FormatError: a value that its line cannot hold.
    """
    lines = [
        _VERSION,
        f"root {_checked(_NAME, segment.root)}",
        f"day {segment.day.isoformat()}",
        f"previous {_hex(segment.previous)}",
        *map(_entry_line, segment.entries),
    ]
    if segment.head is not None:
        head = segment.head
        lines.append(f"head {_written(head.at)} {_checked(_NUMBER, str(head.seq))} {_hex(head.sha256)}")
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def seal(text: bytes, key: str, signature: bytes) -> bytes:
    """Put the signature (DER) under a segment's lines; ``key`` is the key's id and version, parted by a hyphen."""
    line = f"signature {_checked(_LABEL, key)} {base64.b64encode(signature).decode()}\n"
    return text + line.encode("ascii")


def parse(content: bytes) -> tuple[Segment, bytes]:
    """Read a sealed segment; give it and the bytes that its signature is over. The signature is not checked.

    Raises:
        FormatError: it is not just what `encode` and `seal` write.
    """
    try:
        lines = content.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("a segment of the log is not ASCII") from error
    if len(lines) < 6 or lines[-1] or lines[0] != _VERSION:
        raise FormatError("a segment of the log does not begin with the line of version 1, or does not end with a line")
    root, day, previous = (_value(*pair) for pair in zip(lines[1:4], ("root", "day", "previous"), strict=True))
    body, sealed = lines[4:-2], lines[-2].split(" ")
    head = _parsed_head(body.pop()) if body and body[-1].startswith("head ") else None
    segment = Segment(
        _checked(_NAME, root), _parsed_day(day), _digest(previous), tuple(_parsed_entry(line) for line in body), head
    )
    text = content[: len(content) - len(lines[-2]) - 1]
    if len(sealed) != 3 or sealed[0] != "signature":
        raise FormatError("a segment of the log does not end with its signature")
    try:
        signature = base64.b64decode(sealed[2], validate=True)
    except binascii.Error as error:
        raise FormatError("the signature of a segment of the log is not base64") from error
    if seal(encode(segment), sealed[1], signature) != content:
        raise FormatError("a segment of the log is not written as version 1 writes it")
    return segment, text


def sha256(text: bytes) -> bytes:
    """Give what the next segment says of this one: the SHA-256 of all its lines but the signature."""
    return hashlib.sha256(text).digest()


def _entry_line(entry: Entry) -> str:
    return " ".join(
        (
            _KINDS[entry.kind],
            _written(entry.at),
            _checked(_NAME, entry.name),
            _written(entry.starts_at),
            _written(entry.ends_at),
            _checked(_NUMBER, str(entry.keys)),
            _hex(entry.zip_sha256),
            _hex(entry.export_sha256),
        )
    )


def _parsed_entry(line: str) -> Entry:
    parts = line.split(" ")
    if len(parts) != 8 or parts[0] not in _KINDS:
        raise FormatError("a line of the log is none of a release or a withdrawal")
    kind, at, name, starts_at, ends_at, keys, zip_sha256, export_sha256 = parts
    return Entry(
        _KINDS[kind],
        _moment(at),
        _checked(_NAME, name),
        _moment(starts_at),
        _moment(ends_at),
        int(_checked(_NUMBER, keys)),
        _digest(zip_sha256),
        _digest(export_sha256),
    )


def _parsed_head(line: str) -> Head:
    parts = line.split(" ")
    if len(parts) != 4:
        raise FormatError("the head of a segment of the log is not time, number and hash")
    return Head(_moment(parts[1]), int(_checked(_NUMBER, parts[2])), _digest(parts[3]))


def _value(line: str, what: str) -> str:
    name, _, value = line.partition(" ")
    if name != what:
        raise FormatError(f"a segment of the log does not say its {what} in its place")
    return value


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise FormatError("a value that a line of the log cannot hold")
    return text


def _written(moment: datetime) -> str:
    if moment.utcoffset() is None or moment.microsecond:
        raise FormatError("a time in the log is aware and of whole seconds")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(_checked(_TIME, text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FormatError("a time in the log that no calendar has") from error


def _parsed_day(text: str) -> date:
    try:
        return date.fromisoformat(_checked(_DAY, text))
    except ValueError as error:
        raise FormatError("a day in the log that no calendar has") from error


def _hex(digest: bytes) -> str:
    if len(digest) != len(NOTHING):
        raise FormatError("a hash in the log has not 32 bytes")
    return digest.hex()


def _digest(text: str) -> bytes:
    return bytes.fromhex(_checked(_SHA256, text))
