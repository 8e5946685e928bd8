from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keyserver.device.exportreader import (
    DiagnosisKey,
    SignatureInfo,
    demand_distinct,
    read,
    verify,
    verify_by,
)
from keyserver.errors import ConfigurationError, FormatError, KeyserverError, VerificationError
from tests.vectors.export_files import HEADER, OID, data, fixed64, number

# Encoded byte by byte, so that flaws can be written down that no library would write.

DER = bytes.fromhex("3006020101020101")


def info(version: bytes = b"v1", key_id: bytes = b"310", oid: bytes = OID) -> bytes:
    return data(3, version) + data(4, key_id) + data(5, oid)


INFO = info()
KEY = data(1, b"k" * 16) + number(2, 3) + number(3, 2_833_200)
PARTS = {
    "start": fixed64(1, 1_700_000_000),
    "end": fixed64(2, 1_700_003_600),
    "region": data(3, b"US"),
    "number": number(4, 1),
    "size": number(5, 1),
    "infos": data(6, INFO),
    "keys": data(7, KEY),
    "revised": b"",
    "tail": b"",
}


def export(header: bytes = HEADER, **changes: bytes) -> bytes:
    return header + b"".join({**PARTS, **changes}.values())


def signature(body: bytes = INFO, der: bytes = DER, rest: bytes = number(2, 1) + number(3, 1)) -> bytes:
    return data(1, data(1, body) + rest + data(4, der))


