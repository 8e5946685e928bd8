"""Revision tokens: the proof that whoever changes what a key means is whoever uploaded it (publish.md 3.1, 3.6).

A token holds keys with their intervals and nothing else, encrypted for nobody but this server. Its form is that of the
reference server: either one reads what the other wrote under the same revision key and the same additional data.

Its length does not tell how many keys it holds. The reference adds entries of 16 zero bytes until there are 28; they
come out shorter than keys, since zero numbers are not written, so that 8 to 10 bytes a key still show. Here one more
entry with both numbers 0, which any reader drops whatever its key is, fills up to the length of the next full 28 keys.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

from keyserver.errors import FormatError, VerificationError
from keyserver.protocol import base64text
from keyserver.protocol.pb import revision_pb2

KEY_BYTES = 32
NONCE_BYTES = 12

_BLOCK_KEYS = 28
# Tag and length, then a key of 16 bytes, a number below 2^28 and a count below 2^14, a tag or two bytes before each.
_ENTRY_BYTES = 2 + (2 + 16) + (1 + 4) + (1 + 2)
# What a filler takes beside the bytes of its key, where both lengths in it take two bytes: from 128 bytes of key on.
_FILLER_FRAME_BYTES = (1 + 2) + (1 + 2)
_LEAST_FILLER_BYTES = _FILLER_FRAME_BYTES + 128

_KID = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class RevisableKey:
    """A key that was uploaded: 16 bytes, its first 10-minute interval (below 2^28) and how many it lasts (1 to 144)."""

    key: bytes = field(repr=False)
    interval_number: int
    interval_count: int


def seal(keys: Sequence[RevisableKey], kid: int, key: bytes, aad: bytes, nonce: bytes) -> str:
    """Return the token of these keys in standard base64.

    ``key`` is the revision key (32 bytes) that has the id ``kid``, ``aad`` the server's additional data, ``nonce``
    12 random bytes that were never used before.
    """
    data = revision_pb2.RevisionTokenData(
        revisableKeys=[
            revision_pb2.RevisableKey(
                temporaryExposureKey=revisable.key,
                intervalNumber=revisable.interval_number,
                intervalCount=revisable.interval_count,
            )
            for revisable in keys
        ]
    )
    blocks = max(1, -(-len(keys) // _BLOCK_KEYS))
    length = blocks * _BLOCK_KEYS * _ENTRY_BYTES + _LEAST_FILLER_BYTES
    filler = bytes(length - data.ByteSize() - _FILLER_FRAME_BYTES)
    data.revisableKeys.add(temporaryExposureKey=filler)
    encrypted = nonce + AESGCM(key).encrypt(nonce, data.SerializeToString(), aad)
    token = revision_pb2.RevisionToken(kid=str(kid), data=encrypted)
    return base64.b64encode(token.SerializeToString()).decode()


def unseal(token: str, key_of: Callable[[int], bytes | None], aad: bytes) -> tuple[RevisableKey, ...]:
    """Return the keys of a token, in its order and without padding.

    ``key_of`` gives the revision key that has an id, None where there is none any more.

    Raises:
        FormatError: there is no token here: the text is empty or not base64 (publish.md 1.5, rows 6 and 8).
        VerificationError: it was not made by this server, or its revision key is gone (row 8b).
    """
    outer = base64text.decode(token)
    if not outer:
        raise FormatError("there is no revision token")
    try:
        envelope = revision_pb2.RevisionToken.FromString(outer)
    except DecodeError:
        raise VerificationError("the revision token is no token of this server") from None
    key = key_of(int(envelope.kid)) if _KID.fullmatch(envelope.kid) else None
    if key is None:
        raise VerificationError("the revision token's key is not known, or not any more")
    nonce, encrypted = envelope.data[:NONCE_BYTES], envelope.data[NONCE_BYTES:]
    try:
        data = revision_pb2.RevisionTokenData.FromString(AESGCM(key).decrypt(nonce, encrypted, aad))
    except (InvalidTag, ValueError, DecodeError):  # ValueError: a nonce that is cut short
        raise VerificationError("the revision token cannot be decrypted") from None
    return tuple(
        RevisableKey(entry.temporaryExposureKey, entry.intervalNumber, entry.intervalCount)
        for entry in data.revisableKeys
        if entry.intervalNumber or entry.intervalCount
    )


def union(kept: Iterable[RevisableKey], added: Iterable[RevisableKey], oldest_end: int) -> tuple[RevisableKey, ...]:
    """Return what the next token holds: the old token's keys, then the new ones, each key once, the first time counts.

    ``oldest_end`` is an interval: keys of the old token that ended before it are left out (publish.md 3.6).
    """
    once: dict[bytes, RevisableKey] = {}
    for revisable in kept:
        if revisable.interval_number + revisable.interval_count >= oldest_end:
            once.setdefault(revisable.key, revisable)
    for revisable in added:
        once.setdefault(revisable.key, revisable)
    return tuple(once.values())
