"""Scenarios 79 and 80 of publish.md."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from keyserver.audit import Actor
from keyserver.errors import ConfigurationError
from keyserver.keys.revision import DELETE_OLD_KEY_PERIOD, NEW_KEY_PERIOD, Rotation, rotate
from keyserver.runtime import Runtime
from keyserver.store import revision_keys

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def subjects(events) -> list[tuple[str, int]]:
    return [(event["kind"], event["subject"]["revision_key"]) for event in events()]


def test_scenario_80_the_first_key_is_made_and_a_young_one_left_alone(runtime, test_database, events):
    assert rotate(runtime) == Rotation(1, ())
    assert rotate(runtime) == Rotation(None, ())
    test_database.pass_time(NEW_KEY_PERIOD - SECOND)
    assert rotate(runtime) == Rotation(None, ())
    assert subjects(events) == [("revision_key.created", 1)]


def test_scenario_80_an_old_one_is_followed_and_destroyed_when_its_time_has_passed(runtime, test_database, events):
    rotate(runtime)
    test_database.pass_time(NEW_KEY_PERIOD)
    assert rotate(runtime) == Rotation(2, ())
    test_database.pass_time(DELETE_OLD_KEY_PERIOD - SECOND)
    assert rotate(runtime) == Rotation(3, ())
    test_database.pass_time(SECOND)
    assert rotate(runtime) == Rotation(None, (1,))
    assert rotate(runtime) == Rotation(None, ())
    assert subjects(events) == [
        ("revision_key.created", 1),
        ("revision_key.created", 2),
        ("revision_key.created", 3),
        ("revision_key.destroyed", 1),
    ]


def test_scenario_79_a_destroyed_key_keeps_its_row_and_nothing_else(runtime, test_database):
    rotate(runtime)
    test_database.pass_time(NEW_KEY_PERIOD)
    rotate(runtime)
    destroyed_at = test_database.pass_time(DELETE_OLD_KEY_PERIOD)
    assert rotate(runtime) == Rotation(3, (1,))
    with test_database.admin() as connection:
        rows = connection.execute(
            "SELECT id, aad IS NULL, wrapped_key IS NULL, allowed, destroyed_at FROM revision_key ORDER BY id"
        ).fetchall()
    assert rows == [(1, True, True, False, destroyed_at), (2, False, False, True, None), (3, False, False, True, None)]


def test_a_key_that_an_operator_forbade_is_replaced_at_once_and_destroyed_in_time(runtime, test_database):
    rotate(runtime)
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET allowed = false")
    assert rotate(runtime) == Rotation(2, ())
    test_database.pass_time(DELETE_OLD_KEY_PERIOD)
    assert rotate(runtime) == Rotation(3, (1,))


def test_a_key_that_others_may_not_have_read_yet_does_not_encrypt(runtime, test_database):
    def order() -> list[int]:
        with runtime.database.connection() as connection:
            return [key.kid for key in revision_keys.allowed(connection)]

    rotate(runtime)
    assert order() == [1]
    test_database.pass_time(NEW_KEY_PERIOD)
    rotate(runtime)
    assert order() == [1, 2]
    test_database.pass_time(timedelta(minutes=2))
    assert order() == [2, 1]


def test_of_rotations_at_the_same_time_one_makes_a_key(runtime):
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: rotate(runtime).created, range(4)))
    assert sorted(map(str, done)) == ["1", "None", "None", "None"]


def test_without_a_master_key_nothing_is_changed(test_database, events):
    without = Runtime(Actor("test"), test_database.database("pipeline"))
    with pytest.raises(ConfigurationError, match="KEYSERVER_KEYWRAP_URL"):
        rotate(without)
    assert events() == []
