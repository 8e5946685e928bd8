"""Cases of the gate's suite: a batch that passes, and for each expectation one that it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo, encode
from keyserver.quality import usual
from keyserver.quality.exportfiles import BatchFacts, StagedFile, check_files
from keyserver.quality.usual import Usual
from keyserver.store.quality import Listed, Outcome

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
END = START + timedelta(hours=4)
SECOND = timedelta(seconds=1)
SHARES = {"confirmed": 0.5, "likely": 0.05, "user-report": 0.3}
FACTS = BatchFacts(
    starts_at=START,
    ends_at=END,
    cutoff=END - timedelta(days=16),
    region="NO",
    max_keys=6,
    keys=6,
    revised_keys=4,
    signature_infos=(("242", "v2"), ("242", "v1")),
    closed_through=END,
    rows=8,
    rows_when_closed=8,
    least_keys=6,
    most_synthetic=3,
    usual_keys=usual.of_keys([4] * 8),
    usual_shares={name: usual.of_share([share] * 8, 6) for name, share in SHARES.items()},
)
LISTED = Listed(strangers=0, synthetic=3, carried=0, unknown_revised=0)
DAY = int(START.timestamp()) // 86400 * 144 - 144  # yesterday, in intervals
# Keys that no text can hold by chance, in hexadecimal, base64 or as Python writes them.
KEYS = [hashlib.sha256(bytes([n])).digest()[:16] for n in range(10)]


@dataclass
class Staging:
    """A good batch of two files, in pieces that a case may spoil before they are encoded."""

    facts: BatchFacts = FACTS
    listed: Listed = LISTED
    headers: list[Header] = field(default_factory=list)
    keys: list[list[KeyRun]] = field(default_factory=list)
    revised: list[list[KeyRun]] = field(default_factory=list)
    recorded: list[dict[str, object]] = field(default_factory=lambda: [{}, {}])
    torn: bool = False  # a byte is missing at the end of the last file, and always was

    def files(self) -> list[tuple[StagedFile, bytes]]:
        staged = []
        for number, (header, keys, revised, recorded) in enumerate(
            zip(self.headers, self.keys, self.revised, self.recorded, strict=True), start=1
        ):
            data = encode(header, keys, revised)
            data = data[:-1] if self.torn and number == len(self.headers) else data
            counts = [sum(run.count for run in runs) for runs in (keys, revised)]
            file = StagedFile(number, START, END + SECOND * number, *counts, hashlib.sha256(data).digest())
            staged.append((replace(file, **recorded), data))
        return staged

    def check(self) -> list[Outcome]:
        return check_files(self.facts, self.files(), self.look_up)

    def look_up(self, keys: bytes, revised_keys: bytes) -> Listed:
        """What the database says of the keys, which it is told as they stand in the files."""
        for of, told in (("keys", keys), ("revised keys", revised_keys)):
            runs = [run for runs in self.runs(of) for run in runs]
            if all(run.key_bytes == 16 for run in runs):
                assert told == b"".join(run.keys for run in runs)
        return self.listed

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


def set_listed(**values: int) -> Callable[[Staging], None]:
    def spoil(staging: Staging) -> None:
        staging.listed = replace(staging.listed, **values)

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


def no_signing_key(staging: Staging) -> None:
    staging.facts = replace(staging.facts, signature_infos=())


def not_of_the_format(staging: Staging) -> None:
    """A file that was recorded as it is, and that no reader takes: a byte is missing at its end."""
    staging.torn = True


# What is spoiled, by the expectation that must say so, and what it must say was expected and found.
FAILING: list[tuple[str, Callable[[Staging], None], str, str]] = [
    (
        "the feed has a signing key",
        no_signing_key,
        "1 to 10 keys that were active when the batch was planned",
        "0",
    ),
    (
        "the batch's windows are closed",
        set_facts(closed_through=END - SECOND),
        "every window closed up to 2026-03-02 12:00:00 UTC",
        "that they are closed up to 2026-03-02 11:59:59 UTC",
    ),
    (
        "the cutoff is of this batch",
        set_facts(cutoff=END - timedelta(days=17)),
        "16 days before its end, or later",
        "17 days before",
    ),
    (
        "rows number as when the windows closed",
        set_facts(rows=9),
        "8 rows, without what was deleted on demand",
        "9",
    ),
    (
        "rows number as when the windows closed",
        set_facts(rows=7),
        "8 rows, without what was deleted on demand",
        "7",
    ),
    (
        "files are of the format",
        not_of_the_format,
        "files of the export format, as our encoder writes it",
        "1 of 2 staged files otherwise: export.bin is not a protobuf message of its schema",
    ),
    (
        "keys were padded",
        set_facts(least_keys=7),
        "7 keys or more, if any",
        "6",
    ),
    (
        "keys were not padded too much",
        set_listed(synthetic=4),
        "3 synthetic keys or fewer",
        "4",
    ),
    ("keys are of the batch", set_listed(strangers=2), "no key that the database does not select for it", "2"),
    (
        "keys were not carried before",
        set_listed(carried=1),
        "no key that a batch of the feed has which is not withdrawn, rejected or replaced",
        "1",
    ),
    (
        "revised keys were out before",
        set_listed(unknown_revised=1),
        "no key that no earlier batch of the feed had out",
        "1",
    ),
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
    ("files are within the maximum", set_facts(max_keys=5), "1 to 5 keys", "1 of 2 files otherwise: 6"),
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
    ("report types are first reports", set_metadata(report_type=5), "1, 2, 3 or none", "2 of 6 keys otherwise: 5"),
    (
        "report types are those of revisions",
        set_metadata("revised keys", report_type=3),
        "1, 2 or 5",
        "2 of 4 revised keys otherwise: 3",
    ),
    (
        "revised keys are not first keys too",
        same_key_in_both_lists,
        "no key in both lists",
        "1 of 4 revised keys otherwise",
    ),
]
FAILING += [
    (
        f"the share of {name} is usual",
        set_facts(usual_shares={**FACTS.usual_shares, name: Usual(low, high, "another")}),
        "another",
        found,
    )
    for name, low, high, found in (
        ("confirmed", 0.0, 0.4, "50.0%"),
        ("confirmed", 0.6, 1.0, "50.0%"),
        ("likely", 0.1, 1.0, "0.0%"),
        ("user-report", 0.5, 1.0, "33.3%"),
    )
]
FAILING += [
    ("the number of real keys is usual", set_facts(usual_keys=Usual(low, high, "another")), "another", "3")
    for low, high in ((4, 9), (0, 2))
]
LATE = int(END.timestamp()) // 600 - 12
OLD = int(FACTS.cutoff.timestamp()) // 600 - 2
for of, all_keys in (("keys", 6), ("revised keys", 4)):
    two = f"2 of {all_keys} {of} otherwise"
    behind = f"1 of {all_keys} {of} behind one that they belong before"
    FAILING += [
        (f"{of} are 16 bytes", short_key(of), "16 bytes", f"{two}: 15"),
        (
            f"{of} are unique",
            same_key_in_both_files(of),
            "no key twice",
            f"1 of {all_keys} {of} that stood there before",
        ),
        (f"periods of {of} are of a day", set_metadata(of, rolling_period=145), "1 to 144", f"{two}: 145"),
        (f"periods of {of} are of a day", set_metadata(of, rolling_period=0), "1 to 144", f"{two}: 0"),
        (f"starts of {of} are not negative", set_metadata(of, rolling_start=-1), "0 or later", f"{two}: -1"),
        (f"risks of {of} are known", set_metadata(of, transmission_risk=9), "0 to 8", f"{two}: 9"),
        (f"risks of {of} are known", set_metadata(of, transmission_risk=-1), "0 to 8", f"{two}: -1"),
        (
            f"days from onset of {of} are within two weeks",
            set_metadata(of, days_since_onset=15),
            "-14 to 14 or none",
            f"{two}: 15",
        ),
        (
            f"days from onset of {of} are within two weeks",
            set_metadata(of, days_since_onset=-15),
            "-14 to 14 or none",
            f"{two}: -15",
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
        (f"{of} are in order", keys_out_of_order(of), "by metadata, then key", behind),
        (f"{of} are in order", metadata_out_of_order(of), "by metadata, then key", behind),
        (f"{of} are in order", files_out_of_order(of), "by metadata, then key", behind),
    ]
# What is spoiled beside it, where one flaw cannot be had without the other.
ALSO = {
    "starts of keys are not negative": {"keys are young enough to match"},
    "starts of revised keys are not negative": {"revised keys are young enough to match"},
    "the feed has a signing key": {"files name the signing keys"},
}


def passing(_: pytest.FixtureRequest) -> list[Outcome]:
    """Every expectation put, and met."""
    return good().check()


def _case(spoil: Callable[[Staging], None]) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    def check(_: pytest.FixtureRequest) -> list[Outcome]:
        staging = good()
        spoil(staging)
        return staging.check()

    return check


CASES = [(name, _case(spoil)) for name, spoil, *_ in FAILING]
