"""Deletion on demand: all keys of one app that a span of closed windows published (rule R5).

`plan` says what would go, and which files hold some of it; `delete` does it. A batch that was made of such keys and is
not released never will be: it is held, and somebody plans another in its place. Files that are out are named, and their
fate is the operator's: withdrawing is the export's work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keyserver.audit import Subject, Work, checked_reason, recorded
from keyserver.errors import FormatError
from keyserver.protocol.exportfile import staged_path
from keyserver.runtime import Runtime
from keyserver.store import deletions, release_clock
from keyserver.store.deletions import Asked, Holder, Part, WindowRows

logger = logging.getLogger(__name__)

# What a held batch is said to have failed: a batch in its place is built without the keys.
EXPECTATION = "keys deleted on demand are in no file"

_ROWS_A_PART = 5_000  # well under a second each: no window is closed meanwhile
_UNRELEASED = ("built", "checked", "signed", "verified")
_OUT = ("released", "withdrawing")
_MOST_WINDOWS_TOLD = 20


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion would do. ``windows``: those that published the rows, and those that revised some of them."""

    app: str
    starts_at: datetime
    ends_at: datetime
    keys: int
    revisions: int
    windows: list[WindowRows]
    released: list[Holder]  # phones can download some of the keys
    withdrawn: list[Holder]  # phones could; their files are gone, or are about to go
    unreleased: list[Holder]  # on their way: they are held, and built again without the keys
    settled: list[Holder]  # held, rejected or replaced: their files were never released

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        return list(_sentences(self))


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion did: rows, by what they were; the batches that it held; all whose files had some of the keys."""

    keys: int
    revisions: int
    held: list[int]
    carried: list[Holder]


def plan(runtime: Runtime, app: str, starts_at: datetime, ends_at: datetime) -> DeletionPlan:
    """Say what deleting an app's keys of ``[starts_at, ends_at)`` would do; nothing changes.

    Raises:
        FormatError: the span is none of windows, or ends after those that are closed.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        _check_span(deletions.clock(connection), starts_at, ends_at)
        rows = deletions.windows(connection, app, starts_at, ends_at)
        found = deletions.holders(connection, app, starts_at, ends_at)
    known = (*_OUT, "withdrawn", *_UNRELEASED)
    return DeletionPlan(
        app,
        starts_at,
        ends_at,
        keys=sum(row.keys for row in rows),
        revisions=sum(row.revisions for row in rows),
        windows=rows,
        released=[holder for holder in found if holder.status == "released"],
        withdrawn=[holder for holder in found if holder.status in ("withdrawing", "withdrawn")],
        unreleased=[holder for holder in found if holder.status in _UNRELEASED],
        settled=[holder for holder in found if holder.status not in known],
    )


def delete(runtime: Runtime, app: str, starts_at: datetime, ends_at: datetime, reason: str) -> Deletion:
    """Delete an app's keys of ``[starts_at, ends_at)``, in parts, each a transaction with its counts and its event.

    Cut off and run again, it goes on where it was. A batch that is built meanwhile is built again without the keys.

    Raises:
        FormatError: the span is none of windows, or ends after those that are closed; or the reason is none.
    """
    asked = Asked(app, starts_at, ends_at, checked_reason(reason))
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        _check_span(deletions.clock(connection), starts_at, ends_at)
        rows = deletions.windows(connection, app, starts_at, ends_at)
    keys, revisions, held = 0, 0, []
    for window in (row.starts_at for row in rows if row.starts_at < ends_at):
        low = deletions.BEFORE_EVERY_KEY
        while low < deletions.AFTER_EVERY_KEY:
            with recorded(runtime.database, runtime.actor) as work:
                part = deletions.part(work.connection, app, window, low, _ROWS_A_PART)
                gone, now_held = _delete_part(work, part, asked)
            keys += sum(row.keys for row in gone)
            revisions += sum(row.revisions for row in gone)
            held += now_held
            low = part.high
    with runtime.database.connection() as connection:
        carried = deletions.carried(connection, app, starts_at, ends_at)
    logger.info("deleted on demand: %d keys of %s, %d revisions of them; held %s", keys, app, revisions, held or "none")
    return Deletion(keys, revisions, held, carried)


def held(runtime: Runtime) -> list[int]:
    """Give the batches that deletions have held and nobody has replaced yet."""
    with runtime.database.connection() as connection:
        return deletions.held(connection, EXPECTATION)


def out(runtime: Runtime, app: str, starts_at: datetime, ends_at: datetime) -> list[int]:
    """Give the batches that phones can still download, and whose files have some of what was deleted of a span."""
    with runtime.database.connection() as connection:
        carried = deletions.carried(connection, app, starts_at, ends_at)
    return [holder.batch_id for holder in carried if holder.status in _OUT]


def clear_staging(runtime: Runtime, app: str, starts_at: datetime, ends_at: datetime) -> int:
    """Remove what is staged of batches that had some of what was deleted, and that phones have no file of; count it.

    What a batch on its way is made of stays: it has none of the keys, or is built again. Safe to run again.
    """
    with runtime.database.connection() as connection:
        carried = deletions.carried(connection, app, starts_at, ends_at)
        gone = [holder.batch_id for holder in carried if holder.status not in ("released", *_UNRELEASED)]
        staged = deletions.staged(connection, gone)
    paths = [staged_path(export_bin, "bin") for export_bin, _ in staged]
    paths += [staged_path(zipped, "zip") for _, zipped in staged if zipped is not None]
    there = set(runtime.blobs.list("staging/")).intersection(paths)
    for path in sorted(there):
        runtime.blobs.delete(path)
    logger.info("%d staged files that had keys deleted on demand are removed", len(there))
    return len(there)


