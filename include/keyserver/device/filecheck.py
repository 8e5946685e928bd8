"""Check downloaded files for whoever asks: an operator, an auditor, another country (crypto-and-clients.md b)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from keyserver.device import exportreader
from keyserver.device.client import MAX_FILE_SIZE
from keyserver.device.exportreader import REVOKED, ExportFile
from keyserver.errors import ConfigurationError, FormatError, VerificationError


@dataclass(frozen=True, slots=True)
class Facts:
    """What an accepted file says: its span in UTC, its keys by number, its hashes in hex, its signing keys by name."""

    start: datetime
    end: datetime
    region: str
    keys: int
    revised_keys: int
    revoked_keys: int
    zip_sha256: str
    export_sha256: str
    signing_keys: tuple[str, ...]  # id-version, as phones' lists have them

    @classmethod
    def of(cls, zip_bytes: bytes, read: ExportFile) -> Facts:
        """Sum up a file that was read from these bytes."""
        return cls(
            start=read.start,
            end=read.end,
            region=read.region,
            keys=len(read.keys),
            revised_keys=len(read.revised_keys),
            revoked_keys=sum(key.report_type == REVOKED for key in read.revised_keys),
            zip_sha256=hashlib.sha256(zip_bytes).hexdigest(),
            export_sha256=read.export_sha256,
            signing_keys=tuple(f"{info.key_id}-{info.key_version}" for info in read.signature_infos),
        )

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.region}, {self.start:%Y-%m-%dT%H:%M:%SZ} to {self.end:%Y-%m-%dT%H:%M:%SZ},"
            f" {self.keys} keys, {self.revised_keys} revised, SHA-256 {self.zip_sha256}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file: its facts and the key that verified it, or the problem for which phones refuse it."""

    file: Path
    facts: Facts | None = None
    verified_by: str | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as an object of JSON; times are in ISO 8601."""
        facts = asdict(self.facts) if self.facts else {}
        facts |= {name: value.isoformat() for name, value in facts.items() if isinstance(value, datetime)}
        outcome = {"accepted": self.facts is not None, "problem": self.problem, "verified_by": self.verified_by}
        return {"file": str(self.file), **outcome, **facts}


def check(
    files: Iterable[Path], public_key: EllipticCurvePublicKey, name: tuple[str, str] | None = None
) -> Iterator[Verdict]:
    """Check files of one index, one after the other, by the acceptance rules of both phone platforms.

    `name` is the key id and version by which a file must name `public_key`; without it, whatever the file calls it. Two
    files of the same span are refused at the second.

    Raises:
        ConfigurationError: a file cannot be read from disk, or the key is not on P-256.
    """
    spans: list[tuple[datetime, datetime]] = []
    for file in files:
        try:
            data = _read(file)
            if name is None:
                read, info = exportreader.verify_by(data, public_key)
                verified_by = f"{info.key_id}-{info.key_version}"
            else:
                read, verified_by = exportreader.verify(data, {name: public_key}), "-".join(name)
            exportreader.demand_distinct([*spans, (read.start, read.end)])
        except (FormatError, VerificationError) as error:
            yield Verdict(file, problem=str(error))
        else:
            spans.append((read.start, read.end))
            yield Verdict(file, Facts.of(data, read), verified_by)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_SIZE:
        raise FormatError(f"the file is larger than {MAX_FILE_SIZE} bytes")
    return data
