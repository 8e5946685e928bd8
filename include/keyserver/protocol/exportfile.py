"""Export files as phones download them: export.bin, export.sig, the zip around them, their names and the index.

Written after export.md 1 and 2.7 to 2.11, with names, order and bytes as rules B8 to B10 fix them. Everything here is
a function of its arguments, so that a batch built again is the same batch.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from google.protobuf.message import DecodeError

from keyserver.errors import ConfigurationError, FormatError
from keyserver.protocol.pb import export_pb2

FILE_CONTENT_TYPE = "application/zip"
FILE_CACHE_CONTROL = "public, max-age=86400"

INDEX_NAME = "index.txt"
INDEX_CONTENT_TYPE = "text/plain"
INDEX_CACHE_CONTROL = "no-cache, max-age=0"

# As the database names them, and their numbers in the file (2.7).
REPORT_TYPES: dict[str, int] = {"confirmed": 1, "likely": 2, "user-report": 3, "negative": 5}

KEY_BYTES = 16
ECDSA_P256_SHA256 = "1.2.840.10045.4.3.2"

_MAGIC = b"EK Export v1    "
# What repeats in an export.bin repeats from one record to the next. A small window never looks further: nearer matches
# take fewer bits, and keys, which are random, are not searched in vain (measured: docs/performance.md).
_LEVEL, _WINDOW_BITS, _MEMORY_LEVEL = 4, 11, 9
# What an identical zip needs beside identical contents (B8). Some builds of zlib choose their code by the processor: an
# identical export.bin is promised everywhere, an identical zip where this and the kind of machine are the same.
COMPRESSOR = f"zlib {zlib.ZLIB_RUNTIME_VERSION} level {_LEVEL} window {_WINDOW_BITS} memory {_MEMORY_LEVEL}"

_ZIP_VERSION = 20  # to read it: 2.0, the first with deflate
_ZIP_EPOCH = (0, 1 << 5 | 1)  # 1980-01-01 00:00, the format's zero: time, date
_ZIP_UNIX = 3
_ZIP_MODE = 0o100644  # a regular file that all may read

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_DAY = 144
_INDEX_LINE = re.compile(r"[A-Za-z0-9._/-]+")


@dataclass(frozen=True, slots=True)
class Metadata:
    """All that a file says of a key but the key, in the file's own numbers; the fields stand in the order of B10.

    `report_type` as `REPORT_TYPES`, or None; `transmission_risk` 0..8; `days_since_onset` -14..14, or None where it is
    not known; `rolling_start` the number of the first 10-minute interval; `rolling_period` how many of them, 1..144.
    """

    report_type: int | None
    transmission_risk: int
    days_since_onset: int | None
    rolling_start: int
    rolling_period: int


@dataclass(frozen=True, slots=True)
class KeyRun:
    """Keys of equal metadata, end to end in ascending order.

    `key_bytes` is the length of each: 16, but in the files by which tests try a reader.
    """

    metadata: Metadata
    keys: bytes
    key_bytes: int = KEY_BYTES

    @classmethod
    def of(cls, metadata: Metadata, unordered: bytes) -> KeyRun:
        """Make a run of 16-byte keys that come in any order."""
        return cls(metadata, np.sort(np.frombuffer(unordered, f"S{KEY_BYTES}")).tobytes())

    @property
    def count(self) -> int:
        """How many keys there are."""
        return len(self.keys) // self.key_bytes

    def part(self, start: int, stop: int) -> KeyRun:
        """Return the keys from place `start` up to, but without, `stop`."""
        return dataclasses.replace(self, keys=self.keys[start * self.key_bytes : stop * self.key_bytes])


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """By which id and version phones know a signing key; both of letters, digits and underscores."""

    key_id: str
    key_version: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: its span ``[start, end)``, its region, who signs it (the newest key first)."""

    start: datetime
    end: datetime
    region: str
    signature_infos: tuple[SignatureInfo, ...]


