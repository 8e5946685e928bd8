"""The rules of a verification server (publish.md 4.6 to 4.8): codes, dates, test types, tokens, certificates.

Everything is an argument: time, random sources, keys. Whatever is refused ends in a `VerificationRefusedError` with the
code that clients of the reference's server know.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyserver.errors import FormatError, KeyserverError
from keyserver.protocol import base64text

TestType = Literal["confirmed", "likely", "negative", "user-report"]

TOKEN_ISSUER = "diagnosis-verification-example"  # noqa: S105 - no secret
TOKEN_LIFETIME = timedelta(hours=24)
CLOCK_SKEW = timedelta(seconds=5)
PAST_DAYS = 28
NONCE_BYTES = 256
MAC_BYTES = 32
# A code that exists was sent that often with a wrong nonce or for other test types: somebody tries, and it is spent.
MAX_ATTEMPTS = 5

_DIGITS = "0123456789"
_LETTERS_AND_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"
# What a phone takes when it says that it takes the first: a weaker word of an authority includes the stronger ones.
_ACCEPTED: Mapping[str, frozenset[str]] = {
    "confirmed": frozenset({"confirmed"}),
    "likely": frozenset({"confirmed", "likely"}),
    "negative": frozenset({"confirmed", "likely", "negative"}),
    "user-report": frozenset({"confirmed", "user-report"}),
}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_MINUTES_OF_ZONES = range(-14 * 60, 14 * 60 + 1)
_ALGORITHM = "ES256"
_JWS = jwt.PyJWS(algorithms=[_ALGORITHM])


class VerificationRefusedError(KeyserverError):
    """A request to the verification service that is refused; ``code`` is one of the tables of publish.md 4.6, 4.7."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a health worker, or a person, says: which test, and when the symptoms began or it was taken, if known."""

    test_type: TestType
    symptom_date: date | None
    test_date: date | None

    @property
    def subject(self) -> str:
        """The `sub` of a token: test type, symptom date and test date, each empty when unknown (4.6)."""
        return ".".join(
            [self.test_type, *(day.isoformat() if day else "" for day in (self.symptom_date, self.test_date))]
        )


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A code as it stands in the database; ``expires_at`` is that of the form, short or long, that was sent."""

    diagnosis: Diagnosis
    expires_at: datetime
    attempts: int
    claimed: bool
    nonce_mac: bytes | None


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it stands in the database."""

    diagnosis: Diagnosis
    expires_at: datetime
    used: bool


