"""Where a batch's files come from: windows, rules, counts that add up, code, configuration, keys, events (rule A6)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyserver.errors import ConflictError
from keyserver.oversight.wording import KEY_FATES, REVISION_FATES, by_reason, counted, lines, moment, span
from keyserver.runtime import Runtime
from keyserver.store import batches, oversight
from keyserver.store.database import Connection
from keyserver.store.oversight import BatchRecord, Event, FileRecord, WindowTotals

_REVISED = "revised_"
_OUTSIDE = "revised_retold_outside"
_ON_DEMAND = "deleted_on_demand"
_MOST_DIGITS = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the rows and revisions of a batch's span, beside what its windows held when they were closed.

    ``keys`` and ``revisions``: by fate; ``synthetic``: of the released keys; ``retold_outside``: revocations of another
    span that a supplement tells again. ``deleted_…``: by retention before the batch was built; ``…_on_demand``: because
    somebody asked for it. ``problems``: why it does not add up, a sentence each.
    """

    counted_keys: int
    keys: dict[str, int]
    synthetic: int
    keys_on_demand: int
    deleted_keys: int
    counted_revisions: int
    revisions: dict[str, int]
    revisions_on_demand: int
    deleted_revisions: int
    retold_outside: int
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Span:
    """The closed windows of a batch's span, summed."""

    windows: int
    first: datetime | None
    through: datetime | None
    keys: int
    synthetic_keys: int
    revisions: int


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that the batch was planned to be signed with."""

    name: str
    key_id: str
    key_version: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration by which the batch was planned: the event that applied it, and the hash of its content."""

    event: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """All that is recorded of a batch and its files. ``timings``: by status, from audit events.

    ``account`` is None until the batch is built.
    """

    batch: BatchRecord
    span: Span
    account: Account | None
    configuration: Configuration | None
    signing_keys: list[SigningKey]
    timings: dict[str, datetime]
    events: list[Event]
    files: list[FileRecord]

    @property
    def problems(self) -> list[str]:
        """Why the counts do not add up; none when they do or are not there yet."""
        return [] if self.account is None else self.account.problems

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        return lines(
            _about(self.batch, self.span),
            _counts(self.account, self.batch),
            _made(self),
            *(_of_file(file) for file in self.files),
            _history(self.events, self.timings),
        )


def log_provenance(runtime: Runtime, batch_id: int) -> None:
    """Tell a batch's record in the log, for operators who look at its task."""
    for sentence in provenance(runtime, str(batch_id)).sentences():
        logger.info("%s", sentence)


