"""Cases of the suite on a peer's keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from keyserver.protocol.exportfile import DecodedKey
from keyserver.protocol.exposure import MAX_AGE
from keyserver.protocol.intervals import interval_at
from keyserver.quality.imports import ImportFacts, check_keys
from keyserver.store.quality import Outcome

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
FACTS = ImportFacts("peer", NOW)
TODAY = interval_at(NOW) // 144 * 144
FIELDS = ("key", "report_type", "transmission_risk", "days_since_onset", "rolling_start", "rolling_period")
KEYS = [hashlib.sha256(bytes([n])).digest()[:16] for n in range(6)]


def keys(report_type: int, first: int) -> list[DecodedKey]:
    """Three keys, among them a key of today and the oldest that there may be, with the highest and lowest values."""
    oldest = interval_at(NOW - MAX_AGE) - 144
    return [
        (KEYS[first], report_type, 0, None, TODAY, 144),
        (KEYS[first + 1], report_type, 8, -14, TODAY - 144, 1),
        (KEYS[first + 2], None, 2, 14, oldest, 144),
    ]


def check(changes: dict[str, object] | None = None, of: str = "imported keys") -> list[Outcome]:
    """Put the suite to good keys, of which the first of one list was changed."""
    lists = {"imported keys": keys(1, 0), "imported revised keys": keys(5, 3)}
    first = dict(zip(FIELDS, lists[of][0], strict=True)) | (changes or {})
    lists[of][0] = tuple(first.values())
    return check_keys(FACTS, lists["imported keys"], lists["imported revised keys"])


def passing(_: pytest.FixtureRequest) -> list[Outcome]:
    return check()


def _case(of: str, **changes: object) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    return lambda _: check(changes, of)


CASES = [
    case
    for of, other in (("imported keys", KEYS[1]), ("imported revised keys", KEYS[4]))
    for case in (
        (f"{of} are 16 bytes", _case(of, key=bytes(17))),
        (f"{of} are unique", _case(of, key=other)),
        (f"periods of {of} are of a day", _case(of, rolling_period=0)),
        (f"periods of {of} are of a day", _case(of, rolling_period=145)),
        (f"starts of {of} are not negative", _case(of, rolling_start=-1)),
        (f"risks of {of} are known", _case(of, transmission_risk=9)),
        (f"days from onset of {of} are within two weeks", _case(of, days_since_onset=15)),
        (f"{of} began in the past", _case(of, rolling_start=interval_at(NOW) + 1)),
        (f"{of} are young enough to match", _case(of, rolling_start=interval_at(NOW - MAX_AGE) - 2, rolling_period=1)),
    )
]
CASES += [
    ("report types of imported keys are first reports", _case("imported keys", report_type=5)),
    ("report types of imported keys are first reports", _case("imported keys", report_type=4)),
    ("report types of imported revised keys are those of revisions", _case("imported revised keys", report_type=3)),
]
