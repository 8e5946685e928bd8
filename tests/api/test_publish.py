from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from api import create_app
from keyserver.errors import ConfigurationError
from tests.uploads import (
    APP,
    TOKEN_AAD,
    add_revision_key,
    api_settings,
    authorise,
    interval,
    issuer,
    key,
    keys,
    request,
)

CERTIFICATE = "health_authority_verification_certificate_invalid"


@pytest.fixture
def now(test_database) -> datetime:
    """The host's time, and the database's with it."""
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


@pytest.fixture
def client(test_database, now, tmp_path) -> FlaskClient:
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    return create_app(api_settings(tmp_path), test_database.database("api"), settable_clock=True).test_client()


@pytest.fixture
def stored(test_database) -> Callable[[], int]:
    def count() -> int:
        with test_database.admin() as connection:
            return connection.execute("SELECT count(*) FROM exposure").fetchone()[0]

    return count


def send(client: FlaskClient, body: object, content_type: str = "application/json") -> TestResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/v1/publish", data=data, content_type=content_type)


def check_form(answer: TestResponse) -> dict:
    """What every answer of publish has (1.4, 1.6); return the rest of its body."""
    assert answer.content_type == "application/json"
    assert answer.headers["x-api-version"] == "v1"
    body = json.loads(answer.data)
    assert answer.data == json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(body.pop("padding")) >= 1366  # base64 of 1024 bytes: what the answer did not say is filled up as well
    assert all(body.values())
    return body


# Row 16 of 1.5: success


def test_scenarios_8_and_16_an_upload(client, now, stored):
    answer = send(client, request(keys(now, 14), now, padding="x" * 1000))
    body = check_form(answer)
    assert (answer.status_code, body.pop("revisionToken") != "", body) == (200, True, {"insertedExposures": 14})
    assert stored() == 14


def test_scenario_19_a_content_type_with_a_charset(client, now):
    assert send(client, request(keys(now, 1), now), "application/json; charset=utf-8").status_code == 200


def test_scenario_16_padding_has_another_length_each_time(client):
    assert len({len(send(client, b"").data) for _ in range(20)}) > 5


def test_the_sizes_of_padding_are_settings(test_database):
    settings = api_settings(response_padding_min_bytes=10, response_padding_range=1)
    client = create_app(settings, test_database.database("api"), settable_clock=True).test_client()
    assert len({len(send(client, b"").data) for _ in range(5)}) == 1


def test_scenario_45_a_key_far_from_the_onset_is_left_out_with_a_warning(client, now, stored):
    sent = keys(now, 2)
    body = request(sent, now, symptomOnsetInterval=sent[1]["rollingStartNumber"] - 14 * 144)
    answer = check_form(send(client, body))
    assert answer.pop("revisionToken")
    assert answer == {
        "insertedExposures": 1,
        "warnings": ["key 0 was left out: it is 15 days from the onset of symptoms, more than 14"],
    }
    assert stored() == 1


# Row 15: partial failure


def test_scenario_2_a_partial_failure_stores_only_the_good_keys(client, now, stored):
    sent = keys(now, 5)
    sent[0]["key"] = base64.b64encode(bytes(18)).decode()
    sent[1]["rollingStartNumber"] = 1
    sent[2]["rollingPeriod"] = 200
    sent[3]["rollingStartNumber"] += 144 * 1000
    answer = send(client, request(sent, now))
    body = check_form(answer)
    assert (answer.status_code, body["code"], body["insertedExposures"]) == (200, "partial_failure", 1)
    assert [line[:7] for line in body["error"].splitlines()] == ["4 of th", *(f"* key {index}" for index in range(4))]
    assert stored() == 1


