"""What a health authority asks of its statistics and is told (publish.md 6): request, token, rules of sight, answer.

Nothing here reads a clock: ``now`` is an argument. For tokens it is the host's, for what may be seen the database's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from pydantic import Field

from keyserver.errors import PublishError
from keyserver.protocol.certificate import ALGORITHM, AuthorityKey, load_public_key
from keyserver.protocol.intervals import floor_window, utc_midnight
from keyserver.protocol.messages import Message, decode

_BEARER = "Bearer "
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_JWS = jwt.PyJWS(algorithms=[ALGORITHM])

_CSV_HEADER = (
    "day",
    "publish_requests_unknown",
    "publish_requests_android",
    "publish_requests_ios",
    "total_teks_published",
    "requests_with_revisions",
    "requests_missing_onset_date",
    "tek_age_distribution",
    "onset_to_upload_distribution",
)


class StatsRequest(Message):
    """A stats request: nothing but padding (6.1)."""

    padding: str = Field(default="", repr=False)


def decode_request(content_type: str, body: bytes) -> StatsRequest:
    """Return the request in ``body``; as `messages.decode` does, and with its errors."""
    return decode(StatsRequest, content_type, body)


# ---------------------------------------------------------------------------------------------------------- who may ask


@dataclass(frozen=True, slots=True)
class StatsAuthority:
    """A health authority that asks: its number here, its keys, and whether it may."""

    id: int
    keys: tuple[AuthorityKey, ...]
    enabled: bool


def verify(header: str | None, authorities: Mapping[str, StatsAuthority], audience: str, now: datetime) -> int:
    """Return the number of the authority whose token is in an Authorization header; ``authorities`` are by issuer.

    The token is a JWT signed with a key that is active ``now`` (6.1, 4.1). An expiry is required; there is no leeway.

    Raises:
        PublishError: ``unauthorized``, saying why without a word of the token's own.
        FormatError: a public key of ours is unusable.
    """
    if header is None or not header.startswith(_BEARER):
        raise _unauthorized("the Authorization header must be Bearer and a token")
    token = header.removeprefix(_BEARER)
    # The signature needs the key, and the key the claims: what is read here is believed only once that is checked.
    head, claims = _read(token)
    if head.get("alg") != ALGORITHM:
        raise _unauthorized(f"the token's algorithm is not {ALGORITHM}")
    kid = head.get("kid")
    if not isinstance(kid, str) or not kid:
        raise _unauthorized("the token names no key (kid)")
    issuer = claims.get("iss")
    authority = authorities.get(issuer) if isinstance(issuer, str) else None
    if authority is None:
        raise _unauthorized("the token's issuer is unknown")
    if claims.get("aud") != audience:
        raise _unauthorized("the token is meant for another audience")
    key = next((key for key in authority.keys if key.kid == kid and _active(key, now)), None)
    if key is None:
        raise _unauthorized("the token's issuer has no active key of this kid")
    _check_times(claims, now)
    try:
        _JWS.decode_complete(token, key=load_public_key(key.public_key), algorithms=[ALGORITHM])
    except jwt.PyJWTError:
        raise _unauthorized("the token's signature is wrong") from None
    if not authority.enabled:
        raise _unauthorized("statistics are not enabled for this health authority")
    return authority.id


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        parts = _JWS.decode_complete(token, options={"verify_signature": False})
        claims = json.loads(parts["payload"])
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _unauthorized("the token is no JWT") from None
    if not isinstance(claims, dict):
        raise _unauthorized("the token's claims are no JSON object")
    return parts["header"], claims


def _active(key: AuthorityKey, now: datetime) -> bool:
    return key.valid_from < now and (key.valid_thru is None or key.valid_thru > now)


def _check_times(claims: dict[str, Any], now: datetime) -> None:
    seconds = int(now.timestamp())
    times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
    for name, moment in times.items():
        if moment is not None and type(moment) is not int:
            raise _unauthorized(f"the token's {name} is not a whole number of seconds")
    if (times["iat"] or 0) > seconds or (times["nbf"] or 0) > seconds:
        raise _unauthorized("the token is not valid yet")
    if times["exp"] is None:
        raise _unauthorized("the token has no expiry (exp)")
    if times["exp"] < seconds:
        raise _unauthorized("the token has expired")


def _unauthorized(problem: str) -> PublishError:
    return PublishError("unauthorized", problem)


# ---------------------------------------------------------------------------------------------------- what may be seen


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of uploads (6.4). ``publish``: of unknown platform, Android, iOS.

    ``oldest_tek_days`` has 16 counts, by the age in days of an upload's oldest key; ``onset_age_days`` 30, by the days
    from onset to upload. The last one of each is for all that is more.
    """

    publish: tuple[int, ...]
    teks: int
    revisions: int
    oldest_tek_days: tuple[int, ...]
    onset_age_days: tuple[int, ...]
    missing_onset: int

    def __add__(self, other: Counts) -> Counts:
        """Return the sums, each of its own."""
        return Counts(
            _sums(self.publish, other.publish),
            self.teks + other.teks,
            self.revisions + other.revisions,
            _sums(self.oldest_tek_days, other.oldest_tek_days),
            _sums(self.onset_age_days, other.onset_age_days),
            self.missing_onset + other.missing_onset,
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """When a day may be seen (6.3): from ``minimum`` uploads on, or once ``embargo`` has passed since its end.

    Without an embargo a day of fewer uploads is never seen.
    """

    minimum: int = 10
    embargo: timedelta | None = timedelta(hours=48)


def visible_days(
    counted: Iterable[tuple[datetime, Counts]], now: datetime, sight: Sight
) -> tuple[tuple[datetime, Counts], ...]:
    """Return the UTC days (their midnights) that may be seen ``now``, ascending, and what was counted in each.

    ``counted`` are hours, by their starts, in any order and several for one; nothing of the current hour is seen.
    """
    days: dict[datetime, Counts] = {}
    this_hour = floor_window(now, _HOUR)
    for hour, counts in counted:
        if hour < this_hour:
            day = utc_midnight(hour)
            days[day] = days[day] + counts if day in days else counts
    return tuple((day, counts) for day, counts in sorted(days.items()) if _visible(day, counts, now, sight))


def _visible(day: datetime, counts: Counts, now: datetime, sight: Sight) -> bool:
    if sum(counts.publish) >= sight.minimum:
        return True
    return sight.embargo is not None and day + _DAY + sight.embargo < now


def _sums(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------------- answers


def as_json(days: Iterable[tuple[datetime, Counts]]) -> list[dict[str, Any]]:
    """Return the ``days`` of an answer, ready for JSON (6.2)."""
    return [
        {
            "day": f"{day:%Y-%m-%d}T00:00:00Z",
            "publish_requests": dict(zip(("unknown", "android", "ios"), counts.publish, strict=True)),
            "total_teks_published": counts.teks,
            "requests_with_revisions": counts.revisions,
            "tek_age_distribution": list(counts.oldest_tek_days),
            "onset_to_upload_distribution": list(counts.onset_age_days),
            "requests_missing_onset_date": counts.missing_onset,
        }
        for day, counts in days
    ]


def as_csv(days: Iterable[tuple[datetime, Counts]]) -> str:
    """Return the same as CSV (6.4): a header and a line a day; without a day, nothing."""
    rows = [
        (
            f"{day:%Y-%m-%d}",
            *counts.publish,
            counts.teks,
            counts.revisions,
            counts.missing_onset,
            "|".join(map(str, counts.oldest_tek_days)),
            "|".join(map(str, counts.onset_age_days)),
        )
        for day, counts in days
    ]
    if not rows:
        return ""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_CSV_HEADER, *rows])
    return text.getvalue()
