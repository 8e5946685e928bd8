"""What the declared configuration writes is what attestors read."""

from __future__ import annotations

from pathlib import Path

from keyserver.configuration.load import load
from keyserver.providers.attestation import open_attestor
from keyserver.providers.attestation.appattest import AppAttest
from keyserver.providers.attestation.playintegrity import PlayIntegrity
from keyserver.providers.secrets import open_secrets
from tests.providers.attestation.evidence import play_keys

EXAMPLE = Path(__file__).parents[3] / "docs" / "configuration.example.yaml"


def test_what_the_example_declares_can_be_opened(tmp_path):
    for name, content in zip(("play-decryption", "play-verification"), play_keys(), strict=True):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    secrets = open_secrets(tmp_path.as_uri())
    (app,) = (app for app in load(EXAMPLE).declared.apps if app.attestation)
    opened = {item.platform: open_attestor(item.kind, item.settings, secrets) for item in app.attestation}
    assert isinstance(opened.pop("android"), PlayIntegrity)
    assert isinstance(opened.pop("ios"), AppAttest)
    assert opened == {}
