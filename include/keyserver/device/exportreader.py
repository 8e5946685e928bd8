"""A phone's own reader of export files, written from the format alone (export.md 1, crypto-and-clients.md b).

It shares nothing with the exporter, so that what both agree on is the format. It accepts what both platforms accept
and is stricter where our own files are: nothing unknown, nothing out of order, nothing before, between or after.
However old a key is, a phone takes it, and finds nothing by it any more: age refuses no file.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keyserver.errors import ConfigurationError, FormatError, VerificationError

MAX_ENTRY_SIZE = 64 * 1024 * 1024
MAX_SIGNATURE_LIST_SIZE = 64 * 1024

ECDSA_P256_SHA256 = "1.2.840.10045.4.3.2"
MAX_SIGNATURES = 10

CONFIRMED_TEST, CONFIRMED_CLINICAL_DIAGNOSIS, SELF_REPORT, REVOKED = 1, 2, 3, 5


class DiagnosisKey(NamedTuple):
    """One key of a file: 16 bytes, first interval, number of intervals (1..144), risk 0..8, and what is known of it.

    `report_type` is the number of the enum (1, 2, 3, in revised keys also 5) or None; `days_since_onset` is -14..14
    or None.
    """

    key: bytes
    rolling_start: int
    rolling_period: int
    transmission_risk: int
    report_type: int | None
    days_since_onset: int | None


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """Which key signed: its id and version as phones know them, and the OID of the algorithm."""

    key_id: str
    key_version: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class ExportFile:
    """A file that was read: its span ``[start, end)`` in UTC, its keys, and who claims to have signed it.

    `signatures` (DER) stand in the order of `signature_infos`; `export_sha256` is the hash of export.bin in hex.
    """

    start: datetime
    end: datetime
    region: str
    signature_infos: tuple[SignatureInfo, ...]
    keys: tuple[DiagnosisKey, ...]
    revised_keys: tuple[DiagnosisKey, ...]
    export_sha256: str
    signatures: tuple[bytes, ...]


def read(zip_bytes: bytes, *, max_entry_size: int = MAX_ENTRY_SIZE) -> ExportFile:
    """Read the bytes of a zip without checking who signed it; no entry may unpack to more than `max_entry_size` bytes.

    Memory is bounded by that size: what is too much is refused before it is unpacked or parsed any further.

    Raises:
        FormatError: the bytes are not an export file that both platforms accept.
    """
    export, signatures = _unpack(zip_bytes, max_entry_size)
    return _export(export, signatures)


def verify(
    zip_bytes: bytes,
    trusted: Mapping[tuple[str, str], EllipticCurvePublicKey],
    *,
    max_entry_size: int = MAX_ENTRY_SIZE,
) -> ExportFile:
    """Read a file and verify it: ECDSA P-256 with SHA-256 over the whole of export.bin.

    `trusted` holds the public keys by (key id, key version). A signature of another key is passed over, as phones do
    during a rotation; every signature of a trusted key must verify, and there must be one.

    Raises:
        FormatError: as `read`.
        VerificationError: no signature is by a trusted key, or one that claims to be does not verify.
        ConfigurationError: a trusted key is not on P-256.
    """
    export, signatures = _unpack(zip_bytes, max_entry_size)
    file = _export(export, signatures)
    verified = False
    for info, signature in zip(file.signature_infos, file.signatures, strict=True):
        public_key = trusted.get((info.key_id, info.key_version))
        if public_key is None:
            continue
        if not _is_by(public_key, signature, export):
            raise VerificationError(f"the signature of {info.key_id}-{info.key_version} does not verify")
        verified = True
    if not verified:
        raise VerificationError("the file has no signature by a trusted key")
    return file


def verify_by(
    zip_bytes: bytes, public_key: EllipticCurvePublicKey, *, max_entry_size: int = MAX_ENTRY_SIZE
) -> tuple[ExportFile, SignatureInfo]:
    """Read a file and find the signature that `public_key` made, by whatever id and version the file names that key.

    Raises:
        FormatError: as `read`.
        VerificationError: no signature is by that key.
        ConfigurationError: it is not on P-256.
    """
    export, signatures = _unpack(zip_bytes, max_entry_size)
    file = _export(export, signatures)
    for info, signature in zip(file.signature_infos, file.signatures, strict=True):
        if _is_by(public_key, signature, export):
            return file, info
    raise VerificationError("the file has no signature by this key")


def demand_distinct(spans: Iterable[tuple[datetime, datetime]]) -> None:
    """Demand that no two files of one index have equal metadata: Android would take them for parts of one batch.

    All files of an index are batch 1 of 1 of one region, so it is their `spans` that must differ (export.md 1.3, 2.8).

    Raises:
        VerificationError: two files have the same start and end.
    """
    seen = set()
    for start, end in spans:
        if (start, end) in seen:
            raise VerificationError(f"two files of one index have the same span, {start:%F %T} to {end:%F %T} UTC")
        seen.add((start, end))


def _is_by(public_key: EllipticCurvePublicKey, signature: bytes, export: bytes) -> bool:
    if not isinstance(public_key.curve, SECP256R1):
        raise ConfigurationError("a trusted key is not on P-256")
    try:
        public_key.verify(signature, export, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


# The container: two local entries, two central ones, the end record, and not a byte more. Read from the front as
# Android streams it; the central directory must then say the same, since an ordinary unzip believes only that.

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_DESCRIPTOR = struct.Struct("<III")
_DESCRIPTOR_MARK = b"PK\x07\x08"
_HAS_DESCRIPTOR = 0x0008
_KNOWN_FLAGS = 0x0006 | _HAS_DESCRIPTOR | 0x0800  # hints of deflate, data descriptor, UTF-8 names
_STORED, _DEFLATED = 0, 8
_FILE_TYPE, _REGULAR_FILE, _DOS_DIRECTORY = 0o170000, 0o100000, 0x10
_NAMES = (b"export.bin", b"export.sig")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What an entry tells of itself, and the central directory must repeat."""

    name: bytes
    offset: int
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int


