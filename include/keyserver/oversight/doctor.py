"""Examine an installation: whether it is set up so that what is promised can be true (R4, T1, B9; docs/retention.md).

One sentence a check. What cannot be checked from here is said, too: it is the operator's to see to. Nothing is changed
but for a probe in the object store, which is removed again; no secret is shown, and no address.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal, TypeAlias

from keyserver.device import client
from keyserver.errors import ConfigurationError, ConflictError, KeyserverError, RemoteError, VerificationError
from keyserver.oversight.wording import counted, moment
from keyserver.protocol import signature
from keyserver.protocol.exportfile import public_path
from keyserver.protocol.retention import CADENCE
from keyserver.providers.blobs import BlobMissingError, BlobStore, open_blobs
from keyserver.providers.keywrap import open_keywrap
from keyserver.providers.signers import open_signer
from keyserver.quality import freshness
from keyserver.quality.freshness import Freshness
from keyserver.settings import Settings
from keyserver.store import doctor, files, reconciliation, revision_keys, signing_keys, watch
from keyserver.store.database import Connection, Database
from keyserver.store.readiness import MOST_SKEW, readiness
from keyserver.store.reconciliation import KnownFile

State: TypeAlias = Literal["ok", "warning", "wrong", "not checked"]

_ROLES = ("migrate", "api", "pipeline", "rewriter", "retention", "auditor", "verification")
_READERS = ("pipeline", "auditor")  # either may read all that is asked here of the database
_LEAST_VERSION = 150_000
_SOME_SKEW = timedelta(seconds=5)
_CLOSED_WITHIN = timedelta(minutes=5)
_KEYS_FOR = timedelta(days=14)
_PROVED_WITHIN = 3 * CADENCE
_PROBES = "doctor/"


class _NobodyToAskError(ConfigurationError):
    """This process has no role that may read what a check is about."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and what was found; ``advice``: what to do about it, where there is something to do."""

    what: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.state}: {self.what}: {self.found}{f'. {self.advice}' if self.advice else ''}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in their order."""

    checks: list[Check] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What is wrong."""
        return [str(check) for check in self.checks if check.state == "wrong"]

    def sentences(self) -> list[str]:
        """Say it, a line a check, and the sum of it."""
        by_state = {state: sum(check.state == state for check in self.checks) for state in ("wrong", "warning")}
        unchecked = sum(check.state == "not checked" for check in self.checks)
        total = f"{by_state['wrong']} wrong, {counted(by_state['warning'], 'warning')}, {unchecked} not checked."
        return [*map(str, self.checks), total]


def examine(settings: Settings, host_now: datetime) -> Diagnosis:
    """Look at all that these settings name. ``host_now`` is this host's clock."""
    checks: list[Check] = []
    for look in (_roles, _database, _freshness, _signing_keys, _revision_keys, _store, _public):
        checks += look(settings, host_now)
    checks += _process(settings)
    checks += _beyond(settings)
    return Diagnosis(checks)


# The database


def _roles(settings: Settings, _: datetime) -> Iterator[Check]:
    for role in _ROLES:
        what = f"role keyserver_{role}"
        if role not in settings.urls:
            yield Check(what, "not checked", "no URL of it is set for this process")
            continue
        with _attempt(what) as failed, _connected(settings, role) as connection:
            yield _role(what, role, doctor.session(connection))
        yield from failed


def _role(what: str, role: str, session: doctor.Session) -> Check:
    if session.role != f"keyserver_{role}":
        return Check(what, "wrong", "its URL logs in as another role", "Give each process the URL of its own role")
    if session.is_superuser:
        return Check(what, "wrong", "it is a superuser", "Run `keyserver database setup` on a server of its own")
    if session.synchronous_commit == "off":
        return Check(
            what,
            "wrong",
            "synchronous_commit is off: an upload that was answered can be lost",
            "Switch it on for this role and the database",
        )
    bounds = {
        "statement_timeout": session.statement_timeout if role == "api" else None,
        "lock_timeout": session.lock_timeout if role != "auditor" else None,
        "idle_in_transaction_session_timeout": session.idle_in_transaction_timeout
        if role not in {"auditor", "migrate"}
        else None,
    }
    if missing := [name for name, value in bounds.items() if value == "0"]:
        return Check(what, "wrong", f"it has no {' and no '.join(missing)}", "Run `keyserver database setup` again")
    return Check(what, "ok", "it connects, and is bounded as it should be")


def _database(settings: Settings, host_now: datetime) -> Iterator[Check]:
    with _attempt("database") as failed, _reading(settings) as connection:
        ready = readiness(connection)
        server = doctor.server(connection)
        yield _schema(ready.schema, ready.newest_schema)
        yield (
            Check("clock of the database", "wrong", "it can be set: this is a test's database", "Make a new one")
            if ready.clock_is_settable
            else _clocks(abs(ready.now - host_now))
        )
        yield from _server(server)
    yield from failed


