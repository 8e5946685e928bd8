"""Look at what phones get now, beside what the database says and what lies in the store (B5 to B9, R2, A3).

All the time files are released, expire and are withdrawn, and a run that is killed leaves the rest to the next one. So
the database is read before the public and after it, and what differs from both is looked at once more, after a run of
`export_keys` has had its time: only what stands twice counts.

Every index and list of objects is read whole. Of the files themselves a look fetches what was released in the last half
hour, and all others once a day by turns, or always if there are few bytes; the rest are only asked for their size, in
an index of more than a thousand lines by turns too.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from keyserver.device import client, exportreader
from keyserver.errors import FormatError, RemoteError, VerificationError
from keyserver.protocol import transparency
from keyserver.protocol.exportfile import public_path
from keyserver.protocol.retention import CADENCE, GRACE
from keyserver.protocol.signature import load_public_key
from keyserver.protocol.transparency import Segment, archive_list_name, list_name, segment_name
from keyserver.quality.publicfiles import Difference, PublicFiles
from keyserver.runtime import Runtime
from keyserver.store import batches, files, watch
from keyserver.store import transparency as logs
from keyserver.store.files import FeedIndex
from keyserver.store.watch import Clock, PublicFile

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Long enough for the run that comes after one that was killed.
PAUSE_S = 75
# A look comes every quarter of an hour; so long may a run of retention take.
TURN = timedelta(minutes=15)

_OVERDUE = CADENCE + TURN
_FETCHED_WITHIN = timedelta(minutes=30)
_TURNS_A_DAY = timedelta(days=1) // TURN
_FEW_BYTES = 16 * 1024 * 1024
_MANY_LINES = 1000


@dataclass(frozen=True, slots=True)
class _Feed:
    """A feed as the database has it: files by name, those of its index in order; its log's days, the newest two."""

    index: FeedIndex
    files: Mapping[str, PublicFile]
    listed: tuple[str, ...]
    days: tuple[date, ...]
    newest: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class _State:
    clock: Clock
    feeds: tuple[_Feed, ...]


@dataclass(frozen=True, slots=True)
class _Public:
    """What phones get of a feed, and what lies in its folder; None: it does not answer, or not as it should."""

    lines: list[str] | None
    days: list[str] | None
    segments: Mapping[date, Segment | None]
    objects: list[str]


def look(runtime: Runtime, pause: Callable[[], object] = lambda: time.sleep(PAUSE_S)) -> PublicFiles:
    """Look at everything that is public, twice where something differs.

    Raises:
        RemoteError: the database or the store did not answer. A public URL that does not is a difference.
        ConfigurationError: there is no public URL.
    """
    with httpx.Client() as http:
        first = _look(runtime, http, None)
        if not first.differences:
            return first
        pause()
        second = _look(runtime, http, {difference.name for difference in first.differences})
    return replace(
        second,
        asked=first.asked | second.asked,
        fetched=first.fetched | second.fetched,
        differences=first.differences & second.differences,
    )


def _look(runtime: Runtime, http: httpx.Client, suspects: Collection[str] | None) -> PublicFiles:
    """Look once; at the files of these names only, if any are given."""
    before = _read(runtime)
    public = {feed.index.root: _read_public(runtime, http, feed) for feed in before.feeds}
    after = _read(runtime)
    differences: list[Difference] = []
    lines: dict[str, None] = {}
    to_fetch: list[PublicFile] = []
    to_ask: list[PublicFile] = []
    later_feeds = {feed.index.root: feed for feed in after.feeds}
    for earlier in before.feeds:
        root = earlier.index.root
        later, found = later_feeds[root], public[root]
        differences += (
            Difference("indexes", "log_current", root, problem) for problem in _log_problems(earlier, later, found)
        )
        if found.lines is None:
            differences.append(Difference("indexes", "index_readable", root))
            continue
        differences += _line_differences(earlier, later, found, after.clock)
        lines |= dict.fromkeys([*found.lines, *earlier.listed])
        there = set(found.lines)
        served = [later.files[name] for name in later.listed if name in there]
        chosen, others = _chosen(served, after.clock.now, suspects)
        to_fetch += chosen
        to_ask += others
    objects = {path for found in public.values() for path in found.objects}
    differences += _object_differences(before, after, objects)
    differences += _fetched_differences(runtime, http, to_fetch)
    differences += _asked_differences(runtime, http, to_ask)
    return PublicFiles(
        feeds=[feed.index.root for feed in before.feeds],
        lines=list(lines),
        objects=sorted(objects),
        asked=frozenset(file.name for file in (*to_fetch, *to_ask)),
        fetched=frozenset(file.name for file in to_fetch),
        differences=frozenset(differences),
    )


