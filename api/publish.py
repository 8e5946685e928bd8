"""POST /v1/publish (publish.md 1): decode, call the use case, answer."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, request

from api.problems import problem
from keyserver.errors import PublishError
from keyserver.protocol.exposure import Limits, summary
from keyserver.protocol.messages import CONTENT_TYPE, MAX_BODY_BYTES, PublishAnswer, decode_request
from keyserver.publish.accept import Configuration, accept
from keyserver.settings import Settings
from keyserver.store.database import Database


def blueprint(database: Database, settings: Settings) -> Blueprint:
    """Return the route, which stores into ``database``."""
    routes = Blueprint("publish", __name__)
    configuration = Configuration(
        database,
        Limits(
            max_keys=settings.max_keys_on_publish,
            max_keys_of_same_start=settings.max_same_start_interval_keys,
            max_onset_days=settings.max_symptom_onset_days,
            max_onset_report_days=settings.max_valid_symptom_onset_report_days,
            default_onset_days_ago=settings.default_symptom_onset_days_ago,
        ),
    )

    def padding() -> str:
        """1.6: random in length and content, so that the size of an answer tells nothing."""
        size = settings.response_padding_min_bytes + secrets.randbelow(settings.response_padding_range)
        return base64.b64encode(secrets.token_bytes(size)).decode()

    def answer(status: HTTPStatus, message: PublishAnswer) -> Response:
        return Response(message.encode(), status, {"x-api-version": "v1"}, content_type=CONTENT_TYPE)

    @routes.post("/v1/publish", provide_automatic_options=False)
    def publish() -> Response:
        try:
            body = request.stream.read(MAX_BODY_BYTES + 1)
        except Exception:  # noqa: BLE001 - a server's own class, for a body that breaks off or chunks that are none
            raise PublishError("bad_request", "the body cannot be read") from None
        sent = decode_request(request.headers.get("Content-Type", ""), body)
        accepted = accept(database, configuration, sent, datetime.now(UTC))
        return answer(
            HTTPStatus.OK,
            PublishAnswer(
                inserted_exposures=accepted.inserted,
                error=summary(accepted.errors) if accepted.errors else "",
                code="partial_failure" if accepted.errors else "",
                warnings=accepted.warnings,
                padding=padding(),
            ),
        )

    @routes.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        response = answer(
            told.status,
            PublishAnswer(error=told.message, code=told.code, warnings=told.warnings, padding=padding()),
        )
        response.headers.extend(told.headers)
        return response

    return routes
