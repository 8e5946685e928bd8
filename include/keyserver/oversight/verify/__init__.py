"""`keyserver audit verify`: all that is recorded, stored and public, compared with each other (rules A1 to A6, R3).

Its order matters: what is public is read first, then the database in one snapshot, which is never behind it; then the
files, where what changes meanwhile is asked once more. It only reads, by the auditor's role; what it cannot check it
names (A4).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from keyserver.device.releaselog import Checkpoint
from keyserver.errors import ConfigurationError, FormatError, RemoteError
from keyserver.oversight.verify import chain, publiclog, released, remade, retention, stored
from keyserver.oversight.verify.chain import Contradiction, KnownHead
from keyserver.oversight.verify.publiclog import PublicLog
from keyserver.oversight.verify.remade import Rebuilding
from keyserver.oversight.verify.report import Finding, Report
from keyserver.oversight.verify.said import Said
from keyserver.oversight.verify.sources import Source, sources
from keyserver.protocol.signature import load_public_key
from keyserver.runtime import Runtime
from keyserver.store import states
from keyserver.store.database import Connection
from keyserver.store.states import Clock, FeedState

__all__ = ["Asked", "Finding", "Kept", "Rebuilding", "Report", "verify"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an auditor writes down to see later that it is still the same history: the trail's head, and each log's."""

    seq: int
    sha256: str
    logs: list[Checkpoint]

    def dump(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, text: str) -> Kept:
        """Read what `dump` wrote; `ConfigurationError` for anything else."""
        try:
            found = json.loads(text)
            logs = [Checkpoint.load(json.dumps(log)) for log in found["logs"]]
            kept = cls(found["seq"], bytes.fromhex(found["sha256"]).hex(), logs)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigurationError("the checkpoint is none that this command wrote") from error
        if not isinstance(kept.seq, int) or kept.seq < 0:
            raise ConfigurationError("the checkpoint is none that this command wrote")
        return kept


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be verified, and by what.

    ``since``, ``until``: only batches that were planned between, and the trail from the nearest public head before.
    ``public_keys``: those of the logs, from elsewhere; else the database's own are believed. ``kept``: what was written
    down before. ``every_batch``: make all batches again, not only the newest.
    """

    since: datetime | None = None
    until: datetime | None = None
    public_keys: Sequence[EllipticCurvePublicKey] = ()
    kept: Kept | None = None
    every_batch: bool = False


@dataclass(slots=True)
class _Surroundings:
    """What is there beside the database, as it was read first."""

    feeds: list[FeedState]
    clock: Clock
    places: list[Source]
    logs: list[PublicLog] = field(default_factory=list)


def verify(runtime: Runtime, asked: Asked, rebuilding: Rebuilding | None = None) -> tuple[Report, Kept | None]:
    """Verify all of it, or the part that is asked for; give the report, and what to write down when nothing is wrong.

    The runtime has the auditor's rights, the store if it is to be looked into, and the public URL if there is one.

    Raises:
        RemoteError: the database does not answer.
    """
    report = Report()
    with sources(runtime.blobs_or_none, runtime.public_url_or_none) as places:
        around = _surroundings(runtime, asked, places, report)
        with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
            said = _trail(connection, asked, around, report)
            stored.compare(connection, said, report, asked.until)
            publiclog.compare_rows(connection, said, report)
            publiclog.compare_public(connection, around.logs, said, around.clock.now, report)
            built = [
                batch
                for batch in states.built_batches(connection, stored.first_batch(said))
                if batch.batch_id in said.batches
                and (asked.until is None or said.batches[batch.batch_id].planned_at < asked.until)
            ]
            remade.check_counts(connection, built, said, report)
            retention.check_rows(connection, said, report)
        if asked.kept is not None:
            publiclog.compare_kept(asked.kept.logs, around.logs, report)
        released.check(runtime.database, places, around.feeds, stored.first_batch(said), report)
    _store(runtime, around.feeds, report)
    bounded = asked.since is not None or asked.until is not None or asked.every_batch
    again = [batch.batch_id for batch in built][None if bounded else -remade.USUAL :]
    remade.check_files(rebuilding, again, len(built), report)
    return report, _to_keep(report, around.logs)


def _surroundings(runtime: Runtime, asked: Asked, places: list[Source], report: Report) -> _Surroundings:
    """Read the public logs, before the database is read."""
    with runtime.database.connection() as connection:
        around = _Surroundings(states.feeds(connection), states.clock(connection), places)
        keys = asked.public_keys or _recorded_keys(connection)
    if not asked.public_keys:
        report.unproven.append(
            "that the public logs are signed by the keys that were announced: those that the database records were"
            " believed; give --public-key"
        )
    if not places:
        report.unproven.append(
            "that what is public is what the database says: neither a store (KEYSERVER_BLOBS_URL) nor a CDN was given"
        )
    written = [feed for feed in around.feeds if feed.index_sha256 is not None]
    for place in places:
        read = [publiclog.read(place, feed, around.clock, keys, report) for feed in written]
        around.logs += [log for log in read if log is not None]
    return around


def _recorded_keys(connection: Connection) -> list[EllipticCurvePublicKey]:
    keys = []
    for key in states.signing_keys(connection):
        if key.purpose == "transparency":
            try:
                keys.append(load_public_key(key.public_key))
            except FormatError:
                continue  # said where signatures are verified
    return keys


def _trail(connection: Connection, asked: Asked, around: _Surroundings, report: Report) -> Said:
    """Walk the trail, and compare it with all heads that somebody has outside."""
    heads = [head for log in around.logs for head in log.heads()]
    begin = _begin(asked, heads, report)
    said = Said(report, whole=begin is None)
    kept = asked.kept
    if kept is not None and kept.seq > 0:
        heads.append(KnownHead(kept.seq, bytes.fromhex(kept.sha256), "the checkpoint", kept=True))
    heads += publiclog.stored_heads(connection)
    for contradiction in chain.walk(connection, said, report, heads, begin):
        _tell(contradiction, said, report)
    if said.configuration is not None:
        report.facts.append(
            f"The newest configuration is that of event {said.configuration.seq}, SHA-256"
            f" {said.configuration.sha256.hex()}."
        )
    return said


def _begin(asked: Asked, heads: Sequence[KnownHead], report: Report) -> KnownHead | None:
    """Find where to begin: the newest public head before what is asked for; None for the first event."""
    if asked.since is None:
        return None
    before = [head for head in heads if head.at is not None and head.at <= asked.since]
    begin = max(before, key=lambda head: head.seq, default=None)
    if begin is None:
        report.facts.append("No public head is older than what was asked for: the trail is walked from its beginning.")
    else:
        report.unproven.append(f"what was before event {begin.seq}: it was not asked for")
    return begin


def _tell(contradiction: Contradiction, said: Said, report: Report) -> None:
    """Say what a head that is not the trail's means: lost in a restore that was declared, or tampering."""
    head = contradiction.head
    declared = [restore for restore in said.restores if restore.seq <= head.seq]
    if head.kept and declared:
        report.unproven.append(
            f"event {head.seq} as the checkpoint has it: a restore of an older database was declared by event"
            f" {declared[0].seq}, and what was lost with it nobody can show"
        )
        return
    report.find(f"event {head.seq}", f"fork: {contradiction}")


def _store(runtime: Runtime, feeds: Sequence[FeedState], report: Report) -> None:
    retention.objects(runtime.database, runtime.blobs_or_none, report)
    if runtime.blobs_or_none is not None:
        try:
            released.check_unlisted(runtime.database, runtime.blobs_or_none, feeds, report)
        except RemoteError as error:
            report.unreachable.append(f"the store: {error}")


def _to_keep(report: Report, logs: Sequence[PublicLog]) -> Kept | None:
    if report.status:
        return None
    newest = {log.feed.root: Checkpoint.of(log.segments[-1]) for log in logs if log.segments}
    return Kept(report.head_seq, report.head_sha256, list(newest.values()))