# Row 1: decoding


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"{}", "application/pdf", 415, "the content type must be application/json"),
        (b"{}", "", 415, "the content type must be application/json"),
        (b" " * 64_001, "application/json", 413, "the body is larger than 64000 bytes"),
        (b"x" * 1_000_000, "application/json", 413, "the body is larger than 64000 bytes"),
        (b"", "application/json", 400, "the body must not be empty"),
        (b"{", "application/json", 400, "the JSON ends too early at byte 1"),
        (b"{'a': 1}", "application/json", 400, "the JSON is malformed at byte 1"),
        (b"{}{}", "application/json", 400, "the body must be one JSON object; something follows at byte 2"),
        (b'{"regions": []}', "application/json", 400, "'regions' is not a field of this request"),
        (b'{"hmacKey": 1}', "application/json", 400, "hmacKey must be a string"),
        (b'{"traveler": "\xff"}', "application/json", 400, "traveler must be true or false"),
    ],
)
def test_scenarios_3_17_and_18_bodies_that_are_no_request(client, stored, body, content_type, status, message):
    answer = send(client, body, content_type)
    assert (answer.status_code, check_form(answer)) == (status, {"error": message, "code": "bad_request"})
    assert stored() == 0


def test_scenario_17_a_body_of_the_greatest_size(client, now):
    body = json.dumps(request(keys(now, 1), now)).encode()
    assert send(client, body + b" " * (64_000 - len(body))).status_code == 200


# Rows 2 to 8. Each: a change to a good upload, its answer.

FOREIGN = issuer(ec.generate_private_key(ec.SECP256R1()))


def too_old(now: datetime) -> dict:
    return request([key("a", interval(now) - 17 * 144)], now)


def in_the_future(now: datetime) -> dict:
    return request([key("a", interval(now) + 5)], now)


def overlapping(now: datetime) -> dict:
    first = interval(now) - 1000
    return request([key("a", first), key("b", first + 142)], now)


