"""Rotate the keys that encrypt revision tokens (publish.md 3.2, 8.3)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta

from keyserver.audit import recorded
from keyserver.protocol.revision import KEY_BYTES
from keyserver.runtime import Runtime
from keyserver.store import revision_keys

NEW_KEY_PERIOD = timedelta(hours=168)
# A key that a newer one has replaced for so long protects only tokens whose keys were all deleted since.
DELETE_OLD_KEY_PERIOD = timedelta(hours=360)

_AAD_BYTES = 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: the id of the new key, None if none was due, and of those that it destroyed."""

    created: int | None
    destroyed: tuple[int, ...]


def rotate(runtime: Runtime) -> Rotation:
    """Make a key when there is none, or the newest that is allowed is old; destroy those that are replaced for long.

    One transaction; run twice, the second finds nothing to do. A new key decrypts at once, and encrypts when every
    process has read it (`revision_keys.allowed`).

    Raises:
        ConfigurationError: the master key is missing or unusable.
        RemoteError: the database or the key service did not answer; nothing was changed.
    """
    with recorded(runtime.database, runtime.actor) as work:
        now = revision_keys.lock(work.connection)
        ages = revision_keys.ages(work.connection)
        newest = next((age for age in ages if age.allowed), None)
        created = None
        if newest is None or now - newest.created_at >= NEW_KEY_PERIOD:
            aad = secrets.token_bytes(_AAD_BYTES)
            wrapped = runtime.keywrap.wrap(secrets.token_bytes(KEY_BYTES), aad)
            created = revision_keys.insert(work.connection, aad, wrapped, now)
            work.record("revision_key.created", {"revision_key": created})
        destroyed = [
            age.kid
            for age in ages
            if age is not newest and age.replaced_at is not None and now - age.replaced_at >= DELETE_OLD_KEY_PERIOD
        ]
        for kid in destroyed:
            revision_keys.destroy(work.connection, kid, now)
            work.record("revision_key.destroyed", {"revision_key": kid})
    return Rotation(created, tuple(destroyed))
