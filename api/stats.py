"""POST /v1/stats (publish.md 6): decode, call the use case, answer in JSON or CSV."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from flask import Blueprint, Response, g, request

from api.answers import STATS_ROOM_BYTES, Answers
from api.edge import read_body
from api.problems import problem
from keyserver.errors import PublishError
from keyserver.protocol import statsapi
from keyserver.protocol.messages import CONTENT_TYPE
from keyserver.protocol.statsapi import Sight
from keyserver.settings import Settings
from keyserver.statistics.read import Statistics
from keyserver.store.database import Database

_CSV = "text/csv"


def blueprint(database: Database, settings: Settings) -> Blueprint:
    """Return the route, which reads from ``database``. Unlike the other routes it sends no x-api-version (1.1)."""
    routes = Blueprint("stats", __name__)
    answers = Answers(settings, room=STATS_ROOM_BYTES)
    embargo = timedelta(hours=settings.stats_embargo_hours) if settings.stats_embargo_hours else None
    statistics = Statistics(database, settings.stats_audience, Sight(settings.stats_upload_minimum, embargo))

    @routes.post("/v1/stats", provide_automatic_options=False)
    def stats() -> Response:
        statsapi.decode_request(request.headers.get("Content-Type", ""), read_body())
        as_csv = _wants_csv()
        days = statistics.days(request.headers.get("Authorization"), datetime.now(UTC))
        if as_csv:
            return _padded(statsapi.as_csv(days).encode())
        return answers.respond(HTTPStatus.OK, {"days": statsapi.as_json(days)}, version=False)

    def _padded(text: bytes) -> Response:
        """CSV has no place for padding but empty lines at its end, which its readers pass over."""
        missing = len(answers.encode({})) - len(text)
        response = Response(text + b"\n" * missing, HTTPStatus.OK)
        response.headers["Content-Type"] = f"{_CSV}; charset=utf-8"
        return response

    @routes.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        told = problem(error)
        g.code = told.code
        fields = {"error": told.message, "code": told.code}
        return answers.respond(told.status, fields, version=False, headers=told.headers)

    return routes


def _wants_csv() -> bool:
    """?format=json or ?format=csv decides; without it the Accept header, by which JSON comes first."""
    asked = request.args.get("format")
    if asked not in {None, "json", "csv"}:
        raise PublishError("bad_request", "format must be json or csv")
    if asked is None:
        return request.accept_mimetypes.best_match([CONTENT_TYPE, _CSV], default=CONTENT_TYPE) == _CSV
    return asked == "csv"
