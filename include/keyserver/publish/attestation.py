"""Whether an upload comes from the app that it names: device attestation, for apps that are declared with it.

A challenge is used once. It counts as used when its evidence was found good, before the upload is stored: forged
evidence uses up nothing, and of two that race with one challenge one passes. A phone that got no answer, or 503, asks
for a new challenge and has the same upload attested again; nothing locks it out.
"""

from __future__ import annotations

import logging
import secrets as random
from datetime import datetime

from keyserver.errors import ConfigurationError, PublishError
from keyserver.protocol import attestation
from keyserver.protocol.certificate import AppAttestation, AuthorisedApp
from keyserver.protocol.messages import PublishRequest
from keyserver.providers.attestation import Attestor, open_attestor
from keyserver.providers.secrets import Secrets
from keyserver.store import attestations
from keyserver.store.database import Database

_LOG = logging.getLogger(__name__)


class AttestationGate:
    """Gives challenges, and lets uploads pass. Threads and workers share nothing but the database and the secret.

    ``secret`` is the server's, from which the secret of each period follows; None if it has none, which only apps with
    an attestation notice; so with ``secrets``. An attestor is opened when an app first needs it, and again when its
    declaration changes; a secret that is replaced under the same name is read at the next start.
    """

    def __init__(self, database: Database, secret: bytes | None, secrets: Secrets | None) -> None:
        self._database = database
        self._secret = secret
        self._secrets = secrets
        self._opened: dict[tuple[str, str], tuple[AppAttestation, Attestor]] = {}

    def challenge(self, now: datetime) -> str:
        """Return a fresh challenge, good for `attestation.CHALLENGE_LIFE`.

        Raises:
            PublishError: ``unable_to_load_health_authority``: the server has no secret to make one with.
        """
        return attestation.make_challenge(self._server_secret(), now, random.token_bytes(attestation.RANDOM_BYTES))

    def __call__(self, app: AuthorisedApp, request: PublishRequest, now: datetime) -> None:
        """Let an upload pass, or say why not. An app that is declared with no attestation at all passes unseen.

        An app that has one for any platform needs one with every upload, since leaving it out, or naming the other
        platform, would else be all that it takes to pass.

        Raises:
            PublishError: ``attestation_required``, ``attestation_invalid``; ``unable_to_load_health_authority`` if
                what is declared cannot be used.
            RemoteError: it cannot be told now.
        """
        if not app.attestations:
            return
        sent = request.attestation
        if sent is None:
            raise PublishError("attestation_required", "this app's uploads need an attestation of the device")
        declared = app.attestations.get(sent.platform)
        if declared is None:
            known = ", ".join(sorted(app.attestations))
            raise attestation.invalid(f"this app has none for that platform, but for: {known}")
        use = attestation.use_challenge(self._server_secret(), sent.challenge, now)
        nonce = attestation.nonce(request, sent.challenge)
        self._attestor(app, sent.platform, declared).verify(sent.evidence, nonce, now)
        with self._database.connection() as connection:
            if not attestations.use_once(connection, use):
                raise attestation.invalid("the challenge was used before; ask for a new one")

    def _attestor(self, app: AuthorisedApp, platform: str, declared: AppAttestation) -> Attestor:
        opened = self._opened.get((app.name, platform))
        if opened is None or opened[0] != declared:
            try:
                opened = (declared, open_attestor(declared.kind, declared.settings, self._secrets))
            except ConfigurationError as error:
                _LOG.error("the attestation of an app on %s cannot be used: %s", platform, error)
                raise _unusable() from error
            self._opened[app.name, platform] = opened
        return opened[1]

    def _server_secret(self) -> bytes:
        if self._secret is None:
            _LOG.error("KEYSERVER_ATTESTATION_SECRET is not set, and an app is attested")
            raise _unusable()
        return self._secret


def _unusable() -> PublishError:
    return PublishError("unable_to_load_health_authority", "attestations cannot be checked now")
