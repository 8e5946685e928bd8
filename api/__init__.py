"""What phones talk to. It parses, calls one use case and answers; it never reaches a signing key."""

from __future__ import annotations

import json
import os

from flask import Flask, Response

from api import health, publish
from api.problems import problem
from keyserver.protocol.messages import CONTENT_TYPE
from keyserver.settings import Settings
from keyserver.store.database import Database


def create_app(
    settings: Settings | None = None, database: Database | None = None, *, settable_clock: bool = False
) -> Flask:
    """Return the WSGI application.

    Without arguments it is made from the environment; its database is then KEYSERVER_API_DATABASE_URL. Tests give their
    own, and say that its clock is settable.

    Raises:
        ConfigurationError: a variable is wrong or missing; the message names it.
    """
    settings = settings or Settings.from_environment(os.environ)
    database = database or Database(settings.url("api"))
    app = Flask(__name__, static_folder=None)
    app.extensions["keyserver.database"] = database  # for whoever made the application, to close it
    app.register_blueprint(publish.blueprint(database, settings))
    app.register_blueprint(health.blueprint(database, settable_clock=settable_clock))

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        body = json.dumps({"error": told.message, "code": told.code}, separators=(",", ":"))
        response = Response(body, told.status, content_type=CONTENT_TYPE)
        response.headers.extend(told.headers)
        return response

    return app
