"""GET /health: whether this process can do its work now."""

from __future__ import annotations

from flask import Blueprint

from keyserver.errors import RemoteError
from keyserver.store.database import Database
from keyserver.store.readiness import clock_is_settable


def blueprint(database: Database, *, settable_clock: bool) -> Blueprint:
    """Return the route. A database whose clock can be set is the tests' own (rule T1): refused unless expected."""
    routes = Blueprint("health", __name__)

    @routes.get("/health", provide_automatic_options=False)
    def health() -> dict[str, str]:
        with database.connection() as connection:
            settable = clock_is_settable(connection)
        if settable and not settable_clock:
            raise RemoteError("this database's clock can be set: it was made by the tests, do not serve from it")
        return {"status": "ok"}

    return routes
