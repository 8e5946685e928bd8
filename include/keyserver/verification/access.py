"""Who asks, and how often: API keys, and counts in the database that all workers share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from keyserver.protocol.verification import VerificationRefusedError, keyed_hash
from keyserver.providers.signers import Signer
from keyserver.store import verification as store
from keyserver.store.database import Database
from keyserver.store.verification import Caller, Count

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Service:
    """What the service works with. ``secret``: the key of all HMACs that are stored instead of secret values."""

    database: Database
    signer: Signer
    secret: bytes

    def mac(self, purpose: str, value: str | bytes, caller: Caller | None = None) -> bytes:
        """Return what is stored of a secret value, which only counts in its realm."""
        return keyed_hash(self.secret, f"{purpose}/{caller.realm.id}" if caller else purpose, value)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit until ``resets_at``."""

    limit: int
    remaining: int
    resets_at: datetime


class TooManyError(VerificationRefusedError):
    """Too often; ``retry_after`` is in whole seconds."""

    def __init__(self, code: str, message: str, allowance: Allowance, retry_after: int) -> None:
        super().__init__(code, message)
        self.allowance = allowance
        self.retry_after = retry_after


def authenticate(service: Service, api_key: str, kind: str) -> Caller:
    """Return who asks. Raises `VerificationRefusedError` ``unauthorized`` for a key that is none of this kind."""
    with service.database.connection() as connection:
        caller = store.caller(connection, api_key_mac(service.secret, api_key))
    if caller is None or caller.kind != kind:
        raise VerificationRefusedError("unauthorized", f"X-API-Key must be a valid API key of type {kind}")
    return caller


def api_key_mac(secret: bytes, api_key: str) -> bytes:
    """Return what is stored of an API key."""
    return keyed_hash(secret, "api-key", api_key)


def count_request(service: Service, caller: Caller) -> Allowance:
    """Count a request of an API key. Raises `TooManyError`, code ``rate_limited``."""
    with service.database.connection() as connection:
        counted = store.count(connection, caller.realm.id, f"requests/{caller.key_id}", MINUTE)
    return _within(counted, caller.realm.requests_per_minute, "rate_limited", "this API key asks too often")


def allowance(service: Service, caller: Caller) -> Allowance:
    """Return what an API key may ask yet, and count nothing: what chaff is told (rule E1)."""
    with service.database.connection() as connection:
        counted = store.count(connection, caller.realm.id, f"requests/{caller.key_id}", MINUTE, by=0)
    return _left(counted, caller.realm.requests_per_minute)


def count_codes(service: Service, caller: Caller) -> None:
    """Count a code that is issued. Raises `TooManyError`, code ``quota_exceeded``."""
    with service.database.connection() as connection:
        counted = store.count(connection, caller.realm.id, "codes", DAY)
    _within(counted, caller.realm.codes_per_day, "quota_exceeded", "this realm has issued its codes of today")


def count_guess(service: Service, caller: Caller) -> None:
    """Count a code that is sent, before it is looked at, so that many at once are not too many.

    Raises `TooManyError`, code ``rate_limited``; `take_back_guess` undoes it for a code that was right.
    """
    with service.database.connection() as connection:
        counted = store.count(connection, caller.realm.id, "guesses", HOUR)
    _within(counted, caller.realm.wrong_codes_per_hour, "rate_limited", "too many wrong codes were sent")


def take_back_guess(service: Service, caller: Caller) -> None:
    """Say that a code was right."""
    with service.database.connection() as connection:
        store.count(connection, caller.realm.id, "guesses", HOUR, by=-1)


def _left(counted: Count, limit: int) -> Allowance:
    return Allowance(limit, max(0, limit - counted.count), counted.ends_at)


def _within(counted: Count, limit: int, code: str, message: str) -> Allowance:
    left = _left(counted, limit)
    if counted.count > limit:
        wait = max(1, math.ceil((counted.ends_at - counted.now).total_seconds()))
        raise TooManyError(code, f"{message}: try again later", left, wait)
    return left
