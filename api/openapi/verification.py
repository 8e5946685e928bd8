"""The contract of the verification service (publish.md 4.6 to 4.9).

Each operation names the codes that it refuses with; their statuses come from `api.problems`, as those of the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from api.openapi import CHAFF, REQUEST_ID, STATUS, Contract, content, get, model, post, reference, refusal
from api.problems import verification_status
from keyserver.protocol.messages import Message
from keyserver.protocol.verification_messages import (
    BatchIssueRequest,
    CertificateRequest,
    CodeRequest,
    IssueRequest,
    UserReportRequest,
    VerifyRequest,
)

_TEXT = {"type": "string"}
_SECONDS = {"type": "integer", "description": "Seconds since 1970, UTC."}
_DATE = {"type": "string", "format": "date"}
_PADDING = {"padding": {"type": "string", "description": "Random; to be ignored."}}
_ENDS = {"expiresAt": _TEXT, "expiresAtTimestamp": _SECONDS}
_END_SECONDS = {"expiresAtTimestamp": _SECONDS, "longExpiresAtTimestamp": _SECONDS}
_CODE = {"uuid": _TEXT, "code": _TEXT, "longCode": _TEXT, **_ENDS, "longExpiresAt": _TEXT, **_END_SECONDS}
_CODES = {
    "type": "array",
    "items": {"anyOf": [reference("Issued"), reference("Problem")]},
    "description": "In the order of the request.",
}
_STATUS_ANSWER = content(reference("Status"))

# What does not come from a refusal of the service.
_STATUS_OF_ALL = {
    "not_found": 404,
    "method_not_allowed": 405,
    "maintenance_mode": 429,
    "internal_server_error": 500,
    "temporarily_unavailable": 503,
}
_INSIDE = "internal_server_error temporarily_unavailable"
_OF_READING = f"method_not_allowed maintenance_mode {_INSIDE}"

_LIMITS = {
    name: {"schema": {"type": kind}, "description": "Of this API key."}
    for name, kind in (
        ("X-RateLimit-Limit", "integer"),
        ("X-RateLimit-Remaining", "integer"),
        ("X-RateLimit-Reset", "string"),
    )
}

_WHY = {
    "400": "The request is not acceptable.",
    "401": "X-API-Key is no API key of the type that this needs.",
    "404": "There is no such thing.",
    "405": "Another method is needed: see Allow.",
    "409": "It was there before.",
    "412": "It is known, and not for this.",
    "413": "The body is larger than 64,000 bytes.",
    "415": "The content type is not application/json.",
    "429": "Too often, or closed for maintenance: see Retry-After.",
    "500": "An error inside.",
    "503": "It cannot be done now: see Retry-After.",
}


def _object(*optional: str, **properties: Any) -> dict[str, Any]:
    """Return an object's schema; what is not ``optional`` is always there."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _for_phones(**properties: Any) -> dict[str, Any]:
    answer = _object(*properties, **properties, **_PADDING)
    return answer | {"description": "Chaff is answered with padding alone."}


def _answers(good: Mapping[str, Any], codes: str, unreadable: str = "") -> dict[str, Any]:
    """``codes``: in words, all that it refuses with; ``unreadable``: what it calls a body that is none."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for code in codes.split():
        found[str(int(_STATUS_OF_ALL.get(code) or verification_status(code)))].append(code)
    if unreadable:
        found["413"] = found["415"] = [unreadable]
    refused = {}
    for status, named in sorted(found.items()):
        schema = {**reference("Problem"), "properties": {"errorCode": {"enum": named}}}
        refused[status] = refusal(status, f"{_WHY[status]} {' or '.join(f'`{code}`' for code in named)}.", schema)
    return {"200": {"description": "Done.", **good}, **refused}


def _operation(  # noqa: PLR0913 - an argument each
    summary: str,
    message: type[Message],
    example: Mapping[str, Any],
    *,
    by: str,
    answer: str,
    codes: str,
    unreadable: str = "unparsable_request",
    **more: Any,
) -> dict[str, Any]:
    """Return a path that phones or health workers' systems post to."""
    codes = f"{unreadable} unauthorized {codes} rate_limited maintenance_mode method_not_allowed {_INSIDE}"
    return post(
        summary,
        content(reference(message.__name__), example=example),
        _answers(
            {**content(reference(answer)), "headers": _LIMITS}, " ".join(dict.fromkeys(codes.split())), unreadable
        ),
        parameters=[CHAFF, REQUEST_ID] if by == "phone" else [REQUEST_ID],
        security=[{by: []}],
        **more,
    )


_DIAGNOSIS = {"testType": "confirmed", "symptomDate": "2026-03-01", "tzOffset": 0}
_DIAGNOSIS_CODES = "invalid_test_type missing_date invalid_date"
_ISSUE_CODES = (
    f"{_DIAGNOSIS_CODES} unsupported_test_type uuid_already_exists phone_number_invalid sms_failure quota_exceeded"
)
_UUID = {"uuid": "6c84fb90-12c4-11e1-840d-7b25c5ee775a"}

