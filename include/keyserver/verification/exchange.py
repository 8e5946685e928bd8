"""Phones: a code for a token, a token and an HMAC for a certificate (publish.md 4.6)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyserver.protocol import signature
from keyserver.protocol.verification import (
    TOKEN_LIFETIME,
    Diagnosis,
    VerificationRefusedError,
    accepted_types,
    certificate_claims,
    check_code,
    check_mac,
    check_token,
    no_such_code,
    nonce,
    read_token,
    signed_jwt,
    token_claims,
)
from keyserver.store import verification as store
from keyserver.store.verification import Caller
from keyserver.verification.access import Service, count_guess, take_back_guess
from keyserver.verification.issue import code_macs

_TOKEN_ID_BYTES = 96


@dataclass(frozen=True, slots=True)
class Verified:
    """What a code was for, and the token that it became."""

    diagnosis: Diagnosis
    token: str


def verify(service: Service, caller: Caller, code: str, accept: Sequence[str], sent_nonce: str) -> Verified:
    """Take a code for a token. The code is used only if the token could be made.

    Raises:
        VerificationRefusedError: ``unparsable_request``, ``invalid_test_type``, ``code_invalid``, ``code_expired``,
            ``unsupported_test_type``, ``rate_limited`` (`TooManyError`).
        RemoteError, ConfigurationError: the signer failed.
    """
    accepted = accepted_types(accept)
    macs = code_macs(service, caller, code, code, nonce(sent_nonce))
    count_guess(service, caller)
    refusal: VerificationRefusedError | None = None
    with service.database.transaction() as connection:
        found = store.lock_code(connection, caller.realm.id, macs)
        if found is None:
            raise no_such_code()
        uuid, stored = found
        try:
            check_code(stored, accepted, macs.nonce, caller.now)
        except VerificationRefusedError as error:
            # The attempt is kept, so the transaction has to end well.
            store.refuse_code(connection, caller.realm.id, uuid)
            refusal = error
        else:
            store.claim_code(connection, caller.realm.id, uuid)
            token_id = base64.b64encode(secrets.token_bytes(_TOKEN_ID_BYTES)).decode()
            ends = caller.now + TOKEN_LIFETIME
            store.add_token(connection, caller.realm.id, service.mac("token", token_id, caller), stored.diagnosis, ends)
            claims = token_claims(stored.diagnosis.subject, token_id, caller.now)
            token = _sign(service, caller.realm.token_key, caller.realm.token_key, claims)
    if refusal is not None:
        raise refusal
    take_back_guess(service, caller)
    return Verified(stored.diagnosis, token)


def certify(service: Service, caller: Caller, token: str, mac: str) -> str:
    """Take a token for a certificate over the keys whose HMAC is ``mac`` (base64).

    The token is used once the certificate is signed, so that a phone may ask again when the signer failed; of two that
    ask at once one is refused.

    Raises:
        VerificationRefusedError: ``token_invalid``, ``hmac_invalid``, ``token_expired``.
        RemoteError, ConfigurationError: the signer failed.
    """
    realm = caller.realm
    public_key = signature.load_public_key(service.signer.public_key(realm.token_key))
    token_id, said = read_token(token, realm.token_key, public_key, caller.now)
    check_mac(mac)
    token_mac = service.mac("token", token_id, caller)
    with service.database.transaction() as connection:
        stored = store.lock_token(connection, realm.id, token_mac)
        said = check_token(stored, said, caller.now)
        claims = {
            "iss": realm.certificate_issuer,
            "aud": realm.certificate_audience,
            **certificate_claims(said, mac, caller.now, realm.certificate_lifetime),
        }
        certificate = _sign(service, realm.certificate_key, realm.certificate_kid, claims)
        store.use_token(connection, token_mac)
    return certificate


def _sign(service: Service, key_name: str, kid: str, claims: Mapping[str, Any]) -> str:
    return signed_jwt(kid, claims, lambda sha256: service.signer.sign(key_name, sha256))
