"""The release clock and the windows that it closes (rules T1, W1, W3, W5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyserver.store.database import Connection, queries

_SQL = queries("release_clock")
_EXPOSURE = queries("exposure")


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window, half-open [starts_at, ends_at), and the rows that it held when it was closed."""

    starts_at: datetime
    ends_at: datetime
    keys: int
    synthetic_keys: int
    revisions: int


def now(connection: Connection) -> datetime:
    """Read the database's clock."""
    moment: datetime = _SQL.now(connection)
    return moment


def next_window(connection: Connection) -> tuple[datetime, bool]:
    """Give the start of the window to close next, and whether it is past."""
    starts_at, is_past = _SQL.next_window(connection)
    return starts_at, is_past


def lock_window(connection: Connection, starts_at: datetime) -> None:
    """Wait until no upload that may write to this window is under way, and let none begin (W3)."""
    _SQL.lock_window(connection, window_start=starts_at)


def read_for_closing(connection: Connection) -> tuple[datetime, datetime, bool]:
    """Lock the clock's row; give the start and the end of the window to close next, and whether it is past."""
    starts_at, ends_at, is_past = _SQL.read_for_closing(connection)
    return starts_at, ends_at, is_past


def close(connection: Connection, starts_at: datetime, ends_at: datetime) -> Window:
    """Write down what the window holds and move the clock to its end."""
    keys, synthetic_keys, revisions = _SQL.insert_closed_window(connection, starts_at=starts_at, ends_at=ends_at)
    _SQL.advance(connection, closed_through=ends_at)
    return Window(starts_at, ends_at, keys, synthetic_keys, revisions)


def next_to_rewrite(connection: Connection) -> datetime | None:
    """Give the start of the oldest closed window whose rows still lie as they came (W5)."""
    starts_at: datetime | None = _SQL.next_to_rewrite(connection)
    return starts_at


def lock_rewriting(connection: Connection) -> None:
    """Let one rewriter work at a time, until the transaction ends."""
    _EXPOSURE.lock_rewriting(connection)


def rewrite_chunk(connection: Connection, starts_at: datetime, after: bytes, most: int) -> tuple[bytes, int] | None:
    """Put up to ``most`` rows after a key in key order; give the last key and their number, or None at the end."""
    row = _EXPOSURE.rewrite_chunk(connection, starts_at=starts_at, after=after, most=most)
    return None if row is None else (row[0], row[1])


def set_rewritten(connection: Connection, starts_at: datetime) -> None:
    """Remember that a window's rows lie in key order."""
    _SQL.rewritten(connection, starts_at=starts_at)
