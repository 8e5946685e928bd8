from __future__ import annotations

import json
from collections import Counter

import pytest

from api.answers import ROOM_BYTES, Answers
from keyserver.protocol.base64text import decode
from keyserver.settings import Settings

NARROW = Settings(response_padding_min_bytes=1024, response_padding_range=6)

# From nothing to the longest: a token and a text on many keys. Their lengths differ by every remainder of four.
OUTCOMES = [
    {},
    {"insertedExposures": 1},
    {"insertedExposures": 14},
    {"error": "x", "code": "bad_request"},
    {"error": "größer <&> ☃", "code": "bad_request", "warnings": ["a", "b"]},
    {"revisionToken": "t" * 1900, "insertedExposures": 30, "error": "e" * 2000, "code": "partial_failure"},
]


@pytest.mark.parametrize("fields", OUTCOMES, ids=len)
def test_e1_lengths_come_from_one_distribution(fields):
    # Two sizes of padding here, and so two lengths: those of an answer that says nothing.
    answers = Answers(NARROW)
    least = ROOM_BYTES + 1368
    lengths = Counter(len(answers.encode(fields)) for _ in range(200))
    assert set(lengths) == {least, least + 4}


def test_e1_a_difference_would_be_seen():
    assert {len(Answers(NARROW, room=8192).encode({})) for _ in range(50)}.isdisjoint(
        {len(Answers(NARROW).encode({})) for _ in range(50)}
    )


def test_1_6_the_whole_range_is_used():
    lengths = [len(Answers(Settings()).encode({"insertedExposures": 1})) for _ in range(3000)]
    assert ROOM_BYTES + 1368 <= min(lengths) < ROOM_BYTES + 1400
    assert ROOM_BYTES + 2700 < max(lengths) <= ROOM_BYTES + 2732


@pytest.mark.parametrize("remainder", range(4))
def test_1_6_padding_is_base64_and_never_less_than_the_settings_ask_for(remainder):
    body = json.loads(Answers(Settings()).encode({"error": "x" * remainder, "days": [], "code": ""}))
    assert set(body) == {"padding"} | ({"error"} if remainder else set())
    assert len(decode(body["padding"])) >= 1024
    assert len(set(body["padding"])) > 50  # random, not zeros


@pytest.mark.parametrize("length", [ROOM_BYTES - 100, ROOM_BYTES, ROOM_BYTES * 3])
def test_an_answer_that_is_too_long_is_padded_all_the_same(length):
    encoded = Answers(NARROW).encode({"error": "x" * length})
    assert len(decode(json.loads(encoded)["padding"])) >= 1024
    assert len(encoded) % ROOM_BYTES in {1368, 1372}


def test_a_route_without_room():
    encoded = Answers(NARROW, room=0).encode({"error": "x" * 5000})
    assert len(decode(json.loads(encoded)["padding"])) >= 1024


def test_headers():
    answers = Answers(Settings())
    response = answers.respond(401, {"code": "unauthorized"}, headers={"Retry-After": "5"})
    assert (response.status_code, response.content_type) == (401, "application/json")
    assert (response.headers["x-api-version"], response.headers["Retry-After"]) == ("v1", "5")
    assert "x-api-version" not in answers.respond(200, {}, version=False).headers