def _unpack(data: bytes, limit: int) -> tuple[bytes, bytes]:
    contents: dict[bytes, bytes] = {}
    entries: list[_Entry] = []
    position = 0
    while len(entries) < len(_NAMES):
        entry, content, position = _local_entry(data, position, limit)
        if entry.name in contents:
            raise FormatError(f"zip: a second entry {entry.name.decode()}")
        contents[entry.name] = content
        entries.append(entry)
    directory = position
    listed = []
    for _ in _NAMES:
        entry, position = _central_entry(data, position)
        listed.append(entry)
    if sorted(listed, key=_name) != sorted(entries, key=_name):
        raise FormatError("zip: the central directory does not tell what the entries themselves do")
    end = (b"PK\x05\x06", 0, 0, len(_NAMES), len(_NAMES), position - directory, directory, 0)
    if data[position:] != _END.pack(*end):
        raise FormatError("zip: what follows the central directory is not the end record of just two entries")
    return contents[_NAMES[0]], contents[_NAMES[1]]


def _name(entry: _Entry) -> bytes:
    return entry.name


def _local_entry(data: bytes, offset: int, limit: int) -> tuple[_Entry, bytes, int]:
    """Read the entry at `offset`: what it says of itself, its content, and where the next one begins."""
    header, position = _record(_LOCAL, b"PK\x03\x04", data, offset)
    _version, flags, method, _time, _date, crc, packed_size, size, name_length, extra_length = header
    name = data[position : position + name_length]
    _demand_plain_entry(name, flags, method, extra_length)
    if name == _NAMES[1]:
        limit = min(limit, MAX_SIGNATURE_LIST_SIZE)
    position += name_length
    deferred = bool(flags & _HAS_DESCRIPTOR)
    if deferred and (crc or packed_size or size):
        raise FormatError("zip: an entry with a data descriptor states its sizes before it too")
    packed = data[position:] if deferred else data[position : position + packed_size]
    if method == _STORED:
        content, used = packed, len(packed)
    else:
        content, used = _inflate(packed, limit)
    position += used
    if deferred:
        # Its mark is optional; like Android's reader we take it for the mark whenever it is there.
        position += len(_DESCRIPTOR_MARK) * data.startswith(_DESCRIPTOR_MARK, position)
        (crc, packed_size, size), position = _fixed(_DESCRIPTOR, data, position)
    if used != packed_size or len(content) != size or len(content) > limit:
        raise FormatError(f"zip: {name.decode()} has not the size that it states, or more than {limit} bytes")
    if zlib.crc32(content) != crc:
        raise FormatError(f"zip: {name.decode()} has not the checksum that it states")
    return _Entry(name, offset, flags, method, crc, packed_size, size), content, position


