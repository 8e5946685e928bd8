"""What a batch's files must be before they are signed: the suite on the decoded files (rules T2, T3, B10, E5, K1, K3).

The expectations speak of the format and of what the database counts, never of what the encoder knows. An outcome names
an expectation and how many rows missed it. It cannot hold a key: no table that Great Expectations sees has any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keyserver.errors import FormatError
from keyserver.protocol.exportfile import REPORT_TYPES, Header, decode
from keyserver.protocol.exposure import EMBARGO, MAX_AGE
from keyserver.quality.decodedkeys import Columns, Keys, columns, of_format
from keyserver.quality.suite import Expectation, Outcome, highest, in_set, validate
from keyserver.quality.usual import ANYTHING, Usual
from keyserver.store.quality import Listed

if TYPE_CHECKING:
    import pandas as pd

NAME = "export files"

FIRST_REPORTS = ("confirmed", "likely", "user-report")  # only a revision revokes

# A synthetic user has a key of each day that is still taken, and today's (P1, T3).
LONGEST_USER = MAX_AGE.days + 1

# T3: how old a key may be to be taken, and a day until the file is fetched.
_OLDEST_CUTOFF = MAX_AGE + timedelta(hours=24)
_OWNER = "export"


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the database says of a batch, counted anew for the gate. What is left out is not known, and not asked."""

    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    region: str
    max_keys: int
    keys: int  # rows of the span that its rules select
    revised_keys: int  # revisions that it has to tell (K3)
    signature_infos: tuple[tuple[str, str], ...]  # (key id, key version), the newest first
    closed_through: datetime  # every window before is closed
    rows: int = 0  # of the span, whatever becomes of them
    rows_when_closed: int | None = None  # of its windows, without what was deleted on demand since
    least_keys: int = 0  # what it was padded to, if it has keys at all (P2)
    most_synthetic: int | None = None  # what padding can have added to its span
    usual_keys: Usual = ANYTHING  # real ones, by the batches before it that were as long
    usual_shares: Mapping[str, Usual] = field(  # of its keys, by report type
        default_factory=lambda: dict.fromkeys(FIRST_REPORTS, ANYTHING)
    )


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file as it was recorded when it was built."""

    number: int
    starts_at: datetime
    ends_at: datetime
    keys: int
    revised_keys: int
    export_sha256: bytes


def _of_both(table: str) -> Iterator[Expectation]:
    """Give what is expected of first and of revised keys alike; a name says of which."""
    yield from of_format(table, _OWNER)
    yield Expectation(
        f"{table} ended two hours before the batch did",
        table,
        "both platforms demand it (T2)",
        "an end at or before {facts.ends_at:%Y-%m-%d %H:%M:%S} UTC - 2 h",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(
            column="ended", max_value=(facts.ends_at - EMBARGO).timestamp()
        ),
    )
    yield Expectation(
        f"{table} are young enough to match",
        table,
        "phones keep what they heard for 14 days (T3)",
        "an end at or after {facts.cutoff:%Y-%m-%d %H:%M:%S} UTC",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(column="ended", min_value=facts.cutoff.timestamp()),
    )
    yield Expectation(
        f"{table} are in order",
        table,
        "order must tell nothing of arrival (B10)",
        "by metadata, then key",
        in_set("in_order", True),
        found="{count} of {of} {table} behind one that they belong before",
    )


def usual_share(report_type: str) -> str:
    """Name the expectation on the share of a report type among first reports."""
    return f"the share of {report_type} is usual"


def _share_is_usual(report_type: str) -> Expectation:
    return Expectation(
        usual_share(report_type),
        "keys",
        "a jump is more often a fault at an authority than news",
        f"{{facts.usual_shares[{report_type}]}}",
        lambda gxe, facts: gxe.ExpectColumnMeanToBeBetween(
            column=report_type,
            min_value=facts.usual_shares[report_type].low,
            max_value=facts.usual_shares[report_type].high,
        ),
        severity="warn",
        found="{value:.1%}",
    )


SUITE: tuple[Expectation, ...] = (
    Expectation(
        "the feed has a signing key",
        "plan",
        "phones drop a file that nobody signed (export.md 1.4)",
        "1 to 10 keys that were active when the batch was planned",
        lambda gxe, _: gxe.ExpectColumnMaxToBeBetween(column="signing_keys", min_value=1, max_value=10),
    ),
    Expectation(
        "the batch's windows are closed",
        "plan",
        "keys that still come would be in no file (W3)",
        "every window closed up to {facts.ends_at:%Y-%m-%d %H:%M:%S} UTC",
        in_set("closed", True),
        found="that they are closed up to {facts.closed_through:%Y-%m-%d %H:%M:%S} UTC",
    ),
    Expectation(
        "the cutoff is of this batch",
        "plan",
        "what phones can still match is measured from the batch's end (T3)",
        "16 days before its end, or later",
        highest("cutoff_days", _OLDEST_CUTOFF / timedelta(days=1)),
        found="{value} days before",
    ),
    Expectation(
        "rows number as when the windows closed",
        "plan",
        "rows that were moved or removed by hand may be in another batch too, or in none (K1, A6)",
        "{facts.rows_when_closed} rows, without what was deleted on demand",
        lambda gxe, facts: (
            None
            if facts.rows_when_closed is None
            else gxe.ExpectColumnMaxToBeBetween(
                column="rows", min_value=facts.rows_when_closed, max_value=facts.rows_when_closed
            )
        ),
    ),
    Expectation(
        "staged bytes are those that were built",
        "staged files",
        "what is signed must be what was recorded (B8)",
        "the recorded SHA-256",
        in_set("hash_as_recorded", True),
    ),
    Expectation(
        "files are of the format",
        "staged files",
        "phones drop what they cannot read",
        "files of the export format, as our encoder writes it",
        lambda gxe, _: gxe.ExpectColumnValuesToBeNull(column="flaw"),
        found="{count} of {of} {table} otherwise: {values}",
    ),
    Expectation(
        "files have the batch's start",
        "files",
        "phones order files by it",
        "{facts.starts_at:%Y-%m-%d %H:%M:%S} UTC",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeInSet(column="start", value_set=[facts.starts_at.timestamp()]),
    ),
    Expectation(
        "files end as recorded",
        "files",
        "metadata of files of one batch must differ (export.md 2.8)",
        "the recorded end",
        in_set("end_as_recorded", True),
    ),
    Expectation(
        "ends of files differ",
        "files",
        "phones take files of equal metadata for one (crypto-and-clients.md b)",
        "distinct ends",
        lambda gxe, _: gxe.ExpectColumnValuesToBeUnique(column="end"),
    ),
    Expectation(
        "files name the region",
        "files",
        "the feed's output region",
        "{facts.region}",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeInSet(column="region", value_set=[facts.region]),
    ),
    Expectation(
        "files name the signing keys",
        "files",
        "phones look for their key by id and version",
        "the keys that the batch was planned with",
        in_set("signing_keys_as_planned", True),
    ),
    Expectation(
        "files are within the maximum",
        "files",
        "the feed's maximum of keys a file",
        "1 to {facts.max_keys} keys",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(column="all_keys", min_value=1, max_value=facts.max_keys),
        found="{count} of {of} {table} otherwise: {values}",
    ),
    Expectation(
        "files hold what was recorded",
        "files",
        "the index and the log tell these counts",
        "the recorded counts",
        in_set("counts_as_recorded", True),
    ),
    Expectation(
        "keys number as stored",
        "keys",
        "no key is lost or added between the database and the file",
        "{facts.keys} keys, as the batch's rules select",
        lambda gxe, facts: gxe.ExpectTableRowCountToEqual(value=facts.keys),
        of_rows=False,
    ),
    Expectation(
        "keys were padded",
        "keys",
        "few keys tell who they are of (P2)",
        "{facts.least_keys} keys or more, if any",
        lambda gxe, facts: gxe.ExpectTableRowCountToBeBetween(min_value=facts.least_keys),
    ),
    *_of_both("keys"),
    Expectation(
        "report types are first reports",
        "keys",
        "only a revision revokes (K3)",
        "1, 2, 3 or none",
        in_set("report_type", *(REPORT_TYPES[name] for name in FIRST_REPORTS)),
        found="{count} of {of} {table} otherwise: {values}",
    ),
    *map(_share_is_usual, FIRST_REPORTS),
    Expectation(
        "revised keys number as stored",
        "revised keys",
        "no revision is lost or told twice (K1, K3)",
        "{facts.revised_keys} keys, as the batches that are out had them",
        lambda gxe, facts: gxe.ExpectTableRowCountToEqual(value=facts.revised_keys),
        of_rows=False,
    ),
    *_of_both("revised keys"),
    Expectation(
        "report types are those of revisions",
        "revised keys",
        "a report becomes confirmed, likely or revoked (export.md 2.7)",
        "1, 2 or 5",
        in_set("report_type", 1, 2, 5),
        found="{count} of {of} {table} otherwise: {values}",
    ),
    Expectation(
        "revised keys are not first keys too",
        "revised keys",
        "phones would take the old state and the new one together (export.md 4, B11)",
        "no key in both lists",
        in_set("in_one_list", True),
    ),
    Expectation(
        "keys are of the batch",
        "stored",
        "a file has the keys that its rules select from its windows, and no other",
        "no key that the database does not select for it",
        highest("strangers", 0),
    ),
    Expectation(
        "keys were not carried before",
        "stored",
        "a key is in `keys` of one file of a feed (K1)",
        "no key that a batch of the feed has which is not withdrawn, rejected or replaced",
        highest("carried", 0),
    ),
    Expectation(
        "revised keys were out before",
        "stored",
        "phones take a revision only of a key that they know (K3)",
        "no key that no earlier batch of the feed had out",
        highest("unknown_revised", 0),
    ),
    Expectation(
        "keys were not padded too much",
        "stored",
        "padding is decided once, by whole users, and ends at its target (P2)",
        "{facts.most_synthetic} synthetic keys or fewer",
        lambda gxe, facts: (
            None
            if facts.most_synthetic is None
            else gxe.ExpectColumnMaxToBeBetween(column="synthetic", max_value=facts.most_synthetic)
        ),
    ),
    Expectation(
        "the number of real keys is usual",
        "stored",
        "a jump is more often a fault at an authority than news",
        "{facts.usual_keys}",
        lambda gxe, facts: gxe.ExpectColumnMaxToBeBetween(
            column="real_keys", min_value=facts.usual_keys.low, max_value=facts.usual_keys.high
        ),
        severity="warn",
    ),
)


def check_files(
    facts: BatchFacts, staged: Sequence[tuple[StagedFile, bytes]], look_up: Callable[[bytes, bytes], Listed]
) -> list[Outcome]:
    """Put the suite to a batch's staged files.

    What files hold is only asked when all are the bytes that were built, and of the format. ``look_up`` then asks the
    database for the keys and the revised keys that they list, each as 16 bytes a key, end to end.
    """
    contents = [_read(file, data) for file, data in staged]
    tables = {"plan": _plan_table(facts), "staged files": _staged_table(contents)}
    if all(content.as_recorded and content.flaw is None for content in contents):
        keys = Keys([content.keys for content in contents])
        revised_keys = Keys([content.revised_keys for content in contents])
        tables["files"] = _files_table(facts, contents)
        tables["keys"] = keys.table()
        for report_type in FIRST_REPORTS:
            tables["keys"][report_type] = (tables["keys"]["report_type"] == REPORT_TYPES[report_type]).astype(float)
        tables["revised keys"] = revised_keys.table(elsewhere=keys)
        tables["stored"] = _stored_table(len(keys), look_up(keys.bytes, revised_keys.bytes))
    return validate(SUITE, tables, facts)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file read back, its keys in columns; without them if its bytes are others than those that were built."""

    file: StagedFile
    as_recorded: bool
    flaw: str | None = None
    header: Header | None = None
    keys: Columns = field(default_factory=lambda: columns([]))
    revised_keys: Columns = field(default_factory=lambda: columns([]))


