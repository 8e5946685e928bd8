"""Audit events, read: what each says, by whom and where in Airflow it was made (rules A1, A2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyserver.errors import ConflictError, FormatError
from keyserver.oversight.wording import moment
from keyserver.protocol import canonicaljson
from keyserver.runtime import Runtime
from keyserver.store import audit_trail
from keyserver.store.audit_trail import StoredEvent, Wanted

_MEMBERS = {
    "v": int,
    "seq": int,
    "at": str,
    "actor": str,
    "kind": str,
    "subject": dict,
    "counts": dict,
    "hashes": dict,
    "dag": str | None,
    "run": str | None,
    "task": str | None,
    "map_index": int | None,
    "try": int | None,
    "prev": str | None,
}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Event:
    """What an event says of itself. ``prev``: the hash of the event before, None for the first."""

    seq: int
    at: datetime
    kind: str
    actor: str
    subject: Mapping[str, Any]
    counts: Mapping[str, Any]
    hashes: Mapping[str, Any]
    dag: str | None
    run: str | None
    task: str | None
    map_index: int | None
    attempt: int | None
    prev: str | None

    def number(self, name: str) -> int:
        """Give a whole number that it says of its subject; `FormatError` where it does not."""
        return int(_demand(self, name, self.subject, int))

    def text(self, name: str) -> str:
        """Give a text that it says of its subject; `FormatError` where it does not."""
        return str(_demand(self, name, self.subject, str))

    def count(self, name: str) -> int:
        """Give one of its counts; `FormatError` where it has none of that name."""
        return int(_demand(self, name, self.counts, int))

    def sha256(self, name: str) -> bytes:
        """Give one of its hashes; `FormatError` where it has none of that name."""
        written = _demand(self, name, self.hashes, str)
        if not _SHA256.fullmatch(written):
            raise FormatError(f"event {self.seq} ({self.kind}): its {name} is no SHA-256")
        return bytes.fromhex(written)

    def sentences(self) -> list[str]:
        """Say it in a few lines: what and when, by whom, of what, with which counts and hashes."""
        said = [f"Event {self.seq}, {moment(self.at)}: {self.kind}, by {self.by}"]
        for name, values in (("of", self.subject), ("counts", self.counts), ("hashes", self.hashes)):
            if values:
                said.append(f"  {name}: {', '.join(f'{key} {value}' for key, value in values.items())}")
        return said

    @property
    def by(self) -> str:
        """Name the task, its run, map index and try; or the command."""
        if self.dag is None:
            return self.actor if self.run is None else f"{self.actor} of run {self.run}"
        mapped = f", map index {self.map_index}" if self.map_index is not None and self.map_index >= 0 else ""
        return f"task {self.task} of DAG {self.dag}, run {self.run}{mapped}, try {self.attempt}"


def parse(body: bytes) -> Event:
    """Read the bytes of an event.

    Raises:
        FormatError: they are not the canonical JSON of an event of version 1.
    """
    read = canonicaljson.decode(body)
    if not isinstance(read, dict) or read.keys() != _MEMBERS.keys() or read["v"] != 1:
        raise FormatError("it is no event of version 1")
    for name, kind in _MEMBERS.items():
        if not isinstance(read[name], kind) or isinstance(read[name], bool):
            raise FormatError(f"its member {name} is of another type")
    if not _TIME.fullmatch(read["at"]):
        raise FormatError("its time is not written as those of events are")
    try:
        at = datetime.fromisoformat(read["at"])
    except ValueError as error:
        raise FormatError("its time is one that no calendar has") from error
    return Event(
        seq=read["seq"],
        at=at,
        kind=read["kind"],
        actor=read["actor"],
        subject=read["subject"],
        counts=read["counts"],
        hashes=read["hashes"],
        dag=read["dag"],
        run=read["run"],
        task=read["task"],
        map_index=read["map_index"],
        attempt=read["try"],
        prev=read["prev"],
    )


def show(runtime: Runtime, seq: int) -> Event:
    """Read one event. Raises `ConflictError` when there is none of that number, `FormatError` when it is damaged."""
    return _parsed(_stored(runtime, seq))


def raw(runtime: Runtime, seq: int) -> str:
    """Give the very text that an event's hash is of; raises as `show`."""
    stored = _stored(runtime, seq)
    _parsed(stored)
    return stored.body.decode()


def listed(runtime: Runtime, wanted: Wanted, most: int) -> list[Event]:
    """Read the newest events that are asked for, at most so many, the oldest of them first."""
    with runtime.database.connection() as connection:
        return [_parsed(stored) for stored in audit_trail.listed(connection, wanted, most)]


def _stored(runtime: Runtime, seq: int) -> StoredEvent:
    found = None
    if 0 < seq <= _LARGEST:
        with runtime.database.connection() as connection:
            found = audit_trail.event(connection, seq)
    if found is None:
        raise ConflictError(f"there is no audit event {seq}")
    return found


def _parsed(stored: StoredEvent) -> Event:
    try:
        return parse(stored.body)
    except FormatError as error:
        raise FormatError(f"audit event {stored.seq} cannot be read: {error}") from error


def _demand(event: Event, name: str, values: Mapping[str, Any], kind: type) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FormatError(f"event {event.seq} ({event.kind}) does not say its {name}")
    return value