# What the database says


def _read(runtime: Runtime) -> _State:
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        known = watch.public_files(connection)
        feeds = []
        for index in files.feeds(connection):
            of_feed = [file for file in known if file.feed_id == index.feed_id]
            days = logs.days(connection, index.feed_id)
            feeds.append(
                _Feed(
                    index,
                    {file.name: file for file in of_feed},
                    tuple(file.name for file in of_feed if file.status == "released"),
                    tuple(days),
                    tuple(logs.segment(connection, index.feed_id, day) for day in days[-2:]),
                )
            )
        return _State(watch.clock(connection), tuple(feeds))


# What is public


def _read_public(runtime: Runtime, http: httpx.Client, feed: _Feed) -> _Public:
    root = feed.index.root
    objects = [path.removeprefix(public_path("")) for path in runtime.blobs.list(public_path(f"{root}/"))]
    lines = _answer(lambda: client.fetch_index(f"{runtime.public_url}{root}/index.txt", http=http))
    days = _answer(lambda: client.fetch_index(runtime.public_url + list_name(root), http=http)) if feed.days else []
    segments = {segment.day: _read_segment(runtime, http, root, segment.day) for segment in feed.newest}
    return _Public(lines, days, segments, objects)


def _read_segment(runtime: Runtime, http: httpx.Client, root: str, day: date) -> Segment | None:
    content = _answer(lambda: client.fetch_file(runtime.public_url, segment_name(root, day), http=http))
    return None if content is None else _answer(lambda: transparency.parse(content)[0])


