"""Challenges that were used (sql/queries/attestation.sql)."""

from __future__ import annotations

from keyserver.protocol.attestation import Use
from keyserver.store.database import Connection, queries

_QUERIES = queries("attestation")


def use_once(connection: Connection, use: Use) -> bool:
    """Record that a challenge is used; False if it was before."""
    return bool(_QUERIES.use(connection, mac=use.mac, period_end=use.period_end))
