"""What schemathesis makes of the served document: requests that follow it and requests that break it, in process.

Two of its checks are left out. *positive_data_acceptance* (ST202): a request of the right form is still refused for its
certificate, and JSON Schema counts -35210.0 as an integer, which Go's decoder, and so ours, refuses (publish.md 1.2).
*ignored_auth* (ST401): chaff is answered 200 without anybody's token. Nothing in it is looked at (publish.md 1.7), so
its wrong requests are not refused either.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api import create_app
from api.chaff import HEADER
from api.openapi import Contract, publish, verification
from tests.realms import living
from tests.uploads import add_revision_key, api_settings, authorise

OF_ANY = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
    allow_header_conformance,
]
OF_REAL = [*OF_ANY, negative_data_rejection]
# For each route; `make fuzz` sends many more.
CASES = {"POST": 300, "GET": 40}


@pytest.fixture
def app(test_database, tmp_path) -> Flask:
    test_database.set_time(datetime.now(UTC))
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    return create_app(
        api_settings(tmp_path, attestation_secret=bytes(32)), test_database.database("api"), settable_clock=True
    )


@pytest.fixture
def stored(test_database) -> Callable[[], int]:
    def count() -> int:
        with test_database.admin() as connection:
            return connection.execute("SELECT count(*) FROM exposure").fetchone()[0]

    return count


def operations(contract: Contract) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in contract.paths.items() for method in methods]


def answered(app: Flask, method: str, path: str, api_key: str = "") -> set[int]:
    """Send what schemathesis makes of an operation, and return the statuses; each answer is as the document says."""
    described = schemathesis.openapi.from_wsgi("/openapi.json", app)
    operation = described[path][method]
    statuses = set()

    @settings(
        max_examples=CASES[method],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(operation.as_strategy(mode) for mode in GenerationMode)), known=st.booleans())
    def holds(case, known):
        if api_key and known:
            case.headers["X-API-Key"] = api_key
        answer = case.call()
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=OF_ANY if HEADER in case.headers else OF_REAL)

    holds()
    return statuses


@pytest.mark.parametrize(("method", "path"), operations(publish.CONTRACT))
def test_answers_are_those_of_the_document(app, stored, method, path):
    statuses = answered(app, method, path)
    assert max(statuses) < 500
    assert 200 in statuses  # for requests that post, by chaff
    assert stored() == 0  # nobody certified any of them


@pytest.mark.parametrize(("method", "path"), operations(verification.CONTRACT))
def test_the_verification_service_answers_as_its_document_says(test_database, tmp_path, method, path):
    """With a good API key each second time; what codes or tokens there are, nobody guesses."""
    with living(test_database, tmp_path) as world:
        world.set(requests_per_minute=10_000, wrong_codes_per_hour=10_000)
        phones = path in {"/api/verify", "/api/certificate", "/api/user-report"}
        statuses = answered(world.app, method, path, world.device if phones else world.admin)
        assert max(statuses) < 500
        if phones or (method == "GET" and "{" not in path):
            assert 200 in statuses  # phones' by chaff
        if method == "POST":
            assert 401 in statuses
        assert world.fetch("SELECT 1 FROM verification_token") == []