def approval_text(runtime: Runtime, app: str, starts_at: datetime, ends_at: datetime, reason: str) -> str:
    """Say, in Markdown, what an operator is about to approve. Raises as `plan` and `checked_reason` do."""
    told = [f"Reason given: {checked_reason(reason)}", "", *plan(runtime, app, starts_at, ends_at).sentences()]
    return "\n".join(f"    {line}" for line in told)  # a block of code: none of it is markup


def _check_span(clock: deletions.Clock, starts_at: datetime, ends_at: datetime) -> None:
    if starts_at.utcoffset() is None or ends_at.utcoffset() is None:
        raise FormatError("give both ends of the span with their time zone")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    if any((moment - epoch) % clock.width for moment in (starts_at, ends_at)) or starts_at >= ends_at:
        raise FormatError(f"give a span of whole windows: from the start of one to the end of one, each {clock.width}")
    if ends_at > clock.closed_through:
        raise FormatError(
            f"windows are closed through {clock.closed_through.astimezone(UTC):%Y-%m-%dT%H:%MZ}, and uploads go on: let"
            " the span end there at the latest; what comes later can be deleted once its window is closed"
        )


def _delete_part(work: Work, part: Part, asked: Asked) -> tuple[list[WindowRows], list[int]]:
    """Delete a part's rows and hold what was built of them, in one transaction.

    The locks, in this order: no rewriter has rows in its hands (W5); no window is closed and no batch planned; no batch
    that is on its way is moved. So a batch is built either before, and is seen here, or after, and sees this
    (`export.build`).
    """
    release_clock.lock_rewriting(work.connection)
    closed_through = deletions.hold_clock(work.connection)
    deletions.lock_unreleased(work.connection, part.window)
    width = deletions.clock(work.connection).width
    holders = deletions.holders_of_part(work.connection, part, width)
    gone = deletions.delete(work.connection, part, closed_through)
    if not gone:
        return [], []
    carried = [holder.batch_id for holder in holders]
    deletion_id = deletions.insert(work.connection, asked, carried, gone)
    held = [holder for holder in holders if holder.status in _UNRELEASED]
    for holder in held:
        problem = f"{holder.keys} of its keys were deleted on demand; approved, it is built again without them"
        deletions.hold(work.connection, holder, problem, EXPECTATION)
        held_subject: Subject = {"batch": holder.batch_id, "feed": holder.feed, "deletion": deletion_id}
        work.record("batch.held", held_subject, counts={"keys": holder.keys})
        logger.warning("batch %d of feed %s is held: %s", holder.batch_id, holder.feed, problem)
    work.record(
        "keys.deleted_on_demand",
        {
            "deletion": deletion_id,
            "app": asked.app,
            "start": asked.starts_at.isoformat(),
            "end": asked.ends_at.isoformat(),
            "reason": asked.reason,
        },
        counts={
            "keys": sum(row.keys for row in gone),
            "revisions": sum(row.revisions for row in gone),
            "windows": len(gone),
            "held": len(held),
        },
    )
    return gone, [holder.batch_id for holder in held]


def _sentences(found: DeletionPlan) -> Iterator[str]:
    span = _span(found.starts_at, found.ends_at)
    yield f"{found.keys:,} keys that {found.app} uploaded, in the windows of {span}."
    for row in found.windows[:_MOST_WINDOWS_TOLD]:
        window = f"{row.starts_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        yield f"  window {window}: {row.keys:,} published, {row.revisions:,} revised"
    if len(found.windows) > _MOST_WINDOWS_TOLD:
        yield f"  and {len(found.windows) - _MOST_WINDOWS_TOLD:,} more windows"
    yield from _named("Released: phones can download some of them, until these batches are withdrawn", found.released)
    yield from _named("Withdrawn or being withdrawn: phones that read them have the keys", found.withdrawn)
    yield from _named("On their way: held, then built again without the keys", found.unreleased)
    yield from _named("Never released, and they will not be", found.settled)
    if not any((found.released, found.withdrawn, found.unreleased, found.settled)):
        yield "No file has any of them."
    yield "What a deletion cannot do:"
    yield "  Phones keep what they have downloaded until the keys are too old for them; confirmed matches stay."
    yield "  Nothing more can be told of these keys: a revocation that comes later finds no key to revoke."
    yield "  A phone that uploads the same keys again, while it may, stores them anew."
    yield "  Backups, the write-ahead log and replicas keep them for as long as they are kept (docs/retention.md)."


def _named(what: str, holders: Sequence[Holder]) -> Iterator[str]:
    if holders:
        yield f"{what}:"
    for holder in holders:
        later = f", replaced by batch {holder.replaced_by}" if holder.replaced_by else ""
        yield (
            f"  batch {holder.batch_id} of feed {holder.feed}, {_span(holder.starts_at, holder.ends_at)},"
            f" {holder.status}{later}: {holder.keys:,} of the keys"
        )


def _span(starts_at: datetime, ends_at: datetime) -> str:
    return f"{starts_at.astimezone(UTC):%Y-%m-%d %H:%M} to {ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
