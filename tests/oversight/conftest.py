"""The authority of the export's tests, and what its oversight's tests ask again and again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyserver.export import decide, replace, withdraw
from tests.export.conftest import Authority, authority, make_authority, serve, served
from tests.export.operators import hold_next

__all__ = ["authority", "history", "make_authority", "north", "serve", "served"]


@pytest.fixture
def north(authority: Authority) -> Authority:
    """An authority with one feed."""
    authority.add_feed("north")
    return authority


@pytest.fixture
def history(served: Authority) -> Authority:
    """Batches in which every fate of keys and of revisions occurs."""
    served.add_feed("north", exclude_regions=["DK"], travelers="exclude")
    first = served.add_keys(5, report_type="likely")
    strange = served.add_keys(4, seed=2, regions=("SE",))
    served.add_keys(2, seed=3, regions=("NO", "DK"))
    served.add_keys(3, seed=4, traveler=True)
    served.revise(first[:1], "negative")
    served.revise(first[1:2], "confirmed")
    served.close_windows()
    assert served.export() == [1]  # with revisions in the state of its keys

    second = served.add_keys(3, seed=5, report_type="likely")
    served.revise(first[2:3], "confirmed")
    served.revise(first[3:4], "negative")
    served.revise(strange[:1], "confirmed")
    served.close_windows()
    assert served.export() == [2]  # tells two revisions; one is of a key that the feed never had

    third = served.add_keys(2, seed=6, report_type="likely")
    served.revise(second[:1], "confirmed")
    assert hold_next(served) == 3
    served.revise(third[:1], "confirmed")
    served.close_windows()
    assert served.export() == []  # batch 4 is empty: the carrier of its revision is held
    assert decide.reject(served.runtime(), 3, "not that one") == 5
    assert served.export() == [5]  # without keys, for a revision that batch 3 alone carried

    withdraw.withdraw(served.runtime(), 1, "a mistake")
    withdraw.finish(served.runtime(), 1)
    assert replace.replace(served.runtime(), 1, "once more") == 6
    assert served.export() == [6]  # a supplement: it tells a revocation of another span again

    served.add_keys(1, seed=7)
    served.revise(second[1:2], "confirmed")
    assert hold_next(served) == 7
    served.database.pass_time(timedelta(days=17))
    assert decide.approve(served.runtime(), 7, "too late") == 8
    assert served.export() == []  # all that it had is expired
    return served
