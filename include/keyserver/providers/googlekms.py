"""Export signing keys in Google Cloud KMS: the private key never leaves it (rule A5; export.md 3).

A URL names a key ring, ``gcpkms://projects/<p>/locations/<l>/keyRings/<r>``; the signing key <name> is version 1 of the
crypto key <name>, so that a name never changes its key. Who is asking is the process's own service account
(application default credentials), never a Connection that other tasks could ask for too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import kms

from keyserver.errors import ConfigurationError, ConflictError, FormatError, RemoteError
from keyserver.protocol import signature

SCHEME = "gcpkms://"

_RING = re.compile(r"projects/[a-z0-9:.-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]{1,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TIMEOUT = 5.0  # seconds a call, with what is tried again in it
_HARDWARE_TAKES = 60  # times that a new key is looked for
_PAUSE = 1.0  # seconds between
_P256 = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
_HEALED_BY_RETRY = (
    exceptions.ServerError,
    exceptions.TooManyRequests,
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.RetryError,
    TransportError,
)


class GoogleKmsSigner:
    """The keys of one key ring, each EC_SIGN_P256_SHA256."""

    def __init__(self, url: str, client: kms.KeyManagementServiceClient | None = None) -> None:
        """Take the URL of a key ring; ``client`` is made with the process's own credentials if none is given.

        Raises:
            ConfigurationError: the URL names no key ring, or there are no credentials.
        """
        ring = url.removeprefix(SCHEME)
        if not url.startswith(SCHEME) or not _RING.fullmatch(ring):
            raise ConfigurationError(
                "the signer: a URL of Google Cloud KMS must name a key ring,"
                " gcpkms://projects/<project>/locations/<location>/keyRings/<ring>"
            )
        self._ring = ring
        if client is None:
            with _errors("Google Cloud KMS"):
                client = kms.KeyManagementServiceClient()
        self._client = client

    def sign(self, key_name: str, sha256: bytes) -> bytes:
        """As the port says; the answer's checksums are compared, so nothing was changed on the way."""
        if len(sha256) != signature.DIGEST_BYTES:
            raise FormatError(f"a SHA-256 has {signature.DIGEST_BYTES} bytes, not {len(sha256)}")
        version = self._version(key_name)
        request = {"name": version, "digest": {"sha256": sha256}, "digest_crc32c": google_crc32c.value(sha256)}
        with _errors(f"signing key {key_name}"):
            answer = self._client.asymmetric_sign(request=request, retry=_retry(), timeout=_TIMEOUT)
        if (
            not answer.verified_digest_crc32c
            or answer.name != version
            or answer.signature_crc32c != google_crc32c.value(answer.signature)
        ):
            raise RemoteError(f"signing key {key_name}: the answer was damaged on its way")
        return answer.signature

    def public_key(self, key_name: str) -> str:
        """As the port says."""
        with _errors(f"signing key {key_name}"):
            answer = self._client.get_public_key(name=self._version(key_name), retry=_retry(), timeout=_TIMEOUT)
        if answer.pem_crc32c != google_crc32c.value(answer.pem.encode()):
            raise RemoteError(f"signing key {key_name}: the answer was damaged on its way")
        if answer.algorithm != _P256:
            raise ConfigurationError(f"signing key {key_name} is not EC_SIGN_P256_SHA256, the only kind phones take")
        return signature.public_key_pem(signature.load_public_key(answer.pem))

    def generate(self, key_name: str) -> str:
        """Make a key in the KMS's hardware, and wait until it is there; return the public key in PEM.

        Raises:
            ConflictError: there is a key of this name; it stays.
        """
        version = self._version(key_name)
        key = kms.CryptoKey(
            purpose=kms.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
            version_template=kms.CryptoKeyVersionTemplate(algorithm=_P256, protection_level=kms.ProtectionLevel.HSM),
        )
        with _errors(f"signing key {key_name}"):
            # Not tried again by itself: what was made by a call whose answer was lost would then be a conflict.
            self._client.create_crypto_key(
                parent=self._ring, crypto_key_id=key_name, crypto_key=key, retry=None, timeout=_TIMEOUT
            )
            pending = kms.CryptoKeyVersion.CryptoKeyVersionState.PENDING_GENERATION
            for _ in range(_HARDWARE_TAKES):
                made = self._client.get_crypto_key_version(name=version, retry=_retry(), timeout=_TIMEOUT)
                if made.state != pending:
                    return self.public_key(key_name)
                time.sleep(_PAUSE)
        raise RemoteError(f"signing key {key_name} is still being made: ask for its public key later")

    def _version(self, key_name: str) -> str:
        if not _NAME.fullmatch(key_name):
            raise ConfigurationError(
                "a signing key's name in a KMS is at most 63 small letters, digits, _ and -, the first no _ or -"
            )
        return f"{self._ring}/cryptoKeys/{key_name}/cryptoKeyVersions/1"


def _retry() -> Retry:
    healed = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.TooManyRequests)
    return Retry(
        predicate=lambda error: isinstance(error, healed), initial=0.1, maximum=1.0, multiplier=2.0, timeout=_TIMEOUT
    )


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn the library's errors into ours; what they say may name accounts and addresses, and is left out."""
    try:
        yield
    except _HEALED_BY_RETRY as error:
        raise RemoteError(f"{what}: the KMS did not answer as it should ({type(error).__name__})") from None
    except exceptions.AlreadyExists:
        raise ConflictError(f"there is a {what} already; a key is never replaced, choose a new name") from None
    except exceptions.NotFound:
        raise ConfigurationError(f"there is no {what}, or no such key ring") from None
    except exceptions.GoogleAPICallError as error:
        raise ConfigurationError(
            f"{what}: the KMS refused ({type(error).__name__}): is it enabled, and this service"
            " account allowed to use it?"
        ) from None
    except GoogleAuthError as error:
        if getattr(error, "retryable", False):
            raise RemoteError(f"{what}: no access token could be had just now") from None
        raise ConfigurationError(f"{what}: this process has no credentials for Google Cloud") from None
