from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.realms import World, living


@pytest.fixture
def world(test_database, tmp_path) -> Iterator[World]:
    with living(test_database, tmp_path) as made:
        yield made
