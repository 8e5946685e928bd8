"""What the database knows of the files in the store, asked after it was restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyserver.store.database import Connection, queries

_SQL = queries("reconciliation")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that was signed here, and the start of its batch; ``root`` is its feed's."""

    name: str
    batch_id: int
    root: str
    status: str
    zip_sha256: bytes
    starts_at: datetime


def listed(connection: Connection) -> list[str]:
    """Give the names that the indexes list."""
    return [name for (name,) in _SQL.listed(connection)]


def known(connection: Connection, names: Sequence[str]) -> dict[str, KnownFile]:
    """Give what is known of these names; a name that was never given to a file is not among them."""
    return {row[0]: KnownFile(*row) for row in _SQL.known(connection, names=list(names))}


def declared(connection: Connection, archives: Sequence[str]) -> set[str]:
    """Tell which of these archives an audit event tells of."""
    return {archive for (archive,) in _SQL.declared(connection, archives=list(archives))}
