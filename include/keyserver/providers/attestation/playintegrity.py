"""Google Play Integrity, read with the app's own response keys (crypto-and-clients.md e).

A token is a JWE (A256KW, A256GCM) around a JWS (ES256). No maintained JWE library is among what the project already
stands on, so the five parts are taken apart here; key unwrapping, AES-GCM and the JWS are `cryptography`'s and PyJWT's.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyserver.errors import ConfigurationError, FormatError
from keyserver.protocol import base64text
from keyserver.protocol.attestation import invalid
from keyserver.providers.attestation.declared import DeclaredSettings
from keyserver.providers.secrets import Secrets

_ALGORITHM = "ES256"
_JWS = jwt.PyJWS(algorithms=[_ALGORITHM])
_IV_BYTES = 12
_TAG_BYTES = 16
_FUTURE_S = 60
_MOST_DIGITS = 18


class PlayIntegritySettings(DeclaredSettings):
    """What is declared of an Android app.

    ``certificate_digests``: SHA-256 of its signing certificates, base64url without padding. ``device_verdicts``: all
    are needed. The secrets hold the app's response keys as the Play Console shows them, in base64.
    """

    package: str
    certificate_digests: frozenset[str]
    minimum_version_code: int = 0
    device_verdicts: frozenset[str] = frozenset({"MEETS_DEVICE_INTEGRITY"})
    licensed: bool = True
    max_age_seconds: int = 300
    decryption_key_secret: str
    verification_key_secret: str


class PlayIntegrity:
    """Checks the tokens of one app."""

    def __init__(self, settings: PlayIntegritySettings, secrets: Secrets) -> None:
        """Read the keys.

        Raises:
            ConfigurationError: a key is missing or is none.
            RemoteError: it could not be had now.
        """
        self._settings = settings
        self._decryption_key = _base64_secret(secrets, settings.decryption_key_secret)
        if len(self._decryption_key) != 32:
            raise ConfigurationError("attestation: the secret of decryption_key_secret must be base64 of 32 bytes")
        self._verification_key = _public_key(_base64_secret(secrets, settings.verification_key_secret))

    def verify(self, evidence: str, nonce: bytes, now: datetime) -> None:
        """Check a token, in the order of the sheet's table.

        The nonce stands, base64url, in ``requestHash`` (standard requests) or ``nonce`` (classic ones).

        Raises:
            PublishError: ``attestation_invalid``.
        """
        verdict = self._verdict(self._decrypt(evidence))
        self._check_request(_member(verdict, "requestDetails"), nonce, now)
        self._check_app(_member(verdict, "appIntegrity"))
        device = _member(verdict, "deviceIntegrity").get("deviceRecognitionVerdict")
        if not isinstance(device, list) or not all(label in device for label in self._settings.device_verdicts):
            raise invalid("the device does not meet the integrity that is asked for")
        licence = _member(verdict, "accountDetails").get("appLicensingVerdict")
        if self._settings.licensed and licence != "LICENSED":
            raise invalid("the app was not got from Google Play with a licence")

    def _decrypt(self, token: str) -> str:
        parts = token.split(".")
        if len(parts) != 5:
            raise invalid("the token is no JWE of five parts")
        try:
            header_bytes, wrapped, iv, ciphertext, tag = (base64text.decode(part) for part in parts)
            header = json.loads(header_bytes)
        except (FormatError, ValueError, RecursionError):
            raise invalid("the token is no JWE") from None
        algorithms = {"alg": "A256KW", "enc": "A256GCM"}
        if not isinstance(header, dict) or {name: header.get(name) for name in algorithms} != algorithms:
            raise invalid("the token is not encrypted by A256KW and A256GCM")
        if "zip" in header or "crit" in header:
            raise invalid("the token's header asks for what is not done here")
        if len(iv) != _IV_BYTES or len(tag) != _TAG_BYTES:
            raise invalid("the token's IV or tag has a wrong length")
        try:
            key = aes_key_unwrap(self._decryption_key, wrapped)
            return AESGCM(key).decrypt(iv, ciphertext + tag, parts[0].encode()).decode()
        except (InvalidUnwrap, InvalidTag, ValueError):
            raise invalid("the token cannot be decrypted with the app's key") from None

    def _verdict(self, token: str) -> Mapping[str, Any]:
        try:
            payload = _JWS.decode_complete(token, key=self._verification_key, algorithms=[_ALGORITHM])["payload"]
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise invalid("the token's signature is not Google's for this app") from None
        try:
            verdict = json.loads(payload)
        except (ValueError, RecursionError):
            verdict = None
        if not isinstance(verdict, dict):
            raise invalid("the token's content is no JSON object")
        return verdict

    def _check_request(self, request: Mapping[str, Any], nonce: bytes, now: datetime) -> None:
        if request.get("requestPackageName") != self._settings.package:
            raise invalid("it was asked for by another app")
        bound = [request[name] for name in ("requestHash", "nonce") if name in request]
        if len(bound) != 1 or not hmac.compare_digest(_bytes(bound[0]), nonce):
            raise invalid("it was made for another upload or challenge")
        milliseconds = _integer(request.get("timestampMillis"))
        if milliseconds is None:
            raise invalid("it does not say when it was made")
        age_s = now.timestamp() - milliseconds / 1000
        if not -_FUTURE_S <= age_s <= self._settings.max_age_seconds:
            raise invalid("it was made too long ago, or in the future")

    def _check_app(self, app: Mapping[str, Any]) -> None:
        if app.get("appRecognitionVerdict") != "PLAY_RECOGNIZED":
            raise invalid("Google Play does not recognise the app")
        if app.get("packageName") != self._settings.package:
            raise invalid("the app that asked is another one")
        digests = app.get("certificateSha256Digest")
        if not isinstance(digests, list) or not any(
            isinstance(digest, str) and digest.rstrip("=") in self._settings.certificate_digests for digest in digests
        ):
            raise invalid("the app is signed by another certificate")
        version = _integer(app.get("versionCode"))
        if version is None or version < self._settings.minimum_version_code:
            raise invalid("the app is too old, or does not say its version")


def _base64_secret(secrets: Secrets, name: str) -> bytes:
    try:
        return base64.b64decode(secrets.get(name).strip(), validate=True)
    except binascii.Error:
        raise ConfigurationError(f"attestation: the secret {name} is not base64") from None


def _public_key(der: bytes) -> EllipticCurvePublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigurationError("attestation: the secret of verification_key_secret is no P-256 public key in DER")
    return key


def _member(verdict: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    member = verdict.get(name)
    return member if isinstance(member, dict) else {}


def _bytes(text: object) -> bytes:
    try:
        return base64text.decode(text) if isinstance(text, str) else b""
    except FormatError:
        return b""


def _integer(value: object) -> int | None:
    """Return a number that JSON holds as such or, as Google does for 64 bits, as text."""
    if type(value) is int and abs(value) < 10**_MOST_DIGITS:
        return value
    if isinstance(value, str) and len(value) <= _MOST_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    return None
