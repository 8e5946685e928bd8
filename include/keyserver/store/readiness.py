"""What a process asks before it says that it is ready."""

from __future__ import annotations

from keyserver.store.database import Connection, queries

_CLOCK = queries("release_clock")


def clock_is_settable(connection: Connection) -> bool:
    """Whether this database's time can be set, as only the tests' can (rule T1). Asking proves that it answers."""
    row = _CLOCK.read(connection)
    return bool(row[3])