# key, report type, transmission risk, days since onset, rolling start, rolling period
DecodedKey = tuple[bytes, int | None, int, int | None, int, int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """An export.bin read back; its keys are plain tuples in the file's order, what their values may be is not asked."""

    header: Header
    keys: list[DecodedKey]
    revised_keys: list[DecodedKey]


def encode(header: Header, keys: Sequence[KeyRun], revised_keys: Sequence[KeyRun]) -> bytes:
    """Return export.bin (1.2, 1.3). Fields are present or absent as the reference has them.

    Keys are written as they come and are not checked: whether a file is right is asked of the file, by the gate, and
    the tests write wrong ones with this.

    Raises:
        FormatError: a value has no place in the schema (a number too large, a naive time, a report type unknown to it).
    """
    try:
        message = export_pb2.TemporaryExposureKeyExport(
            start_timestamp=_unix_seconds(header.start),
            end_timestamp=_unix_seconds(header.end),
            region=header.region,
            batch_num=1,
            batch_size=1,
            signature_infos=map(_info_message, header.signature_infos),
        )
        parts = [_MAGIC, message.SerializeToString()]
        parts.extend(_records(run, revised=False) for run in keys)
        parts.extend(_records(run, revised=True) for run in revised_keys)
    except ValueError as error:
        raise FormatError(f"export.bin cannot hold a value: {error}") from error
    return b"".join(parts)


def _records(run: KeyRun, *, revised: bool) -> bytes:
    """Return the run's records as they stand in the export.

    They differ in the key alone: the library writes one, which is then filled with each key of the run.
    """
    size = run.key_bytes
    key = _key_message(run.metadata)
    behind = len(key.SerializeToString())
    key.key_data = bytes(size)
    record = (
        export_pb2.TemporaryExposureKeyExport(revised_keys=[key])
        if revised
        else export_pb2.TemporaryExposureKeyExport(keys=[key])
    ).SerializeToString()
    records = np.empty((run.count, len(record)), np.uint8)
    records[:] = np.frombuffer(record, np.uint8)
    before = len(record) - behind - size
    records[:, before : before + size] = np.frombuffer(run.keys, np.uint8).reshape(run.count, size)
    return records.tobytes()


def _key_message(metadata: Metadata) -> export_pb2.TemporaryExposureKey:
    """Return a key without its bytes; None leaves a field out."""
    return export_pb2.TemporaryExposureKey(
        transmission_risk_level=metadata.transmission_risk,
        rolling_start_interval_number=metadata.rolling_start or None,
        rolling_period=None if metadata.rolling_period == _WHOLE_DAY else metadata.rolling_period,
        report_type=metadata.report_type,  # type: ignore[arg-type]  # the stub wants the enum, the library takes its number
        days_since_onset_of_symptoms=metadata.days_since_onset,
    )


def _info_message(info: SignatureInfo) -> export_pb2.SignatureInfo:
    return export_pb2.SignatureInfo(
        verification_key_version=info.key_version or None,
        verification_key_id=info.key_id or None,
        signature_algorithm=ECDSA_P256_SHA256,
    )


def _unix_seconds(moment: datetime) -> int:
    if moment.utcoffset() is None:
        raise FormatError(f"the time {moment.isoformat()} has no time zone; times are aware, in UTC")
    return (moment - _EPOCH) // timedelta(seconds=1)


def split(
    keys: Iterable[KeyRun], revised_keys: Iterable[KeyRun], most: int
) -> Iterator[tuple[list[KeyRun], list[KeyRun]]]:
    """Deal a batch's keys out to files of at most `most` keys, first and revised ones together (2.8).

    Files are filled in order, first keys before revised ones; a run is cut where a file is full. No keys, no file. Runs
    are taken as they are needed: no more than one file's keys are held.

    Raises:
        ConfigurationError: `most` is not positive.
    """
    if most <= 0:
        raise ConfigurationError(f"a file must be allowed at least one key, not {most}")
    file: tuple[list[KeyRun], list[KeyRun]] = ([], [])
    room = most
    for column, runs in enumerate((keys, revised_keys)):
        for run in runs:
            place = 0
            while place < run.count:
                if room == 0:
                    yield file
                    file, room = ([], []), most
                stop = min(run.count, place + room)
                file[column].append(run.part(place, stop))
                room -= stop - place
                place = stop
    if room < most:
        yield file


def end_timestamp(batch_end: datetime, number: int, *, split: bool, used: int | None = None) -> datetime:
    """Return the end that file `number` (from 1) of a batch states: the batch's, later by its number if it is split.

    Phones take files of equal span for parts of one (2.8). A supplement's files end later than all that phones may have
    had of its span: `used` says how many seconds after the batch's end were taken (B1).
    """
    if used is None and not split:
        return batch_end
    return batch_end + timedelta(seconds=(used or 0) + number)


def decode(export_bin: bytes) -> Decoded:
    """Read an export.bin of ours with the protobuf library, for the gate.

    Only the bytes that our own encoder could have written are taken: each field once, in order, all those that it
    always writes, and none that it never does.

    Raises:
        FormatError: they are others.
    """
    if not export_bin.startswith(_MAGIC):
        raise FormatError("export.bin does not begin with the header of version 1")
    body = export_bin[len(_MAGIC) :]
    message = export_pb2.TemporaryExposureKeyExport()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise FormatError("export.bin is not a protobuf message of its schema") from error
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != body:
        raise FormatError("export.bin has unknown fields or values, or fields twice, out of order or padded")
    for name in ("start_timestamp", "end_timestamp", "region"):
        if not message.HasField(name):
            raise FormatError(f"export.bin has no {name}")
    if (message.batch_num, message.batch_size) != (1, 1):
        raise FormatError(f"export.bin is batch {message.batch_num} of {message.batch_size}; iOS takes only 1 of 1")
    if not message.signature_infos:
        raise FormatError("export.bin names no signing key")
    return Decoded(
        header=Header(
            start=_moment(message.start_timestamp),
            end=_moment(message.end_timestamp),
            region=_text(message.region),
            signature_infos=tuple(map(_decoded_info, message.signature_infos)),
        ),
        keys=_decoded_keys(message.keys, "keys"),
        revised_keys=_decoded_keys(message.revised_keys, "revised_keys"),
    )


def _moment(unix_seconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=unix_seconds)
    except OverflowError as error:
        raise FormatError(f"export.bin: second {unix_seconds} lies outside the calendar") from error


def _text(value: object) -> str:
    # The library does not refuse a string of proto2 that is not UTF-8: it hands out the bytes.
    if not isinstance(value, str):
        raise FormatError("export.bin has a text that is not UTF-8")
    return value


def _decoded_info(info: export_pb2.SignatureInfo) -> SignatureInfo:
    if not info.verification_key_id or not info.verification_key_version:
        raise FormatError("export.bin: a signature info without the id or version of its key")
    if info.signature_algorithm != ECDSA_P256_SHA256:
        raise FormatError(f"export.bin: a signature info with another algorithm than {ECDSA_P256_SHA256}")
    return SignatureInfo(_text(info.verification_key_id), _text(info.verification_key_version))


def _decoded_keys(messages: Iterable[export_pb2.TemporaryExposureKey], where: str) -> list[DecodedKey]:
    keys: list[DecodedKey] = []
    for key in messages:
        if not key.HasField("key_data") or not key.HasField("transmission_risk_level"):
            raise FormatError(f"export.bin: key {len(keys) + 1} of {where} has no key data or no transmission risk")
        if key.HasField("variant_of_concern"):
            raise FormatError(f"export.bin: key {len(keys) + 1} of {where} has a variant of concern")
        keys.append(
            (
                key.key_data,
                key.report_type if key.HasField("report_type") else None,
                key.transmission_risk_level,
                key.days_since_onset_of_symptoms if key.HasField("days_since_onset_of_symptoms") else None,
                key.rolling_start_interval_number,
                key.rolling_period,
            )
        )
    return keys


def encode_signatures(infos: Sequence[SignatureInfo], signatures: Sequence[bytes]) -> bytes:
    """Return export.sig: each DER signature with the info of its key, in the order of export.bin's infos (1.4).

    Raises:
        FormatError: there are not as many signatures as infos, or none: a phone would refuse the file.
    """
    if not infos or len(infos) != len(signatures):
        raise FormatError(f"{len(signatures)} signatures for {len(infos)} signing keys")
    return export_pb2.TEKSignatureList(
        signatures=[
            export_pb2.TEKSignature(signature_info=_info_message(info), batch_num=1, batch_size=1, signature=signature)
            for info, signature in zip(infos, signatures, strict=True)
        ]
    ).SerializeToString()


def pack(export_bin: bytes, export_sig: bytes) -> bytes:
    """Return the zip: export.bin, export.sig, both deflated, sizes before data, nothing of when or where (1.1).

    Written out here, so that no version of a library decides what stands around the data (PKWARE's APPNOTE 4.3).
    """
    entries, directory = io.BytesIO(), io.BytesIO()
    for name, content in ((b"export.bin", export_bin), (b"export.sig", export_sig)):
        deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)
        deflated = deflater.compress(content) + deflater.flush()
        facts = struct.pack(
            "<HHHHHIIIHH",
            _ZIP_VERSION,
            0,  # no flags
            zipfile.ZIP_DEFLATED,
            *_ZIP_EPOCH,
            zlib.crc32(content),
            len(deflated),
            len(content),
            len(name),
            0,  # no extra field
        )
        place = entries.tell()
        entries.write(b"PK\3\4" + facts + name + deflated)
        directory.write(
            struct.pack("<4sH", b"PK\1\2", _ZIP_UNIX << 8 | _ZIP_VERSION)
            + facts
            + struct.pack("<HHHII", 0, 0, 0, _ZIP_MODE << 16, place)
            + name
        )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, directory.tell(), entries.tell(), 0)
    return entries.getvalue() + directory.getvalue() + end


