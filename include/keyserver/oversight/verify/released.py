"""What phones get: every listed file's bytes, hash and signatures, the indexes, and that nothing else lies there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from keyserver.device import exportreader
from keyserver.errors import ConfigurationError, FormatError, RemoteError, VerificationError
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.sources import Source
from keyserver.oversight.wording import counted
from keyserver.protocol.exportfile import index_content, public_path
from keyserver.protocol.signature import load_public_key
from keyserver.providers.blobs import BlobStore
from keyserver.store import states
from keyserver.store.database import Database
from keyserver.store.states import FeedState, IndexState, ListedFile

PATIENCE = timedelta(minutes=10)  # an index that should have changed later may be about to be written

_TRIES = 2  # what is written between two looks is seen by the second
_UNLISTED_BATCH = ("held", "rejected", "replaced", "withdrawn")


def check(
    database: Database, sources: Sequence[Source], feeds: Sequence[FeedState], first: int, report: Report
) -> None:
    """Fetch from each place the index of each feed and its listed files, of the batches from a number on, and look.

    What changes meanwhile is no finding: what seems wrong is asked of the database once more.
    """
    with database.connection() as connection:
        keys = _keys(report, [(key.label, key.public_key) for key in states.signing_keys(connection)])
    seen: dict[bytes, str | None] = {}
    for source in sources:
        files = 0
        for feed in feeds:
            try:
                _check_index(database, source, feed, report)
                files += _check_files(database, source, feed, first, keys, seen, report)
            except RemoteError as error:
                report.unreachable.append(f"feed {feed.name} at {source.name}: {error}")
        indexes = f"{len(feeds)} {'index' if len(feeds) == 1 else 'indexes'}"
        report.facts.append(
            f"At {source.name}: {indexes} and {counted(files, 'listed file')} were compared with their records, and the"
            " files' signatures verified."
        )


def check_unlisted(database: Database, blobs: BlobStore, feeds: Sequence[FeedState], report: Report) -> None:
    """Look for files in the store that no index lists, or ever will."""
    for feed in feeds:
        there = [path for path in blobs.list(public_path(f"{feed.root}/")) if path.endswith(".zip")]
        with database.connection() as connection:
            known = states.named_files(connection, feed.feed_id)
        named = {public_path(name): state for name, state in known.items()}
        suspects = {path: text for path in there if (text := _unlisted(*named.get(path, ("unknown", ""))))}
        if suspects:
            still_there = set(blobs.list(public_path(f"{feed.root}/")))  # one may just have been deleted
            for path in sorted(suspects.keys() & still_there):
                report.find(f"object {path}", f"it lies in the store, {suspects[path]}")


def _unlisted(of_file: str, of_batch: str) -> str | None:
    """Say why a file should not lie there; None if it may."""
    if of_file == "unknown":
        return "and no file of this name was ever made"
    if of_file in {"withdrawn", "deleted"} or (of_file == "staged" and of_batch in _UNLISTED_BATCH):
        return f"though its file is {of_file} and its batch {of_batch}"
    return None


def _keys(report: Report, keys: Sequence[tuple[str, str]]) -> dict[str, EllipticCurvePublicKey]:
    loaded = {}
    for label, pem in keys:
        try:
            loaded[label] = load_public_key(pem)
        except FormatError as error:
            report.unproven.append(f"signatures by {label}: {error}")
    return loaded


def _check_index(database: Database, source: Source, feed: FeedState, report: Report) -> None:
    about = f"index of feed {feed.name}"
    for _ in range(_TRIES):
        content = source.read(f"{feed.root}/index.txt")
        with database.connection() as connection:
            expected = states.index(connection, feed.feed_id)
            now = states.clock(connection).now
        if content == index_content(expected.names) or (content is None and expected.sha256 is None):
            return
        is_new = expected.changed_at is not None and expected.changed_at > now - PATIENCE
        if is_new and content is not None and hashlib.sha256(content).digest() == expected.sha256:
            report.facts.append(f"{about} at {source.name}: its files changed just now, and it is about to be written.")
            return
    for text in _difference(content, expected):
        report.find(about, f"at {source.name} {text}")


def _difference(content: bytes | None, expected: IndexState) -> Iterator[str]:
    if content is None:
        yield "there is none"
        return
    lines = content.decode("ascii", "replace").split("\n") if content else []
    for name in expected.names:
        if name not in lines:
            yield f"it does not list {name}, which is released"
    for line in lines:
        if line not in expected.names:
            yield f"it lists {line}, which is not released"
    if sorted(lines) == sorted(expected.names):
        yield "it lists the files in another order than they were released"
    elif len(set(lines)) != len(lines):
        yield "it lists a file twice"


def _check_files(  # noqa: PLR0913, PLR0917 - what a file is compared with
    database: Database,
    source: Source,
    feed: FeedState,
    first: int,
    keys: dict[str, EllipticCurvePublicKey],
    seen: dict[bytes, str | None],
    report: Report,
) -> int:
    with database.connection() as connection:
        listed = states.listed_files(connection, feed.feed_id, first)
    for file in listed:
        problem = _problem(source, file, keys, seen)
        if problem is None:
            continue
        with database.connection() as connection:
            if states.is_listed(connection, file.name):
                report.find(f"file {file.name}", f"at {source.name} {problem}")
    return len(listed)


def _problem(
    source: Source, file: ListedFile, keys: dict[str, EllipticCurvePublicKey], seen: dict[bytes, str | None]
) -> str | None:
    """Say what is wrong with a file at a place; the same bytes are read once, wherever they are."""
    try:
        data = source.read(file.name)
    except FormatError as error:
        return str(error)
    if data is None:
        return "it is missing"
    digest = hashlib.sha256(data).digest()
    if digest not in seen:
        seen[digest] = _problem_of(data, file, keys)
    if digest != file.zip_sha256:
        return "its bytes are not those that were released: their SHA-256 is another"
    return seen[digest]


def _problem_of(data: bytes, file: ListedFile, keys: dict[str, EllipticCurvePublicKey]) -> str | None:
    labels = [(label, label.rpartition("-")) for label in file.signing_keys if label in keys]
    try:
        read = exportreader.verify(data, {(key_id, version): keys[label] for label, (key_id, _, version) in labels})
    except (FormatError, VerificationError, ConfigurationError) as error:
        return str(error)
    pairs = {
        "its export.bin": (read.export_sha256, file.export_sha256.hex()),
        "the span in it": ((read.start, read.end), (file.starts_at, file.ends_at)),
        "the number of keys in it": (len(read.keys), file.keys),
        "the number of revised keys in it": (len(read.revised_keys), file.revised_keys),
        "who signed it": ([f"{info.key_id}-{info.key_version}" for info in read.signature_infos], file.signing_keys),
    }
    wrong = [what for what, (found, recorded) in pairs.items() if found != recorded]
    return f"{', '.join(wrong)}: other than recorded" if wrong else None
