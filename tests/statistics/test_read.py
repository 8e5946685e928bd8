from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
import psycopg
import pytest

from keyserver.errors import PublishError
from keyserver.protocol.statsapi import Sight
from keyserver.statistics.read import Statistics
from tests.uploads import ISSUER, KID, authorise, private_pem

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


@pytest.fixture
def pipeline(test_database) -> str:
    url = test_database.url("keyserver_pipeline")
    authorise(url)
    return url


@pytest.fixture
def header() -> str:
    claims = {"iss": ISSUER, "aud": "keyserver", "exp": int(NOW.timestamp()) + 60}
    return "Bearer " + jwt.encode(claims, private_pem(), "ES256", headers={"kid": KID})


def revoke(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE health_authority_key SET valid_thru = valid_from")


def test_a_revoked_key_works_until_what_was_read_is_old(test_database, pipeline, header):
    database = test_database.database("api")
    keeping = Statistics(database, "keyserver", Sight())
    asking = Statistics(database, "keyserver", Sight(), timedelta(0))
    assert keeping.days(header, NOW) == asking.days(header, NOW) == ()
    revoke(pipeline)
    assert keeping.days(header, NOW) == ()
    with pytest.raises(PublishError, match="no active key"):
        asking.days(header, NOW)


def test_who_may_ask_is_read_at_least_every_half_minute(test_database, pipeline, header, monkeypatch):
    moment = 1000.0
    monkeypatch.setattr("keyserver.statistics.read.time.monotonic", lambda: moment)
    statistics = Statistics(test_database.database("api"), "keyserver", Sight())
    assert statistics.days(header, NOW) == ()
    revoke(pipeline)
    moment = 1029.9
    assert statistics.days(header, NOW) == ()
    moment = 1030.0
    with pytest.raises(PublishError, match="no active key"):
        statistics.days(header, NOW)


def test_an_authority_without_keys_is_known_and_refused(test_database, pipeline, header):
    with psycopg.connect(pipeline, autocommit=True) as connection:
        connection.execute("INSERT INTO health_authority (issuer, audience, name) VALUES ('a.example', 'a', 'A')")
    claims = {"iss": "a.example", "aud": "keyserver", "exp": int(NOW.timestamp()) + 60}
    sent = jwt.encode(claims, private_pem(), "ES256", headers={"kid": KID})
    statistics = Statistics(test_database.database("api"), "keyserver", Sight())
    with pytest.raises(PublishError, match="no active key"):
        statistics.days(f"Bearer {sent}", NOW)
    assert statistics.days(header, NOW) == ()
