"""The rows against the events: each row's state is what its events say, and each event has its row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from keyserver.errors import FormatError, VerificationError
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import BatchSaid, FileSaid, Said
from keyserver.oversight.wording import counted, moment
from keyserver.protocol.exposure import MAX_AGE
from keyserver.protocol.signature import load_public_key, verify
from keyserver.store import plans, states
from keyserver.store.database import Connection
from keyserver.store.states import BatchState, FileState, KeyState, SignatureState

_DAY = timedelta(hours=24)
_PLANS_AT_ONCE = 500
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


def compare(connection: Connection, said: Said, report: Report, until: datetime | None = None) -> None:
    """Compare all that the events speak of with what is stored, in one snapshot.

    Of a trail that was not read from its beginning only what begins in it is compared; with ``until``, only batches
    that were planned before.
    """
    _windows(connection, said, report)
    _batches(connection, said, report, until)
    _files(connection, said, report, until)
    _feeds(connection, said, report)
    _deletions(connection, said, report)
    _signatures(connection, said, report)


def first_batch(said: Said) -> int:
    """Give the number of the first batch that the events planned."""
    return 0 if said.whole else min(said.batches, default=2**62)


def _windows(connection: Connection, said: Said, report: Report) -> None:
    first = _BEFORE_ALL if said.whole else min(said.windows, default=datetime.max.replace(tzinfo=UTC))
    left = dict(said.windows)
    for row in states.windows(connection, first):
        event = left.pop(row.starts_at, None)
        about = f"window {moment(row.starts_at)}"
        if event is None:
            report.find(about, "its row says that it is closed, and no event does")
            continue
        stored = {"keys": row.keys, "synthetic keys": row.synthetic_keys, "revisions": row.revisions}
        for (name, number), by_event in zip(stored.items(), event.totals, strict=True):
            if number != by_event:
                report.find(about, f"its row counts {number} {name}, event {event.seq} {by_event}")
        if row.ends_at != event.ends_at:
            report.find(about, f"its row has another end than event {event.seq}")
    for starts_at, event in left.items():
        report.find(f"window {moment(starts_at)}", f"event {event.seq} closed it, and it has no row")
    clock = states.clock(connection)
    if said.closed_through is not None and clock.closed_through != said.closed_through:
        report.find(
            "release clock",
            f"it says that windows are closed to {moment(clock.closed_through)}; by their events they are closed to"
            f" {moment(said.closed_through)}",
        )
    if clock.deleted_through != said.deleted_through and (said.whole or said.deleted_through is not None):
        report.find(
            "retention", "it says of another window than the events that all rows before and in it were deleted by age"
        )
    report.facts.append(f"{counted(len(said.windows), 'closed window')} were compared with events, and the clock.")


def _batches(connection: Connection, said: Said, report: Report, until: datetime | None) -> None:
    left = dict.fromkeys(said.batches)
    compared = 0
    for row, sha256 in _with_plans(connection, states.batches(connection, first_batch(said))):
        about = f"batch {row.batch_id}"
        event = said.batches.get(row.batch_id)
        left.pop(row.batch_id, None)
        if event is None:
            report.find(about, "it has a row, and no event planned it")
        elif until is None or event.planned_at < until:
            compared += 1
            for text in _of_batch(row, sha256, event):
                report.find(about, text)
    for number in left:
        report.find(f"batch {number}", f"event {said.batches[number].planned_by} planned it, and it has no row")
    report.facts.append(f"{compared:,} batches were compared with events: plan, status, counts, reason.")


def _with_plans(connection: Connection, rows: Iterable[BatchState]) -> Iterator[tuple[BatchState, bytes]]:
    """Put the hash of each batch's plan beside its row."""
    known: dict[int, bytes] = {}
    last = -1
    for row in rows:
        if row.batch_id > last:
            last = row.batch_id + _PLANS_AT_ONCE - 1
            known = {plan.batch_id: plan.sha256 for plan in plans.plans(connection, row.batch_id, last)}
        yield row, known[row.batch_id]


def _of_batch(row: BatchState, plan_sha256: bytes, event: BatchSaid) -> Iterator[str]:
    revisions_to = row.ends_at if row.replaces is None else event.closed_through
    if revisions_to is not None and row.revisions_to != revisions_to:
        yield (
            f"its revisions_to is {moment(row.revisions_to)}; planned by event {event.planned_by} it was"
            f" {moment(revisions_to)}"
        )
    cutoff = (row.ends_at if row.replaces is None else max(row.ends_at, event.planned_at)) - MAX_AGE - _DAY
    if abs(row.cutoff - cutoff) > (timedelta(0) if row.replaces is None else timedelta(minutes=1)):
        yield f"its cutoff is {moment(row.cutoff)}; planned by event {event.planned_by} it was {moment(cutoff)}"
    if event.plan_sha256 is not None and plan_sha256 != event.plan_sha256:
        yield (
            "its plan (feed, span, cutoff, revisions_to, regions, limits, signing keys) is not the one whose hash"
            f" event {event.planned_by} has"
        )
    if row.status != event.status:
        yield f"its status is {row.status}; by event {event.seq} it is {event.status}"
    if event.counts is not None and dict(row.counts) != dict(event.counts):
        names = sorted(name for name in {*row.counts, *event.counts} if row.counts.get(name) != event.counts.get(name))
        yield f"its counts are not those of the event that built it: {', '.join(names)}"
    if event.counts is None and row.counts:
        yield "it has counts, and no event built it"
    if row.code_version != event.code:
        yield "its code version is not that of the event that built it"
    if event.carriers is not None and event.carriers != (_listed(row.carriers), _listed(row.withdrawn_carriers)):
        yield "the batches that its revised keys came from are not those of the event that built it"
    if row.reason != event.reason:
        yield f"its reason is another than event {event.seq} or one before it gives"


