"""The verification service's own application (publish.md 4.6 to 4.9): a process, a role and signing keys of its own.

Phones post with an API key of type device, health workers' systems with one of type admin. Errors are objects of
``error``, ``errorCode`` and the older ``error_code``. What phones are answered is filled up to lengths of one
distribution, refusals too, and so is the answer to chaff (rule E1).
"""

from __future__ import annotations

import base64
import email.utils
import json
import os
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask, Response, g, request

from api import edge, health, openapi
from api.answers import Answers
from api.chaff import HEADER, Chaff, sleep_exactly
from api.openapi.verification import CONTRACT
from api.problems import RETRY_AFTER_S, MaintenanceError, problem, verification_status
from keyserver.errors import ConfigurationError, PublishError
from keyserver.protocol.messages import CONTENT_TYPE, Message, decode
from keyserver.protocol.verification import SentDiagnosis, VerificationRefusedError
from keyserver.protocol.verification_messages import (
    BatchIssueRequest,
    CertificateRequest,
    CodeRequest,
    IssueRequest,
    UserReportRequest,
    VerifyRequest,
)
from keyserver.providers.signers import open_signer
from keyserver.settings import Settings
from keyserver.store.database import Database
from keyserver.store.verification import Caller, CodeStatus
from keyserver.verification import exchange, issue, realms, report
from keyserver.verification.access import (
    Allowance,
    Service,
    TooManyError,
    allowance,
    authenticate,
    count_request,
)

# More than the longest answer without its padding: a token or a certificate.
ROOM_BYTES = 1536
JWKS_SECONDS = 300

_M = TypeVar("_M", bound=Message)


def service_of(settings: Settings, database: Database | None = None) -> Service:
    """Return what the service works with.

    Raises:
        ConfigurationError: a variable is missing.
    """
    if settings.verification_secret is None:
        raise ConfigurationError("KEYSERVER_VERIFICATION_SECRET is not set: give random bytes in base64, and keep them")
    signer = open_signer(settings.url("verification_signer"))
    return Service(database or Database(settings.url("verification")), signer, settings.verification_secret)


def create_verification_app(
    settings: Settings | None = None,
    service: Service | None = None,
    courier: report.Courier | None = None,
    *,
    settable_clock: bool = False,
    sleep: Callable[[float], None] = sleep_exactly,
) -> Flask:
    """Return the WSGI application, made from the environment unless tests give its parts.

    Raises:
        ConfigurationError: a variable is wrong or missing; the message names it.
    """
    settings = settings or Settings.from_environment(os.environ)
    service = service or service_of(settings)
    app = Flask(__name__, static_folder=None)
    app.extensions["keyserver.database"] = service.database
    edge.install(app, settings, {})
    app.register_blueprint(health.blueprint(service.database, settings, settable_clock=settable_clock))
    app.register_blueprint(openapi.blueprint(CONTRACT))
    _phones(app, settings, service, courier or report.Courier(), sleep)
    _health_workers(app, service)

    @app.get("/jwks", provide_automatic_options=False)
    @app.get("/jwks/<realm>", provide_automatic_options=False)
    def jwks(realm: str | None = None) -> Response:
        keys = realms.public_keys(service, realm)
        if keys is None:
            raise VerificationRefusedError("realm_not_found", "name a realm that there is: /jwks/NAME")
        response = Response(json.dumps(keys), content_type=CONTENT_TYPE)
        response.headers["Cache-Control"] = f"max-age={JWKS_SECONDS}"
        return response

    @app.after_request
    def limits(response: Response) -> Response:
        left: Allowance | None = g.get("allowance")
        if left is not None:
            response.headers["X-RateLimit-Limit"] = str(left.limit)
            response.headers["X-RateLimit-Remaining"] = str(left.remaining)
            response.headers["X-RateLimit-Reset"] = _rfc1123(left.resets_at)
        return response

    filled = Answers(settings, room=ROOM_BYTES)

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        status, body, headers = _refusal(error)
        g.code = body["errorCode"]
        if g.get("phone"):
            return filled.respond(status, body, version=False, headers=headers)
        return Response(json.dumps(body), status, headers, content_type=CONTENT_TYPE)

    return app


def _phones(
    app: Flask, settings: Settings, service: Service, courier: report.Courier, sleep: Callable[[float], None]
) -> None:
    answers = Answers(settings, room=ROOM_BYTES)

    def route(path: str, answer: Callable[[Caller], dict[str, Any]]) -> None:
        chaff = Chaff(answers, clock=time.monotonic, sleep=sleep, version=False)

        def view() -> Response:
            started = time.monotonic()
            g.phone = True
            caller = authenticate(service, request.headers.get("X-API-Key", ""), "device")
            if request.headers.get(HEADER):
                g.allowance = allowance(service, caller)
                return chaff.answer(started, edge.read_body)
            g.allowance = count_request(service, caller)
            response = answers.respond(HTTPStatus.OK, answer(caller), version=False)
            chaff.remember(time.monotonic() - started)
            return response

        app.add_url_rule(path, path, view, methods=["POST"], provide_automatic_options=False)

    def verify(caller: Caller) -> dict[str, Any]:
        sent = _decoded(VerifyRequest)
        verified = exchange.verify(service, caller, sent.code, sent.accept, sent.nonce)
        said = verified.diagnosis
        days = {"symptomDate": said.symptom_date, "testDate": said.test_date}
        return {
            "testtype": said.test_type,
            **{name: day.isoformat() for name, day in days.items() if day},
            "token": verified.token,
        }

    def certificate(caller: Caller) -> dict[str, Any]:
        sent = _decoded(CertificateRequest, "token_invalid")
        return {"certificate": exchange.certify(service, caller, sent.token, sent.ekeyhmac)}

    def user_report(caller: Caller) -> dict[str, Any]:
        sent = _decoded(UserReportRequest)
        said = report.Report(sent.symptom_date, sent.test_date, sent.tz_offset, sent.phone, sent.nonce)
        issued = report.user_report(service, courier, caller, said)
        return _moment("expiresAt", issued.expires_at)

    route("/api/verify", verify)
    route("/api/certificate", certificate)
    route("/api/user-report", user_report)


