from __future__ import annotations

import base64
import bisect
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError, PublishError
from keyserver.protocol.certificate import (
    AuthorisedApp,
    Authority,
    AuthorityKey,
    Certificate,
    load_public_key,
    upload_hmacs,
    verify,
)
from keyserver.protocol.exposure import ReportType
from keyserver.protocol.messages import SentKey
from tests.uploads import AUDIENCE, ISSUER, KID, PRIVATE_KEY, SECRET, issuer, private_pem, public_pem

NOW = datetime(2026, 3, 2, 10, 5, 30, 999_999, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
PEM = public_pem()
KEYS = (
    SentKey(key="z2Cx9hdz2SlxZ8GEgqTYpA==", start=1, period=144),
    SentKey(key="dPCphLzfG4uzXneNimkPRQ==", start=144, period=144),
)
HMAC_KEY = base64.b64encode(SECRET).decode()
TEKMAC = "mFNI9zhTA17n4ndd1Vu5tsn4XQX0gPrIKyjeh/9noUE="


def app(**changes) -> AuthorisedApp:
    key = AuthorityKey(
        **{
            "kid": KID,
            "public_key": PEM,
            "valid_from": NOW - timedelta(days=1),
            "valid_thru": None,
            **changes,
        }
    )
    return AuthorisedApp("app", ("DE",), (Authority(7, ISSUER, AUDIENCE, (key,)),))


def claims(**changes) -> dict:
    """Good claims with changes; None takes one out."""
    good = {
        "iss": ISSUER, "aud": AUDIENCE, "iat": SECONDS, "nbf": SECONDS, "exp": SECONDS, "reportType": "confirmed",
        "tekmac": TEKMAC,
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value is not None}


def certificate(*, headers: dict | None = None, **changes) -> str:
    return signed(claims(**changes), headers)


def signed(payload: dict, headers: dict | None = None) -> str:
    """Below PyJWT's own checks of claims."""
    return jwt.PyJWS().encode(json.dumps(payload).encode(), PRIVATE_KEY, "ES256", headers or {"kid": KID})


def check(token: str, *, hmac_key: str = HMAC_KEY, keys=KEYS, by: AuthorisedApp | None = None) -> Certificate:
    return verify(token, hmac_key, keys, by or app(), NOW)


def problem(token: str, **arguments) -> str:
    with pytest.raises(PublishError) as caught:
        check(token, **arguments)
    assert caught.value.code == "health_authority_verification_certificate_invalid"
    said, _, what = str(caught.value).partition(": ")
    assert said == "the verification certificate is not accepted"
    return what


@pytest.mark.parametrize("report_type", list(ReportType))
def test_scenarios_81_and_90_good_certificates(report_type):
    assert check(certificate(reportType=report_type.value)) == Certificate(7, report_type, None)


def test_the_onset_is_read():
    assert check(certificate(symptomOnsetInterval=2**32 - 1)).onset == 2**32 - 1


def test_a_certificate_of_the_development_issuer():
    token = issuer().certify(base64.b64decode(TEKMAC), "likely", NOW, symptom_onset_interval=5)
    assert check(token) == Certificate(7, ReportType.LIKELY, 5)


@pytest.mark.parametrize("token", ["", "totally not a JWT", "a.b", "a.b.c", "..", "é.b.c", "\ufffd", "bearer x"])
def test_scenario_7_no_jwt(token):
    assert problem(token) == "it is no JWT"


def encoded(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("header", "payload", "message"),
    [
        ("[]", claims(), "it is no JWT"),
        ("[" * 20_000, claims(), "it is no JWT"),
        ({"alg": "ES256", "kid": KID}, "[" * 20_000, "it is no JWT"),
        ({"alg": "ES256", "kid": KID}, '{"exp": ' + "9" * 5000 + "}", "it is no JWT"),
        ({"alg": "ES256", "kid": KID}, "[]", "its claims are no JSON object"),
        ({"alg": "ES256", "kid": KID}, "null", "its claims are no JSON object"),
        ({"alg": "ES256", "kid": 7}, claims(), "it names no key (kid)"),
        ({"alg": "ES256", "kid": KID, "crit": ["b64"], "b64": False}, claims(), "it is no JWT"),
        ({"alg": "ES256"}, claims(), "it names no key (kid)"),
        ({"alg": "ES256", "kid": ""}, claims(), "it names no key (kid)"),
        ({"kid": KID}, claims(), "its algorithm is not ES256"),
        ({"alg": ["ES256"], "kid": KID}, claims(), "its algorithm is not ES256"),
        ({"alg": "ES256", "kid": KID}, claims(), "its signature is wrong"),
    ],
)
def test_scenario_7_tokens_made_by_hand(header, payload, message):
    assert problem(f"{encoded(header)}.{encoded(payload)}.{encoded('x' * 64)}") == message


def test_scenario_89_other_algorithms():
    headers = {"kid": KID}
    # The public key as an HMAC secret is the classic confusion; PyJWT will not make such a token.
    body = f"{encoded({'alg': 'HS256', **headers})}.{encoded(claims())}"
    mac = hmac.digest(PEM.encode(), body.encode(), hashlib.sha256)
    forged = f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    rs256 = jwt.encode(claims(), rsa.generate_private_key(65537, 2048), "RS256", headers)
    es384 = jwt.encode(claims(), ec.generate_private_key(ec.SECP384R1()), "ES384", headers)
    unsigned = jwt.encode(claims(), None, "none", headers)
    for token in (forged, rs256, es384, unsigned):
        assert problem(token) == "its algorithm is not ES256"


def test_a_key_that_a_certificate_brings_along_is_not_used():
    other = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(other.public_key()))
    token = jwt.encode(claims(), other, "ES256", {"kid": KID, "jwk": jwk, "jku": "https://example.com"})
    assert problem(token) == "its signature is wrong"


