"""What was counted of uploads, and which authorities may read it (sql/queries/stats.sql)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType

from keyserver.protocol.certificate import AuthorityKey
from keyserver.protocol.statsapi import Counts, StatsAuthority
from keyserver.store.database import Connection, queries

_SQL = queries("stats")


def authorities(connection: Connection) -> Mapping[str, StatsAuthority]:
    """Read all health authorities by issuer, those included that may not read their statistics."""
    found = {}
    for (issuer, authority_id, enabled), rows in groupby(_SQL.authorities(connection), itemgetter(0, 1, 2)):
        keys = tuple(AuthorityKey(*row[3:]) for row in rows if row[3] is not None)
        found[issuer] = StatsAuthority(authority_id, keys, enabled)
    return MappingProxyType(found)


def counted(connection: Connection, authority_id: int) -> tuple[datetime, list[tuple[datetime, Counts]]]:
    """Read the database's time, and then what was counted for an authority: hours by their starts, several for one."""
    now = _SQL.now(connection)
    return now, [
        (hour, Counts(tuple(publish), teks, revisions, tuple(oldest), tuple(onset), missing))
        for hour, publish, teks, revisions, oldest, onset, missing in _SQL.counted(
            connection, authority_id=authority_id
        )
    ]
