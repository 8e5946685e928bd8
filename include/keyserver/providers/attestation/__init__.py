"""Who says that an upload comes from the app: a port, and one backend for each platform's attestation service.

Both check evidence with keys that are here; neither asks anybody over a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from keyserver.errors import ConfigurationError
from keyserver.providers.attestation.appattest import AppAttest, AppAttestSettings
from keyserver.providers.attestation.playintegrity import PlayIntegrity, PlayIntegritySettings
from keyserver.providers.secrets import Secrets


class Attestor(Protocol):
    """Checks evidence of one app on one platform."""

    def verify(self, evidence: str, nonce: bytes, now: datetime) -> None:
        """Check that a platform vouches for the app, for this nonce (32 bytes) and at this time.

        Raises:
            PublishError: ``attestation_invalid``; the message says which check failed, without the evidence's words.
        """


def open_attestor(kind: str, settings: Mapping[str, Any], secrets: Secrets | None) -> Attestor:
    """Open the attestor that an app is declared with.

    Raises:
        ConfigurationError: an unknown kind, settings that it cannot take, or a secret that is missing or unusable.
        RemoteError: a secret could not be had now.
    """
    if kind == "play-integrity":
        if secrets is None:
            raise ConfigurationError("attestation: the app's keys are secrets, and KEYSERVER_SECRETS_URL is not set")
        return PlayIntegrity(PlayIntegritySettings.read(settings), secrets)
    if kind == "app-attest":
        return AppAttest(AppAttestSettings.read(settings))
    raise ConfigurationError("no such kind of attestation; supported: play-integrity, app-attest")
