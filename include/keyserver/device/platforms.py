"""How much a phone may look at in a day: the quotas of both platforms (crypto-and-clients.md b, "Counts per day")."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.protocol.intervals import utc_midnight

UNLIMITED = sys.maxsize
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that handed files to the platform: when, their lines in order, and how many it had not seen before."""

    at: datetime
    lines: tuple[str, ...]
    new: int


@dataclass(frozen=True, slots=True)
class Platform:
    """What a platform allows: `calls` and new `files` within 24 h, or since midnight UTC if `by_utc_day`."""

    name: str
    calls: int = UNLIMITED
    files: int = UNLIMITED
    by_utc_day: bool = False

    def room(self, calls: Sequence[Call], now: datetime) -> int | None:
        """Return how many new files a call at `now` may hand over, after those `calls`; None if it may not be made."""
        since = utc_midnight(now) if self.by_utc_day else now - _DAY
        counted = [call for call in calls if (call.at >= since if self.by_utc_day else call.at > since)]
        if len(counted) >= self.calls:
            return None
        return self.files - sum(call.new for call in counted)


IOS_13_5 = Platform("iOS 13.5", files=15)
IOS_13_6 = Platform("iOS 13.6", calls=15)
IOS_13_7 = Platform("iOS 13.7", calls=6)
ANDROID_1_3 = Platform("Android 1.3", calls=20)
ANDROID_1_5 = Platform("Android 1.5", calls=6, by_utc_day=True)
EASY_GOING = Platform("none in particular")
