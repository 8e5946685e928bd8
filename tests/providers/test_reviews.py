"""Answering Airflow's requests; against the real Airflow in tests/stack."""

from __future__ import annotations

import pytest

from keyserver.errors import ConfigurationError, ConflictError, RemoteError
from keyserver.providers.reviews import Answer, Reviews
from tests.airflowapi import ANSWER, OPEN, PASSWORD, TASK, serving

APPROVED = Answer(approved=True, reason="known")


@pytest.fixture
def api():
    with serving() as running:
        running.ask()
        yield running


def reviews(api, password: str = PASSWORD) -> Reviews:
    return Reviews(api.url + "/", "op", password)


def test_an_open_request_is_answered_as_its_form_does(api):
    assert reviews(api).answer(1, APPROVED)
    assert reviews(api).answer(1, Answer(approved=False, reason="no", keep_revisions=False))
    assert api.received == [
        {"chosen_options": ["Approve"], "params_input": {"reason": "known", "revisions": "keep"}},
        {"chosen_options": ["Reject"], "params_input": {"reason": "no", "revisions": "drop"}},
    ]


@pytest.mark.parametrize(
    "answers",
    [
        {f"GET {OPEN}": (404, {"detail": "no such run"})},
        {f"GET {OPEN}": (200, {"hitl_details": []})},
        {f"GET {TASK}": (200, {"state": "success"})},
        {f"GET {TASK}": (200, {"state": "running"})},
    ],
    ids=["no run", "answered", "over", "not asked yet"],
)
def test_where_none_is_open_nothing_is_answered(api, answers):
    api.answers |= answers
    assert not reviews(api).answer(1, APPROVED)
    assert api.received == []


def test_a_login_that_airflow_does_not_take_is_named_and_its_password_is_not(api):
    with pytest.raises(
        ConfigurationError, match=r"refuses the login op \(status 401\).*KEYSERVER_AIRFLOW_LOGIN"
    ) as error:
        reviews(api, "another").answer(1, APPROVED)
    assert "another" not in str(error.value) + repr(reviews(api, "another"))


def test_a_login_that_may_not_answer(api):
    api.answers[f"PATCH {ANSWER}"] = (403, {"detail": "Forbidden"})
    with pytest.raises(ConfigurationError, match="may answer requests"):
        reviews(api).answer(1, APPROVED)


def test_somebody_was_faster(api):
    api.answers[f"PATCH {ANSWER}"] = (409, {"detail": "answered"})
    with pytest.raises(ConflictError, match="somebody else"):
        reviews(api).answer(1, APPROVED)


@pytest.mark.parametrize(
    "answers",
    [
        {"POST /auth/token": (500, {})},
        {"POST /auth/token": (201, {})},
        {"POST /auth/token": (201, [])},
        {f"GET {OPEN}": (200, b"no JSON")},
        {f"GET {OPEN}": (200, [1])},
        {f"GET {TASK}": (503, {})},
        {f"PATCH {ANSWER}": (400, {"detail": "Invalid"})},
    ],
    ids=["an error", "no token", "no object", "no JSON", "a list", "unavailable", "refused"],
)
def test_another_answer_than_it_should_be(api, answers):
    api.answers |= answers
    with pytest.raises(RemoteError, match="Airflow"):
        reviews(api).answer(1, APPROVED)


def test_nobody_there():
    with pytest.raises(RemoteError, match="Airflow did not answer") as error:
        Reviews("http://127.0.0.1:1", "op", "x").answer(1, APPROVED)
    assert "127" not in str(error.value)


@pytest.mark.parametrize("url", ["http://x\x00/", "ftp://127.0.0.1", "nowhere"])
def test_what_is_no_address(url):
    with pytest.raises((ConfigurationError, RemoteError)):
        Reviews(url, "op", "x").answer(1, APPROVED)
