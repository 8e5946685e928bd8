"""The verification certificate of an upload: a JWT of a health authority, bound to the keys by an HMAC (publish.md 4).

Whatever is wrong with a certificate ends in a `PublishError` with the one code that phones know for it; its message
says what it was, without a word of the certificate's own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keyserver.errors import FormatError, PublishError
from keyserver.protocol import base64text
from keyserver.protocol.exposure import ReportType
from keyserver.protocol.messages import SentKey

ALGORITHM = "ES256"
# The one code for a certificate that is not accepted (publish.md 1.5, row 5).
INVALID = "health_authority_verification_certificate_invalid"
_ES256 = jwt.PyJWS(algorithms=[ALGORITHM]).get_algorithm_by_name(ALGORITHM)
_COMPACT = re.compile(r"([\w-]+)\.([\w-]+)\.([\w-]*)", re.ASCII)
_UINT32 = range(2**32)


@dataclass(frozen=True, slots=True)
class AuthorityKey:
    """A public key (PEM) of a health authority; it verifies what is signed while valid, ends excluded."""

    kid: str
    public_key: str
    valid_from: datetime
    valid_thru: datetime | None


@dataclass(frozen=True, slots=True)
class Authority:
    """A health authority, as the claims of its certificates name it and this server.

    A certificate of its may last ``certificate_max_life`` from its issue to its expiry.
    """

    id: int
    issuer: str
    audience: str
    keys: tuple[AuthorityKey, ...]
    certificate_max_life: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class AppAttestation:
    """How uploads of an app prove that they come from it: ``kind`` names the service, ``settings`` are its own."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuthorisedApp:
    """An app that may upload: the regions of its keys (upper case) and the authorities whose word counts for it.

    ``attestations`` are by platform (``android``, ``ios``); where there is one, every upload needs one. The flags: 2.9.
    """

    name: str
    regions: tuple[str, ...]
    authorities: tuple[Authority, ...]
    attestations: Mapping[str, AppAttestation] = field(default_factory=lambda: MappingProxyType({}))
    bypass_verification: bool = False
    bypass_revision_token: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate that verified says. ``onset``: an interval, or None."""

    authority_id: int
    report_type: ReportType
    onset: int | None


def verify(token: str, hmac_key: str, keys: Sequence[SentKey], app: AuthorisedApp, now: datetime) -> Certificate:
    """Check a certificate, in the order of publish.md 4.1, and that it was given for these very keys (4.3).

    ``hmac_key`` is base64 and ``keys`` are as the phone sent them. An expiry is required, and not
    too long after the issue; there is no leeway.

    Raises:
        PublishError: ``health_authority_verification_certificate_invalid``; or ``unable_to_load_health_authority``
            when a public key of ours is unusable.
    """
    # The signature needs the key, and the key the claims: what is read here is believed only after `_check_signature`.
    header, claims, signature = _read(token)
    if header.get("alg") != ALGORITHM:
        raise _invalid(f"its algorithm is not {ALGORITHM}")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise _invalid("it names no key (kid)")
    authority = next((authority for authority in app.authorities if authority.issuer == claims.get("iss")), None)
    if authority is None:
        raise _invalid("this app does not accept its issuer")
    if claims.get("aud") != authority.audience:
        raise _invalid("it is meant for another audience")
    key = next((key for key in authority.keys if key.kid == kid and _valid(key, now)), None)
    if key is None:
        raise _invalid("its issuer has no active key of this kid")
    _check_times(claims, authority.certificate_max_life, now)
    _check_signature(token, signature, key)
    report_type = claims.get("reportType")
    # Not left to ReportType: its error shows the value, and one nested deeply can be read and yet not be shown.
    if report_type not in tuple(ReportType):
        raise _invalid("its report type is unknown")
    _check_hmac(claims.get("tekmac"), hmac_key, keys)
    onset = claims.get("symptomOnsetInterval")
    if onset is not None and (type(onset) is not int or onset not in _UINT32):
        raise _invalid("its symptomOnsetInterval is no interval number")
    return Certificate(authority.id, ReportType(report_type), onset)


def upload_hmacs(keys: Sequence[SentKey], secret: bytes) -> tuple[bytes, ...]:
    """Return the HMACs, 32 bytes each, under which these keys may be uploaded (publish.md 4.3).

    The first covers the transmission risks; the second leaves them out and is there only if all are 0.
    """
    ordered = sorted(keys, key=attrgetter("key"))
    texts = [",".join([f"{key.key}.{key.start}.{key.period}.{key.transmission_risk}" for key in ordered])]
    if not any(key.transmission_risk for key in ordered):
        texts.append(",".join([f"{key.key}.{key.start}.{key.period}" for key in ordered]))
    return tuple(hmac.digest(secret, text.encode(), hashlib.sha256) for text in texts)


@lru_cache(maxsize=1024)
def load_public_key(pem: str) -> EllipticCurvePublicKey:
    """Return the P-256 public key in PEM text (SubjectPublicKeyInfo).

    Raises:
        FormatError: it is no such key.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("a health authority's public key is no PEM public key") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise FormatError("a health authority's public key is not on the curve P-256")
    return key


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, claims and signature of a JWT in its compact form (RFC 7515), as they say themselves."""
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise _invalid("it is no JWT")
    try:
        header, claims = json.loads(_segment(parts[1])), json.loads(_segment(parts[2]))
        signature = _segment(parts[3])
    except (ValueError, RecursionError):
        raise _invalid("it is no JWT") from None
    # An extension that must be understood (RFC 7515 4.1.11) is one that we do not.
    if not isinstance(header, dict) or "crit" in header:
        raise _invalid("it is no JWT")
    if not isinstance(claims, dict):
        raise _invalid("its claims are no JSON object")
    return header, claims, signature


def _segment(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _valid(key: AuthorityKey, now: datetime) -> bool:
    return key.valid_from < now and (key.valid_thru is None or key.valid_thru > now)


def _check_times(claims: dict[str, Any], max_life: timedelta, now: datetime) -> None:
    seconds = int(now.timestamp())
    times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
    for name, time in times.items():
        if time is not None and type(time) is not int:
            raise _invalid(f"its {name} is not a whole number of seconds")
    if (times["iat"] or 0) > seconds or (times["nbf"] or 0) > seconds:
        raise _invalid("it is not valid yet")
    if times["exp"] is None:
        raise _invalid("it has no expiry (exp)")
    if times["exp"] < seconds:
        raise _invalid("it has expired")
    # Without an issue it counts from now, so that leaving it out gains nothing.
    if times["exp"] - (times["iat"] or times["nbf"] or seconds) > max_life.total_seconds():
        raise _invalid(f"it lasts longer than the {max_life} that its issuer's may")


def _check_signature(token: str, signature: bytes, key: AuthorityKey) -> None:
    try:
        public_key = load_public_key(key.public_key)
    except FormatError as error:
        raise PublishError("unable_to_load_health_authority", "this health authority cannot be checked now") from error
    if not _ES256.verify(token.rpartition(".")[0].encode(), public_key, signature):
        raise _invalid("its signature is wrong")


def _check_hmac(tekmac: object, hmac_key: str, keys: Sequence[SentKey]) -> None:
    if not isinstance(tekmac, str):
        raise _invalid("it has no HMAC of keys (tekmac)")
    try:
        expected = base64text.decode(tekmac)
    except FormatError as error:
        raise _invalid(f"its HMAC of keys (tekmac) {error}") from None
    try:
        secret = base64text.decode(hmac_key)
    except FormatError as error:
        raise _invalid(f"the request's hmacKey {error}") from None
    if not keys:
        raise _invalid("the request has no keys that it could be for")
    # Both are compared whatever the first says: the time taken tells nothing.
    if not any([hmac.compare_digest(mac, expected) for mac in upload_hmacs(keys, secret)]):  # noqa: C419
        raise _invalid("it was given for other keys, or the request's hmacKey is another")


def _invalid(problem: str) -> PublishError:
    return PublishError(INVALID, f"the verification certificate is not accepted: {problem}")