_PATHS: dict[str, dict[str, Any]] = {
    "/api/verify": _operation(
        "A code for a token",
        VerifyRequest,
        {"code": "12345678", "accept": ["confirmed"], "nonce": "", "padding": "cmFuZG9t"},
        by="phone",
        answer="VerifyAnswer",
        codes="invalid_test_type code_invalid code_expired unsupported_test_type",
        description="`accept`: the test types that the phone takes, all when it is left out. The code of a self report"
        " needs the `nonce` that the report had.",
    ),
    "/api/certificate": _operation(
        "A token, and the HMAC of the keys to be uploaded, for a certificate",
        CertificateRequest,
        {"token": "<of /api/verify>", "ekeyhmac": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
        by="phone",
        answer="CertificateAnswer",
        codes="hmac_invalid token_expired",
        unreadable="token_invalid",
    ),
    "/api/user-report": _operation(
        "A report of a person's own: a code is sent to the telephone",
        UserReportRequest,
        {"symptomDate": "2026-03-01", "tzOffset": 0, "phone": "+4712345678", "nonce": "<256 random bytes in base64>"},
        by="phone",
        answer="UserReportAnswer",
        codes=f"{_DIAGNOSIS_CODES} missing_nonce missing_phone phone_number_invalid quota_exceeded sms_queue_full",
        description="A number that had a code lately gets none, and the answer is the same.",
    ),
    "/api/issue": _operation(
        "A code for a diagnosis",
        IssueRequest,
        _DIAGNOSIS,
        by="healthWorker",
        answer="Issued",
        codes=_ISSUE_CODES,
        description="Dates are YYYY-MM-DD, of the last 28 days; `tzOffset` is the sender's place, in minutes east of"
        " UTC. Nothing is sent to `phone`.",
    ),
    "/api/batch-issue": _operation(
        "Up to ten codes, each by itself",
        BatchIssueRequest,
        {"codes": [_DIAGNOSIS]},
        by="healthWorker",
        answer="BatchIssued",
        codes=_ISSUE_CODES,
        description="When one is refused, status and error are those of the first that is, and `codes` still holds the"
        " others.",
    ),
    "/api/checkcodestatus": _operation(
        "Whether a code was used, and when it ends",
        CodeRequest,
        _UUID,
        by="healthWorker",
        answer="CodeStatus",
        codes="code_not_found",
    ),
    "/api/expirecode": _operation(
        "End a code", CodeRequest, _UUID, by="healthWorker", answer="Expired", codes="code_not_found"
    ),
    "/jwks": get(
        "The keys of the only realm's certificates",
        _answers(content(reference("Keys")), f"realm_not_found {_OF_READING}"),
    ),
    "/jwks/{realm}": get(
        "The keys of a realm's certificates",
        _answers(content(reference("Keys")), f"realm_not_found not_found {_OF_READING}"),
        parameters=[REQUEST_ID, {"name": "realm", "in": "path", "required": True, "schema": _TEXT}],
    ),
    "/health": get(
        "The process lives and its database answers", _answers(_STATUS_ANSWER, f"method_not_allowed {_INSIDE}")
    ),
    "/ready": get("The process should be sent requests", _answers(_STATUS_ANSWER, f"method_not_allowed {_INSIDE}")),
    "/openapi.json": get("This document", _answers(content({"type": "object"}), "method_not_allowed maintenance_mode")),
    "/docs": get(
        "This document as a page", _answers(content(_TEXT, "text/html"), "method_not_allowed maintenance_mode")
    ),
}

CONTRACT = Contract(
    title="Exposure Notifications verification service",
    description="From a health worker's code to a phone's certificate. Bodies are JSON of at most 64,000 bytes.",
    paths=_PATHS,
    schemas={
        **model(VerifyRequest, "validation"),
        **model(CertificateRequest, "validation"),
        **model(UserReportRequest, "validation"),
        **model(IssueRequest, "validation"),
        **model(BatchIssueRequest, "validation"),
        **model(CodeRequest, "validation"),
        "VerifyAnswer": _for_phones(
            testtype={"enum": ["confirmed", "likely", "negative", "user-report"]},
            symptomDate=_DATE,
            testDate=_DATE,
            token={"type": "string", "description": "Good for 24 hours and one certificate."},
        ),
        "CertificateAnswer": _for_phones(certificate={"type": "string", "description": "A JWT, for /v1/publish."}),
        "UserReportAnswer": _for_phones(**_ENDS),
        "Issued": _object("padding", **_CODE, **_PADDING),
        "BatchIssued": _object(codes=_CODES, **_PADDING),
        "CodeStatus": _object(claimed={"type": "boolean"}, **_END_SECONDS, **_PADDING),
        "Expired": _object(**_END_SECONDS, **_PADDING),
        "Keys": {
            "type": "array",
            "items": _object(**dict.fromkeys(("kty", "crv", "alg", "use", "kid", "x", "y"), _TEXT)),
        },
        "Status": STATUS,
        "Problem": {
            "type": "object",
            "properties": {
                "error": {"type": "string", "description": "For people."},
                "errorCode": {"type": "string", "description": "For programs."},
                "error_code": {"type": "string", "description": "The same, by its older name."},
                "codes": _CODES,
                **_PADDING,
            },
            "required": ["error", "errorCode", "error_code"],
            "additionalProperties": False,
        },
    },
    security={
        "phone": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Of type device."},
        "healthWorker": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Of type admin."},
    },
)
