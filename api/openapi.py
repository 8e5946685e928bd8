"""GET /openapi.json, the contract as OpenAPI 3.1, and GET /docs, the same as a page that loads nothing.

Schemas of messages come from the models that decode and encode them, so they cannot differ from the code. What is
served describes the routes that this process has.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Response, current_app

from keyserver.protocol import attestation
from keyserver.protocol.messages import CONTENT_TYPE, PublishAnswer, PublishRequest

_SCHEMAS = "#/components/schemas/"
_STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}pre{overflow:auto;background:#eee}"

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
    "properties": {"days": {"type": "array", "items": {"$ref": f"{_SCHEMAS}Day"}}, "padding": {"type": "string"}},
}
_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {"status": {"enum": ["ok", "ready"]}},
    "required": ["status"],
    "additionalProperties": False,
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
_CHAFF = {
    "name": "X-Chaff",
    "in": "header",
    "required": False,
    "description": "With any value: the request only pretends. It is answered 200 like a success, and nothing is done.",
    "schema": {"type": "string"},
}
_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "A UUID or other 8 to 64 hex digits and dashes comes back and stands in the log; else one is made.",
    "schema": {"type": "string"},
}


def _answers(schema: str | None, statuses: str, **more: Any) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done.", **more}
    if schema:
        good["content"] = {CONTENT_TYPE: {"schema": {"$ref": _SCHEMAS + schema}}}
    bad = {
        status: {
            "description": _WHY[status],
            "content": {CONTENT_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in {"429", "503"} else {}),
        }
        for status in statuses.split()
    }
    return {"200": good, **bad}


def _post(summary: str, body: Mapping[str, Any] | None, answers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    content = {"requestBody": {"required": True, "content": {CONTENT_TYPE: body}}} if body else {}
    return {"post": {"summary": summary, "parameters": [_CHAFF, _ID], **content, "responses": answers, **more}}


def _get(summary: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": [_ID], "responses": answers}}


_PUBLISH_ANSWERS = _answers("PublishAnswer", "400 401 405 413 415 429 500 503")
_PUBLISH_ANSWERS["200"] = {
    "description": "Stored; with code `partial_failure` without the keys that `error` names by their place.",
    "headers": {"x-api-version": {"schema": {"const": "v1"}}},
    "content": {CONTENT_TYPE: {"schema": {"$ref": f"{_SCHEMAS}PublishAnswer"}, "example": _ANSWER_EXAMPLE}},
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

# Every path that a process of ours may have.
PATHS: dict[str, dict[str, Any]] = {
    "/v1/publish": _post(
        "Upload keys, or change what uploaded keys mean",
        {"schema": {"$ref": f"{_SCHEMAS}PublishRequest"}, "example": _REQUEST_EXAMPLE},
        _PUBLISH_ANSWERS,
        description="A certificate's `tekmac` binds it to these keys: HMAC-SHA-256 under `hmacKey`.",
    ),
    "/v1/stats": _post(
        "Statistics of a health authority's uploads",
        {"schema": {"$ref": f"{_SCHEMAS}StatsRequest"}, "example": {"padding": "cmFuZG9t"}},
        _STATS_ANSWERS,
        parameters=[_CHAFF, _ID, _FORMAT],
        description="`format`, or without it Accept, asks for CSV, which is padded by empty lines.",
        security=[{"authority": []}],
    ),
    "/v1/attestation/challenge": _post(
        "A challenge that a phone's attestation must answer",
        None,
        _answers("Challenge", "400 405 413 415 429 500 503"),
        description=attestation.__doc__,
    ),
    "/health": _get("The process lives and its database answers", _answers("Status", "405 500 503")),
    "/ready": _get("The process should be sent requests", _answers("Status", "405 500 503")),
    "/openapi.json": _get(
        "This document", _answers(None, "405 429", content={CONTENT_TYPE: {"schema": {"type": "object"}}})
    ),
    "/docs": _get(
        "This document as a page", _answers(None, "405 429", content={"text/html": {"schema": {"type": "string"}}})
    ),
}


def document(paths: Iterable[str] = tuple(PATHS)) -> dict[str, Any]:
    """Return the OpenAPI document of these paths. Raises KeyError for one that is not described."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Exposure Notifications key server",
            "version": "v1",
            "description": "What phones and health authorities send. Bodies are JSON of at most 64,000 bytes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {path: PATHS[path] for path in paths},
        "components": {
            "securitySchemes": {"authority": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {
                **_model(PublishRequest, "validation"),
                **_model(PublishAnswer, "serialization"),
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
                "Status": _STATUS,
                "Problem": _PROBLEM,
            },
        },
    }


def _model(model: Any, mode: Any) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True, mode=mode, ref_template=_SCHEMAS + "{model}")
    inner = schema.pop("$defs", {})
    # Left out on the wire when empty, whatever the model's own idea of its fields.
    schema.pop("required", None)
    return {model.__name__: schema, **inner}


def blueprint() -> Blueprint:
    """Return both routes."""
    routes = Blueprint("openapi", __name__)

    def served() -> dict[str, Any]:
        rules = {rule.rule for rule in current_app.url_map.iter_rules()}
        return document(path for path in PATHS if path in rules)

    @routes.get("/openapi.json", provide_automatic_options=False)
    def openapi() -> Response:
        return Response(json.dumps(served()), content_type=CONTENT_TYPE)

    @routes.get("/docs", provide_automatic_options=False)
    def docs() -> Response:
        digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
        return Response(
            _page(served()), headers={"Content-Security-Policy": policy}, content_type="text/html; charset=utf-8"
        )

    return routes


def _page(described: Mapping[str, Any]) -> str:
    parts = [
        f"<h1>{html.escape(described['info']['title'])}</h1>",
        f"<p>{html.escape(described['info']['description'])}</p>",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts += [
                f"<p>{html.escape(operation[name])}</p>" for name in ("summary", "description") if name in operation
            ]
            if content := operation.get("requestBody", {}).get("content"):
                parts.append(f"<h3>Body</h3><pre>{_shown(content)}</pre>")
            parts.append("<h3>Answers</h3><ul>")
            parts += [
                f"<li><code>{status}</code> {html.escape(answer['description'])}</li>"
                for status, answer in operation["responses"].items()
            ]
            parts.append("</ul>")
    parts.append("<h2>Schemas</h2>")
    parts += [
        f"<h3 id='{html.escape(name)}'>{html.escape(name)}</h3><pre>{_shown(schema)}</pre>"
        for name, schema in described["components"]["schemas"].items()
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Key server API</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _shown(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2))