def provenance(runtime: Runtime, file_or_batch: str) -> Provenance:
    """Collect what is recorded of a batch: by its number, or by a file's name as the index lists it, or its address.

    Raises `ConflictError` when there is none.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = _find(connection, file_or_batch)
        windows = oversight.windows_of_span(connection, batch.starts_at, batch.ends_at)
        files = oversight.files(connection, batch.batch_id)
        events = oversight.events_of_batch(connection, batch.batch_id)
        timings = _timings(events)
        signing_keys = batches.signing_keys(connection, batch.batch_id)
        applied = oversight.configuration_before(connection, events[0].seq) if events else None
        released = [event for event in events if event.kind == "file.released"]
        indexed = oversight.index_after(connection, batch.feed, released[-1].seq) if released else None
    if indexed is not None:
        seq, at = indexed
        timings = dict(sorted([*timings.items(), ("index_written", at)], key=_at))
        events = sorted([*events, Event(seq, at, "index.written", "", None, None)], key=_seq)
    built_at = timings.get("built") or timings.get("empty")
    return Provenance(
        batch=batch,
        span=_span(windows),
        account=None if built_at is None else account(batch.counts, windows, files, built_at),
        configuration=None if applied is None else Configuration(*applied),
        signing_keys=[SigningKey(key.name, key.key_id, key.key_version) for key in signing_keys],
        timings=timings,
        events=events,
        files=files,
    )


def account(
    counts: Mapping[str, int], windows: Sequence[WindowTotals], files: Sequence[FileRecord], built_at: datetime
) -> Account:
    """Put a batch's counts beside its windows' totals and its files, and find what does not add up (A6).

    ``counts`` as `build` writes them: fates of keys, ``synthetic``, ``deleted_on_demand``, and ``revised_<fate>``. What
    else is missing retention has deleted before the batch was built, which it may only when the window was old enough
    by then. A revision goes with its key, whose window may be any before: of these only too many are a problem here.
    """
    keys = {fate: counts.get(fate, 0) for fate in KEY_FATES}
    revisions = {fate: counts.get(_REVISED + fate, 0) for fate in REVISION_FATES}
    span = _span(windows)
    keys_on_demand, revisions_on_demand = counts.get(_ON_DEMAND, 0), counts.get(_REVISED + _ON_DEMAND, 0)
    deleted_keys = span.keys - sum(keys.values()) - keys_on_demand
    deleted_revisions = span.revisions - sum(revisions.values()) - revisions_on_demand
    made = Account(
        counted_keys=span.keys,
        keys=keys,
        synthetic=counts.get("synthetic", 0),
        keys_on_demand=keys_on_demand,
        deleted_keys=deleted_keys,
        counted_revisions=span.revisions,
        revisions=revisions,
        revisions_on_demand=revisions_on_demand,
        deleted_revisions=deleted_revisions,
        retold_outside=counts.get(_OUTSIDE, 0),
        problems=[],
    )
    old_enough = sum(window.keys for window in windows if window.kept_until <= built_at)
    made.problems.extend(_problems(made, counts, files, old_enough))
    return made


def _problems(made: Account, counts: Mapping[str, int], files: Sequence[FileRecord], old_enough: int) -> Iterator[str]:
    known = {*KEY_FATES, *(_REVISED + fate for fate in REVISION_FATES), "synthetic", _OUTSIDE}
    known |= {_ON_DEMAND, _REVISED + _ON_DEMAND}
    if unknown := sorted(set(counts) - known):
        yield f"It counts what is no fate: {', '.join(unknown)}."
    if made.deleted_keys < 0:
        yield f"It counts {counted(-made.deleted_keys, 'key')} more than its windows held."
    if made.deleted_keys > old_enough:
        yield f"{counted(made.deleted_keys - old_enough, 'key')} of its windows went no way that is counted."
    if made.deleted_revisions < 0:
        yield f"It counts {counted(-made.deleted_revisions, 'revision')} more than its windows held."
    if made.synthetic > made.keys["released"]:
        yield "More synthetic keys are counted than were released."
    in_files = sum(file.keys for file in files)
    if in_files != made.keys["released"]:
        yield f"Its files have {counted(in_files, 'key')}, and {made.keys['released']:,} are counted as released."
    told = made.revisions["released"] + made.revisions["retold"] + made.retold_outside
    revised_in_files = sum(file.revised_keys for file in files)
    if revised_in_files != told:
        yield f"Its files have {counted(revised_in_files, 'revised key')}, and {told:,} are counted as told."


def _find(connection: Connection, file_or_batch: str) -> BatchRecord:
    if file_or_batch.isascii() and file_or_batch.isdigit():
        batch_id = int(file_or_batch[:_MOST_DIGITS])
        found = oversight.batch(connection, batch_id)
        if found is None:
            raise ConflictError(f"there is no batch {batch_id}")
        return found
    batch_of_file = oversight.batch_of_file(connection, file_or_batch)
    found = None if batch_of_file is None else oversight.batch(connection, batch_of_file)
    if found is None:
        raise ConflictError(
            "no file of that name was ever made here: give it as the index lists it, or a batch's number"
        )
    return found


def _span(windows: Sequence[WindowTotals]) -> Span:
    return Span(
        windows=len(windows),
        first=windows[0].starts_at if windows else None,
        through=windows[-1].ends_at if windows else None,
        keys=sum(window.keys for window in windows),
        synthetic_keys=sum(window.synthetic_keys for window in windows),
        revisions=sum(window.revisions for window in windows),
    )


def _timings(events: Sequence[Event]) -> dict[str, datetime]:
    """Give the time of each status: of several events, such as one a file, the last."""
    timings = {}
    for event in events:
        what, happened = event.kind.split(".", 1)
        if what in {"batch", "file"}:
            timings[happened] = event.at
    return timings


def _seq(event: Event) -> int:
    return event.seq


def _at(timing: tuple[str, datetime]) -> datetime:
    return timing[1]


def _about(batch: BatchRecord, span_: Span) -> Iterator[str]:
    yield f"Batch {batch.batch_id} of feed {batch.feed}, {span(batch.starts_at, batch.ends_at)}, is {batch.status}."
    if batch.problem:
        yield f"It was held: {batch.problem}."
    if batch.reason:
        yield f"Why an operator decided about it: {batch.reason}."
    if batch.replaces is not None:
        kind = "It is a supplement of what was out: it replaces" if batch.supplement else "It replaces"
        approved = f", which was approved though it failed: {', '.join(batch.approved)}" if batch.approved else ""
        yield f"{kind} batch {batch.replaces}{approved}{'' if batch.with_keys else '; without its keys'}."
    if batch.replaced_by is not None:
        yield f"Batch {batch.replaced_by} replaces it."
    excluded = f", without {', '.join(batch.exclude_regions)}" if batch.exclude_regions else ""
    yield (
        f"Its rules: keys of {', '.join(batch.input_regions)}{excluded}; travelers: {batch.travelers}; at most"
        f" {batch.max_keys:,} keys a file, for {batch.output_region}; keys that ended before {moment(batch.cutoff)} are"
        f" expired; revisions before {moment(batch.revisions_to)} count."
    )
    yield (
        f"Its {counted(span_.windows, 'closed window')} held {counted(span_.keys, 'key')}, of these"
        f" {span_.synthetic_keys:,} synthetic, and {counted(span_.revisions, 'revision')}."
    )


def _counts(account: Account | None, batch: BatchRecord) -> Iterator[str]:
    if account is None:
        yield "It is not built: nothing is counted yet."
        return
    keys = by_reason(
        account.keys,
        KEY_FATES,
        deleted=account.deleted_keys,
        on_demand=account.keys_on_demand,
        synthetic=account.synthetic,
    )
    revisions = by_reason(
        account.revisions,
        REVISION_FATES,
        deleted=account.deleted_revisions,
        on_demand=account.revisions_on_demand,
    )
    yield f"Keys: {keys}."
    yield f"Revisions: {revisions}."
    if account.retold_outside:
        yield f"Revocations of other spans that it tells again: {account.retold_outside:,}."
    if batch.carriers:
        yield f"Batches that were out and may have carried revised keys: {', '.join(map(str, batch.carriers))}."
    if batch.withdrawn_carriers:
        yield f"Batches that were out before and withdrawn: {', '.join(map(str, batch.withdrawn_carriers))}."
    yield from account.problems or ["These counts add up."]


def _made(record: Provenance) -> Iterator[str]:
    if record.batch.code_version:
        yield f"It was built by version {record.batch.code_version}."
    if record.configuration is None:
        yield "No configuration was applied before it was planned."
    else:
        yield (
            f"It was planned by the configuration of SHA-256 {record.configuration.sha256}"
            f" (audit event {record.configuration.event})."
        )
    names = [f"{key.name} (phones know it as {key.key_id}, {key.key_version})" for key in record.signing_keys]
    yield f"Its signing keys, the newest first: {', '.join(names) or 'none'}."


def _of_file(file: FileRecord) -> Iterator[str]:
    """Say what a file holds and whether phones can download it."""
    name = f"File {file.number}{f', {file.name},' if file.name else ''}"
    yield (
        f"{name} has {counted(file.keys, 'key')} and {counted(file.revised_keys, 'revised key')} and states"
        f" {span(file.starts_at, file.ends_at)}; it {_file_state(file)}."
    )
    yield f"  SHA-256 of its export.bin: {file.export_sha256.hex()}"
    if file.zip_sha256 is not None:
        yield f"  SHA-256 of the zip: {file.zip_sha256.hex()} ({file.zip_bytes:,} bytes, by {file.compressor})"


def _file_state(file: FileRecord) -> str:
    if file.released_at is None:
        return "was not released"
    line = f"line {file.release_no} of its feed's index, released at {moment(file.released_at)}"
    left = f" and left at {moment(file.left_index_at)}" if file.left_index_at else ""
    match file.status:
        case "released":
            seen = f", seen through its public URL at {moment(file.confirmed_at)}" if file.confirmed_at else ""
            return f"is in the index ({line}{seen}): phones can download it"
        case "withdrawing":
            return f"was in the index ({line}{left}) and is being withdrawn"
        case "expired":
            return f"was in the index ({line}{left}), is too old for it, and leaves the store a day later"
        case "deleted":
            return f"was in the index ({line}{left}), became too old for it, and is deleted from the store"
        case status:
            return f"was in the index ({line}{left}) and is {status}"


def _history(events: Sequence[Event], timings: Mapping[str, datetime]) -> Iterator[str]:
    when = ", ".join(f"{status.replace('_', ' ')} at {moment(at)}" for status, at in timings.items())
    yield f"Its way: {when or 'not recorded'}."
    numbers = ", ".join(f"{event.seq} ({event.kind})" for event in events)
    yield f"Its audit events: {numbers or 'none'}."
