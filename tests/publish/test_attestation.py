from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from keyserver.errors import PublishError
from keyserver.protocol import attestation
from keyserver.protocol.certificate import AppAttestation, AuthorisedApp
from keyserver.protocol.messages import Attestation, PublishRequest, SentKey
from keyserver.providers.secrets import open_secrets
from keyserver.publish.attestation import AttestationGate
from tests.providers.attestation.evidence import (
    BUNDLE,
    DIGEST,
    NOW,
    PACKAGE,
    ROOT,
    TEAM,
    apple_evidence,
    play_keys,
    play_token,
)

SECRET = bytes(range(32))
PLAY = AppAttestation(
    "play-integrity",
    {
        "package": PACKAGE,
        "certificate_digests": [DIGEST],
        "decryption_key_secret": "decryption",
        "verification_key_secret": "verification",
    },
)
APPLE = AppAttestation(
    "app-attest",
    {"team_id": TEAM, "bundle_id": BUNDLE, "environment": "production", "root_certificate": ROOT.pem()},
)
APP = AuthorisedApp("example.app", ("DE",), (), MappingProxyType({"android": PLAY, "ios": APPLE}))
REQUEST = PublishRequest(
    keys=(SentKey(key="ABEiM0RVZneImaq7zN3u/w==", start=2649744, period=144),), health_authority_id="example.app"
)


@pytest.fixture
def secrets(tmp_path):
    for name, content in zip(("decryption", "verification"), play_keys(), strict=True):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    return open_secrets(tmp_path.as_uri())


@pytest.fixture
def gate(test_database, secrets) -> AttestationGate:
    return AttestationGate(test_database.database("api"), SECRET, secrets)


def attested(challenge: str, platform: str = "android", request: PublishRequest = REQUEST) -> PublishRequest:
    nonce = attestation.nonce(request, challenge)
    evidence = play_token(nonce) if platform == "android" else apple_evidence(nonce)
    return request.model_copy(
        update={"attestation": Attestation(platform=platform, challenge=challenge, evidence=evidence)}
    )


def refused(gate: AttestationGate, request: PublishRequest, code: str, problem: str, now: datetime = NOW) -> None:
    with pytest.raises(PublishError, match=problem) as error:
        gate(APP, request, now)
    assert error.value.code == code


def seen(test_database) -> list[tuple]:
    with test_database.admin() as connection:
        return connection.execute("SELECT mac, seen_at FROM attestation_seen").fetchall()


@pytest.mark.parametrize("platform", ["android", "ios"])
def test_an_attested_upload_passes(gate, test_database, platform):
    gate(APP, attested(gate.challenge(NOW), platform), NOW)
    assert len(seen(test_database)) == 1


def test_an_app_without_attestation_passes_unseen(test_database):
    gate = AttestationGate(test_database.database("api"), None, None)
    app = replace(APP, attestations=MappingProxyType({}))
    gate(app, REQUEST, NOW)
    gate(app, REQUEST.model_copy(update={"attestation": Attestation(platform="android", evidence="none")}), NOW)
    assert seen(test_database) == []


def test_leaving_it_out_is_refused(gate):
    refused(gate, REQUEST, "attestation_required", "need an attestation")


@pytest.mark.parametrize("platform", ["", "windows", "Android", "ios"])
def test_a_platform_that_the_app_has_none_for_is_refused(gate, platform):
    request = attested(gate.challenge(NOW))
    sent = request.attestation.model_copy(update={"platform": platform})
    app = replace(APP, attestations=MappingProxyType({"android": PLAY}))
    with pytest.raises(PublishError, match="none for that platform, but for: android") as error:
        gate(app, request.model_copy(update={"attestation": sent}), NOW)
    assert error.value.code == "attestation_invalid"


def test_evidence_of_the_other_platform_is_refused(gate):
    request = attested(gate.challenge(NOW), "ios")
    sent = request.attestation.model_copy(update={"platform": "android"})
    refused(gate, request.model_copy(update={"attestation": sent}), "attestation_invalid", "JWE")