def _central_entry(data: bytes, position: int) -> tuple[_Entry, int]:
    header, position = _record(_CENTRAL, b"PK\x01\x02", data, position)
    _made_by, _version, flags, method, _time, _date, crc, packed_size, size, name_length = header[:10]
    extra_length, comment_length, disk, _internal, external, offset = header[10:]
    name = data[position : position + name_length]
    _demand_plain_entry(name, flags, method, extra_length)
    if comment_length or disk:
        raise FormatError("zip: an entry with a comment or on another disk")
    if external >> 16 & _FILE_TYPE not in {0, _REGULAR_FILE} or external & _DOS_DIRECTORY:
        raise FormatError("zip: an entry that is no regular file")
    return _Entry(name, offset, flags, method, crc, packed_size, size), position + name_length


def _demand_plain_entry(name: bytes, flags: int, method: int, extra_length: int) -> None:
    if name not in _NAMES:
        raise FormatError("zip: an entry that is neither export.bin nor export.sig")
    if flags & ~_KNOWN_FLAGS:
        raise FormatError(f"zip: {name.decode()} has unknown flags {flags:#06x} (encrypted?)")
    if method not in {_STORED, _DEFLATED}:
        raise FormatError(f"zip: {name.decode()} is packed by method {method}, neither stored nor deflate")
    if method == _STORED and flags & _HAS_DESCRIPTOR:
        raise FormatError(f"zip: {name.decode()} is stored with a data descriptor, which cannot be streamed")
    if extra_length:  # Zip64 sizes or a second name: neither has a place here
        raise FormatError(f"zip: {name.decode()} has extra fields")


