from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import PublishError
from keyserver.protocol.attestation import CHALLENGE_LIFE, PERIOD, make_challenge, nonce, use_challenge
from keyserver.protocol.messages import PublishRequest, SentKey

NOW = datetime(2026, 3, 2, 10, 3, 7, tzinfo=UTC)
SECRET = bytes(range(32))
RANDOM = bytes(range(16))
CHALLENGE = make_challenge(SECRET, NOW, RANDOM)
REQUEST = PublishRequest(
    keys=(
        SentKey(key="ABEiM0RVZneImaq7zN3u/w==", start=2649744, period=100, transmission_risk=5),
        SentKey(key="/+7dzLuqmYh3ZlVEMyIRAA==", start=2649888, period=144),
    ),
    health_authority_id="Example.APP",
    verification_payload="a.b.c",
    hmac_key="AQID",
    revision_token="token",
    padding="padding",
)


def test_the_nonce_is_the_hash_of_the_lines_that_are_documented():
    lines = (
        b"EN upload attestation v1\nCHALLENGE\nexample.app\nAQID\na.b.c\n0\nfalse\n"
        b"/+7dzLuqmYh3ZlVEMyIRAA==.2649888.144.0\nABEiM0RVZneImaq7zN3u/w==.2649744.100.5"
    )
    assert nonce(REQUEST, "CHALLENGE") == hashlib.sha256(lines).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"keys": REQUEST.keys[:1]},
        {"keys": (REQUEST.keys[0], SentKey(key=REQUEST.keys[1].key, start=2649888, period=143))},
        {"keys": (REQUEST.keys[0], SentKey(key=REQUEST.keys[1].key, start=2649889, period=144))},
        {"keys": (REQUEST.keys[0], SentKey(key=REQUEST.keys[1].key, start=2649888, period=144, transmission_risk=1))},
        {"health_authority_id": "example.app2"},
        {"verification_payload": "a.b.d"},
        {"hmac_key": "AQIE"},
        {"symptom_onset_interval": 1},
        {"traveler": True},
    ],
    ids=str,
)
def test_whatever_is_stored_of_an_upload_changes_its_nonce(change):
    assert nonce(REQUEST.model_copy(update=change), CHALLENGE) != nonce(REQUEST, CHALLENGE)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": REQUEST.keys[::-1]},
        {"health_authority_id": "example.app"},
        {"revision_token": "another"},
        {"padding": ""},
    ],
    ids=str,
)
def test_order_letter_case_token_and_padding_do_not_change_the_nonce(change):
    assert nonce(REQUEST.model_copy(update=change), CHALLENGE) == nonce(REQUEST, CHALLENGE)


def test_another_challenge_is_another_nonce():
    assert nonce(REQUEST, CHALLENGE) != nonce(REQUEST, make_challenge(SECRET, NOW, bytes(16)))


@pytest.mark.parametrize("field", ["verification_payload", "hmac_key", "health_authority_id"])
def test_a_line_break_is_refused_since_two_uploads_could_share_a_nonce(field):
    with pytest.raises(PublishError, match="line break") as refused:
        nonce(REQUEST.model_copy(update={field: "a\nb"}), CHALLENGE)
    assert refused.value.code == "attestation_invalid"


def test_a_challenge_tells_its_last_second_and_its_random_bytes():
    data = base64.urlsafe_b64decode(CHALLENGE + "=" * (-len(CHALLENGE) % 4))
    assert len(data) == 56
    assert int.from_bytes(data[:8]) == int((NOW + CHALLENGE_LIFE).timestamp())
    assert data[8:24] == RANDOM


@pytest.mark.parametrize("after", [timedelta(0), CHALLENGE_LIFE])
def test_a_challenge_is_known_again_until_its_last_second(after):
    use = use_challenge(SECRET, CHALLENGE, NOW + after)
    assert len(use.mac) == 32


def test_what_is_kept_of_a_challenge_does_not_tell_the_moment_and_is_the_same_for_each_spelling():
    use = use_challenge(SECRET, CHALLENGE, NOW)
    assert use.period_end == datetime(2026, 3, 2, 10, 10, tzinfo=UTC)
    assert use_challenge(SECRET, CHALLENGE + "=", NOW + timedelta(minutes=1)) == use
    assert use_challenge(SECRET, CHALLENGE.replace("-", "+").replace("_", "/"), NOW) == use
    # The last character carries bits that mean nothing.
    spelt = CHALLENGE[:-1] + chr(ord(CHALLENGE[-1]) + 1)
    assert use_challenge(SECRET, spelt, NOW) == use
    assert use_challenge(SECRET, make_challenge(SECRET, NOW, bytes(16)), NOW).mac != use.mac


def test_periods_have_secrets_of_their_own():
    signed = [base64.urlsafe_b64decode(make_challenge(SECRET, NOW + n * PERIOD, RANDOM) + "=")[24:] for n in (0, 1)]
    assert signed[0] != signed[1]
    uses = [use_challenge(SECRET, make_challenge(SECRET, NOW + n * PERIOD, RANDOM), NOW + n * PERIOD) for n in (0, 1)]
    assert uses[1].period_end - uses[0].period_end == PERIOD


def test_a_challenge_that_is_too_old_is_refused():
    with pytest.raises(PublishError, match="expired") as refused:
        use_challenge(SECRET, CHALLENGE, NOW + CHALLENGE_LIFE + timedelta(seconds=1))
    assert refused.value.code == "attestation_invalid"


@pytest.mark.parametrize("place", [0, 7, 8, 23, 24, 55])
def test_a_challenge_that_was_changed_is_refused(place):
    data = bytearray(base64.urlsafe_b64decode(CHALLENGE + "="))
    data[place] ^= 1
    with pytest.raises(PublishError, match="none of this server"):
        use_challenge(SECRET, base64.urlsafe_b64encode(data).decode(), NOW)


@pytest.mark.parametrize("challenge", ["", "!", "A", CHALLENGE[:-2], CHALLENGE + "AAAA"])
def test_what_is_no_challenge_is_refused(challenge):
    with pytest.raises(PublishError, match="none of this server"):
        use_challenge(SECRET, challenge, NOW)


def test_a_challenge_of_another_secret_is_refused():
    with pytest.raises(PublishError, match="none of this server"):
        use_challenge(bytes(32), CHALLENGE, NOW)


def test_uses_differ_between_secrets():
    other = bytes(32)
    use = use_challenge(SECRET, CHALLENGE, NOW)
    assert replace(use, mac=b"") == replace(use_challenge(other, make_challenge(other, NOW, RANDOM), NOW), mac=b"")
    assert use.mac != use_challenge(other, make_challenge(other, NOW, RANDOM), NOW).mac


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_hostile_challenges_end_in_our_error(challenge):
    with pytest.raises(PublishError):
        use_challenge(SECRET, challenge, NOW)
