"""What a batch's files must be before they are signed: the suite on the decoded files (rules T2, T3, B10, E5).

The expectations speak of the format and of what the database counts, never of what the encoder knows. A finding names
an expectation and how many rows missed it. It cannot hold a key: no table that Great Expectations sees has any.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from keyserver.protocol.exportfile import Decoded, DecodedKey, decode
from keyserver.protocol.exposure import EMBARGO

if TYPE_CHECKING:
    import pandas as pd

_EXPORT_TEAM = "export"


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the database says of a batch, counted anew for the gate."""

    starts_at: datetime
    ends_at: datetime
    cutoff: datetime
    region: str
    max_keys: int
    keys: int  # rows of the span that its rules select
    revised_keys: int  # revisions that it has to tell (K3)
    signature_infos: tuple[tuple[str, str], ...]  # (key id, key version), the newest first


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file as it was recorded when it was built."""

    number: int
    starts_at: datetime
    ends_at: datetime
    keys: int
    revised_keys: int
    export_sha256: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """An expectation that was not met."""

    expectation: str
    severity: Literal["block", "warn"]
    expected: str
    found: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.expectation}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Expectation:
    """One entry of the suite.

    ``expected`` is said in a finding, with the batch's ``facts`` put in; ``build`` gives Great Expectations' object
    from its namespace of expectations and these facts.
    """

    name: str
    table: Literal["staged files", "files", "keys", "revised keys"]
    reason: str
    expected: str
    build: Callable[[Any, BatchFacts], Any]
    severity: Literal["block", "warn"] = "block"
    owner: str = _EXPORT_TEAM
    of_rows: bool = True  # False: of the table as a whole, and so of an empty one too


def _between(column: str, low: float, high: float) -> Callable[[Any, BatchFacts], Any]:
    return lambda gxe, _: gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)


def _in_set(column: str, *values: object) -> Callable[[Any, BatchFacts], Any]:
    return lambda gxe, _: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))


def _of_both(table: Literal["keys", "revised keys"]) -> Iterator[Expectation]:
    """Give what is expected of first and of revised keys alike; a name says of which."""
    yield Expectation(f"{table} are 16 bytes", table, "phones drop any other", "16 bytes", _in_set("key_length", 16))
    yield Expectation(
        f"{table} are unique", table, "a key is released once (K1)", "no key twice", _in_set("not_seen_before", True)
    )
    yield Expectation(
        f"periods of {table} are of a day",
        table,
        "iOS ignores a longer key, Android's builder throws",
        "1 to 144",
        _between("rolling_period", 1, 144),
    )
    yield Expectation(
        f"starts of {table} are not negative",
        table,
        "Android's key builder throws",
        "0 or later",
        _between("rolling_start", 0, 2**31 - 1),
    )
    yield Expectation(
        f"risks of {table} are known",
        table,
        "Android's key builder throws on others",
        "0 to 8",
        _between("transmission_risk", 0, 8),
    )
    yield Expectation(
        f"days from onset of {table} are within two weeks",
        table,
        "Android's key builder throws on others",
        "-14 to 14 or none",
        _between("days_since_onset", -14, 14),
    )
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
        _in_set("in_order", True),
    )


SUITE: tuple[Expectation, ...] = (
    Expectation(
        "staged bytes are those that were built",
        "staged files",
        "what is signed must be what was recorded (B8)",
        "the recorded SHA-256",
        _in_set("hash_as_recorded", True),
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
        _in_set("end_as_recorded", True),
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
        _in_set("signing_keys_as_planned", True),
    ),
    Expectation(
        "files are within the maximum",
        "files",
        "the feed's maximum of keys a file",
        "1 to {facts.max_keys} keys",
        lambda gxe, facts: gxe.ExpectColumnValuesToBeBetween(column="all_keys", min_value=1, max_value=facts.max_keys),
    ),
    Expectation(
        "files hold what was recorded",
        "files",
        "the index and the log tell these counts",
        "the recorded counts",
        _in_set("counts_as_recorded", True),
    ),
    Expectation(
        "keys number as stored",
        "keys",
        "no key is lost or added between the database and the file",
        "{facts.keys} keys, as the batch's rules select",
        lambda gxe, facts: gxe.ExpectTableRowCountToEqual(value=facts.keys),
        of_rows=False,
    ),
    *_of_both("keys"),
    Expectation(
        "report types are first reports",
        "keys",
        "only a revision revokes (K3)",
        "1, 2, 3 or none",
        _in_set("report_type", 1, 2, 3),
    ),
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
        _in_set("report_type", 1, 2, 5),
    ),
    Expectation(
        "revised keys are not first keys too",
        "revised keys",
        "phones would take the old state and the new one together (export.md 4, B11)",
        "no key in both lists",
        _in_set("in_one_list", True),
    ),
)


def check_files(facts: BatchFacts, staged: Sequence[tuple[StagedFile, bytes]]) -> list[Finding]:
    """Put the suite to a batch's staged files; give what was not met, `block` and `warn` alike.

    What files hold is only asked of the bytes that were built. Raises `FormatError` when those are not of the format.
    """
    if strangers := validate({"staged files": _staged_table(staged)}, facts):
        return strangers
    decoded = [(file, decode(data)) for file, data in staged]
    first = {row[0] for _, content in decoded for row in content.keys}
    tables = {
        "files": _files_table(facts, decoded),
        "keys": _keys_table((row for _, content in decoded for row in content.keys), set()),
        "revised keys": _keys_table((row for _, content in decoded for row in content.revised_keys), first),
    }
    return validate(tables, facts)


def validate(tables: Mapping[str, pd.DataFrame], facts: BatchFacts) -> list[Finding]:
    """Run every expectation on these tables; one that cannot be evaluated is not met."""
    import great_expectations as gx  # noqa: PLC0415 - costs seconds
    from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415

    for chatty in ("great_expectations", "great_expectations.data_context.types.base"):  # the latter sets its own level
        logging.getLogger(chatty).setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("export files")
    findings = []
    for name, table in tables.items():
        definition = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        batch = definition.get_batch(batch_parameters={"dataframe": table})
        for expectation in SUITE:
            if expectation.table != name:
                continue
            if table.empty and expectation.of_rows:
                continue  # most batches have no revised key, and of no row none is otherwise
            outcome = batch.validate(expectation.build(gx.expectations, facts), result_format="BASIC")
            if not outcome.success:
                expected = expectation.expected.format(facts=facts)
                findings.append(Finding(expectation.name, expectation.severity, expected, _found(name, outcome)))
    return findings


def _found(table: str, outcome: Any) -> str:
    result = outcome.result
    if (count := result.get("unexpected_count")) is not None:
        return f"{count} of {result['element_count']} {table} otherwise"
    if (value := result.get("observed_value")) is not None:
        return str(value)
    return "that it could not be evaluated"


def _staged_table(staged: Sequence[tuple[StagedFile, bytes]]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    as_recorded = [hashlib.sha256(data).digest() == file.export_sha256 for file, data in staged]
    return pd.DataFrame({"hash_as_recorded": as_recorded})


def _files_table(facts: BatchFacts, decoded: Sequence[tuple[StagedFile, Decoded]]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    rows = []
    for file, content in decoded:
        header = content.header
        infos = tuple((info.key_id, info.key_version) for info in header.signature_infos)
        rows.append(
            {
                "start": header.start.timestamp(),
                "end": header.end.timestamp(),
                "end_as_recorded": header.end == file.ends_at,
                "region": header.region,
                "signing_keys_as_planned": infos == facts.signature_infos,
                "all_keys": len(content.keys) + len(content.revised_keys),
                "counts_as_recorded": (len(content.keys), len(content.revised_keys)) == (file.keys, file.revised_keys),
            }
        )
    return pd.DataFrame(rows)


def _keys_table(rows: Iterable[DecodedKey], elsewhere: Collection[bytes]) -> pd.DataFrame:
    """Tabulate the rows of one list of all files; ``elsewhere`` are the keys of the other. No key stays in it."""
    import pandas as pd  # noqa: PLC0415 - costs more than a second

    columns = ["key", "report_type", "transmission_risk", "days_since_onset", "rolling_start", "rolling_period"]
    table = pd.DataFrame(list(rows), columns=columns)
    table["key_length"] = table["key"].map(len)
    table["report_type"] = table["report_type"].astype("Int64")
    table["days_since_onset"] = table["days_since_onset"].astype("Int64")
    table["ended"] = (table["rolling_start"] + table["rolling_period"]) * 600
    ordered = table.sort_values(
        ["report_type", "transmission_risk", "days_since_onset", "rolling_start", "rolling_period", "key"],
        na_position="first",
        kind="stable",
    )
    table["in_order"] = ordered.index == table.index
    table["not_seen_before"] = ~table["key"].duplicated()
    table["in_one_list"] = ~table["key"].isin(elsewhere)
    return table.drop(columns="key")
