"""What a use case works with, built once at an edge: the CLI from the environment, Airflow's tasks from Connections."""

from __future__ import annotations

from dataclasses import dataclass

from keyserver.audit import Actor
from keyserver.errors import ConfigurationError
from keyserver.providers.blobs import BlobStore, open_blobs
from keyserver.providers.keywrap import KeyWrap, open_keywrap
from keyserver.providers.signers import Signer, open_signer
from keyserver.store.database import Database


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process's surroundings. A part that its work does not need was not asked for, and is missing."""

    actor: Actor
    database: Database
    blobs_or_none: BlobStore | None = None
    signer_or_none: Signer | None = None
    keywrap_or_none: KeyWrap | None = None
    public_url_or_none: str | None = None

    @property
    def blobs(self) -> BlobStore:
        """The object store."""
        if self.blobs_or_none is None:
            raise ConfigurationError("this work needs the object store: set KEYSERVER_BLOBS_URL")
        return self.blobs_or_none

    @property
    def signer(self) -> Signer:
        """The export signing keys: only the signing task asks for them."""
        if self.signer_or_none is None:
            raise ConfigurationError("this work needs the export signing keys: set KEYSERVER_SIGNER_URL")
        return self.signer_or_none

    @property
    def keywrap(self) -> KeyWrap:
        """The master key that revision keys are wrapped with: only their rotation asks for it."""
        if self.keywrap_or_none is None:
            raise ConfigurationError("this work needs the master key: set KEYSERVER_KEYWRAP_URL")
        return self.keywrap_or_none

    @property
    def public_url(self) -> str:
        """Where phones find what the object store holds under ``public/``; it ends in ``/``."""
        if self.public_url_or_none is None:
            raise ConfigurationError("this work looks at what phones get: set KEYSERVER_PUBLIC_URL")
        return self.public_url_or_none.rstrip("/") + "/"

    def close(self) -> None:
        """Give the connections back to the server."""
        self.database.forget_connections()


def open_runtime(  # noqa: PLR0913 - one a part
    actor: Actor,
    database_url: str,
    *,
    blobs_url: str | None = None,
    signer_url: str | None = None,
    keywrap_url: str | None = None,
    public_url: str | None = None,
) -> Runtime:
    """Build a runtime from URLs: libpq's for the database, file:///folder for what a laptop keeps in folders."""
    return Runtime(
        actor,
        Database(database_url),
        open_blobs(blobs_url) if blobs_url else None,
        open_signer(signer_url) if signer_url else None,
        open_keywrap(keywrap_url) if keywrap_url else None,
        public_url or None,
    )