def _answer(ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except (RemoteError, FormatError) as error:
        logger.info("%s", error)
        return None


# What differs


def _line_differences(earlier: _Feed, later: _Feed, public: _Public, clock: Clock) -> Iterator[Difference]:
    lines = public.lines or []
    place = {name: number for number, name in enumerate(dict.fromkeys([*earlier.listed, *later.listed]))}
    released = [place[line] for line in lines if line in place]
    if released != sorted(set(released)):
        yield Difference("indexes", "index_ordered", earlier.index.root)
    for line in lines:
        if line not in place:
            yield Difference("index lines", "line_known", line)
    served, there = set(lines), set(public.objects)
    for name in earlier.listed:
        if name not in later.files or later.files[name].status != "released":
            continue  # it is leaving
        if name not in served:
            yield Difference("index lines", "line_served", name)
        if name not in there:
            yield Difference("index lines", "line_stored", name)
        if later.files[name].starts_at + clock.retention + _OVERDUE <= clock.now:
            yield Difference("index lines", "line_in_time", name)


def _log_problems(earlier: _Feed, later: _Feed, public: _Public) -> Iterator[str]:
    """Compare the list and the two newest days of a log; another line that is missing is another problem."""
    root = earlier.index.root
    if public.days is None:
        yield "its list cannot be read"
    else:
        yield from (f"{day} is not listed" for day in earlier.days if segment_name(root, day) not in public.days)
    now = {segment.day: segment for segment in later.newest}
    for segment in earlier.newest:
        found = public.segments[segment.day]
        if found is None:
            yield f"{segment.day} cannot be read"
        elif segment.day in now and not transparency.continues(found, now[segment.day]):
            yield f"{segment.day} says what the database does not"
        elif len(found.entries) < len(segment.entries):
            missing = segment.entries[len(found.entries)]
            yield f"{segment.day} lacks the {missing.kind} of {missing.name}"
        elif found.head is None and segment.head is not None:
            yield f"{segment.day} has no head"


def _object_differences(before: _State, after: _State, objects: Iterable[str]) -> Iterator[Difference]:
    """Compare with what either state knows: a file of one feed may lie under the root of another."""
    known: dict[str, PublicFile | None] = {}
    for feed in (*before.feeds, *after.feeds):
        root = feed.index.root
        known |= {
            f"{root}/index.txt": None,
            list_name(root): None,
            **dict.fromkeys(map(partial(segment_name, root), feed.days)),
        }
        known |= feed.files
    archives = tuple(archive_list_name(feed.index.root).removesuffix("index.txt") for feed in before.feeds)
    for path in objects:
        if path.startswith(archives):
            continue
        if path not in known:
            yield Difference("objects", "object_known", path)
            continue
        file = known[path]
        left = file.left_index_at if file is not None and file.status == "expired" else None
        if left is not None and left + GRACE + _OVERDUE <= after.clock.now:
            yield Difference("objects", "object_in_time", path)


# The files themselves


def _chosen(
    served: Sequence[PublicFile], now: datetime, suspects: Collection[str] | None
) -> tuple[list[PublicFile], list[PublicFile]]:
    """Give which of an index's files to fetch, and which to ask for only."""
    if suspects is not None:
        return [file for file in served if file.name in suspects], []
    few = sum(file.zip_bytes for file in served) <= _FEW_BYTES
    turns = -(-len(served) // _MANY_LINES)
    turn = int(now.timestamp()) // int(TURN.total_seconds())
    fetched, asked = [], []
    for file in served:
        number = int.from_bytes(file.zip_sha256[:8], "big")
        new = file.released_at is not None and now - file.released_at < _FETCHED_WITHIN
        if few or new or number % _TURNS_A_DAY == turn % _TURNS_A_DAY:
            fetched.append(file)
        elif number // _TURNS_A_DAY % turns == turn % turns:
            asked.append(file)
    return fetched, asked


def _fetched_differences(runtime: Runtime, http: httpx.Client, fetched: Sequence[PublicFile]) -> Iterator[Difference]:
    """Fetch files and read them as a phone does, with the keys that their batches were planned with."""
    trusted: dict[int, dict[tuple[str, str], EllipticCurvePublicKey]] = {}
    with runtime.database.connection() as connection:
        for batch_id in {file.batch_id for file in fetched}:
            keys = batches.signing_keys(connection, batch_id)
            trusted[batch_id] = {(key.key_id, key.key_version): load_public_key(key.public_key) for key in keys}
    for file in fetched:
        data = _answer(partial(client.fetch_file, runtime.public_url, file.name, http=http))
        if data is None:
            yield Difference("index lines", "line_answers", file.name)
            continue
        if hashlib.sha256(data).digest() != file.zip_sha256:
            yield Difference("index lines", "bytes_as_recorded", file.name)
        try:
            exportreader.verify(data, trusted[file.batch_id])
        except (FormatError, VerificationError) as error:
            logger.info("%s: %s", file.name, error)
            yield Difference("index lines", "line_verifies", file.name)


def _asked_differences(runtime: Runtime, http: httpx.Client, asked: Sequence[PublicFile]) -> Iterator[Difference]:
    """Ask for files without their bytes."""
    for file in asked:
        try:
            size = client.file_size(runtime.public_url, file.name, http=http)
        except (RemoteError, FormatError) as error:
            logger.info("%s", error)
            yield Difference("index lines", "line_answers", file.name)
            continue
        if size is not None and size != file.zip_bytes:
            yield Difference("index lines", "bytes_as_recorded", file.name)
