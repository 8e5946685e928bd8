"""Who signs: a port that is handed a SHA-256 and nothing else; its backends are a local disk and a KMS.

The export signing keys sign export.bin and nothing else (rule A5). A local key can be read by whoever is this process;
only a KMS keeps it from the code that uses it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keyserver.errors import ConfigurationError, ConflictError, FormatError, RemoteError
from keyserver.protocol import signature
from keyserver.providers import local_folder, private_file

if TYPE_CHECKING:
    from keyserver.providers.googlekms import GoogleKmsSigner

_GOOGLE = "gcpkms:"


class Signer(Protocol):
    """Holds P-256 private keys, each known by a name; a name never changes its key.

    Both raise `ConfigurationError` for a key that is missing or unusable, `RemoteError` for what a retry can heal.
    """

    def sign(self, key_name: str, sha256: bytes) -> bytes:
        """Return the ECDSA signature, in DER, of the bytes that have this SHA-256 (32 bytes, else `FormatError`)."""

    def public_key(self, key_name: str) -> str:
        """Return the public key in PEM: what is declared in the configuration and registered with Apple and Google."""


def open_signer(url: str) -> Signer:
    """Open the signer that a URL names.

    ``file:///folder`` holds ``<key name>.pem``; ``gcpkms://projects/.../keyRings/<ring>`` is `googlekms`.

    Raises:
        ConfigurationError: the URL names none that is supported.
    """
    if url.startswith(_GOOGLE):
        return _google(url)
    return LocalSigner(local_folder(url, "the signer"))


def generate(url: str, name: str) -> str:
    """Make a key pair where `open_signer` would look for it; return the public key in PEM.

    Raises:
        ConflictError: there is a key of this name; it stays.
        ConfigurationError: the URL or the name is none, or the process may not write there.
        RemoteError: the disk failed, or the key service did not answer.
    """
    if url.startswith(_GOOGLE):
        return _google(url).generate(name)
    path = _path(local_folder(url, "the signer"), name)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise ConflictError(
            f"there is a signing key {name} already; a key is never replaced, choose a new name"
        ) from error
    except PermissionError as error:
        raise ConfigurationError(f"the process may not write the signing key {name}") from error
    except OSError as error:
        raise RemoteError(f"the signing key {name} could not be written: {error.strerror}") from error
    return signature.public_key_pem(key.public_key())


def _google(url: str) -> GoogleKmsSigner:
    from keyserver.providers.googlekms import GoogleKmsSigner  # noqa: PLC0415 - costs a second

    return GoogleKmsSigner(url)


class LocalSigner:
    """A folder of private keys, ``<key name>.pem`` in PKCS#8, each readable by its owner alone.

    The same key signs the same bytes always the same way (RFC 6979), so that a file made again is the same file.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; nothing is read before the first signature."""
        self._folder = folder

    def sign(self, key_name: str, sha256: bytes) -> bytes:
        """As the port says."""
        if len(sha256) != signature.DIGEST_BYTES:
            raise FormatError(f"a SHA-256 has {signature.DIGEST_BYTES} bytes, not {len(sha256)}")
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
        return self._key(key_name).sign(sha256, algorithm)

    def public_key(self, key_name: str) -> str:
        """As the port says."""
        return signature.public_key_pem(self._key(key_name).public_key())

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        content = private_file(_path(self._folder, name), f"signing key {name}")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Without the cause: what a parser says may hold some of what it read.
            raise ConfigurationError(
                f"the signing key {name} is not an unencrypted private key in PEM (PKCS#8)"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigurationError(f"the signing key {name} is not on P-256, the only curve that phones verify with")
        return key


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ConfigurationError("a signing key's name is of small letters, digits, _ and -, the first no _ or -")
    return folder / f"{name}.pem"
