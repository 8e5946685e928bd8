"""The contract of the API: uploads, statistics, challenges (publish.md 1, 5, 6)."""

from __future__ import annotations

from typing import Any

from api.openapi import CHAFF, REQUEST_ID, STATUS, Contract, content, get, model, post, reference, refusal
from keyserver.protocol import attestation
from keyserver.protocol.messages import PublishAnswer, PublishRequest

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "For people."},
        "code": {"type": "string", "description": "For programs."},
        "padding": {"type": "string", "description": "Random; to be ignored."},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["error", "code"],
}
_DAY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date-time"},
        "publish_requests": {
            "type": "object",
            "properties": {name: {"type": "integer", "minimum": 0} for name in ("unknown", "android", "ios")},
        },
        "total_teks_published": {"type": "integer", "minimum": 0},
        "requests_with_revisions": {"type": "integer", "minimum": 0},
        "tek_age_distribution": {"type": "array", "items": {"type": "integer"}, "minItems": 16, "maxItems": 16},
        "onset_to_upload_distribution": {"type": "array", "items": {"type": "integer"}, "minItems": 30, "maxItems": 30},
        "requests_missing_onset_date": {"type": "integer", "minimum": 0},
    },
}
_STATS: dict[str, Any] = {
    "type": "object",
    "properties": {"days": {"type": "array", "items": reference("Day")}, "padding": {"type": "string"}},
}
_REQUEST_EXAMPLE = {
    "temporaryExposureKeys": [
        {"key": "AAECAwQFBgcICQoLDA0ODw==", "rollingStartNumber": 2959200, "rollingPeriod": 144, "transmissionRisk": 0}
    ],
    "healthAuthorityID": "com.example.app",
    "verificationPayload": "<a certificate: a JWT of the health authority>",
    "hmacKey": "AAECAwQFBgcICQoLDA0ODw==",
    "symptomOnsetInterval": 2959056,
    "traveler": False,
    "revisionToken": "",
    "padding": "<at least 1 kB of random text>",
}
_ANSWER_EXAMPLE = {"revisionToken": "<to be sent with a later upload>", "insertedExposures": 1, "padding": "cmFuZG9t"}

_WHY = {
    "400": "The request is not acceptable; `code` says why. Nothing was stored.",
    "401": "Not authorised; `code` says by whom or why.",
    "405": "Another method is needed: see Allow.",
    "413": "The body is larger than 64,000 bytes.",
    "415": "The content type is not application/json.",
    "429": "Closed for maintenance: see Retry-After.",
    "500": "An error inside.",
    "503": "It cannot be done now: see Retry-After. Nothing was stored that was not answered 200.",
}


def _answers(schema: str | None, statuses: str, **more: Any) -> dict[str, Any]:
    good = {"description": "Done.", **(content(reference(schema)) if schema else {}), **more}
    bad = {status: refusal(status, _WHY[status], reference("Problem")) for status in statuses.split()}
    return {"200": good, **bad}


_PUBLISH_ANSWERS = _answers("PublishAnswer", "400 401 405 413 415 429 500 503")
_PUBLISH_ANSWERS["200"] = {
    "description": "Stored; with code `partial_failure` without the keys that `error` names by their place.",
    "headers": {"x-api-version": {"schema": {"const": "v1"}}},
    **content(reference("PublishAnswer"), example=_ANSWER_EXAMPLE),
}

_STATS_ANSWERS = _answers("StatsAnswer", "400 401 405 413 415 429 500 503")
_STATS_ANSWERS["200"]["content"]["text/csv"] = {"schema": {"type": "string"}}
_FORMAT = {
    "name": "format",
    "in": "query",
    "required": False,
    "description": "What is answered on success.",
    "schema": {"enum": ["json", "csv"]},
}

_PATHS: dict[str, dict[str, Any]] = {
    "/v1/publish": post(
        "Upload keys, or change what uploaded keys mean",
        content(reference("PublishRequest"), example=_REQUEST_EXAMPLE),
        _PUBLISH_ANSWERS,
        description="A certificate's `tekmac` binds it to these keys: HMAC-SHA-256 under `hmacKey`.",
    ),
    "/v1/stats": post(
        "Statistics of a health authority's uploads",
        content(reference("StatsRequest"), example={"padding": "cmFuZG9t"}),
        _STATS_ANSWERS,
        parameters=[CHAFF, REQUEST_ID, _FORMAT],
        description="`format`, or without it Accept, asks for CSV, which is padded by empty lines.",
        security=[{"authority": []}],
    ),
    "/v1/attestation/challenge": post(
        "A challenge that a phone's attestation must answer",
        None,
        _answers("Challenge", "400 405 413 415 429 500 503"),
        description=attestation.__doc__,
    ),
    "/health": get("The process lives and its database answers", _answers("Status", "405 500 503")),
    "/ready": get("The process should be sent requests", _answers("Status", "405 500 503")),
    "/openapi.json": get("This document", _answers(None, "405 429", **content({"type": "object"}))),
    "/docs": get("This document as a page", _answers(None, "405 429", **content({"type": "string"}, "text/html"))),
}

CONTRACT = Contract(
    title="Exposure Notifications key server",
    description="What phones and health authorities send. Bodies are JSON of at most 64,000 bytes.",
    paths=_PATHS,
    schemas={
        **model(PublishRequest, "validation"),
        **model(PublishAnswer, "serialization"),
        "StatsRequest": {
            "type": "object",
            "properties": {"padding": {"type": "string"}},
            "additionalProperties": False,
        },
        "StatsAnswer": _STATS,
        "Day": _DAY,
        "Challenge": {
            "type": "object",
            "properties": {
                "challenge": {"type": "string"},
                "expires_in": {"type": "integer", "description": "Seconds."},
                "padding": {"type": "string"},
            },
            "description": "Chaff is answered with padding alone.",
        },
        "Status": STATUS,
        "Problem": _PROBLEM,
    },
    security={"authority": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
)
