"""The only map from our errors to HTTP: status, code, text (publish.md 1.5, 4.6, 4.7).

Texts of what is refused are for the client's developer. Of an error inside nothing is told, and its own words, which
may hold what a client sent, are not logged either: only its class and where it came from.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from keyserver.errors import KeyserverError, PublishError, RemoteError
from keyserver.protocol.messages import BodyTooLargeError, ContentTypeError

RETRY_AFTER_S = 5
MAINTENANCE_RETRY_AFTER_S = 300

_LOG = logging.getLogger(__name__)

_STATUS_OF_CODE = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "unknown_health_authority_id": HTTPStatus.UNAUTHORIZED,
    "unable_to_load_health_authority": HTTPStatus.INTERNAL_SERVER_ERROR,
    "health_authority_verification_certificate_invalid": HTTPStatus.UNAUTHORIZED,
    "attestation_required": HTTPStatus.UNAUTHORIZED,
    "attestation_invalid": HTTPStatus.UNAUTHORIZED,
    "missing_revision_token": HTTPStatus.BAD_REQUEST,
    "invalid_revision_token": HTTPStatus.BAD_REQUEST,
    "key_metadata_mismatch": HTTPStatus.BAD_REQUEST,
    "key_already_revised": HTTPStatus.BAD_REQUEST,
    "invalid_report_type_transition": HTTPStatus.BAD_REQUEST,
    "key_of_other_origin": HTTPStatus.BAD_REQUEST,
}
# Of the verification service; all its other refusals are 400.
_STATUS_OF_VERIFICATION_CODE = {
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "code_not_found": HTTPStatus.NOT_FOUND,
    "realm_not_found": HTTPStatus.NOT_FOUND,
    "uuid_already_exists": HTTPStatus.CONFLICT,
    "unsupported_test_type": HTTPStatus.PRECONDITION_FAILED,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "quota_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "sms_queue_full": HTTPStatus.TOO_MANY_REQUESTS,
}
_STATUS_OF_CLASS = {
    ContentTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


def verification_status(code: str) -> HTTPStatus:
    """Return the status that a refusal of the verification service takes (publish.md 4.6, 4.7)."""
    return _STATUS_OF_VERIFICATION_CODE.get(code, HTTPStatus.BAD_REQUEST)


class MaintenanceError(KeyserverError):
    """The operator has closed the service for a while (publish.md 1.1: 429)."""


@dataclass(frozen=True)
class Problem:
    """What is answered instead of a result."""

    status: HTTPStatus
    code: str
    message: str
    warnings: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_INTERNAL_ERROR = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "internal error")


def problem(error: Exception) -> Problem:
    """Return what is answered to ``error``, and log it."""
    if isinstance(error, PublishError):
        refused = _STATUS_OF_CLASS.get(type(error)) or _STATUS_OF_CODE.get(error.code)
        if refused is None:
            _LOG.error("no status is known for the code %s", error.code)
            return _INTERNAL_ERROR
        _LOG.info("refused: %s", error.code)
        return Problem(refused, error.code, str(error), error.warnings)
    if isinstance(error, MaintenanceError):
        headers = {"Retry-After": str(MAINTENANCE_RETRY_AFTER_S)}
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, "maintenance", str(error), headers=headers)
    if isinstance(error, RemoteError):
        _LOG.warning("answered 503: %s", error)
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "the server cannot do this now; try again later",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    if isinstance(error, HTTPException) and error.code is not None and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
        status = HTTPStatus(error.code)
        allowed = error.valid_methods if isinstance(error, MethodNotAllowed) else None
        headers = {"Allow": ", ".join(sorted(allowed))} if allowed else {}
        return Problem(status, status.name.lower(), status.phrase.lower(), headers=headers)
    _LOG.error("unexpected %s\n%s", type(error).__qualname__, "".join(traceback.format_tb(error.__traceback__)))
    return _INTERNAL_ERROR