def _inflate(packed: bytes, limit: int) -> tuple[bytes, int]:
    """Unpack at most `limit` bytes; return them and how much of `packed` they took."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, limit + 1)
    except zlib.error as error:
        raise FormatError("zip: an entry is not valid deflate") from error
    if len(content) > limit:
        raise FormatError(f"zip: an entry unpacks to more than {limit} bytes")
    if not inflater.eof:
        raise FormatError("zip: an entry ends before its deflate stream does")
    return content, len(packed) - len(inflater.unused_data)


def _record(layout: struct.Struct, mark: bytes, data: bytes, position: int) -> tuple[tuple[Any, ...], int]:
    (found, *values), position = _fixed(layout, data, position)
    if found != mark:
        raise FormatError(f"zip: not two entries, a central directory and its end (at byte {position - layout.size})")
    return tuple(values), position


def _fixed(layout: struct.Struct, data: bytes, position: int) -> tuple[tuple[Any, ...], int]:
    try:
        return layout.unpack_from(data, position), position + layout.size
    except struct.error as error:
        raise FormatError("zip: the bytes end too early") from error


# The messages. Each field is known by its tag byte, field number * 8 + wire type: all numbers here are below 16, so a
# tag is one byte, and a known number with another wire type is simply an unknown tag.

_HEADER = b"EK Export v1    "
_VARINT, _FIXED64, _BYTES = 0, 1, 2
_INT32_MAX = 2**31 - 1
_INTERVAL = 600  # seconds
_VARINT_MAX_SHIFT = 28  # five bytes hold every value of this format; a negative int32 takes ten
_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z, as far as a datetime goes
_KEY_NAME = re.compile(r"[A-Za-z0-9_]+")


def _tags(wire_type: int, *numbers: int) -> frozenset[int]:
    return frozenset(number << 3 | wire_type for number in numbers)


_NO_TAGS: frozenset[int] = frozenset()
_EXPORT = _tags(_FIXED64, 1, 2) | _tags(_BYTES, 3) | _tags(_VARINT, 4, 5)
_EXPORT_LISTS = _tags(_BYTES, 6, 7, 8)
_SIGNATURE_INFO = _tags(_BYTES, 3, 4, 5)
_KEY_METADATA = _tags(_VARINT, 2, 3, 4, 5, 6)
_SIGNATURE_LISTS = _tags(_BYTES, 1)
_SIGNATURE = _tags(_BYTES, 1, 4) | _tags(_VARINT, 2, 3)

_FIRST_TYPES = frozenset({CONFIRMED_TEST, CONFIRMED_CLINICAL_DIAGNOSIS, SELF_REPORT, None})
_REVISED_TYPES = _FIRST_TYPES | {REVOKED}


def _export(export: bytes, signature_list: bytes) -> ExportFile:
    if not export.startswith(_HEADER):
        raise FormatError("export.bin does not begin with the header of version 1")
    fields: dict[int, Any] = {}
    infos: list[SignatureInfo] = []
    keys, revised_keys = _Keys("keys", _FIRST_TYPES), _Keys("revised_keys", _REVISED_TYPES)
    for number, value in _wire(export, len(_HEADER), "export.bin", _EXPORT, _EXPORT_LISTS):
        if number == 7:
            keys.add(value)
        elif number == 8:
            revised_keys.add(value)
        elif number == 6:
            infos.append(_signature_info(value))
            if len(infos) > MAX_SIGNATURES:
                raise FormatError(f"export.bin: more than {MAX_SIGNATURES} signature infos")
        else:
            fields[number] = value
    start, end = fields.get(1, 0), fields.get(2, 0)
    if not 0 < start < end <= _LAST_SECOND:
        raise FormatError(
            f"export.bin: the span from {start} to {end} (unix seconds) is missing, empty or out of range"
        )
    if 3 not in fields:
        raise FormatError("export.bin: no region")
    _demand_single_batch(fields.get(4), fields.get(5), "export.bin")
    keys.demand_starts_before(end)
    revised_keys.demand_starts_before(end)
    return ExportFile(
        start=datetime.fromtimestamp(start, UTC),
        end=datetime.fromtimestamp(end, UTC),
        region=_text(fields[3], "the region"),
        signature_infos=tuple(infos),
        keys=tuple(keys.found),
        revised_keys=tuple(revised_keys.found),
        export_sha256=hashlib.sha256(export).hexdigest(),
        signatures=_signatures(signature_list, infos),
    )


def _signatures(signature_list: bytes, infos: list[SignatureInfo]) -> tuple[bytes, ...]:
    """Read export.sig, whose infos must repeat those of export.bin one by one."""
    bodies = [body for _, body in _wire(signature_list, 0, "export.sig", _NO_TAGS, _SIGNATURE_LISTS)]
    if len(bodies) != len(infos) or not infos:
        raise FormatError(f"{len(infos)} signature infos and {len(bodies)} signatures, not equally many, 1 to 10")
    signatures = []
    for info, body in zip(infos, bodies, strict=True):
        fields = dict(_wire(body, 0, "a signature", _SIGNATURE, _NO_TAGS))
        if _signature_info(fields.get(1, b"")) != info:
            raise FormatError("export.sig names other signing keys, or in another order, than export.bin")
        _demand_single_batch(fields.get(2), fields.get(3), "export.sig")
        signature = fields.get(4, b"")
        try:
            decode_dss_signature(signature)
        except ValueError as error:
            raise FormatError("a signature is not a DER sequence of two integers") from error
        signatures.append(signature)
    return tuple(signatures)


def _signature_info(body: bytes) -> SignatureInfo:
    fields = dict(_wire(body, 0, "a signature info", _SIGNATURE_INFO, _NO_TAGS))
    version, key_id, algorithm = (_text(fields.get(number, b""), "a signature info") for number in (3, 4, 5))
    if not _KEY_NAME.fullmatch(key_id) or not _KEY_NAME.fullmatch(version):
        raise FormatError("a signature info has not a key id and version of letters, digits and underscores")
    if algorithm != ECDSA_P256_SHA256:
        raise FormatError(f"a signature info names another algorithm than {ECDSA_P256_SHA256}")
    return SignatureInfo(key_id, version, algorithm)


class _Keys:
    """One list of keys, read record by record.

    Many keys share the same few bytes after their key data, so these are parsed once for all of them: half a million
    keys must take less than a second.
    """

    def __init__(self, where: str, types: Container[int | None]) -> None:
        self.found: list[DiagnosisKey] = []
        self._where = where
        self._types = types
        self._seen: dict[bytes, _Metadata] = {}

    def add(self, body: bytes) -> None:
        if len(body) < 18 or not body.startswith(b"\x0a\x10"):
            raise self._error("does not begin with 16 bytes of key data")
        metadata = self._seen.get(body[18:])
        if metadata is None:
            try:
                metadata = self._seen[body[18:]] = _key_metadata(body[18:], self._types)
            except FormatError as error:
                raise self._error(str(error)) from error
        self.found.append(DiagnosisKey(body[2:18], *metadata))

    def demand_starts_before(self, end: int) -> None:
        """Refuse a key that was not in use yet when the file's span ended, in unix seconds."""
        if any(start * _INTERVAL >= end for start, *_ in self._seen.values()):
            raise FormatError(f"export.bin: a key of {self._where} starts after the file's end")

    def _error(self, problem: str) -> FormatError:
        return FormatError(f"export.bin: key {len(self.found) + 1} of {self._where}: {problem}")


