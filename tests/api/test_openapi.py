"""The document against the code, and against real answers."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from jsonschema import Draft202012Validator

from api import create_app
from api.openapi import Contract, publish, verification
from tests.uploads import add_revision_key, api_settings, authorise, keys, request

BOTH = pytest.mark.parametrize("contract", [publish.CONTRACT, verification.CONTRACT], ids=lambda each: each.title)


@pytest.fixture
def now(test_database) -> datetime:
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


@pytest.fixture
def app(test_database, now, tmp_path):
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    settings = api_settings(tmp_path)
    return create_app(settings, test_database.database("api"), settable_clock=True)


@pytest.fixture
def client(app):
    return app.test_client()


def validator(described: dict, schema: dict) -> Draft202012Validator:
    """A validator of one of the document's schemas, which may name the others."""
    return Draft202012Validator({"$ref": "#/schema", "schema": schema, "components": described["components"]})


def check(described: dict, path: str, answer) -> None:
    """The answer is one that the document promises."""
    operation = described["paths"][path][answer.request.method.lower()]
    promised = operation["responses"][str(answer.status_code)]
    ((content_type, media),) = promised["content"].items()
    assert answer.mimetype == content_type
    validator(described, media["schema"]).validate(answer.get_json())
    for name, header in promised.get("headers", {}).items():
        value = answer.headers[name]
        value = int(value) if header["schema"].get("type") == "integer" else value
        validator(described, header["schema"]).validate(value)


def routes(app) -> set[tuple[str, str]]:
    """Path and method of everything that this application answers, in the form of the document."""
    return {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def test_every_route_is_described_and_nothing_else(app, client):
    described = client.get("/openapi.json").get_json()
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes(app)


def test_what_is_served_is_the_document(client):
    answer = client.get("/openapi.json")
    described = answer.get_json()
    assert (answer.content_type, described["openapi"]) == ("application/json", "3.1.0")
    assert described == json.loads(json.dumps(publish.CONTRACT.document(described["paths"])))


@BOTH
def test_schemas_are_schemas_and_references_lead_somewhere(contract: Contract):
    described = contract.document()
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(described)):
        assert reference in described["components"]["schemas"]


@BOTH
def test_examples_validate(contract: Contract):
    described = contract.document()
    checked = 0
    for methods in contract.paths.values():
        for operation in methods.values():
            contents = [operation.get("requestBody", {}), *operation["responses"].values()]
            for media in [media for part in contents for media in part.get("content", {}).values()]:
                if "example" in media:
                    validator(described, media["schema"]).validate(media["example"])
                    checked += 1
    assert checked >= 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"regions": ["DE"]},
        {"traveler": "yes"},
        {"symptomOnsetInterval": 2**31},
        {"temporaryExposureKeys": [{"key": "", "rollingStart": 1}]},
    ],
    ids=str,
)
def test_the_request_s_schema_refuses_what_the_server_refuses(client, wrong):
    schema = {"$ref": "#/components/schemas/PublishRequest"}
    assert not validator(publish.CONTRACT.document(), schema).is_valid(wrong)
    assert client.post("/v1/publish", json=wrong).status_code == 400


def test_answers_are_as_promised(client, now):
    described = client.get("/openapi.json").get_json()
    sent = keys(now, 2)
    good = request(sent, now)
    partly = request([*keys(now, 1, "more"), {**sent[0], "rollingPeriod": 200, "key": "AAAAAAAAAAAAAAAAAAAAAA=="}], now)
    publishes = [
        (200, client.post("/v1/publish", json=good)),
        (200, client.post("/v1/publish", json=partly)),
        (200, client.post("/v1/publish", data=b"x", headers={"X-Chaff": "1"})),
        (400, client.post("/v1/publish", json={"regions": []})),
        (401, client.post("/v1/publish", json={})),
        (405, client.put("/v1/publish")),
        (413, client.post("/v1/publish", data=b" " * 64_001, content_type="application/json")),
        (415, client.post("/v1/publish", data=b"{}")),
    ]
    assert publishes[1][1].get_json()["code"] == "partial_failure"
    for status, answer in publishes:
        assert answer.status_code == status
        if status == 405:
            assert "put" not in described["paths"]["/v1/publish"]
        else:
            check(described, "/v1/publish", answer)
    for path in ("/health", "/ready", "/openapi.json"):
        check(described, path, client.get(path))
    challenge = client.post("/v1/attestation/challenge")
    check(described, "/v1/attestation/challenge", challenge)


def test_503_and_429_are_as_promised(test_database):
    described = publish.CONTRACT.document()
    unreachable = api_settings(urls={"api": "postgresql://api@/none?host=/nonexistent"})
    away = create_app(unreachable).test_client()
    for path in ("/health", "/ready"):
        answer = away.get(path)
        assert answer.status_code == 503
        check(described, path, answer)
    closed = create_app(api_settings(maintenance_mode=True), test_database.database("api")).test_client()
    answer = closed.post("/v1/publish")
    assert answer.status_code == 429
    check(described, "/v1/publish", answer)


def test_the_page_says_it_all_and_loads_nothing(client):
    answer = client.get("/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    page = answer.get_data(as_text=True)
    for path in client.get("/openapi.json").get_json()["paths"]:
        assert path in page
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, {name for name, _ in attrs}))

    Reader().feed(page)
    assert {"script", "link", "img", "iframe"}.isdisjoint({tag for tag, _ in tags})
    assert {"src", "href", "style"}.isdisjoint(set().union(*(names for _, names in tags)))
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
