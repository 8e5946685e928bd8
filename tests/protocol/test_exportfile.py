from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keyserver.device import exportreader
from keyserver.errors import ConfigurationError, FormatError
from keyserver.protocol import exportfile
from keyserver.protocol.exportfile import REPORT_TYPES, Header, KeyRun, Metadata, SignatureInfo
from keyserver.protocol.pb import export_pb2

START = datetime(2020, 5, 1, tzinfo=UTC)
HEADER = Header(START, START + timedelta(hours=1), "US", (SignatureInfo("310", "1"),))
ORDINARY = Metadata(REPORT_TYPES["confirmed"], 2, None, 2_645_568, 144)

GOLDEN = bytes.fromhex(
    "454b204578706f727420763120202020098066ab5e00000000119074ab5e0000"
    "00001a02555320012801321d1a013122033331302a13312e322e3834302e3130"
    "3034352e342e332e323a0f0a03414243100818122000280230003a0f0a034445"
    "46100118762001280130013a0f0a0347484910051876200128033001420b0a03"
    "313233100418642805"
)
GOLDEN_KEYS = [
    KeyRun(Metadata(REPORT_TYPES["likely"], 8, 0, 18, 0), b"ABC", 3),
    KeyRun(Metadata(REPORT_TYPES["confirmed"], 1, -1, 118, 1), b"DEF", 3),
    KeyRun(Metadata(REPORT_TYPES["user-report"], 5, -1, 118, 1), b"GHI", 3),
]
GOLDEN_REVISED = [KeyRun(Metadata(REPORT_TYPES["negative"], 4, None, 100, 144), b"123", 3)]


def ordered(keys: set[bytes]) -> bytes:
    return b"".join(sorted(keys))


any_metadata = st.builds(
    Metadata,
    report_type=st.sampled_from([None, 0, 1, 2, 3, 4, 5]),
    transmission_risk=st.integers(0, 8) | st.integers(-(2**31), 2**31 - 1),
    days_since_onset=st.none() | st.integers(-14, 14) | st.integers(-(2**31), 2**31 - 1),
    rolling_start=st.just(0) | st.integers(-(2**31), 2**31 - 1),
    rolling_period=st.just(144) | st.integers(0, 145) | st.integers(-(2**31), 2**31 - 1),
)
any_runs = st.lists(
    st.builds(KeyRun, any_metadata, st.sets(st.binary(min_size=16, max_size=16), max_size=6).map(ordered), st.just(16)),
    max_size=5,
)
any_second = st.integers(0, 253_402_300_799).map(lambda second: datetime.fromtimestamp(second, UTC))
any_header = st.builds(
    Header,
    start=any_second,
    end=any_second,
    region=st.text(max_size=12),
    signature_infos=st.lists(
        st.builds(
            SignatureInfo,
            st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True),
            st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True),
        ),
        min_size=1,
        max_size=10,
    ).map(tuple),
)


def by_the_library(header: Header, keys: list[KeyRun], revised_keys: list[KeyRun]) -> bytes:
    """Build the same file message by message, field by field, from the sheet alone."""
    export = export_pb2.TemporaryExposureKeyExport()
    export.start_timestamp = int(header.start.timestamp())
    export.end_timestamp = int(header.end.timestamp())
    export.region = header.region
    export.batch_num = export.batch_size = 1
    for info in header.signature_infos:
        message = export.signature_infos.add()
        message.verification_key_version = info.key_version
        message.verification_key_id = info.key_id
        message.signature_algorithm = "1.2.840.10045.4.3.2"
    for messages, runs in ((export.keys, keys), (export.revised_keys, revised_keys)):
        for run in runs:
            for place in range(run.count):
                key = messages.add()
                key.key_data = run.keys[16 * place : 16 * place + 16]
                key.transmission_risk_level = run.metadata.transmission_risk
                if run.metadata.rolling_start != 0:
                    key.rolling_start_interval_number = run.metadata.rolling_start
                if run.metadata.rolling_period != 144:
                    key.rolling_period = run.metadata.rolling_period
                if run.metadata.report_type is not None:
                    key.report_type = run.metadata.report_type
                if run.metadata.days_since_onset is not None:
                    key.days_since_onset_of_symptoms = run.metadata.days_since_onset
    return b"EK Export v1    " + export.SerializeToString(deterministic=True)


