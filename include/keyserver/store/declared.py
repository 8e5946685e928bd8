"""The declared configuration: who may upload, who signs, what is released where; its shape, and how it is stored.

The same shapes serve for what a document declares and for what the database holds, so that the two can be compared.
Times are aware, in UTC; public keys are SubjectPublicKeyInfo in PEM; sets (regions, issuers, keys) are sorted tuples.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from keyserver.errors import ConfigurationError
from keyserver.protocol.exposure import RETENTION
from keyserver.store.database import Connection, queries

_SQL = queries("declared")


@dataclass(frozen=True, slots=True)
class AuthorityKey:
    """A key that a health authority signs its certificates with (publish.md 4.4)."""

    kid: str
    public_key: str
    valid_from: datetime
    valid_thru: datetime | None


@dataclass(frozen=True, slots=True)
class HealthAuthority:
    """Whose certificates are believed (publish.md 4.4); known by its issuer.

    With ``jwks_uri`` its keys are fetched from there, and none is declared. ``stats``: it may read its statistics.
    """

    name: str
    issuer: str
    audience: str
    keys: tuple[AuthorityKey, ...]
    jwks_uri: str | None = None
    stats: bool = True
    certificate_max_life_minutes: int = 60


@dataclass(frozen=True, slots=True)
class Attestation:
    """How uploads from a platform prove that they come from the app.

    ``settings`` are those of the kind, plain JSON, named as in the document, but ``max_age_seconds`` (a whole number)
    and ``root_certificate`` (PEM, in place of its file); one that was left out and has no default is not there.
    """

    platform: str
    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class App:
    """Which app may upload, the regions of its keys, whose certificates it may show (publish.md 7.1).

    What it may leave out: publish.md 2.9. ``attestation``: at most one a platform, in their order.
    """

    name: str
    regions: tuple[str, ...]
    health_authorities: tuple[str, ...]
    bypass_verification: bool = False
    bypass_revision_token: bool = False
    attestation: tuple[Attestation, ...] = ()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key as the signer and the phones know it (export.md 3), or the public logs' own (rule A3)."""

    name: str
    key_id: str
    key_version: str
    public_key: str
    active_from: datetime
    active_thru: datetime | None
    purpose: str = "export"  # or "transparency"


@dataclass(frozen=True, slots=True)
class Feed:
    """One export configuration and its index (export.md 2.2). Stored, ``active_thru`` is a window's end (rule B2)."""

    name: str
    root: str
    output_region: str
    input_regions: tuple[str, ...]
    exclude_regions: tuple[str, ...]
    travelers: str
    period_minutes: int
    active_from: datetime
    active_thru: datetime | None
    max_keys: int
    padding_minimum: int
    padding_spread: int
    padding_empty: bool
    development: bool
    paused: bool
    signing_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days a key, an index line or a counter is kept (rule R1)."""

    days: int = RETENTION.days


@dataclass(frozen=True, slots=True)
class Declared:
    """A whole configuration."""

    health_authorities: tuple[HealthAuthority, ...] = ()
    apps: tuple[App, ...] = ()
    signing_keys: tuple[SigningKey, ...] = ()
    feeds: tuple[Feed, ...] = ()
    retention: Retention = Retention()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database holds, and its clock: now, the width of a window, and up to where windows are closed (W1).

    ``revoked_keys``: the signing keys that were revoked, which nothing declared undoes.
    """

    declared: Declared
    now: datetime
    width: timedelta
    closed_through: datetime
    feeds_with_batches: frozenset[str] = frozenset()
    revoked_keys: frozenset[str] = frozenset()


