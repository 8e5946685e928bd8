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
    max_keys=6,
    keys=6,
    revised_keys=4,
    signature_infos=(("242", "v2"), ("242", "v1")),
)
DAY = int(START.timestamp()) // 86400 * 144 - 144  # yesterday, in intervals
# Keys that no text can hold by chance, in hexadecimal, base64 or as Python writes them.
KEYS = [hashlib.sha256(bytes([n])).digest()[:16] for n in range(10)]


@dataclass
class Staging:
    """A good batch of two files, in pieces that a case may spoil before they are encoded."""

    facts: BatchFacts = FACTS
    headers: list[Header] = field(default_factory=list)
    keys: list[list[KeyRun]] = field(default_factory=list)
    revised: list[list[KeyRun]] = field(default_factory=list)
    recorded: list[dict[str, object]] = field(default_factory=lambda: [{}, {}])

    def files(self) -> list[tuple[StagedFile, bytes]]:
        staged = []
        for number, (header, keys, revised, recorded) in enumerate(
            zip(self.headers, self.keys, self.revised, self.recorded, strict=True), start=1
        ):
            data = encode(header, keys, revised)
            counts = [sum(run.count for run in runs) for runs in (keys, revised)]
            file = StagedFile(number, START, END + SECOND * number, *counts, hashlib.sha256(data).digest())
            staged.append((replace(file, **recorded), data))
        return staged

    def check(self) -> list[Finding]:
        return check_files(self.facts, self.files())

    def runs(self, of: str) -> list[list[KeyRun]]:
        """One of the two lists, file by file; the last file of each has one run of two keys."""
        return self.keys if of == "keys" else self.revised


def good() -> Staging:
    infos = tuple(SignatureInfo(*info) for info in FACTS.signature_infos)
    first, second = sorted(KEYS[:4]), sorted(KEYS[4:6])
    return Staging(
        headers=[Header(START, END + SECOND * number, "NO", infos) for number in (1, 2)],
        keys=[
            [
                KeyRun(Metadata(None, 0, None, DAY, 144), first[0]),
                KeyRun(Metadata(1, 2, -14, DAY, 144), b"".join(first[1:])),
            ],
            [KeyRun(Metadata(3, 8, 14, DAY - 144, 1), b"".join(second))],
        ],
        revised=[
            [
                KeyRun(Metadata(1, 2, None, DAY - 144, 144), KEYS[6]),
                KeyRun(Metadata(2, 2, None, DAY - 144, 144), KEYS[7]),
            ],
            [KeyRun(Metadata(5, 8, None, DAY - 288, 144), b"".join(sorted(KEYS[8:])))],
        ],
    )


def set_header(**values: object) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        staging.headers[1] = replace(staging.headers[1], **values)

    return spoil


def set_metadata(of: str = "keys", **values: object) -> Callable[[Staging], None]:
    """Give the last file's keys, of one list, other metadata."""

    def spoil(staging: Staging) -> None:
        runs = staging.runs(of)
        (run,) = runs[1]
        runs[1] = [replace(run, metadata=replace(run.metadata, **values))]

    return spoil


def set_recorded(**values: object) -> Callable[[Staging], None]:
    return lambda staging: staging.recorded[1].update(values)


def set_facts(**values: object) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        staging.facts = replace(staging.facts, **values)

    return spoil


def equal_ends(staging: Staging) -> None:
    staging.headers[1] = replace(staging.headers[1], end=staging.headers[0].end)
    staging.recorded[1]["ends_at"] = staging.headers[0].end


def short_key(of: str) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        runs = staging.runs(of)
        (run,) = runs[1]
        short = sorted([run.keys[:15], run.keys[16:31]])
        runs[1] = [KeyRun(run.metadata, b"".join(short), key_bytes=15)]

    return spoil


def same_key_in_both_files(of: str) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        runs = staging.runs(of)
        (run,) = runs[1]
        runs[1] = [replace(run, keys=b"".join(sorted([runs[0][0].keys, run.keys[16:]])))]

    return spoil


def same_key_in_both_lists(staging: Staging) -> None:
    (run,) = staging.revised[1]
    staging.revised[1] = [replace(run, keys=b"".join(sorted([staging.keys[0][0].keys, run.keys[16:]])))]


def keys_out_of_order(of: str) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        runs = staging.runs(of)
        (run,) = runs[1]
        runs[1] = [replace(run, keys=run.keys[16:] + run.keys[:16])]

    return spoil


def metadata_out_of_order(of: str) -> Callable[[Staging], None]:
    return lambda staging: staging.runs(of)[0].reverse()


