"""Where a key is, or why it is nowhere: for an operator who holds a phone's complaint (rules T2, K1 to K3, B1 to B5).

What decides is asked of the same functions of the database that build batches; where a key stands is read in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from keyserver.errors import FormatError
from keyserver.oversight.places import ListName, NoPlace, Place, Places
from keyserver.oversight.wording import lines, moment, span
from keyserver.protocol import base64text
from keyserver.protocol.exposure import EMBARGO, KEY_BYTES, MAX_AGE
from keyserver.protocol.intervals import floor_window
from keyserver.runtime import Runtime
from keyserver.store import batches, oversight
from keyserver.store.database import Connection
from keyserver.store.oversight import BatchOfKey, Clock, FeedPlan, FileRecord, StoredKey

_NOT_STORED = (
    "No such key is stored. Either it was never accepted, or its row is deleted, {days} days after the start of its"
    " window or on demand: which of these cannot be told, since nothing is kept of a deleted key."
)
_NOT_OF_THE_FEED = {
    "other_region": "it takes no keys of the regions that this key carries",
    "excluded_region": "it leaves out keys of a region that this key carries",
    "traveler": "it leaves out travelers' keys, and this is one",
}
_STILL_PLANNED = ("embargo", "window_open", "not_planned")


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing to know about a key and a feed.

    ``code`` is for programs: which rule or which status decides. ``batch`` and ``file`` (as the index lists it) say
    where; ``position`` counts from 1 in ``list`` (``keys`` or ``revised_keys``).
    """

    code: str
    text: str
    batch: int | None = None
    file: str | None = None
    list: ListName | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class FeedExplanation:
    """A feed and a key. ``belongs``: by the feed's rules, whether or not it is released."""

    feed: str
    belongs: bool
    reasons: list[Reason]


@dataclass(frozen=True, slots=True)
class KeyExplanation:
    """All that is known of one key, without the key. ``window_start``: of the window that it was published in."""

    stored: bool
    window_start: datetime | None
    window_end: datetime | None
    about: list[str]
    feeds: list[FeedExplanation]

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        return lines(self.about, *([f"Feed {feed.feed}: {r.text}." for r in feed.reasons] for feed in self.feeds))


def parse_key(text: str) -> bytes:
    """Read a key as base64 (either alphabet) or hexadecimal; `FormatError`, which does not repeat it, for another."""
    text = text.strip()
    try:
        key = bytes.fromhex(text) if re.fullmatch(r"[0-9A-Fa-f]{32}", text) else base64text.decode(text)
    except FormatError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FormatError(f"this is no key: give {KEY_BYTES} bytes, in base64 or hexadecimal")
    return key