def test_evidence_of_other_keys_is_refused(gate):
    request = attested(gate.challenge(NOW))
    other = (SentKey(key="/+7dzLuqmYh3ZlVEMyIRAA==", start=2649744, period=144),)
    refused(gate, request.model_copy(update={"keys": other}), "attestation_invalid", "another upload or challenge")


def test_evidence_for_another_challenge_is_refused(gate):
    request = attested(gate.challenge(NOW))
    sent = request.attestation.model_copy(update={"challenge": gate.challenge(NOW)})
    changed = request.model_copy(update={"attestation": sent})
    refused(gate, changed, "attestation_invalid", "another upload or challenge")


def test_a_challenge_that_is_old_or_made_up_is_refused(gate):
    old = attested(gate.challenge(NOW - timedelta(minutes=5, seconds=1)))
    refused(gate, old, "attestation_invalid", "has expired")
    made_up = attested(attestation.make_challenge(bytes(32), NOW, bytes(16)))
    refused(gate, made_up, "attestation_invalid", "none of this server")


def test_a_replay_is_refused_also_by_another_worker(gate, test_database, secrets):
    request = attested(gate.challenge(NOW))
    gate(APP, request, NOW)
    other = AttestationGate(test_database.database("api"), SECRET, secrets)
    for worker in (gate, other):
        refused(worker, request, "attestation_invalid", "used before; ask for a new one", NOW + timedelta(minutes=1))


def test_after_a_lost_answer_the_same_upload_passes_with_a_new_challenge(gate):
    gate(APP, attested(gate.challenge(NOW)), NOW)
    gate(APP, attested(gate.challenge(NOW)), NOW)


def test_forged_evidence_does_not_use_a_challenge_up(gate, test_database):
    request = attested(gate.challenge(NOW))
    forged = request.attestation.model_copy(update={"evidence": "a.b.c.d.e"})
    refused(gate, request.model_copy(update={"attestation": forged}), "attestation_invalid", "JWE")
    assert seen(test_database) == []
    gate(APP, request, NOW)


def test_of_uploads_that_race_with_one_challenge_one_passes(gate):
    request = attested(gate.challenge(NOW))

    def passes(_: int) -> bool:
        try:
            gate(APP, request, NOW)
        except PublishError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(passes, range(4))) == [False, False, False, True]


def test_what_is_kept_is_a_mac_and_the_end_of_a_period(gate, test_database):
    request = attested(gate.challenge(NOW))
    gate(APP, request, NOW)
    [(mac, moment)] = seen(test_database)
    assert mac == attestation.use_challenge(SECRET, request.attestation.challenge, NOW).mac
    assert moment == datetime(2026, 3, 2, 10, 10, tzinfo=UTC)


def test_a_changed_declaration_counts_at_once(gate):
    gate(APP, attested(gate.challenge(NOW)), NOW)
    stricter = replace(PLAY, settings={**PLAY.settings, "minimum_version_code": 43})
    app = replace(APP, attestations=MappingProxyType({"android": stricter}))
    with pytest.raises(PublishError, match="too old"):
        gate(app, attested(gate.challenge(NOW)), NOW)


@pytest.mark.parametrize(
    "declared",
    [
        AppAttestation("safetynet", {}),
        AppAttestation("play-integrity", {}),
        replace(PLAY, settings={**PLAY.settings, "decryption_key_secret": "missing"}),
    ],
)
def test_what_is_declared_wrongly_is_the_servers_fault(gate, caplog, declared):
    app = replace(APP, attestations=MappingProxyType({"android": declared}))
    with pytest.raises(PublishError) as error:
        gate(app, attested(gate.challenge(NOW)), NOW)
    assert error.value.code == "unable_to_load_health_authority"
    assert "attestation" in caplog.text


def test_without_the_servers_secret_there_are_no_challenges(test_database, secrets, gate, caplog):
    bare = AttestationGate(test_database.database("api"), None, secrets)
    for act in (lambda: bare.challenge(NOW), lambda: bare(APP, attested(gate.challenge(NOW)), NOW)):
        with pytest.raises(PublishError) as error:
            act()
        assert error.value.code == "unable_to_load_health_authority"
    assert "KEYSERVER_ATTESTATION_SECRET" in caplog.text
