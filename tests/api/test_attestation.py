from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import psycopg
import pytest
from flask.testing import FlaskClient

from api import create_app
from keyserver.protocol import attestation
from keyserver.protocol.messages import decode_request
from tests.providers.attestation.evidence import DIGEST, PACKAGE, play_keys, play_token
from tests.uploads import APP, add_revision_key, api_settings, authorise, keys, request

SECRET = bytes(range(32))


@pytest.fixture
def now(test_database) -> datetime:
    """The host's time, and the database's with it."""
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


@pytest.fixture
def client(test_database, now, tmp_path) -> FlaskClient:
    """A server with one app that is attested on Android."""
    url = test_database.url("keyserver_pipeline")
    authorise(url)
    add_revision_key(url, tmp_path)
    for name, content in zip(("decryption", "verification"), play_keys(), strict=True):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    declared = {
        "package": PACKAGE,
        "certificate_digests": [DIGEST],
        "decryption_key_secret": "decryption",
        "verification_key_secret": "verification",
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO app_attestation (app_name, platform, kind, settings)"
            " VALUES (%s, 'android', 'play-integrity', %s)",
            [APP, json.dumps(declared)],
        )
    settings = api_settings(tmp_path, urls={"secrets": tmp_path.as_uri()}, attestation_secret=SECRET)
    return create_app(settings, test_database.database("api"), settable_clock=True).test_client()


def ask(client: FlaskClient) -> dict:
    answer = client.post("/v1/attestation/challenge")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    return answer.json


def attested(client: FlaskClient, body: dict, challenge: str, now: datetime) -> dict:
    """The upload as a phone sends it, which takes the nonce over what it sends."""
    sent = decode_request("application/json", json.dumps(body).encode())
    evidence = play_token(attestation.nonce(sent, challenge), now)
    return {**body, "attestation": {"platform": "android", "challenge": challenge, "evidence": evidence}}


def count(test_database) -> int:
    with test_database.admin() as connection:
        return connection.execute("SELECT count(*) FROM exposure").fetchone()[0]


def test_a_challenge_is_given(client, now):
    answer = ask(client)
    assert answer["expires_in"] == 300
    assert attestation.use_challenge(SECRET, answer["challenge"], now)
    assert len(base64.b64decode(answer["padding"] + "==")) >= 1024
    assert ask(client)["challenge"] != answer["challenge"]


def test_a_challenge_is_asked_for_by_post(client):
    assert client.get("/v1/attestation/challenge").status_code == 405


def test_an_attested_upload_is_stored(client, now, test_database):
    body = attested(client, request(keys(now, 3), now), ask(client)["challenge"], now)
    answer = client.post("/v1/publish", json=body)
    assert (answer.status_code, answer.json["insertedExposures"]) == (200, 3)
    assert count(test_database) == 3


def test_an_upload_without_attestation_is_refused_and_nothing_stored(client, now, test_database):
    answer = client.post("/v1/publish", json=request(keys(now, 3), now))
    assert (answer.status_code, answer.json["code"]) == (401, "attestation_required")
    assert count(test_database) == 0


def test_an_attestation_moved_to_other_keys_is_refused_and_nothing_stored(client, now, test_database):
    body = attested(client, request(keys(now, 3), now), ask(client)["challenge"], now)
    moved = {**request(keys(now, 3, "others"), now), "attestation": body["attestation"]}
    answer = client.post("/v1/publish", json=moved)
    assert (answer.status_code, answer.json["code"]) == (401, "attestation_invalid")
    assert count(test_database) == 0


def test_a_replay_is_refused(client, now):
    body = attested(client, request(keys(now, 3), now), ask(client)["challenge"], now)
    assert client.post("/v1/publish", json=body).status_code == 200
    answer = client.post("/v1/publish", json=body)
    assert (answer.status_code, answer.json["code"]) == (401, "attestation_invalid")


def test_a_server_without_the_secret_gives_no_challenge_and_takes_uploads_of_other_apps(test_database, now, tmp_path):
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    client = create_app(api_settings(tmp_path), test_database.database("api"), settable_clock=True).test_client()
    answer = client.post("/v1/attestation/challenge")
    assert (answer.status_code, answer.json["code"]) == (500, "unable_to_load_health_authority")
    assert client.post("/v1/publish", json=request(keys(now, 3), now)).status_code == 200