def keyed_hash(secret: bytes, purpose: str, value: str | bytes) -> bytes:
    """Return what is stored instead of a secret value: 32 bytes of HMAC-SHA256, another one for each purpose."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return hmac.digest(secret, purpose.encode() + b"\0" + data, hashlib.sha256)


# Codes


def draw_code(digits: int, below: Callable[[int], int]) -> str:
    """Return a short code; ``below(n)`` draws from 0 to n - 1."""
    return "".join(_DIGITS[below(len(_DIGITS))] for _ in range(digits))


def draw_long_code(length: int, below: Callable[[int], int]) -> str:
    """Return a long code of small letters and digits."""
    return "".join(_LETTERS_AND_DIGITS[below(len(_LETTERS_AND_DIGITS))] for _ in range(length))


def accepted_types(accept: Sequence[str]) -> frozenset[str]:
    """Return the test types that a phone takes; nothing said means all (4.6). Any letter case.

    Raises `VerificationRefusedError` ``invalid_test_type`` for a word that is none.
    """
    if not accept:
        return frozenset(_ACCEPTED)
    accepted: set[str] = set()
    for word in accept:
        if word.lower() not in _ACCEPTED:
            raise VerificationRefusedError("invalid_test_type", "accept names a test type that there is not")
        accepted |= _ACCEPTED[word.lower()]
    return frozenset(accepted)


def check_code(code: StoredCode, accepted: Collection[str], nonce_mac: bytes | None, now: datetime) -> None:
    """Raise `VerificationRefusedError` unless this code may be exchanged now for a token (4.6)."""
    wrong_nonce = code.nonce_mac is not None and (
        nonce_mac is None or not hmac.compare_digest(code.nonce_mac, nonce_mac)
    )
    if code.claimed or code.attempts >= MAX_ATTEMPTS or wrong_nonce:
        raise no_such_code()
    if code.expires_at <= now:
        raise VerificationRefusedError("code_expired", "the verification code has expired")
    if code.diagnosis.test_type not in accepted:
        raise VerificationRefusedError("unsupported_test_type", "the code is for a test type that accept leaves out")


def no_such_code() -> VerificationRefusedError:
    """Return the one refusal for codes that are unknown, used or tried too often: which, nobody is told."""
    return VerificationRefusedError("code_invalid", "the verification code is not valid")


def nonce(text: str) -> bytes | None:
    """Return the nonce of base64 text, None when there is none. Raises ``unparsable_request``."""
    if not text:
        return None
    try:
        return base64text.decode(text)
    except FormatError as error:
        raise VerificationRefusedError("unparsable_request", f"nonce {error}") from None


def required_nonce(text: str) -> bytes:
    """Return the 256 bytes that a self report must bring. Raises ``missing_nonce`` or ``unparsable_request``."""
    decoded = nonce(text)
    if decoded is None or len(decoded) != NONCE_BYTES:
        raise VerificationRefusedError("missing_nonce", f"nonce must be {NONCE_BYTES} random bytes in base64")
    return decoded


def check_phone(text: str) -> None:
    """Raise `VerificationRefusedError` ``phone_number_invalid`` unless it is a number in E.164 form."""
    if not _PHONE.fullmatch(text):
        raise VerificationRefusedError("phone_number_invalid", "phone must be + and the country's and the own number")


# Diagnoses


@dataclass(frozen=True, slots=True)
class SentDiagnosis:
    """A diagnosis as a request says it; ``tz_offset`` is the sender's place, in minutes east of UTC."""

    test_type: str
    symptom_date: str
    test_date: str
    tz_offset: int


def diagnosis(sent: SentDiagnosis, now: datetime, *, date_required: bool) -> Diagnosis:
    """Return what was sent, if its test type is known and its dates are plausible at ``now`` (4.7).

    A date from 28 days ago to today is taken, by the day here or there; one that is tomorrow here is stored as today.

    Raises:
        VerificationRefusedError: ``invalid_test_type``, ``missing_date``, ``invalid_date``, or ``unparsable_request``
            for an offset that no place has.
    """
    if sent.test_type not in _ACCEPTED:
        raise VerificationRefusedError("invalid_test_type", "testType must be confirmed, likely or negative")
    if sent.tz_offset not in _MINUTES_OF_ZONES:
        raise VerificationRefusedError("unparsable_request", "tzOffset must be minutes, at most 14 hours")
    if date_required and not sent.symptom_date and not sent.test_date:
        raise VerificationRefusedError("missing_date", "symptomDate or testDate must be given")
    named = (("symptomDate", sent.symptom_date), ("testDate", sent.test_date))
    days = [_date(name, text, sent.tz_offset, now) for name, text in named]
    return Diagnosis(cast("TestType", sent.test_type), *days)


def _date(name: str, text: str, tz_offset: int, now: datetime) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        raise VerificationRefusedError("invalid_date", f"{name} must be a date, YYYY-MM-DD")
    here = now.astimezone(UTC)
    days = (here.date(), (here + timedelta(minutes=tz_offset)).date())
    if not min(days) - timedelta(days=PAST_DAYS) <= day <= max(days):
        raise VerificationRefusedError("invalid_date", f"{name} must be within the last {PAST_DAYS} days")
    return min(day, here.date())


def parse_subject(text: str) -> Diagnosis:
    """Return what the `sub` of a token says; the old form without a test date is taken too.

    Raises:
        FormatError: it is no such text.
    """
    parts = text.split(".")
    if len(parts) not in {2, 3} or parts[0] not in _ACCEPTED:
        raise FormatError("a token's subject is not of its form")
    days: list[date | None] = []
    for part in [*parts[1:], ""][:2]:
        try:
            days.append(date.fromisoformat(part) if part else None)
        except ValueError:
            raise FormatError("a token's subject has no dates") from None
    return Diagnosis(cast("TestType", parts[0]), days[0], days[1])


