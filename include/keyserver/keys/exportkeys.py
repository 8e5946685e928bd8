"""Export signing keys: what Apple and Google are handed, which key signs where, and the end of one in an emergency.

When a key is active and which feeds it signs is declared, in the configuration's document and nowhere else: a key is
activated by `active_from`, ended by `active_thru`, and `keyserver configuration apply` brings both in. So nothing here
changes these. Only a revocation is no declaration but an event: at once, for good, whatever the document says
(export.md 3; B1, B17, B18).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyserver.audit import checked_reason, recorded
from keyserver.errors import ConfigurationError, ConflictError
from keyserver.protocol import signature
from keyserver.protocol.exportfile import ECDSA_P256_SHA256, Header, SignatureInfo, encode
from keyserver.protocol.intervals import first_gap
from keyserver.runtime import Runtime
from keyserver.store import signing_keys
from keyserver.store.database import Connection
from keyserver.store.signing_keys import FeedKeys, SignedBatch, StoredKey

WARNED_AHEAD = timedelta(days=14)

_SAMPLE_START = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Handover:
    """What Apple and Google take of a key, and a file without keys that shows that it is the one which signs.

    The key signs export.bin and nothing else (A5): so the proof is an export.bin, of no region and no person.
    """

    name: str
    key_id: str
    key_version: str
    public_key: str  # PEM
    sample: bytes  # an export.bin
    sample_signature: bytes  # DER

    def summary(self) -> dict[str, str]:
        """Say it in plain texts, for a page or a form."""
        der = signature.public_key_der(signature.load_public_key(self.public_key))
        return {
            "name": self.name,
            "key_id": self.key_id,
            "key_version": self.key_version,
            "android_key": f"{self.key_id}-{self.key_version},{base64.b64encode(der).decode()}",
            "signature_algorithm": ECDSA_P256_SHA256,
            "public_key_pem": self.public_key,
            "public_key_base64": base64.b64encode(der).decode(),
            "public_key_sha256": hashlib.sha256(der).hexdigest(),
            "sample_sha256": hashlib.sha256(self.sample).hexdigest(),
            "sample_signature_base64": base64.b64encode(self.sample_signature).decode(),
        }


def handover(runtime: Runtime, name: str) -> Handover:
    """Describe a declared key for Apple and Google, and let the signer prove that it holds it (export.md 3).

    Raises:
        ConflictError: no such key is declared for files, or it is revoked.
        ConfigurationError: the signer's key of this name is missing, or another than the declared one.
    """
    with runtime.database.connection() as connection:
        key = _key(signing_keys.keys(connection), name)
    if key.purpose != "export":
        raise ConflictError(f"signing key {name} signs the public logs and no file: phones do not know it")
    if key.revoked_at is not None:
        raise ConflictError(f"signing key {name} is revoked: hand a new one over")
    if signature.load_public_key(runtime.signer.public_key(name)) != signature.load_public_key(key.public_key):
        raise ConfigurationError(f"the signer holds another key as {name} than the one that is declared")
    info = SignatureInfo(key.key_id, key.key_version)
    sample = encode(Header(_SAMPLE_START, _SAMPLE_START + timedelta(hours=1), "SAMPLE", (info,)), [], [])
    digest = hashlib.sha256(sample).digest()
    made = runtime.signer.sign(name, digest)
    signature.verify(signature.load_public_key(key.public_key), made, digest)
    return Handover(name, key.key_id, key.key_version, key.public_key, sample, made)


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """Which keys would sign a batch of a feed that ends now, the newest first, and when none would.

    ``carried``: of each declared key, how many of the index's ``files`` carry its signature.
    """

    feed: str
    signing: tuple[str, ...]
    files: int
    carried: dict[str, int]
    without_from: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """All signing keys and feeds at a moment."""

    now: datetime
    keys: tuple[StoredKey, ...]
    feeds: tuple[FeedStatus, ...]

    @property
    def warnings(self) -> list[str]:
        """Say which feeds have no key, or will have none within `WARNED_AHEAD`; and the public logs."""
        without = {f"feed {feed.feed}": (feed.without_from, "its batches will be held") for feed in self.feeds}
        logs = [_span(key) for key in self.keys if key.purpose == "transparency" and key.revoked_at is None]
        without["the public log of each feed"] = (first_gap(logs, self.now), "its lines will wait")
        return [
            f"{what} has no signing key from {moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} on: {then}"
            for what, (moment, then) in without.items()
            if moment is not None and moment < self.now + WARNED_AHEAD
        ]


def status(runtime: Runtime) -> Status:
    """Tell which keys there are, where they sign, and which feeds would be without."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        return _status(connection)


def _status(connection: Connection) -> Status:
    now = signing_keys.now(connection)
    keys = signing_keys.keys(connection)
    carried = signing_keys.carried(connection)
    feeds = signing_keys.feeds(connection)
    return Status(now, tuple(keys), tuple(_feed_status(feed, keys, carried, now) for feed in feeds))


def _feed_status(
    feed: FeedKeys, keys: list[StoredKey], carried: dict[tuple[str, str], int], now: datetime
) -> FeedStatus:
    usable = [key for key in keys if key.name in feed.keys and key.revoked_at is None]
    signing = tuple(key.name for key in usable if state(key, now) == "active")
    return FeedStatus(
        feed.feed,
        signing,
        feed.files,
        {name: carried.get((feed.feed, name), 0) for name in feed.keys},
        first_gap(map(_span, usable), max(now, feed.active_from), feed.active_thru),
    )


def _span(key: StoredKey) -> tuple[datetime, datetime | None]:
    return key.active_from, key.active_thru


def state(key: StoredKey, now: datetime) -> str:
    """Name what a key is at a moment: ``revoked``, ``not yet active``, ``active`` or ``ended``."""
    if key.revoked_at is not None:
        return "revoked"
    if now < key.active_from:
        return "not yet active"
    return "active" if key.active_thru is None or now < key.active_thru else "ended"


@dataclass(frozen=True, slots=True)
class Revocation:
    """What the end of a key leaves to do.

    ``listed``: batches that phones find in an index; ``unreleased``: those that will be held instead of released;
    ``status``: what signs now.
    """

    revoked_at: datetime
    listed: tuple[SignedBatch, ...]
    unreleased: tuple[SignedBatch, ...]
    status: Status


def revoke(runtime: Runtime, name: str, reason: str) -> Revocation:
    """End a signing key at once and for good; tell what it signed. Safe to run again: it is revoked once.

    From the commit on no batch is planned with it, none is signed by it, and none that names it is verified or
    released: each is held when its turn comes, and a batch that replaces it has the keys of its own day.

    Raises:
        ConflictError: no such key is declared.
        FormatError: the reason is none.
    """
    reason = checked_reason(reason)
    with recorded(runtime.database, runtime.actor) as work:
        revoked_now = signing_keys.revoke(work.connection, name)
        status = _status(work.connection)
        key = _key(status.keys, name)
        if revoked_now is not None:
            work.record(
                "signing_key.revoked",
                {"name": name, "key": f"{key.key_id}-{key.key_version}", "reason": reason},
            )
        batches = signing_keys.signed_batches(work.connection, name)
    return Revocation(
        key.revoked_at or status.now,
        tuple(batch for batch in batches if batch.status == "released"),
        tuple(batch for batch in batches if batch.status != "released"),
        status,
    )


def _key(keys: Sequence[StoredKey], name: str) -> StoredKey:
    for key in keys:
        if key.name == name:
            return key
    raise ConflictError(f"no signing key {name} is declared: `keyserver keys status` names those that are")
