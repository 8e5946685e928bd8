"""The authority of the export's tests, with files and a log in public."""

from __future__ import annotations

import pytest

from keyserver.export import index, transparency
from tests.export.conftest import Authority, authority, make_authority, serve, served

__all__ = ["authority", "make_authority", "published", "serve", "served"]


@pytest.fixture
def published(served: Authority) -> Authority:
    """A feed with two released batches, of three files and of one, and its public log."""
    served.add_log_key()
    served.add_feed("north", max_keys=7)
    for seed, count in ((1, 20), (2, 5)):
        served.add_keys(count, seed=seed)
        served.close_windows()
    assert served.export() == [1, 2]
    transparency.publish_logs(served.runtime())
    assert index.write_all(served.runtime()) == 0
    return served