def _health_workers(app: Flask, service: Service) -> None:
    def route(path: str, answer: Callable[[Caller], tuple[int, dict[str, Any]]]) -> None:
        def view() -> Response:
            caller = authenticate(service, request.headers.get("X-API-Key", ""), "admin")
            g.allowance = count_request(service, caller)
            status, body = answer(caller)
            # The size that the reference gives it; who issues codes is no secret, so refusals need none.
            padding = base64.b64encode(secrets.token_bytes(1024 + secrets.randbelow(1024))).decode()
            return Response(json.dumps({**body, "padding": padding}), status, content_type=CONTENT_TYPE)

        app.add_url_rule(path, path, view, methods=["POST"], provide_automatic_options=False)

    def issue_one(caller: Caller) -> tuple[int, dict[str, Any]]:
        return HTTPStatus.OK, _issued(issue.issue(service, caller, _wanted(_decoded(IssueRequest))))

    def batch_issue(caller: Caller) -> tuple[int, dict[str, Any]]:
        wanted = [_wanted(each) for each in _decoded(BatchIssueRequest).codes]
        results = issue.batch_issue(service, caller, wanted)
        first = next((result for result in results if isinstance(result, Exception)), None)
        status, outer, _ = (HTTPStatus.OK, {}, {}) if first is None else _refusal(first)
        return status, {
            "codes": [_refusal(each)[1] if isinstance(each, Exception) else _issued(each) for each in results],
            **outer,
        }

    def check_status(caller: Caller) -> tuple[int, dict[str, Any]]:
        status = issue.check_status(service, caller, _decoded(CodeRequest).uuid)
        return HTTPStatus.OK, {"claimed": status.claimed, **_ends(status)}

    def expire(caller: Caller) -> tuple[int, dict[str, Any]]:
        return HTTPStatus.OK, _ends(issue.expire(service, caller, _decoded(CodeRequest).uuid))

    route("/api/issue", issue_one)
    route("/api/batch-issue", batch_issue)
    route("/api/checkcodestatus", check_status)
    route("/api/expirecode", expire)


def _wanted(sent: IssueRequest) -> issue.Wanted:
    said = SentDiagnosis(sent.test_type, sent.symptom_date, sent.test_date, sent.tz_offset)
    return issue.Wanted(said, sent.uuid, sent.phone, bool(sent.sms_template_label) or sent.only_generate_sms)


def _issued(code: issue.Issued) -> dict[str, Any]:
    return {
        "uuid": str(code.uuid),
        "code": code.code,
        "longCode": code.long_code,
        **_moment("expiresAt", code.expires_at),
        **_moment("longExpiresAt", code.long_expires_at),
    }


def _ends(status: CodeStatus) -> dict[str, int]:
    return {
        "expiresAtTimestamp": int(status.expires_at.timestamp()),
        "longExpiresAtTimestamp": int(status.long_expires_at.timestamp()),
    }


def _moment(name: str, moment: datetime) -> dict[str, Any]:
    return {name: _rfc1123(moment), f"{name}Timestamp": int(moment.timestamp())}


def _rfc1123(moment: datetime) -> str:
    # As the reference writes it: the zone is UTC, not the GMT of HTTP.
    return email.utils.formatdate(moment.timestamp(), usegmt=True).replace("GMT", "UTC")


def _decoded(model: type[_M], code: str = "unparsable_request") -> _M:
    """Return the request's body (publish.md 1.2); ``code`` is what this route calls one that cannot be read."""
    g.unparsable = code
    return decode(model, request.headers.get("Content-Type", ""), edge.read_body())


def _refusal(error: Exception) -> tuple[int, dict[str, str], dict[str, str]]:
    """Return status, body and headers of what is answered instead of a result."""
    if isinstance(error, VerificationRefusedError):
        status = verification_status(error.code)
        return status, _error(error.code, str(error)), _waiting(error)
    told = problem(error)
    code = told.code
    if told.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        code = "internal_server_error"
    elif isinstance(error, PublishError):
        code = g.get("unparsable", "unparsable_request")
    elif isinstance(error, MaintenanceError):
        code = "maintenance_mode"
    return told.status, _error(code, told.message), dict(told.headers)


def _waiting(error: VerificationRefusedError) -> dict[str, str]:
    if isinstance(error, TooManyError):
        if error.code == "rate_limited":
            g.allowance = error.allowance
        return {"Retry-After": str(error.retry_after)}
    return {"Retry-After": str(RETRY_AFTER_S)} if error.code == "sms_queue_full" else {}


def _error(code: str, message: str) -> dict[str, str]:
    return {"error": message, "errorCode": code, "error_code": code}
