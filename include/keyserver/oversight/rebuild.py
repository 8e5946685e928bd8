"""Make a batch's files again from the database, and compare them with what was recorded of them (rules B8, A4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from keyserver.errors import ConfigurationError, ConflictError
from keyserver.oversight.wording import counted, moment, span
from keyserver.protocol.exportfile import COMPRESSOR, SignatureInfo, encode_signatures, pack
from keyserver.runtime import Runtime
from keyserver.store import batches, files, oversight
from keyserver.store.batches import BatchSigningKey
from keyserver.store.files import File
from keyserver.store.oversight import FileRecord, WindowTotals

# `export.build.rebuild`: use cases do not import each other, so that the edge hands it over.
Builder = Callable[[Runtime, int], Iterable[tuple[File, bytes]]]

ExportFinding = Literal["identical", "differs", "missing", "not recorded"]
ZipFinding = Literal[
    "identical", "differs", "another compressor", "not signed", "a signature is missing", "not compared"
]
_GOOD = ("identical", "another compressor", "not signed")


@dataclass(frozen=True, slots=True)
class RebuiltFile:
    """A file as it comes out now, beside its record. Its zip is only compared when export.bin is identical."""

    number: int
    name: str | None
    export_bin: ExportFinding
    zip: ZipFinding

    @property
    def is_proven(self) -> bool:
        """Whether its export.bin is identical; its zip too, where it can be."""
        return self.export_bin == "identical" and self.zip in _GOOD


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What comparing showed. ``gone``: which rows are deleted as they should be, so that nothing can be proven.

    ``by``: what deleted them, as the verdict says it.
    """

    batch_id: int
    feed: str
    files: list[RebuiltFile]
    gone: list[str]
    by: list[str]
    problems: list[str]

    @property
    def is_proven(self) -> bool:
        """Whether every export.bin is identical; its zip too, where it can be."""
        if self.problems or (self.gone and not self.files):
            return False
        return all(file.is_proven for file in self.files)

    def sentences(self) -> list[str]:
        """Say it in plain sentences, a line each."""
        said = [_of_file(file) for file in self.files] or ["It has no files, as recorded."]
        return [*said, *self.gone, *self.problems, self._verdict()]

    def _verdict(self) -> str:
        batch = f"Batch {self.batch_id} of feed {self.feed}"
        if self.is_proven:
            return f"{batch} is what its rows give."
        if self.gone and not self.problems:
            return (
                f"{batch} is not rebuildable: rows deleted {' and '.join(self.by)}. What differs above proves nothing."
            )
        return f"{batch} is NOT what its rows give now."


