"""Accept an upload, or say why not, in the order of publish.md 1.5."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyserver.errors import FormatError, PublishError, VerificationError
from keyserver.protocol import certificate, revise, revision, statistics
from keyserver.protocol.certificate import AuthorisedApp, Certificate
from keyserver.protocol.exposure import MAX_AGE, Limits, transform
from keyserver.protocol.intervals import interval_at
from keyserver.protocol.messages import PublishRequest
from keyserver.protocol.revise import Decision, Known, Rules, Token
from keyserver.protocol.revision import RevisableKey
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.store import authorities, exposures
from keyserver.store.database import Database
from keyserver.store.exposures import Upload

# Refuses by raising, with the code `attestation_invalid` or `attestation_required`.
Attest = Callable[[AuthorisedApp, PublishRequest, datetime], None]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An upload that was stored: how many keys are new, and what was said of those that were left out.

    ``revision_token``: what changes these keys later, base64; empty when there is nothing to change.
    """

    inserted: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    revision_token: str = field(default="", repr=False)


class Configuration:
    """Who may upload, read from the database at most once in `lifetime`, and the limits of a request.

    A revoked key therefore works that much longer. When the database cannot be read, uploads end in its `RemoteError`;
    what was read before is not used beyond its time. Threads share it.
    """

    def __init__(self, database: Database, limits: Limits, lifetime: timedelta = timedelta(seconds=30)) -> None:
        self.limits = limits
        self._database = database
        self._lifetime_s = lifetime.total_seconds()
        self._read: tuple[float, Mapping[str, AuthorisedApp]] | None = None

    def app(self, name: str) -> AuthorisedApp:
        """Return the app of this name, in any letter case.

        Raises:
            PublishError: ``unknown_health_authority_id``.
            RemoteError: the database could not be read.
        """
        app = self._apps().get(name.lower())
        if app is None:
            raise PublishError("unknown_health_authority_id", "no such healthAuthorityID may upload here")
        return app

    def _apps(self) -> Mapping[str, AuthorisedApp]:
        # Threads that find it old at the same moment each read it: once in a lifetime, and none waits for another.
        read = self._read
        if read is None or time.monotonic() - read[0] >= self._lifetime_s:
            asked = time.monotonic()
            with self._database.connection() as connection:
                read = (asked, authorities.upload_configuration(connection))
            self._read = read
        return read[1]


@dataclass(frozen=True, slots=True)
class Intake:
    """What uploads are accepted with. ``token_aad``: what revision tokens of this server are bound to (3.1).

    ``source`` gives a token's nonce.
    """

    database: Database
    configuration: Configuration
    revision_keys: RevisionKeys
    token_aad: bytes = field(repr=False)
    allow_partial_revisions: bool = False
    attest: Attest | None = None
    source: random.Random = field(default_factory=random.SystemRandom)


def accept(intake: Intake, request: PublishRequest, now: datetime, *, user_agent: str = "") -> Accepted:
    """Check an upload, store its good keys and revise stored ones; returns only when that is committed.

    ``now`` is the host's time: it checks the certificate and the age of keys (rule T1); the windows come from the
    database's.

    Raises:
        PublishError: the upload is refused and nothing of it stored; the code says why.
        RemoteError: it could not be stored now, or it is not known whether it was.
    """
    app = intake.configuration.app(request.health_authority_id)
    proof = _proof(request, app, now)
    if intake.attest is not None:
        intake.attest(app, request, now)
    kept, token = _read_token(intake, request.revision_token)
    onsets = (request.symptom_onset_interval, (proof and proof.onset) or 0)
    report_type = proof.report_type if proof else None
    transformed = transform(request.keys, report_type, onsets, now, intake.configuration.limits)
    if not transformed.exposures:
        return Accepted(0, transformed.errors, transformed.warnings)
    # Before anything is stored: an upload is not answered without its token.
    kid, key = intake.revision_keys.effective()
    platform = statistics.platform(user_agent)
    upload = Upload(
        transformed.exposures,
        report_type,
        request.traveler,
        app.regions,
        app.name,
        proof.authority_id if proof else None,
        statistics.facts(transformed.exposures, transformed.onset, platform, now),
    )
    rules = Rules(app.bypass_revision_token, intake.allow_partial_revisions)

    def plan(known: Known) -> Decision:
        return revise.decide(upload.exposures, report_type, known, token, rules)

    decision = plan(revise.NOTHING_STORED)
    with intake.database.connection() as connection:
        if not (decision.insert and exposures.publish_new(connection, upload, decision, now)):
            decision = exposures.publish(connection, upload, plan)
    proven = [RevisableKey(*each) for each in decision.proven]
    revisable = revision.union(kept, proven, interval_at(now - MAX_AGE))
    nonce = intake.source.randbytes(revision.NONCE_BYTES)
    return Accepted(
        len(decision.insert),
        transformed.errors,
        (*transformed.warnings, *decision.warnings),
        revision.seal(revisable, kid, key, intake.token_aad, nonce) if revisable else "",
    )


def _proof(request: PublishRequest, app: AuthorisedApp, now: datetime) -> Certificate | None:
    """Return what the certificate says; None if it is not accepted and this app needs none (publish.md 2.9)."""
    try:
        return certificate.verify(request.verification_payload, request.hmac_key, request.keys, app, now)
    except PublishError as error:
        if app.bypass_verification and error.code == certificate.INVALID:
            return None
        raise


def _read_token(intake: Intake, text: str) -> tuple[tuple[RevisableKey, ...], Token]:
    """Return a token's keys. One that is unusable matters only if a key of the upload is stored (1.5, row 6)."""
    try:
        kept = revision.unseal(text, intake.revision_keys.key, intake.token_aad)
    except FormatError:
        return (), Token()
    except VerificationError:
        return (), Token(sent=True)
    keys = {each.key: (each.interval_number, each.interval_count) for each in kept}
    return kept, Token(sent=True, keys=keys, read=True)
