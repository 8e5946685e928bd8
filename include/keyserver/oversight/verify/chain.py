"""The chain of audit events: walked from their bytes, with nothing that the database's function does (rules A1, A2)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.errors import FormatError
from keyserver.oversight.trail import Event, parse
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import Said
from keyserver.oversight.wording import counted, moment
from keyserver.store import audit_trail
from keyserver.store.audit_trail import StoredEvent
from keyserver.store.database import Connection

CLOCK_STEP = timedelta(seconds=60)  # T1: what the clocks of two hosts may differ by


@dataclass(frozen=True, slots=True)
class KnownHead:
    """An event's number and hash, and who has them: what the trail must still say of that event.

    ``at``: when a log was closed with it; ``kept``: an auditor wrote it down, and no log has it.
    """

    seq: int
    sha256: bytes
    where: str
    at: datetime | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A head that the trail does not have: another event has its number (``lost`` False), or none."""

    head: KnownHead
    lost: bool

    def __str__(self) -> str:
        """Say what that means."""
        if self.lost:
            return f"{self.head.where} has its hash, and the trail does not have it: events were removed at its end"
        return f"{self.head.where} has another hash of it: the trail was rewritten"


def walk(
    connection: Connection, said: Said, report: Report, heads: Sequence[KnownHead], begin: KnownHead | None
) -> list[Contradiction]:
    """Read all events, or those from ``begin`` on, and hand each to ``said``; give the heads that they contradict.

    In a transaction; a few events are in memory at a time. What does not hold is a finding: a number that is missing,
    bytes that are not those of the hash or not canonical, a column that says otherwise than the bytes, a hash of the
    event before that is another, a time that goes back by more than `CLOCK_STEP`.
    """
    known = defaultdict(list)
    for head in heads:
        known[head.seq].append(head)
    contradictions = []
    first = 1 if begin is None else begin.seq
    step = _Step(report, first)
    for stored in audit_trail.events(connection, first - 1):
        digest = hashlib.sha256(stored.body).digest()
        event = step.take(stored, digest)
        if event is not None:
            said.take(event)
        contradictions += [
            Contradiction(head, lost=False) for head in known.pop(stored.seq, ()) if head.sha256 != digest
        ]
    contradictions += [
        Contradiction(head, lost=True) for seq, missed in known.items() if seq >= step.expected for head in missed
    ]
    report.head_seq, report.head_sha256 = step.expected - 1, step.hash.hex()
    walked = step.expected - first
    report.facts.append(
        f"The audit trail has {counted(walked, 'event')}, to event {report.head_seq}, {report.head_sha256}."
        if begin is None
        else f"The audit trail was walked from event {first}, which {begin.where} has, to event {report.head_seq},"
        f" {report.head_sha256}: {counted(walked, 'event')}."
    )
    return contradictions


class _Step:
    """Where the walk stands."""

    def __init__(self, report: Report, first: int) -> None:
        self.report = report
        self.expected = first
        self.hash = bytes(32)
        self.at: datetime | None = None
        self.is_first = True

    def take(self, stored: StoredEvent, digest: bytes) -> Event | None:
        """Compare an event with the one before; None when its bytes cannot be read."""
        about, find = f"event {stored.seq}", self.report.find
        follows = stored.seq == self.expected and not (self.is_first and stored.seq > 1)
        if stored.seq != self.expected:
            last = stored.seq - 1
            gap = f"event {last}" if last == self.expected else f"events {self.expected} to {last}"
            find(gap, "missing from the trail")
        if digest != stored.hash:
            find(about, "its bytes were changed: they have another hash than is stored with them")
        try:
            event = parse(stored.body)
        except FormatError as error:
            event = None
            find(about, str(error))
        if event is not None:
            self._compare(stored, event, follows=follows)
        self.expected, self.hash, self.is_first = stored.seq + 1, stored.hash, False
        return event

    def _compare(self, stored: StoredEvent, event: Event, *, follows: bool) -> None:
        about, find = f"event {stored.seq}", self.report.find
        columns = {"number": (stored.seq, event.seq), "time": (stored.at, event.at), "kind": (stored.kind, event.kind)}
        for name, (column, said) in columns.items():
            if column != said:
                find(about, f"its column says another {name} than its bytes")
        before = self.hash.hex() if stored.seq > 1 else None
        if (follows or stored.seq == 1) and event.prev != before:
            find(about, f"it does not follow event {stored.seq - 1}: one of the two was changed, or put in its place")
        if self.at is not None and event.at < self.at - CLOCK_STEP:
            find(about, f"its time, {moment(event.at)}, is {self.at - event.at} before that of the event before it")
        self.at = event.at
