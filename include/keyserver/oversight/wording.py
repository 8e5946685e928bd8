"""How answers are worded: times, spans and counts in sentences, records as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

# What became of a key that a batch had to look at (`key_fate`).
KEY_FATES = {
    "released": "released",
    "revoked": "revoked",
    "expired": "expired",
    "other_region": "of another region",
    "excluded_region": "of an excluded region",
    "traveler": "a traveler's",
    "left_out": "left out by decision",
}
# What became of a revision (`batch_revisions`).
REVISION_FATES = {
    "released": "released",
    "retold": "told again",
    "in_state": "in the state of the keys already",
    "carrier_not_released": "of keys whose own batch is not released",
    "not_carried": "of keys that are in no batch of the feed",
    "expired": "expired",
}


def moment(at: datetime) -> str:
    """Write a moment in UTC; seconds only where there are some."""
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at.second or at.microsecond else f"{at:%Y-%m-%d %H:%M} UTC"


def span(starts_at: datetime, ends_at: datetime) -> str:
    """Write a half-open span."""
    return f"{moment(starts_at)} to {moment(ends_at)}"


def counted(number: int, what: str) -> str:
    """Write a number of things, thousands apart: ``what`` is the word for one."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def by_reason(
    fates: Mapping[str, int], words: Mapping[str, str], *, deleted: int = 0, on_demand: int = 0, synthetic: int = 0
) -> str:
    """Write counts by reason, in the order of ``words``; what is nought is left out, but for what was released.

    ``deleted``: by retention; ``on_demand``: because somebody asked for it.
    """
    parts = []
    for fate, word in words.items():
        if number := fates.get(fate, 0):
            made_up = f" (of these {synthetic:,} synthetic)" if fate == "released" and synthetic else ""
            parts.append(f"{number:,} {word}{made_up}")
        elif fate == "released":
            parts.append("none released")
    parts += [f"{on_demand:,} deleted on demand"] if on_demand else []
    parts += [f"{deleted:,} deleted by retention"] if deleted else []
    return ", ".join(parts)


def to_json(record: Any) -> str:
    """Write a dataclass as JSON: moments as RFC 3339 in UTC, hashes in hexadecimal."""
    return json.dumps(asdict(record), indent=2, default=_plain)


def lines(*paragraphs: Iterable[str]) -> list[str]:
    """Put paragraphs of sentences together."""
    return [sentence for paragraph in paragraphs for sentence in paragraph]


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)
