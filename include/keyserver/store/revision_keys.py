"""The keys that encrypt revision tokens, as they are stored: wrapped (publish.md 3.2; sql/queries/revision_key.sql)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from keyserver.store.database import Connection, queries

_SQL = queries("revision_key")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A revision key that may decrypt: its id, and how to get at it with the `keywrap` port."""

    kid: int
    aad: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyAge:
    """A revision key that is not destroyed, and since when there is one that is newer (None: it is the newest)."""

    kid: int
    allowed: bool
    created_at: datetime
    replaced_at: datetime | None


def allowed(connection: Connection) -> tuple[WrappedKey, ...]:
    """Read the keys that may decrypt; the first one encrypts.

    It is the newest, but for one that is not yet two minutes old: by then every process has read it, so none is shown a
    token that it cannot decrypt yet.
    """
    return tuple(WrappedKey(*row) for row in _SQL.allowed(connection))


def lock(connection: Connection) -> datetime:
    """Let one rotation work at a time until the transaction ends; give the database's time."""
    _SQL.lock_rotation(connection)
    moment: datetime = _SQL.now(connection)
    return moment


def ages(connection: Connection) -> tuple[KeyAge, ...]:
    """Read how old the keys are that are not destroyed, the newest first."""
    return tuple(KeyAge(*row) for row in _SQL.ages(connection))


def insert(connection: Connection, aad: bytes, wrapped: bytes, created_at: datetime) -> int:
    """Store a new key; give its id."""
    kid: int = _SQL.insert(connection, aad=aad, wrapped_key=wrapped, created_at=created_at)
    return kid


def destroy(connection: Connection, kid: int, destroyed_at: datetime) -> None:
    """Forget a key and keep its row."""
    _SQL.destroy(connection, id=kid, destroyed_at=destroyed_at)
