"""Whether what should be gone is gone: asked by questions of an auditor's own (rules R1 to R3)."""

from __future__ import annotations

from datetime import timedelta

from keyserver.errors import RemoteError
from keyserver.oversight.verify.report import Report
from keyserver.oversight.verify.said import Said
from keyserver.oversight.wording import counted, moment
from keyserver.protocol.exportfile import public_path, staged_path
from keyserver.protocol.retention import CADENCE, GRACE
from keyserver.providers.blobs import BlobStore
from keyserver.store import states
from keyserver.store.database import Connection, Database

_PROVED_WITHIN = timedelta(hours=24)
_STAGED = "staging/"


def check_rows(connection: Connection, said: Said, report: Report) -> None:
    """Look for rows and index lines older than their limit and one run of retention, and for the last proof."""
    for old in states.old_rows(connection):
        report.find(
            f"retention: {old.what}",
            f"{counted(old.rows, 'row')} should be gone, the oldest of {moment(old.oldest)}",
        )
    for name, starts_at in states.old_lines(connection):
        report.find(f"file {name}", f"its line should have left the index: its batch began at {moment(starts_at)}")
    clock = states.clock(connection)
    report.facts.append(
        f"Rows and index lines were compared with their limit, {clock.period.days} days and one hour, at"
        f" {moment(clock.now)}."
    )
    _proof(connection, said, clock, report)


def _proof(connection: Connection, said: Said, clock: states.Clock, report: Report) -> None:
    if said.not_proved is not None and (said.proved is None or said.proved.seq < said.not_proved.seq):
        report.find("retention", f"by event {said.not_proved.seq}, {moment(said.not_proved.at)}, something was left")
    if said.proved is not None:
        report.facts.append(f"The last proof of retention is event {said.proved.seq}, {moment(said.proved.at)}.")
    first = states.first_window(connection)
    due = first is not None and first + clock.period + CADENCE < clock.now
    if due and (said.proved is None or said.proved.at < clock.now - _PROVED_WITHIN):
        report.find("retention", "nothing was proved for a day: is the DAG enforce_retention paused?")


def check_objects(database: Database, blobs: BlobStore, report: Report) -> None:
    """Look in the store, all versions that it keeps, for files of batches that began too long ago (R2, R3)."""
    versions = blobs.versions()
    with database.transaction("REPEATABLE READ READ ONLY") as connection:
        clock = states.clock(connection)
        past = {}
        for file in states.past_files(connection, GRACE):
            past[staged_path(file.export_sha256, "bin")] = file.starts_at
            if file.name is not None and file.zip_sha256 is not None:
                past[staged_path(file.zip_sha256, "zip")] = file.starts_at
                past[public_path(file.name)] = file.starts_at
    limit = clock.now - clock.period - GRACE - 2 * CADENCE
    looked_at = 0
    for version in versions:
        if not (version.path.startswith(_STAGED) or version.path.endswith(".zip")):
            continue
        looked_at += 1
        since = past.get(version.path, version.modified if version.modified <= limit else None)
        if since is not None:
            kept = "it" if version.is_current else "an old version of it"
            report.find(
                f"object {version.path}",
                f"{kept} should be gone from the store since {moment(since + (clock.now - limit))}",
            )
    kept_back = blobs.keeps_deleted()
    if kept_back is not None:
        report.find("store", f"it keeps what is deleted: {kept_back}")
    report.facts.append(f"{counted(looked_at, 'object')} of the store may hold keys; their ages were looked at.")


def objects(database: Database, blobs: BlobStore | None, report: Report) -> None:
    """Look in the store if there is one, or say that nobody did."""
    if blobs is None:
        report.unproven.append("that no old file lies in the store: it was not given (KEYSERVER_BLOBS_URL)")
        return
    try:
        check_objects(database, blobs, report)
    except RemoteError as error:
        report.unreachable.append(f"the store: {error}")
