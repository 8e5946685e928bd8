from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyserver.audit import Actor
from keyserver.providers import keywrap
from keyserver.runtime import Runtime


@pytest.fixture
def runtime(test_database, tmp_path) -> Runtime:
    url = (tmp_path / "keywrap").as_uri()
    keywrap.generate(url)
    return Runtime(Actor("test"), test_database.database("pipeline"), keywrap_or_none=keywrap.open_keywrap(url))


@pytest.fixture
def events(test_database) -> Callable[[], list[dict[str, Any]]]:
    """What the audit trail holds."""

    def read() -> list[dict[str, Any]]:
        with test_database.admin() as connection:
            rows = connection.execute("SELECT convert_from(body, 'UTF8')::jsonb FROM audit_event ORDER BY seq")
            return [body for (body,) in rows]

    return read
