from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from keyserver.audit import Actor
from keyserver.errors import ConfigurationError, ConflictError, StoreError
from keyserver.runtime import Runtime
from keyserver.store.verification import SETTINGS, NewRealm
from keyserver.verification.access import authenticate
from keyserver.verification.realms import create_api_key, create_realm, revoke_api_key, update_realm
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


# Changes


def last_event(world) -> tuple[str, dict]:
    ((body,),) = world.fetch("SELECT convert_from(body, 'UTF8') FROM audit_event ORDER BY seq DESC LIMIT 1")
    event = json.loads(body)
    return event["kind"], event["subject"]


def test_a_change_holds_from_the_next_request_on_and_is_audited(world):
    old = world.issue()
    changes = {
        "code_digits": 10,
        "code_lifetime": timedelta(minutes=5),
        "test_types": ("likely", "confirmed"),
        "date_required": False,
        "user_report_webhook": "https://authority.example/codes",
        "user_report": True,
    }
    assert update_realm(world.pipeline, "north", changes) == [name for name in SETTINGS if name in changes]
    issued = world.issue(symptomDate="")
    assert (len(old["code"]), len(issued["code"])) == (8, 10)
    assert issued["expiresAtTimestamp"] - int(world.database.now().timestamp()) == 300
    negative = world.post("/api/issue", {"testType": "negative", "symptomDate": "2026-03-01"})
    assert negative.get_json()["errorCode"] == "unsupported_test_type"
    assert world.post("/api/verify", {"code": old["code"]}).status_code == 200
    assert last_event(world) == (
        "verification_realm.changed",
        {
            "realm": "north",
            "code_digits": 10,
            "code_lifetime": "300 s",
            "test_types": "likely, confirmed",
            "date_required": "no",
            "user_report": "yes",
            "user_report_webhook": "another",
        },
    )


def test_every_setting_can_be_changed_and_nothing_else_does(world):
    changes = {
        "code_digits": 6,
        "code_lifetime": timedelta(minutes=1),
        "long_code_length": 64,
        "long_code_lifetime": timedelta(minutes=2),
        "test_types": ("likely",),
        "date_required": False,
        "certificate_lifetime": timedelta(minutes=60),
        "user_report": True,
        "user_report_webhook": "https://authority.example/codes",
        "user_report_again": timedelta(days=1),
        "requests_per_minute": 1,
        "wrong_codes_per_hour": 2,
        "codes_per_day": 3,
    }
    before = authenticate(world.service, world.admin, "admin").realm
    create_realm(world.pipeline, NewRealm("south", "i", "a", "v1", "c", "t"))
    assert update_realm(world.pipeline, "north", changes) == list(SETTINGS) == list(changes)
    assert authenticate(world.service, world.admin, "admin").realm == replace(before, **changes)
    assert world.fetch("SELECT code_digits FROM verification_realm WHERE name = 'south'") == [(8,)]


def test_the_same_again_changes_and_records_nothing(world):
    assert update_realm(world.pipeline, "north", {"codes_per_day": 5}) == ["codes_per_day"]
    events = world.fetch("SELECT count(*) FROM audit_event")
    assert update_realm(world.pipeline, "north", {"codes_per_day": 5, "code_digits": 8}) == []
    assert world.fetch("SELECT count(*) FROM audit_event") == events


def test_a_realm_that_is_not_there_is_named(world):
    with pytest.raises(ConfigurationError, match="no realm south"):
        update_realm(world.pipeline, "south", {"code_digits": 8})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"user_report": True}, ConfigurationError),
        ({"user_report_webhook": "http://plain.example"}, StoreError),
        ({"code_digits": 5}, StoreError),
        ({"code_lifetime": timedelta(hours=2)}, StoreError),
        ({"test_types": ()}, StoreError),
        ({"test_types": ("user-report",)}, StoreError),
    ],
)
def test_a_change_that_is_refused_changes_and_records_nothing(world, changes, error):
    rows = "SELECT * FROM verification_realm", "SELECT count(*) FROM audit_event"
    before = [world.fetch(row) for row in rows]
    with pytest.raises(error):
        update_realm(world.pipeline, "north", changes)
    assert [world.fetch(row) for row in rows] == before


def test_the_service_cannot_change_a_realm(world):
    with pytest.raises(StoreError):
        update_realm(Runtime(Actor("the service"), world.service.database), "north", {"code_digits": 9})