def _schema(found: str | None, newest: str) -> Check:
    if found == newest:
        return Check("schema", "ok", f"version {found}")
    return Check("schema", "wrong", f"version {found or 'none'}, not {newest}", "Run `keyserver database migrate`")


def _clocks(skew: timedelta) -> Check:
    found = f"this host's and the database's differ by {skew.total_seconds():.1f} s"
    if skew > MOST_SKEW:
        return Check("clocks", "wrong", found, "No window is closed until they agree: mend the one that is wrong")
    return Check("clocks", "warning" if skew > _SOME_SKEW else "ok", found, "Use NTP" if skew > _SOME_SKEW else "")


def _server(server: doctor.Server) -> Iterator[Check]:
    major = server.version // 10_000
    yield (
        Check("PostgreSQL", "ok", f"version {major}")
        if server.version >= _LEAST_VERSION
        else Check("PostgreSQL", "wrong", f"version {major}", f"{_LEAST_VERSION // 10_000} is the oldest that will do")
    )
    off = [name for name in ("fsync", "full_page_writes") if not getattr(server, name)]
    yield (
        Check(
            "durability", "wrong", f"{' and '.join(off)} off: a crash can lose uploads that were answered", "Switch on"
        )
        if off
        else Check("durability", "ok", "what was committed outlives a crash")
    )
    yield (
        Check("autovacuum", "ok", "on")
        if server.autovacuum
        else Check("autovacuum", "wrong", "off: deleted keys stay on the disk, and tables grow", "Switch it on")
    )
    logged = [f"log_statement = {server.log_statement}"] if server.log_statement in {"mod", "all"} else []
    logged += ["log_min_duration_statement"] if server.log_min_duration_ms >= 0 else []
    yield (
        Check(
            "log of the database",
            "warning",
            f"{' and '.join(logged)}: keys stand in it with the statements",
            "Set log_statement to ddl or none and log_min_duration_statement to -1, or log_parameter_max_length to 0",
        )
        if logged
        else Check("log of the database", "ok", "no statement that holds a key is logged for its own sake")
    )


def _freshness(settings: Settings, _: datetime) -> Iterator[Check]:
    with _attempt("freshness") as failed, _reading(settings) as connection:
        found = freshness.read(connection)
        period = watch.clock(connection).retention
        late = found.now - found.closed_through - found.width
        yield (
            Check("release clock", "ok", f"windows are closed through {moment(found.closed_through)}")
            if late <= _CLOSED_WITHIN
            else Check(
                "release clock",
                "wrong",
                f"windows are closed through {moment(found.closed_through)} only",
                "Look at the task close_windows of export_keys: does Airflow run?",
            )
        )
        yield (
            Check("feeds", "wrong", f"late: {found.late_feeds}", "Look at the newest runs of export_keys")
            if found.late
            else Check("feeds", "ok", f"{counted(len(found.feeds), 'feed')} that should be fresh, none late")
        )
        yield _waiting("held batches", found, "held", "`keyserver export held` tells why; decide about them")
        advice = "Purge the CDN's cache, then clear the task finish of withdraw_release"
        yield _waiting("withdrawals", found, "withdrawing", advice)
        yield _keys_to_come(found)
        yield Check("retention", "ok", f"keys go {period.days} days after they were published")
        yield _proof(found.now, found.proved_at)
    yield from failed


def _waiting(what: str, found: Freshness, status: str, advice: str) -> Check:
    waiting = [f"batch {batch.batch_id} of feed {batch.feed}" for batch in found.waiting if batch.status == status]
    return Check(what, "warning", ", ".join(waiting), advice) if waiting else Check(what, "ok", "none")


def _keys_to_come(found: Freshness) -> Check:
    soon = [
        f"{gap.what} has none from {moment(gap.without_from)} on"
        for gap in found.key_gaps
        if gap.without_from is not None and gap.without_from < found.now + _KEYS_FOR
    ]
    if soon:
        return Check("signing keys to come", "warning", ", ".join(soon), "Make the next one (docs/runbook.md)")
    return Check("signing keys to come", "ok", f"each feed and the public log has one for {_KEYS_FOR.days} days")


def _proof(now: datetime, proved_at: datetime | None) -> Check:
    what, advice = "proof of retention", "Look at the newest runs of enforce_retention"
    if proved_at is None:
        return Check(what, "warning", "there is none yet", advice)
    if now - proved_at > _PROVED_WITHIN:
        return Check(what, "wrong", f"the newest is of {moment(proved_at)}", advice)
    return Check(what, "ok", f"at {moment(proved_at)} nothing was left that should be gone")


