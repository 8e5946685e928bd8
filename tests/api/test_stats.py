from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import create_app
from api.answers import STATS_ROOM_BYTES
from keyserver.settings import Settings
from keyserver.store.database import Database
from tests.uploads import (
    ISSUER,
    KID,
    PRIVATE_KEY,
    add_revision_key,
    api_settings,
    authorise,
    keys,
    private_pem,
    request,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LEAST_PADDING = 1366


@pytest.fixture
def now(test_database) -> datetime:
    """The host's time, and the database's with it."""
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


@pytest.fixture
def midnight(now) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def make_client(test_database, tmp_path) -> Callable[..., FlaskClient]:
    authorise(test_database.url("keyserver_pipeline"))

    def make(settings: Settings | None = None) -> FlaskClient:
        app = create_app(settings or api_settings(tmp_path), test_database.database("api"), settable_clock=True)
        return app.test_client()

    return make


@pytest.fixture
def client(make_client) -> FlaskClient:
    return make_client()


@pytest.fixture
def count(test_database) -> Callable[..., None]:
    """Count uploads of two keys, as the API's role, of one hour in one shard."""

    def add(hour: datetime, uploads: int, *, shard: int = 0, issuer: str = ISSUER) -> None:
        hour = hour.replace(minute=0, second=0, microsecond=0)
        with psycopg.connect(test_database.url("keyserver_api"), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO upload_stats (health_authority_id, hour, shard, publish, teks, revisions,"
                " oldest_tek_days, onset_age_days, missing_onset)"
                " SELECT id, %s, %s, %s, %s, 1, %s, %s, 2 FROM health_authority WHERE issuer = %s",
                [hour, shard, [1, 1, uploads - 2], 2 * uploads, [*[0] * 15, uploads], [*[0] * 29, uploads], issuer],
            )

    return add


def token(now: datetime, key: Any = PRIVATE_KEY, kid: str | None = KID, **changes: Any) -> str:
    seconds = int(now.timestamp())
    claims = {"iss": ISSUER, "aud": "keyserver", "iat": seconds - 2, "exp": seconds + 600} | changes
    return jwt.encode(claims, private_pem(key), "ES256", headers={"kid": kid} if kid else {})


def ask(
    client: FlaskClient,
    authorization: str | None,
    body: bytes = b"{}",
    path: str = "/v1/stats",
    content_type: str = "application/json",
    **headers: str,
) -> TestResponse:
    if authorization is not None:
        headers["Authorization"] = authorization
    return client.post(path, data=body, content_type=content_type, headers=headers)


def check_form(answer: TestResponse) -> dict:
    """What every answer in JSON has (6.2); return the rest of its body."""
    assert answer.content_type == "application/json"
    assert "x-api-version" not in answer.headers
    body = json.loads(answer.data)
    assert len(body.pop("padding")) >= LEAST_PADDING
    assert len(answer.data) >= STATS_ROOM_BYTES
    assert all(body.values())
    return body


def day(midnight: datetime, uploads: int, rows: int = 1) -> dict:
    """What is answered of a day whose rows hold so many uploads together."""
    return {
        "day": f"{midnight:%Y-%m-%d}T00:00:00Z",
        "publish_requests": {"unknown": rows, "android": rows, "ios": uploads - 2 * rows},
        "total_teks_published": 2 * uploads,
        "requests_with_revisions": rows,
        "tek_age_distribution": [0] * 15 + [uploads],
        "onset_to_upload_distribution": [0] * 29 + [uploads],
        "requests_missing_onset_date": 2 * rows,
    }


def test_scenario_97_two_full_days_are_told_and_the_few_of_today_are_not(client, now, midnight, count):
    for days_ago in (1, 2):
        for shard in (0, 7):
            count(midnight - days_ago * DAY + 8 * HOUR, 6, shard=shard)
        count(midnight - days_ago * DAY + 23 * HOUR, 8)
    count(midnight, 2)
    answer = ask(client, f"Bearer {token(now)}", b'{"padding":"x"}')
    assert answer.status_code == 200
    assert check_form(answer) == {"days": [day(midnight - 2 * DAY, 20, 3), day(midnight - DAY, 20, 3)]}


def test_scenario_101_the_database_s_clock_decides(client, test_database, now, midnight, count):
    count(midnight - DAY, 3)
    count(midnight, 30)
    header = f"Bearer {token(now)}"
    test_database.set_time(midnight + timedelta(minutes=59))
    assert check_form(ask(client, header)) == {}
    test_database.set_time(midnight + HOUR)
    assert check_form(ask(client, header)) == {"days": [day(midnight, 30)]}
    test_database.set_time(midnight + 2 * DAY)
    assert check_form(ask(client, header)) == {"days": [day(midnight, 30)]}
    test_database.set_time(midnight + 2 * DAY + timedelta(microseconds=1))
    assert check_form(ask(client, header)) == {"days": [day(midnight - DAY, 3), day(midnight, 30)]}


def test_the_settings_decide_what_is_seen(make_client, tmp_path, now, midnight, count):
    count(midnight - 9 * DAY, 11)
    count(midnight - 8 * DAY, 12)
    strict = api_settings(tmp_path, stats_upload_minimum=12, stats_embargo_hours=0, stats_audience="figures")
    client = make_client(strict)
    assert check_form(ask(client, f"Bearer {token(now, aud='figures')}")) == {"days": [day(midnight - 8 * DAY, 12)]}
    assert ask(client, f"Bearer {token(now)}").status_code == 401
    long = make_client(api_settings(tmp_path, stats_upload_minimum=13, stats_embargo_hours=24 * 8))
    assert check_form(ask(long, f"Bearer {token(now)}")) == {"days": [day(midnight - 9 * DAY, 11)]}


def test_scenario_102_an_authority_reads_its_own_alone(client, test_database, now, midnight, count):
    authorise(test_database.url("keyserver_pipeline"), app="other.app", name="other.example")
    count(midnight - DAY, 20, issuer="other.example")
    assert check_form(ask(client, f"Bearer {token(now)}")) == {}
    answer = ask(client, f"Bearer {token(now, iss='other.example')}")
    assert check_form(answer) == {"days": [day(midnight - DAY, 20)]}


def test_scenario_102_what_was_uploaded_is_read(make_client, test_database, tmp_path, now):
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    client = make_client()
    for name in range(10):
        body = request(keys(now, 3, name), now)
        agent = "Dalvik/2.1.0 (Linux; U; Android 11)" if name else "curl"
        assert client.post("/v1/publish", json=body, headers={"User-Agent": agent}).status_code == 200
    header = f"Bearer {token(now)}"
    assert check_form(ask(client, header)) == {}
    test_database.set_time(now + HOUR)
    (told,) = check_form(ask(client, header))["days"]
    assert told["publish_requests"] == {"unknown": 1, "android": 9, "ios": 0}
    assert (told["total_teks_published"], told["requests_with_revisions"]) == (30, 0)
    assert told["tek_age_distribution"][3] == told["requests_missing_onset_date"] == 10


@pytest.mark.parametrize("authorization", [None, "", "LET ME IN", "Bearer", "Bearer ", "Bearer x.y.z", "Basic eDp5"])
def test_scenario_98_who_has_no_token_is_told_nothing(client, now, authorization):
    answer = ask(client, authorization)
    body = check_form(answer)
    assert (answer.status_code, body["code"], set(body)) == (401, "unauthorized", {"code", "error"})


@pytest.mark.parametrize(
    "changes",
    [
        {"kid": None},
        {"kid": "v2"},
        {"iss": "nobody.example"},
        {"aud": "keyserver.example"},
        {"exp": 1},
        {"exp": None},
        {"iat": 2**40},
        {"nbf": 2**40},
        {"key": ec.generate_private_key(ec.SECP256R1())},
    ],
)
def test_scenario_99_a_token_that_is_wrong_is_refused(client, now, count, midnight, changes):
    count(midnight - DAY, 20)
    if changes.get("exp", 0) is None:
        sent = jwt.encode({"iss": ISSUER, "aud": "keyserver"}, private_pem(), "ES256", headers={"kid": KID})
    else:
        sent = token(now, **changes)
    answer = ask(client, f"Bearer {sent}")
    assert (answer.status_code, check_form(answer)["code"]) == (401, "unauthorized")
    assert sent not in answer.text


def test_scenario_99_statistics_can_be_switched_off_for_an_authority(make_client, test_database, now):
    with psycopg.connect(test_database.url("keyserver_pipeline"), autocommit=True) as connection:
        connection.execute("UPDATE health_authority SET stats_enabled = false")
    answer = ask(make_client(), f"Bearer {token(now)}")
    assert (answer.status_code, check_form(answer)["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{" + b" " * 64_000, "application/json", 413),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"days":[]}', "application/json", 400),
        (b'{"padding":7}', "application/json", 400),
        (b"{}{}", "application/json", 400),
    ],
)
def test_quirk_10_a_body_that_cannot_be_decoded_has_its_own_status_and_padding(client, now, body, content_type, status):
    """It comes before the token (6.1)."""
    answer = ask(client, None, body, content_type=content_type)
    assert (answer.status_code, check_form(answer)["code"]) == (status, "bad_request")


