"""Answer a health authority that asks for its statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from keyserver.protocol import statsapi
from keyserver.protocol.statsapi import Counts, Sight, StatsAuthority
from keyserver.store import stats
from keyserver.store.database import Database


class Statistics:
    """The statistics in a database, for those who may see them.

    Who may is read at most once in ``lifetime``: a revoked key works that much longer. Threads share it.
    """

    def __init__(
        self, database: Database, audience: str, sight: Sight, lifetime: timedelta = timedelta(seconds=30)
    ) -> None:
        self._database = database
        self._audience = audience
        self._sight = sight
        self._lifetime_s = lifetime.total_seconds()
        self._read: tuple[float, Mapping[str, StatsAuthority]] | None = None

    def days(self, authorization: str | None, now: datetime) -> tuple[tuple[datetime, Counts], ...]:
        """Return the days that the sender of an Authorization header may see, ascending.

        ``now`` is the host's time and checks the token; what may be seen is decided by the database's (rule T1).

        Raises:
            PublishError: ``unauthorized``.
            RemoteError: the database could not be read.
        """
        authority = statsapi.verify(authorization, self._authorities(), self._audience, now)
        with self._database.connection() as connection:
            clock, counted = stats.counted(connection, authority)
        return statsapi.visible_days(counted, clock, self._sight)

    def _authorities(self) -> Mapping[str, StatsAuthority]:
        read = self._read
        if read is None or time.monotonic() - read[0] >= self._lifetime_s:
            asked = time.monotonic()
            with self._database.connection() as connection:
                read = (asked, stats.authorities(connection))
            self._read = read
        return read[1]
