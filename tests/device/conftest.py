"""Good export files, made by Google's protobuf library from a descriptor that stands here; and a real web server."""

from __future__ import annotations

import io
import itertools
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from starlette.applications import Starlette

OPTIONAL, REPEATED = 1, 3
FIXED64, INT32, STRING, MESSAGE, BYTES, SINT32 = 6, 5, 9, 11, 12, 17

# The schema of export.md 1.3; report_type is read and written as its number, so int32 stands for the enum.
SCHEMA = {
    "SignatureInfo": [
        ("verification_key_version", 3, STRING),
        ("verification_key_id", 4, STRING),
        ("signature_algorithm", 5, STRING),
    ],
    "TemporaryExposureKey": [
        ("key_data", 1, BYTES),
        ("transmission_risk_level", 2, INT32),
        ("rolling_start_interval_number", 3, INT32),
        ("rolling_period", 4, INT32),
        ("report_type", 5, INT32),
        ("days_since_onset_of_symptoms", 6, SINT32),
    ],
    "TemporaryExposureKeyExport": [
        ("start_timestamp", 1, FIXED64),
        ("end_timestamp", 2, FIXED64),
        ("region", 3, STRING),
        ("batch_num", 4, INT32),
        ("batch_size", 5, INT32),
        ("signature_infos", 6, "SignatureInfo"),
        ("keys", 7, "TemporaryExposureKey"),
        ("revised_keys", 8, "TemporaryExposureKey"),
    ],
    "TEKSignature": [
        ("signature_info", 1, "SignatureInfo"),
        ("batch_num", 2, INT32),
        ("batch_size", 3, INT32),
        ("signature", 4, BYTES),
    ],
    "TEKSignatureList": [("signatures", 1, "TEKSignature")],
}
LISTS = {"signature_infos", "keys", "revised_keys", "signatures"}

Signers = Sequence[tuple[str, str, ec.EllipticCurvePrivateKey]]


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="device_tests.proto", package="device_tests", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(
                name=field_name, number=number, label=REPEATED if field_name in LISTS else OPTIONAL
            )
            if isinstance(kind, str):
                field.type, field.type_name = MESSAGE, f".device_tests.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"device_tests.{name}")) for name in SCHEMA
    }


@pytest.fixture(scope="session")
def signing_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def trusted(signing_key):
    return {("310", "v1"): signing_key.public_key()}


@pytest.fixture(scope="session")
def make_file(signing_key) -> Callable[..., bytes]:
    """A function that makes the zip of a signed file; keys are dicts of the schema's field names.

    Files have spans of their own, as those of one index must; all end after the tests' phones were used.
    """
    messages = _messages()
    starts = itertools.count(1_720_000_000, 3600)

    def make(
        keys: Iterable[dict[str, Any]] = (),
        revised_keys: Iterable[dict[str, Any]] = (),
        *,
        start: int | None = None,
        signers: Signers = (("310", "v1", signing_key),),
    ) -> bytes:
        start = start or next(starts)
        infos = [
            {
                "verification_key_version": version,
                "verification_key_id": key_id,
                "signature_algorithm": "1.2.840.10045.4.3.2",
            }
            for key_id, version, _ in signers
        ]
        export = messages["TemporaryExposureKeyExport"](
            start_timestamp=start,
            end_timestamp=start + 3600,
            region="US",
            batch_num=1,
            batch_size=1,
            signature_infos=infos,
            keys=keys,
            revised_keys=revised_keys,
        )
        export_bin = b"EK Export v1    " + export.SerializeToString()
        signatures = [
            {
                "signature_info": info,
                "batch_num": 1,
                "batch_size": 1,
                "signature": private_key.sign(export_bin, ec.ECDSA(SHA256())),
            }
            for info, (_, _, private_key) in zip(infos, signers, strict=True)
        ]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("export.bin", export_bin)
            archive.writestr("export.sig", messages["TEKSignatureList"](signatures=signatures).SerializeToString())
        return buffer.getvalue()

    return make


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Starlette], str]]:
    """A function that serves an application over real HTTP for the length of a module, and returns its base URL."""
    running: list[tuple[uvicorn.Server, threading.Thread, socket.socket]] = []

    def start(app: Starlette) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread, listener))
        while not server.started:
            assert thread.is_alive(), "the web server ended before it began"
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, _, _ in running:
        server.should_exit = True
    for _, thread, listener in running:
        thread.join()
        listener.close()
