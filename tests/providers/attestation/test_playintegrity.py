from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyserver.errors import ConfigurationError, PublishError
from keyserver.providers.attestation import Attestor, open_attestor
from tests.providers.attestation.evidence import (
    DIGEST,
    NONCE,
    NOW,
    PACKAGE,
    base64url,
    encrypt,
    play_token,
    sign,
    verdict,
)

SETTINGS: dict[str, Any] = {
    "package": PACKAGE,
    "certificate_digests": [DIGEST],
    "minimum_version_code": 40,
    "device_verdicts": ["MEETS_DEVICE_INTEGRITY"],
    "max_age_seconds": 300,
    "decryption_key_secret": "decryption",
    "verification_key_secret": "verification",
}
OTHER_DIGEST = base64url(hashlib.sha256(b"another").digest())


@pytest.fixture
def attestor(secrets) -> Attestor:
    return open_attestor("play-integrity", SETTINGS, secrets)


def changed(place: str, value: Any) -> str:
    """A token whose verdict differs in one place, ``section.field``; None takes the field away."""
    content = verdict()
    section, _, field = place.partition(".")
    if value is None:
        del content[section][field]
    else:
        content[section][field] = value
    return encrypt(sign(content))


def refused(attestor: Attestor, evidence: str, problem: str) -> None:
    with pytest.raises(PublishError, match=problem) as error:
        attestor.verify(evidence, NONCE, NOW)
    assert error.value.code == "attestation_invalid"


def test_a_token_of_a_standard_request_is_accepted(attestor):
    attestor.verify(play_token(), NONCE, NOW)


def test_a_token_of_a_classic_request_is_accepted(attestor):
    content = verdict()
    del content["requestDetails"]["requestHash"]
    content["requestDetails"]["nonce"] = base64.urlsafe_b64encode(NONCE).decode()
    attestor.verify(encrypt(sign(content)), NONCE, NOW)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("requestDetails.timestampMillis", int(NOW.timestamp() * 1000)),
        ("requestDetails.timestampMillis", int((NOW - timedelta(seconds=300)).timestamp() * 1000)),
        ("requestDetails.timestampMillis", int((NOW + timedelta(seconds=60)).timestamp() * 1000)),
        ("appIntegrity.versionCode", 40),
        ("appIntegrity.certificateSha256Digest", [OTHER_DIGEST, DIGEST + "="]),
        ("deviceIntegrity.deviceRecognitionVerdict", ["MEETS_DEVICE_INTEGRITY"]),
    ],
)
def test_what_is_just_good_enough_is_accepted(attestor, place, value):
    attestor.verify(changed(place, value), NONCE, NOW)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("requestDetails.requestPackageName", "another.app", "asked for by another app"),
        ("requestDetails.requestPackageName", None, "asked for by another app"),
        ("requestDetails.requestHash", base64url(bytes(32)), "another upload or challenge"),
        ("requestDetails.requestHash", "!", "another upload or challenge"),
        ("requestDetails.requestHash", 5, "another upload or challenge"),
        ("requestDetails.requestHash", None, "another upload or challenge"),
        ("requestDetails.nonce", base64url(NONCE), "another upload or challenge"),  # one of the two, not both
        ("requestDetails.timestampMillis", int((NOW - timedelta(seconds=301)).timestamp() * 1000), "too long ago"),
        ("requestDetails.timestampMillis", int((NOW + timedelta(seconds=61)).timestamp() * 1000), "in the future"),
        ("requestDetails.timestampMillis", None, "does not say when"),
        ("requestDetails.timestampMillis", "9" * 5000, "does not say when"),
        ("requestDetails.timestampMillis", 10**30, "does not say when"),
        ("requestDetails.timestampMillis", True, "does not say when"),
        ("appIntegrity.appRecognitionVerdict", "UNRECOGNIZED_VERSION", "does not recognise"),
        ("appIntegrity.appRecognitionVerdict", None, "does not recognise"),
        ("appIntegrity.packageName", "another.app", "the app that asked is another"),
        ("appIntegrity.certificateSha256Digest", [OTHER_DIGEST], "signed by another certificate"),
        ("appIntegrity.certificateSha256Digest", [], "signed by another certificate"),
        ("appIntegrity.certificateSha256Digest", [[DIGEST]], "signed by another certificate"),
        ("appIntegrity.certificateSha256Digest", DIGEST, "signed by another certificate"),
        ("appIntegrity.versionCode", "39", "too old"),
        ("appIntegrity.versionCode", None, "too old"),
        ("deviceIntegrity.deviceRecognitionVerdict", ["MEETS_BASIC_INTEGRITY"], "does not meet the integrity"),
        ("deviceIntegrity.deviceRecognitionVerdict", [], "does not meet the integrity"),
        ("deviceIntegrity.deviceRecognitionVerdict", "MEETS_DEVICE_INTEGRITY", "does not meet the integrity"),
        ("deviceIntegrity.deviceRecognitionVerdict", None, "does not meet the integrity"),
        ("accountDetails.appLicensingVerdict", "UNLICENSED", "licence"),
        ("accountDetails.appLicensingVerdict", None, "licence"),
    ],
)
def test_each_check_refuses(attestor, place, value, problem):
    refused(attestor, changed(place, value), problem)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("requestDetails", "another app"),
        ("appIntegrity", "recognise"),
        ("deviceIntegrity", "integrity"),
        ("accountDetails", "licence"),
    ],
)
@pytest.mark.parametrize("value", [None, [], "text"])
def test_a_section_that_is_missing_or_no_object_is_refused(attestor, section, problem, value):
    refused(attestor, encrypt(sign(verdict() | {section: value})), problem)


