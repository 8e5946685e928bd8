"""From the keys of a request to rows: which are taken, what is known of them, when they are published.

Follows publish.md 2.2 to 2.7 as rules T2, T3 and E5 change it. Intervals count 10 minutes since the epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from keyserver.errors import FormatError, PublishError
from keyserver.protocol import base64text
from keyserver.protocol.intervals import (
    INTERVALS_PER_DAY,
    days_between,
    floor_window,
    interval_at,
    interval_start,
    utc_midnight,
)
from keyserver.protocol.messages import SentKey

KEY_BYTES = 16
MAX_TRANSMISSION_RISK = 8

# T2: no key is released before its own end + 2 h, which both phone platforms demand.
EMBARGO = timedelta(hours=2)
# T3: the age of a key, by its end, at which it is no longer taken.
MAX_AGE = timedelta(days=15)
# R1: how long a key is kept, from the start of its window, unless a shorter time is declared.
RETENTION = timedelta(days=14)


class ReportType(StrEnum):
    """What a health authority says of a diagnosis (publish.md 4.2)."""

    CONFIRMED = "confirmed"
    LIKELY = "likely"
    USER_REPORT = "user-report"
    NEGATIVE = "negative"


# 2.7, for keys that came without a risk of their own.
_TRANSMISSION_RISK = {
    ReportType.CONFIRMED: 2,
    ReportType.LIKELY: 4,
    ReportType.USER_REPORT: 0,
    ReportType.NEGATIVE: 6,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator may set; the defaults are the reference's (publish.md 8.1)."""

    max_keys: int = 30
    max_keys_of_same_start: int = 3
    max_onset_days: int = 14
    max_onset_report_days: int = 28
    default_onset_days_ago: int = 4


@dataclass(frozen=True, slots=True)
class Exposure:
    """A key that was taken: 16 bytes, first interval, number of intervals (1..144), risk (0..8), days since onset.

    ``index``: its place in the request as sent, for what is said of it; equal keys are equal whatever their place.
    """

    key: bytes
    start: int
    period: int
    transmission_risk: int
    days_since_onset: int
    index: int = field(default=0, compare=False)

    @property
    def end(self) -> int:
        """The first interval in which it is no longer valid."""
        return self.start + self.period


