"""What is public that a database does not know, after it was restored from a backup (rules A3, B9).

The store knows more than such a database: files and lines of the public log that were released since the backup. What
was decided since is gone, and only that a batch was withdrawn can be seen from outside, in the public log.
`reconcile` puts an end to what is found here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from keyserver.device import releaselog
from keyserver.errors import FormatError, VerificationError
from keyserver.oversight.wording import counted, moment
from keyserver.protocol import signature
from keyserver.protocol.exportfile import public_path
from keyserver.protocol.transparency import (
    Segment,
    archive_name,
    archives_folder,
    continues,
    parse,
    segment_name,
    sha256,
)
from keyserver.providers.blobs import BlobMissingError
from keyserver.runtime import Runtime
from keyserver.store import files, reconciliation, signing_keys, transparency, watch
from keyserver.store.database import Connection
from keyserver.store.reconciliation import KnownFile

SERVED = ("released", "withdrawing", "expired")  # a file that is there has the bytes that the database knows

_LOG = re.compile(r"public/(?P<root>.+)/log/(?P<day>index|[0-9]{4}-[0-9]{2}-[0-9]{2})\.txt")
_ARCHIVED = re.compile(r"public/(?P<root>.+)/log-before-restore/(index\.txt|(?P<label>[^/]+)/(?P<day>[^/]+)\.txt)")
_UNSEEN = (
    "What else was done after the backup cannot be seen from here: uploads, revoked keys, rejections, pauses,"
    " deletions on demand, the configuration. What was decided has to be decided again."
)
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class PublicSegment:
    """A segment of a public log as it was found. ``content`` is the object; ``parsed`` None where it is damaged."""

    day: date
    content: bytes
    parsed: Segment | None

    @property
    def text(self) -> bytes:
        """The bytes that its signature is over; of a damaged one all."""
        return self.content if self.parsed is None else parse(self.content)[1]


@dataclass(slots=True)
class RootFindings:
    """What one root has in public that the database does not; ``feed`` is None where no feed has this root.

    ``log``: the segments from the first on that says what the database does not, the oldest first, and ``before`` those
    before them; ``unsigned``: the days of those in ``log`` without a signature by a key that the database knows;
    ``still_out``: the names that the whole of the log says are released and not withdrawn; ``declared_never``: archives
    of earlier restores of which the database does not know either.
    """

    root: str
    feed: str | None
    unknown: list[str] = field(default_factory=list)
    altered: list[KnownFile] = field(default_factory=list)
    missing: list[KnownFile] = field(default_factory=list)
    withdrawn_before: list[int] = field(default_factory=list)
    log: list[PublicSegment] = field(default_factory=list)
    before: list[PublicSegment] = field(default_factory=list)
    unsigned: list[date] = field(default_factory=list)
    still_out: set[str] = field(default_factory=set)
    declared_never: list[str] = field(default_factory=list)
    lost_files: int = 0
    lost_keys: int = 0

    @property
    def archive(self) -> str | None:
        """Name the folder for what is moved aside: the same again when that was cut off, for the newest goes last."""
        if not self.log:
            return None
        return archive_name(self.root, self.log[-1].day, sha256(self.log[-1].text))

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return any((self.unknown, self.altered, self.missing, self.withdrawn_before, self.log, self.declared_never))


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, by root; ``others``: public objects that belong to no feed and to no log.

    ``kept_from``: retention takes what began at or before it out of the indexes (R2).
    """

    closed_through: datetime
    kept_from: datetime
    roots: list[RootFindings]
    others: list[str]

    @property
    def problems(self) -> list[str]:
        """What differs, a sentence each; none when store and database agree."""
        return [sentence for found in self.roots for sentence in _of_root(found)] + list(_of_others(self.others))

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        if not self.problems:
            return ["Store and database agree: every public object is known, and every listed file is there."]
        return [
            *self.problems,
            f"The database has closed windows through {moment(self.closed_through)}.",
            _UNSEEN,
        ]


def find(runtime: Runtime) -> Findings:
    """Compare what is public with what the database knows; nothing changes.

    The store is read first, and the database after it: what is released meanwhile is no finding. Reads every file.
    """
    with runtime.database.connection() as connection:
        listed = reconciliation.listed(connection)
    paths = runtime.blobs.list("public/")
    with runtime.database.connection() as connection:
        feeds = {feed.root: feed for feed in files.feeds(connection)}
        clock = watch.clock(connection)
        names = [path.removeprefix("public/") for path in paths]
        known = reconciliation.known(connection, sorted({*names, *listed}))
    logs = sorted({match["root"] for path in paths if (match := _LOG.fullmatch(path) or _ARCHIVED.fullmatch(path))})
    roots = {root: RootFindings(root, feed.feed) for root, feed in feeds.items()}
    roots |= {root: RootFindings(root, None) for root in logs if root not in roots}
    others = []
    for name in names:
        owner = _root_of(name, roots)
        if name in known:
            if _differs(runtime, known[name]):
                roots[known[name].root].altered.append(known[name])
        elif owner is None:
            others.append(name)
        elif not _is_of_log(name) and not (name == f"{owner.root}/index.txt" and owner.feed is not None):
            owner.unknown.append(name)
    there = set(names)
    for name in listed:
        if name not in there and (file := known.get(name)) is not None and file.status == "released":
            roots[file.root].missing.append(file)
    for root, found in roots.items():
        feed = feeds.get(root)
        _find_in_log(runtime, found, None if feed is None else feed.feed_id, paths)
    return Findings(clock.closed_through, clock.now - clock.retention, [roots[root] for root in sorted(roots)], others)