@pytest.mark.parametrize(
    ("verdicts", "found", "accepted"),
    [
        (["MEETS_STRONG_INTEGRITY"], ["MEETS_DEVICE_INTEGRITY", "MEETS_BASIC_INTEGRITY"], False),
        (["MEETS_STRONG_INTEGRITY"], ["MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY"], True),
        (["MEETS_BASIC_INTEGRITY"], ["MEETS_BASIC_INTEGRITY"], True),
        (["MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY"], ["MEETS_STRONG_INTEGRITY"], False),
    ],
)
def test_all_of_the_declared_verdicts_are_needed(secrets, verdicts, found, accepted):
    attestor = open_attestor("play-integrity", SETTINGS | {"device_verdicts": verdicts}, secrets)
    token = changed("deviceIntegrity.deviceRecognitionVerdict", found)
    if accepted:
        attestor.verify(token, NONCE, NOW)
    else:
        refused(attestor, token, "does not meet")


def test_a_licence_is_not_asked_for_where_that_is_declared(secrets):
    attestor = open_attestor("play-integrity", SETTINGS | {"licensed": False}, secrets)
    attestor.verify(changed("accountDetails.appLicensingVerdict", "UNLICENSED"), NONCE, NOW)


def replaced(token: str, part: int, text: str) -> str:
    parts = token.split(".")
    parts[part] = text
    return ".".join(parts)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "five parts"),
        (sign(verdict()), "five parts"),  # signed, and not encrypted
        ("....", "is no JWE"),
        (replaced(play_token(), 0, "!"), "is no JWE"),
        (replaced(play_token(), 0, base64url(b"[" * 9000)), "is no JWE"),
        (replaced(play_token(), 0, base64url(b"[]")), "A256KW"),
        (replaced(play_token(), 0, base64url(b'{"alg":"A256KW","enc":"A256GCM","more":1}')), "cannot be decrypted"),
        (replaced(play_token(), 1, ""), "cannot be decrypted"),
        (replaced(play_token(), 1, base64url(bytes(40))), "cannot be decrypted"),
        (replaced(play_token(), 2, base64url(bytes(12))), "cannot be decrypted"),
        (replaced(play_token(), 2, base64url(bytes(8))), "wrong length"),
        (replaced(play_token(), 3, base64url(bytes(50))), "cannot be decrypted"),
        (replaced(play_token(), 4, base64url(bytes(16))), "cannot be decrypted"),
        (replaced(play_token(), 4, base64url(bytes(12))), "wrong length"),
        (encrypt(sign(verdict()), header={"alg": "dir"}), "A256KW"),
        (encrypt(sign(verdict()), header={"enc": "A128CBC-HS256"}), "A256KW"),
        (encrypt(sign(verdict()), header={"zip": "DEF"}), "not done here"),
        (encrypt(sign(verdict()), header={"crit": ["exp"]}), "not done here"),
        (encrypt(sign(verdict()), key=bytes(32)), "cannot be decrypted"),
        (encrypt("no JWS"), "signature"),
        (encrypt(sign(verdict(), ec.generate_private_key(ec.SECP256R1()))), "signature"),
        (encrypt(sign(verdict(), "a secret of thirty-two bytes, at least", "HS256")), "signature"),
        (encrypt(".".join([base64url(b'{"alg":"none"}'), base64url(b"{}"), ""])), "signature"),
        (encrypt(sign(b"no JSON")), "no JSON object"),
        (encrypt(sign(b"[" * 9000)), "no JSON object"),
        (encrypt(sign([])), "no JSON object"),
    ],
)
def test_each_layer_refuses(attestor, token, problem):
    refused(attestor, token, problem)


