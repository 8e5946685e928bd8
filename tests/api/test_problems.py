"""Every error that can reach the API has its status; one that has none is said to be our fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import api.verification
from api import (
    create_app,  # noqa: F401 - with both applications all our errors are defined
    problems,
)
from api.problems import problem
from keyserver.errors import KeyserverError, PublishError, RemoteError
from tests.raised import raised_codes


def family(error: type[KeyserverError]) -> Iterator[type[KeyserverError]]:
    yield error
    for each in error.__subclasses__():
        yield from family(each)


def test_every_code_of_ours_has_a_status_and_every_status_a_code():
    codes = raised_codes("PublishError")
    assert codes == problems._STATUS_OF_CODE.keys()
    for code in codes:
        told = problem(PublishError(code, "what is wrong", ("a warning",)))
        assert (told.code, told.message, told.warnings) == (code, "what is wrong", ("a warning",))


def test_every_status_of_the_verification_service_has_a_code_that_is_raised():
    assert problems._STATUS_OF_VERIFICATION_CODE.keys() < raised_codes("VerificationRefusedError", "TooManyError")


def test_a_code_without_a_status_is_our_fault(caplog):
    told = problem(PublishError("made_up", "what is wrong", ("a warning",)))
    assert told == problem(ZeroDivisionError())
    assert (told.status, told.code, told.message, told.warnings) == (500, "internal_error", "internal error", ())
    assert "made_up" in caplog.text
    assert "what is wrong" not in caplog.text


def test_the_verification_service_says_so_as_well():
    status, body, _ = api.verification._refusal(PublishError("made_up", "what is wrong"))
    assert (status, body["error"], body["errorCode"]) == (500, "internal error", "internal_server_error")


@pytest.mark.parametrize("kind", sorted({*family(KeyserverError)}, key=lambda kind: kind.__qualname__))
def test_every_error_of_ours_is_answered(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "secret words")
    if isinstance(error, PublishError):
        error.code, error.warnings = "bad_request", ()
    told = problem(error)
    inside = not isinstance(error, PublishError | RemoteError | problems.MaintenanceError)
    assert (told.status == 500) == inside
    assert ("secret words" in told.message) == isinstance(error, PublishError | problems.MaintenanceError)


def test_a_refusal_is_logged_by_its_code_whatever_it_is_about(caplog):
    caplog.set_level("INFO")
    problem(PublishError("unauthorized", "what is wrong"))
    assert caplog.messages == ["refused: unauthorized"]