@dataclass(frozen=True, slots=True)
class Transformed:
    """The keys taken, by start and period, each once; what was wrong with the others, by index in the request.

    ``onset``: the interval that was told as onset of symptoms and counts; None: the default was used (2.6).
    """

    exposures: tuple[Exposure, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    onset: int | None = None


def transform(
    sent: Sequence[SentKey], report_type: ReportType | None, onsets: Sequence[int], now: datetime, limits: Limits
) -> Transformed:
    """Check the keys of a request and work out what is stored of them; bad ones are left out and reported.

    ``report_type`` is None where an app needs no certificate and had none (2.9): no risk is filled in then.
    ``onsets`` are the intervals that request and certificate name for the onset of symptoms, in this order (2.6).
    Equal keys of one request become one row: the last by (start, period, place in the request), as in the reference.

    Raises:
        PublishError: ``bad_request`` when there are no or too many keys, none is good, or they do not fit together.
    """
    if not sent:
        raise PublishError("bad_request", "the request has no keys")
    if len(sent) > limits.max_keys:
        raise PublishError("bad_request", f"the request has {len(sent)} keys; at most {limits.max_keys} are taken")
    current = interval_at(now)
    oldest_end = max(interval_at(now - MAX_AGE), 0)
    told = told_onset(onsets, now, limits)
    onset = interval_at(now - timedelta(days=limits.default_onset_days_ago)) if told is None else told
    good: list[Exposure] = []
    errors: list[str] = []
    warnings: list[str] = []
    for index, key in enumerate(sent):
        try:
            exposure = _exposure((index, key), report_type, onset, current, oldest_end)
        except FormatError as error:
            errors.append(f"key {index} {error}")
            continue
        if abs(exposure.days_since_onset) > limits.max_onset_days:
            warnings.append(
                f"key {index} was left out: it is {abs(exposure.days_since_onset)} days from the onset of symptoms,"
                f" more than {limits.max_onset_days}"
            )
            continue
        good.append(exposure)
    if errors and not good:
        raise PublishError("bad_request", summary(errors), tuple(warnings))
    good.sort(key=lambda exposure: (exposure.start, exposure.period))
    _check_together(good, limits, tuple(warnings))
    distinct = tuple({exposure.key: exposure for exposure in good}.values())
    return Transformed(distinct, tuple(errors), tuple(warnings), told)


def summary(errors: Sequence[str]) -> str:
    """Return the errors of several keys as one text: a line that counts them, then one each."""
    return "\n".join([f"{len(errors)} of the keys had errors:", *(f"* {error}" for error in errors)])


def told_onset(onsets: Sequence[int], now: datetime, limits: Limits) -> int | None:
    """Return the interval that counts as onset: the first that lies before now and not too far back, or None.

    Those that do not are passed over silently (publish.md 2.6).
    """
    oldest = interval_at(utc_midnight(now - timedelta(days=limits.max_onset_report_days)))
    current = interval_at(now)
    for onset in onsets:
        if oldest <= onset < current:
            return onset
    return None


def created_at(now: datetime, key_end: int, width: timedelta) -> datetime:
    """Return the start of the window that a key published at ``now`` belongs to (rule T2).

    ``key_end`` is the first interval in which the key is no longer valid, ``width`` that of a window. The rule in plain
    words: the database, whose clock decides, has it in `publish_keys`, and the tests compare the two.
    """
    return floor_window(max(now, interval_start(key_end) + EMBARGO), width)


def filled_risk(report_type: ReportType) -> int:
    """Return the transmission risk of a key that came without one (publish.md 2.7)."""
    return _TRANSMISSION_RISK[report_type]


def base(window: datetime, closed_through: datetime) -> datetime:
    """Return the earliest window that may still be written to (rule W2), given that of now."""
    return max(window, closed_through)


def _exposure(
    numbered: tuple[int, SentKey], report_type: ReportType | None, onset: int, current: int, oldest_end: int
) -> Exposure:
    """Apply publish.md 2.3 to one key, in its order; raise FormatError with what is wrong."""
    index, sent = numbered
    key = base64text.decode(sent.key)
    if len(key) != KEY_BYTES:
        raise FormatError(f"has {len(key)} bytes, not {KEY_BYTES}")
    if not 1 <= sent.period <= INTERVALS_PER_DAY:
        raise FormatError(f"has a rollingPeriod of {sent.period}, outside 1..{INTERVALS_PER_DAY}")
    if sent.start < 0 or sent.start + sent.period < oldest_end:
        raise FormatError(f"ended before interval {oldest_end}, more than {MAX_AGE.days} days ago")
    if sent.start > current:
        raise FormatError(f"starts at interval {sent.start}, in the future; it is interval {current} now")
    if not 0 <= sent.transmission_risk <= MAX_TRANSMISSION_RISK:
        raise FormatError(f"has a transmissionRisk of {sent.transmission_risk}, outside 0..{MAX_TRANSMISSION_RISK}")
    return Exposure(
        key,
        sent.start,
        sent.period,
        sent.transmission_risk or (_TRANSMISSION_RISK[report_type] if report_type else 0),
        days_between(onset, sent.start),
        index,
    )


def _check_together(exposures: Sequence[Exposure], limits: Limits, warnings: tuple[str, ...]) -> None:
    """Apply publish.md 2.5 to keys sorted by start and period."""
    for earlier, later in pairwise(exposures):
        if earlier.start < later.start < earlier.end:
            raise PublishError(
                "bad_request",
                f"the key from interval {later.start} overlaps the one from {earlier.start} to {earlier.end}",
                warnings,
            )
    for start, count in Counter(exposure.start for exposure in exposures).items():
        if count > limits.max_keys_of_same_start:
            raise PublishError(
                "bad_request",
                f"{count} keys start at interval {start}; at most {limits.max_keys_of_same_start} may",
                warnings,
            )