_Metadata = tuple[int, int, int, int | None, int | None]  # the fields of a DiagnosisKey after its key


def _key_metadata(body: bytes, types: Container[int | None]) -> _Metadata:
    fields = dict(_wire(body, 0, "its metadata", _KEY_METADATA, _NO_TAGS))
    risk, start, period = fields.get(2, 0), fields.get(3, 0), fields.get(4, 144)
    report_type = fields.get(5)
    zigzag = fields.get(6)
    onset = None if zigzag is None else zigzag >> 1 ^ -(zigzag & 1)
    for what, value, lowest, highest in (
        ("transmission risk", risk, 0, 8),
        ("rolling start", start, 0, _INT32_MAX),
        ("rolling period", period, 1, 144),
        ("days since onset", onset or 0, -14, 14),
    ):
        if not lowest <= value <= highest:
            raise FormatError(f"its {what} of {value} is outside {lowest}..{highest}")
    if report_type not in types:
        raise FormatError(f"its report type {report_type} has no place here")
    return start, period, risk, report_type, onset


def _demand_single_batch(number: int | None, size: int | None, where: str) -> None:
    if (number, size) != (1, 1):
        raise FormatError(f"{where}: batch {number} of {size}; iOS takes only 1 of 1")


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8") from error


def _wire(
    body: bytes, position: int, what: str, scalars: frozenset[int], lists: frozenset[int]
) -> Iterator[tuple[int, Any]]:
    """Yield the fields of the message from `position` on: number and value, an int for varint and fixed64, else bytes.

    Fields must ascend, as every encoder writes them; so a scalar that comes twice is out of order too.
    """
    end, last = len(body), 0
    while position < end:
        tag = body[position]
        position += 1
        if tag not in scalars and tag not in lists:
            raise FormatError(f"{what}: unknown field or wire type (tag {tag:#04x} at byte {position - 1})")
        if tag < last or (tag == last and tag in scalars):
            raise FormatError(f"{what}: field {tag >> 3} twice or out of order")
        last = tag
        value: Any
        if tag & 7 == _VARINT:
            value, position = _varint(body, position, what)
        else:
            if tag & 7 == _FIXED64:
                length = 8
            elif position < end and body[position] < 0x80:  # nearly always: a key
                length, position = body[position], position + 1
            else:
                length, position = _varint(body, position, what)
            value = body[position : position + length]
            position += length
            if position > end:
                raise FormatError(f"{what}: field {tag >> 3} is longer than the message")
            if tag & 7 == _FIXED64:
                value = int.from_bytes(value, "little")
        yield tag >> 3, value


def _varint(body: bytes, position: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while position < len(body):
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise FormatError(f"{what}: a varint in more bytes than it needs")
            return value, position
        if shift == _VARINT_MAX_SHIFT:
            raise FormatError(f"{what}: a varint of more than 5 bytes; no value here is negative or so large")
        shift += 7
    raise FormatError(f"{what}: the bytes end inside a varint")
