"""Random histories of an authority against a model of rules K1 to K3, T3 and B1 to B7 (`model`, `histories`).

Whatever was uploaded, revised, held, approved, rejected, withdrawn, replaced, cut off and tried again: each batch is
planned, is due and holds what the model says, and at the end every phone knows each key in its newest state, however
it reads an index and whenever it did so.

The rows are stored as publish stores them, by the API's role, and all steps are the real ones but one: in nine of ten
histories the gate puts one cheap expectation to the staged bytes, and only in the tenth its whole suite.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyserver.export import gate
from tests.conftest import TestDatabase
from tests.export.conftest import Authority
from tests.export.histories import World, cheap_check

# The same each time. A campaign, other ones each time: KEYSERVER_HISTORIES=2000 pytest tests/export/test_model.py
CAMPAIGN = int(os.environ.get("KEYSERVER_HISTORIES", "0"))
USUAL = 40

numbers = st.integers(0, 999)
things = st.tuples(numbers, numbers, numbers)  # which one, and what it does (`World.act`)

# What must have happened in some history, or the histories prove little.
HAPPENED = {
    "a feed's end",
    "a frozen run",
    "a revision",
    "a revocation told",
    "a supplement",
    "an answer lost",
    "approved",
    "held",
    "killed",
    "rejected",
    "released again",
    "withdrawn",
}


@pytest.fixture
def public(tmp_path: Path, serve: Callable[[Authority], None]) -> Authority:
    """A folder for all histories, each in one of its own, and a server that has them all."""
    everyone = Authority(None, tmp_path)
    serve(everyone)
    return everyone


def drop(database: TestDatabase) -> None:
    database.close()
    with psycopg.connect(database.server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')


def test_every_phone_knows_what_was_accepted(make_database, public):
    happened: Counter[str] = Counter()

    @settings(
        max_examples=CAMPAIGN or USUAL,
        derandomize=not CAMPAIGN,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(
        history=st.lists(things, min_size=20, max_size=45),
        ending=numbers,
        whole_gate=st.sampled_from([False] * 9 + [True]),
    )
    def lives_through(history, ending, whole_gate):
        database = make_database()
        with tempfile.TemporaryDirectory(dir=public.public) as folder, pytest.MonkeyPatch.context() as patch:
            if not whole_gate:
                patch.setattr(gate, "check_files", cheap_check)
            authority = Authority(database, Path(folder))
            (authority.folder / "signer").mkdir(mode=0o700)
            authority.public_url = f"{public.public_url}/{Path(folder).name}/blobs/public"
            world = World(authority)
            try:
                world.add_feed(ending, ending // 7)
                for thing in history:
                    world.act(*thing)
                world.settle(ending)
                world.check_phones()
                world.check_records()
            finally:
                happened.update(["histories", *world.done])
                world.close()
                for opened in authority.opened:
                    opened.close()
                drop(database)

    try:
        lives_through()
    finally:
        print(sorted(happened.items()))  # noqa: T201 - what a campaign has seen
    assert happened.keys() >= HAPPENED