def _listed(numbers: list[int] | None) -> str:
    return ", ".join(map(str, numbers or ()))


def _files(connection: Connection, said: Said, report: Report, until: datetime | None) -> None:
    left = {(number, file) for number, batch in said.batches.items() for file in batch.files}
    compared = 0
    for row in states.files(connection, first_batch(said)):
        about = f"file {row.name}" if row.name else f"file {row.number} of batch {row.batch_id}"
        batch = said.batches.get(row.batch_id)
        event = None if batch is None else batch.files.get(row.number)
        left.discard((row.batch_id, row.number))
        if batch is None or event is None:
            report.find(about, "it has a row, and no event built it")
        elif until is None or batch.planned_at < until:
            compared += 1
            for text in _of_file(row, event):
                report.find(about, text)
    for number, file in sorted(left):
        report.find(f"file {file} of batch {number}", "an event built it, and it has no row")
    report.facts.append(f"{compared:,} files were compared with events: name, hashes, counts, status, place.")


def _of_file(row: FileState, event: FileSaid) -> Iterator[str]:
    if row.status != event.status:
        yield f"its status is {row.status}; by its events it is {event.status}"
    pairs: list[tuple[str, object, object]] = [
        ("SHA-256 of export.bin", row.export_sha256, event.export_sha256),
        ("name", row.name, event.name),
        ("SHA-256 of the zip", row.zip_sha256, event.zip_sha256),
        ("size of the zip", row.zip_bytes, event.zip_bytes),
        ("place in the index", row.release_no, event.release_no),
    ]
    if event.keys is not None:
        pairs += [
            ("number of keys", row.keys, event.keys),
            ("number of revised keys", row.revised_keys, event.revised_keys),
        ]
    for what, stored, by_event in pairs:
        if stored != by_event:
            yield f"its {what} is another than its events say"


def _feeds(connection: Connection, said: Said, report: Report) -> None:
    for feed in states.feeds(connection):
        about = f"feed {feed.name}"
        written = said.indexes.get(feed.name)
        if written is None:
            if said.whole and feed.index_sha256 is not None:
                report.find(about, "it says that an index was written, and no event does")
        elif feed.index_sha256 != written.sha256:
            report.find(about, f"the hash of its index is not that of event {written.seq}, which wrote it last")
        last = said.release_numbers.get(feed.name, 0 if said.whole else feed.last_release_no)
        if feed.last_release_no != last:
            report.find(about, f"its last place in the index is {feed.last_release_no}, by events {last}")
    for key in states.signing_keys(connection):
        event = said.revoked.get(key.name)
        if key.revoked_at is not None and event is None and said.whole:
            report.find(f"signing key {key.name}", "it is revoked, and no event says so")
        if key.revoked_at is None and event is not None:
            report.find(f"signing key {key.name}", f"it is not revoked, and event {event} revoked it")


def _deletions(connection: Connection, said: Said, report: Report) -> None:
    left = dict(said.deletions)
    for row in states.deletions(connection):
        event = left.pop(row.deletion_id, None)
        about = f"deletion {row.deletion_id}"
        if event is None:
            if said.whole:
                report.find(about, "it has a row, and no event")
        elif (row.keys, row.revisions) != event[1:]:
            report.find(about, f"it counts other keys or revisions than event {event[0]}")
    for number, (seq, _, _) in left.items():
        report.find(f"deletion {number}", f"event {seq} says that it was done, and it has no row")


def _signatures(connection: Connection, said: Said, report: Report) -> None:
    """Verify all stored signatures by the recorded keys; each has its event, each event its signature."""
    keys = {key.label: key for key in states.signing_keys(connection)}
    found = _verified(states.signatures(connection), keys, "a file", report)
    logs = _verified(states.log_signatures(connection), keys, "a segment of a log", report)
    for of_what, stored, by_event in (
        ("export.bin", found, said.signatures),
        ("the log's segment", logs, said.log_signatures),
    ):
        for sha256, label in by_event.keys() - stored:
            seq = by_event[sha256, label]
            report.find(
                f"signature by {label}", f"event {seq} stored it, over {of_what} {sha256.hex()}, and it has no row"
            )
        if said.whole:
            for sha256, label in stored - by_event.keys():
                report.find(
                    f"signature by {label}", f"it is stored over {of_what} {sha256.hex()}, and no event stored it"
                )
    report.facts.append(
        f"{counted(len(found), 'signature')} of files and {len(logs):,} of logs verify by the keys that are recorded."
    )


def _verified(
    rows: Iterable[SignatureState], keys: dict[str, KeyState], what: str, report: Report
) -> set[tuple[bytes, str]]:
    loaded = {}
    for label, key in keys.items():
        try:
            loaded[label] = load_public_key(key.public_key)
        except FormatError as error:
            report.find(f"signing key {key.name}", f"its public key cannot be read: {error}")
    found = set()
    for row in rows:
        found.add((row.sha256, row.label))
        if row.label not in loaded:
            continue
        try:
            verify(loaded[row.label], row.signature, row.sha256)
        except (FormatError, VerificationError):
            report.find(
                f"signature by {row.label}",
                f"the stored one over {what} {row.sha256.hex()} does not verify by the public key that is recorded of"
                f" signing key {keys[row.label].name}",
            )
    return found