@pytest.mark.parametrize(
    ("path", "accept", "csv"),
    [
        ("/v1/stats?format=csv", None, True),
        ("/v1/stats?format=csv", "application/json", True),
        ("/v1/stats", "text/csv", True),
        ("/v1/stats", "application/json;q=0.1, text/csv", True),
        ("/v1/stats", "text/csv;q=0.1, application/json", False),
        ("/v1/stats", "*/*", False),
        ("/v1/stats", "image/png", False),
        ("/v1/stats?format=json", "text/csv", False),
    ],
)
def test_scenario_104_csv_is_given_to_those_who_ask_for_it(client, now, midnight, count, path, accept, csv):
    count(midnight - DAY, 20)
    answer = ask(client, f"Bearer {token(now)}", path=path, **({"Accept": accept} if accept else {}))
    assert answer.status_code == 200
    if not csv:
        assert check_form(answer) == {"days": [day(midnight - DAY, 20)]}
        return
    assert answer.content_type == "text/csv; charset=utf-8"
    header, row, *padding = answer.text.split("\n")
    assert header.startswith("day,publish_requests_unknown,")
    assert row == f"{midnight - DAY:%Y-%m-%d},1,1,18,40,1,2,{'0|' * 15}20,{'0|' * 29}20"
    assert set(padding) == {""}


