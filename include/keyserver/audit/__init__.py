"""Audit events: one for each change of state, in the same transaction as the change (rules A1, A2).

A use case opens its transaction with `recorded`; the events that it records are appended last, in the round trip that
commits, so the lock on the chain's head is held for one commit only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from psycopg.types.json import Jsonb

from keyserver.errors import FormatError
from keyserver.store.database import Connection, Database, queries, rolled_back_on_error

logger = logging.getLogger(__name__)
_APPEND = queries("audit").append.sql

_LONGEST_REASON = 500

Subject = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Actor:
    """By whom a state is changed: a task of a DAG run, or a command (then the task's fields are empty)."""

    name: str
    dag: str | None = None
    run: str | None = None
    task: str | None = None
    map_index: int | None = None
    attempt: int | None = None

    @property
    def holder(self) -> str:
        """Name the holder of claims: the run, or for a command the command (rule B3)."""
        return self.run or self.name


@dataclass(slots=True)
class Work:
    """An open transaction and the events that it will append."""

    connection: Connection
    actor: Actor
    events: list[Jsonb] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)  # the events' numbers, after the commit

    def record(
        self,
        kind: str,
        subject: Subject,
        *,
        counts: Mapping[str, int] | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Append an event when the transaction ends.

        ``kind`` is <what>.<happened>, ``subject`` says which one, ``counts`` are whole numbers, ``hashes`` hexadecimal
        SHA-256. None of them ever holds a key, a token, an address or a name of a person.
        """
        actor = asdict(self.actor)
        event = {
            "actor": actor.pop("name"),
            "try": actor.pop("attempt"),
            **actor,
            "kind": kind,
            "subject": dict(subject),
            "counts": dict(counts or {}),
            "hashes": dict(hashes or {}),
        }
        self.events.append(Jsonb(event))

    def _commit(self) -> None:
        if not self.events:
            self.connection.execute("COMMIT")
            return
        with self.connection.pipeline():
            appended = self.connection.execute(_APPEND, {"events": self.events})
            self.connection.execute("COMMIT")
        self.recorded = [seq for (seq,) in appended.fetchall()]
        for seq, event in zip(self.recorded, self.events, strict=True):
            told = {name: event.obj[name] for name in ("subject", "counts", "hashes") if event.obj[name]}
            logger.info("audit event %d: %s %s", seq, event.obj["kind"], told)


def checked_reason(reason: str) -> str:
    """Return an operator's reason without spaces around it.

    Raises `FormatError` unless it is one line of 1 to 500 printable characters: it is kept for ever.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= _LONGEST_REASON or not reason.isprintable():
        raise FormatError(f"a reason is needed: one line of 1 to {_LONGEST_REASON} printable characters")
    return reason


@contextmanager
def recorded(database: Database, actor: Actor) -> Iterator[Work]:
    """Begin a READ COMMITTED transaction; append what was recorded and commit at the end; roll back on any error.

    With nothing recorded it only commits: a step that found nothing to do leaves no trace.
    Raises `RemoteError` when the database went away, the body's own errors otherwise.
    """
    with database.connection() as connection:
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        work = Work(connection, actor)
        with rolled_back_on_error(connection):
            yield work
            work._commit()  # noqa: SLF001 - the two halves of one thing
