"""What an attestation of an upload is bound to: the upload itself and a challenge of this server (rule E3).

A phone asks for a challenge, makes the nonce below of it and of its upload, has the platform attest that nonce, and
sends challenge and evidence along with the upload. The server keeps nothing between the two requests.

**The nonce** is SHA-256 over the UTF-8 bytes of these lines, joined by one line feed each (0x0A), none at the end:

1. ``EN upload attestation v1``
2. the challenge, as it was given
3. ``healthAuthorityID``, its letters A to Z in lower case
4. ``hmacKey``, as sent
5. ``verificationPayload``, as sent
6. ``symptomOnsetInterval``, in decimal; ``0`` when it is not sent
7. ``traveler``: ``true`` or ``false``
8. and on: a line a key, ``key.rollingStartNumber.rollingPeriod.transmissionRisk``: the key's base64 text as sent, the
   numbers in decimal, ``0`` for one that is not sent. These lines are sorted by their bytes.

The revision token and the padding are not covered: the one proves itself, the other means nothing.

**A challenge** is base64url, without padding, of 8 bytes (its last second, Unix time, big endian), 16 random bytes, and
HMAC-SHA256 of these 24 under the secret of the period that its last second lies in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyserver.errors import FormatError, PublishError
from keyserver.protocol import base64text
from keyserver.protocol.messages import PublishRequest

CHALLENGE_LIFE = timedelta(minutes=5)
PERIOD = timedelta(minutes=10)
RANDOM_BYTES = 16

_HEADLINE = "EN upload attestation v1"
_SIGNED_BYTES = 8 + RANDOM_BYTES
_BYTES = _SIGNED_BYTES + hashlib.sha256().digest_size
_PERIOD_S = int(PERIOD.total_seconds())
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Use:
    """What is kept of a challenge that was used: a MAC of 32 bytes, and the end of its period, not its moment."""

    mac: bytes
    period_end: datetime


def nonce(request: PublishRequest, challenge: str) -> bytes:
    """Return the nonce (32 bytes) of an upload under a challenge.

    Raises:
        PublishError: ``attestation_invalid``: a text has a line break, so that two uploads could have one nonce.
    """
    lines = [
        _HEADLINE,
        challenge,
        request.health_authority_id.translate(_LOWER),
        request.hmac_key,
        request.verification_payload,
        str(request.symptom_onset_interval),
        "true" if request.traveler else "false",
        *sorted(f"{key.key}.{key.start}.{key.period}.{key.transmission_risk}" for key in request.keys),
    ]
    text = "\n".join(lines)
    if text.count("\n") != len(lines) - 1:
        raise invalid("no line break may be in an upload that is attested")
    return hashlib.sha256(text.encode()).digest()


def make_challenge(secret: bytes, now: datetime, random: bytes) -> str:
    """Return a challenge that can be used until `CHALLENGE_LIFE` after ``now``.

    ``secret`` is the server's own; all workers have the same. ``random`` is `RANDOM_BYTES` bytes.
    """
    signed = int((now + CHALLENGE_LIFE).timestamp()).to_bytes(8) + random
    return base64.urlsafe_b64encode(signed + _mac(secret, "challenge", signed)).rstrip(b"=").decode()


def use_challenge(secret: bytes, challenge: str, now: datetime) -> Use:
    """Check that a challenge is ours and young enough; return what tells its second use.

    The MAC is over the challenge alone, whose random bytes are stored nowhere: it can be tied to an upload by nobody
    who has not recorded that upload as it came in, and by nobody at all once the server's secret is replaced.

    Raises:
        PublishError: ``attestation_invalid``.
    """
    try:
        data = base64text.decode(challenge)
    except FormatError:
        raise invalid("the challenge is none of this server") from None
    signed = data[:_SIGNED_BYTES]
    if len(data) != _BYTES or not hmac.compare_digest(_mac(secret, "challenge", signed), data[_SIGNED_BYTES:]):
        raise invalid("the challenge is none of this server, or the server's secret was replaced meanwhile")
    last_second = int.from_bytes(signed[:8])
    if int(now.timestamp()) > last_second:
        raise invalid("the challenge has expired; ask for a new one")
    return Use(_mac(secret, "use", signed), datetime.fromtimestamp((_period(signed) + 1) * _PERIOD_S, UTC))


def invalid(problem: str) -> PublishError:
    """Return the refusal of an attestation, which phones know by one code."""
    return PublishError("attestation_invalid", f"the attestation is not accepted: {problem}")


def _period(signed: bytes) -> int:
    return int.from_bytes(signed[:8]) // _PERIOD_S


def _mac(secret: bytes, purpose: str, signed: bytes) -> bytes:
    """HMAC under the secret of a purpose and of the challenge's period, which follows from the server's."""
    of_period = hmac.digest(secret, f"keyserver attestation {purpose} {_period(signed)}".encode(), hashlib.sha256)
    return hmac.digest(of_period, signed, hashlib.sha256)
