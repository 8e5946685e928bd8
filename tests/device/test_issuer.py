from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from keyserver.device.issuer import Issuer, publish_hmac
from keyserver.errors import ConfigurationError, FormatError

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
SECRET = bytes(range(1, 17))

A = [("z2Cx9hdz2SlxZ8GEgqTYpA==", 1, 144, 3), ("dPCphLzfG4uzXneNimkPRQ==", 144, 144, 5)]
B = [("AAAAAAAAAAAAAAAAAAAAAA==", 2650032, 144, 2), ("/////////////////////w==", 2649888, 144, 2)]


def pem(key, *, password: bytes | None = None) -> bytes:
    encryption = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def key_objects(rows, *, risk: bool):
    return [
        {"key": key, "rollingStartNumber": start, "rollingPeriod": period, "transmissionRisk": level if risk else 0}
        for key, start, period, level in rows
    ]


@pytest.mark.parametrize(
    ("rows", "risk", "with_risk", "expected"),
    [
        pytest.param(A, True, True, "2u1nHt5WWurJytFLF3xitNzM99oNrad2y4YGOL53AeY=", id="A1"),
        pytest.param(A, False, True, "mFNI9zhTA17n4ndd1Vu5tsn4XQX0gPrIKyjeh/9noUE=", id="A2"),
        pytest.param(A, False, False, "J9S7xVebH/66dm14wGsIcAnSUR3PHD4NtDQEOGZbDUo=", id="A3"),
        pytest.param(B, True, True, "Ag9AbguRx6Uk6SR9jkwRys3sZp4YzQaxNTyJD8e9eYc=", id="B1"),
        pytest.param(B, False, True, "5O5IpNrgeBj3IHsgJlBNOGklUYaVd22b0gBeJHwAsnQ=", id="B2"),
        pytest.param(B, False, False, "dvHZj/Ma7sG1Da/cY61Zce2Wzr1Cd5ThQTLTV16f/k0=", id="B3"),
    ],
)
def test_the_known_answers_of_the_hmac(rows, risk, with_risk, expected):
    keys = key_objects(rows, risk=risk)
    assert base64.b64encode(publish_hmac(SECRET, keys, with_risk=with_risk)).decode() == expected
    assert base64.b64encode(publish_hmac(SECRET, keys[::-1], with_risk=with_risk)).decode() == expected


def test_an_absent_risk_counts_as_0():
    keys = key_objects(B, risk=False)
    bare = [{name: value for name, value in key.items() if name != "transmissionRisk"} for key in keys]
    assert publish_hmac(SECRET, bare) == publish_hmac(SECRET, keys)


def test_the_hmac_refuses_no_keys_and_a_hidden_risk():
    with pytest.raises(FormatError, match="at least one key"):
        publish_hmac(SECRET, [])
    with pytest.raises(FormatError, match="risk"):
        publish_hmac(SECRET, key_objects(A, risk=True), with_risk=False)


def test_a_certificate_verifies_and_says_what_it_was_asked_to():
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = Issuer(pem(key), kid="v1", issuer="https://health.example", audience="keyserver")
    token = issuer.certify(b"m" * 32, "confirmed", NOW, symptom_onset_interval=2850000)

    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "v1", "typ": "JWT"}
    claims = jwt.decode(
        token, key.public_key(), algorithms=["ES256"], audience="keyserver", options={"verify_exp": False}
    )
    seconds = int(NOW.timestamp())
    assert claims == {
        "iss": "https://health.example",
        "aud": "keyserver",
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds + 15 * 60,
        "reportType": "confirmed",
        "symptomOnsetInterval": 2850000,
        "tekmac": base64.b64encode(b"m" * 32).decode(),
    }


def test_onset_is_optional_and_the_lifetime_an_argument():
    issuer = Issuer(pem(ec.generate_private_key(ec.SECP256R1())), kid="v1", issuer="i", audience="a")
    token = issuer.certify(bytes(32), "likely", NOW, lifetime=timedelta(minutes=1))
    claims = jwt.decode(token, options={"verify_signature": False})
    assert "symptomOnsetInterval" not in claims
    assert claims["exp"] - claims["iat"] == 60


def test_a_naive_time_is_refused():
    issuer = Issuer(pem(ec.generate_private_key(ec.SECP256R1())), kid="v1", issuer="i", audience="a")
    with pytest.raises(FormatError, match="time zone"):
        issuer.certify(bytes(32), "likely", NOW.replace(tzinfo=None))


@pytest.mark.parametrize(
    "private_key_pem",
    [
        pytest.param(b"no key", id="garbage"),
        pytest.param(pem(ec.generate_private_key(ec.SECP384R1())), id="other curve"),
        pytest.param(pem(ed25519.Ed25519PrivateKey.generate()), id="other algorithm"),
        pytest.param(pem(ec.generate_private_key(ec.SECP256R1()), password=b"secret"), id="encrypted"),
    ],
)
def test_a_key_that_cannot_sign_es256_is_refused(private_key_pem):
    with pytest.raises(ConfigurationError):
        Issuer(private_key_pem, kid="v1", issuer="i", audience="a")
