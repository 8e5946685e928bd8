"""The gate's suite: one file that passes, and for each expectation one that it alone (or nearly) refuses."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from keyserver.errors import FormatError
from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo, encode
from keyserver.quality.exportfiles import SUITE, BatchFacts, Finding, StagedFile, check_files, validate

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
END = START + timedelta(hours=4)
SECOND = timedelta(seconds=1)
FACTS = BatchFacts(
    starts_at=START,
    ends_at=END,
    cutoff=END - timedelta(days=16),
    region="NO",
    max_keys=5,
    keys=6,
    signature_infos=(("242", "v2"), ("242", "v1")),
)
DAY = int(START.timestamp()) // 86400 * 144 - 144  # yesterday, in intervals
# Keys that no text can hold by chance, in hexadecimal, base64 or as Python writes them.
KEYS = [hashlib.sha256(bytes([n])).digest()[:16] for n in range(6)]


@dataclass
class Staging:
    """A good batch of two files, in pieces that a case may spoil before they are encoded."""

    facts: BatchFacts = FACTS
    headers: list[Header] = field(default_factory=list)
    keys: list[list[KeyRun]] = field(default_factory=list)
    recorded: list[dict[str, object]] = field(default_factory=lambda: [{}, {}])

    def files(self) -> list[tuple[StagedFile, bytes]]:
        staged = []
        for number, (header, runs, recorded) in enumerate(
            zip(self.headers, self.keys, self.recorded, strict=True), start=1
        ):
            data = encode(header, runs, [])
            count = sum(run.count for run in runs)
            file = StagedFile(number, START, END + SECOND * number, count, 0, hashlib.sha256(data).digest())
            staged.append((replace(file, **recorded), data))
        return staged

    def check(self) -> list[Finding]:
        return check_files(self.facts, self.files())

    def set_metadata(self, **values: object) -> None:
        """Give the last file's keys other metadata."""
        (run,) = self.keys[1]
        self.keys[1] = [replace(run, metadata=replace(run.metadata, **values))]


def good() -> Staging:
    infos = tuple(SignatureInfo(*info) for info in FACTS.signature_infos)
    first, second = sorted(KEYS[:4]), sorted(KEYS[4:])
    return Staging(
        headers=[Header(START, END + SECOND * number, "NO", infos) for number in (1, 2)],
        keys=[
            [
                KeyRun(Metadata(None, 0, None, DAY, 144), first[0]),
                KeyRun(Metadata(1, 2, -14, DAY, 144), b"".join(first[1:])),
            ],
            [KeyRun(Metadata(3, 8, 14, DAY - 144, 1), b"".join(second))],
        ],
    )


def set_header(**values: object) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        staging.headers[1] = replace(staging.headers[1], **values)

    return spoil


def set_metadata(**values: object) -> Callable[[Staging], None]:
    return lambda staging: staging.set_metadata(**values)


def set_recorded(**values: object) -> Callable[[Staging], None]:
    return lambda staging: staging.recorded[1].update(values)


def set_facts(**values: object) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        staging.facts = replace(staging.facts, **values)

    return spoil


def equal_ends(staging: Staging) -> None:
    staging.headers[1] = replace(staging.headers[1], end=staging.headers[0].end)
    staging.recorded[1]["ends_at"] = staging.headers[0].end


def short_key(staging: Staging) -> None:
    (run,) = staging.keys[1]
    short = sorted(key[:15] for key in KEYS[4:])
    staging.keys[1] = [KeyRun(run.metadata, b"".join(short), key_bytes=15)]


def same_key_in_both_files(staging: Staging) -> None:
    (run,) = staging.keys[1]
    staging.keys[1] = [replace(run, keys=staging.keys[0][0].keys + run.keys[16:])]


def keys_out_of_order(staging: Staging) -> None:
    (run,) = staging.keys[1]
    staging.keys[1] = [replace(run, keys=run.keys[16:] + run.keys[:16])]