def test_an_unknown_format_is_refused_in_json(client, now):
    answer = ask(client, f"Bearer {token(now)}", path="/v1/stats?format=xml")
    assert (answer.status_code, check_form(answer)["code"]) == (400, "bad_request")


def test_the_length_of_an_answer_does_not_tell_what_it_says(make_client, tmp_path, now, midnight, count):
    """E1: with padding of one length, all answers have one length, in CSV too; nor do many days at most outgrow it."""
    client = make_client(api_settings(tmp_path, response_padding_range=1))
    header = f"Bearer {token(now)}"
    csv = "/v1/stats?format=csv"
    lengths = {len(ask(client, header).data), len(ask(client, None).data), len(ask(client, header, path=csv).data)}
    assert not ask(client, header, path=csv).text.strip()  # scenario 104: no day, no line
    for days_ago in range(1, 16):
        for hour in range(24):
            count(midnight - days_ago * DAY + hour * HOUR, 40_000)
    full = ask(client, header)
    assert len(check_form(full)["days"]) == 15
    lengths |= {len(full.data), len(ask(client, header, path=csv).data)}
    assert len(lengths) == 1


def test_a_database_out_of_reach_is_said_to_be_so(test_database, tmp_path, now):
    gone = Database(test_database.url("keyserver_nobody"))
    client = create_app(api_settings(tmp_path), gone, settable_clock=True).test_client()
    answer = ask(client, f"Bearer {token(now)}")
    assert (answer.status_code, check_form(answer)["code"]) == (503, "temporarily_unavailable")
    assert answer.headers["Retry-After"] == "5"


def test_other_methods_are_refused(client):
    answer = client.get("/v1/stats")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
