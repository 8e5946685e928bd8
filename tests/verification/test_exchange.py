"""Many at once: a code becomes one token, a token one certificate; what is counted is counted once."""

from __future__ import annotations

import base64
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

MAC = base64.b64encode(bytes(32)).decode()


def at_once(world, path: str, body: dict[str, str], number: int = 8) -> Counter[object]:
    with ThreadPoolExecutor(number) as threads:
        answers = list(threads.map(lambda _: world.post(path, body), range(number)))
    return Counter(answer.get_json().get("errorCode") for answer in answers)


def test_a_code_becomes_one_token(world):
    told = at_once(world, "/api/verify", {"code": world.issue()["code"]})
    assert told == {None: 1, "code_invalid": 7}
    assert len(world.fetch("SELECT 1 FROM verification_token")) == 1


def test_a_token_becomes_one_certificate(world):
    told = at_once(world, "/api/certificate", {"token": world.token(), "ekeyhmac": MAC})
    assert told == {None: 1, "token_expired": 7}


def test_a_uuid_is_given_once(world):
    body = {"testType": "likely", "testDate": "2026-03-01", "uuid": "1" * 32}
    assert at_once(world, "/api/issue", body) == {None: 1, "uuid_already_exists": 7}


def test_no_more_wrong_codes_than_the_limit_are_looked_at(world):
    world.set(wrong_codes_per_hour=3)
    assert at_once(world, "/api/verify", {"code": "0"}) == {"code_invalid": 3, "rate_limited": 5}


def test_what_nobody_can_ask_for_is_forgotten(world, test_database):
    world.token()
    test_database.pass_time(timedelta(days=15, minutes=1))
    world.issue(symptomDate="2026-03-10")
    assert len(world.fetch("SELECT 1 FROM verification_code")) == 1
    assert world.fetch("SELECT 1 FROM verification_token") == []
