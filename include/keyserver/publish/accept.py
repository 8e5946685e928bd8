"""Accept an upload, or say why not, in the order of publish.md 1.5."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyserver.errors import PublishError
from keyserver.protocol import certificate
from keyserver.protocol.certificate import AuthorisedApp
from keyserver.protocol.exposure import Exposure, Limits, ReportType, transform
from keyserver.protocol.messages import PublishRequest
from keyserver.store import authorities, exposures
from keyserver.store.database import Database
from keyserver.store.exposures import Upload


@dataclass(frozen=True, slots=True)
class Accepted:
    """An upload that was stored: how many keys are new, and what was said of those that were left out."""

    inserted: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


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


def accept(database: Database, configuration: Configuration, request: PublishRequest, now: datetime) -> Accepted:
    """Check an upload and store its good keys; returns only when they are committed.

    ``now`` is the host's time: it checks the certificate and the age of keys (rule T1); the windows come from the
    database's.

    Raises:
        PublishError: the upload is refused and nothing of it stored; the code says why.
        RemoteError: it could not be stored now, or it is not known whether it was.
    """
    app = configuration.app(request.health_authority_id)
    proof = certificate.verify(request.verification_payload, request.hmac_key, request.keys, app, now)
    onsets = (request.symptom_onset_interval, proof.onset or 0)
    transformed = transform(request.keys, proof.report_type, onsets, now, configuration.limits)
    inserted = 0
    if transformed.exposures:
        upload = Upload(
            transformed.exposures, proof.report_type, request.traveler, app.regions, app.name, proof.authority_id
        )
        with database.connection() as connection:
            inserted = exposures.publish(connection, upload, plan)
    return Accepted(inserted, transformed.errors, transformed.warnings)


def plan(upload: Upload, existing: frozenset[bytes]) -> Sequence[Exposure]:
    """Decide which keys of an upload are inserted, given those that are stored already.

    Raises:
        PublishError: ``missing_revision_token`` when one is stored (publish.md 1.5, row 8).
    """
    if existing:
        raise PublishError("missing_revision_token", "some keys were uploaded before; a revision token is needed")
    # Nobody was told of these keys, so there is nothing to take back (publish.md 2.8).
    return () if upload.report_type is ReportType.NEGATIVE else upload.exposures
