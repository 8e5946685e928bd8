"""Who wraps the keys that lie in the database: a port, as a KMS is, and its backend on a local disk.

The master key never leaves it. A local one can be read by whoever is this process; only a KMS keeps it from the code
that uses it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyserver.errors import ConfigurationError, ConflictError, RemoteError, VerificationError
from keyserver.providers import local_folder, private_file

_FILE = "master.key"
_MASTER_BYTES = 32
_NONCE_BYTES = 12


class KeyWrap(Protocol):
    """Encrypts small secrets under a master key that it alone has.

    Both raise `ConfigurationError` for a master key that is missing or unusable, `RemoteError` for what a retry can
    heal.
    """

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """Return a key wrapped, bound to ``aad``: whoever unwraps must give the same."""

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the key again; `VerificationError` for what was not wrapped by this master key with this ``aad``."""


def open_keywrap(url: str) -> KeyWrap:
    """Open what a URL names: ``file:///folder``, which holds the master key in ``master.key``.

    Raises:
        ConfigurationError: the URL names none that is supported.
    """
    return LocalKeyWrap(local_folder(url, "the key wrapping"))


def generate(url: str) -> None:
    """Make the master key of a ``file:///folder`` URL.

    Raises:
        ConflictError: there is one; it stays.
        ConfigurationError: the URL is none, or the process may not write there.
        RemoteError: the disk failed.
    """
    folder = local_folder(url, "the key wrapping")
    # Written aside and linked: a master key is there whole or not at all.
    draft = folder / f"{_FILE}.{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_MASTER_BYTES))
                file.flush()
                os.fsync(descriptor)
            os.link(draft, folder / _FILE)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConflictError("there is a master key already; what it wrapped would be lost with it") from error
    except PermissionError as error:
        raise ConfigurationError("the process may not write the master key") from error
    except OSError as error:
        raise RemoteError(f"the master key could not be written: {error.strerror}") from error


class LocalKeyWrap:
    """A folder with one file of 32 random bytes, readable by its owner alone.

    Wrapped is a nonce of 12 bytes, then the key under AES-256-GCM with its tag.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; nothing is read before the first key."""
        self._path = folder / _FILE

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """As the port says."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._master()).encrypt(nonce, key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """As the port says."""
        master = AESGCM(self._master())
        try:
            return master.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], aad)
        except (InvalidTag, ValueError):  # ValueError: a nonce that is cut short
            raise VerificationError("the key was not wrapped by this master key, or for something else") from None

    def _master(self) -> bytes:
        master = private_file(self._path, "master key")
        if len(master) != _MASTER_BYTES:
            raise ConfigurationError(f"the master key must have {_MASTER_BYTES} bytes")
        return master
