"""What keys of a peer must be before they are merged: the suite on a peer's decoded keys (rules T2, T3, E5, R12).

What is merged goes out to phones with our signature, so it must be what publish would have taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyserver.protocol.exportfile import REPORT_TYPES, DecodedKey
from keyserver.protocol.exposure import MAX_AGE
from keyserver.quality.decodedkeys import Keys, columns, of_format
from keyserver.quality.suite import Expectation, Outcome, in_set, validate

NAME = "imports"

_OWNER = "federation"


@dataclass(frozen=True, slots=True)
class ImportFacts:
    """What is known of an import: whose keys, and the time now."""

    peer: str
    now: datetime


def _of_both(table: str) -> Iterator[Expectation]:
    yield from of_format(table, _OWNER)
    yield Expectation(
        f"{table} began in the past",
        table,
        "nobody can have heard them (publish.md 2.3)",
        "a start before {facts.now:%Y-%m-%d %H:%M} UTC",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(column="began", max_value=facts.now.timestamp()),
        owner=_OWNER,
    )
    yield Expectation(
        f"{table} are young enough to match",
        table,
        "phones keep what they heard for 14 days (T3)",
        "an end less than 15 days before {facts.now:%Y-%m-%d %H:%M} UTC",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(
            column="ended", min_value=(facts.now - MAX_AGE).timestamp()
        ),
        owner=_OWNER,
    )


SUITE: tuple[Expectation, ...] = (
    *_of_both("imported keys"),
    Expectation(
        "report types of imported keys are first reports",
        "imported keys",
        "only a revision revokes (K3)",
        "1, 2, 3 or none",
        in_set("report_type", *(REPORT_TYPES[name] for name in ("confirmed", "likely", "user-report"))),
        owner=_OWNER,
        found="{count} of {of} {table} otherwise: {values}",
    ),
    *_of_both("imported revised keys"),
    Expectation(
        "report types of imported revised keys are those of revisions",
        "imported revised keys",
        "a report becomes confirmed, likely or revoked (export.md 2.7)",
        "1, 2 or 5",
        in_set("report_type", *(REPORT_TYPES[name] for name in ("confirmed", "likely", "negative"))),
        owner=_OWNER,
        found="{count} of {of} {table} otherwise: {values}",
    ),
)


def check_keys(facts: ImportFacts, keys: Sequence[DecodedKey], revised_keys: Sequence[DecodedKey]) -> list[Outcome]:
    """Put the suite to the keys that a peer sent in one file or answer, before any of them is stored."""
    tables = {"imported keys": Keys([columns(keys)]), "imported revised keys": Keys([columns(revised_keys)])}
    return validate(SUITE, {name: listed.table() for name, listed in tables.items()}, facts)