def file_name(root: str, batch_start: datetime, batch_end: datetime, number: int, zip_sha256: bytes) -> str:
    """Return the name of a batch's file `number` (from 1), as the index lists it (B9).

    The span is the batch's own, also where the file is one of several. The hash's first bytes keep apart a database's
    history and that of one restored from before.
    """
    span = f"{_unix_seconds(batch_start)}-{_unix_seconds(batch_end)}"
    return f"{root}/{span}-{number:05d}-{zip_sha256[:4].hex()}.zip"


def public_path(name: str) -> str:
    """Name an object as the web server's folder has it: ``name`` is as the index lists it."""
    return f"public/{name}"


def staged_path(sha256: bytes, suffix: str) -> str:
    """Name a staged file, which lies under its own hash: nothing under ``staging/`` is served."""
    return f"staging/{sha256.hex()}.{suffix}"


def index_content(names: Sequence[str]) -> bytes:
    """Return the index: one name a line, the oldest first, no newline at the end; US-ASCII, empty for none (2.11).

    Raises:
        FormatError: a name has other characters than letters, digits and ``._/-``.
    """
    for name in names:
        if not _INDEX_LINE.fullmatch(name):
            raise FormatError("a line of the index would have other characters than letters, digits and ._/-")
    return "\n".join(names).encode("ascii")
