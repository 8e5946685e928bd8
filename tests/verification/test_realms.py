from __future__ import annotations

import pytest

from keyserver.audit import Actor
from keyserver.errors import ConfigurationError, ConflictError, StoreError
from keyserver.runtime import Runtime
from keyserver.store.verification import NewRealm
from keyserver.verification.realms import create_api_key, create_realm, revoke_api_key
from tests.realms import SECRET


def test_what_an_operator_does_is_audited_and_holds_no_key(world):
    world.revoke("app")
    kinds = [kind for (kind,) in world.fetch("SELECT kind FROM audit_event ORDER BY seq")]
    assert kinds == [
        "verification_realm.created",
        "verification_api_key.created",
        "verification_api_key.created",
        "verification_api_key.revoked",
    ]
    assert world.device not in str(world.fetch("SELECT convert_from(body, 'UTF8') FROM audit_event"))


def test_names_are_given_once(world):
    with pytest.raises(ConflictError, match="north"):
        create_realm(world.pipeline, NewRealm("north", "i", "a", "v1", "c", "t"))
    with pytest.raises(ConflictError, match="app"):
        create_api_key(world.pipeline, SECRET, "north", "app", "device")


def test_what_is_not_there_is_named(world):
    with pytest.raises(ConfigurationError, match="no realm south"):
        create_api_key(world.pipeline, SECRET, "south", "app", "device")
    with pytest.raises(ConfigurationError, match="no live API key x"):
        revoke_api_key(world.pipeline, "north", "x")


@pytest.mark.parametrize(
    "realm",
    [
        NewRealm("No name", "i", "a", "v1", "c", "t"),
        NewRealm("a", "i", "a", "v1", "same", "same"),
        NewRealm("a", "i", "a", "v1", "c", "t", user_report=True),
        NewRealm("a", "i", "a", "v1", "c", "t", webhook="http://plain.example"),
    ],
)
def test_the_schema_refuses(world, realm):
    with pytest.raises(StoreError):
        create_realm(world.pipeline, realm)


def test_the_service_cannot_let_itself_in(world):
    runtime = Runtime(Actor("the service"), world.service.database)
    with pytest.raises(StoreError):
        create_api_key(runtime, SECRET, "north", "mine", "admin")
