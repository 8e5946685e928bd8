from __future__ import annotations

import pytest

from api import create_app
from keyserver.errors import ConfigurationError
from keyserver.settings import Settings


def test_a_database_that_answers(test_database):
    client = create_app(Settings(), test_database.database("api"), settable_clock=True).test_client()
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json(), answer.content_type) == (200, {"status": "ok"}, "application/json")
    assert client.post("/health").status_code == 405


def test_t1_a_database_whose_clock_can_be_set_is_refused(test_database):
    client = create_app(Settings(), test_database.database("api")).test_client()
    assert client.get("/health").status_code == 503
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET settable = false")
    assert client.get("/health").status_code == 200


def test_a_database_out_of_reach():
    client = create_app(Settings(urls={"api": "postgresql://api:secret@/none?host=/nonexistent"})).test_client()
    answer = client.get("/health")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json() == {
        "error": "the server cannot do this now; try again later",
        "code": "temporarily_unavailable",
    }


def test_a_database_that_was_not_migrated(test_database):
    client = create_app(Settings(), test_database.database("api"), settable_clock=True).test_client()
    with test_database.admin() as connection:
        connection.execute("DROP TABLE release_clock CASCADE")
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")


def test_the_api_does_not_start_without_a_database():
    with pytest.raises(ConfigurationError, match="KEYSERVER_API_DATABASE_URL is not set"):
        create_app(Settings())