def tuples(runs: list[KeyRun]) -> list[exportfile.DecodedKey]:
    return [
        (run.part(place, place + 1).keys, m.report_type, m.transmission_risk, m.days_since_onset, m.rolling_start,
         m.rolling_period)
        for run in runs
        for m in [run.metadata]
        for place in range(run.count)
    ]  # fmt: skip


# The schema


@pytest.mark.parametrize("proto", ["export", "revision"])
def test_generated_messages_are_those_of_the_proto_file(tmp_path: Path, proto: str) -> None:
    include = Path(exportfile.__file__).parents[2]
    name = f"keyserver/protocol/pb/{proto}"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{include}", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", f"{include}/{name}.proto"], check=True)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        assert (tmp_path / (name + suffix)).read_text() == (include / (name + suffix)).read_text()


# export.bin


def test_export_scenario_12_golden_vector() -> None:
    written = exportfile.encode(HEADER, GOLDEN_KEYS, GOLDEN_REVISED)
    assert written == GOLDEN
    assert len(written) == 137
    assert base64.b64encode(hashlib.sha256(written).digest()) == b"ho9AqUPleXoGs4wc5PEUU7MvbToDryEnQ+rJ8Fb1Hvc="


def test_export_scenario_11_the_golden_vector_is_read_back() -> None:
    read = exportfile.decode(GOLDEN)
    assert read.header == HEADER
    assert read.keys == [
        (b"ABC", 2, 8, 0, 18, 0),
        (b"DEF", 1, 1, -1, 118, 1),
        (b"GHI", 3, 5, -1, 118, 1),
    ]
    assert read.revised_keys == [(b"123", 5, 4, None, 100, 144)]


@settings(deadline=None)
@given(any_header, any_runs, any_runs)
def test_bytes_are_those_of_the_protobuf_library(
    header: Header, keys: list[KeyRun], revised_keys: list[KeyRun]
) -> None:
    written = exportfile.encode(header, keys, revised_keys)
    assert written == by_the_library(header, keys, revised_keys)
    assert exportfile.decode(written) == exportfile.Decoded(header, tuples(keys), tuples(revised_keys))


@pytest.mark.parametrize(
    ("metadata", "tail"),
    [
        (Metadata(None, 0, None, 0, 144), "1000"),
        (Metadata(1, 0, 0, 0, 144), "100028013000"),
        (Metadata(None, 8, 14, 1, 1), "100818012001301c"),
        (Metadata(5, 1, -14, 2_645_568, 143), "100118c0bca101208f012805301b"),
    ],
)
def test_what_a_key_leaves_out(metadata: Metadata, tail: str) -> None:
    key = bytes(range(16))
    record = b"\x0a\x10" + key + bytes.fromhex(tail)
    empty = exportfile.encode(HEADER, [], [])
    assert exportfile.encode(HEADER, [KeyRun(metadata, key)], []) == empty + bytes([0x3A, len(record)]) + record
    assert exportfile.encode(HEADER, [], [KeyRun(metadata, key)]) == empty + bytes([0x42, len(record)]) + record


def test_a_time_in_another_zone_is_the_same_second() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    moved = Header(START.astimezone(zone), HEADER.end.astimezone(zone), HEADER.region, HEADER.signature_infos)
    assert exportfile.encode(moved, [], []) == exportfile.encode(HEADER, [], [])


@pytest.mark.parametrize(
    ("header", "metadata"),
    [
        (Header(datetime(2020, 5, 1), HEADER.end, "US", HEADER.signature_infos), ORDINARY),  # noqa: DTZ001
        (Header(datetime(1969, 5, 1, tzinfo=UTC), HEADER.end, "US", HEADER.signature_infos), ORDINARY),
        (Header(START, HEADER.end, "\ud800", HEADER.signature_infos), ORDINARY),
        (HEADER, Metadata(6, 0, None, 0, 144)),
        (HEADER, Metadata(1, 2**31, None, 0, 144)),
        (HEADER, Metadata(1, 0, 2**31, 0, 144)),
        (HEADER, Metadata(1, 0, 0, -(2**31) - 1, 144)),
    ],
    ids=["naive", "before-1970", "surrogate", "type", "risk", "onset", "start"],
)
def test_what_the_schema_cannot_hold(header: Header, metadata: Metadata) -> None:
    with pytest.raises(FormatError):
        exportfile.encode(header, [KeyRun(metadata, bytes(16))], [])


