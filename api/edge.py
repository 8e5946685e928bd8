"""What every request meets before its route, and every answer after it.

Before, in this order: a request id; chaff (publish.md 1.7); maintenance (1.1), in which chaff is still answered.
After: the time of a real success is remembered, the answer is counted, security headers are set.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from flask import Flask, Response, g, request

from api import metrics
from api.answers import STATS_ROOM_BYTES, Answers
from api.chaff import HEADER, Chaff, sleep_exactly
from api.problems import MaintenanceError
from keyserver.errors import PublishError
from keyserver.protocol.messages import MAX_BODY_BYTES
from keyserver.settings import Settings

REQUEST_ID = "X-Request-ID"

# Hex digits and dashes, so a UUID: nothing can be said in it, and it goes to the log.
_REQUEST_ID = re.compile(r"[0-9A-Fa-f-]{8,64}")

# These two say themselves what maintenance means to them.
_IN_MAINTENANCE = frozenset({"health.health", "health.ready"})

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
}


def chaff_routes(
    settings: Settings, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = sleep_exactly
) -> dict[str, Chaff]:
    """Return what answers chaff, by path: wherever phones and authorities post to. ``clock`` and ``sleep``: seconds."""
    return {
        "/v1/publish": Chaff(Answers(settings), clock=clock, sleep=sleep),
        "/v1/stats": Chaff(Answers(settings, room=STATS_ROOM_BYTES), clock=clock, sleep=sleep, version=False),
        "/v1/attestation/challenge": Chaff(Answers(settings), clock=clock, sleep=sleep),
    }


def install(app: Flask, settings: Settings, chaff: Mapping[str, Chaff]) -> None:
    """Put all this around the routes of ``app``; ``chaff`` is by path, as `chaff_routes` makes it."""

    @app.before_request
    def before() -> Response | None:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        rule = request.url_rule
        if rule is None:
            return None  # no such path or method: its error comes next
        route = chaff.get(rule.rule)
        g.started = route.clock() if route else time.monotonic()
        g.real = not (route and request.headers.get(HEADER))
        # What is raised here is answered in the form of the route (its blueprint's error handler).
        if route and not g.real:
            return route.answer(g.started, _pass_over_body)
        if settings.maintenance_mode and rule.endpoint not in _IN_MAINTENANCE:
            raise MaintenanceError("the service is closed for maintenance; try again later")
        return None

    @app.after_request
    def after(response: Response) -> Response:
        path = request.url_rule.rule if request.url_rule else None
        if path is not None:
            route = chaff.get(path)
            seconds = (route.clock() if route else time.monotonic()) - g.started
            if route and response.status_code == HTTPStatus.OK:
                (route.remember if g.real else route.left)(seconds)
            metrics.time(path, seconds)
        metrics.count(path, response.status_code, g.get("code", ""))
        headers = response.headers
        own = {name.lower() for name, _ in headers}  # setdefault, for each by itself, takes several times as long
        headers.extend([(name, value) for name, value in HEADERS.items() if name.lower() not in own])
        headers.add(REQUEST_ID, g.request_id)
        return response


def read_body() -> bytes:
    """Return the request's body, up to one byte more than any route takes.

    Raises:
        PublishError: ``bad_request``: it breaks off, or its chunks are none.
    """
    try:
        return request.stream.read(MAX_BODY_BYTES + 1)
    except Exception:  # noqa: BLE001 - a server's own class
        raise PublishError("bad_request", "the body cannot be read") from None


def _pass_over_body() -> None:
    with contextlib.suppress(PublishError):
        read_body()
