from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

from keyserver.errors import FormatError, VerificationError
from keyserver.protocol import signature

CONTENT = b"EK Export v1    and all that follows"
DIGEST = hashlib.sha256(CONTENT).digest()
PRIVATE = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
PUBLIC = PRIVATE.public_key()
SIGNATURE = PRIVATE.sign(CONTENT, ec.ECDSA(hashes.SHA256()))


def pem(key: object) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_signature_over_the_whole_content_verifies() -> None:
    assert signature.verify(PUBLIC, SIGNATURE, DIGEST) is None


# RFC 6979, A.2.5, "sample" with SHA-256: a signature that nothing here has made.
R = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
S = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


def test_a_published_signature_verifies() -> None:
    key = signature.load_public_key(signature.public_key_pem(PUBLIC))
    assert signature.verify(key, utils.encode_dss_signature(R, S), hashlib.sha256(b"sample").digest()) is None


@pytest.mark.parametrize(
    ("key", "sign", "digest"),
    [
        (ec.generate_private_key(ec.SECP256R1()).public_key(), SIGNATURE, DIGEST),
        (PUBLIC, SIGNATURE, hashlib.sha256(CONTENT + b"\0").digest()),
        (PUBLIC, SIGNATURE, hashlib.sha256(DIGEST).digest()),
        (PUBLIC, PRIVATE.sign(CONTENT, ec.ECDSA(hashes.SHA512())), DIGEST),
        (PUBLIC, utils.encode_dss_signature(0, 0), DIGEST),
        (PUBLIC, utils.encode_dss_signature(R, S), DIGEST),
    ],
    ids=["other key", "other content", "hashed twice", "sha512", "zeros", "other signature"],
)
def test_what_does_not_verify(key: ec.EllipticCurvePublicKey, sign: bytes, digest: bytes) -> None:
    with pytest.raises(VerificationError):
        signature.verify(key, sign, digest)


@pytest.mark.parametrize(
    "sign",
    [b"", b"signature", SIGNATURE[:-1], SIGNATURE + b"\0", R.to_bytes(32, "big") + S.to_bytes(32, "big")],
    ids=["empty", "text", "cut", "longer", "raw r and s"],
)
def test_a_signature_is_der(sign: bytes) -> None:
    with pytest.raises(FormatError):
        signature.verify(PUBLIC, sign, DIGEST)


@pytest.mark.parametrize("digest", [b"", DIGEST[:-1], hashlib.sha512(CONTENT).digest()])
def test_a_digest_has_32_bytes(digest: bytes) -> None:
    with pytest.raises(FormatError):
        signature.verify(PUBLIC, SIGNATURE, digest)


def test_public_key_in_pem() -> None:
    text = signature.public_key_pem(PUBLIC)
    assert text.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert text.endswith("-----END PUBLIC KEY-----\n")
    assert signature.load_public_key(text).public_numbers() == PUBLIC.public_numbers()


OFF_THE_CURVE = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==
-----END PUBLIC KEY-----
"""
NO_KEYS = {
    "empty": "",
    "text": "a key",
    "not ascii": "-----BEGIN PUBLIC KEY-----\nä\n-----END PUBLIC KEY-----\n",
    "surrogate": "\ud800",
    "no content": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    "cut": pem(PUBLIC)[:80],
    "off the curve": OFF_THE_CURVE,
    "P-384": pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "secp256k1": pem(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "RSA": pem(rsa.generate_private_key(65537, 2048).public_key()),
    "Ed25519": pem(ed25519.Ed25519PrivateKey.generate().public_key()),
    "private": PRIVATE.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode(),
}


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_what_is_no_public_key_on_p256(text: str) -> None:
    with pytest.raises(FormatError):
        signature.load_public_key(text)
