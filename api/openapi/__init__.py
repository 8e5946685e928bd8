"""GET /openapi.json, the contract of a process as OpenAPI 3.1, and GET /docs, the same as a page that loads nothing.

Schemas of messages come from the models that decode and encode them, so they cannot differ from the code. What is
served describes the routes that this process has. The contracts themselves are `publish` and `verification`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, current_app

from keyserver.protocol.messages import CONTENT_TYPE, Message

_SCHEMAS = "#/components/schemas/"
_STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}pre{overflow:auto;background:#eee}"

REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "A UUID or other 8 to 64 hex digits and dashes comes back and stands in the log; else one is made.",
    "schema": {"type": "string"},
}
CHAFF = {
    "name": "X-Chaff",
    "in": "header",
    "required": False,
    "description": "With any value: the request only pretends. It is answered 200 like a success, and nothing is done.",
    "schema": {"type": "string"},
}
STATUS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"status": {"enum": ["ok", "ready"]}},
    "required": ["status"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Contract:
    """What an application promises: every path that a process of it may have, and the parts that these refer to."""

    title: str
    description: str
    paths: Mapping[str, Mapping[str, Any]]
    schemas: Mapping[str, Any]
    security: Mapping[str, Any]

    def document(self, paths: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the OpenAPI document of these paths, or of all. Raises KeyError for one that is not described."""
        return {
            "openapi": "3.1.0",
            "info": {
                "title": self.title,
                "version": "v1",
                "description": self.description,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": {path: self.paths[path] for path in (self.paths if paths is None else paths)},
            "components": {"securitySchemes": self.security, "schemas": self.schemas},
        }


# What contracts are written with


def reference(schema: str) -> dict[str, str]:
    """Return a reference to one of the contract's schemas."""
    return {"$ref": _SCHEMAS + schema}


def model(message: type[Message], mode: Any) -> dict[str, Any]:
    """Return the schemas of a message and of what it holds, by name; ``mode`` is pydantic's."""
    schema = message.model_json_schema(by_alias=True, mode=mode, ref_template=_SCHEMAS + "{model}")
    inner = schema.pop("$defs", {})
    # Left out on the wire when empty, whatever the model's own idea of its fields.
    schema.pop("required", None)
    return {message.__name__: schema, **inner}


def content(schema: Mapping[str, Any], content_type: str = CONTENT_TYPE, **more: Any) -> dict[str, Any]:
    """Return a body of one content type; ``more`` is an example."""
    return {"content": {content_type: {"schema": schema, **more}}}


def refusal(status: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer that is no success."""
    headers = {"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in {"429", "503"} else {}
    return {"description": description, **content(schema), **headers}


def post(summary: str, body: Mapping[str, Any] | None, answers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a path that is posted to; ``body`` is a `content`."""
    sent = {"requestBody": {"required": True, **body}} if body else {}
    return {"post": {"summary": summary, "parameters": [CHAFF, REQUEST_ID], **sent, "responses": answers, **more}}


def get(summary: str, answers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a path that is read."""
    return {"get": {"summary": summary, "parameters": [REQUEST_ID], "responses": answers, **more}}


def blueprint(contract: Contract) -> Blueprint:
    """Return both routes."""
    routes = Blueprint("openapi", __name__)

    def served() -> dict[str, Any]:
        rules = {re.sub(r"<(\w+)>", r"{\1}", rule.rule) for rule in current_app.url_map.iter_rules()}
        return contract.document(path for path in contract.paths if path in rules)

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
            if body := operation.get("requestBody", {}).get("content"):
                parts.append(f"<h3>Body</h3><pre>{_shown(body)}</pre>")
            if needed := operation.get("security"):
                parts.append(f"<p>Needs {', '.join(html.escape(name) for each in needed for name in each)}.</p>")
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
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(described['info']['title'])}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _shown(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2))
