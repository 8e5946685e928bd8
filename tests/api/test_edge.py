from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY

from api import create_app
from api.edge import HEADERS
from tests.uploads import api_settings


@pytest.fixture
def client(test_database):
    return create_app(api_settings(), test_database.database("api"), settable_clock=True).test_client()


@pytest.fixture
def closed(test_database):
    settings = api_settings(maintenance_mode=True)
    return create_app(settings, test_database.database("api"), settable_clock=True).test_client()


def test_a_request_id_is_kept(client):
    given = "2f1c8d9e-0000-4000-8000-00000000abcd"
    assert client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "short", "a name of somebody", "x" * 32, "a" * 65, "abcdef012\t"])
def test_a_request_id_is_made(client, given):
    made = [client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/health", 200), ("POST", "/v1/publish", 415), ("GET", "/v1/publish", 405), ("GET", "/elsewhere", 404)],
)
def test_every_answer_has_an_id_and_security_headers(client, method, path, status):
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "X-Request-ID" in answer.headers


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_maintenance(closed, path):
    answer = closed.get(path)
    assert (answer.status_code, answer.headers["Retry-After"], answer.get_json()["code"]) == (429, "300", "maintenance")


def test_maintenance_tells_load_balancers_and_leaves_the_process_alive(closed):
    assert closed.get("/health").status_code == 200
    assert closed.get("/ready").status_code == 503
    assert closed.get("/elsewhere").status_code == 404


def counted(route: str, status: str, code: str) -> float:
    labels = {"route": route, "status": status, "code": code}
    return REGISTRY.get_sample_value("keyserver_api_requests_total", labels) or 0.0


@pytest.mark.parametrize(
    ("path", "route", "status", "code"),
    [
        ("/v1/publish", "/v1/publish", "415", "bad_request"),
        ("/somebody's/words", "(elsewhere)", "404", "not_found"),
    ],
)
def test_answers_are_counted_without_a_client_s_words(client, path, route, status, code):
    before = counted(route, status, code)
    client.post(path, data=b"x")
    assert counted(route, status, code) == before + 1
    assert not any("somebody" in str(sample.labels) for metric in REGISTRY.collect() for sample in metric.samples)


def test_times_are_counted_by_route(client):
    def count() -> float:
        return REGISTRY.get_sample_value("keyserver_api_request_seconds_count", {"route": "/health"}) or 0.0

    before = count()
    client.get("/health")
    client.get("/elsewhere")
    assert count() == before + 1
