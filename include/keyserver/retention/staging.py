"""Delete staged files that nobody needs any more: their keys are in a released file, or in none (rules R3, B8).

A staged file lies under its own hash, so that a build which was cut off finds it there; and batches of two feeds may
have the same one. Whether one is needed is asked, and its deletion done, while no batch can be planned that might rely
on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import datetime

from keyserver.protocol.retention import STAGED_FOR
from keyserver.providers.blobs import BlobVersion
from keyserver.runtime import Runtime
from keyserver.store import release_clock, retention

logger = logging.getLogger(__name__)

_STAGED = re.compile(r"staging/([0-9a-f]{64})\.(bin|zip)")

Span = tuple[datetime, datetime]


def clean_staging(runtime: Runtime) -> int:
    """Delete what is not needed under ``staging/``; give the number of files.

    A batch's file goes as soon as its release is confirmed, or a day after it, or once nothing of it will be released;
    one that no batch names, as killed builds leave, a day after it was staged. What a batch on its way may need stays.
    """
    staged = {
        bytes.fromhex(named[1]): version
        for version in runtime.blobs.versions("staging/")
        if version.is_current and (named := _STAGED.fullmatch(version.path))
    }
    with runtime.database.connection() as connection:
        now = release_clock.now(connection)
        owners = retention.staged(connection, list(staged), STAGED_FOR)
    wanted = {owner.sha256 for owner in owners if owner.wanted}
    spans: dict[bytes, set[Span]] = {}
    for owner in owners:
        spans.setdefault(owner.sha256, set()).add((owner.starts_at, owner.ends_at))
    deleted = 0
    for sha256, version in staged.items():
        if sha256 in spans and sha256 not in wanted:
            deleted += _delete_named(runtime, version, sorted(spans[sha256]))
        elif sha256 not in spans and version.modified + STAGED_FOR <= now:
            deleted += _delete_orphan(runtime, version)
    logger.info("%d staged files are deleted", deleted)
    return deleted


def _delete_named(runtime: Runtime, version: BlobVersion, spans: Iterable[Span]) -> bool:
    with runtime.database.transaction() as connection:
        for starts_at, ends_at in spans:
            if retention.lock_span(connection, starts_at, ends_at):
                return False
        runtime.blobs.delete(version.path)
    return True


def _delete_orphan(runtime: Runtime, version: BlobVersion) -> bool:
    with runtime.database.transaction() as connection:
        if retention.lock_makers(connection, version.modified):
            return False
        runtime.blobs.delete(version.path)
    return True