def rebuild(runtime: Runtime, batch_id: int, build: Builder, out: Path | None = None) -> Rebuilt:
    """Build a batch again and compare each file by its SHA-256; zip it again with the stored signatures.

    With ``out`` the files are written to that folder. What cannot be compared any more, because its rows are deleted,
    is named instead of passed over.

    Raises:
        ConflictError: there is no such batch, or it was never built.
        ConfigurationError: the folder cannot be written to.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = oversight.batch(connection, batch_id)
        if batch is None:
            raise ConflictError(f"there is no batch {batch_id}")
        windows = oversight.windows_of_span(connection, batch.starts_at, batch.ends_at)
        recorded = {file.number: file for file in oversight.files(connection, batch_id)}
        signing_keys = batches.signing_keys(connection, batch_id)
    compared = [_compare(runtime, recorded, signing_keys, made, out) for made in build(runtime, batch_id)]
    made_numbers = {file.number for file in compared}
    compared += [
        RebuiltFile(number, file.name, "missing", "not compared")
        for number, file in recorded.items()
        if number not in made_numbers
    ]
    gone, by, problems = _rows(windows)
    return Rebuilt(batch_id, batch.feed, compared, gone, by, problems)


def _compare(
    runtime: Runtime,
    recorded: dict[int, FileRecord],
    signing_keys: Sequence[BatchSigningKey],
    made: tuple[File, bytes],
    out: Path | None,
) -> RebuiltFile:
    file, export_bin = made
    record = recorded.get(file.number)
    zip_data = _zip(runtime, export_bin, signing_keys)
    if out is not None:
        _write(out, f"{file.number:05d}-export.bin", export_bin)
        if zip_data is not None:
            name = PurePosixPath(record.name).name if record and record.name else f"{file.number:05d}.zip"
            _write(out, name, zip_data)
    if record is None:
        return RebuiltFile(file.number, None, "not recorded", "not compared")
    if hashlib.sha256(export_bin).digest() != record.export_sha256:
        return RebuiltFile(file.number, record.name, "differs", "not compared")
    return RebuiltFile(file.number, record.name, "identical", _compare_zip(record, zip_data))


def _compare_zip(record: FileRecord, zip_data: bytes | None) -> ZipFinding:
    if record.zip_sha256 is None:
        return "not signed"
    if zip_data is None:
        return "a signature is missing"
    if hashlib.sha256(zip_data).digest() == record.zip_sha256:
        return "identical"
    return "differs" if record.compressor == COMPRESSOR else "another compressor"


def _zip(runtime: Runtime, export_bin: bytes, signing_keys: Sequence[BatchSigningKey]) -> bytes | None:
    """Make the zip with the stored signatures; None when one is not there."""
    digest = hashlib.sha256(export_bin).digest()
    with runtime.database.connection() as connection:
        stored = [files.signature(connection, digest, key.signing_key_id) for key in signing_keys]
    signatures = [signature for signature in stored if signature is not None]
    if not signatures or len(signatures) != len(stored):
        return None
    infos = [SignatureInfo(key.key_id, key.key_version) for key in signing_keys]
    return pack(export_bin, encode_signatures(infos, signatures))


def _write(folder: Path, name: str, data: bytes) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    except OSError as error:
        raise ConfigurationError(f"{folder / name} cannot be written: {error.strerror}") from error


def _rows(windows: Sequence[WindowTotals]) -> tuple[list[str], list[str], list[str]]:
    """Compare the windows' rows with their totals (A4, A6).

    Give what is deleted as it should be, by what, and what is not as it should be. A revision goes with its key, whose
    window may be any before.
    """
    gone, by = [], []
    keys_on_demand = sum(window.keys_on_demand for window in windows)
    revisions_on_demand = sum(window.revisions_on_demand for window in windows)
    if keys_on_demand or revisions_on_demand:
        keys, revisions = counted(keys_on_demand, "key"), counted(revisions_on_demand, "revision")
        gone.append(f"{keys} and {revisions} of its windows were deleted on demand.")
        by.append("on demand")
    swept = list(_missing([window for window in windows if window.swept], "were deleted by retention"))
    if revisions_gone := sum(window.revisions_gone for window in windows):
        swept.append(f"{counted(revisions_gone, 'revision')} of its windows went with keys that are deleted.")
    if swept:
        by.append("by retention")
    problems = list(
        _missing(
            [window for window in windows if not window.swept],
            "are gone, which retention has no reason to have deleted",
        )
    )
    more = [w for w in windows if w.keys_now > w.keys or w.revisions_now > w.revisions]
    if more:
        problems.append(
            f"{counted(len(more), 'window')} from {moment(more[0].starts_at)} on have more rows than when closed."
        )
    return [*gone, *swept], by, problems


def _missing(windows: Sequence[WindowTotals], why: str) -> Iterator[str]:
    short = [window for window in windows if window.keys_gone]
    if short:
        keys = sum(window.keys_gone for window in short)
        first, last = short[0].starts_at, short[-1].ends_at
        yield f"{counted(keys, 'key')} of {counted(len(short), 'window')}, {span(first, last)}, {why}."


def _of_file(file: RebuiltFile) -> str:
    name = f"File {file.number}{f', {file.name}' if file.name else ''}"
    zips = {
        "identical": "the zip is identical",
        "differs": "the zip is NOT identical, by the same compressor",
        "another compressor": f"its zip was made by another compressor than {COMPRESSOR}, so it cannot be compared",
        "not signed": "it was never signed",
        "a signature is missing": "its zip cannot be made: a signature is missing",
        "not compared": "its zip was not compared",
    }
    exports = {
        "identical": "export.bin is identical",
        "differs": "export.bin is NOT identical",
        "missing": "it is recorded, and does not come out",
        "not recorded": "it comes out, and is not recorded",
    }
    return f"{name}: {exports[file.export_bin]}; {zips[file.zip]}."
