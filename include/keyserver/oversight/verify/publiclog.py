"""The public logs: their rows against the events and the chain, and what is public against the rows (rule A3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from keyserver.device import releaselog
from keyserver.device.releaselog import Checkpoint, LogSegment
from keyserver.errors import ConfigurationError, FormatError, RemoteError
from keyserver.oversight.verify.chain import KnownHead
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import FileSaid, LineSaid, RestoreSaid, Said
from keyserver.oversight.verify.sources import Source
from keyserver.oversight.wording import counted, moment
from keyserver.protocol import transparency as protocol
from keyserver.store import states, transparency
from keyserver.store.database import Connection
from keyserver.store.states import Clock, FeedState, LineState

PATIENCE = timedelta(minutes=10)  # what is stored and not public for longer is not just on its way

_LIST_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PublicLog:
    """What a place serves of a feed's log, and in folders what was moved aside after restores."""

    source: str
    feed: FeedState
    segments: Sequence[LogSegment]
    archives: dict[str, list[LogSegment]]
    may_settle: dict[str, str]  # what was found of files that are perhaps just being released or withdrawn

    def heads(self) -> Iterator[KnownHead]:
        """Give the heads of the audit chain that it has."""
        for segment in self.segments:
            if segment.head is not None and segment.head[1] > 0:
                at, seq, sha256 = segment.head
                where = f"the public log of feed {self.feed.name}, {segment.day}, at {self.source},"
                yield KnownHead(seq, bytes.fromhex(sha256), where, at)


# What is public


def read(
    source: Source, feed: FeedState, clock: Clock, keys: Sequence[EllipticCurvePublicKey], report: Report
) -> PublicLog | None:
    """Read and check a feed's public log at a place by the reader that shares nothing with its writer.

    What does not hold in it is a finding. None when there is nothing that can be read.
    """
    about = f"public log of feed {feed.name}"
    try:
        if source.read(f"{feed.root}/index.txt") is None:
            report.find(f"index of feed {feed.name}", f"{source.name} has none")
            return None
        found = releaselog.check_log(
            f"{source.base}{feed.root}/index.txt",
            clock.now,
            public_keys=keys,
            listed_for=clock.period,
            http=source.http,
        )
        archives = _archives(source, feed, report)
    except (FormatError, ConfigurationError) as error:
        report.find(about, f"at {source.name}: {error}")
        return None
    except RemoteError as error:
        report.unreachable.append(f"{about} at {source.name}: {error}")
        return None
    report.facts += [f"{about} at {source.name}: {fact}" for fact in found.facts]
    for text in found.findings:
        if text not in found.may_settle:
            report.find(about, f"at {source.name}: {text}")
    return PublicLog(source.name, feed, found.segments, archives, found.may_settle)


def _archives(source: Source, feed: FeedState, report: Report) -> dict[str, list[LogSegment]]:
    """Read what lies aside since restores; what of it cannot be read is a finding."""
    listed = source.read(protocol.archive_list_name(feed.root), _LIST_LIMIT)
    archives: dict[str, list[LogSegment]] = {}
    for name in (listed or b"").decode("ascii", "replace").split():
        content = source.read(name, releaselog.MAX_SEGMENT_SIZE)
        if content is None:
            report.find(f"archived log of feed {feed.name}", f"{source.name} lists {name} and does not have it")
            continue
        try:
            archives.setdefault(name.rpartition("/")[0], []).append(releaselog.read_segment(content))
        except FormatError as error:
            report.find(f"archived log of feed {feed.name}", f"at {source.name}: {name} cannot be read: {error}")
    return archives


# The rows against the events


def compare_rows(connection: Connection, said: Said, report: Report) -> None:
    """Compare the stored log of each feed with the events that it tells of, and its days with their hashes."""
    lines = days = 0
    for feed in states.feeds(connection):
        lines += _compare_lines(connection, feed, said, report)
        days += _compare_days(connection, feed, said, report)
    report.facts.append(
        f"{counted(lines, 'line')} and {counted(days, 'day')} of stored logs were compared with events."
    )


def stored_heads(connection: Connection) -> list[KnownHead]:
    """Give the heads that the stored logs say are public."""
    return [
        KnownHead(day.head_seq, day.head_sha256, f"the stored log of feed {feed.name}, {day.day},")
        for feed in states.feeds(connection)
        for day in states.log_days(connection, feed.feed_id)
        if day.head_seq > 0
    ]


def _compare_lines(connection: Connection, feed: FeedState, said: Said, report: Report) -> int:
    left = {}
    for line in said.log_lines.get(feed.name, ()):
        file = said.batches[line.batch].files[line.number]
        left[line.kind, file.name] = (line, file)
    order = {key: place for place, key in enumerate(left)}
    compared, last = 0, -1
    for row in states.log_lines(connection, feed.feed_id):
        about = f"log of feed {feed.name}, line {row.number} ({row.kind} of {row.name})"
        key = (row.kind, row.name)
        event = left.pop(key, None)
        if event is None:
            if said.whole:
                report.find(about, "it is stored, and no event says so")
            continue
        compared += 1
        for text in _of_line(row, *event):
            report.find(about, text)
        if order[key] < last:
            report.find(about, "it stands in another order than the events")
        last = max(last, order[key])
    for line, file in left.values():
        report.find(f"log of feed {feed.name}", f"event {line.seq} ({line.kind} of {file.name}) has no line in it")
    return compared


def _of_line(row: LineState, line: LineSaid, file: FileSaid) -> Iterator[str]:
    keys = None if file.keys is None or file.revised_keys is None else file.keys + file.revised_keys
    pairs = {
        "number of keys": (row.keys, keys),
        "SHA-256 of the zip": (row.zip_sha256, file.zip_sha256),
        "SHA-256 of export.bin": (row.export_sha256, file.export_sha256),
        "file and span": (row.of_file, True),
    }
    for what, (stored, by_event) in pairs.items():
        if stored != by_event:
            yield f"its {what} is another than event {line.seq} says"


