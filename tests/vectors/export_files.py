"""Makes the export files of this folder: good ones, and one file for each flaw, named after it.

    python -m tests.vectors.export_files

Everything is written byte by byte, so that flaws can be written down that no library would write. Each file has its
one flaw and is right otherwise: the bad exports are well packed and really signed.

* `good` are such as both platforms take.
* `container` are flawed as zips, `export` in export.bin, `signatures` in export.sig.
* `index` are two good files that must not stand in one index: their metadata is equal.
* `public.pem` is the key that phones trust as 242-v1.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FOLDER = Path(__file__).parent / "exportfiles"

HEADER = b"EK Export v1    "
OID = b"1.2.840.10045.4.3.2"
START = 1_772_438_400  # 2026-03-02T08:00:00Z
END = START + 4 * 3600
YESTERDAY = START // 86_400 * 144 - 144
SIGNER = ec.derive_private_key(0x5EED, ec.SECP256R1())
STRANGER = ec.derive_private_key(0xBAD, ec.SECP256R1())
LARGEST_ENTRY = 64 * 1024 * 1024


# Protobuf


def varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | 1) + value.to_bytes(8, "little")


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def info(version: bytes = b"v1", key_id: bytes = b"242", oid: bytes = OID) -> bytes:
    return data(3, version) + data(4, key_id) + data(5, oid)


def negative(value: int) -> int:
    """Return what a negative int32 is as a varint: ten bytes."""
    return 2**64 + value


def key(name: int, *, risk: int = 3, start: int = YESTERDAY, rest: bytes = b"", key_data: bytes | None = None) -> bytes:
    key_data = bytes([name]) * 16 if key_data is None else key_data
    return data(1, key_data) + number(2, risk) + number(3, start) + rest


KEYS = [key(n, rest=number(5, 1) + number(6, 4)) for n in range(1, 6)]


def export(header: bytes = HEADER, **changes: bytes) -> bytes:
    parts = {
        "start": fixed64(1, START),
        "end": fixed64(2, END),
        "region": data(3, b"NO"),
        "number": number(4, 1),
        "size": number(5, 1),
        "infos": data(6, info()),
        "keys": b"".join(data(7, body) for body in KEYS),
        "revised": b"",
        "tail": b"",
    }
    return header + b"".join({**parts, **changes}.values())


def with_key(body: bytes) -> bytes:
    """Put one more key behind the good ones; it has the highest risk, so that their order stands."""
    return export(keys=b"".join(data(7, known) for known in KEYS) + data(7, body))


def with_revised(body: bytes) -> bytes:
    return export(revised=data(8, body))


def odd_key(*, risk: int = 8, start: int = YESTERDAY, rest: bytes = number(5, 1), key_data: bytes = b"k" * 16) -> bytes:
    return key(0, risk=risk, start=start, rest=rest, key_data=key_data)


def der(content: bytes, by: ec.EllipticCurvePrivateKey = SIGNER) -> bytes:
    return by.sign(content, ec.ECDSA(SHA256(), deterministic_signing=True))


def signature(
    content: bytes,
    body: bytes | None = None,
    *,
    batch: bytes = number(2, 1) + number(3, 1),
    der_bytes: bytes | None = None,
) -> bytes:
    der_bytes = der(content) if der_bytes is None else der_bytes
    return data(1, data(1, info() if body is None else body) + batch + data(4, der_bytes))


# Zip


@dataclass(frozen=True)
class Entry:
    """One entry; what its headers say is said rightly, unless told otherwise."""

    name: bytes
    content: bytes
    method: int = 8
    flags: int = 0
    descriptor: bool = False
    date: int = 0x21  # 1980-01-01
    extra: bytes = b""
    mode: int = 0o100644
    crc: int | None = None
    packed: bytes | None = None
    packed_size: int | None = None
    size: int | None = None

    def local(self) -> bytes:
        packed, crc, packed_size, size = self._facts()
        stated = (0, 0, 0) if self.descriptor else (crc, packed_size, size)
        flags = self.flags | 8 * self.descriptor
        head = (b"PK\3\4", 20, flags, self.method, 0, self.date, *stated, len(self.name), len(self.extra))
        tail = b"PK\7\10" + struct.pack("<III", crc, packed_size, size) if self.descriptor else b""
        return struct.pack("<4sHHHHHIIIHH", *head) + self.name + self.extra + packed + tail

    def central(self, offset: int) -> bytes:
        _, crc, packed_size, size = self._facts()
        flags = self.flags | 8 * self.descriptor
        head = (b"PK\1\2", 3 << 8 | 20, 20, flags, self.method, 0, self.date, crc, packed_size, size)
        tail = (len(self.name), len(self.extra), 0, 0, 0, self.mode << 16, offset)
        return struct.pack("<4sHHHHHHIII", *head) + struct.pack("<HHHHHII", *tail) + self.name + self.extra

    def _facts(self) -> tuple[bytes, int, int, int]:
        packed = self.packed
        if packed is None:
            packed = self.content if self.method == 0 else deflated(self.content)
        crc = zlib.crc32(self.content) if self.crc is None else self.crc
        packed_size = len(packed) if self.packed_size is None else self.packed_size
        return packed, crc, packed_size, len(self.content) if self.size is None else self.size


def deflated(content: bytes) -> bytes:
    """Return a deflate stream of stored blocks, the same whatever library there is."""
    blocks = [content[start : start + 0xFFFF] for start in range(0, len(content), 0xFFFF)] or [b""]
    parts = [struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF) + block for block in blocks]
    parts[-1] = b"\1" + parts[-1][1:]
    return b"".join(parts)


def squeezed(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def archive(*entries: Entry, before: bytes = b"", between: bytes = b"", comment: bytes = b"") -> bytes:
    body, directory = before, b""
    for entry in entries:
        directory += entry.central(len(body))
        body += entry.local()
    end = (b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(body), len(comment))
    return body + directory + between + struct.pack("<4sHHHHIIH", *end) + comment


def packed(content: bytes, signatures: bytes | None = None) -> bytes:
    return archive(Entry(b"export.bin", content), Entry(b"export.sig", signatures or signature(content)))


BIN = Entry(b"export.bin", export())
SIG = Entry(b"export.sig", signature(export()))


def spoilt(**changes: object) -> bytes:
    """Return the good file, its first entry with other headers or another content."""
    return archive(replace(BIN, **changes), SIG)


def streamed(*, date: int = 0x21, method: int = 8) -> bytes:
    return archive(*(replace(entry, descriptor=True, date=date, method=method) for entry in (BIN, SIG)))


def zip64_sizes() -> bytes:
    """Say that the sizes stand in an extra field."""
    extra = struct.pack("<HHQQ", 1, 16, len(BIN.content), len(deflated(BIN.content)))
    return spoilt(extra=extra, packed_size=0xFFFFFFFF, size=0xFFFFFFFF)


def zip64_end() -> bytes:
    """Put a zip64 end record and its locator before the end record."""
    plain = archive(BIN, SIG)
    directory = plain.index(b"PK\1\2")
    end = plain.index(b"PK\5\6")
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, end - directory, directory)
    return archive(BIN, SIG, between=record + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))


def overlapping() -> bytes:
    """Let both entries of the directory point at the first local one."""
    plain = archive(BIN, SIG)
    second = plain.index(b"PK\1\2", plain.index(b"PK\1\2") + 1)
    return plain[: second + 42] + bytes(4) + plain[second + 46 :]


def bomb(name: bytes, size: int) -> bytes:
    content = bytes(size)
    entry = Entry(name, content, packed=squeezed(content))
    return archive(*(entry if good.name == name else good for good in (BIN, SIG)))


def two_signers(second: bytes = b"v2") -> bytes:
    content = export(infos=data(6, info()) + data(6, info(second)))
    return packed(content, signature(content) + signature(content, info(second), der_bytes=der(content, STRANGER)))


def many(infos: int, signatures: int) -> bytes:
    content = export(infos=data(6, info()) * infos)
    return archive(Entry(b"export.bin", content), Entry(b"export.sig", signature(content) * signatures))


def raw_signature() -> bytes:
    """Return r and s end to end, as some key services do."""
    encoded = der(export())
    length = encoded[3]
    r, s = encoded[4 : 4 + length], encoded[6 + length :]
    return r.lstrip(b"\0").rjust(32, b"\0") + s.lstrip(b"\0").rjust(32, b"\0")


GOOD: dict[str, Callable[[], bytes]] = {
    "ordinary": lambda: archive(BIN, SIG),
    "signature first": lambda: archive(SIG, BIN),
    "stored": lambda: archive(replace(BIN, method=0), replace(SIG, method=0)),
    "streamed, with a date of zero": lambda: streamed(date=0),
    "no keys": lambda: packed(export(keys=b"")),
    "two signatures, one of them known": two_signers,
    "every bound": lambda: packed(
        export(
            keys=data(7, odd_key(risk=0, start=0, rest=number(4, 1) + number(5, 1) + number(6, 27)))
            + data(7, odd_key(risk=8, start=END // 600 - 1, rest=number(4, 144) + number(5, 3) + number(6, 28)))
        )
    ),
    "revised and revoked keys": lambda: packed(
        export(revised=data(8, odd_key(rest=number(5, 1))) + data(8, odd_key(rest=number(5, 5), key_data=b"l" * 16)))
    ),
}

CONTAINER: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "truncated": lambda: archive(BIN, SIG)[:-30],
    "truncated in the first entry": lambda: archive(BIN, SIG)[:100],
    "two export.bin": lambda: archive(BIN, BIN, SIG),
    "two export.bin and no export.sig": lambda: archive(BIN, BIN),
    "only export.bin": lambda: archive(BIN),
    "only export.sig": lambda: archive(SIG),
    "a third entry": lambda: archive(BIN, SIG, Entry(b"readme.txt", b"hello")),
    "a third entry first": lambda: archive(Entry(b"readme.txt", b"hello"), BIN, SIG),
    "a path upwards": lambda: spoilt(name=b"../export.bin"),
    "an absolute path": lambda: spoilt(name=b"/export.bin"),
    "a path with a backslash": lambda: spoilt(name=b"..\\export.bin"),
    "a drive's path": lambda: spoilt(name=b"C:export.bin"),
    "a folder": lambda: spoilt(name=b"a/export.bin"),
    "a name in capitals": lambda: spoilt(name=b"EXPORT.BIN"),
    "a name with a zero byte": lambda: spoilt(name=b"export.bin\0"),
    "a name without end": lambda: spoilt(name=b"export.bin" * 600),
    "a symbolic link": lambda: spoilt(mode=0o120777),
    "a directory": lambda: spoilt(mode=0o040755),
    "an encrypted entry": lambda: spoilt(flags=1),
    "a strongly encrypted entry": lambda: spoilt(flags=0x41),
    "a masked directory": lambda: spoilt(flags=0x2000),
    "packed by bzip2": lambda: spoilt(method=12),
    "stored with a data descriptor": lambda: streamed(method=0),
    "zip64 sizes": zip64_sizes,
    "zip64 end record": zip64_end,
    "entries that overlap": overlapping,
    "garbage before": lambda: b"x" + archive(BIN, SIG),
    "garbage before that offsets allow for": lambda: archive(BIN, SIG, before=b"#!/bin/sh\n"),
    "garbage after": lambda: archive(BIN, SIG) + b"x",
    "garbage before the end record": lambda: archive(BIN, SIG, between=b"x"),
    "a comment": lambda: archive(BIN, SIG, comment=b"hello"),
    "two zips end to end": lambda: archive(BIN, SIG) * 2,
    "a wrong checksum": lambda: spoilt(crc=1),
    "a wrong size": lambda: spoilt(size=len(BIN.content) + 1),
    "a wrong packed size": lambda: spoilt(packed_size=20),
    "no deflate": lambda: spoilt(packed=b"\xff" * 200),
    "a deflate stream without end": lambda: spoilt(packed=b"\0" + deflated(BIN.content)[1:]),
    "a zip bomb": lambda: bomb(b"export.bin", LARGEST_ENTRY + 1),
    "a zip bomb in export.sig": lambda: bomb(b"export.sig", 1_000_000),
}

EXPORT: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: b"",
    "a short header": lambda: HEADER[:15],
    "wrong header": lambda: export(header=b"EK Export v1\0\0\0\0"),
    "the header of version 2": lambda: export(header=b"EK Export v2    "),
    "no message": lambda: HEADER,
    "no start": lambda: export(start=b""),
    "no end": lambda: export(end=b""),
    "an end before the start": lambda: export(end=fixed64(2, START - 1)),
    "a negative end": lambda: export(end=fixed64(2, negative(-1))),
    "an end after the calendar": lambda: export(end=fixed64(2, 253_402_300_800)),
    "a start as varint": lambda: export(start=number(1, START)),
    "no region": lambda: export(region=b""),
    "a region that is not UTF-8": lambda: export(region=data(3, b"\xff\xfe")),
    "no batch": lambda: export(number=b"", size=b""),
    "batch 1 of 2": lambda: export(size=number(5, 2)),
    "batch 2 of 2": lambda: export(number=number(4, 2), size=number(5, 2)),
    "batch 0 of 1": lambda: export(number=number(4, 0)),
    "wrong algorithm OID": lambda: export(infos=data(6, info(oid=b"1.2.840.10045.4.3.4"))),
    "the algorithm by its name": lambda: export(infos=data(6, info(oid=b"SHA256withECDSA"))),
    "no algorithm": lambda: export(infos=data(6, data(3, b"v1") + data(4, b"242"))),
    "a signing key without id": lambda: export(infos=data(6, info(key_id=b""))),
    "an app's name in a signature info": lambda: export(infos=data(6, data(1, b"app") + info())),
    "key of 15 bytes": lambda: with_key(odd_key(key_data=b"k" * 15)),
    "key of 17 bytes": lambda: with_key(odd_key(key_data=b"k" * 17)),
    "a key without bytes": lambda: with_key(odd_key()[18:]),
    "an empty key": lambda: with_key(b""),
    "period 0": lambda: with_key(odd_key(rest=number(4, 0) + number(5, 1))),
    "period 145": lambda: with_key(odd_key(rest=number(4, 145) + number(5, 1))),
    "a negative period": lambda: with_key(odd_key(rest=number(4, negative(-1)) + number(5, 1))),
    "risk 9": lambda: with_key(odd_key(risk=9)),
    "a negative risk": lambda: with_key(odd_key(risk=negative(-1))),
    "a negative start of a key": lambda: with_key(odd_key(start=negative(-1))),
    "a key that starts when the file ends": lambda: with_key(odd_key(start=END // 600)),
    "onset 15": lambda: with_key(odd_key(rest=number(5, 1) + number(6, 30))),
    "onset minus 15": lambda: with_key(odd_key(rest=number(5, 1) + number(6, 29))),
    "report type UNKNOWN": lambda: with_key(odd_key(rest=number(5, 0))),
    "report type RECURSIVE": lambda: with_key(odd_key(rest=number(5, 4))),
    "report type 6": lambda: with_key(odd_key(rest=number(5, 6))),
    "a first key that is revoked": lambda: with_key(odd_key(rest=number(5, 5))),
    "a variant of concern": lambda: with_key(odd_key(rest=number(5, 1) + number(8, 1))),
    "revised key of 15 bytes": lambda: with_revised(odd_key(key_data=b"k" * 15)),
    "revised key of period 145": lambda: with_revised(odd_key(rest=number(4, 145) + number(5, 1))),
    "revised key of risk 9": lambda: with_revised(odd_key(risk=9)),
    "revised key of onset 15": lambda: with_revised(odd_key(rest=number(5, 1) + number(6, 30))),
    "revised key of report type RECURSIVE": lambda: with_revised(odd_key(rest=number(5, 4))),
    "revised key that starts when the file ends": lambda: with_revised(odd_key(start=END // 600)),
    "an unknown field": lambda: export(tail=number(9, 1)),
    "a field of a high number": lambda: export(tail=number(536_870_911, 1)),
    "field 0": lambda: export(tail=b"\0\0"),
    "an unknown wire type": lambda: export(tail=b"\x4e\1"),
    "a group": lambda: export(tail=b"\x4b\x4c"),
    "a group without end": lambda: export(tail=b"\x4b"),
    "groups in groups": lambda: export(tail=b"\x4b" * 10_000),
    "keys as varint": lambda: export(keys=number(7, 1)),
    "a field twice": lambda: export(number=number(4, 1) * 2),
    "fields out of order": lambda: export(start=fixed64(2, END), end=fixed64(1, START)),
    "a varint of eleven bytes": lambda: export(number=b"\x20" + b"\xff" * 10 + b"\1"),
    "a varint without end": lambda: export(tail=b"\x42" + b"\xff" * 500),
    "a varint in more bytes than needed": lambda: export(number=b"\x20\x81\0"),
    "a length beyond the end": lambda: export(tail=b"\x42\xff\xff\x03"),
    "a length of nearly all numbers": lambda: export(tail=b"\x42" + varint(2**63 - 1)),
    "a negative length": lambda: export(tail=b"\x42" + varint(negative(-1))),
    "cut inside a key": lambda: export()[:-5],
    "cut inside a timestamp": lambda: (HEADER + fixed64(1, START))[:-3],
    "garbage after the message": lambda: export() + b"\xde\xad\xbe\xef",
    "zeros after the message": lambda: export() + bytes(16),
}

SIGNATURES: dict[str, Callable[[], bytes]] = {
    "signature by another key": lambda: packed(export(), signature(export(), der_bytes=der(export(), STRANGER))),
    "signature of another file": lambda: packed(export(), signature(export(keys=b""))),
    "signature without the header": lambda: packed(export(), signature(export()[16:])),
    "raw r and s": lambda: packed(export(), signature(export(), der_bytes=raw_signature())),
    "an empty signature": lambda: packed(export(), signature(export(), der_bytes=b"")),
    "bytes after a signature": lambda: packed(export(), signature(export(), der_bytes=der(export()) + b"\0")),
    "a signature of zeros": lambda: packed(export(), signature(export(), der_bytes=bytes.fromhex("3006020100020100"))),
    "no signatures": lambda: archive(BIN, Entry(b"export.sig", b"")),
    "no signatures and no infos": lambda: archive(Entry(b"export.bin", export(infos=b"")), Entry(b"export.sig", b"")),
    "more infos than signatures": lambda: many(2, 1),
    "more signatures than infos": lambda: many(1, 2),
    "eleven signatures": lambda: many(11, 11),
    "only an unknown key": lambda: packed(
        export(infos=data(6, info(b"v9"))), signature(export(infos=data(6, info(b"v9"))), info(b"v9"))
    ),
    "another key in export.sig": lambda: packed(export(), signature(export(), info(b"v2"))),
    "wrong algorithm OID in export.sig": lambda: packed(
        export(), signature(export(), info(oid=b"1.2.840.10045.4.3.4"))
    ),
    "batch 2 of 2 in export.sig": lambda: packed(export(), signature(export(), batch=number(2, 2) + number(3, 2))),
    "no batch in export.sig": lambda: packed(export(), signature(export(), batch=b"")),
    "a header before export.sig": lambda: packed(export(), HEADER + signature(export())),
    "an unknown field in export.sig": lambda: packed(export(), signature(export()) + number(2, 1)),
    "a varint without end in export.sig": lambda: packed(export(), signature(export()) + b"\x0a" + b"\xff" * 50),
    "cut inside export.sig": lambda: packed(export(), signature(export())[:-1]),
}

INDEX: dict[str, Callable[[], bytes]] = {
    "one": lambda: archive(BIN, SIG),
    "another of the same metadata": lambda: packed(export(keys=data(7, odd_key()))),
}

# Whose bytes depend on the compressor.
SQUEEZED = {"container/a-zip-bomb.zip", "container/a-zip-bomb-in-export.sig.zip"}


def path(folder: str, name: str) -> str:
    """Return where a file lies; its flaw is its name."""
    return f"{folder}/{re.sub('[^A-Za-z0-9.]+', '-', name)}.zip"


def files() -> dict[str, bytes]:
    """Return every file by its path in the folder."""
    made = {
        path(folder, name): make()
        for folder, makers in (
            ("good", GOOD),
            ("container", CONTAINER),
            ("signatures", SIGNATURES),
            ("index", INDEX),
        )
        for name, make in makers.items()
    }
    made |= {path("export", name): packed(make()) for name, make in EXPORT.items()}
    public = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {**made, "public.pem": public}


def main() -> None:
    """Write the folder anew."""
    for old in FOLDER.rglob("*.*"):
        old.unlink()
    for name, content in files().items():
        new = FOLDER / name
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)


if __name__ == "__main__":
    main()