def changed(**fields: object) -> bytes:
    """Return the golden file's message with other values; None takes a field away."""
    message = export_pb2.TemporaryExposureKeyExport.FromString(GOLDEN[16:])
    for name, value in fields.items():
        message.ClearField(name)
        if isinstance(value, list):
            getattr(message, name).extend(value)
        elif value is not None:
            setattr(message, name, value)
    return GOLDEN[:16] + message.SerializeToString()


KEY = {"key_data": bytes(16), "transmission_risk_level": 1}
INFO = {"verification_key_version": "1", "verification_key_id": "310", "signature_algorithm": "1.2.840.10045.4.3.2"}
UNREADABLE = {
    "empty": b"",
    "cut header": GOLDEN[:15],
    "other header": b"EK Export v2    " + GOLDEN[16:],
    "header in small letters": b"ek export v1    " + GOLDEN[16:],
    "no message": GOLDEN[:16],
    "cut": GOLDEN[:-1],
    "zero behind": GOLDEN + b"\0",
    "unknown field of the export": GOLDEN + bytes.fromhex("4801"),
    "unknown field of a key": changed(
        keys=[export_pb2.TemporaryExposureKey.FromString(bytes.fromhex("0a10" + 16 * "00" + "10013801"))]
    ),
    "report type 6": GOLDEN[:-1] + b"\x06",
    "field twice": GOLDEN + bytes.fromhex("2801"),
    "out of order": GOLDEN[:16] + GOLDEN[25:34] + GOLDEN[16:25] + GOLDEN[34:],
    "padded number": GOLDEN[:-8] + b"\x0c" + GOLDEN[-7:-1] + b"\x85\0",
    "no start": changed(start_timestamp=None),
    "no end": changed(end_timestamp=None),
    "end beyond the calendar": changed(end_timestamp=2**64 - 1),
    "no region": changed(region=None),
    "region not UTF-8": GOLDEN.replace(b"\x1a\x02US", b"\x1a\x02\xff\xff"),
    "key id not UTF-8": GOLDEN.replace(b"\x22\x03310", b"\x22\x03\xff10"),
    "no batch number": changed(batch_num=None),
    "no batch size": changed(batch_size=None),
    "first of two": changed(batch_size=2),
    "no signature info": changed(signature_infos=[]),
    "no key id": changed(signature_infos=[export_pb2.SignatureInfo(**INFO | {"verification_key_id": None})]),
    "no key version": changed(signature_infos=[export_pb2.SignatureInfo(**INFO | {"verification_key_version": None})]),
    "no algorithm": changed(signature_infos=[export_pb2.SignatureInfo(**INFO | {"signature_algorithm": None})]),
    "SHA-512": changed(
        signature_infos=[export_pb2.SignatureInfo(**INFO | {"signature_algorithm": "1.2.840.10045.4.3.4"})]
    ),
    "no key data": changed(keys=[export_pb2.TemporaryExposureKey(**KEY | {"key_data": None})]),
    "no risk": changed(revised_keys=[export_pb2.TemporaryExposureKey(**KEY | {"transmission_risk_level": None})]),
    "variant": changed(keys=[export_pb2.TemporaryExposureKey(**KEY, variant_of_concern=1)]),
}


