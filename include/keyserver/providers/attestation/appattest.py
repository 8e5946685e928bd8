"""Apple App Attest: one attestation an upload, of a key that is made for it (crypto-and-clients.md e).

The phone makes a key, has it attested for this one upload and never uses it again; no assertion is asked for and no
key is stored, so nothing ties two uploads of a phone together. The evidence is the attestation object, base64.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from keyserver.errors import ConfigurationError, FormatError
from keyserver.protocol import base64text
from keyserver.protocol.attestation import invalid
from keyserver.providers.attestation import cbor
from keyserver.providers.attestation.declared import DeclaredSettings

# Apple App Attestation Root CA, valid to 2045 (apple.com/certificateauthority/private); its SHA-256 is in the tests.
APPLE_ROOT = """-----BEGIN CERTIFICATE-----
MIICITCCAaegAwIBAgIQC/O+DvHN0uD7jG5yH2IXmDAKBggqhkjOPQQDAzBSMSYw
JAYDVQQDDB1BcHBsZSBBcHAgQXR0ZXN0YXRpb24gUm9vdCBDQTETMBEGA1UECgwK
QXBwbGUgSW5jLjETMBEGA1UECAwKQ2FsaWZvcm5pYTAeFw0yMDAzMTgxODMyNTNa
Fw00NTAzMTUwMDAwMDBaMFIxJjAkBgNVBAMMHUFwcGxlIEFwcCBBdHRlc3RhdGlv
biBSb290IENBMRMwEQYDVQQKDApBcHBsZSBJbmMuMRMwEQYDVQQIDApDYWxpZm9y
bmlhMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAERTHhmLW07ATaFQIEVwTtT4dyctdh
NbJhFs/Ii2FdCgAHGbpphY3+d8qjuDngIN3WVhQUBHAoMeQ/cLiP1sOUtgjqK9au
Yen1mMEvRq9Sk3Jm5X8U62H+xTD3FE9TgS41o0IwQDAPBgNVHRMBAf8EBTADAQH/
MB0GA1UdDgQWBBSskRBTM72+aEH/pwyp5frq5eWKoTAOBgNVHQ8BAf8EBAMCAQYw
CgYIKoZIzj0EAwMDaAAwZQIwQgFGnByvsiVbpTKwSga0kP0e8EeDS4+sQmTvb7vn
53O5+FRXgeLhpJ06ysC5PrOyAjEAp5U4xDgEgllF7En3VcE3iexZZtKeYnpqtijV
oyFraWVIyd/dganmrduC1bmTBGwD
-----END CERTIFICATE-----
"""

_NONCE_OID = x509.ObjectIdentifier("1.2.840.113635.100.8.2")
# DER: SEQUENCE { [1] { OCTET STRING of 32 bytes } }, all but the string itself.
_NONCE_HEAD = bytes.fromhex("3024a1220420")
_AAGUID = {"production": b"appattest" + bytes(7), "development": b"appattestdevelop"}
_ID_BYTES = 32


class AppAttestSettings(DeclaredSettings):
    """What is declared of an iOS app. ``root_certificate``: PEM, in place of Apple's, for a test of one's own."""

    team_id: str
    bundle_id: str
    environment: Literal["production", "development"]
    root_certificate: str = APPLE_ROOT


class AppAttest:
    """Checks the attestation objects of one app."""

    def __init__(self, settings: AppAttestSettings) -> None:
        """Raise `ConfigurationError` if the root certificate is none."""
        self._app = hashlib.sha256(f"{settings.team_id}.{settings.bundle_id}".encode()).digest()
        self._aaguid = _AAGUID[settings.environment]
        try:
            self._root = x509.load_pem_x509_certificate(settings.root_certificate.encode())
        except ValueError:
            raise ConfigurationError("attestation: root_certificate must be a certificate in PEM") from None

    def verify(self, evidence: str, nonce: bytes, now: datetime) -> None:
        """Check an attestation object in Apple's order; ``nonce`` is its clientDataHash.

        Raises:
            PublishError: ``attestation_invalid``.
        """
        certificates, data = _read(evidence)
        with _errors_of_certificates():
            leaf, intermediate = (x509.load_der_x509_certificate(certificate) for certificate in certificates)
            self._check_chain(leaf, intermediate, now)
            _check_nonce(leaf, hashlib.sha256(data + nonce).digest())
            key = leaf.public_key()
            if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
                raise invalid("the attested key is not on the curve P-256")
            key_id = hashlib.sha256(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).digest()
        self._check_data(data, key_id)

    def _check_chain(self, leaf: x509.Certificate, intermediate: x509.Certificate, now: datetime) -> None:
        # Not by `x509.verification`: its rules are those of web servers, and these certificates name no host.
        for certificate, issuer in ((leaf, intermediate), (intermediate, self._root)):
            try:
                certificate.verify_directly_issued_by(issuer)
            except (InvalidSignature, ValueError, TypeError):
                raise invalid("its certificates do not lead to Apple's root") from None
        for certificate in (leaf, intermediate, self._root):
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise invalid("one of its certificates is not valid now")
        if not _is_authority(intermediate) or _is_authority(leaf):
            raise invalid("its certificates are not one of an authority and one of a key")

    def _check_data(self, data: bytes, key_id: bytes) -> None:
        # rpIdHash 32, flags 1, counter 4, aaguid 16, length of credentialId 2, credentialId; then the key once more.
        if len(data) < 55 + _ID_BYTES:
            raise invalid("its authenticator data are cut short")
        if not hmac.compare_digest(data[:32], self._app):
            raise invalid("it is of another app")
        if any(data[33:37]):
            raise invalid("the counter of its key is not 0: it was used before")
        if data[37:53] != self._aaguid:
            raise invalid("it is of another environment of App Attest")
        if int.from_bytes(data[53:55]) != _ID_BYTES or not hmac.compare_digest(data[55 : 55 + _ID_BYTES], key_id):
            raise invalid("its credentialId is not that of the attested key")


def _read(evidence: str) -> tuple[list[bytes], bytes]:
    """Return the two certificates and the authenticator data of an attestation object."""
    try:
        value = cbor.decode(base64text.decode(evidence))
    except FormatError:
        raise invalid("the evidence is no attestation object") from None
    if not isinstance(value, dict) or value.get("fmt") != "apple-appattest":
        raise invalid("the evidence is no attestation object of the format apple-appattest")
    statement: Any = value.get("attStmt")
    certificates = statement.get("x5c") if isinstance(statement, dict) else None
    if (
        not isinstance(certificates, list)
        or len(certificates) != 2
        or not all(isinstance(certificate, bytes) for certificate in certificates)
    ):
        raise invalid("it must have two certificates (x5c), the key's and the intermediate one")
    data = value.get("authData")
    if not isinstance(data, bytes):
        raise invalid("it has no authenticator data")
    return certificates, data


def _check_nonce(leaf: x509.Certificate, expected: bytes) -> None:
    try:
        extension = leaf.extensions.get_extension_for_oid(_NONCE_OID).value
    except x509.ExtensionNotFound:
        raise invalid("its certificate has no nonce") from None
    found = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if not hmac.compare_digest(found, _NONCE_HEAD + expected):
        raise invalid("it was made for another upload or challenge")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


@contextmanager
def _errors_of_certificates() -> Iterator[None]:
    """Refuse what `cryptography` says of malformed certificates, when read or when a part is first looked at."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        CryptographyDeprecationWarning,  # where warnings are errors
    ):
        raise invalid("one of its certificates is malformed") from None
