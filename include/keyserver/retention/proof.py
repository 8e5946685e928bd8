"""Prove that nothing is left which should be gone: in the tables, in the indexes, in the store (rules R1 to R3).

By questions of its own, and by a listing of the store that has every version it keeps.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from keyserver.audit import recorded
from keyserver.errors import VerificationError
from keyserver.protocol.exportfile import INDEX_NAME, public_path
from keyserver.protocol.retention import CADENCE, GRACE, STAGED_FOR
from keyserver.providers.blobs import BlobMissingError, BlobVersion
from keyserver.runtime import Runtime
from keyserver.store import files, retention_proof
from keyserver.store.database import Connection

logger = logging.getLogger(__name__)

_STAGED = re.compile(r"staging/([0-9a-f]{64})\.(bin|zip)")
_PUBLIC = public_path("")
# Under a feed's root: what has no keys, and is kept (A3).
_WITHOUT_KEYS = re.compile(r".*/(index\.txt|log/.*|log-before-restore/.*)")
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that goes. ``oldest_s``: the age of the oldest there is, in seconds, from its span's start.

    ``remaining``: how many should be gone; ``names``: of these, where they have names.
    """

    kind: str
    remaining: int
    oldest_s: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name what is left."""
        named = ", ".join([*self.names[:_MOST_NAMED], *["..."][: len(self.names) > _MOST_NAMED]])
        return f"{self.remaining} of {self.kind}{f' ({named})' if named else ''}, the oldest {_age(self.oldest_s)} old"


@dataclass(frozen=True, slots=True)
class _Found:
    """A thing in the store, its age, and whether it should be gone."""

    name: str
    age: timedelta
    left: bool


def prove(runtime: Runtime) -> list[Kind]:
    """Look at all there is; give each kind of which there is something, with the age of its oldest.

    A row, a line or an object may be there for its limit and one run's distance (`CADENCE`), an object for its grace.
    The proof is an audit event, and so is what is left.

    Raises `VerificationError`, naming everything that is left.
    """
    versions = runtime.blobs.versions()
    with runtime.database.connection() as connection:
        roots = [feed.root for feed in files.feeds(connection)]
    lines = [line for root in roots for line in _lines(runtime, root)]
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        kinds = [
            *(Kind(table.kind, table.remaining, table.oldest_s) for table in retention_proof.rows(connection, CADENCE)),
            *_kind("index", _listed(connection, lines)),
            *_in_store(connection, [version for version in versions if _may_have_keys(version)]),
        ]
    left = [kind for kind in kinds if kind.remaining]
    counts = {f"{kind.kind}_oldest_s": kind.oldest_s for kind in kinds}
    with recorded(runtime.database, runtime.actor) as work:
        if left:
            work.record("retention.not_proved", {}, counts={kind.kind: kind.remaining for kind in left} | counts)
        else:
            work.record("retention.proved", {}, counts=counts)
    for kind in kinds:
        logger.info("%s: the oldest is %s old; %d should be gone", kind.kind, _age(kind.oldest_s), kind.remaining)
    if left:
        problem = "; ".join(map(str, left))
        logger.error("ALERT: retention left something: %s", problem)
        raise VerificationError(f"there is what should be gone: {problem}")
    return kinds


def _may_have_keys(version: BlobVersion) -> bool:
    return not (version.path.startswith(_PUBLIC) and _WITHOUT_KEYS.fullmatch(version.path))


def _kind(kind: str, found: Iterable[_Found]) -> list[Kind]:
    things = sorted(found, key=_by_age, reverse=True)
    if not things:
        return []
    left = [thing.name for thing in things if thing.left]
    return [Kind(kind, len(left), max(0, int(things[0].age.total_seconds())), tuple(left))]


def _lines(runtime: Runtime, root: str) -> list[str]:
    """Read an index as it is in the store."""
    try:
        content = runtime.blobs.read(public_path(f"{root}/{INDEX_NAME}")).data
    except BlobMissingError:
        return []
    return content.decode("ascii", "replace").split("\n") if content else []


def _listed(connection: Connection, lines: list[str]) -> Iterator[_Found]:
    """Only what should have left an index: the others are the rows of `index_line`."""
    for name, age_s in retention_proof.listed(connection, lines, CADENCE).items():
        yield _Found(name, timedelta(seconds=age_s), left=True)


def _in_store(connection: Connection, versions: list[BlobVersion]) -> Iterator[Kind]:
    now, period = retention_proof.clock(connection)
    oldest_maker = retention_proof.oldest_maker(connection)
    public, staged, other = [], [], []
    for version in versions:
        if not version.is_current:
            other.append(version)
        elif version.path.startswith(_PUBLIC):
            public.append(version)
        elif _STAGED.fullmatch(version.path):
            staged.append(version)
        else:
            other.append(version)

    known = retention_proof.objects(connection, [v.path.removeprefix(_PUBLIC) for v in public], GRACE, CADENCE)
    named = retention_proof.staged(connection, [_hash(version) for version in staged], CADENCE)

    def of_no_batch(version: BlobVersion, limit: timedelta) -> _Found:
        age = now - version.modified
        return _Found(version.path, age, left=age >= limit + CADENCE)

    def of_public(version: BlobVersion) -> _Found:
        if (found := known.get(version.path.removeprefix(_PUBLIC))) is None:
            return of_no_batch(version, period + GRACE)
        gone_by, starts_at = found
        return _Found(version.path, now - starts_at, left=gone_by is not None and gone_by <= now)

    def of_staging(version: BlobVersion) -> _Found:
        if (found := named.get(_hash(version))) is None:
            may_be_needed = oldest_maker is not None and oldest_maker <= version.modified
            return of_no_batch(version, period if may_be_needed else STAGED_FOR)
        left, starts_at = found
        return _Found(version.path, now - starts_at, left=left)

    yield from _kind("object", map(of_public, public))
    yield from _kind("staged", map(of_staging, staged))
    # Older versions, and what lies where nothing of ours should.
    yield from _kind("other_object", (of_no_batch(version, period + GRACE) for version in other))


def _hash(version: BlobVersion) -> bytes:
    return bytes.fromhex(version.path.removeprefix("staging/").partition(".")[0])


def _by_age(found: _Found) -> timedelta:
    return found.age


def _age(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return f"{days} d {rest // 3600} h {rest // 60 % 60} min"