@pytest.mark.parametrize("export_bin", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable(export_bin: bytes) -> None:
    with pytest.raises(FormatError):
        exportfile.decode(export_bin)


def test_an_unchanged_message_is_readable() -> None:
    assert exportfile.decode(changed()) == exportfile.decode(GOLDEN)
    assert exportfile.decode(changed(keys=[export_pb2.TemporaryExposureKey(**KEY)])).keys == [
        (bytes(16), None, 1, None, 0, 144)
    ]
    assert exportfile.decode(changed(signature_infos=[export_pb2.SignatureInfo(**INFO)])).header == HEADER


@settings(deadline=None)
@given(st.binary(max_size=80) | st.integers(0, 8 * len(GOLDEN) - 1))
def test_any_bytes_are_read_or_refused(damage: bytes | int) -> None:
    if isinstance(damage, int):
        damaged = bytearray(GOLDEN)
        damaged[damage // 8] ^= 1 << damage % 8
    else:
        damaged = bytearray(GOLDEN[:16] + damage)
    try:
        read = exportfile.decode(bytes(damaged))
    except FormatError:
        return
    # What is read is all that was there.
    runs = [
        [KeyRun(Metadata(*key[1:]), key[0], len(key[0])) for key in keys] for keys in (read.keys, read.revised_keys)
    ]
    if all(key[0] for key in read.keys + read.revised_keys):
        again = exportfile.decode(exportfile.encode(read.header, *runs))
        assert again == read


# Splitting


@settings(deadline=None)
@given(any_runs, any_runs, st.integers(1, 12))
def test_split(keys: list[KeyRun], revised_keys: list[KeyRun], most: int) -> None:
    files = list(exportfile.split(keys, revised_keys, most))
    sizes = [sum(run.count for run in first + revised) for first, revised in files]
    # Nothing is lost, doubled or moved, ...
    assert [key for first, _ in files for key in tuples(first)] == tuples(keys)
    assert [key for _, revised in files for key in tuples(revised)] == tuples(revised_keys)
    # ... all files but the last are full, and none is empty,
    assert sizes[:-1] == [most] * len(sizes[:-1])
    assert all(0 < size <= most for size in sizes)
    # and first keys come before revised ones, of which no earlier file has any.
    kinds = "".join("k" * len(tuples(first)) + "r" * len(tuples(revised)) for first, revised in files)
    assert kinds == "".join(sorted(kinds))
    assert all(run.count > 0 for first, revised in files for run in first + revised)


def test_split_in_plain_numbers() -> None:
    run = KeyRun(ORDINARY, bytes(range(80)))
    other = KeyRun(Metadata(5, 2, None, 2_645_568, 144), bytes(range(100, 132)))
    assert list(exportfile.split([run], [other], 3)) == [
        ([KeyRun(ORDINARY, bytes(range(48)))], []),
        ([KeyRun(ORDINARY, bytes(range(48, 80)))], [KeyRun(other.metadata, bytes(range(100, 116)))]),
        ([], [KeyRun(other.metadata, bytes(range(116, 132)))]),
    ]
    assert list(exportfile.split([run], [other], 7)) == [([run], [other])]
    assert list(exportfile.split([], [], 7)) == []
    assert list(exportfile.split([KeyRun(ORDINARY, b"")], [], 7)) == []


@pytest.mark.parametrize("most", [0, -1])
def test_a_file_needs_room(most: int) -> None:
    with pytest.raises(ConfigurationError):
        list(exportfile.split([], [], most))


def test_files_of_a_split_batch_have_distinct_ends() -> None:
    assert exportfile.end_timestamp(START, 1, split=False) == START
    ends = [exportfile.end_timestamp(START, number, split=True) - START for number in (1, 2, 3)]
    assert ends == [timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=3)]


@pytest.mark.parametrize("split", [False, True])
def test_files_of_a_supplement_end_after_all_that_its_chain_has_used(split: bool) -> None:
    assert exportfile.end_timestamp(START, 1, split=split, used=0) - START == timedelta(seconds=1)
    assert exportfile.end_timestamp(START, 2, split=split, used=3) - START == timedelta(seconds=5)


def test_a_run_puts_keys_in_the_order_of_their_bytes() -> None:
    keys = [bytes(16), b"\xff" * 16, b"\x01" + bytes(15), bytes(15) + b"\x01", b"\x7f" * 16, b"\x80" + bytes(15)]
    assert KeyRun.of(ORDINARY, b"".join(keys)) == KeyRun(ORDINARY, b"".join(sorted(keys)))


# export.sig, the zip, and what a phone makes of both


INFOS = (SignatureInfo("310", "v2"), SignatureInfo("310", "v1"))


def test_signatures_stand_in_the_order_of_the_infos() -> None:
    read = export_pb2.TEKSignatureList.FromString(exportfile.encode_signatures(INFOS, [b"new", b"old"]))
    assert [
        (s.signature_info.verification_key_id, s.signature_info.verification_key_version, s.signature)
        for s in read.signatures
    ] == [("310", "v2", b"new"), ("310", "v1", b"old")]
    assert {s.signature_info.signature_algorithm for s in read.signatures} == {"1.2.840.10045.4.3.2"}
    assert {(s.batch_num, s.batch_size) for s in read.signatures} == {(1, 1)}
    # Field by field: info (version, id, algorithm), 1 of 1, signature, and no header.
    assert exportfile.encode_signatures(INFOS[1:], [b"old"]) == bytes.fromhex(
        "0a290a1e1a02763122033331302a13312e322e3834302e31303034352e342e332e321001180122036f6c64"
    )


@pytest.mark.parametrize(("infos", "signatures"), [((), []), (INFOS, [b"new"]), (INFOS[:1], [b"new", b"old"])])
def test_no_file_without_a_signature_for_each_info(infos: tuple[SignatureInfo, ...], signatures: list[bytes]) -> None:
    with pytest.raises(FormatError):
        exportfile.encode_signatures(infos, signatures)


def test_zip() -> None:
    export_sig = exportfile.encode_signatures(INFOS[:1], [b"signature"])
    packed = exportfile.pack(GOLDEN, export_sig)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert [(entry.filename, archive.read(entry)) for entry in archive.infolist()] == [
            ("export.bin", GOLDEN),
            ("export.sig", export_sig),
        ]
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert (entry.create_system, entry.external_attr, entry.compress_type) == (3, 0o100644 << 16, 8)
            # No data descriptor, no extra field: a reader from the front needs neither.
            assert (entry.flag_bits, entry.extra, entry.comment) == (0, b"", b"")


def test_zip_has_the_bytes_that_its_compressor_promises() -> None:
    content = GOLDEN + bytes(1000)
    packed = exportfile.pack(content, b"")
    deflater = zlib.compressobj(4, zlib.DEFLATED, -11, 9)
    deflated = deflater.compress(content) + deflater.flush()
    start = 30 + len("export.bin")
    assert packed[start : start + len(deflated)] == deflated
    assert packed[start + len(deflated) :].startswith(b"PK\x03\x04")
    assert packed == exportfile.pack(content, b"")
    assert exportfile.COMPRESSOR.removeprefix(f"zlib {zlib.ZLIB_RUNTIME_VERSION} ") == "level 4 window 11 memory 9"


def test_a_phone_reads_and_verifies_the_file() -> None:
    keys = [KeyRun(ORDINARY, bytes(range(64))), KeyRun(Metadata(3, 0, -3, 2_645_000, 7), bytes(range(16)))]
    revised = [KeyRun(Metadata(REPORT_TYPES["negative"], 4, None, 2_645_000, 144), bytes(range(200, 216)))]
    header = Header(START, HEADER.end, "Å", INFOS)
    export_bin = exportfile.encode(header, keys, revised)
    signers = [ec.generate_private_key(ec.SECP256R1()) for _ in INFOS]
    signatures = [signer.sign(export_bin, ec.ECDSA(hashes.SHA256())) for signer in signers]
    packed = exportfile.pack(export_bin, exportfile.encode_signatures(INFOS, signatures))
    trusted = {
        (info.key_id, info.key_version): signer.public_key() for info, signer in zip(INFOS, signers, strict=True)
    }
    read = exportreader.verify(packed, trusted)
    assert (read.start, read.end, read.region) == (header.start, header.end, header.region)
    assert read.export_sha256 == hashlib.sha256(export_bin).hexdigest()
    for found, runs in ((read.keys, keys), (read.revised_keys, revised)):
        assert [
            (k.key, k.report_type, k.transmission_risk, k.days_since_onset, k.rolling_start, k.rolling_period)
            for k in found
        ] == tuples(runs)


# Names and the index


def test_file_name() -> None:
    start, end = datetime(2026, 3, 2, 10, 0, tzinfo=UTC), datetime(2026, 3, 2, 11, 0, tzinfo=UTC)
    digest = bytes.fromhex("0123abcd" + 28 * "ff")
    assert (
        exportfile.file_name("at/hourly", start, end, 7, digest) == "at/hourly/1772445600-1772449200-00007-0123abcd.zip"
    )


def test_index() -> None:
    assert exportfile.index_content([]) == b""
    assert exportfile.index_content(["at/1-2-00001-0123abcd.zip"]) == b"at/1-2-00001-0123abcd.zip"
    assert exportfile.index_content(["b.zip", "a.zip"]) == b"b.zip\na.zip"


@pytest.mark.parametrize("name", ["", "a\nb", "a.zip\n", "ä.zip", "a b.zip", "a.zip\r"])
def test_a_line_of_the_index_is_a_name(name: str) -> None:
    with pytest.raises(FormatError):
        exportfile.index_content(["good.zip", name])


def test_what_the_web_server_is_told() -> None:
    assert (exportfile.FILE_CONTENT_TYPE, exportfile.FILE_CACHE_CONTROL) == ("application/zip", "public, max-age=86400")
    assert (exportfile.INDEX_CONTENT_TYPE, exportfile.INDEX_CACHE_CONTROL) == ("text/plain", "no-cache, max-age=0")
    assert exportfile.INDEX_NAME == "index.txt"
