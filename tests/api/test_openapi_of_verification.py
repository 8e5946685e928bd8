"""The verification service's document against the code, and against real answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from api.openapi.verification import CONTRACT
from api.verification import create_verification_app
from keyserver.settings import Settings
from tests.api.test_openapi import check, routes
from tests.raised import raised_codes
from tests.realms import World, living

MAC = base64.b64encode(bytes(32)).decode()
NONCE = base64.b64encode(bytes(256)).decode()


@pytest.fixture
def world(test_database, tmp_path) -> Iterator[World]:
    with living(test_database, tmp_path) as made:
        yield made


def promised_codes() -> set[str]:
    return {
        code
        for methods in CONTRACT.paths.values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if status != "200"
        for code in answer["content"]["application/json"]["schema"]["properties"]["errorCode"]["enum"]
    }


def test_every_route_is_described_and_nothing_else(world):
    described = world.app.test_client().get("/openapi.json").get_json()
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes(world.app)


def test_every_code_is_promised_and_nothing_else():
    elsewhere = {
        "not_found",
        "method_not_allowed",
        "maintenance_mode",
        "internal_server_error",
        "temporarily_unavailable",
    }
    assert promised_codes() == raised_codes("VerificationRefusedError", "TooManyError") | elsewhere


def test_the_page_names_every_path(world):
    page = world.app.test_client().get("/docs").get_data(as_text=True)
    assert "verification service" in page
    assert [path for path in CONTRACT.paths if path not in page] == []


def test_answers_are_as_promised(world):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    described = world.app.test_client().get("/openapi.json").get_json()
    issued = world.issue()
    diagnosis = {"testType": "likely", "testDate": "2026-03-01"}
    asked = [
        (200, "/api/verify", {"code": issued["code"]}),
        (400, "/api/verify", {"code": issued["code"]}),
        (412, "/api/verify", {"code": world.issue(testType="likely")["code"], "accept": ["confirmed"]}),
        (200, "/api/certificate", {"token": world.token(), "ekeyhmac": MAC}),
        (400, "/api/certificate", {"token": "x", "ekeyhmac": MAC}),
        (200, "/api/user-report", {"symptomDate": "2026-03-01", "phone": "+4712345678", "nonce": NONCE}),
        (400, "/api/user-report", {"symptomDate": "2026-03-01", "nonce": NONCE}),
        (200, "/api/issue", {**diagnosis, "uuid": "1" * 32}),
        (409, "/api/issue", {**diagnosis, "uuid": issued["uuid"]}),
        (200, "/api/batch-issue", {"codes": [diagnosis, diagnosis]}),
        (400, "/api/batch-issue", {"codes": [diagnosis, {}]}),
        (200, "/api/checkcodestatus", {"uuid": issued["uuid"]}),
        (404, "/api/checkcodestatus", {"uuid": "0" * 32}),
        (200, "/api/expirecode", {"uuid": issued["uuid"]}),
    ]
    for status, path, body in asked:
        answer = world.post(path, body)
        assert (path, answer.status_code) == (path, status)
        check(described, path, answer)
    for path in ("/jwks", "/health", "/ready", "/openapi.json"):
        check(described, path, world.app.test_client().get(path))


def test_refusals_of_the_edge_are_as_promised(world):
    described = CONTRACT.document()
    for path in ("/api/verify", "/api/certificate", "/api/issue"):
        for answer in (
            world.post(path, {}, key="none"),
            world.post(path, b" " * 64_001),
            world.app.test_client().post(path, data=b"{}", headers={"X-API-Key": world.admin}),
        ):
            assert answer.status_code in {401, 413, 415}
            check(described, path, answer)
    check(described, "/api/verify", world.post("/api/verify", b"?", X_Chaff="1"))
    world.set(requests_per_minute=1)
    answer = world.post("/api/verify", {})
    assert answer.status_code == 429
    check(described, "/api/verify", answer)
    closed = create_verification_app(Settings(maintenance_mode=True), world.service, world.courier).test_client()
    for answer in (closed.post("/api/issue"), closed.post("/api/verify")):
        assert answer.status_code == 429
        check(described, answer.request.path, answer)
