"""Signatures as phones check them: ECDSA on P-256 with SHA-256, in DER (export.md 1.4).

What is signed is `export.bin`, header included; here it is its SHA-256 throughout, since a signer outside the process
is handed no more than that. Signing itself needs a private key and lives in `providers.signers`.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keyserver.errors import FormatError, VerificationError

DIGEST_BYTES = 32


def load_public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the P-256 public key of a PEM text (SubjectPublicKeyInfo, ``-----BEGIN PUBLIC KEY-----``).

    Raises:
        FormatError: it is anything else.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("not a public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError("the public key is not an elliptic-curve key on P-256, the only kind that phones verify with")
    return key


def public_key_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return the key as Apple and Google ask for it: SubjectPublicKeyInfo in PEM, with a newline at its end."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def public_key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key as SubjectPublicKeyInfo in DER: Android's list of keys has it in base64."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, sha256: bytes) -> None:
    """Check a DER signature over bytes whose SHA-256 (32 bytes) is given.

    Raises:
        FormatError: the signature is not a DER sequence of two integers, or the digest has not 32 bytes.
        VerificationError: it is not a signature by this key over these bytes.
    """
    if len(sha256) != DIGEST_BYTES:
        raise FormatError(f"a SHA-256 has {DIGEST_BYTES} bytes, not {len(sha256)}")
    try:
        utils.decode_dss_signature(signature)
    except ValueError as error:
        raise FormatError("the signature is not a DER sequence of two integers") from error
    try:
        key.verify(signature, sha256, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature as error:
        raise VerificationError("the signature does not verify with this public key") from error
