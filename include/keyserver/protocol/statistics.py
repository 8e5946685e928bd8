"""What one upload adds to the counters: those that an authority reads, and the profile of uploads (rule P1).

Follows publish.md 1.9, 2.10 and 6.4. Nothing here knows a key; days and buckets only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from keyserver.protocol.exposure import Exposure, ReportType
from keyserver.protocol.intervals import days_between, interval_at

# Counters lie in this many rows each, so that uploads do not queue for one (P1).
SHARDS = 16

AGE_BUCKETS = 16
ONSET_BUCKETS = 30
_MOST_PROFILE_KEYS = 30
_MOST_PROFILE_DAYS = 15


class Platform(IntEnum):
    """The place of a platform in `publish` (6.4)."""

    UNKNOWN = 0
    ANDROID = 1
    IOS = 2


def platform(user_agent: str) -> Platform:
    """Return the platform that a User-Agent header tells of (1.9)."""
    agent = user_agent.lower()
    if "android" in agent:
        return Platform.ANDROID
    if "iphone" in agent or ("bluetoothd" in agent and "cfnetwork" in agent):
        return Platform.IOS
    return Platform.UNKNOWN


@dataclass(frozen=True, slots=True)
class Facts:
    """What is counted of an upload besides what was written: taken before that is known.

    ``oldest_days``: age of the oldest key; ``onset_days``: days from onset to upload, None if the default was used.
    """

    platform: Platform
    oldest_days: int
    onset_days: int | None


@dataclass(frozen=True, slots=True)
class Increments:
    """What one upload adds to an hour of its authority (6.4): 1 to each bucket named, None: to none."""

    platform: Platform
    teks: int
    revisions: int
    oldest_bucket: int | None
    onset_bucket: int | None
    missing_onset: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What one upload adds to its day's profile (P1): 1 to a (report type, keys, age of the oldest in days).

    ``marginals``: (what, value, count), sorted, so that uploads meet the rows in one order.
    """

    report_type: ReportType
    keys: int
    oldest_days: int
    marginals: tuple[tuple[str, int, int], ...]


def facts(exposures: Sequence[Exposure], onset: int | None, platform: Platform, now: datetime) -> Facts:
    """Return the facts of an upload of these keys (not empty); ``onset`` is an interval, None if none was told."""
    current = interval_at(now)
    return Facts(
        platform,
        max(days_between(exposure.start, current) for exposure in exposures),
        None if onset is None else days_between(onset, current),
    )


def increments(facts: Facts, inserted: int, revised: int) -> Increments | None:
    """Return what an upload that wrote so many keys adds; None when it changed nothing.

    One that revised counts by platform, keys and as a revision: its age and onset were counted before (6.4).
    """
    if not inserted and not revised:
        return None
    if revised:
        return Increments(facts.platform, inserted + revised, 1, None, None, 0)
    onset = None if facts.onset_days is None else _bucket(facts.onset_days, ONSET_BUCKETS)
    missing = int(facts.onset_days is None)
    return Increments(facts.platform, inserted, 0, _bucket(facts.oldest_days, AGE_BUCKETS), onset, missing)


def profile(
    facts: Facts, inserted: Sequence[Exposure], report_type: ReportType | None, now: datetime, *, traveler: bool
) -> Profile | None:
    """Return what an upload adds to the profile, by its new keys; None without any, or without an authority's word."""
    if not inserted or report_type is None:
        return None
    current = interval_at(now)
    oldest = max(days_between(exposure.start, current) for exposure in inserted)
    marginals = Counter(("transmission_risk", exposure.transmission_risk) for exposure in inserted)
    marginals.update(("interval_count", exposure.period) for exposure in inserted)
    marginals["traveler", int(traveler)] = 1
    if facts.onset_days is not None and facts.onset_days >= 0:
        marginals["onset_days", min(facts.onset_days, ONSET_BUCKETS - 1)] = 1
    return Profile(
        report_type,
        min(len(inserted), _MOST_PROFILE_KEYS),
        min(max(oldest, 0), _MOST_PROFILE_DAYS),
        tuple(sorted((what, value, count) for (what, value), count in marginals.items())),
    )


def _bucket(days: int, buckets: int) -> int | None:
    """Return the bucket of a number of days, the last one for all above; none for days in the future."""
    return min(days, buckets - 1) if days >= 0 else None
