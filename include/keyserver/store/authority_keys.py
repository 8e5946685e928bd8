"""The keys of health authorities that publish them themselves (publish.md 4.5; sql/queries/authority_key.sql)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyserver.protocol.certificate import AuthorityKey
from keyserver.store.database import Connection, queries

_SQL = queries("authority_key")


@dataclass(frozen=True, slots=True)
class Publishing:
    """An authority, and where it publishes its keys."""

    id: int
    issuer: str
    jwks_uri: str


def publishing(connection: Connection) -> tuple[Publishing, ...]:
    """Read the authorities that have a ``jwks_uri``."""
    return tuple(Publishing(*row) for row in _SQL.publishing(connection))


def read_locked(connection: Connection, authority: Publishing) -> tuple[datetime, tuple[AuthorityKey, ...]] | None:
    """Lock an authority to the transaction's end; give the database's time and its keys, expired ones included.

    None: its keys are published elsewhere by now, or nowhere.
    """
    row = _SQL.lock(connection, id=authority.id)
    if row is None or row[0] != authority.jwks_uri:
        return None
    return _SQL.now(connection), tuple(AuthorityKey(*row) for row in _SQL.keys(connection, id=authority.id))


def insert(connection: Connection, authority_id: int, kid: str, public_key: str, valid_from: datetime) -> None:
    """Store a new key, open-ended."""
    _SQL.insert(connection, id=authority_id, kid=kid, public_key=public_key, valid_from=valid_from)


def end(connection: Connection, authority_id: int, kid: str, valid_thru: datetime) -> None:
    """Let a key verify nothing from an instant on."""
    _SQL.end_key(connection, id=authority_id, kid=kid, valid_thru=valid_thru)