def test_another_key_of_the_same_name():
    other = issuer(ec.generate_private_key(ec.SECP256R1()))
    assert problem(other.certify(base64.b64decode(TEKMAC), "confirmed", NOW)) == "its signature is wrong"


def test_claims_changed_after_signing():
    header, _, signature = certificate().split(".")
    assert problem(f"{header}.{encoded(claims(reportType='likely'))}.{signature}") == "its signature is wrong"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Scenarios 82 and 87: an authority that this app does not accept is as good as unknown.
        ({"iss": "other.example"}, "this app does not accept its issuer"),
        ({"iss": ISSUER.upper()}, "this app does not accept its issuer"),
        ({"iss": None}, "this app does not accept its issuer"),
        ({"iss": [ISSUER]}, "this app does not accept its issuer"),
        ({"aud": "other"}, "it is meant for another audience"),
        ({"aud": [AUDIENCE]}, "it is meant for another audience"),
        ({"aud": None}, "it is meant for another audience"),
        # Scenarios 13, 14 and 83
        ({"exp": SECONDS - 1}, "it has expired"),
        ({"exp": 0}, "it has expired"),
        ({"exp": None}, "it has no expiry (exp)"),
        ({"exp": SECONDS + 0.5}, "its exp is not a whole number of seconds"),
        ({"exp": str(SECONDS)}, "its exp is not a whole number of seconds"),
        ({"exp": True}, "its exp is not a whole number of seconds"),
        ({"iat": "x"}, "its iat is not a whole number of seconds"),
        ({"nbf": []}, "its nbf is not a whole number of seconds"),
        ({"iat": SECONDS + 1}, "it is not valid yet"),
        ({"nbf": SECONDS + 3600}, "it is not valid yet"),
        # Scenario 90
        ({"reportType": "Confirmed"}, "its report type is unknown"),
        ({"reportType": ""}, "its report type is unknown"),
        ({"reportType": None}, "its report type is unknown"),
        ({"reportType": ["confirmed"]}, "its report type is unknown"),
        ({"reportType": {}}, "its report type is unknown"),
        ({"symptomOnsetInterval": -1}, "its symptomOnsetInterval is no interval number"),
        ({"symptomOnsetInterval": 2**32}, "its symptomOnsetInterval is no interval number"),
        ({"symptomOnsetInterval": "5"}, "its symptomOnsetInterval is no interval number"),
        ({"symptomOnsetInterval": True}, "its symptomOnsetInterval is no interval number"),
        # Scenario 84
        ({"tekmac": None}, "it has no HMAC of keys (tekmac)"),
        ({"tekmac": 7}, "it has no HMAC of keys (tekmac)"),
        ({"tekmac": "*"}, "its HMAC of keys (tekmac) is not base64"),
        ({"tekmac": ""}, "it was given for other keys, or the request's hmacKey is another"),
        ({"tekmac": TEKMAC[:-2] + "A="}, "it was given for other keys, or the request's hmacKey is another"),
    ],
)
def test_certificates_that_are_not_accepted(changes, message):
    assert problem(certificate(**changes)) == message


