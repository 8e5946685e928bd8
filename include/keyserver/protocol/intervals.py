"""Time as the protocol counts it: 10-minute intervals since the epoch, days and windows, in UTC (publish.md 2.0).

Moments are aware datetimes and arguments; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from keyserver.errors import ConfigurationError, FormatError

INTERVAL = timedelta(minutes=10)
INTERVALS_PER_DAY = 144

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def interval_at(moment: datetime) -> int:
    """Return the number of the interval that holds `moment`: floor(unix seconds / 600).

    Raises:
        FormatError: `moment` is naive.
    """
    return _since_epoch(moment) // INTERVAL


def interval_start(number: int) -> datetime:
    """Return the first moment of interval `number`, in UTC.

    Raises:
        FormatError: the moment lies outside what a datetime can hold (years 1 to 9999).
    """
    try:
        return _EPOCH + number * INTERVAL
    except OverflowError as error:
        raise FormatError(f"interval {number} lies outside the calendar") from error


def utc_midnight(moment: datetime) -> datetime:
    """Return the midnight that begins the UTC day of `moment`.

    Raises:
        FormatError: `moment` is naive.
    """
    return floor_window(moment, _DAY)


def days_between(a: int, b: int) -> int:
    """Return the whole UTC days from interval `a` to `b`, each rounded down to its day; positive if `b` is later.

    23:50 to 00:00 of the next day is therefore 1 day.
    """
    return b // INTERVALS_PER_DAY - a // INTERVALS_PER_DAY


def floor_window(moment: datetime, width: timedelta) -> datetime:
    """Return the start, in UTC, of the window of `width` that holds `moment`; windows are multiples since the epoch.

    Raises:
        FormatError: `moment` is naive.
        ConfigurationError: `width` does not divide a day, so that windows would not meet at midnight.
    """
    if width <= timedelta(0) or _DAY % width:
        raise ConfigurationError(f"a window of {width} does not divide a day")
    return _EPOCH + _since_epoch(moment) // width * width


def first_gap(
    spans: Iterable[tuple[datetime, datetime | None]], start: datetime, end: datetime | None = None
) -> datetime | None:
    """Return the first moment in ``[start, end)`` that none of the half-open spans holds; None when there is none.

    An end of None is no end.
    """
    moment = start
    for span_start, span_end in sorted(spans, key=lambda span: span[0]):
        if span_start > moment:
            break
        if span_end is None:
            return None
        moment = max(moment, span_end)
    return moment if end is None or moment < end else None


def _since_epoch(moment: datetime) -> timedelta:
    if moment.utcoffset() is None:
        raise FormatError(f"the time {moment.isoformat()} has no time zone; times are aware, in UTC")
    return moment - _EPOCH