# Keys


def _signing_keys(settings: Settings, _: datetime) -> Iterator[Check]:
    what = "signing keys"
    if "signer" not in settings.urls:
        yield Check(what, "not checked", "no signer is set for this process")
        return
    with _attempt(what) as failed, _reading(settings) as connection:
        now = signing_keys.now(connection)
        active = [
            key
            for key in signing_keys.keys(connection)
            if key.revoked_at is None and key.active_from <= now and (key.active_thru is None or now < key.active_thru)
        ]
        signer = open_signer(settings.url("signer"))
        for key in active:
            with _attempt(f"signing key {key.name}") as missing:
                held = signature.load_public_key(signer.public_key(key.name))
                if held != signature.load_public_key(key.public_key):
                    raise VerificationError("the signer holds another key than the one that is declared")
                yield Check(f"signing key {key.name}", "ok", "the signer holds the key that is declared")
            yield from missing
        if not any(key.purpose == "transparency" for key in active):
            advice = "Declare one with `purpose: transparency` (docs/transparency.md)"
            yield Check("signing key of the public log", "wrong", "none is active", advice)
        if not any(key.purpose == "export" for key in active):
            yield Check(what, "wrong", "none that signs files is active", "Declare one (docs/runbook.md)")
    yield from failed


def _revision_keys(settings: Settings, _: datetime) -> Iterator[Check]:
    what = "revision keys"
    if "keywrap" not in settings.urls or not {"pipeline", "api"} & set(settings.urls):
        yield Check(what, "not checked", "no master key is set for this process, or no role that may read them")
        return
    role = "pipeline" if "pipeline" in settings.urls else "api"
    with _attempt(what) as failed, _connected(settings, role) as connection:
        keys = revision_keys.allowed(connection)
        keywrap = open_keywrap(settings.url("keywrap"))
        for key in keys:
            keywrap.unwrap(key.wrapped, key.aad)
        yield (
            Check(what, "ok", f"the master key opens {'it' if len(keys) == 1 else f'all {len(keys)}'}")
            if keys
            else Check(what, "wrong", "there is none: no upload gets a token", "Run `keyserver keys rotate`")
        )
    yield from failed


# The store and what phones get


def _store(settings: Settings, _: datetime) -> Iterator[Check]:
    what = "object store"
    if "blobs" not in settings.urls:
        yield Check(what, "not checked", "no store is set for this process")
        return
    with _attempt(what) as failed:
        blobs = open_blobs(settings.url("blobs"))
        yield _probe(blobs)
        kept = blobs.keeps_deleted()
        yield (
            Check(
                "deleted objects",
                "wrong",
                f"the store keeps them: {kept}",
                "Keys would outlive their retention there: switch it off, and remove what it has kept",
            )
            if kept
            else Check("deleted objects", "ok", "the store itself keeps none")
        )
    yield from failed


def _probe(blobs: BlobStore) -> Check:
    """Write, read, refuse to overwrite, remove: under a name that nobody else uses and no web server shows."""
    what, path = "object store", f"{_PROBES}{secrets.token_hex(8)}"
    text = {"content_type": "text/plain", "cache_control": "no-store"}
    try:
        blobs.put_if_absent(path, b"first", **text)
        etag = blobs.read(path).etag
        refused = _is_refused(lambda: blobs.put_if_absent(path, b"second", **text)) and _is_refused(
            lambda: blobs.replace(path, b"third", f"{etag}-old", **text)
        )
        is_listed = blobs.list(_PROBES).count(path) == 1
        if not refused or blobs.read(path).data != b"first":
            return Check(what, "wrong", "it overwrites what must not be", "It needs conditional writes (B7, B9)")
        if not is_listed:
            return Check(what, "wrong", "it does not list what was just written", "It needs consistent listings")
    finally:
        with suppress(KeyserverError):
            blobs.delete(path)
    with suppress(BlobMissingError):
        blobs.read(path)
        return Check(what, "wrong", "what is deleted can still be read", "Retention would not be true there")
    return Check(what, "ok", "it can be written and read, refuses to overwrite, and deletes")


def _is_refused(write: Callable[[], None]) -> bool:
    try:
        write()
    except ConflictError:
        return True
    return False


def _public(settings: Settings, _: datetime) -> Iterator[Check]:
    what = "public URL"
    if not {"blobs", "public"} <= set(settings.urls):
        yield Check(what, "not checked", "no store or no public URL is set for this process")
        return
    base = settings.url("public").rstrip("/") + "/"
    with _attempt(what) as failed:
        blobs = open_blobs(settings.url("blobs"))
        with _reading(settings) as connection:
            feeds = files.feeds(connection)
            newest = {feed.feed_id: files.index_lines(connection, feed.feed_id)[-1:] for feed in feeds}
            known = reconciliation.known(connection, [name for names in newest.values() for name in names])
        for feed in feeds:
            with _attempt(f"public files of feed {feed.feed}") as missing:
                yield _served(blobs, base, feed, [known[name] for name in newest[feed.feed_id]])
            yield from missing
        if not feeds:
            yield Check(what, "not checked", "there is no feed yet")
    yield from failed