def test_the_deepest_report_type_that_can_be_read_is_refused_as_any_other():
    # How deep Python reads differs between its versions, and what is read there it need not be able to show.
    def said(depth: int) -> str:
        payload = json.dumps(claims(reportType="?")).replace('"?"', "[" * depth + "0" + "]" * depth)
        return problem(jwt.PyJWS().encode(payload.encode(), PRIVATE_KEY, "ES256", {"kid": KID}))

    unreadable = bisect.bisect_left(range(30_000), True, key=lambda depth: said(depth) == "it is no JWT")
    assert said(unreadable - 1) == "its report type is unknown"


def test_times_may_be_left_out_but_for_the_expiry():
    assert check(certificate(iat=None, nbf=None)).authority_id == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"kid": "v2"},
        {"valid_from": NOW},
        {"valid_from": NOW + timedelta(seconds=1)},
        {"valid_thru": NOW},
        {"valid_thru": NOW - timedelta(hours=1)},
    ],
)
def test_scenarios_88_and_92_keys_that_are_not_active(changes):
    assert problem(certificate(), by=app(**changes)) == "its issuer has no active key of this kid"


def test_scenario_92_a_key_about_to_end():
    assert check(certificate(), by=app(valid_thru=NOW + timedelta(microseconds=1))).authority_id == 7


@pytest.mark.parametrize("kid", ["../v1", "v1\x00", "v1 ", "V1", "' OR 1=1 --"])
def test_a_kid_is_only_ever_compared(kid):
    assert problem(certificate(headers={"kid": kid})) == "its issuer has no active key of this kid"


# The HMAC (4.3)

A = (("z2Cx9hdz2SlxZ8GEgqTYpA==", 1, 144), ("dPCphLzfG4uzXneNimkPRQ==", 144, 144))
B = (("AAAAAAAAAAAAAAAAAAAAAA==", 2650032, 144), ("/////////////////////w==", 2649888, 144))


def with_risks(keys, *risks) -> list[SentKey]:
    return [
        SentKey(key=text, start=start, period=period, transmission_risk=risk)
        for (text, start, period), risk in zip(keys, risks, strict=True)
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (with_risks(A, 3, 5), ("2u1nHt5WWurJytFLF3xitNzM99oNrad2y4YGOL53AeY=",)),  # A1
        (with_risks(A, 0, 0), (TEKMAC, "J9S7xVebH/66dm14wGsIcAnSUR3PHD4NtDQEOGZbDUo=")),  # A2, A3
        (with_risks(B, 2, 2), ("Ag9AbguRx6Uk6SR9jkwRys3sZp4YzQaxNTyJD8e9eYc=",)),  # B1
        (
            with_risks(B, 0, 0),
            ("5O5IpNrgeBj3IHsgJlBNOGklUYaVd22b0gBeJHwAsnQ=", "dvHZj/Ma7sG1Da/cY61Zce2Wzr1Cd5ThQTLTV16f/k0="),
        ),  # B2, B3
    ],
)
def test_scenario_85_known_answers(keys, expected):
    for order in (keys, keys[::-1]):
        assert tuple(base64.b64encode(mac).decode() for mac in upload_hmacs(order, SECRET)) == expected


def test_scenario_81_both_variants_are_accepted_in_any_base64():
    short = "J9S7xVebH_66dm14wGsIcAnSUR3PHD4NtDQEOGZbDUo"
    assert check(certificate(tekmac=short), hmac_key="AQIDBAUGBwgJCgsMDQ4PEA").report_type == "confirmed"


def test_scenario_86_a_risk_needs_the_variant_that_covers_it():
    token = certificate(tekmac="J9S7xVebH/66dm14wGsIcAnSUR3PHD4NtDQEOGZbDUo=")
    assert problem(token, keys=with_risks(A, 0, 1)).startswith("it was given for other keys")


@pytest.mark.parametrize(
    "keys",
    [
        KEYS[:1],
        (*KEYS, KEYS[0]),
        (KEYS[0], KEYS[1].model_copy(update={"start": 145})),
        (KEYS[0], KEYS[1].model_copy(update={"period": 143})),
        (KEYS[0], KEYS[1].model_copy(update={"transmission_risk": 1})),
        (KEYS[0], KEYS[1].model_copy(update={"key": "dPCphLzfG4uzXneNimkPRQ"})),
    ],
)
def test_a_certificate_is_for_its_keys_as_they_were_sent(keys):
    assert problem(certificate(), keys=keys).startswith("it was given for other keys")