# Tokens and certificates


def token_claims(subject: str, token_id: str, now: datetime) -> dict[str, Any]:
    """Return the claims of a token (4.6)."""
    issued = int(now.timestamp())
    return {
        "aud": TOKEN_ISSUER,
        "iss": TOKEN_ISSUER,
        "iat": issued,
        "exp": issued + int(TOKEN_LIFETIME.total_seconds()),
        "jti": token_id,
        "sub": subject,
    }


def read_token(token: str, kid: str, key: EllipticCurvePublicKey, now: datetime) -> tuple[str, Diagnosis]:
    """Return id and diagnosis of a token that we signed with ``key``. Raises ``token_invalid``."""
    try:
        parts = _JWS.decode_complete(token, key=key, algorithms=[_ALGORITHM])
        claims = json.loads(parts["payload"])
        good = (
            parts["header"].get("kid") == kid
            and claims["iss"] == claims["aud"] == TOKEN_ISSUER
            and claims["exp"] > now.timestamp()
            and isinstance(claims["jti"], str)
        )
        token_id, said = claims["jti"], parse_subject(claims["sub"])
    except (jwt.PyJWTError, ValueError, RecursionError, LookupError, TypeError, AttributeError, FormatError):
        good = False
    if not good:
        raise VerificationRefusedError("token_invalid", "the verification token is not valid")
    return token_id, said


def check_token(stored: StoredToken | None, said: Diagnosis, now: datetime) -> Diagnosis:
    """Return the diagnosis of a token that can be used now. Raises ``token_expired`` for all else (4.6)."""
    if stored is None or stored.used or stored.expires_at <= now or stored.diagnosis != said:
        raise VerificationRefusedError("token_expired", "the verification token is used or has expired")
    return stored.diagnosis


def check_mac(text: str) -> None:
    """Raise `VerificationRefusedError` ``hmac_invalid`` unless it is base64 of 32 bytes."""
    try:
        good = len(base64text.decode(text)) == MAC_BYTES
    except FormatError:
        good = False
    if not good:
        raise VerificationRefusedError("hmac_invalid", f"ekeyhmac must be {MAC_BYTES} bytes in base64")


def certificate_claims(said: Diagnosis, mac: str, now: datetime, lifetime: timedelta) -> dict[str, Any]:
    """Return the claims of a certificate over the keys whose HMAC is ``mac``, as the phone wrote it (4.2, 4.6).

    Issuer and audience are not among them.
    """
    issued = int((now - CLOCK_SKEW).timestamp())
    claims: dict[str, Any] = {
        "iat": issued,
        "nbf": issued,
        "exp": int((now + lifetime).timestamp()),
        "reportType": said.test_type,
        "tekmac": mac,
    }
    if said.symptom_date is not None:
        midnight = datetime(said.symptom_date.year, said.symptom_date.month, said.symptom_date.day, tzinfo=UTC)
        claims["symptomOnsetInterval"] = int(midnight.timestamp()) // 600
    return claims


def signed_jwt(kid: str, claims: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Return a JWT, ES256. ``sign`` takes a SHA-256 and returns the signature in DER, as a KMS does."""
    header = {"alg": _ALGORITHM, "kid": kid, "typ": "JWT"}
    unsigned = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    r, s = decode_dss_signature(sign(hashlib.sha256(unsigned).digest()))
    return (unsigned + b"." + _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def jwk(kid: str, key: EllipticCurvePublicKey) -> dict[str, str]:
    """Return a public key as a JWK (RFC 7517)."""
    numbers = key.public_numbers()
    x, y = (_base64url(number.to_bytes(32, "big")).decode() for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "alg": _ALGORITHM, "use": "sig", "kid": kid, "x": x, "y": y}


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
