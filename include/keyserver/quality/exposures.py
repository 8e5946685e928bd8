"""What stored exposures must be: their table's constraints restated, and what no constraint can say (T2, R1, K2, P2).

Put by PostgreSQL to statements without keys (`keyserver.store.watch.exposure_queries`), so that nothing but counts
leaves the database. With 42 million rows they stay affordable because they read only what closed since the last look,
one hour of older windows by turns, and, for the shares of report types, one day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keyserver.quality import usual
from keyserver.quality.suite import Expectation, Severity, highest, in_set
from keyserver.quality.usual import Usual
from keyserver.store import watch
from keyserver.store.database import Connection

NAME = "stored exposures"

_TYPES = {"confirmed": "confirmed", "likely": "likely", "user-report": "user_report"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is usual of a day: the number of its real keys, and by its column the share of each report type."""

    volume: Usual
    shares: Mapping[str, Usual]


def _of_rows(name: str, reason: str, expected: str, otherwise: str, severity: Severity = "block") -> Expectation:
    """Expect of every row what the statement counts the exceptions to in this column."""
    build = highest(otherwise, 0)
    return Expectation(name, "exposures", reason, expected, build, severity, found="{value} exposures otherwise")


def _usual(column: str, pick: Callable[[Facts], Usual]) -> Callable[[Any, Any], Any]:
    """Build: the value of a table of one row is usual; nothing is asked while nobody knows what is."""

    def build(gxe: Any, facts: Facts) -> Any:
        known = pick(facts)
        if known is usual.ANYTHING:
            return None
        return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=known.low, max_value=known.high)

    return build


def _share(report_type: str, column: str) -> Expectation:
    return Expectation(
        f"the share of {report_type} is usual",
        "report types",
        "an app or an authority that changed its ways, or a mistake of ours",
        f"{{facts.shares[{column}]}}",
        _usual(column, lambda facts: facts.shares[column]),
        severity="warn",
        found="{value:.1%} of the last day",
    )


SUITE: tuple[Expectation, ...] = (
    _of_rows("keys are 16 bytes", "phones drop any other", "16 bytes", "other_lengths"),
    _of_rows(
        "first intervals are not negative",
        "Android's key builder throws, and a file's field would overflow",
        "0 to 2147483503",
        "other_intervals",
    ),
    _of_rows(
        "interval counts are of a day",
        "iOS ignores a longer key, Android's builder throws",
        "1 to 144",
        "other_interval_counts",
    ),
    _of_rows(
        "transmission risks are known",
        "Android's key builder throws on others",
        "0 to 8",
        "other_risks",
    ),
    _of_rows(
        "days from onset are within two weeks",
        "Android's key builder throws on others",
        "-14 to 14 or none",
        "other_onsets",
    ),
    _of_rows(
        "report types are first reports",
        "only a revision revokes (K3)",
        "confirmed, likely, user-report or none",
        "other_types",
    ),
    _of_rows(
        "every key has a region",
        "no feed would take it",
        "1 region or more",
        "without_region",
    ),
    _of_rows(
        "keys are stored at a window's start",
        "an exact time would tell of a person (T2)",
        "the start of a window",
        "off_a_window",
    ),
    _of_rows(
        "the embargo is respected",
        "both platforms demand it (T2)",
        "a window that starts no more than its width before the key's end + 2 h",
        "too_early",
    ),
    _of_rows(
        "revisions are whole",
        "a revision has a type and a risk, and nothing is left of none (K2)",
        "all columns of a revision, or none",
        "partly_revised",
    ),
    _of_rows(
        "keys are revised at a window's start, and not before they were published",
        "an exact time would tell of a person (K2)",
        "the start of a window, of the key's or a later one",
        "revised_off_a_window",
    ),
    _of_rows(
        "revised report types are those of revisions",
        "a report becomes confirmed, likely or revoked (export.md 2.7)",
        "confirmed, likely or negative",
        "other_revised_types",
    ),
    _of_rows(
        "revised transmission risks are known",
        "Android's key builder throws on others",
        "0 to 8",
        "other_revised_risks",
    ),
    _of_rows(
        "revised days from onset are within two weeks",
        "Android's key builder throws on others",
        "-14 to 14 or none",
        "other_revised_onsets",
    ),
    _of_rows(
        "synthetic keys have no origin",
        "they are nobody's and nobody revises them (P2)",
        "no app, no authority, no revision",
        "synthetic_with_origin",
    ),
    _of_rows(
        "authorities are known",
        "every key was vouched for by one that is declared, or by none",
        "declared authorities",
        "unknown_authorities",
    ),
    _of_rows(
        "regions of new keys are known",
        "a key gets the regions of its app, and of no other",
        "regions of the apps that are declared",
        "unknown_regions",
        severity="warn",  # an app may have been taken out of the configuration since they were published
    ),
    Expectation(
        "windows hold what they held when they closed",
        "windows",
        "nothing is added to a closed window, or taken from it but on demand and by retention (A6)",
        "no row more or less, but those deleted on demand",
        in_set("missing", 0),
    ),
    Expectation(
        "no key is kept too long",
        "overdue exposures",
        "keys go 14 days after they were published (R1)",
        "none older than the retention period and one run of enforce_retention",
        lambda gxe, _: gxe.ExpectTableRowCountToEqual(value=0),
        of_rows=False,
        found="{value:g} (a thousand are counted at most)",
    ),
    *(_share(report_type, column) for report_type, column in _TYPES.items()),
    Expectation(
        "the last day's volume is usual",
        "volume of the last day",
        "an app that stopped uploading, or somebody who uploads what is not theirs",
        "{facts.volume}",
        _usual("keys", lambda facts: facts.volume),
        severity="warn",
        found="{value:g} keys",
    ),
)


def read(connection: Connection) -> tuple[Facts, dict[str, str]]:
    """Choose what to look at; give what is usual, and the statements of the suite's tables."""
    looked = watch.looked_at(connection, NAME)
    volume = watch.volume(connection, looked.day)
    shares = watch.report_types_before(connection, looked.day)
    facts = Facts(
        usual.of_keys(watch.volumes_before(connection, looked.day)),
        {column: usual.of_share([getattr(share, column) for share in shares], volume) for column in _TYPES.values()},
    )
    return facts, watch.exposure_queries(connection, looked)
