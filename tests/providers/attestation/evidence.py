"""Evidence as the platforms make it, with keys of the tests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

NOW = datetime(2026, 3, 2, 10, 3, 7, tzinfo=UTC)
NONCE = hashlib.sha256(b"an upload").digest()


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# Play Integrity

PACKAGE = "example.app"
DIGEST = base64url(hashlib.sha256(b"certificate").digest())
DECRYPTION_KEY = bytes(range(32))
SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())


def verdict(nonce: bytes = NONCE, now: datetime = NOW) -> dict[str, Any]:
    return {
        "requestDetails": {
            "requestPackageName": PACKAGE,
            "requestHash": base64url(nonce),
            "timestampMillis": str(int(now.timestamp() * 1000) - 1500),
        },
        "appIntegrity": {
            "appRecognitionVerdict": "PLAY_RECOGNIZED",
            "packageName": PACKAGE,
            "certificateSha256Digest": [DIGEST],
            "versionCode": "42",
        },
        "deviceIntegrity": {"deviceRecognitionVerdict": ["MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"]},
        "accountDetails": {"appLicensingVerdict": "LICENSED"},
    }


def sign(content: Any, key: Any = SIGNING_KEY, algorithm: str = "ES256") -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return jwt.PyJWS().encode(data, key, algorithm=algorithm)


def encrypt(text: str, key: bytes = DECRYPTION_KEY, header: dict[str, Any] | None = None) -> str:
    protected = base64url(json.dumps({"alg": "A256KW", "enc": "A256GCM", **(header or {})}).encode())
    content_key, iv = os.urandom(32), os.urandom(12)
    sealed = AESGCM(content_key).encrypt(iv, text.encode(), protected.encode())
    parts = (aes_key_wrap(key, content_key), iv, sealed[:-16], sealed[-16:])
    return ".".join([protected, *map(base64url, parts)])


def play_token(nonce: bytes = NONCE, now: datetime = NOW) -> str:
    return encrypt(sign(verdict(nonce, now)))


def play_keys() -> tuple[bytes, bytes]:
    """The response keys as the Play Console shows them."""
    public = SIGNING_KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(DECRYPTION_KEY), base64.b64encode(public)


# App Attest

TEAM, BUNDLE = "ABCDE12345", "org.example.app"
NONCE_OID = x509.ObjectIdentifier("1.2.840.113635.100.8.2")
_DAY = timedelta(days=1)


class Authority:
    """A certificate authority; its own certificate is signed by ``by``, or by itself."""

    def __init__(self, name: str, by: Authority | None = None, **options: Any) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = (by or self).certify(self.name, self.key.public_key(), authority=True, **options)

    def certify(
        self,
        name: x509.Name,
        key: Any,
        *,
        authority: bool,
        since: datetime = NOW - _DAY,
        until: datetime = NOW + _DAY,
        nonce: bytes | None = None,
        constrained: bool = True,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )
        if constrained:
            builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        if nonce is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(NONCE_OID, nonce), critical=False)
        return builder.sign(self.key, hashes.SHA384())

    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


ROOT = Authority("Root")
INTERMEDIATE = Authority("Intermediate", ROOT)


def cbor(value: Any) -> bytes:
    """The other direction of `providers.attestation.cbor`."""
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    return _head(5, len(value)) + b"".join(cbor(name) + cbor(item) for name, item in value.items())


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    size = next(power for power in range(4) if number < 256 ** (1 << power))
    return bytes([kind << 5 | 24 + size]) + number.to_bytes(1 << size)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def attestation_object(
    nonce: bytes = NONCE,
    *,
    app: str = f"{TEAM}.{BUNDLE}",
    counter: int = 0,
    aaguid: bytes = b"appattest" + bytes(7),
    key: Any = None,
    credential_id: bytes | None = None,
    id_length: int = 32,
    by: Authority = INTERMEDIATE,
    chain: Any = None,
    extension: Any = lambda nonce: bytes.fromhex("3024a1220420") + nonce,
    **leaf: Any,
) -> dict[str, Any]:
    """What a phone's platform returns, before CBOR; each argument makes one thing of it wrong."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    if credential_id is None:
        point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        credential_id = hashlib.sha256(point).digest()
    data = b"".join([
        hashlib.sha256(app.encode()).digest(), b"\x40", counter.to_bytes(4), aaguid, id_length.to_bytes(2),
        credential_id, b"the key once more",
    ])  # fmt: skip
    attested = hashlib.sha256(data + nonce).digest()
    certificate = by.certify(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Key")]),
        key.public_key(),
        **{"authority": False, "nonce": extension(attested) if extension else None, **leaf},
    )
    x5c = [der(certificate), der(by.certificate)] if chain is None else chain(certificate)
    return {"fmt": "apple-appattest", "attStmt": {"x5c": x5c, "receipt": b"receipt"}, "authData": data}


def apple_evidence(*arguments: Any, **options: Any) -> str:
    return base64.b64encode(cbor(attestation_object(*arguments, **options))).decode()