def files_out_of_order(of: str) -> Callable[[Staging], None]:
    return lambda staging: staging.runs(of).reverse()


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
    ("files are within the maximum", set_facts(max_keys=5), "1 to 5 keys", "1 of 2 files otherwise"),
    ("files hold what was recorded", set_recorded(keys=3), "the recorded counts", "1 of 2 files otherwise"),
    (
        "files hold what was recorded",
        set_recorded(revised_keys=1),
        "the recorded counts",
        "1 of 2 files otherwise",
    ),
    ("keys number as stored", set_facts(keys=7), "7 keys, as the batch's rules select", "6"),
    (
        "revised keys number as stored",
        set_facts(revised_keys=3),
        "3 keys, as the batches that are out had them",
        "4",
    ),
    ("report types are first reports", set_metadata(report_type=5), "1, 2, 3 or none", "2 of 6 keys otherwise"),
    (
        "report types are those of revisions",
        set_metadata("revised keys", report_type=3),
        "1, 2 or 5",
        "2 of 4 revised keys otherwise",
    ),
    (
        "revised keys are not first keys too",
        same_key_in_both_lists,
        "no key in both lists",
        "1 of 4 revised keys otherwise",
    ),
]
LATE = int(END.timestamp()) // 600 - 12
OLD = int(FACTS.cutoff.timestamp()) // 600 - 2
for of, all_keys, swapped in (("keys", 6, 4), ("revised keys", 4, 2)):
    two = f"2 of {all_keys} {of} otherwise"
    FAILING += [
        (f"{of} are 16 bytes", short_key(of), "16 bytes", two),
        (f"{of} are unique", same_key_in_both_files(of), "no key twice", f"1 of {all_keys} {of} otherwise"),
        (f"periods of {of} are of a day", set_metadata(of, rolling_period=145), "1 to 144", two),
        (f"periods of {of} are of a day", set_metadata(of, rolling_period=0), "1 to 144", two),
        (f"starts of {of} are not negative", set_metadata(of, rolling_start=-1), "0 or later", two),
        (f"risks of {of} are known", set_metadata(of, transmission_risk=9), "0 to 8", two),
        (f"risks of {of} are known", set_metadata(of, transmission_risk=-1), "0 to 8", two),
        (
            f"days from onset of {of} are within two weeks",
            set_metadata(of, days_since_onset=15),
            "-14 to 14 or none",
            two,
        ),
        (
            f"days from onset of {of} are within two weeks",
            set_metadata(of, days_since_onset=-15),
            "-14 to 14 or none",
            two,
        ),
        (
            f"{of} ended two hours before the batch did",
            set_metadata(of, rolling_start=LATE),
            "an end at or before 2026-03-02 12:00:00 UTC - 2 h",
            two,
        ),
        (
            f"{of} are young enough to match",
            set_metadata(of, rolling_start=OLD, rolling_period=1),
            "an end at or after 2026-02-14 12:00:00 UTC",
            two,
        ),
        (f"{of} are in order", keys_out_of_order(of), "by metadata, then key", two),
        (
            f"{of} are in order",
            metadata_out_of_order(of),
            "by metadata, then key",
            f"{swapped} of {all_keys} {of} otherwise",
        ),
        (
            f"{of} are in order",
            files_out_of_order(of),
            "by metadata, then key",
            f"{all_keys} of {all_keys} {of} otherwise",
        ),
    ]
# What is spoiled beside it, where one flaw cannot be had without the other.
ALSO = {
    "starts of keys are not negative": {"keys are young enough to match"},
    "starts of revised keys are not negative": {"revised keys are young enough to match"},
}


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
        set_facts(max_keys=6),
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
    staging.keys[1], staging.revised[1] = [], []
    staging.facts = replace(FACTS, keys=4, revised_keys=2)
    (finding,) = staging.check()
    assert str(finding) == "files are within the maximum: expected 1 to 6 keys, found 1 of 2 files otherwise"


@pytest.mark.parametrize("table", ["staged files", "files", "keys", "revised keys"])
def test_what_cannot_be_evaluated_is_not_met(table):
    findings = validate({table: pd.DataFrame({"another": [1]})}, FACTS)
    asked = [expectation.name for expectation in SUITE if expectation.table == table]
    assert [finding.expectation for finding in findings] == asked
    unanswered = [finding.found for finding in findings if "number as stored" not in finding.expectation]
    assert unanswered
    assert set(unanswered) == {"that it could not be evaluated"}


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level("INFO")
    staging = good()
    keys_out_of_order("keys")(staging)
    assert staging.check()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