def explain_key(runtime: Runtime, key: bytes) -> KeyExplanation:
    """Say when a key was accepted, to which feeds it belongs, and for each where it is or why it is not there.

    Raises `VerificationError` when phones are handed another file than the one that was released.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        clock = oversight.clock(connection)
        stored = oversight.stored_key(connection, key)
        if stored is None:
            about = [_NOT_STORED.format(days=clock.retention.days)]
            return KeyExplanation(stored=False, window_start=None, window_end=None, about=about, feeds=[])
        read = _read(connection, key, stored)
    places = Places(runtime.blobs, key)
    return KeyExplanation(
        stored=True,
        window_start=stored.created_at,
        window_end=stored.created_at + clock.width,
        about=list(_about(stored, clock)),
        feeds=[_explain_feed(of_feed, stored, clock, places) for of_feed in read],
    )


def without_batch(feed: FeedPlan, starts_at: datetime, clock: Clock) -> Reason:
    """Say why no batch of a feed has the window that starts there (B2, W1)."""
    ends_at = starts_at + clock.width
    if feed.active_thru is not None and starts_at >= feed.active_thru:
        return Reason("feed_ended", f"it ended at {moment(feed.active_thru)}, before this window")
    if starts_at < floor_window(feed.active_from, clock.width):
        return Reason("feed_not_active", f"it began at {moment(feed.active_from)}, after this window")
    if starts_at < feed.next_starts_at:
        return Reason("not_covered", "no batch has this window: the feed's first batch starts after it")
    if starts_at > clock.now:
        return Reason("embargo", f"embargo until {moment(starts_at)}; no batch has it before that window is closed")
    if ends_at > clock.closed_through:
        return Reason("window_open", f"the window is open until {moment(ends_at)}, and not closed yet")
    return Reason("not_planned", f"the window is closed; the batch that has it is planned at {moment(feed.planned_at)}")


@dataclass(frozen=True, slots=True)
class _OfFeed:
    """What the database knows of a key and a feed."""

    feed: FeedPlan
    feed_of_revision: FeedPlan | None
    prospect: str  # the fate by the feed's rules of now
    batches: list[BatchOfKey]
    revision_fates: dict[int, str]  # by batch, as are the files
    files: dict[int, list[FileRecord]]


def _read(connection: Connection, key: bytes, stored: StoredKey) -> list[_OfFeed]:
    prospects = oversight.prospects(connection, key, MAX_AGE)
    found = oversight.batches_of_key(connection, key)
    later: dict[int, FeedPlan] = {}
    fates: dict[int, str] = {}
    if stored.revised_at is not None:
        later = {feed.feed_id: feed for feed in oversight.feeds(connection, stored.revised_at)}
        for batch in found:
            carriers = batch.carriers or batches.carriers(connection, batch.batch_id)
            if fate := oversight.revision_of_key(connection, batch.batch_id, carriers, key):
                fates[batch.batch_id] = fate
    files = {batch.batch_id: oversight.files(connection, batch.batch_id) for batch in found}
    return [
        _OfFeed(
            feed,
            later.get(feed.feed_id),
            prospects[feed.feed_id],
            [batch for batch in found if batch.feed_id == feed.feed_id],
            fates,
            files,
        )
        for feed in oversight.feeds(connection, stored.created_at)
    ]


def _about(stored: StoredKey, clock: Clock) -> Iterator[str]:
    """Say what is known of the key by itself; when it was accepted never more exactly than by windows."""
    window = span(stored.created_at, stored.created_at + clock.width)
    if stored.synthetic:
        yield f"It is padding of the window {window}: a synthetic user's, which nobody uploaded."
    elif stored.created_at == floor_window(stored.ended_at + EMBARGO, clock.width):
        yield (
            f"It is published in the window {window}, in which its embargo ends (its own end and two hours): it was"
            " accepted in that window or an earlier one."
        )
    else:
        yield f"It was accepted in the window {window}."
    traveler = "; it is a traveler's" if stored.traveler else ""
    yield f"Its report type is {stored.report_type or 'not known'}; its regions: {', '.join(stored.regions)}{traveler}."
    if stored.revised_at is not None:
        became = "revoked" if stored.revised_report_type == "negative" else f"revised to {stored.revised_report_type}"
        yield f"It was {became} in the window {span(stored.revised_at, stored.revised_at + clock.width)}."
    yield f"Its row is kept until {moment(stored.created_at + clock.retention)}."


def _explain_feed(of_feed: _OfFeed, stored: StoredKey, clock: Clock, places: Places) -> FeedExplanation:
    fates = [batch.fate for batch in of_feed.batches if batch.fate is not None]
    if not fates:
        reason = _without_batch(of_feed, stored, clock)
        belongs = reason.code == "revoked" or reason.code in _STILL_PLANNED
        return FeedExplanation(of_feed.feed.name, belongs, [reason])
    belongs = any(fate not in _NOT_OF_THE_FEED for fate in fates)
    reasons = [_of_key(of_feed, batch, stored, places) for batch in of_feed.batches if batch.fate is not None]
    if belongs and stored.revised_at is not None:
        reasons += _of_revision(of_feed, stored.revised_at, clock, places)
    return FeedExplanation(of_feed.feed.name, belongs, reasons)


def _without_batch(of_feed: _OfFeed, stored: StoredKey, clock: Clock) -> Reason:
    if of_feed.prospect in _NOT_OF_THE_FEED:
        return Reason(of_feed.prospect, _NOT_OF_THE_FEED[of_feed.prospect])
    reason = without_batch(of_feed.feed, stored.created_at, clock)
    if of_feed.prospect == "revoked" and reason.code in _STILL_PLANNED:
        return Reason("revoked", "it is revoked: the batch that will be planned for its window does not release it")
    return reason


def _of_key(of_feed: _OfFeed, batch: BatchOfKey, stored: StoredKey, places: Places) -> Reason:
    number = batch.batch_id
    match batch.fate:
        case "released":
            return _by_status(of_feed, batch, "keys", places)
        case "left_out":
            return Reason("left_out", f"batch {number} replaces batch {batch.replaces} without its keys", number)
        case "revoked":
            text = f"it was revoked before {moment(batch.revisions_to)}, so that batch {number} does not release it"
            return Reason("revoked", text, number)
        case "expired":
            text = (
                f"it ended at {moment(stored.ended_at)}, before the cutoff of batch {number} ({moment(batch.cutoff)}):"
                " no phone could match it any more"
            )
            return Reason("expired", text, number)
        case fate:
            code = str(fate)
            return Reason(code, f"batch {number}: {_NOT_OF_THE_FEED[code]}", number)


def _of_revision(of_feed: _OfFeed, revised_at: datetime, clock: Clock, places: Places) -> Iterator[Reason]:
    """Say where the revision is told (K3); a revision that the keys' own file shows already needs no word."""
    for batch in of_feed.batches:
        fate = of_feed.revision_fates.get(batch.batch_id)
        if fate is None or (fate == "in_state" and batch.fate is not None):
            continue
        yield _of_revision_in(of_feed, batch, fate, places)
    covered = any(batch.starts_at <= revised_at < batch.ends_at for batch in of_feed.batches)
    if not covered and of_feed.feed_of_revision is not None:
        reason = without_batch(of_feed.feed_of_revision, revised_at, clock)
        yield Reason(f"revision_{reason.code}", f"its revision: {reason.text}")