def metadata_out_of_order(staging: Staging) -> None:
    staging.keys[0].reverse()


def files_out_of_order(staging: Staging) -> None:
    staging.keys.reverse()


# What is spoiled, by the expectation that must say so, and what it must say was expected and found.
FAILING: list[tuple[str, Callable[[Staging], None], str, str]] = [
    (
        "staged bytes are those that were built",
        set_recorded(export_sha256=bytes(32)),
        "the recorded SHA-256",
        "1 of 2 staged files otherwise",
    ),
    (
        "files have the batch's start",
        set_header(start=START + SECOND),
        "2026-03-02 08:00:00 UTC",
        "1 of 2 files otherwise",
    ),
    ("files end as recorded", set_header(end=END), "the recorded end", "1 of 2 files otherwise"),
    ("ends of files differ", equal_ends, "distinct ends", "2 of 2 files otherwise"),
    ("files name the region", set_header(region="SE"), "NO", "1 of 2 files otherwise"),
    (
        "files name the signing keys",
        set_header(signature_infos=(SignatureInfo("242", "v1"), SignatureInfo("242", "v2"))),
        "the keys that the batch was planned with",
        "1 of 2 files otherwise",
    ),
    ("files are within the maximum", set_facts(max_keys=3), "1 to 3 keys", "1 of 2 files otherwise"),
    ("files hold what was recorded", set_recorded(keys=3), "the recorded counts", "1 of 2 files otherwise"),
    (
        "files hold what was recorded",
        set_recorded(revised_keys=1),
        "the recorded counts",
        "1 of 2 files otherwise",
    ),
    ("keys number as stored", set_facts(keys=7), "7 keys, as the batch's rules select", "6"),
    ("keys are 16 bytes", short_key, "16 bytes", "2 of 6 keys otherwise"),
    ("keys are unique", same_key_in_both_files, "no key twice", "1 of 6 keys otherwise"),
    ("periods are of a day", set_metadata(rolling_period=145), "1 to 144", "2 of 6 keys otherwise"),
    ("periods are of a day", set_metadata(rolling_period=0), "1 to 144", "2 of 6 keys otherwise"),
    ("starts are not negative", set_metadata(rolling_start=-1), "0 or later", "2 of 6 keys otherwise"),
    ("risks are known", set_metadata(transmission_risk=9), "0 to 8", "2 of 6 keys otherwise"),
    ("risks are known", set_metadata(transmission_risk=-1), "0 to 8", "2 of 6 keys otherwise"),
    (
        "days from onset are within two weeks",
        set_metadata(days_since_onset=15),
        "-14 to 14 or none",
        "2 of 6 keys otherwise",
    ),
    (
        "days from onset are within two weeks",
        set_metadata(days_since_onset=-15),
        "-14 to 14 or none",
        "2 of 6 keys otherwise",
    ),
    ("report types are first reports", set_metadata(report_type=5), "1, 2, 3 or none", "2 of 6 keys otherwise"),
    (
        "keys ended two hours before the batch did",
        set_metadata(rolling_start=int(END.timestamp()) // 600 - 12),
        "an end at or before 2026-03-02 12:00:00 UTC - 2 h",
        "2 of 6 keys otherwise",
    ),
    (
        "keys are young enough to match",
        set_metadata(rolling_start=int(FACTS.cutoff.timestamp()) // 600 - 2),
        "an end at or after 2026-02-14 12:00:00 UTC",
        "2 of 6 keys otherwise",
    ),
    ("keys are in order", keys_out_of_order, "by metadata, then key", "2 of 6 keys otherwise"),
    ("keys are in order", metadata_out_of_order, "by metadata, then key", "4 of 6 keys otherwise"),
    ("keys are in order", files_out_of_order, "by metadata, then key", "6 of 6 keys otherwise"),
]
# What is spoiled beside it, where one flaw cannot be had without the other.
ALSO = {"starts are not negative": {"keys are young enough to match"}}


def leaks(findings: list[Finding]) -> list[bytes]:
    """The keys that stand in findings, in whatever form."""
    text = "".join(repr(finding) + str(finding) for finding in findings)
    forms = [bytes.hex, lambda key: base64.b64encode(key).decode()[:20], lambda key: repr(key)[2:-1]]
    return [key for key in KEYS if any(form(key).lower() in text.lower() for form in forms)]


def test_a_good_batch_passes():
    assert good().check() == []


@pytest.mark.parametrize(
    ("name", "spoil", "expected", "found"), FAILING, ids=[f"{n}-{name}" for n, (name, *_) in enumerate(FAILING)]
)
def test_what_an_expectation_refuses(name, spoil, expected, found):
    staging = good()
    spoil(staging)
    findings = staging.check()
    assert {finding.expectation for finding in findings} == {name} | ALSO.get(name, set())
    (finding,) = (finding for finding in findings if finding.expectation == name)
    assert (finding.severity, finding.expected, finding.found) == ("block", expected, found)
    assert str(finding) == f"{name}: expected {expected}, found {found}"
    assert leaks(findings) == []


@pytest.mark.parametrize(
    "spoil",
    [
        set_metadata(rolling_start=int(END.timestamp()) // 600 - 13),
        set_metadata(rolling_start=int(FACTS.cutoff.timestamp()) // 600 - 1),
        set_metadata(transmission_risk=8, days_since_onset=14, report_type=3, rolling_period=144),
        set_metadata(days_since_onset=-14, rolling_period=1),
        set_facts(max_keys=4),
    ],
    ids=["ended two hours before", "ended at the cutoff", "highest values", "lowest values", "a full file"],
)
def test_what_is_just_allowed_passes(spoil):
    staging = good()
    spoil(staging)
    assert staging.check() == []


def test_every_expectation_has_a_file_that_it_refuses_and_a_name_of_its_own():
    names = [expectation.name for expectation in SUITE]
    assert len(set(names)) == len(names)
    assert {name for name, *_ in FAILING} == set(names)


def test_every_expectation_says_why_and_whose_it_is():
    assert all(expectation.reason and expectation.owner and expectation.expected for expectation in SUITE)


@pytest.mark.parametrize("bytes_of", [lambda data: data[:-1], lambda _: b"", lambda data: data + b"\0"])
def test_other_bytes_than_those_built_are_not_even_decoded(bytes_of):
    (first, first_data), (second, second_data) = good().files()
    (finding,) = check_files(FACTS, [(first, first_data), (second, bytes_of(second_data))])
    assert str(finding) == (
        "staged bytes are those that were built: expected the recorded SHA-256, found 1 of 2 staged files otherwise"
    )


def test_recorded_bytes_that_are_not_of_the_format_are_refused():
    first, (second, data) = good().files()
    torn = data[:-1]
    with pytest.raises(FormatError):
        check_files(FACTS, [first, (replace(second, export_sha256=hashlib.sha256(torn).digest()), torn)])


def test_a_batch_without_files_is_refused():
    assert check_files(FACTS, [])


def test_an_empty_file_is_refused():
    staging = good()
    staging.keys[1] = []
    staging.facts = replace(FACTS, keys=4)
    (finding,) = staging.check()
    assert str(finding) == "files are within the maximum: expected 1 to 5 keys, found 1 of 2 files otherwise"


@pytest.mark.parametrize("table", ["staged files", "files", "keys"])
def test_what_cannot_be_evaluated_is_not_met(table):
    findings = validate({table: pd.DataFrame({"another": [1]})}, FACTS)
    asked = [expectation.name for expectation in SUITE if expectation.table == table]
    assert [finding.expectation for finding in findings] == asked
    unanswered = [finding.found for finding in findings if finding.expectation != "keys number as stored"]
    assert unanswered
    assert set(unanswered) == {"that it could not be evaluated"}


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level("INFO")
    staging = good()
    keys_out_of_order(staging)
    assert staging.check()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
