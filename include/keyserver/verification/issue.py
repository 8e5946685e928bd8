"""Health workers: issue a code, ask whether it was used, end it (publish.md 4.7)."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyserver.errors import ConflictError
from keyserver.protocol.verification import (
    Diagnosis,
    SentDiagnosis,
    VerificationRefusedError,
    check_phone,
    diagnosis,
    draw_code,
    draw_long_code,
)
from keyserver.store import verification as store
from keyserver.store.verification import Caller, CodeMacs, CodeStatus, NewCode
from keyserver.verification.access import Service, count_codes

MAX_BATCH = 10
_DRAWS = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """A code that a health worker asks for. ``sms``: that it shall be sent, which this server does not."""

    diagnosis: SentDiagnosis
    uuid: str = ""
    phone: str = ""
    sms: bool = False


@dataclass(frozen=True, slots=True)
class Issued:
    """A code in both forms, which stand nowhere else, and when each ends."""

    uuid: uuid.UUID
    code: str
    long_code: str
    expires_at: datetime
    long_expires_at: datetime


def issue(service: Service, caller: Caller, wanted: Wanted) -> Issued:
    """Make a code for a diagnosis.

    Raises:
        VerificationRefusedError: ``unparsable_request``, ``invalid_test_type``, ``missing_date``, ``invalid_date``,
            ``unsupported_test_type``, ``uuid_already_exists``, ``quota_exceeded`` (`TooManyError`); for a request to
            send it ``phone_number_invalid`` or ``sms_failure``.
    """
    realm = caller.realm
    if wanted.diagnosis.test_type == "user-report":
        raise VerificationRefusedError("invalid_test_type", "testType must be confirmed, likely or negative")
    said = diagnosis(wanted.diagnosis, caller.now, date_required=realm.date_required)
    if said.test_type not in realm.test_types:
        raise VerificationRefusedError("unsupported_test_type", "this realm issues no codes for that testType")
    if wanted.phone:
        check_phone(wanted.phone)
    if wanted.phone or wanted.sms:
        raise VerificationRefusedError("sms_failure", "this server sends no messages: leave out phone, tell the code")
    chosen = parse_uuid(wanted.uuid) if wanted.uuid else uuid.uuid4()
    count_codes(service, caller)
    with service.database.connection() as connection:
        store.forget(connection)
    return make_code(service, caller, said, chosen)


def batch_issue(service: Service, caller: Caller, wanted: Sequence[Wanted]) -> list[Issued | VerificationRefusedError]:
    """Make up to ten codes, each by itself; what is refused stands in its place. Raises ``unparsable_request``."""
    if not 0 < len(wanted) <= MAX_BATCH:
        raise VerificationRefusedError("unparsable_request", f"codes must be 1 to {MAX_BATCH}")
    results: list[Issued | VerificationRefusedError] = []
    for each in wanted:
        try:
            results.append(issue(service, caller, each))
        except VerificationRefusedError as error:
            results.append(error)
    return results


def check_status(service: Service, caller: Caller, code_uuid: str) -> CodeStatus:
    """Return the status of a code of this realm. Raises ``unparsable_request`` or ``code_not_found``."""
    with service.database.connection() as connection:
        status = store.code_status(connection, caller.realm.id, parse_uuid(code_uuid))
    return _found(status)


def expire(service: Service, caller: Caller, code_uuid: str) -> CodeStatus:
    """End a code now, and return its status. Raises as `check_status` does."""
    with service.database.connection() as connection:
        status = store.expire_code(connection, caller.realm.id, parse_uuid(code_uuid))
    return _found(status)


def make_code(
    service: Service, caller: Caller, said: Diagnosis, code_uuid: uuid.UUID, nonce: bytes | None = None
) -> Issued:
    """Draw a code that is not in use and store its HMACs. Raises ``uuid_already_exists``."""
    realm = caller.realm
    ends = (caller.now + realm.code_lifetime, caller.now + max(realm.long_code_lifetime, realm.code_lifetime))
    with service.database.connection() as connection:
        for _ in range(_DRAWS):
            short = draw_code(realm.code_digits, secrets.randbelow)
            long = draw_long_code(realm.long_code_length, secrets.randbelow)
            if store.add_code(
                connection, realm.id, NewCode(code_uuid, code_macs(service, caller, short, long, nonce), said, *ends)
            ):
                return Issued(code_uuid, short, long, *ends)
            if store.code_status(connection, realm.id, code_uuid) is not None:
                raise VerificationRefusedError("uuid_already_exists", "there is a code of this uuid already")
    raise ConflictError(f"realm {realm.name} has too many codes for their length: let it have more digits")


def code_macs(service: Service, caller: Caller, short: str, long: str, nonce: bytes | None) -> CodeMacs:
    """Return what is stored of a code's two forms and of its nonce."""
    return CodeMacs(
        service.mac("short", short, caller),
        service.mac("long", long, caller),
        None if nonce is None else service.mac("nonce", nonce, caller),
    )


def parse_uuid(text: str) -> uuid.UUID:
    """Return a UUID. Raises `VerificationRefusedError` ``unparsable_request``."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise VerificationRefusedError("unparsable_request", "uuid must be a UUID") from None


def _found(status: CodeStatus | None) -> CodeStatus:
    if status is None:
        raise VerificationRefusedError("code_not_found", "there is no code of this uuid")
    return status