def _read(file: StagedFile, data: bytes) -> _Content:
    if hashlib.sha256(data).digest() != file.export_sha256:
        return _Content(file, as_recorded=False)
    try:
        decoded = decode(data)
    except FormatError as error:
        return _Content(file, as_recorded=True, flaw=str(error))
    return _Content(file, True, None, decoded.header, columns(decoded.keys), columns(decoded.revised_keys))


def _plan_table(facts: BatchFacts) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    return pd.DataFrame(
        {
            "signing_keys": [len(facts.signature_infos)],
            "closed": [facts.closed_through >= facts.ends_at],
            "cutoff_days": [(facts.ends_at - facts.cutoff) / timedelta(days=1)],
            "rows": [facts.rows],
        }
    )


def _staged_table(contents: Sequence[_Content]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    return pd.DataFrame(
        {
            "hash_as_recorded": [content.as_recorded for content in contents],
            "flaw": [content.flaw for content in contents],
        }
    )


def _files_table(facts: BatchFacts, contents: Sequence[_Content]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    rows = []
    for content in contents:
        file, header = content.file, content.header
        if header is None:
            continue
        infos = tuple((info.key_id, info.key_version) for info in header.signature_infos)
        counts = (len(content.keys["key"]), len(content.revised_keys["key"]))
        rows.append(
            {
                "start": header.start.timestamp(),
                "end": header.end.timestamp(),
                "end_as_recorded": header.end == file.ends_at,
                "region": header.region,
                "signing_keys_as_planned": infos == facts.signature_infos,
                "all_keys": sum(counts),
                "counts_as_recorded": counts == (file.keys, file.revised_keys),
            }
        )
    return pd.DataFrame(rows)


def _stored_table(keys: int, listed: Listed) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    return pd.DataFrame(
        {
            "strangers": [listed.strangers],
            "carried": [listed.carried],
            "unknown_revised": [listed.unknown_revised],
            "synthetic": [listed.synthetic],
            "real_keys": [keys - listed.synthetic],
        }
    )
