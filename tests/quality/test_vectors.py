"""The gate and every flaw of an export.bin of `tests/vectors/exportfiles`: refused by the decoder or by the suite."""

from __future__ import annotations

import hashlib
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyserver.errors import FormatError
from keyserver.protocol.exportfile import decode
from keyserver.quality.exportfiles import BatchFacts, StagedFile, check_files
from keyserver.store.quality import Listed, Outcome
from tests.vectors.export_files import END, FOLDER, KEYS, START

STARTS_AT, ENDS_AT = datetime.fromtimestamp(START, UTC), datetime.fromtimestamp(END, UTC)
BAD = sorted((FOLDER / "export").glob("*.zip"))


def export_bin(path: Path) -> bytes:
    with zipfile.ZipFile(path) as zipped:
        return zipped.read("export.bin")


def check(data: bytes, keys: int = len(KEYS), revised_keys: int = 0) -> list[Outcome]:
    """Put the suite to a file that the database counts so many keys for."""
    facts = BatchFacts(
        starts_at=STARTS_AT,
        ends_at=ENDS_AT,
        cutoff=ENDS_AT - timedelta(days=16),
        region="NO",
        max_keys=10,
        keys=keys,
        revised_keys=revised_keys,
        signature_infos=(("242", "v1"),),
        closed_through=ENDS_AT,
    )
    staged = StagedFile(1, STARTS_AT, ENDS_AT, keys, revised_keys, hashlib.sha256(data).digest())
    outcomes = check_files(facts, [(staged, data)], lambda *_: Listed(0, 0, 0, 0))
    return [outcome for outcome in outcomes if not outcome.met]


def test_the_good_file_passes():
    assert check(export_bin(FOLDER / "good" / "ordinary.zip")) == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_flawed_export_is_refused(path):
    """Its numbers are those that the database would count, so that it is refused for its flaw."""
    data = export_bin(path)
    try:
        decoded = decode(data)
    except FormatError:
        (outcome,) = check(data)
        assert outcome.expectation == "files are of the format"
        return
    outcomes = check(data, len(decoded.keys), len(decoded.revised_keys))
    assert [outcome for outcome in outcomes if outcome.blocks]


@pytest.mark.parametrize("path", sorted((FOLDER / "good").glob("*.zip")), ids=lambda path: path.stem)
def test_a_good_export_is_decoded(path):
    assert decode(export_bin(path)).header.region == "NO"