def _compare_days(connection: Connection, feed: FeedState, said: Said, report: Report) -> int:
    events = {day: event for (name, day), event in said.log_days.items() if name == feed.name}
    first = date.min if said.whole else min(events, default=date.max)
    compared = 0
    for row in states.log_days(connection, feed.feed_id):
        if row.day < first:
            continue
        compared += 1
        about = f"log of feed {feed.name}, {row.day}"
        event = events.pop(row.day, None)
        if event is None:
            report.find(about, "the day is closed, and no event says so")
        elif (row.head_seq, row.head_sha256) != (event.head_seq, event.head_sha256):
            report.find(about, f"its head is another than event {event.seq} says")
        elif row.sha256 != event.sha256:
            report.find(about, f"its hash is another than event {event.seq} says")
        if hashlib.sha256(_text(connection, feed, row.day)).digest() != row.sha256:
            report.find(about, "its lines do not have the hash that is stored with it")
    for day, event in events.items():
        report.find(f"log of feed {feed.name}, {day}", f"event {event.seq} closed it, and it has no row")
    return compared


def _text(connection: Connection, feed: FeedState, day: date) -> bytes:
    """Give the lines of a day as the rows make them; none where a row holds what no line can."""
    try:
        return protocol.encode(transparency.segment(connection, feed.feed_id, day))
    except FormatError:
        return b""


# What is public against the rows


def compare_public(
    connection: Connection, logs: Sequence[PublicLog], said: Said, now: datetime, report: Report
) -> None:
    """Compare what is public, read before, with the stored logs: what the database does not know is a fork."""
    for log in logs:
        _compare_segments(connection, log, now, report)
        for text, name in log.may_settle.items():
            logged_at = states.logged_at(connection, name)
            if logged_at is None or logged_at < now - PATIENCE:
                report.find(f"public log of feed {log.feed.name}", f"at {log.source}: {text}")
        for folder, segments in log.archives.items():
            declared = [restore for restore in said.restores if restore.archive == folder]
            _compare_archive(log, folder, segments, declared, said, report)
    for restore in said.restores:
        report.facts.append(
            f"A restore of an older database was declared by event {restore.seq}, {moment(restore.at)}: what the public"
            f" log of {restore.root} said up to {restore.day}, with head {restore.head_seq}, lies in {restore.archive}."
            " What the database had of that time is not in it any more."
        )


def _compare_segments(connection: Connection, log: PublicLog, now: datetime, report: Report) -> None:
    about = f"public log of feed {log.feed.name}"
    days = set(transparency.days(connection, log.feed.feed_id))
    for public in log.segments:
        stored = _text(connection, log.feed, public.day) if public.day in days else b""
        days.discard(public.day)
        if stored == public.text or (public.head is None and stored.startswith(public.text)):
            waiting = list(_waiting(stored[len(public.text) :], now))
            if waiting:
                report.find(about, f"{counted(len(waiting), 'line')} of {public.day} are stored, and not public")
            continue
        report.find(
            about,
            f"fork: what it says of {public.day}, at {log.source}, is not what the database has, and no restore was"
            " declared for it",
        )
    for day in sorted(days):
        if datetime(day.year, day.month, day.day, tzinfo=UTC) < now - PATIENCE:
            report.find(about, f"the day {day} is stored, and not public at {log.source}")


def _waiting(text: bytes, now: datetime) -> Iterator[str]:
    for line in text.decode("ascii").splitlines():
        at = datetime.fromisoformat(line.split(" ")[1])
        if at < now - PATIENCE:
            yield line


def _compare_archive(  # noqa: PLR0913, PLR0917 - what an archive is compared with
    log: PublicLog,
    folder: str,
    segments: Sequence[LogSegment],
    declared: Sequence[RestoreSaid],
    said: Said,
    report: Report,
) -> None:
    about = f"archived log of feed {log.feed.name}"
    if not declared:
        if said.whole:
            report.find(
                f"archived log of feed {log.feed.name}", f"fork: {folder} lies there, and no restore was declared"
            )
        return
    newest = segments[-1]
    lines, sha256 = newest.text.count(b"\n"), hashlib.sha256(newest.text).digest()
    for restore in declared:
        if (newest.day.isoformat(), lines, sha256) != (restore.day, restore.lines, restore.sha256):
            report.find(about, f"fork: {folder} is not what event {restore.seq} declared after a restore")


# What somebody wrote down before


def compare_kept(kept: Sequence[Checkpoint], logs: Sequence[PublicLog], report: Report) -> None:
    """Compare what was seen of public logs before with what they are now, or what was moved aside of them."""
    for checkpoint in kept:
        for log in logs:
            if log.feed.root != checkpoint.root:
                continue
            about = f"public log of feed {log.feed.name}"
            if any(checkpoint.is_in(segment) for segment in log.segments):
                report.facts.append(f"{about} at {log.source}: what the checkpoint saw up to {checkpoint.day} stands.")
            elif any(checkpoint.is_in(segment) for moved in log.archives.values() for segment in moved):
                aside = f"what the checkpoint saw up to {checkpoint.day} lies aside after a restore"
                report.facts.append(f"{about} at {log.source}: {aside}.")
            else:
                report.find(about, f"fork: what the checkpoint saw up to {checkpoint.day} is gone at {log.source}")
        if not any(log.feed.root == checkpoint.root for log in logs):
            report.unproven.append(f"the checkpoint of {checkpoint.root}: no public log of it was read")
