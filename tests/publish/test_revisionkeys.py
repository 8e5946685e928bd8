from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from keyserver.audit import Actor
from keyserver.errors import RemoteError
from keyserver.keys.revision import DELETE_OLD_KEY_PERIOD, NEW_KEY_PERIOD, rotate
from keyserver.providers import keywrap
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.runtime import Runtime
from keyserver.store.database import Database

LONG = timedelta(hours=1)
NEVER = timedelta(0)  # read anew each time


@pytest.fixture
def wrap(tmp_path) -> keywrap.KeyWrap:
    url = (tmp_path / "keywrap").as_uri()
    keywrap.generate(url)
    return keywrap.open_keywrap(url)


@pytest.fixture
def rotate_once(test_database, wrap):
    runtime = Runtime(Actor("test"), test_database.database("pipeline"), keywrap_or_none=wrap)
    return lambda: rotate(runtime)


@pytest.fixture
def api(test_database):
    return test_database.database("api")


def test_scenario_79_the_newest_encrypts_and_both_decrypt(rotate_once, test_database, api, wrap):
    rotate_once()
    keys = RevisionKeys(api, wrap, NEVER)
    kid, first = keys.effective()
    assert (kid, len(first)) == (1, 32)
    test_database.pass_time(NEW_KEY_PERIOD)
    rotate_once()
    assert keys.effective() == (1, first)
    assert keys.key(2) is not None  # at once; others may encrypt with it before we do
    test_database.pass_time(timedelta(minutes=2))
    kid, second = keys.effective()
    assert kid == 2
    assert first != second
    assert (keys.key(1), keys.key(2), keys.key(3)) == (first, second, None)


def test_scenario_77_a_destroyed_key_is_none(rotate_once, test_database, api, wrap):
    keys = RevisionKeys(api, wrap, NEVER)
    rotate_once()
    assert keys.key(1) is not None
    test_database.pass_time(NEW_KEY_PERIOD)
    rotate_once()
    test_database.pass_time(DELETE_OLD_KEY_PERIOD)
    rotate_once()
    assert keys.key(1) is None
    assert keys.key(2) is not None


def test_what_was_read_is_used_for_its_lifetime(rotate_once, test_database, api, wrap):
    rotate_once()
    keys = RevisionKeys(api, wrap, LONG)
    before = keys.effective()
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET allowed = false")
    assert keys.effective() == before
    assert RevisionKeys(api, wrap).key(1) is None


def test_without_a_key_it_is_asked_again_each_time(rotate_once, api, wrap):
    keys = RevisionKeys(api, wrap, LONG)
    with pytest.raises(RemoteError, match="keyserver keys rotate"):
        keys.effective()
    assert keys.key(1) is None
    rotate_once()
    assert keys.effective()[0] == 1


def test_a_key_that_cannot_be_unwrapped_does_not_break_the_others(rotate_once, test_database, api, wrap, caplog):
    rotate_once()
    test_database.pass_time(NEW_KEY_PERIOD)
    rotate_once()
    test_database.pass_time(timedelta(minutes=2))
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET wrapped_key = '\\x00' WHERE id = 2")
    keys = RevisionKeys(api, wrap)
    kid, key = keys.effective()
    assert (kid, keys.key(1), keys.key(2)) == (1, key, None)
    assert "revision key 2 cannot be unwrapped" in caplog.text


def test_a_database_out_of_reach_is_a_remote_error(wrap):
    keys = RevisionKeys(Database("postgresql://nobody@127.0.0.1:1/none"), wrap)
    for ask in (keys.effective, lambda: keys.key(1)):
        with pytest.raises(RemoteError, match="cannot be reached"):
            ask()


def test_threads_share_it(rotate_once, api, wrap):
    rotate_once()
    keys = RevisionKeys(api, wrap, NEVER)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: keys.effective()[1] if n % 2 else keys.key(1), range(40)))
    assert len(set(found)) == 1
    assert found[0] is not None
