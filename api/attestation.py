"""POST /v1/attestation/challenge: what a phone has its platform attest, together with its upload (rule E3)."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, g

from api.answers import Answers
from api.problems import problem
from keyserver.protocol.attestation import CHALLENGE_LIFE
from keyserver.providers.secrets import open_secrets
from keyserver.publish.attestation import AttestationGate
from keyserver.settings import Settings
from keyserver.store.database import Database


def gate(database: Database, settings: Settings) -> AttestationGate:
    """Return what asks apps for a proof that they are these; a server whose apps need none needs no setting for it."""
    secrets = open_secrets(settings.url("secrets")) if "secrets" in settings.urls else None
    return AttestationGate(database, settings.attestation_secret, secrets)


def blueprint(gate: AttestationGate, settings: Settings) -> Blueprint:
    """Return the route. It reads no body and keeps nothing: any worker knows its challenges again."""
    routes = Blueprint("attestation", __name__)
    answers = Answers(settings)

    @routes.post("/v1/attestation/challenge", provide_automatic_options=False)
    def challenge() -> Response:
        fields = {
            "challenge": gate.challenge(datetime.now(UTC)),
            "expires_in": int(CHALLENGE_LIFE.total_seconds()),
        }
        return answers.respond(HTTPStatus.OK, fields)

    @routes.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        g.code = told.code
        return answers.respond(told.status, {"error": told.message, "code": told.code}, headers=told.headers)

    return routes
