"""What a process asks before it says that it is ready."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from keyserver.store.database import SQL, Connection, queries

# T1: as the closer's own limit.
MOST_SKEW = timedelta(seconds=60)

_CLOCK = queries("release_clock")


@dataclass(frozen=True)
class Readiness:
    """The database's time, whether it can be set (rule T1), and the versions of its schema and of this code's."""

    now: datetime
    clock_is_settable: bool
    schema: str | None
    newest_schema: str


def ping(connection: Connection) -> None:
    """Ask for the time: an error says that the database does not answer."""
    _CLOCK.now(connection)


def readiness(connection: Connection) -> Readiness:
    """Ask the database for all of it."""
    clock = _CLOCK.read(connection)
    return Readiness(
        now=_CLOCK.now(connection),
        clock_is_settable=bool(clock and clock[3]),
        schema=_CLOCK.schema_version(connection),
        newest_schema=newest_schema(),
    )


@cache
def newest_schema() -> str:
    """Return the newest migration's revision, which its file's name begins with."""
    return max(path.name.partition("_")[0] for path in (SQL / "migrations" / "versions").glob("[0-9]*_*.py"))
