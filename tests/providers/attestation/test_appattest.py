from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyserver.errors import ConfigurationError, PublishError
from keyserver.providers.attestation import Attestor, open_attestor
from keyserver.providers.attestation.appattest import APPLE_ROOT
from tests.providers.attestation.evidence import (
    BUNDLE,
    INTERMEDIATE,
    NONCE,
    NOW,
    ROOT,
    TEAM,
    Authority,
    apple_evidence,
    attestation_object,
    cbor,
    der,
)

SETTINGS: dict[str, Any] = {
    "team_id": TEAM,
    "bundle_id": BUNDLE,
    "environment": "production",
    "root_certificate": ROOT.pem(),
}
DAY = timedelta(days=1)
NO_AUTHORITY = Authority("No authority", ROOT, constrained=False)
IMPOSTOR = Authority("Root")
UNRELATED = Authority("Intermediate", IMPOSTOR)
EXPIRED = Authority("Intermediate", ROOT, since=NOW - 3 * DAY, until=NOW - DAY)


@pytest.fixture
def attestor() -> Attestor:
    return open_attestor("app-attest", SETTINGS, None)


def refused(attestor: Attestor, evidence: str, problem: str) -> None:
    with pytest.raises(PublishError, match=problem) as error:
        attestor.verify(evidence, NONCE, NOW)
    assert error.value.code == "attestation_invalid"


def encode(value: Any) -> str:
    return base64.b64encode(cbor(value)).decode()


def test_the_pinned_root_is_apples():
    root = x509.load_pem_x509_certificate(APPLE_ROOT.encode())
    assert root.fingerprint(hashes.SHA256()).hex() == (
        "1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932"
    )
    assert "CN=Apple App Attestation Root CA" in root.subject.rfc4514_string()
    root.verify_directly_issued_by(root)


def test_an_attestation_is_accepted(attestor):
    attestor.verify(apple_evidence(), NONCE, NOW)


@pytest.mark.parametrize("now", [NOW - DAY, NOW + DAY])
def test_certificates_count_from_their_first_second_to_their_last(attestor, now):
    attestor.verify(apple_evidence(), NONCE, now.replace(microsecond=0))


def test_a_development_attestation_is_accepted_where_that_is_declared():
    attestor = open_attestor("app-attest", SETTINGS | {"environment": "development"}, None)
    attestor.verify(apple_evidence(aaguid=b"appattestdevelop"), NONCE, NOW)
    refused(attestor, apple_evidence(), "another environment")


def test_without_another_root_only_apples_counts():
    attestor = open_attestor(
        "app-attest", {name: SETTINGS[name] for name in SETTINGS if name != "root_certificate"}, None
    )
    refused(attestor, apple_evidence(), "Apple's root")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"by": UNRELATED}, "do not lead to Apple's root"),
        ({"chain": lambda leaf: [der(leaf), der(UNRELATED.certificate)]}, "do not lead to Apple's root"),
        ({"by": UNRELATED, "chain": lambda leaf: [der(leaf), der(INTERMEDIATE.certificate)]}, "do not lead"),
        ({"by": ROOT, "chain": lambda leaf: [der(leaf), der(INTERMEDIATE.certificate)]}, "do not lead"),
        ({"chain": lambda leaf: [der(INTERMEDIATE.certificate), der(leaf)]}, "do not lead"),
        ({"chain": lambda leaf: [der(leaf)]}, "two certificates"),
        ({"chain": lambda leaf: [der(leaf), der(INTERMEDIATE.certificate), der(ROOT.certificate)]}, "two certificates"),
        ({"chain": lambda leaf: [der(leaf), "text"]}, "two certificates"),
        ({"chain": lambda leaf: [der(leaf)[:-1], der(INTERMEDIATE.certificate)]}, "malformed"),
        ({"chain": lambda _: [b"", b""]}, "malformed"),
        ({"since": NOW + timedelta(seconds=1), "until": NOW + DAY}, "not valid now"),
        ({"since": NOW - DAY, "until": NOW - timedelta(seconds=1)}, "not valid now"),
        ({"by": EXPIRED}, "not valid now"),
        ({"by": NO_AUTHORITY}, "one of an authority"),
        ({"authority": True}, "one of an authority"),
        ({"extension": None}, "has no nonce"),
        ({"extension": lambda _: bytes.fromhex("3024a1220420") + bytes(32)}, "another upload or challenge"),
        ({"extension": lambda nonce: nonce}, "another upload or challenge"),
        ({"extension": lambda nonce: bytes.fromhex("3024a1220420") + nonce + b"\0"}, "another upload or challenge"),
        ({"extension": lambda _: b""}, "another upload or challenge"),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, "not on the curve"),
        ({"app": f"{TEAM}.org.example.other"}, "of another app"),
        ({"app": f"AAAAA11111.{BUNDLE}"}, "of another app"),
        ({"counter": 1}, "counter"),
        ({"counter": 2**32 - 1}, "counter"),
        ({"aaguid": b"appattestdevelop"}, "another environment"),
        ({"aaguid": bytes(16)}, "another environment"),
        ({"credential_id": bytes(32)}, "credentialId"),
        ({"id_length": 31}, "credentialId"),
        ({"credential_id": b""}, "cut short"),
    ],
)
def test_each_check_refuses(attestor, options, problem):
    refused(attestor, apple_evidence(**options), problem)


def test_an_attestation_of_another_upload_is_refused(attestor):
    refused(attestor, apple_evidence(hashlib.sha256(b"another").digest()), "another upload or challenge")


def test_authenticator_data_that_were_changed_are_refused(attestor):
    value = attestation_object()
    value["authData"] += b"\0"
    refused(attestor, encode(value), "another upload or challenge")


@pytest.mark.parametrize(
    "change",
    [{"fmt": "packed"}, {"fmt": 1}, {"attStmt": []}, {"attStmt": {}}, {"attStmt": {"x5c": b""}}, {"authData": "text"}],
    ids=str,
)
def test_an_object_of_another_form_is_refused(attestor, change):
    refused(attestor, encode(attestation_object() | change), "no attestation object|two certificates|authenticator")


@pytest.mark.parametrize("evidence", ["", "!", "AA==", encode([]), encode({})])
def test_what_is_no_attestation_object_is_refused(attestor, evidence):
    refused(attestor, evidence, "no attestation object")


@pytest.mark.parametrize(
    ("name", "value"),
    [("environment", "sandbox"), ("team_id", None), ("root_certificate", "no PEM"), ("more", 1), ("bundle_id", 5)],
)
def test_settings_that_cannot_be_are_named(name, value):
    with pytest.raises(ConfigurationError, match=name):
        open_attestor("app-attest", SETTINGS | {name: value}, None)


HOSTILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GENUINE = cbor(attestation_object())


@HOSTILE
@given(evidence=st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_hostile_evidence_ends_in_our_error(attestor, evidence):
    with pytest.raises(PublishError):
        attestor.verify(evidence, NONCE, NOW)


# The receipt, name and content, is covered by nothing and looked at by nobody.
RECEIPT = range(GENUINE.index(b"receipt\x47receipt"), GENUINE.index(b"receipt\x47receipt") + 15)


@settings(HOSTILE, max_examples=300)
@given(
    place=st.sampled_from([place for place in range(len(GENUINE)) if place not in RECEIPT]), value=st.integers(1, 255)
)
def test_no_byte_of_an_attestation_can_be_changed(attestor, place, value):
    changed = bytearray(GENUINE)
    changed[place] ^= value
    with pytest.raises(PublishError):
        attestor.verify(base64.b64encode(changed).decode(), NONCE, NOW)