_REVISION_NOT_TOLD = {
    "in_state": "the batch that has it shows it as revised already",
    "expired": "it had ended before the cutoff",
    "carrier_not_released": "the batch that has it is not released",
    "not_carried": "no batch of the feed has it",
}


def _of_revision_in(of_feed: _OfFeed, batch: BatchOfKey, fate: str, places: Places) -> Reason:
    number = batch.batch_id
    if fate not in _REVISION_NOT_TOLD:
        reason = _by_status(of_feed, batch, "revised_keys", places)
        again = ", told again" if fate == "retold" else ""
        return Reason(
            f"revision_{reason.code}",
            f"its revision{again}: {reason.text}",
            number,
            reason.file,
            reason.list,
            reason.position,
        )
    if batch.carriers:
        return Reason(
            f"revision_{fate}", f"batch {number} does not tell its revision: {_REVISION_NOT_TOLD[fate]}", number
        )
    text = f"batch {number}, as things stand, would not tell its revision: {_REVISION_NOT_TOLD[fate]}"
    return Reason(f"revision_{fate}", text, number)


def _by_status(of_feed: _OfFeed, batch: BatchOfKey, name: ListName, places: Places) -> Reason:
    """Say how far a batch is that has the key in this list, and where it stands in its files."""
    number = batch.batch_id
    place = places.find(of_feed.files[number], name)
    if place is NoPlace.NOT_THERE and batch.carriers:
        text = f"ALARM: batch {number} is {batch.status} and should have it in `{name}`, and it is in none of its files"
        return Reason("missing", text, number)
    code, text = _state(of_feed, batch, place)
    if isinstance(place, Place):
        where = f"file {place.file.name or place.file.number}"
        text = f"{text}; {where} has it in `{name}`, number {place.position:,} of {place.of:,}"
    if batch.replaced_by is not None:
        text = f"{text}; batch {batch.replaced_by} replaces it"
    if isinstance(place, Place):
        return Reason(code, text, number, place.file.name, name, place.position)
    return Reason(code, text, number)


def _state(of_feed: _OfFeed, batch: BatchOfKey, place: Place | NoPlace) -> tuple[str, str]:
    name = f"batch {batch.batch_id}"
    because = f" ({batch.reason})" if batch.reason else ""
    match batch.status:
        case "held":
            since = f" since {moment(batch.held_at)}" if batch.held_at else ""
            return "held", f"{name} is held{since} until somebody decides: {batch.problem}"
        case "rejected":
            return "rejected", f"{name} was rejected{because}: nothing of it is released"
        case "replaced":
            return "replaced", f"{name} was approved after it was held{because}: nothing of it is released"
        case "withdrawing" | "withdrawn":
            done = "is being withdrawn" if batch.status == "withdrawing" else "was withdrawn"
            return batch.status, f"{name} {done}{because}: its files are out of the index"
        case "released":
            return _released(name, place)
        case _:
            return _unsettled(of_feed.feed, batch, name)


def _released(name: str, place: Place | NoPlace) -> tuple[str, str]:
    if not isinstance(place, Place):
        return "released", f"{name} is released; its files are no longer in the store"
    file = place.file
    at = moment(file.released_at) if file.released_at else "a time not recorded"
    if file.status == "released":
        return "released", f"{name} was released at {at}, and phones can download it"
    return "left_index", f"{name} was released at {at}; its line has left the index since"


def _unsettled(feed: FeedPlan, batch: BatchOfKey, name: str) -> tuple[str, str]:
    failed = f"; its steps failed in {batch.failed_runs} runs" if batch.failed_runs else ""
    if feed.paused:
        return "feed_paused", f"{name} is {batch.status} and waits: the feed is paused{failed}"
    if batch.waits_for is not None:
        return "waiting", f"{name} is {batch.status} and waits for batch {batch.waits_for}, which is before it{failed}"
    if batch.claimed or batch.carriers:
        return "being_built", f"{name} is {batch.status}: it is being made ready for release{failed}"
    return "due", f"{name} is planned and due: the next run builds it{failed}"
