"""Import the keys that health authorities publish as a JSON Web Key Set (publish.md 4.5, RFC 7517)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from keyserver.audit import Work, recorded
from keyserver.errors import FormatError, KeyserverError, RemoteError, VerificationError
from keyserver.protocol import signature
from keyserver.protocol.certificate import ALGORITHM, AuthorityKey
from keyserver.providers import https
from keyserver.runtime import Runtime
from keyserver.store import authority_keys
from keyserver.store.authority_keys import Publishing

logger = logging.getLogger(__name__)

_MOST_KEYS = 100
_MOST_KID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed, summed over all authorities: kids that were added and that were revoked."""

    added: int
    revoked: int


def import_all(runtime: Runtime, fetch: Callable[[str], bytes] = https.fetch) -> Imported:
    """Make the stored keys of each authority that has a ``jwks_uri`` those that it publishes there.

    One transaction an authority. One that fails changes nothing of its own and does not stop the others.

    Raises:
        RemoteError: some failed, and all of these in a way that a retry can heal.
        VerificationError: some failed otherwise; the message names each by its issuer.
    """
    with runtime.database.connection() as connection:
        publishing = authority_keys.publishing(connection)
    added = revoked = 0
    failures: list[tuple[str, KeyserverError]] = []
    for authority in publishing:
        try:
            changed = _import(runtime, authority, parse(fetch(authority.jwks_uri)))
        except KeyserverError as error:
            logger.error("the keys of %s were not imported: %s", authority.issuer, error)
            failures.append((authority.issuer, error))
        else:
            added, revoked = added + changed.added, revoked + changed.revoked
    if failures:
        kind = RemoteError if all(isinstance(error, RemoteError) for _, error in failures) else VerificationError
        told = "; ".join(f"{issuer}: {error}" for issuer, error in failures)
        raise kind(f"the keys of {len(failures)} of {len(publishing)} authorities were not imported: {told}")
    return Imported(added, revoked)


def parse(document: bytes) -> Mapping[str, str]:
    """Return the P-256 public keys of a set, PEM by kid: a JSON array of keys or ``{"keys": [...]}``.

    A key of another kind, or for another use, is left out. An empty set revokes every key, and so must be said: no
    bytes at all are no set.

    Raises:
        FormatError: it is no set of keys, or one of P-256 is broken, private, without a kid or listed twice.
    """
    try:
        listed = json.loads(document)
    except (ValueError, RecursionError):
        raise FormatError("the key set is no JSON") from None
    if isinstance(listed, dict):
        listed = listed.get("keys")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise FormatError('the key set is neither an array of keys nor {"keys": [...]}')
    if len(listed) > _MOST_KEYS:
        raise FormatError(f"the key set has more than {_MOST_KEYS} keys")
    keys: dict[str, str] = {}
    for entry in filter(_is_for_certificates, listed):
        kid = entry.get("kid")
        if not isinstance(kid, str) or not 0 < len(kid) <= _MOST_KID_CHARACTERS or not kid.isprintable():
            raise FormatError(f"a key of the set has no kid of 1 to {_MOST_KID_CHARACTERS} printable characters")
        if kid in keys:
            raise FormatError(f"the key set lists the kid {kid!r} twice")
        keys[kid] = _pem(entry, kid)
    return keys


def _is_for_certificates(entry: Mapping[str, Any]) -> bool:
    """Whether certificates can be signed with it; RFC 7517, 5: what is not understood is left out."""
    return (
        (entry.get("kty"), entry.get("crv")) == ("EC", "P-256")
        and entry.get("use", "sig") == "sig"
        and entry.get("alg", ALGORITHM) == ALGORITHM
    )


def _pem(entry: Mapping[str, Any], kid: str) -> str:
    if "d" in entry:
        raise FormatError(f"the key set publishes the private key of {kid!r}: it is no secret any more, replace it")
    if not all(isinstance(entry.get(name), str) for name in ("x", "y")):
        raise FormatError(f"the key {kid!r} of the set is no point of P-256")
    try:
        key = jwt.PyJWK({name: entry[name] for name in ("kty", "crv", "x", "y")}, ALGORITHM).key
    except (jwt.PyJWTError, ValueError):
        raise FormatError(f"the key {kid!r} of the set is no point of P-256") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FormatError(f"the key {kid!r} of the set is no public key")
    return signature.public_key_pem(key)


def _import(runtime: Runtime, authority: Publishing, listed: Mapping[str, str]) -> Imported:
    with recorded(runtime.database, runtime.actor) as work:
        read = authority_keys.read_locked(work.connection, authority)
        if read is None:
            return Imported(0, 0)
        now, stored = read
        revoked = _revoke(work, authority, [key for key in stored if key.kid not in listed], now)
        added = _add(work, authority, stored, listed, now)
    return Imported(added, revoked)


def _revoke(work: Work, authority: Publishing, gone: Sequence[AuthorityKey], now: datetime) -> int:
    """End the keys that are not listed any more, once: a key that has ended keeps its end."""
    ending = [key for key in gone if key.valid_thru is None or key.valid_thru > max(now, key.valid_from)]
    for key in ending:
        authority_keys.end(work.connection, authority.id, key.kid, max(now, key.valid_from))
        _record(work, "health_authority_key.revoked", authority, key.kid, key.public_key)
    return len(ending)


def _add(
    work: Work, authority: Publishing, stored: Sequence[AuthorityKey], listed: Mapping[str, str], now: datetime
) -> int:
    """Store the keys that are new. One that was revoked, or has expired, stays so under whatever kid it is listed.

    An old list that is served again must bring no key back. People can: declare it in the configuration without
    ``jwks_uri``, apply that, and put ``jwks_uri`` back.
    """
    by_kid = {key.kid: key for key in stored}
    ended = {
        _numbers(key.public_key)
        for key in stored
        if key.valid_thru is not None and key.valid_thru <= max(now, key.valid_from)
    }
    added = 0
    for kid, pem in listed.items():
        if kid in by_kid and _numbers(by_kid[kid].public_key) != _numbers(pem):
            raise VerificationError(f"the kid {kid!r} is listed with another key than the one that is stored")
        if _numbers(pem) in ended:
            logger.warning("%s lists its key %r, which has ended here, and stays so", authority.issuer, kid)
        elif kid not in by_kid:
            authority_keys.insert(work.connection, authority.id, kid, pem, now)
            _record(work, "health_authority_key.added", authority, kid, pem)
            added += 1
    return added


def _numbers(pem: str) -> ec.EllipticCurvePublicNumbers:
    return signature.load_public_key(pem).public_numbers()


def _record(work: Work, kind: str, authority: Publishing, kid: str, pem: str) -> None:
    sha256 = hashlib.sha256(pem.encode()).hexdigest()
    work.record(kind, {"health_authority": authority.id, "kid": kid}, hashes={"public_key": sha256})