def test_scenario_84_another_secret():
    assert problem(certificate(), hmac_key="AQ==").startswith("it was given for other keys")
    assert problem(certificate(), hmac_key="") == "it was given for other keys, or the request's hmacKey is another"
    assert problem(certificate(), hmac_key="*") == "the request's hmacKey is not base64"


def test_scenario_25_no_keys():
    assert problem(certificate(), keys=()) == "the request has no keys that it could be for"


# Public keys


def test_scenario_93_a_public_key():
    assert load_public_key(PEM).public_numbers() == PRIVATE_KEY.public_key().public_numbers()


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        ("", "no PEM public key"),
        ("garbage \ufffd", "no PEM public key"),
        (PEM.replace("M", "N", 1), "no PEM public key"),
        (private_pem().decode(), "no PEM public key"),
        (public_pem(rsa.generate_private_key(65537, 2048)), "not on the curve P-256"),
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "not on the curve P-256"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "not on the curve P-256"),
    ],
)
def test_scenario_93_other_keys(pem, message):
    with pytest.raises(FormatError, match=message):
        load_public_key(pem)


def test_an_unusable_key_of_ours_is_not_the_phones_fault():
    with pytest.raises(PublishError) as caught:
        check(certificate(), by=app(public_key="garbage"))
    assert caught.value.code == "unable_to_load_health_authority"


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda data: f"eyJhbGciOiJFUzI1NiJ9.{encoded(repr(data))}.AA"))
def test_any_text_is_refused(token):
    assert problem(token)


@given(st.dictionaries(st.sampled_from(sorted(claims())), st.integers() | st.none() | st.text(max_size=5), max_size=3))
def test_any_claims_are_accepted_or_refused(changes):
    try:
        assert check(signed(claims() | changes)).authority_id == 7
    except PublishError as error:
        assert error.code == "health_authority_verification_certificate_invalid"  # noqa: PT017


@pytest.mark.parametrize(
    ("times", "good"),
    [
        ({"iat": SECONDS, "exp": SECONDS + 3600}, True),
        ({"iat": SECONDS, "exp": SECONDS + 3601}, False),
        ({"iat": SECONDS - 3600, "exp": SECONDS}, True),
        ({"iat": SECONDS - 3601, "exp": SECONDS}, False),
        ({"iat": None, "nbf": SECONDS - 100, "exp": SECONDS + 3500}, True),
        ({"iat": None, "nbf": SECONDS - 100, "exp": SECONDS + 3501}, False),
        ({"iat": None, "nbf": None, "exp": SECONDS + 3600}, True),
        ({"iat": None, "nbf": None, "exp": SECONDS + 3601}, False),
        ({"iat": 0, "nbf": 0, "exp": SECONDS + 3601}, False),
        ({"iat": -(2**62), "nbf": None, "exp": SECONDS + 1}, False),
        ({"exp": 2**62}, False),
    ],
)
def test_a_certificate_lasts_no_longer_than_its_issuers_may(times, good):
    """An hour, where an authority declares nothing else."""
    if good:
        assert check(certificate(**times)).authority_id == 7
    else:
        assert problem(certificate(**times)) == "it lasts longer than the 1:00:00 that its issuer's may"


def test_the_longest_life_is_the_authoritys_own():
    day = replace(app().authorities[0], certificate_max_life=timedelta(days=1))
    by = replace(app(), authorities=(day,))
    assert check(certificate(exp=SECONDS + 86_400), by=by).authority_id == 7
    assert problem(certificate(exp=SECONDS + 86_401), by=by).startswith("it lasts longer")


@pytest.mark.parametrize(
    ("issued", "expires", "message"),
    [(3600, 4500, "it is not valid yet"), (-960, -60, "it has expired"), (-3600, -2700, "it has expired")],
)
def test_scenarios_13_14_and_83_a_certificate_has_its_time(issued, expires, message):
    times = {"iat": SECONDS + issued, "nbf": SECONDS + issued, "exp": SECONDS + expires}
    assert problem(certificate(**times)) == message


def test_scenarios_82_and_87_an_issuer_that_this_app_does_not_accept_and_another_audience():
    assert problem(certificate(iss="other.example")) == "this app does not accept its issuer"
    assert problem(certificate(), by=AuthorisedApp("app", ("DE",), ())) == "this app does not accept its issuer"
    assert problem(certificate(aud="other.example")) == "it is meant for another audience"
