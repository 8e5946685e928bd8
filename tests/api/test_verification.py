"""The verification service over HTTP: every row of the tables of publish.md 4.6 and 4.7."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from api.verification import create_verification_app, service_of
from keyserver.device.issuer import publish_hmac
from keyserver.errors import ConfigurationError
from keyserver.protocol import signature
from keyserver.protocol.certificate import AuthorisedApp, Authority, AuthorityKey, verify
from keyserver.protocol.messages import SentKey
from keyserver.protocol.verification import read_token, signed_jwt
from keyserver.settings import Settings
from tests.realms import World, living

MAC = base64.b64encode(bytes(range(32))).decode()
NONCE = base64.b64encode(bytes(256)).decode()
PHONE = "+4712345678"
PHONES = ("/api/verify", "/api/certificate", "/api/user-report")
WORKERS = ("/api/issue", "/api/batch-issue", "/api/checkcodestatus", "/api/expirecode")


@pytest.fixture
def world(test_database, tmp_path) -> Iterator[World]:
    with living(test_database, tmp_path) as made:
        yield made


def refused(answer: TestResponse, status: int, code: str) -> dict:
    body = answer.get_json()
    assert (answer.status_code, body["errorCode"], body["error_code"]) == (status, code, code)
    assert body["error"]
    return body


def self_report(world: World, **fields: object) -> TestResponse:
    body = {"symptomDate": "2026-03-01", "phone": PHONE, "nonce": NONCE, **fields}
    return world.post("/api/user-report", {name: value for name, value in body.items() if value is not None})


# The way of a diagnosis (4.8)


def test_a_code_becomes_a_certificate_that_publish_accepts(world, start):
    issued = world.issue(testType="likely", symptomDate="2026-02-27")
    verified = world.post("/api/verify", {"code": issued["code"], "accept": ["likely"], "padding": "x"}).get_json()
    assert (verified["testtype"], verified["symptomDate"]) == ("likely", "2026-02-27")
    assert "testDate" not in verified
    key = {"key": base64.b64encode(bytes(16)).decode(), "rollingStartNumber": 1, "rollingPeriod": 144}
    mac = base64.b64encode(publish_hmac(b"secret", [key])).decode()
    answer = world.post("/api/certificate", {"token": verified["token"], "ekeyhmac": mac}).get_json()
    public = world.service.signer.public_key("certificates")
    authority = Authority(
        1, "authority.example", "keyserver.example", (AuthorityKey("v1", public, start - timedelta(days=1), None),)
    )
    app = AuthorisedApp("app", ("XN",), (authority,))
    sent = [SentKey(key=key["key"], start=1, period=144)]
    read = verify(answer["certificate"], base64.b64encode(b"secret").decode(), sent, app, start)
    assert (read.report_type, read.onset) == (
        "likely",
        int(datetime.fromisoformat("2026-02-27T00:00Z").timestamp()) // 600,
    )


def test_the_form_of_token_and_certificate(world, start):
    token = world.token(testDate="2026-03-01")
    claims = jwt.decode(token, options={"verify_signature": False})
    now = int(start.timestamp())
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "tokens", "typ": "JWT"}
    assert len(base64.b64decode(claims.pop("jti"))) == 96
    name = "diagnosis-verification-example"
    assert claims == {
        "iss": name,
        "aud": name,
        "iat": now,
        "exp": now + 86400,
        "sub": "confirmed.2026-03-01.2026-03-01",
    }
    certificate = world.post("/api/certificate", {"token": token, "ekeyhmac": MAC.rstrip("=")}).get_json()[
        "certificate"
    ]
    assert jwt.get_unverified_header(certificate) == {"alg": "ES256", "kid": "v1", "typ": "JWT"}
    claims = jwt.decode(certificate, options={"verify_signature": False})
    assert claims["tekmac"] == MAC.rstrip("=")
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (now - 5, now - 5, now + 900)


def test_the_long_code_counts_as_well_and_longer(world, test_database):
    issued = world.issue()
    assert (len(issued["code"]), len(issued["longCode"])) == (8, 16)
    assert issued["expiresAt"] == "Mon, 02 Mar 2026 10:15:00 UTC"
    assert issued["longExpiresAtTimestamp"] - issued["expiresAtTimestamp"] == 23 * 3600 + 45 * 60
    test_database.pass_time(timedelta(hours=23))
    refused(world.post("/api/verify", {"code": issued["code"]}), 400, "code_expired")
    assert world.post("/api/verify", {"code": issued["longCode"]}).status_code == 200


def test_a_success_has_padding_and_the_limits(world):
    answer = world.post("/api/verify", {"code": world.issue()["code"]})
    assert len(answer.get_json()["padding"]) >= 1368
    assert answer.headers["X-RateLimit-Limit"] == "600"
    assert answer.headers["X-RateLimit-Remaining"] == "599"
    assert answer.headers["X-RateLimit-Reset"].endswith(" UTC")
    assert len(base64.b64decode(world.issue()["padding"])) in range(1024, 2048)


# /api/verify, row by row (4.6)


@pytest.mark.parametrize("path", PHONES[::2])
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"other": 1}', b'{"padding": 5}'])
def test_unparsable_request(world, path, body):
    refused(world.post(path, body), 400, "unparsable_request")


def test_verify_unparsable_request_nonce(world):
    refused(world.post("/api/verify", {"code": "1", "nonce": "?"}), 400, "unparsable_request")


def test_verify_invalid_test_type(world):
    refused(world.post("/api/verify", {"code": world.issue()["code"], "accept": ["sure"]}), 400, "invalid_test_type")


def test_verify_code_invalid_unknown(world):
    refused(world.post("/api/verify", {"code": "00000000"}), 400, "code_invalid")


def test_verify_code_invalid_used(world):
    code = world.issue()["code"]
    assert world.post("/api/verify", {"code": code}).status_code == 200
    refused(world.post("/api/verify", {"code": code}), 400, "code_invalid")


def test_verify_code_invalid_nonce(world):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    assert self_report(world).status_code == 200
    world.courier.close()
    code = world.webhook.messages[0]["code"]
    other = base64.b64encode(bytes(255) + b"1").decode()
    for nonce in ("", other):
        refused(world.post("/api/verify", {"code": code, "nonce": nonce}), 400, "code_invalid")
    assert world.post("/api/verify", {"code": code, "nonce": NONCE}).get_json()["testtype"] == "user-report"


def test_verify_code_invalid_of_another_realm(world):
    code = world.issue()["code"]
    with world.database.admin() as connection:
        connection.execute(
            "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid,"
            " certificate_key, token_key) VALUES ('south', 'i', 'a', 'v1', 'certificates', 'tokens')"
        )
    other = world.api_key("south", "device")
    refused(world.post("/api/verify", {"code": code}, other), 400, "code_invalid")


def test_verify_code_expired(world, test_database):
    code = world.issue()["code"]
    test_database.pass_time(timedelta(minutes=15))
    refused(world.post("/api/verify", {"code": code}), 400, "code_expired")


def test_verify_unsupported_test_type_does_not_use_the_code_up(world):
    code = world.issue(testType="negative")["code"]
    refused(world.post("/api/verify", {"code": code, "accept": ["likely"]}), 412, "unsupported_test_type")
    assert world.post("/api/verify", {"code": code, "accept": ["NEGATIVE"]}).status_code == 200


def test_a_code_that_was_tried_too_often_is_spent(world):
    code = world.issue(testType="negative")["code"]
    for _ in range(5):
        refused(world.post("/api/verify", {"code": code, "accept": ["likely"]}), 412, "unsupported_test_type")
    refused(world.post("/api/verify", {"code": code}), 400, "code_invalid")


def test_verify_wrong_codes_are_limited_for_all_keys_of_a_realm(world):
    world.set(wrong_codes_per_hour=2)
    for _ in range(3):
        assert world.post("/api/verify", {"code": world.issue()["code"]}).status_code == 200
    for _ in range(2):
        refused(world.post("/api/verify", {"code": "0"}), 400, "code_invalid")
    answer = world.post("/api/verify", {"code": world.issue()["code"]}, world.api_key("north", "device"))
    refused(answer, 429, "rate_limited")
    assert answer.headers["Retry-After"] == "3600"


@pytest.mark.parametrize("path", PHONES + WORKERS)
def test_maintenance_mode(test_database, tmp_path, path):
    with living(test_database, tmp_path, maintenance_mode=True) as world:
        answer = world.post(path, {})
        refused(answer, 429, "maintenance_mode")
        assert int(answer.headers["Retry-After"]) > 0
        assert world.app.test_client().get("/health").status_code == 200


def test_verify_internal_server_error_keeps_the_code(world):
    code = world.issue()["code"]
    (world.signer / "tokens.pem").rename(world.signer / "gone")
    refused(world.post("/api/verify", {"code": code}), 500, "internal_server_error")
    (world.signer / "gone").rename(world.signer / "tokens.pem")
    assert world.post("/api/verify", {"code": code}).status_code == 200


# /api/certificate, row by row (4.6)


@pytest.mark.parametrize("body", [b"{", b"", b'{"other": 1}'])
def test_certificate_token_invalid_body(world, body):
    refused(world.post("/api/certificate", body), 400, "token_invalid")


@pytest.mark.parametrize("change", ["signature", "kid", "iss", "aud", "exp", "sub", "jti", "claims", "garbage"])
def test_certificate_token_invalid(world, change):
    token = world.token()
    claims = jwt.decode(token, options={"verify_signature": False})
    key = "certificates" if change == "signature" else "tokens"
    changed = {"iss": "x", "aud": ["diagnosis-verification-example"], "exp": 1, "sub": "sure..", "jti": None}
    claims |= {change: changed[change]} if change in changed else {}
    if change == "claims":
        claims = []
    forged = signed_jwt(
        "v2" if change == "kid" else "tokens", claims, lambda sha256: world.service.signer.sign(key, sha256)
    )
    if change == "garbage":
        forged = token + "x" * 9
    refused(world.post("/api/certificate", {"token": forged, "ekeyhmac": MAC}), 400, "token_invalid")


def test_certificate_hmac_invalid(world):
    token = world.token()
    for mac in ("", "?", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(33)).decode()):
        refused(world.post("/api/certificate", {"token": token, "ekeyhmac": mac}), 400, "hmac_invalid")
    assert world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}).status_code == 200


def test_certificate_token_expired_used(world):
    token = world.token()
    assert world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}).status_code == 200
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 400, "token_expired")


def test_certificate_token_expired_missing(world):
    token = world.token()
    with world.database.admin() as connection:
        connection.execute("DELETE FROM verification_token")
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 400, "token_expired")


def test_certificate_token_expired_other_realm(world):
    token = world.token()
    with world.database.admin() as connection:
        connection.execute(
            "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid,"
            " certificate_key, token_key) VALUES ('south', 'i', 'a', 'v1', 'certificates', 'tokens')"
        )
    other = world.api_key("south", "device")
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}, other), 400, "token_expired")


def test_certificate_token_expired_by_its_row(world):
    token = world.token()
    with world.database.admin() as connection:
        connection.execute("UPDATE verification_token SET expires_at = keyserver_now()")
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 400, "token_expired")


def test_certificate_token_expired_test_data_mismatch(world):
    token = world.token()
    with world.database.admin() as connection:
        connection.execute("UPDATE verification_token SET test_type = 'likely'")
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 400, "token_expired")


def test_certificate_token_invalid_a_day_later(world, test_database):
    token = world.token()
    test_database.pass_time(timedelta(hours=24))
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 400, "token_invalid")


def test_certificate_internal_server_error_keeps_the_token(world):
    token = world.token()
    (world.signer / "certificates.pem").rename(world.signer / "gone")
    refused(world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}), 500, "internal_server_error")
    (world.signer / "gone").rename(world.signer / "certificates.pem")
    assert world.post("/api/certificate", {"token": token, "ekeyhmac": MAC}).status_code == 200


# /api/user-report, row by row (4.6)


def test_user_report_invalid_test_type_where_the_realm_takes_none(world):
    refused(self_report(world), 400, "invalid_test_type")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"symptomDate": None}, "missing_date"),
        ({"symptomDate": "yesterday"}, "invalid_date"),
        ({"symptomDate": "2026-03-03"}, "invalid_date"),
        ({"nonce": None}, "missing_nonce"),
        ({"nonce": MAC}, "missing_nonce"),
        ({"nonce": "?"}, "unparsable_request"),
        ({"phone": None}, "missing_phone"),
        ({"phone": "12345"}, "phone_number_invalid"),
        ({"tzOffset": 10000}, "unparsable_request"),
    ],
)
def test_user_report_is_refused(world, fields, code):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    refused(self_report(world, **fields), 400, code)
    world.courier.close()
    assert world.webhook.messages == []


def test_user_report_quota_exceeded(world):
    world.set(user_report=True, user_report_webhook=world.webhook.url, codes_per_day=1)
    assert self_report(world).status_code == 200
    answer = self_report(world)
    refused(answer, 429, "quota_exceeded")
    assert answer.headers["Retry-After"] == str(14 * 3600)


def test_user_report_sms_queue_full(world):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    for _ in range(64):
        world.courier.reserve()
    refused(self_report(world), 429, "sms_queue_full")


def test_user_report_tells_when_the_code_ends_and_not_the_code(world):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    body = self_report(world).get_json()
    assert body.keys() == {"expiresAt", "expiresAtTimestamp", "padding"}


# /api/issue, row by row (4.7)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"other": 1}',
        b'{"tzOffset": 1.5}',
        b'{"uuid": "x", "testType": "likely", "testDate": "2026-03-01"}',
    ],
)
def test_issue_unparsable_request(world, body):
    refused(world.post("/api/issue", body), 400, "unparsable_request")


@pytest.mark.parametrize("test_type", ["", "sure", "user-report", "Confirmed"])
def test_issue_invalid_test_type(world, test_type):
    refused(world.post("/api/issue", {"testType": test_type, "testDate": "2026-03-01"}), 400, "invalid_test_type")


def test_issue_missing_date(world):
    refused(world.post("/api/issue", {"testType": "confirmed"}), 400, "missing_date")
    world.set(date_required=False)
    assert world.post("/api/issue", {"testType": "confirmed"}).status_code == 200


@pytest.mark.parametrize("day", ["2026-02-30", "2026-01-31", "2026-03-03", "20260301", "x"])
def test_issue_invalid_date(world, day):
    refused(world.post("/api/issue", {"testType": "confirmed", "symptomDate": day}), 400, "invalid_date")


def test_issue_uuid_already_exists(world):
    uuid = world.issue()["uuid"]
    body = {"testType": "confirmed", "testDate": "2026-03-01", "uuid": uuid}
    refused(world.post("/api/issue", body), 409, "uuid_already_exists")


def test_issue_unsupported_test_type(world):
    world.set(test_types=["confirmed"])
    refused(world.post("/api/issue", {"testType": "likely", "testDate": "2026-03-01"}), 412, "unsupported_test_type")


def test_issue_quota_exceeded(world):
    world.set(codes_per_day=1)
    world.issue()
    refused(world.post("/api/issue", {"testType": "likely", "testDate": "2026-03-01"}), 429, "quota_exceeded")


def test_issue_phone_number_invalid(world):
    body = {"testType": "likely", "testDate": "2026-03-01", "phone": "1"}
    refused(world.post("/api/issue", body), 400, "phone_number_invalid")


@pytest.mark.parametrize("asked", [{"phone": PHONE}, {"onlyGenerateSMS": True}, {"smsTemplateLabel": "x"}])
def test_issue_sms_failure_nothing_is_sent(world, asked):
    refused(world.post("/api/issue", {"testType": "likely", "testDate": "2026-03-01", **asked}), 400, "sms_failure")
    assert world.fetch("SELECT 1 FROM verification_code") == []


def test_issue_internal_server_error(world):
    """No code is free: all of this length are taken."""
    world.set(code_digits=6)
    with world.database.admin() as connection:
        connection.execute("CREATE FUNCTION keep_none() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        connection.execute(
            "CREATE TRIGGER t BEFORE INSERT ON verification_code FOR EACH ROW EXECUTE FUNCTION keep_none()"
        )
    refused(world.post("/api/issue", {"testType": "likely", "testDate": "2026-03-01"}), 500, "internal_server_error")


# The other three of 4.7


def test_batch_issue_is_by_index_and_not_atomic(world):
    good = {"testType": "likely", "testDate": "2026-03-01"}
    answer = world.post("/api/batch-issue", {"codes": [good, {"testType": "sure"}, good, {**good, "uuid": "x"}]})
    body = refused(answer, 400, "invalid_test_type")
    assert [code.get("errorCode") for code in body["codes"]] == [None, "invalid_test_type", None, "unparsable_request"]
    assert len(world.fetch("SELECT 1 FROM verification_code")) == 2
    assert world.post("/api/batch-issue", {"codes": [good] * 10}).status_code == 200


@pytest.mark.parametrize("number", [0, 11])
def test_batch_issue_unparsable_request(world, number):
    good = {"testType": "likely", "testDate": "2026-03-01"}
    refused(world.post("/api/batch-issue", {"codes": [good] * number}), 400, "unparsable_request")


def test_a_code_s_status_and_its_end(world, start):
    issued = world.issue()
    status = world.post("/api/checkcodestatus", {"uuid": issued["uuid"]}).get_json()
    status.pop("padding")
    assert status == {
        "claimed": False,
        "expiresAtTimestamp": issued["expiresAtTimestamp"],
        "longExpiresAtTimestamp": issued["longExpiresAtTimestamp"],
    }
    ended = world.post("/api/expirecode", {"uuid": issued["uuid"]}).get_json()
    now = int(start.timestamp())
    assert (ended["expiresAtTimestamp"], ended["longExpiresAtTimestamp"]) == (now, now)
    refused(world.post("/api/verify", {"code": issued["code"]}), 400, "code_expired")
    refused(world.post("/api/verify", {"code": issued["longCode"]}), 400, "code_expired")


def test_a_used_code_is_claimed(world):
    issued = world.issue()
    world.post("/api/verify", {"code": issued["code"]})
    assert world.post("/api/checkcodestatus", {"uuid": issued["uuid"]}).get_json()["claimed"] is True


@pytest.mark.parametrize("path", WORKERS[2:])
def test_code_not_found_and_unparsable_uuids(world, path):
    refused(world.post(path, {"uuid": "00000000-0000-0000-0000-000000000000"}), 404, "code_not_found")
    refused(world.post(path, {"uuid": "x"}), 400, "unparsable_request")


# API keys, methods, bodies, limits, chaff


@pytest.mark.parametrize("path", PHONES + WORKERS)
def test_api_keys(world, path):
    wrong_kind = world.admin if path in PHONES else world.device
    for key in ("", "x", wrong_kind, "\u00e9"):
        refused(world.post(path, {}, key), 401, "unauthorized")


def test_a_revoked_api_key_stops_at_once(world):
    world.revoke("app")
    refused(world.post("/api/verify", {}), 401, "unauthorized")


@pytest.mark.parametrize("path", PHONES + WORKERS)
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_wrong_methods(world, path, method):
    answer = world.app.test_client().open(path, method=method)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", PHONES + WORKERS)
def test_content_type_and_size(world, path):
    code = "token_invalid" if path.endswith("certificate") else "unparsable_request"
    refused(world.post(path, {}, Content_Type="text/plain"), 415, code)
    refused(world.post(path, b'{"padding": "' + b"x" * 64_000 + b'"}'), 413, code)


def test_too_many_requests_of_a_key(world, test_database):
    world.set(requests_per_minute=2)
    for _ in range(2):
        refused(world.post("/api/verify", {"code": "0"}), 400, "code_invalid")
    answer = world.post("/api/verify", {"code": "0"})
    refused(answer, 429, "rate_limited")
    assert (answer.headers["Retry-After"], answer.headers["X-RateLimit-Remaining"]) == ("60", "0")
    test_database.pass_time(timedelta(minutes=1))
    refused(world.post("/api/verify", {"code": "0"}), 400, "code_invalid")


@pytest.mark.parametrize("path", PHONES)
def test_chaff_after_the_api_key_and_before_the_limit(world, path):
    refused(world.post(path, b"", "x", X_Chaff="1"), 401, "unauthorized")
    world.set(requests_per_minute=1)
    for value in ("1", "daily", "x"):
        answer = world.post(path, b"no json", X_Chaff=value)
        assert answer.status_code == 200
        assert answer.get_json().keys() == {"padding"}
        assert answer.headers["X-RateLimit-Remaining"] == "1"
    assert world.post(path, {}).status_code == 400  # the first that is counted
    assert world.post(path, b"", X_Chaff="1").headers["X-RateLimit-Remaining"] == "0"


def test_e1_chaff_and_a_real_success_have_the_same_headers(world):
    code = world.issue()["code"]
    real, pretended = world.post("/api/verify", {"code": code}), world.post("/api/verify", {}, X_Chaff="1")
    assert [name for name, _ in real.headers] == [name for name, _ in pretended.headers]
    of_one_length = [name for name, _ in real.headers if name != "Content-Length"]
    assert [len(real.headers[name]) for name in of_one_length] == [
        len(pretended.headers[name]) for name in of_one_length
    ]


def test_lengths_tell_nothing(world):
    """E1: every answer to a phone, refusals and chaff too, has a length of one range."""
    answers = [world.post("/api/verify", {"code": world.issue()["code"]}) for _ in range(5)]
    answers += [world.post("/api/verify", {"code": "0"}) for _ in range(5)]
    answers += [world.post("/api/verify", {}, X_Chaff="1") for _ in range(5)]
    assert all(1536 + 1368 <= len(answer.data) <= 1536 + 2732 for answer in answers)


def test_jwks(world):
    client = world.app.test_client()
    (key,) = client.get("/jwks").get_json()
    assert client.get("/jwks/north").get_json() == [key]
    public = signature.load_public_key(world.service.signer.public_key("certificates"))
    assert jwt.PyJWK(key).key.public_numbers() == public.public_numbers()
    assert (key["kid"], key["alg"]) == ("v1", "ES256")
    assert client.get("/jwks").headers["Cache-Control"] == "max-age=300"
    refused(client.get("/jwks/south"), 404, "realm_not_found")


def test_jwks_never_mixes_two_realms(world):
    with world.database.admin() as connection:
        connection.execute(
            "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid,"
            " certificate_key, token_key) VALUES ('south', 'i', 'a', 'v1', 'certificates', 'tokens')"
        )
    refused(world.app.test_client().get("/jwks"), 404, "realm_not_found")
    assert world.app.test_client().get("/jwks/south").status_code == 200


def test_an_unknown_path(world):
    refused(world.app.test_client().get("/api/other"), 404, "not_found")


def test_a_database_out_of_reach(world, postgres):
    answer = create_verification_app(
        Settings(), service_of(Settings(urls={
            "verification": "postgresql://x@127.0.0.1:1/x", "verification_signer": world.signer.as_uri(),
        }, verification_secret=bytes(32))), settable_clock=True,
    ).test_client().post("/api/verify", headers={"X-API-Key": "x"})  # fmt: skip
    refused(answer, 503, "temporarily_unavailable")
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize("missing", ["VERIFICATION_SECRET", "VERIFICATION_SIGNER_URL", "VERIFICATION_DATABASE_URL"])
def test_a_missing_setting_is_named(missing):
    environ = {
        "KEYSERVER_VERIFICATION_SECRET": base64.b64encode(bytes(32)).decode(),
        "KEYSERVER_VERIFICATION_SIGNER_URL": "file:///signer",
        "KEYSERVER_VERIFICATION_DATABASE_URL": "postgresql:///x",
    }
    del environ[f"KEYSERVER_{missing}"]
    with pytest.raises(ConfigurationError, match=f"KEYSERVER_{missing} is not set"):
        create_verification_app(Settings.from_environment(environ))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PHONES + WORKERS),
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["code", "accept", "nonce", "token", "ekeyhmac", "uuid", "codes", "testType", "symptomDate",
                             "testDate", "tzOffset", "phone"]),
            st.recursive(
                st.one_of(st.none(), st.text(), st.integers(), st.sampled_from(["likely", "2026-03-01", NONCE, MAC])),
                lambda inner: st.lists(inner, max_size=3),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)  # fmt: skip
def test_hostile_bodies_are_refused(world, path, body):
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    answer = world.post(path, body)
    assert answer.status_code in {200, 400, 404, 409, 412, 413, 415, 429}


def test_nothing_secret_is_stored_or_logged(world, caplog):
    caplog.set_level(logging.DEBUG)
    world.set(user_report=True, user_report_webhook=world.webhook.url)
    self_report(world)
    world.courier.close()
    issued = world.issue()
    token = world.post("/api/verify", {"code": issued["code"]}).get_json()["token"]
    world.post("/api/certificate", {"token": token, "ekeyhmac": MAC})
    world.post("/api/verify", {"code": "17171717"})
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    tables = ("api_key", "code", "token", "user_report", "rate")
    kept = caplog.text + "".join(str(world.fetch(f"SELECT t::text FROM verification_{table} t")) for table in tables)
    sent = world.webhook.messages[0]
    for secret in (issued["code"], issued["longCode"], token, jti, MAC, PHONE, sent["code"], sent["longCode"],
                   "17171717", world.device, world.admin, NONCE):  # fmt: skip
        assert secret not in kept
    assert read_token(token, "tokens", signature.load_public_key(world.service.signer.public_key("tokens")),
                      world.database.now())[0] == jti  # fmt: skip