def _find_in_log(runtime: Runtime, found: RootFindings, feed_id: int | None, paths: Sequence[str]) -> None:
    days = sorted(_days(found.root, paths))
    public = [segment for day in days if (segment := read_segment(runtime, segment_name(found.root, day), day))]
    archives = {match["label"] for match in map(_ARCHIVED.fullmatch, paths) if match and match["root"] == found.root}
    folders = [f"{archives_folder(found.root)}/{label}" for label in sorted(filter(None, archives))]
    with runtime.database.connection() as connection:
        known_days = [] if feed_id is None else transparency.days(connection, feed_id)
        news = (place for place, segment in enumerate(public) if _is_news(connection, feed_id, segment, known_days))
        first = next(news, len(public))
        found.before, found.log = public[:first], public[first:]
        _look_into_entries(connection, found)
        pems = [key.public_key for key in signing_keys.keys(connection) if key.purpose == "transparency"]
        declared = reconciliation.declared(connection, folders)
    found.unsigned = [segment.day for segment in found.log if not _is_signed(segment, pems)]
    found.declared_never = [folder for folder in folders if folder not in declared and folder != found.archive]


def _is_signed(segment: PublicSegment, pems: Sequence[str]) -> bool:
    if segment.parsed is None:
        return False
    for pem in pems:
        try:
            signed = releaselog.read_segment(segment.content).signature
            signature.verify(signature.load_public_key(pem), signed, sha256(segment.text))
        except (FormatError, VerificationError):
            continue
        return True
    return False


def _look_into_entries(connection: Connection, found: RootFindings) -> None:
    """Find batches that the log says were withdrawn, and count the files of which the database knows nothing."""
    told = [
        entry
        for segment in (*found.before, *found.log)
        if segment.parsed is not None
        for entry in segment.parsed.entries
    ]
    known = reconciliation.known(connection, sorted({entry.name for entry in told}))
    released = {entry.name: entry for entry in told if entry.kind == "release"}
    withdrawn = {entry.name for entry in told if entry.kind == "withdrawal"}
    found.still_out = released.keys() - withdrawn
    found.withdrawn_before = sorted(
        {known[name].batch_id for name in withdrawn if name in known and known[name].status == "released"}
    )
    lost = [released[name] for name in found.still_out if name not in known]
    found.lost_files, found.lost_keys = len(lost), sum(entry.keys for entry in lost)


def _is_news(connection: Connection, feed_id: int | None, public: PublicSegment, known_days: Sequence[date]) -> bool:
    """Tell whether a public segment says what the database does not; one that is damaged is its own matter."""
    if feed_id is None or public.day not in known_days:
        return True
    return public.parsed is not None and not continues(
        public.parsed, transparency.segment(connection, feed_id, public.day)
    )


def _days(root: str, paths: Sequence[str]) -> Iterator[date]:
    for path in paths:
        match = _LOG.fullmatch(path)
        if match and match["root"] == root and match["day"] != "index":
            try:
                yield date.fromisoformat(match["day"])
            except ValueError:
                continue


def read_segment(runtime: Runtime, name: str, day: date) -> PublicSegment | None:
    """Read a segment by its public name, damaged or not; None when it is not there."""
    try:
        content = runtime.blobs.read(public_path(name)).data
    except BlobMissingError:
        return None
    try:
        parsed, _ = parse(content)
    except FormatError:
        return PublicSegment(day, content, None)
    return PublicSegment(day, content, parsed)


def _differs(runtime: Runtime, file: KnownFile) -> bool:
    if file.status not in (*SERVED, "staged"):
        return False
    try:
        return hashlib.sha256(runtime.blobs.read(public_path(file.name)).data).digest() != file.zip_sha256
    except BlobMissingError:
        return False  # it was taken away meanwhile


def _root_of(name: str, roots: Mapping[str, RootFindings]) -> RootFindings | None:
    """Find whose folder an object lies in: roots may lie in one another, the longest is meant."""
    folder = name
    while folder := folder.rpartition("/")[0]:
        if folder in roots:
            return roots[folder]
    return None


def _is_of_log(name: str) -> bool:
    path = public_path(name)
    return bool(_LOG.fullmatch(path) or _ARCHIVED.fullmatch(path))


# Sentences


def _of_root(found: RootFindings) -> Iterator[str]:
    who = f"{found.root} (feed {found.feed})" if found.feed else f"{found.root} (no feed of the database)"
    if found.unknown:
        yield f"{who}: {counted(len(found.unknown), 'object')} that the database does not know: {_some(found.unknown)}."
    if found.altered:
        names = [file.name for file in found.altered]
        yield f"{who}: {counted(len(names), 'file')} with other bytes than the database knows: {_some(names)}."
    if found.missing:
        names = [file.name for file in found.missing]
        yield f"{who}: {counted(len(names), 'file')} listed, and not in the store: {_some(names)}."
    if found.withdrawn_before:
        numbers = [str(batch_id) for batch_id in found.withdrawn_before]
        yield f"{who}: released for the database, and withdrawn by the public log: batch {_some(numbers)}."
    if found.log:
        yield (f"{who}: the public log says from {found.log[0].day} to {found.log[-1].day} what the database does not.")
    if found.unsigned:
        days = [day.isoformat() for day in found.unsigned]
        yield (
            f"{who}: no key that the database knows has signed its segments of {_some(days)}. If no newer key did,"
            " somebody else wrote them: this is not what a restore leaves, and nothing to confirm."
        )
    if found.lost_files:
        yield (
            f"{who}: {counted(found.lost_files, 'file')} with {counted(found.lost_keys, 'key')} were released since the"
            " backup; what of these keys came in after it is in the store alone, and goes with the files."
        )
    for archive in found.declared_never:
        yield f"{who}: {archive} was moved aside after a restore of which the database does not know."


def _of_others(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{counted(len(names), 'object')} that belong to no feed: {_some(names)}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
