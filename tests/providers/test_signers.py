from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

from keyserver.errors import ConfigurationError, ConflictError, FormatError
from keyserver.protocol import signature
from keyserver.providers.signers import Signer, generate, open_signer

DIGEST = hashlib.sha256(b"EK Export v1    ").digest()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/keys"


@pytest.fixture
def signer(url: str) -> Signer:
    return open_signer(url)


def put(url: str, name: str, content: bytes, mode: int = 0o600) -> Path:
    path = Path(url.removeprefix("file://")) / f"{name}.pem"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pkcs8(key: object, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_what_a_new_key_signs_verifies_with_its_public_key(url: str, signer: Signer) -> None:
    pem = generate(url, "at-2026")
    key = signature.load_public_key(pem)
    assert signature.verify(key, signer.sign("at-2026", DIGEST), DIGEST) is None
    assert signer.public_key("at-2026") == pem
    path = Path(url.removeprefix("file://"), "at-2026.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_new_key_is_private_whatever_the_umask(url: str, signer: Signer) -> None:
    before = os.umask(0)
    try:
        generate(url, "at")
    finally:
        os.umask(before)
    assert signer.sign("at", DIGEST)


def test_the_same_bytes_are_always_signed_the_same_way(url: str, signer: Signer) -> None:
    # RFC 6979, A.2.5: P-256, SHA-256, "sample" and "test".
    private = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
    put(url, "rfc", pkcs8(private))
    expected = {
        b"sample": (
            0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
            0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
        ),
        b"test": (
            0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
            0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
        ),
    }
    for content, (r, s) in expected.items():
        assert signer.sign("rfc", hashlib.sha256(content).digest()) == utils.encode_dss_signature(r, s)


def test_a_key_is_never_overwritten(url: str, signer: Signer) -> None:
    pem = generate(url, "at")
    with pytest.raises(ConflictError):
        generate(url, "at")
    assert signer.public_key("at") == pem


def test_one_of_many_makes_the_key(url: str, signer: Signer) -> None:
    def attempt(_: int) -> str | None:
        try:
            return generate(url, "at")
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [pem for pem in pool.map(attempt, range(8)) if pem]
    assert made == [signer.public_key("at")]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o777])
def test_a_key_that_others_may_read_is_refused(url: str, signer: Signer, mode: int) -> None:
    generate(url, "at")
    Path(url.removeprefix("file://"), "at.pem").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"chmod 600 at\.pem"):
        signer.sign("at", DIGEST)


@pytest.mark.parametrize("name", ["de", "at-2"])
def test_a_missing_key_tells_nothing_of_the_others(url: str, signer: Signer, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no signing key {name}"):
        signer.sign(name, DIGEST)
    generate(url, "secret-plan")
    with pytest.raises(ConfigurationError) as error:
        signer.sign(name, DIGEST)
    assert "secret-plan" not in str(error.value)
    assert "keys/" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../at", "a/b", "/at", "At", "ä", "at.pem", "-at", "_at", "at\n", "at\0", "a" * 101]
)
def test_what_is_no_name(url: str, signer: Signer, name: str) -> None:
    for operation in (lambda: signer.sign(name, DIGEST), lambda: signer.public_key(name), lambda: generate(url, name)):
        with pytest.raises(ConfigurationError):
            operation()


@pytest.mark.parametrize("digest", [b"", DIGEST[:-1], DIGEST + b"\0", b"EK Export v1    and so on, not hashed"])
def test_only_a_sha256_is_signed(url: str, signer: Signer, digest: bytes) -> None:
    generate(url, "at")
    with pytest.raises(FormatError):
        signer.sign("at", digest)


P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SECRET",
        pkcs8(P256)[:100],
        signature.public_key_pem(P256.public_key()).encode(),
        pkcs8(P256, b"password"),
        pkcs8(ec.generate_private_key(ec.SECP384R1())),
        pkcs8(rsa.generate_private_key(65537, 2048)),
        pkcs8(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "text", "cut", "public", "encrypted", "P-384", "RSA", "Ed25519"],
)
def test_what_is_no_usable_key(url: str, signer: Signer, content: bytes) -> None:
    put(url, "at", content)
    with pytest.raises(ConfigurationError) as error:
        signer.sign("at", DIGEST)
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_folder_is_no_key(url: str, signer: Signer) -> None:
    Path(url.removeprefix("file://"), "at.pem").mkdir(parents=True)
    with pytest.raises(ConfigurationError):
        signer.sign("at", DIGEST)
    with pytest.raises(ConflictError):
        generate(url, "at")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file://",
        "file:///",
        "folder",
        "gcpkms://projects/p",
        "gcpkms:projects/p/locations/l/keyRings/r",
        "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "https://user:hunter2@kms",
    ],
)
def test_what_names_no_signer(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"supported|folder|key ring") as error:
        open_signer(url)
    assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigurationError):
        generate(url, "at")
