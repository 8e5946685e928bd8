"""The revision keys as an upload needs them: unwrapped, and read anew at least once a minute (publish.md 3.2)."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from keyserver.errors import ConfigurationError, RemoteError, VerificationError
from keyserver.providers.keywrap import KeyWrap
from keyserver.store import revision_keys
from keyserver.store.database import Database
from keyserver.store.revision_keys import WrappedKey

logger = logging.getLogger(__name__)


class RevisionKeys:
    """The keys that encrypt and decrypt tokens. Threads share it.

    Which keys there are is read at most once in `lifetime`, so a destroyed one works that much longer. A key is
    unwrapped when it is first asked for; one that cannot be is logged and passed over, and the others work on.
    """

    def __init__(self, database: Database, keywrap: KeyWrap, lifetime: timedelta = timedelta(seconds=60)) -> None:
        self._database = database
        self._keywrap = keywrap
        self._lifetime_s = lifetime.total_seconds()
        self._read: tuple[float, tuple[WrappedKey, ...]] | None = None
        self._unwrapped: dict[WrappedKey, bytes] = {}

    def effective(self) -> tuple[int, bytes]:
        """Return id and key (32 bytes) of the first of `revision_keys.allowed` that can be unwrapped: it encrypts.

        Raises:
            RemoteError: the database or the key service did not answer, or there is no key yet; `keyserver keys
                rotate` and the hourly task of `rotate_keys` make one.
        """
        for wrapped in self._allowed():
            if (key := self._unwrap(wrapped)) is not None:
                return wrapped.kid, key
        raise RemoteError("there is no revision key that can be used: `keyserver keys rotate` makes one")

    def key(self, kid: int) -> bytes | None:
        """Return the revision key that has this id, None if there is none, not any more, or it cannot be unwrapped.

        Raises:
            RemoteError: the database or the key service did not answer.
        """
        return next((self._unwrap(wrapped) for wrapped in self._allowed() if wrapped.kid == kid), None)

    def _allowed(self) -> tuple[WrappedKey, ...]:
        # Threads that find it old at the same moment each read it: once in a lifetime, and none waits for another.
        read = self._read
        if read is None or time.monotonic() - read[0] >= self._lifetime_s:
            asked = time.monotonic()
            with self._database.connection() as connection:
                read = (asked, revision_keys.allowed(connection))
            unwrapped = self._unwrapped
            self._unwrapped = {wrapped: unwrapped[wrapped] for wrapped in read[1] if wrapped in unwrapped}
            # None at all is asked again the next time: the first one is being made.
            self._read = read if read[1] else None
        return read[1]

    def _unwrap(self, wrapped: WrappedKey) -> bytes | None:
        key = self._unwrapped.get(wrapped)
        if key is None:
            try:
                key = self._keywrap.unwrap(wrapped.wrapped, wrapped.aad)
            except (VerificationError, ConfigurationError) as error:
                logger.warning("revision key %d cannot be unwrapped: %s", wrapped.kid, error)
                return None
            self._unwrapped[wrapped] = key
        return key