REFUSED = {
    "unknown app": (
        lambda now: request(keys(now, 1), now, healthAuthorityID="com.other"),
        401, "unknown_health_authority_id", "no such healthAuthorityID",
    ),
    "no app": (
        lambda now: {"temporaryExposureKeys": keys(now, 1)},
        401, "unknown_health_authority_id", "no such healthAuthorityID",
    ),
    "no certificate (scenario 7)": (
        lambda now: request(keys(now, 1), now, verificationPayload="totally not a JWT"),
        401, CERTIFICATE, "it is no JWT",
    ),
    "certificate expired (scenario 14)": (
        lambda now: request(keys(now, 1), now - timedelta(minutes=16)),
        401, CERTIFICATE, "it has expired",
    ),
    "certificate of the future (scenario 13)": (
        lambda now: request(keys(now, 1), now + timedelta(hours=1)),
        401, CERTIFICATE, "it is not valid yet",
    ),
    "foreign signature": (
        lambda now: request(keys(now, 1), now, by=FOREIGN),
        401, CERTIFICATE, "its signature is wrong",
    ),
    "foreign issuer (scenario 82)": (
        lambda now: request(keys(now, 1), now, by=issuer(name="other")),
        401, CERTIFICATE, "does not accept its issuer",
    ),
    "other audience (scenario 82)": (
        lambda now: request(keys(now, 1), now, by=issuer(audience="other")),
        401, CERTIFICATE, "another audience",
    ),
    "unknown kid (scenario 88)": (
        lambda now: request(keys(now, 1), now, by=issuer(kid="v2")),
        401, CERTIFICATE, "no active key",
    ),
    "unknown report type": (
        lambda now: request(keys(now, 1), now, report_type="perhaps"),
        401, CERTIFICATE, "report type is unknown",
    ),
    "wrong HMAC (scenario 84)": (
        lambda now: request(keys(now, 1), now) | {"temporaryExposureKeys": keys(now, 2)},
        401, CERTIFICATE, "given for other keys",
    ),
    "wrong secret (scenario 84)": (
        lambda now: request(keys(now, 1), now, hmacKey="AAAA"),
        401, CERTIFICATE, "given for other keys",
    ),
    "secret no base64": (
        lambda now: request(keys(now, 1), now, hmacKey="?"),
        401, CERTIFICATE, "hmacKey is not base64",
    ),
    "no keys (scenario 25)": (
        lambda now: request(keys(now, 1), now) | {"temporaryExposureKeys": []},
        401, CERTIFICATE, "has no keys",
    ),
    "31 keys (scenario 30)": (
        lambda now: request([key(number, interval(now) - 200) for number in range(31)], now),
        400, "bad_request", "31 keys; at most 30",
    ),
    "key no base64 (scenario 28)": (
        lambda now: request([key("a", interval(now) - 200) | {"key": "?"}], now),
        400, "bad_request", "key 0 is not base64",
    ),
    "too old (scenario 35)": (too_old, 400, "bad_request", "more than 15 days ago"),
    "in the future (scenario 36)": (in_the_future, 400, "bad_request", "in the future"),
    "overlapping (scenario 49)": (overlapping, 400, "bad_request", "overlaps"),
    "four of a start (scenario 51)": (
        lambda now: request([key(number, interval(now) - 200) for number in range(4)], now),
        400, "bad_request", "4 keys start at",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_uploads_that_are_refused_store_nothing(client, now, stored, caplog, case):
    make, status, code, message = REFUSED[case]
    caplog.set_level(logging.DEBUG)
    body = make(now)
    answer = send(client, body)
    told = check_form(answer)
    assert (answer.status_code, told["code"]) == (status, code)
    assert message in told["error"]
    assert set(told) == {"error", "code"}
    assert stored() == 0
    # The log has the code and nothing of the upload.
    assert [record.getMessage() for record in caplog.records if record.name.startswith("api")] == [f"refused: {code}"]


def test_no_two_of_these_refusals_say_the_same(client, now):
    messages = {case: send(client, make(now)).get_json()["error"] for case, (make, *_) in REFUSED.items()}
    same_on_purpose = {"no app", "wrong secret (scenario 84)"}
    distinct = [message for case, message in messages.items() if case not in same_on_purpose]
    assert len(set(distinct)) == len(distinct)


def test_scenario_57_a_stored_key(client, now, stored):
    sent = keys(now, 3)
    send(client, request(sent[:1], now))
    answer = send(client, request(sent, now, report_type="negative"))
    assert (answer.status_code, check_form(answer)["code"]) == (400, "missing_revision_token")
    assert stored() == 1


# Rows 8 to 13: each a first upload of two keys, what is sent afterwards, the code, the keys that are named


REVISIONS_REFUSED = {
    "no token (row 8, scenario 57)": ("likely", {"revisionToken": ""}, "missing_revision_token", (0, 1)),
    "no base64 (row 8)": ("likely", {"revisionToken": "?"}, "missing_revision_token", (0, 1)),
    "no token of ours (row 8b, scenario 62)": ("likely", {"revisionToken": "AAAA"}, "invalid_revision_token", (0, 1)),
    "key not in the token (row 9, scenario 60)": ("likely", {"of": 1}, "invalid_revision_token", (0,)),
    "other period (row 10)": ("likely", {"period": 143}, "key_metadata_mismatch", (1,)),
    "no way back (row 12, scenario 69)": ("confirmed", {"to": "likely"}, "invalid_report_type_transition", (0, 1)),
}


@pytest.mark.parametrize("case", REVISIONS_REFUSED)
def test_revisions_that_are_refused_change_nothing(client, test_database, now, case):
    first, changes, code, named = REVISIONS_REFUSED[case]
    newer, older = keys(now, 2)
    parts = [[older], [newer]] if "of" in changes else [[older, newer]]
    tokens = [send(client, request(part, now, report_type=first)).get_json()["revisionToken"] for part in parts]
    sent = [newer, older | ({"rollingPeriod": changes["period"]} if "period" in changes else {})]
    token = changes.get("revisionToken", tokens[0])
    answer = send(client, request(sent, now, report_type=changes.get("to", "confirmed"), revisionToken=token))
    body = check_form(answer)
    assert (answer.status_code, body["code"], set(body)) == (400, code, {"code", "error"})
    assert [line.split()[:2] for line in body["error"].splitlines()] == [["key", str(index)] for index in named]
    with test_database.admin() as connection:
        assert connection.execute("SELECT count(*), count(revised_at) FROM exposure").fetchone() == (2, 0)


def test_scenarios_56_and_58_a_revision_and_a_second_one(client, now):
    sent = keys(now, 2)
    token = send(client, request(sent, now, report_type="likely")).get_json()["revisionToken"]
    revised = send(client, request(sent, now, revisionToken=token))
    body = check_form(revised)
    # A revised key is no inserted one (quirk 5).
    assert (revised.status_code, set(body)) == (200, {"revisionToken"})
    again = send(client, request(sent, now, report_type="negative", revisionToken=body["revisionToken"]))
    assert (again.status_code, check_form(again)["code"]) == (400, "key_already_revised")


def test_k4_the_same_request_sent_twice(client, now, stored):
    body = request(keys(now, 3), now)
    assert [set(check_form(send(client, body))) for _ in range(2)] == [
        {"revisionToken", "insertedExposures"},
        {"revisionToken"},
    ]
    assert stored() == 3


def test_scenario_66_partial_revisions_are_a_setting(test_database, now, tmp_path):
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    settings = api_settings(tmp_path, allow_partial_revisions=True)
    client = create_app(settings, test_database.database("api"), settable_clock=True).test_client()
    first, second = keys(now, 2)
    token = send(client, request([first], now, report_type="likely")).get_json()["revisionToken"]
    send(client, request([second], now, report_type="likely"))
    answer = send(client, request([first, second], now, revisionToken=token))
    assert (answer.status_code, check_form(answer)["warnings"]) == (
        200,
        ["key 1 was left out: it was uploaded before and is not in the revision token"],
    )


def test_scenario_12_the_user_agent_is_counted_and_not_kept(client, test_database, now):
    client.post(
        "/v1/publish",
        json=request(keys(now, 1), now),
        headers={"User-Agent": "bluetoothd (unknown) CFNetwork/1197 Darwin/20"},
    )
    with test_database.admin() as connection:
        assert connection.execute("SELECT publish FROM upload_stats").fetchall() == [([0, 0, 1],)]


@pytest.mark.parametrize("missing", ["keywrap", "aad"])
def test_the_api_does_not_start_without_what_makes_tokens(test_database, tmp_path, missing):
    settings = api_settings(tmp_path)
    broken = replace(settings, urls={}) if missing == "keywrap" else replace(settings, revision_token_aad_or_none=None)
    with pytest.raises(ConfigurationError, match=r"KEYWRAP_URL|REVISION_TOKEN_AAD"):
        create_app(broken, test_database.database("api"))


def test_without_a_revision_key_an_upload_is_503_and_not_stored(client, test_database, now, stored):
    """Never a 200 without its token."""
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET allowed = false")
    assert send(client, request(keys(now, 1), now)).status_code == 503
    assert stored() == 0


def test_row_3_an_authority_that_cannot_be_checked(client, test_database, now, stored):
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority_key SET public_key = 'garbage'")
    answer = send(client, request(keys(now, 1), now))
    assert (answer.status_code, check_form(answer)["code"]) == (500, "unable_to_load_health_authority")
    assert stored() == 0


# E4 and what nobody expected


def test_e4_a_lost_connection_is_503_and_the_next_upload_works(client, test_database, now, stored):
    send(client, request(keys(now, 1), now))
    with test_database.admin() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'keyserver_api'"
        )
    body = request(keys(now, 2, "again"), now)
    answer = send(client, body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert check_form(answer)["code"] == "temporarily_unavailable"
    assert stored() == 1
    assert send(client, body).status_code == 200
    assert stored() == 3


def test_an_unexpected_error_is_500_and_tells_nothing_of_the_inside(client, test_database, now, stored, caplog):
    with test_database.admin() as connection:
        connection.execute("ALTER TABLE exposure ADD CHECK (traveler)")
    sent = keys(now, 1)
    answer = send(client, request(sent, now))
    assert answer.status_code == 500
    assert check_form(answer) == {"error": "internal error", "code": "internal_error"}
    assert stored() == 0
    # PostgreSQL's message has the row, key and all; the log must not.
    assert "unexpected StoreError" in caplog.text
    assert base64.b64decode(sent[0]["key"]).hex() not in caplog.text
    assert "exposure_check" not in caplog.text


# Other routes and methods


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_publishes(client, method):
    answer = client.open("/v1/publish", method=method)
    assert (answer.status_code, answer.content_type, answer.headers["Allow"]) == (405, "application/json", "POST")
    if method != "HEAD":
        assert answer.get_json() == {"error": "method not allowed", "code": "method_not_allowed"}


@pytest.mark.parametrize("path", ["/", "/v1/publish/", "/v1", "/v1/stats/", "/../etc/passwd", "/static/x"])
def test_other_paths_are_not_found(client, path):
    answer = client.post(path, data=b"{}", content_type="application/json")
    assert (answer.status_code, answer.content_type) == (404, "application/json")
    assert answer.get_json() == {"error": "not found", "code": "not_found"}


# Whatever is sent


@pytest.fixture(scope="module")
def unreachable() -> FlaskClient:
    """An API whose database is not there: what is refused before it asks the database is refused all the same."""
    return create_app(api_settings(urls={"api": "postgresql://keyserver_api@/none?host=/nonexistent"})).test_client()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=300) | ANY_JSON, st.sampled_from(["application/json", "text/plain", "application/json;x"]))
