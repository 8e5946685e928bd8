"""How the database's server and a role's session are set, for `keyserver doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from keyserver.store.database import Connection, queries

_SQL = queries("doctor")


@dataclass(frozen=True, slots=True)
class Session:
    """Whom the server takes a connection for, and what bounds it; ``0`` is no bound."""

    role: str
    is_superuser: bool
    statement_timeout: str
    lock_timeout: str
    idle_in_transaction_timeout: str
    synchronous_commit: str


@dataclass(frozen=True, slots=True)
class Server:
    """How the server keeps what it was told, and where else it keeps it. Sizes in MB, -1 for no bound."""

    version: int  # such as 160004
    fsync: bool
    full_page_writes: bool
    autovacuum: bool
    log_statement: str
    log_min_duration_ms: int  # -1: never
    archive_mode: str
    wal_keep_mb: int
    slot_keep_mb: int
    slots: int
    idle_slots: int


def session(connection: Connection) -> Session:
    """Ask who we are."""
    return Session(*_SQL.session(connection))


def server(connection: Connection) -> Server:
    """Ask how the server is set."""
    return Server(*_SQL.server(connection))
