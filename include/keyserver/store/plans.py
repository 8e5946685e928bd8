"""What batches are made of: written when they are planned, and never changed (B1)."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from keyserver.protocol import canonicaljson
from keyserver.store.database import Connection, queries

_SQL = queries("plan")


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch's span, its feed's rules as they were copied, and the keys that sign it (``<key id>-<version>``)."""

    batch_id: int
    feed: str
    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    revisions_to: datetime
    replaces: int | None
    root: str
    output_region: str
    input_regions: list[str]
    exclude_regions: list[str]
    travelers: str
    max_keys: int
    with_keys: bool
    supplement: bool
    end_offset: int
    approved: list[str]
    padding_minimum: int | None
    padding_spread: int | None
    signing_keys: list[str]

    @property
    def sha256(self) -> bytes:
        """Hash all of it, as canonical JSON with times in UTC."""
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        return hashlib.sha256(canonicaljson.encode(plain)).digest()


def plan(connection: Connection, batch_id: int) -> Plan:
    """Read the plan of a batch; it is there."""
    (row,) = _SQL.plans(connection, first=batch_id, last=batch_id)
    return Plan(*row)


def plans(connection: Connection, first: int, last: int) -> list[Plan]:
    """Read the plans of all batches between two numbers, both included."""
    return [Plan(*row) for row in _SQL.plans(connection, first=first, last=last)]


def _plain(value: object) -> object:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