def test_any_body_is_answered_and_never_by_500(unreachable, body, content_type):
    answer = send(unreachable, body, content_type)
    check_form(answer)
    # 503 is for what is a request: only `{}` and `null` and the like come that far.
    assert answer.status_code in {400, 415} or (answer.status_code == 503 and content_type != "text/plain")


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "temporaryExposureKeys": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "key": st.text(max_size=26) | st.just("AAAAAAAAAAAAAAAAAAAAAA=="),
                    "rollingStartNumber": st.integers(-(2**31), 2**31 - 1),
                    "rollingPeriod": st.integers(-1, 146),
                    "transmissionRisk": st.integers(-1, 9),
                },
            ),
            max_size=4,
        ),
        "healthAuthorityID": st.just(APP) | st.text(max_size=8),
        "hmacKey": st.text(max_size=12),
        "verificationPayload": st.text(max_size=30),
        "symptomOnsetInterval": st.integers(-(2**31), 2**31 - 1),
        "traveler": st.booleans(),
        "revisionToken": st.text(max_size=12),
        "padding": st.text(max_size=5),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(fields=FIELDS, proven=st.booleans())
def test_any_request_is_answered_and_never_by_500(client, now, fields, proven):
    sent = fields.get("temporaryExposureKeys")
    if proven and sent:
        # With a certificate for these very keys the request comes as far as it can.
        whole = [
            {"key": "", "rollingStartNumber": 0, "rollingPeriod": 0, "transmissionRisk": 0} | each for each in sent
        ]
        fields |= request(whole, now)
    answer = send(client, fields)
    check_form(answer)
    assert answer.status_code in {200, 400, 401}


def test_the_environment_names_the_database(monkeypatch, test_database, now, tmp_path):
    authorise(test_database.url("keyserver_pipeline"))
    for name in [name for name in os.environ if name.startswith("KEYSERVER_")]:
        monkeypatch.delenv(name)
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    monkeypatch.setenv("KEYSERVER_API_DATABASE_URL", test_database.url("keyserver_api"))
    monkeypatch.setenv("KEYSERVER_KEYWRAP_URL", f"file://{tmp_path}")
    monkeypatch.setenv("KEYSERVER_REVISION_TOKEN_AAD", base64.b64encode(TOKEN_AAD).decode())
    app = create_app()
    assert send(app.test_client(), request(keys(now, 1), now)).status_code == 200
    app.extensions["keyserver.database"].forget_connections()
