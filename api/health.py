"""GET /health: this process lives and its database answers. GET /ready: it should be sent requests.

In maintenance (publish.md 1.1) /health stays 200, so that nobody restarts what is well, and /ready says 503, so that a
load balancer takes the process out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from flask import Blueprint

from keyserver.errors import RemoteError
from keyserver.settings import Settings
from keyserver.store.database import Database
from keyserver.store.readiness import MOST_SKEW, ping, readiness


def blueprint(
    database: Database,
    settings: Settings,
    *,
    settable_clock: bool,
    also: Callable[[], object] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Blueprint:
    """Return both routes.

    A database whose clock can be set is the tests' own (rule T1): not ready, unless expected. ``also`` asks for what
    else this process needs, and raises `RemoteError` when it is missing; ``now`` is this host's clock.
    """
    routes = Blueprint("health", __name__)

    @routes.get("/health", provide_automatic_options=False)
    def health() -> dict[str, str]:
        with database.connection() as connection:
            ping(connection)
        return {"status": "ok"}

    @routes.get("/ready", provide_automatic_options=False)
    def ready() -> dict[str, str]:
        if settings.maintenance_mode:
            raise RemoteError("closed for maintenance")
        with database.connection() as connection:
            found = readiness(connection)
        if found.clock_is_settable and not settable_clock:
            raise RemoteError("this database's clock can be set: it was made by the tests, do not serve from it")
        if found.schema != found.newest_schema:
            raise RemoteError(
                f"the schema is {found.schema}, this code needs {found.newest_schema}: migrate the database"
            )
        if not found.clock_is_settable and abs(now() - found.now) > MOST_SKEW:
            raise RemoteError("the clocks of this host and the database differ by more than a minute")
        if also:
            also()
        return {"status": "ready"}

    return routes
