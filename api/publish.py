"""POST /v1/publish (publish.md 1): decode, call the use case, answer."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, g, request

from api.answers import Answers
from api.edge import read_body
from api.problems import problem
from keyserver.protocol.exposure import Limits, summary
from keyserver.protocol.messages import PublishAnswer, decode_request
from keyserver.publish.accept import Attest, Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.settings import Settings
from keyserver.store.database import Database


def intake(database: Database, settings: Settings, revision_keys: RevisionKeys, attest: Attest | None = None) -> Intake:
    """Return what uploads into ``database`` are accepted with; ``attest`` asks apps for a proof that they are these.

    Raises:
        ConfigurationError: a setting that it needs is missing or wrong; the message names it.
    """
    limits = Limits(
        max_keys=settings.max_keys_on_publish,
        max_keys_of_same_start=settings.max_same_start_interval_keys,
        max_onset_days=settings.max_symptom_onset_days,
        max_onset_report_days=settings.max_valid_symptom_onset_report_days,
        default_onset_days_ago=settings.default_symptom_onset_days_ago,
    )
    return Intake(
        database,
        Configuration(database, limits),
        revision_keys,
        settings.revision_token_aad,
        settings.allow_partial_revisions,
        attest,
    )


def blueprint(taking: Intake, settings: Settings) -> Blueprint:
    """Return the route of what `intake` made."""
    routes = Blueprint("publish", __name__)
    answers = Answers(settings)

    @routes.post("/v1/publish", provide_automatic_options=False)
    def publish() -> Response:
        sent = decode_request(request.headers.get("Content-Type", ""), read_body())
        accepted = accept(taking, sent, datetime.now(UTC), user_agent=request.headers.get("User-Agent", ""))
        return answer(
            HTTPStatus.OK,
            PublishAnswer(
                revision_token=accepted.revision_token,
                inserted_exposures=accepted.inserted,
                error=summary(accepted.errors) if accepted.errors else "",
                code="partial_failure" if accepted.errors else "",
                warnings=accepted.warnings,
            ),
        )

    def answer(status: HTTPStatus, message: PublishAnswer) -> Response:
        return answers.respond(status, message.fields())

    @routes.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        g.code = told.code
        response = answer(told.status, PublishAnswer(error=told.message, code=told.code, warnings=told.warnings))
        response.headers.extend(told.headers)
        return response

    return routes