def test_no_word_of_a_token_is_in_a_refusal(attestor):
    with pytest.raises(PublishError) as error:
        attestor.verify(changed("requestDetails.requestPackageName", "personal"), NONCE, NOW)
    assert "personal" not in str(error.value)


@pytest.mark.parametrize("kind", ["safetynet", "", "app_attest"])
def test_an_unknown_kind_is_refused(secrets, kind):
    with pytest.raises(ConfigurationError, match="no such kind"):
        open_attestor(kind, SETTINGS, secrets)


@pytest.mark.parametrize(
    ("name", "value"), [("package", None), ("minimum_version_code", "many"), ("more", 1), ("certificate_digests", 5)]
)
def test_settings_that_cannot_be_are_named(secrets, name, value):
    with pytest.raises(ConfigurationError, match=name):
        open_attestor("play-integrity", SETTINGS | {name: value}, secrets)


def test_without_a_store_of_secrets_it_cannot_be_opened():
    with pytest.raises(ConfigurationError, match="KEYSERVER_SECRETS_URL"):
        open_attestor("play-integrity", SETTINGS, None)


P384 = ec.generate_private_key(ec.SECP384R1()).public_key()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("decryption", b"no base64", "not base64"),
        ("decryption", base64.b64encode(bytes(16)), "32 bytes"),
        ("verification", base64.b64encode(b"no key"), "no P-256 public key"),
        (
            "verification",
            base64.b64encode(
                P384.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            ),
            "no P-256 public key",
        ),
    ],
)
def test_keys_that_cannot_be_are_named(secrets, tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        open_attestor("play-integrity", SETTINGS, secrets)


HOSTILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@HOSTILE
@given(
    evidence=st.text()
    | st.lists(st.binary(max_size=40), min_size=5, max_size=5).map(lambda parts: ".".join(map(base64url, parts)))
)
def test_hostile_evidence_ends_in_our_error(attestor, evidence):
    with pytest.raises(PublishError):
        attestor.verify(evidence, NONCE, NOW)


@HOSTILE
@given(
    place=st.sampled_from([f"{section}.{field}" for section, fields in verdict().items() for field in fields]),
    value=JSON.filter(lambda value: value is not None),
)
def test_hostile_verdicts_are_accepted_or_end_in_our_error(attestor, place, value):
    with suppress(PublishError):
        attestor.verify(changed(place, value), NONCE, NOW)