def _served(blobs: BlobStore, base: str, feed: files.FeedIndex, newest: Sequence[KnownFile]) -> Check:
    """Compare the index, and the newest file that it lists, with what phones get."""
    what = f"public files of feed {feed.feed}"
    try:
        stored = blobs.read(public_path(f"{feed.root}/index.txt")).data
    except BlobMissingError:
        return Check(what, "warning", "there is no index yet", "The first run of export_keys writes it")
    status, served = client.exchange("GET", f"{base}{feed.root}/index.txt", "the index", client.MAX_INDEX_SIZE, None)
    if status != HTTPStatus.OK:
        return Check(what, "wrong", f"the index is answered by status {status}", "Look at the web server or the CDN")
    if served != stored:
        return Check(what, "warning", "the index served is not that of the store", "Ask again when caches are older")
    for file in newest:
        if hashlib.sha256(client.fetch_file(base, file.name)).digest() != file.zip_sha256:
            return Check(
                what, "wrong", f"{file.name} is served with other bytes than were released", "Withdraw its batch"
            )
    return Check(what, "ok", "the public URL serves what the store holds")


# The rest


def _process(settings: Settings) -> Iterator[Check]:
    yield (
        Check(
            "maintenance mode", "warning", "on: uploads are refused where it is so", "Switch it off when you are done"
        )
        if settings.maintenance_mode
        else Check("maintenance mode", "ok", "off, by the environment of this process")
    )


def _beyond(settings: Settings) -> Iterator[Check]:
    """Say what no process of ours can delete, and what it must be set to (R4)."""
    days, server = "RETENTION", None
    with suppress(KeyserverError), _reading(settings) as connection:
        server = doctor.server(connection)
        days = f"{watch.clock(connection).retention.days} days"
    yield Check(
        "backups of the database, and recovery to a point in time",
        "not checked",
        f"archive_mode is {server.archive_mode}" if server else "the database was not asked",
        f"Keep no backup and no archived WAL for more than {days}; after a restore: `keyserver reconcile`",
    )
    if server is not None:
        bound = "without bound" if server.slot_keep_mb < 0 else f"at most {server.slot_keep_mb:,} MB"
        yield Check(
            "write-ahead log",
            "warning" if server.idle_slots and server.slot_keep_mb < 0 else "not checked",
            f"wal_keep_size {server.wal_keep_mb:,} MB; {counted(server.slots, 'replication slot')},"
            f" {server.idle_slots} of them idle, which keep {bound}",
            f"It holds deleted keys: drop slots that nobody reads, set max_slot_wal_keep_size, and replicas to {days}",
        )
    for what, advice in (
        ("disks and buckets", f"Snapshots of them, and copies in other places, at most {days}"),
        ("logs of the web server, the proxy and the CDN", f"They have addresses: none, or at most {days}"),
        ("log of the database's server", f"At most {days}: errors name no key, statements that are logged do"),
        ("Airflow's task logs", f"No key is in them; at most {days} (the folder, or the bucket of remote logs)"),
        ("Airflow's own tables", f"`airflow db clean --clean-before-timestamp` each day, with {days} ago"),
    ):
        yield Check(what, "not checked", "it cannot be seen from here", advice)


@contextmanager
def _connected(settings: Settings, role: str) -> Iterator[Connection]:
    database = Database(settings.url(role), pool_size=1)
    try:
        with database.connection() as connection:
            yield connection
    finally:
        database.forget_connections()


@contextmanager
def _reading(settings: Settings) -> Iterator[Connection]:
    role = next((role for role in _READERS if role in settings.urls), None)
    if role is None:
        raise _NobodyToAskError(f"no URL of {' or '.join(f'keyserver_{role}' for role in _READERS)} is set here")
    with _connected(settings, role) as connection:
        yield connection


@contextmanager
def _attempt(what: str) -> Iterator[list[Check]]:
    """Lend a list that holds, if the body fails, the check that says so."""
    failed: list[Check] = []
    try:
        yield failed
    except _NobodyToAskError as error:
        failed.append(Check(what, "not checked", str(error)))
    except RemoteError as error:
        failed.append(Check(what, "wrong", str(error), "Is it up? Trying again may help"))
    except KeyserverError as error:
        failed.append(Check(what, "wrong", str(error)))
