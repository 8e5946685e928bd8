from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError, PublishError
from keyserver.protocol.certificate import AuthorityKey
from keyserver.protocol.statsapi import Counts, Sight, StatsAuthority, as_csv, as_json, decode_request, verify
from keyserver.protocol.statsapi import visible_days as visible
from tests.uploads import KID, private_pem, public_pem

NOW = datetime(2026, 3, 5, 10, 30, tzinfo=UTC)
TODAY = datetime(2026, 3, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ISSUER = "authority.example"
ALWAYS = AuthorityKey(KID, public_pem(), datetime(2020, 1, 1, tzinfo=UTC), None)
AUTHORITIES = {
    ISSUER: StatsAuthority(7, (ALWAYS,), enabled=True),
    "silent.example": StatsAuthority(8, (ALWAYS,), enabled=False),
    "keyless.example": StatsAuthority(9, (), enabled=True),
}
SECONDS = int(NOW.timestamp())
CLAIMS = {"iss": ISSUER, "aud": "keyserver", "iat": SECONDS, "nbf": SECONDS, "exp": SECONDS + 60}


def counts(uploads: int = 1, **changes: Any) -> Counts:
    whole: dict[str, Any] = {
        "publish": (0, uploads, 0),
        "teks": 14 * uploads,
        "revisions": 0,
        "oldest_tek_days": (0,) * 14 + (uploads, 0),
        "onset_age_days": (0, 0, 0, uploads) + (0,) * 26,
        "missing_onset": 0,
    }
    return Counts(**(whole | changes))


def token(
    claims: dict[str, Any] | None = None, *, key: Any = None, algorithm: str = "ES256", kid: Any = KID, **changes: Any
) -> str:
    body = {name: value for name, value in ((claims or CLAIMS) | changes).items() if value is not None}
    headers = {} if kid is None else {"kid": kid}
    if algorithm == "none":
        return jwt.PyJWS().encode(json.dumps(body).encode(), None, "none", headers=headers)
    return jwt.PyJWS().encode(json.dumps(body).encode(), key or private_pem(), algorithm, headers=headers)


def check(header: str | None, now: datetime = NOW) -> int:
    return verify(header, AUTHORITIES, "keyserver", now)


def refusal(header: str | None, now: datetime = NOW) -> str:
    with pytest.raises(PublishError) as refused:
        check(header, now)
    assert refused.value.code == "unauthorized"
    return str(refused.value)


# --------------------------------------------------------------------------------------------------------------- tokens


def test_scenario_99_a_token_that_is_right_names_its_authority():
    assert check(f"Bearer {token()}") == 7
    assert check(f"Bearer {token(sub='x', iat=None, nbf=None)}") == 7


@pytest.mark.parametrize(
    "header", [None, "", "LET ME IN", "Bearer", f"bearer {token()}", f"Basic {token()}", f"Bearer\t{token()}", token()]
)
def test_scenario_98_the_header_must_be_bearer(header):
    assert refusal(header) == "the Authorization header must be Bearer and a token"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("", "the token is no JWT"),
        (f" {token()}", "the token is no JWT"),
        (f"{token()}.e30", "the token is no JWT"),
        ("e30.e30", "the token is no JWT"),
        ("a.b.c", "the token is no JWT"),
        ("\udcff.b.c", "the token is no JWT"),
        (jwt.PyJWS().encode(b"[]", private_pem(), "ES256", headers={"kid": KID}), "claims are no JSON object"),
        (jwt.PyJWS().encode(b"{", private_pem(), "ES256", headers={"kid": KID}), "the token is no JWT"),
        (jwt.PyJWS().encode(b"[" * 100_000, private_pem(), "ES256", headers={"kid": KID}), "the token is no JWT"),
        (token(algorithm="none"), "algorithm is not ES256"),
        (token(key=b"a shared secret of thirty-two bytes", algorithm="HS256"), "algorithm is not ES256"),
        (token(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"), "algorithm is not ES256"),
        (token(kid=None), "names no key"),
        (token(kid=""), "names no key"),
        (token(iss=None), "issuer is unknown"),
        (token(iss="other.example"), "issuer is unknown"),
        (token(iss=[ISSUER]), "issuer is unknown"),
        (token(iss={}), "issuer is unknown"),
        (token(aud=None), "another audience"),
        (token(aud="keyserver.example"), "another audience"),
        (token(aud=["keyserver"]), "another audience"),
        (token(kid="v2"), "no active key of this kid"),
        (token(iss="keyless.example"), "no active key of this kid"),
        (token(exp=SECONDS - 1), "has expired"),
        (token(exp=None), "has no expiry"),
        (token(exp="soon"), "exp is not a whole number"),
        (token(exp=SECONDS + 60.5), "exp is not a whole number"),
        (token(iat=SECONDS + 1), "not valid yet"),
        (token(nbf=SECONDS + 1), "not valid yet"),
        (token(key=private_pem(ec.generate_private_key(ec.SECP256R1()))), "signature is wrong"),
        (token(iss="silent.example"), "not enabled"),
    ],
)
def test_scenario_99_a_token_that_is_wrong(sent, expected):
    assert expected in refusal(f"Bearer {sent}")


def test_a_token_s_second_of_expiry_is_its_last_one():
    header = f"Bearer {token(exp=SECONDS)}"
    assert check(header, NOW + timedelta(seconds=0.9)) == 7
    assert refusal(header, NOW + timedelta(seconds=1)) == "the token has expired"


@pytest.mark.parametrize(
    ("valid_from", "valid_thru", "active"),
    [
        (NOW - HOUR, None, True),
        (NOW - HOUR, NOW + HOUR, True),
        (NOW, None, False),
        (NOW + HOUR, None, False),
        (NOW - HOUR, NOW, False),
    ],
)
def test_a_key_must_be_active(valid_from, valid_thru, active):
    key = AuthorityKey(KID, public_pem(), valid_from, valid_thru)
    authorities = {ISSUER: StatsAuthority(7, (key,), enabled=True)}
    if active:
        assert verify(f"Bearer {token()}", authorities, "keyserver", NOW) == 7
    else:
        with pytest.raises(PublishError, match="no active key"):
            verify(f"Bearer {token()}", authorities, "keyserver", NOW)


def test_an_unusable_key_of_ours_is_no_fault_of_the_token():
    key = AuthorityKey(KID, "nonsense", NOW - HOUR, None)
    with pytest.raises(FormatError):
        verify(f"Bearer {token()}", {ISSUER: StatsAuthority(7, (key,), enabled=True)}, "keyserver", NOW)


def test_a_refusal_repeats_nothing_of_the_token():
    sent = token(iss="words of their own")
    assert "words" not in refusal(f"Bearer {sent}")
    assert sent not in refusal(f"Bearer {sent}x")


@given(st.text())
def test_any_header_is_refused_or_good(header):
    refusal(f"Bearer {header}")


# --------------------------------------------------------------------------------------------------------- what is seen


def test_scenario_101_few_uploads_are_seen_once_the_embargo_is_over():
    three_days_ago = (TODAY - 3 * DAY + 5 * HOUR, counts(3))
    yesterday = (TODAY - DAY + 5 * HOUR, counts(3))
    assert visible([yesterday, three_days_ago], NOW, Sight()) == ((TODAY - 3 * DAY, counts(3)),)


def test_scenario_101_a_completed_hour_of_today_is_seen_the_current_one_is_not():
    completed, current = (TODAY + 9 * HOUR, counts(10)), (TODAY + 10 * HOUR, counts(20))
    assert visible([completed, current], NOW, Sight()) == ((TODAY, counts(10)),)
    assert visible([completed, current], NOW + 29 * timedelta(minutes=1), Sight()) == ((TODAY, counts(10)),)
    assert visible([completed, current], NOW + 30 * timedelta(minutes=1), Sight()) == ((TODAY, counts(30)),)


@pytest.mark.parametrize(("uploads", "seen"), [(9, False), (10, True), (11, True)])
def test_the_minimum_counts_uploads_of_all_platforms(uploads, seen):
    today = (TODAY, counts(0, publish=(1, 2, uploads - 3)))
    assert bool(visible([today], NOW, Sight())) is seen
    assert not visible([today], NOW, Sight(minimum=12))


def test_the_embargo_ends_strictly_after_two_days():
    day = TODAY - 3 * DAY
    over = day + DAY + timedelta(hours=48)
    assert visible([(day, counts())], over, Sight()) == ()
    assert visible([(day, counts())], over + timedelta(microseconds=1), Sight()) == ((day, counts()),)
    assert visible([(day, counts())], over + DAY, Sight(embargo=timedelta(hours=72))) == ()


def test_without_an_embargo_few_uploads_are_never_seen():
    assert visible([(TODAY - 300 * DAY, counts(9))], NOW, Sight(embargo=None)) == ()


def test_shards_and_hours_of_a_day_are_summed_and_days_ascend():
    one = counts(5, publish=(1, 2, 2), revisions=1, missing_onset=2)
    parts = [(TODAY + 2 * HOUR, one), (TODAY - 5 * DAY + 23 * HOUR, one), (TODAY + 2 * HOUR, one), (TODAY, one)]
    total = Counts((3, 6, 6), 210, 3, (0,) * 14 + (15, 0), (0, 0, 0, 15) + (0,) * 26, 6)
    assert visible(parts, NOW, Sight()) == ((TODAY - 5 * DAY, one), (TODAY, total))


# -------------------------------------------------------------------------------------------------------------- answers


def test_the_json_of_a_day():
    (day,) = as_json([(TODAY, counts(2, publish=(1, 0, 1), revisions=3, missing_onset=4))])
    assert day == {
        "day": "2026-03-05T00:00:00Z",
        "publish_requests": {"unknown": 1, "android": 0, "ios": 1},
        "total_teks_published": 28,
        "requests_with_revisions": 3,
        "tek_age_distribution": [0] * 14 + [2, 0],
        "onset_to_upload_distribution": [0, 0, 0, 2] + [0] * 26,
        "requests_missing_onset_date": 4,
    }


def test_scenario_104_the_csv_of_no_day_is_nothing():
    assert as_csv([]) == ""


def test_scenario_104_the_csv_of_a_day_is_a_header_and_a_line():
    text = as_csv([(TODAY, counts(2, publish=(1, 0, 1), revisions=3, missing_onset=4))])
    header = (
        "day,publish_requests_unknown,publish_requests_android,publish_requests_ios,total_teks_published,"
        "requests_with_revisions,requests_missing_onset_date,tek_age_distribution,onset_to_upload_distribution"
    )
    ages, onsets = "|".join(["0"] * 14 + ["2", "0"]), "|".join(["0", "0", "0", "2"] + ["0"] * 26)
    assert text == f"{header}\n2026-03-05,1,0,1,28,3,4,{ages},{onsets}\n"
    assert len(list(csv.DictReader(io.StringIO(text + "\n" * 100)))) == 1


# -------------------------------------------------------------------------------------------------------------- request


def test_a_request_holds_nothing_but_padding():
    assert decode_request("application/json", b'{"PADDING":"x"}').padding == "x"
    assert decode_request("application/json", b"{}").padding == decode_request("application/json", b"null").padding
    for body in (b'{"days":1}', b'{"hmacKey":""}', b"[]", b"", b'{"padding":1}', b"{}{}"):
        with pytest.raises(PublishError) as refused:
            decode_request("application/json", body)
        assert refused.value.code == "bad_request"
