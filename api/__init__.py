"""What phones talk to. It parses, calls one use case and answers; it never reaches a signing key."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from flask import Flask, Response, g

from api import attestation, edge, health, openapi, publish, stats
from api.chaff import Chaff
from api.openapi.publish import CONTRACT
from api.problems import problem
from keyserver.protocol.messages import CONTENT_TYPE
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.settings import Settings
from keyserver.store.database import Database


def create_app(
    settings: Settings | None = None,
    database: Database | None = None,
    *,
    settable_clock: bool = False,
    chaff: Mapping[str, Chaff] | None = None,
) -> Flask:
    """Return the WSGI application.

    Without arguments it is made from the environment; its database is then KEYSERVER_API_DATABASE_URL. Tests give their
    own, and say that its clock is settable; they may time chaff (`edge.chaff_routes`) with a clock of theirs.

    Raises:
        ConfigurationError: a variable is wrong or missing; the message names it.
    """
    settings = settings or Settings.from_environment(os.environ)
    database = database or Database(settings.url("api"))
    app = Flask(__name__, static_folder=None)
    app.extensions["keyserver.database"] = database  # for whoever made the application, to close it
    edge.install(app, settings, edge.chaff_routes(settings) if chaff is None else chaff)
    attest = attestation.gate(database, settings)
    app.register_blueprint(attestation.blueprint(attest, settings))
    keys = RevisionKeys(database, open_keywrap(settings.url("keywrap")))
    app.register_blueprint(publish.blueprint(publish.intake(database, settings, keys, attest), settings))
    app.register_blueprint(stats.blueprint(database, settings))
    # Without a key for the token no upload is taken (publish.md 3.6), so none should be sent here.
    app.register_blueprint(health.blueprint(database, settings, settable_clock=settable_clock, also=keys.effective))
    app.register_blueprint(openapi.blueprint(CONTRACT))

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        g.code = told.code
        body = json.dumps({"error": told.message, "code": told.code}, separators=(",", ":"))
        response = Response(body, told.status, content_type=CONTENT_TYPE)
        response.headers.extend(told.headers)
        return response

    return app