def archive(export_bin: bytes, export_sig: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        zipped.writestr("export.bin", export_bin)
        zipped.writestr("export.sig", signature() if export_sig is None else export_sig)
    return buffer.getvalue()


def with_key(body: bytes) -> bytes:
    return archive(export(keys=data(7, body)))


GOOD = archive(export())


class Unseekable(io.BytesIO):
    """Where a zip can only be streamed to, so that its sizes follow the data in a descriptor."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_arguments):
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def streamed(method: int) -> bytes:
    buffer = Unseekable()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        zipped.writestr("export.bin", export())
        zipped.writestr("export.sig", signature())
    return buffer.getvalue()


def entries(*names: str, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in names:
            zipped.writestr(name, signature() if name.endswith(".sig") else export())
        zipped.comment = comment
    return buffer.getvalue()


def patched(where: bytes, offset: int, value: bytes, file: bytes = GOOD) -> bytes:
    """Overwrite `value` at `offset` after the first place where `where` stands."""
    at = file.index(where) + offset
    return file[:at] + value + file[at + len(value) :]


def single_entry(**attributes) -> bytes:
    """The good file, its first entry with other attributes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        entry = zipfile.ZipInfo("export.bin")
        entry.compress_type = zipfile.ZIP_DEFLATED
        for name, value in attributes.items():
            setattr(entry, name, value)
        zipped.writestr(entry, export())
        zipped.writestr("export.sig", signature(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def swapped_names() -> bytes:
    """A zip whose central directory calls each entry by the other's name."""
    at = GOOD.index(b"PK\x01\x02")
    names = {b"export.bin": b"export.sig", b"export.sig": b"export.bin"}
    tail = GOOD[at:]
    places = {name: tail.index(name) for name in names}
    for name, place in places.items():
        tail = tail[:place] + names[name] + tail[place + len(name) :]
    return GOOD[:at] + tail


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


# What is good


def test_the_good_file_is_read():
    file = read(GOOD)
    assert file.start == datetime.fromtimestamp(1_700_000_000, UTC)
    assert file.end == datetime.fromtimestamp(1_700_003_600, UTC)
    assert file.region == "US"
    assert file.signature_infos == (SignatureInfo("310", "v1", OID.decode()),)
    assert file.signatures == (DER,)
    assert file.keys == (DiagnosisKey(b"k" * 16, 2_833_200, 144, 3, None, None),)
    assert file.revised_keys == ()
    assert file.export_sha256 == hashlib.sha256(export()).hexdigest()


def test_a_file_of_googles_library_is_read_and_verified(make_file, trusted):
    keys = [
        {"key_data": bytes([n]) * 16, "transmission_risk_level": 0, "rolling_start_interval_number": 2_833_200}
        for n in range(200)
    ]
    rich = {
        "key_data": b"r" * 16,
        "transmission_risk_level": 8,
        "rolling_start_interval_number": 2_866_666,
        "rolling_period": 1,
        "report_type": 3,
        "days_since_onset_of_symptoms": -14,
    }
    revoked = {"key_data": b"x" * 16, "rolling_start_interval_number": 5, "report_type": 5}
    file = verify(make_file([*keys, rich], [revoked]), trusted)
    assert len(file.keys) == 201
    assert file.keys[3] == DiagnosisKey(b"\x03" * 16, 2_833_200, 144, 0, None, None)
    assert file.keys[-1] == DiagnosisKey(b"r" * 16, 2_866_666, 1, 8, 3, -14)
    assert file.revised_keys == (DiagnosisKey(b"x" * 16, 5, 144, 0, 5, None),)


@pytest.mark.parametrize("onset", range(-14, 15))
def test_every_day_of_onset_is_read_and_0_is_not_absent(make_file, onset):
    key = {"key_data": b"r" * 16, "days_since_onset_of_symptoms": onset}
    assert read(make_file([key])).keys[0].days_since_onset == onset


@pytest.mark.parametrize(
    "zipped",
    [
        pytest.param(archive(export(keys=b"")), id="no keys"),
        pytest.param(archive(export(), method=zipfile.ZIP_STORED), id="stored"),
        pytest.param(streamed(zipfile.ZIP_DEFLATED), id="deflate with data descriptor"),
        pytest.param(entries("export.sig", "export.bin"), id="signature first"),
        pytest.param(with_key(KEY + number(4, 1) + number(5, 1) + number(6, 27)), id="least period, onset -14"),
    ],
)
def test_other_good_files_are_read(zipped):
    assert read(zipped).region == "US"


def test_a_descriptor_without_its_optional_mark_is_read():
    """No library at hand writes it, so the marks are cut out and the offsets mended."""
    zipped = streamed(zipfile.ZIP_DEFLATED)
    first, second = (at for at in range(len(zipped)) if zipped.startswith(b"PK\x07\x08", at))
    directory = zipped.index(CENTRAL)
    cut = zipped[:first] + zipped[first + 4 : second] + zipped[second + 4 :]
    second_entry = zipped.index(LOCAL, 1)
    cut = patched(CENTRAL + zipped[directory + 4 : directory + 10], 42, struct.pack("<I", 0), cut)
    at = cut.index(CENTRAL, cut.index(CENTRAL) + 1)
    cut = cut[: at + 42] + struct.pack("<I", second_entry - 4) + cut[at + 46 :]
    cut = patched(END, 16, struct.pack("<I", directory - 8), cut)
    assert read(cut).keys == read(GOOD).keys


# What is not


FLAWS = {
    # the container
    "no bytes": (b"", "end too early"),
    "no zip": (b"x" * 100, "not two entries"),
    "only export.bin": (entries("export.bin"), "not two entries"),
    "a third entry": (entries("export.bin", "export.sig", "extra.txt"), "not two entries"),
    "a second export.bin": (patched(LOCAL, 30, b"export.sig"), "a second entry"),
    "a folder before the name": (entries("a/export.bin", "export.sig"), "neither"),
    "a path upwards": (entries("../export.bin", "export.sig"), "neither"),
    "another case": (entries("EXPORT.BIN", "export.sig"), "neither"),
    "bytes before": (b"x" + GOOD, "not two entries"),
    "bytes after": (GOOD + b"x", "end record"),
    "a comment": (entries("export.bin", "export.sig", comment=b"hello"), "end record"),
    "bytes between entries and directory": (GOOD.replace(CENTRAL, b"x" + CENTRAL, 1), "not two entries"),
    "bytes before the end record": (GOOD.replace(END, b"x" + END), "end record"),
    "an end record of three entries": (patched(END, 10, b"\x03"), "end record"),
    "an end record that points elsewhere": (patched(END, 16, b"\x00"), "end record"),
    "an end record of another disk": (patched(END, 4, b"\x01"), "end record"),
    "names swapped in the directory": (swapped_names(), "central directory"),
    "another offset in the directory": (patched(CENTRAL, 42, b"\x01"), "central directory"),
    "another checksum in the directory": (patched(CENTRAL, 16, b"\xff\xff"), "central directory"),
    "another size in the directory": (patched(CENTRAL, 24, b"\xff\xff"), "central directory"),
    "another method in the directory": (patched(CENTRAL, 10, b"\x00\x00"), "central directory"),
    "an unknown name in the directory": (patched(CENTRAL, 46, b"export.exe"), "neither"),
    "a comment in the directory": (single_entry(comment=b"hello"), "comment"),
    "a symbolic link": (single_entry(create_system=3, external_attr=0o120777 << 16), "no regular file"),
    "a directory": (single_entry(external_attr=0x10), "no regular file"),
    "extra fields": (single_entry(extra=b"\x75\x70\x01\x00\x01"), "extra fields"),
    "another packing": (archive(export(), method=zipfile.ZIP_BZIP2), "neither stored nor deflate"),
    "stored with data descriptor": (streamed(zipfile.ZIP_STORED), "cannot be streamed"),
    "encrypted": (patched(LOCAL, 6, b"\x01"), "flags"),
    "wrong checksum": (patched(LOCAL, 14, b"\xff\xff"), "checksum"),
    "wrong size": (patched(LOCAL, 22, b"\xff\xff"), "size"),
    "too short a packed size": (patched(LOCAL, 18, b"\x05\x00"), "deflate stream"),
    "too long a packed size": (patched(LOCAL, 18, b"\xff\x00"), "size"),
    "sizes before a descriptor too": (patched(LOCAL, 18, b"\x01", streamed(zipfile.ZIP_DEFLATED)), "states its sizes"),
    "a wrong descriptor": (patched(b"PK\x07\x08", 4, b"\0\0\0\0", streamed(zipfile.ZIP_DEFLATED)), "checksum"),
    "no deflate": (patched(LOCAL, 40, b"\xff\xff"), "not valid deflate"),
    # export.bin
    "empty export.bin": (archive(b""), "header"),
    "a short header": (archive(HEADER[:15]), "header"),
    "another version": (archive(export(header=b"EK Export v2    ")), "header"),
    "no message": (archive(HEADER), "span"),
    "no start": (archive(export(start=b"")), "span"),
    "no end": (archive(export(end=b"")), "span"),
    "an empty span": (archive(export(end=fixed64(2, 1_700_000_000))), "span"),
    "a span backwards": (archive(export(end=fixed64(2, 1_600_000_000))), "span"),
    "an end beyond the calendar": (archive(export(end=fixed64(2, 2**64 - 1))), "span"),
    "no region": (archive(export(region=b"")), "no region"),
    "a region that is not UTF-8": (archive(export(region=data(3, b"\xff"))), "UTF-8"),
    "no batch number": (archive(export(number=b"")), "batch None of 1"),
    "no batch size": (archive(export(size=b"")), "batch 1 of None"),
    "batch 2 of 2": (archive(export(number=number(4, 2), size=number(5, 2))), "batch 2 of 2"),
    "a start twice": (archive(export(end=PARTS["start"] + PARTS["end"])), "field 1 twice"),
    "fields out of order": (archive(export(start=PARTS["end"], end=PARTS["start"])), "out of order"),
    "an unknown field": (archive(export(tail=number(9, 1))), "unknown field"),
    "a field of a high number": (archive(export(tail=number(100, 1))), "unknown field"),
    "field 0": (archive(export(start=b"\x00\x00")), "unknown field"),
    "a group": (archive(export(tail=b"\x4b\x4c")), "unknown field"),
    "start as varint": (archive(export(start=number(1, 1_700_000_000))), "wire type"),
    "keys as varint": (archive(export(keys=number(7, 1))), "wire type"),
    "trailing garbage": (archive(export(tail=b"\xff\xff")), "unknown field"),
    "a message cut off in a key": (archive(export()[:-5]), "longer than the message"),
    "a message cut off in a timestamp": (archive(HEADER + PARTS["start"][:5]), "longer than the message"),
    "a length beyond the end": (archive(export(tail=b"\x42\xff\xff\x03")), "longer than the message"),
    "a length of ten bytes": (archive(export(tail=b"\x42" + b"\xff" * 9 + b"\x01")), "more than 5 bytes"),
    "a varint cut off": (archive(export(tail=b"\x42\x80")), "inside a varint"),
    "a varint in more bytes than needed": (archive(export(number=b"\x20\x81\x00")), "more bytes than it needs"),
    # keys
    "a key of 15 bytes": (with_key(data(1, b"k" * 15) + number(3, 1)), "key 1 of keys: does not begin"),
    "a key of 17 bytes": (with_key(data(1, b"k" * 17)), "does not begin"),
    "no key data": (with_key(number(3, 1)), "does not begin"),
    "an empty key": (with_key(b""), "does not begin"),
    "key data twice": (with_key(data(1, b"k" * 16) * 2), "unknown field"),
    "risk 9": (with_key(data(1, b"k" * 16) + number(2, 9)), "transmission risk of 9"),
    "a negative risk": (with_key(data(1, b"k" * 16) + number(2, 2**64 - 1)), "more than 5 bytes"),
    "a negative start": (with_key(data(1, b"k" * 16) + number(3, 2**64 - 1)), "more than 5 bytes"),
    "a start beyond int32": (with_key(data(1, b"k" * 16) + number(3, 2**31)), "rolling start of 2147483648"),
    "period 0": (with_key(KEY + number(4, 0)), "rolling period of 0"),
    "period 145": (with_key(KEY + number(4, 145)), "rolling period of 145"),
    "report type UNKNOWN": (with_key(KEY + number(5, 0)), "report type 0"),
    "report type RECURSIVE": (with_key(KEY + number(5, 4)), "report type 4"),
    "report type 6": (with_key(KEY + number(5, 6)), "report type 6"),
    "REVOKED among new keys": (with_key(KEY + number(5, 5)), "report type 5"),
    "RECURSIVE among revised keys": (
        archive(export(revised=data(8, KEY + number(5, 4)))),
        "of revised_keys: .* type 4",
    ),
    "onset 15": (with_key(KEY + number(6, 30)), "days since onset of 15"),
    "onset -15": (with_key(KEY + number(6, 29)), "days since onset of -15"),
    "a key that starts when the file ends": (
        with_key(data(1, b"k" * 16) + number(3, 2_833_340)),
        "a key of keys starts after",
    ),
    "a revised key that starts after the file's end": (
        archive(export(revised=data(8, data(1, b"k" * 16) + number(3, 2**31 - 1)))),
        "a key of revised_keys starts after",
    ),
    "a variant of concern": (with_key(KEY + number(8, 1)), "unknown field"),
    "a risk twice": (with_key(data(1, b"k" * 16) + number(2, 1) * 2), "field 2 twice"),
    "the second key is bad": (archive(export(keys=data(7, KEY) + data(7, KEY + number(4, 0)))), "key 2 of keys"),
    # signatures
    "no signatures": (archive(export(infos=b""), b""), "0 signature infos"),
    "an info without signature": (archive(export(infos=data(6, INFO) * 2)), "2 signature infos and 1 signatures"),
    "a signature without info": (archive(export(), signature() * 2), "1 signature infos and 2 signatures"),
    "eleven signatures": (archive(export(infos=data(6, INFO) * 11), signature() * 11), "more than 10 signature infos"),
    "another key in export.sig": (archive(export(), signature(info(key_id=b"311"))), "names other signing keys"),
    "signatures in another order": (
        archive(
            export(infos=data(6, INFO) + data(6, info(b"v2"))),
            signature(info(b"v2")) + signature(),
        ),
        "in another order",
    ),
    "no info in export.sig": (archive(export(), data(1, data(4, DER))), "signature info"),
    "another algorithm": (archive(export(infos=data(6, info(oid=b"1.2.840.10045.4.3.4")))), "another algorithm"),
    "the algorithm by name": (archive(export(infos=data(6, info(oid=b"SHA256withECDSA")))), "another algorithm"),
    "no key id": (archive(export(infos=data(6, info(key_id=b"")))), "letters, digits"),
    "a key version with a hyphen": (archive(export(infos=data(6, info(version=b"v-1")))), "letters, digits"),
    "an app's name in an info": (archive(export(infos=data(6, data(1, b"app") + INFO))), "unknown field"),
    "batch 1 of 2 in export.sig": (archive(export(), signature(rest=number(2, 1) + number(3, 2))), "export.sig: batch"),
    "no batch in export.sig": (archive(export(), signature(rest=b"")), "export.sig: batch"),
    "a header before export.sig": (archive(export(), HEADER + signature()), "unknown field"),
    "a raw signature": (archive(export(), signature(der=bytes(64))), "DER"),
    "no signature bytes": (archive(export(), data(1, data(1, INFO) + number(2, 1) + number(3, 1))), "DER"),
}


@pytest.mark.parametrize(("zipped", "message"), FLAWS.values(), ids=FLAWS)
def test_a_flawed_file_is_refused(zipped, message):
    assert zipped != GOOD
    with pytest.raises(FormatError, match=message):
        read(zipped)


@pytest.mark.parametrize("length", range(0, len(GOOD), 7))
def test_a_truncated_file_is_refused(length):
    with pytest.raises(FormatError):
        read(GOOD[:length])


def test_a_bomb_is_stopped_at_the_limit():
    bomb = archive(export(tail=data(8, bytes(5_000_000))))
    assert len(bomb) < 10_000
    with pytest.raises(FormatError, match="unpacks to more than 1000000 bytes"):
        read(bomb, max_entry_size=1_000_000)
    with pytest.raises(FormatError, match="or more than 1000000 bytes"):
        read(archive(export(tail=bytes(2_000_000)), method=zipfile.ZIP_STORED), max_entry_size=1_000_000)


def test_a_bomb_in_the_signatures_is_stopped_much_earlier():
    with pytest.raises(FormatError, match="unpacks to more than 65536 bytes"):
        read(archive(export(), bytes(65_537)))


def test_many_empty_records_are_refused_at_the_first():
    """They would take far more room as objects than in the file."""
    tracemalloc.start()
    try:
        for field in (6, 7, 8):
            with pytest.raises(FormatError, match=r"key 1 of|letters, digits"):
                read(archive(export(infos=b"", keys=b"", revised=data(field, b"") * 1_000_000)))
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def test_an_entry_of_just_the_limit_is_read():
    size = len(export())
    assert read(GOOD, max_entry_size=size).region == "US"
    with pytest.raises(FormatError, match="more than"):
        read(GOOD, max_entry_size=size - 1)


# Signatures


def test_a_changed_key_does_not_verify(make_file, trusted, signing_key):
    file = make_file([{"key_data": b"k" * 16}])
    with zipfile.ZipFile(io.BytesIO(file)) as zipped:
        forged = zipped.read("export.bin").replace(b"k" * 16, b"l" * 16)
        signatures = zipped.read("export.sig")
    assert verify(file, trusted).keys[0].key == b"k" * 16
    with pytest.raises(VerificationError, match="does not verify"):
        verify(archive(forged, signatures), trusted)


def test_a_file_of_another_key_of_the_same_name_does_not_verify(make_file, trusted):
    stranger = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(VerificationError, match="does not verify"):
        verify(make_file(signers=[("310", "v1", stranger)]), trusted)


@pytest.mark.parametrize("name", [("310", "v2"), ("311", "v1")])
def test_a_file_without_a_trusted_name_is_refused(make_file, trusted, signing_key, name):
    with pytest.raises(VerificationError, match="no signature by a trusted key"):
        verify(make_file(signers=[(*name, signing_key)]), trusted)


def test_a_rotation_is_followed_with_either_key(make_file, signing_key):
    other = ec.generate_private_key(ec.SECP256R1())
    file = make_file(signers=[("310", "v2", other), ("310", "v1", signing_key)])
    for trusted in (
        {("310", "v1"): signing_key.public_key()},
        {("310", "v2"): other.public_key()},
        {("310", "v1"): signing_key.public_key(), ("310", "v2"): other.public_key()},
    ):
        assert len(verify(file, trusted).signatures) == 2


def test_one_good_signature_does_not_excuse_a_bad_one(make_file, trusted, signing_key):
    other = ec.generate_private_key(ec.SECP256R1())
    both = {**trusted, ("310", "v2"): ec.generate_private_key(ec.SECP256R1()).public_key()}
    file = make_file(signers=[("310", "v1", signing_key), ("310", "v2", other)])
    with pytest.raises(VerificationError, match="310-v2 does not verify"):
        verify(file, both)


def test_ten_signatures_are_accepted(make_file, signing_key):
    file = make_file(signers=[("310", f"v{n}", signing_key) for n in range(10)])
    assert len(verify(file, {("310", "v9"): signing_key.public_key()}).signatures) == 10


def test_a_trusted_key_of_another_curve_is_a_fault_of_ours(make_file):
    with pytest.raises(ConfigurationError, match="P-256"):
        verify(make_file(), {("310", "v1"): ec.generate_private_key(ec.SECP384R1()).public_key()})


@pytest.mark.parametrize("place", [0, 1])
def test_a_key_is_found_among_the_signatures_whatever_it_is_called(make_file, place):
    signers = [("310", f"v{n}", ec.generate_private_key(ec.SECP256R1())) for n in range(2)]
    file, info = verify_by(make_file(signers=signers), signers[place][2].public_key())
    assert (info.key_id, info.key_version) == ("310", f"v{place}")
    assert len(file.signatures) == 2


def test_a_key_that_did_not_sign_is_not_found(make_file):
    with pytest.raises(VerificationError, match="no signature by this key"):
        verify_by(make_file(), ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(ConfigurationError, match="P-256"):
        verify_by(make_file(), ec.generate_private_key(ec.SECP384R1()).public_key())


# Files of one index


def test_files_of_one_index_have_spans_of_their_own():
    start = datetime(2024, 5, 20, tzinfo=UTC)
    spans = [(start, start + timedelta(seconds=n)) for n in (1, 2)] + [(start + timedelta(seconds=1),) * 2]
    demand_distinct(spans)
    with pytest.raises(VerificationError, match="the same span, 2024-05-20 00:00:00 to 2024-05-20 00:00:02 UTC"):
        demand_distinct([*spans, spans[1]])


# Anything at all


@pytest.fixture(scope="module")
def signed(make_file) -> bytes:
    return make_file([{"key_data": b"k" * 16, "report_type": 1}] * 3, [{"key_data": b"x" * 16, "report_type": 5}])


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_bytes_end_in_our_errors(trusted, signed, drawn):
    """Bytes of a zip, or of one of its entries, are changed, cut, doubled: a phone reads no more than was signed."""
    with zipfile.ZipFile(io.BytesIO(signed)) as zipped:
        contents = [zipped.read("export.bin"), zipped.read("export.sig")]
    targets = [signed, *contents]
    target = drawn.draw(st.integers(0, 2))
    body = bytearray(targets[target])
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(body)))
        body[at : at + drawn.draw(st.integers(0, 4))] = drawn.draw(st.binary(max_size=4))
    targets[target] = bytes(body)
    mutated = targets[0] if target == 0 else archive(*targets[1:])
    try:
        file = verify(mutated, trusted)
    except KeyserverError:
        return
    assert file.export_sha256 == hashlib.sha256(contents[0]).hexdigest()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_a_sound_zip_end_in_our_errors(content):
    for file in (
        archive(content),
        archive(HEADER + content),
        archive(export(tail=content)),
        archive(export(), content),
    ):
        try:
            read(file)
        except FormatError:
            continue