def read_locked(connection: Connection) -> Stored:
    """Read everything, with the release clock and the feeds locked until the transaction ends.

    So no window closes meanwhile and ``closed_through`` holds to the commit (rule B2). Raises ConfigurationError for a
    database without tables.
    """
    try:
        _SQL.lock_clock(connection)
    except psycopg.errors.UndefinedTable as error:
        raise ConfigurationError("the database has no tables yet: run `keyserver database migrate` first") from error
    _SQL.lock_feeds(connection)
    now, width_minutes, closed_through = _SQL.read_clock(connection)
    keys = defaultdict(list)
    for issuer, *columns in _SQL.health_authority_keys(connection):
        keys[issuer].append(AuthorityKey(*columns))
    attestation = defaultdict(list)
    for app_name, *columns in _SQL.app_attestation(connection):
        attestation[app_name].append(Attestation(*columns))
    feeds = []
    with_batches = set()
    for *columns, has_batches in _SQL.feeds(connection):
        plain: list[Any] = [tuple(sorted(column)) if isinstance(column, list) else column for column in columns]
        feeds.append(Feed(*plain))
        if has_batches:
            with_batches.add(feeds[-1].name)
    declared = Declared(
        tuple(
            HealthAuthority(name, issuer, audience, tuple(keys[issuer]), *columns)
            for issuer, audience, name, *columns in _SQL.health_authorities(connection)
        ),
        tuple(
            App(name, tuple(sorted(regions)), tuple(sorted(issuers)), certificate, token, tuple(attestation[name]))
            for name, regions, issuers, certificate, token in _SQL.apps(connection)
        ),
        tuple(SigningKey(*columns) for columns in _SQL.signing_keys(connection)),
        tuple(feeds),
        Retention(_SQL.retention_days(connection)),
    )
    revoked = frozenset(name for (name,) in _SQL.revoked_signing_keys(connection))
    return Stored(declared, now, timedelta(minutes=width_minutes), closed_through, frozenset(with_batches), revoked)


def write_authority(connection: Connection, authority: HealthAuthority, *, new: bool) -> None:
    """Store an authority without its keys."""
    write = _SQL.insert_health_authority if new else _SQL.update_health_authority
    columns = asdict(authority)
    del columns["keys"]
    write(connection, **columns)


def write_authority_key(connection: Connection, issuer: str, key: AuthorityKey, *, new: bool) -> None:
    """Store a key of an authority, or its new times."""
    write = _SQL.insert_health_authority_key if new else _SQL.update_health_authority_key
    write(connection, issuer=issuer, **asdict(key))


def write_app(connection: Connection, app: App, *, new: bool) -> None:
    """Store an app with all that is its own, and its authorities, which must be stored already."""
    write = _SQL.insert_app if new else _SQL.update_app
    write(
        connection,
        name=app.name,
        regions=list(app.regions),
        bypass_verification=app.bypass_verification,
        bypass_revision_token=app.bypass_revision_token,
    )
    issuers = list(app.health_authorities)
    _SQL.withdraw_app_authorities(connection, name=app.name, issuers=issuers)
    _SQL.grant_app_authorities(connection, name=app.name, issuers=issuers)
    _SQL.drop_app_attestation(connection, name=app.name, platforms=[item.platform for item in app.attestation])
    for item in app.attestation:
        _SQL.set_app_attestation(
            connection, name=app.name, platform=item.platform, kind=item.kind, settings=json.dumps(dict(item.settings))
        )


def remove_app(connection: Connection, name: str) -> None:
    """Remove an app; its keys stay."""
    _SQL.delete_app(connection, name=name)


def write_retention(connection: Connection, retention: Retention) -> None:
    """Store how long things are kept."""
    _SQL.set_retention(connection, days=retention.days)


def write_signing_key(connection: Connection, key: SigningKey, *, new: bool) -> None:
    """Store a signing key, or its new times."""
    write = _SQL.insert_signing_key if new else _SQL.update_signing_key
    write(connection, **asdict(key))


def write_feed(connection: Connection, feed: Feed, *, new: bool) -> None:
    """Store a feed and its signing keys, which must be stored already."""
    columns = {name: list(c) if isinstance(c, tuple) else c for name, c in asdict(feed).items()}
    write = _SQL.insert_feed if new else _SQL.update_feed
    write(connection, **columns)
    _SQL.drop_feed_signing_keys(connection, name=feed.name, signing_keys=columns["signing_keys"])
    _SQL.add_feed_signing_keys(connection, name=feed.name, signing_keys=columns["signing_keys"])
