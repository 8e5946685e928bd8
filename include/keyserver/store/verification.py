"""The verification service's realms, codes and tokens (sql/queries/verification.sql). Secret values come as HMACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from keyserver.protocol.verification import Diagnosis, StoredCode, StoredToken
from keyserver.store.database import Connection, queries

_SQL = queries("verification")


@dataclass(frozen=True, slots=True)
class Realm:
    """An authority's settings (sql/migrations/versions/0003_verification.sql says what each is)."""

    id: int
    name: str
    code_digits: int
    code_lifetime: timedelta
    long_code_length: int
    long_code_lifetime: timedelta
    test_types: tuple[str, ...]
    date_required: bool
    certificate_issuer: str
    certificate_audience: str
    certificate_kid: str
    certificate_lifetime: timedelta
    certificate_key: str
    token_key: str
    user_report: bool
    user_report_webhook: str | None
    user_report_again: timedelta
    requests_per_minute: int
    wrong_codes_per_hour: int
    codes_per_day: int


# What of a realm may change.
SETTINGS = (
    "code_digits",
    "code_lifetime",
    "long_code_length",
    "long_code_lifetime",
    "test_types",
    "date_required",
    "certificate_lifetime",
    "user_report",
    "user_report_webhook",
    "user_report_again",
    "requests_per_minute",
    "wrong_codes_per_hour",
    "codes_per_day",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose API key a request brought, and the database's time at that moment, which is the request's."""

    now: datetime
    key_id: int
    kind: str  # admin or device
    realm: Realm


@dataclass(frozen=True, slots=True)
class CodeMacs:
    """What a new code is known by."""

    short: bytes
    long: bytes
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class NewCode:
    """A code to be stored, and when each form of it ends."""

    uuid: UUID
    macs: CodeMacs
    diagnosis: Diagnosis
    expires_at: datetime
    long_expires_at: datetime


@dataclass(frozen=True, slots=True)
class CodeStatus:
    """What a health worker may know of a code."""

    claimed: bool
    expires_at: datetime
    long_expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewRealm:
    """What a realm is declared with; the rest are the schema's defaults."""

    name: str
    issuer: str
    audience: str
    kid: str
    certificate_key: str
    token_key: str
    date_required: bool = True
    user_report: bool = False
    webhook: str | None = None


def caller(connection: Connection, key_mac: bytes) -> Caller | None:
    """Return who has this API key, None for a key that is unknown or revoked."""
    row = _SQL.api_key(connection, key_mac=key_mac)
    if row is None:
        return None
    now, key_id, kind, *realm = row
    return Caller(now, key_id, kind, _realm(realm))


def signing_keys(connection: Connection) -> Mapping[str, tuple[str, str]]:
    """Return, for each realm, the kid of its certificates and the name of their key."""
    return {name: (kid, key) for name, kid, key in _SQL.signing_keys(connection)}


@dataclass(frozen=True, slots=True)
class Count:
    """How often in the window that ends at ``ends_at``."""

    count: int
    ends_at: datetime
    now: datetime


def count(connection: Connection, realm_id: int, what: str, seconds: int, by: int = 1) -> Count:
    """Count something in its present window of so many seconds, or take it back."""
    return Count(*_SQL.count(connection, realm_id=realm_id, what=what, seconds=seconds, by=by))


def forget(connection: Connection) -> None:
    """Remove what nobody can ask for any more."""
    _SQL.forget(connection)


def add_code(connection: Connection, realm_id: int, code: NewCode) -> bool:
    """Store a code; False if its uuid or one of its forms is taken."""
    return bool(
        _SQL.add_code(
            connection,
            realm_id=realm_id,
            uuid=code.uuid,
            short_mac=code.macs.short,
            long_mac=code.macs.long,
            nonce_mac=code.macs.nonce,
            **_columns(code.diagnosis),
            expires_at=code.expires_at,
            long_expires_at=code.long_expires_at,
        )
    )


def code_status(connection: Connection, realm_id: int, uuid: UUID) -> CodeStatus | None:
    """Return the status of a code of this realm."""
    row = _SQL.code_status(connection, realm_id=realm_id, uuid=uuid)
    return CodeStatus(*row) if row else None


def expire_code(connection: Connection, realm_id: int, uuid: UUID) -> CodeStatus | None:
    """End a code now, in both forms."""
    row = _SQL.expire_code(connection, realm_id=realm_id, uuid=uuid)
    return CodeStatus(*row) if row else None


def remove_code(connection: Connection, realm_id: int, uuid: UUID) -> None:
    """Remove a code that nobody was told."""
    _SQL.remove_code(connection, realm_id=realm_id, uuid=uuid)


def lock_code(connection: Connection, realm_id: int, macs: CodeMacs) -> tuple[UUID, StoredCode] | None:
    """Return the code with one of these forms, locked until the transaction ends."""
    row = _SQL.lock_code(connection, realm_id=realm_id, short_mac=macs.short, long_mac=macs.long)
    if row is None:
        return None
    uuid, *said, expires_at, attempts, claimed, nonce_mac = row
    return uuid, StoredCode(Diagnosis(*said), expires_at, attempts, claimed, nonce_mac)


def refuse_code(connection: Connection, realm_id: int, uuid: UUID) -> None:
    """Count an attempt on a code."""
    _SQL.refuse_code(connection, realm_id=realm_id, uuid=uuid)


def claim_code(connection: Connection, realm_id: int, uuid: UUID) -> None:
    """Mark a code as used."""
    _SQL.claim_code(connection, realm_id=realm_id, uuid=uuid)


def add_token(connection: Connection, realm_id: int, token_mac: bytes, said: Diagnosis, expires_at: datetime) -> None:
    """Store a token."""
    _SQL.add_token(connection, token_mac=token_mac, realm_id=realm_id, **_columns(said), expires_at=expires_at)


def lock_token(connection: Connection, realm_id: int, token_mac: bytes) -> StoredToken | None:
    """Return a token of this realm, locked until the transaction ends."""
    row = _SQL.lock_token(connection, realm_id=realm_id, token_mac=token_mac)
    return StoredToken(Diagnosis(*row[:3]), row[3], row[4]) if row else None


def use_token(connection: Connection, token_mac: bytes) -> None:
    """Mark a token as used."""
    _SQL.use_token(connection, token_mac=token_mac)


def reported(connection: Connection, phone_mac: bytes) -> bool:
    """Whether this number was given a code and must wait for another."""
    return bool(_SQL.reported(connection, phone_mac=phone_mac))


def remember_report(connection: Connection, realm_id: int, phone_mac: bytes, until: datetime) -> None:
    """Remember that a number was given a code."""
    _SQL.remember_report(connection, realm_id=realm_id, phone_mac=phone_mac, until=until)


def add_realm(connection: Connection, realm: NewRealm) -> int | None:
    """Declare a realm; None if there is one of this name."""
    columns = {name: getattr(realm, name) for name in NewRealm.__slots__}
    identifier: int | None = _SQL.add_realm(connection, **columns)
    return identifier


def lock_realm(connection: Connection, name: str) -> Realm | None:
    """Return a realm, locked until the transaction ends."""
    row = _SQL.lock_realm(connection, name=name)
    return _realm(row) if row else None


def update_realm(connection: Connection, realm: Realm) -> None:
    """Store a realm's settings; its name, issuer, audience and signing keys stay as they are."""
    columns = {name: getattr(realm, name) for name in ("id", *SETTINGS)}
    _SQL.update_realm(connection, **columns | {"test_types": list(realm.test_types)})


def realm_id(connection: Connection, name: str) -> int | None:
    """Return the id of a realm."""
    identifier: int | None = _SQL.realm_id(connection, name=name)
    return identifier


def add_api_key(connection: Connection, realm: int, name: str, kind: str, key_mac: bytes) -> int | None:
    """Store an API key; None if the realm has one of this name."""
    identifier: int | None = _SQL.add_api_key(connection, realm_id=realm, name=name, kind=kind, key_mac=key_mac)
    return identifier


def revoke_api_key(connection: Connection, realm: int, name: str) -> int | None:
    """End an API key; None if there is no live one of this name."""
    identifier: int | None = _SQL.revoke_api_key(connection, realm_id=realm, name=name)
    return identifier


def _realm(row: Sequence[Any]) -> Realm:
    columns = dict(zip(Realm.__slots__, row, strict=True))
    return Realm(**columns | {"test_types": tuple(columns["test_types"])})


def _columns(said: Diagnosis) -> dict[str, Any]:
    return {"test_type": said.test_type, "symptom_date": said.symptom_date, "test_date": said.test_date}
