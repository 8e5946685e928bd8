"""What is declared against what is stored: the changes to make, or why they cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from keyserver.configuration.document import Problem
from keyserver.configuration.load import Configuration
from keyserver.protocol.intervals import first_gap, floor_window
from keyserver.store.declared import (
    App,
    Attestation,
    AuthorityKey,
    Feed,
    HealthAuthority,
    Retention,
    SigningKey,
    Stored,
)

_REACHES_BACK = timedelta(days=7)  # rule B2: how far a new feed's first batch may

# Where the document says it otherwise than the database.
_NAMES = {
    "certificate_max_life_minutes": "certificate_max_life",
    "period_minutes": "period",
    "active_from": "from",
    "active_thru": "thru",
    "padding_minimum": "padding.minimum",
    "padding_spread": "padding.spread",
    "padding_empty": "padding.empty",
    "max_age_seconds": "max_age",
    "root_certificate": "root_certificate_file",
}

Action = Literal["added", "changed", "ended", "removed"]


@dataclass(frozen=True, slots=True)
class KeyOfAuthority:
    """A key, and the issuer whose it is."""

    issuer: str
    key: AuthorityKey


Item = HealthAuthority | KeyOfAuthority | SigningKey | App | Feed | Retention

_KINDS = {
    HealthAuthority: "health_authority",
    KeyOfAuthority: "health_authority_key",
    SigningKey: "signing_key",
    App: "app",
    Feed: "feed",
    Retention: "retention",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one item, as it will be stored; ``sentence`` tells it to people."""

    action: Action
    item: Item
    sentence: str

    @property
    def kind(self) -> str:
        """``feed_changed`` and the like, as the audit event counts it."""
        return f"{_KINDS[type(self.item)]}_{self.action}"


def plan(configuration: Configuration, stored: Stored) -> list[Change]:
    """Return the changes in the order in which they can be made; none when all is stored as declared.

    Raises ConfigurationError, with every place that asks for what cannot be (rule B2; what is never changed under a
    stored name; what is stored, cannot be removed and is not declared).
    """
    problems: list[Problem] = []
    changes = [
        *_authorities(configuration, stored, problems),
        *_signing_keys(configuration, stored, problems),
        *_apps(configuration, stored),
        *_feeds(configuration, stored, problems),
        *_retention(configuration, stored),
    ]
    configuration.document.refused(problems)
    return changes


def _authorities(configuration: Configuration, stored: Stored, problems: list[Problem]) -> Iterator[Change]:
    before = {authority.issuer: authority for authority in stored.declared.health_authorities}
    for n, declared in enumerate(configuration.declared.health_authorities):
        issuer = declared.issuer
        old = before.pop(issuer, None)
        if old is None:
            yield Change("added", declared, f"Health authority {issuer} is added: {declared.name}.")
        elif differences := _differences(replace(old, keys=()), replace(declared, keys=())):
            yield Change("changed", declared, f"Health authority {issuer} changes: {differences}.")
        old_keys = {key.kid: key for key in old.keys} if old else {}
        for m, key in enumerate(declared.keys):
            old_key = old_keys.pop(key.kid, None)
            if old_key is None:
                sentence = f"Key {key.kid} of {issuer} is added, valid {_span(key.valid_from, key.valid_thru)}."
                yield Change("added", KeyOfAuthority(issuer, key), sentence)
            elif old_key.public_key != key.public_key:
                message = f"another public key is stored as {key.kid}, and stays: give the new one a kid of its own"
                problems.append((("health_authorities", n, "keys", m), message))
            elif differences := _differences(old_key, key):
                sentence = f"Key {key.kid} of {issuer} changes: {differences}."
                yield Change("changed", KeyOfAuthority(issuer, key), sentence)
        # What was fetched ends when it is not served any more.
        for old_key in () if declared.jwks_uri else old_keys.values():
            ended = max(stored.now, old_key.valid_from)
            if old_key.valid_thru is None or old_key.valid_thru > ended:
                key = replace(old_key, valid_thru=ended)
                sentence = f"Key {key.kid} of {issuer} ends now: it is not declared any more."
                yield Change("ended", KeyOfAuthority(issuer, key), sentence)
    problems.extend(_not_declared("health_authorities", before, "is ended with keys: []"))


def _signing_keys(configuration: Configuration, stored: Stored, problems: list[Problem]) -> Iterator[Change]:
    before = {key.name: key for key in stored.declared.signing_keys}
    taken = {(key.key_id, key.key_version): key.name for key in stored.declared.signing_keys}
    for n, declared in enumerate(configuration.declared.signing_keys):
        old = before.pop(declared.name, None)
        known_as = f"{declared.key_id} {declared.key_version}"
        if old is None:
            if other := taken.get((declared.key_id, declared.key_version)):
                message = f"{known_as} is the stored key {other}: phones need another version for another key"
                problems.append((("signing_keys", n, "key_version"), message))
            span = _span(declared.active_from, declared.active_thru)
            use = f"phones know it as {known_as}" if declared.purpose == "export" else "it signs the public logs"
            sentence = f"Signing key {declared.name} is added: {use}, active {span}."
            yield Change("added", declared, sentence)
            continue
        for what in ("public_key", "key_id", "key_version", "purpose"):
            if getattr(old, what) != getattr(declared, what):
                message = f"another {what} is stored for {declared.name}, and stays: give the new key a name of its own"
                problems.append((("signing_keys", n, what), message))
        if differences := _differences(old, declared):
            sentence = f"Signing key {declared.name} changes: {differences}."
            if declared.name in stored.revoked_keys:
                sentence += " It was revoked, and stays so."
            of_it = [feed for feed in configuration.declared.feeds if declared.name in feed.signing_keys]
            gaps = "".join(_gap_warning(feed, configuration, stored) for feed in of_it)
            yield Change("changed", declared, sentence + gaps)
    problems.extend(_not_declared("signing_keys", before, "is ended with active_thru"))


def _apps(configuration: Configuration, stored: Stored) -> Iterator[Change]:
    before = {app.name: app for app in stored.declared.apps}
    for declared in configuration.declared.apps:
        old = before.pop(declared.name, None)
        if old is None:
            sentence = f"App {declared.name} is added: keys of {', '.join(declared.regions)}"
            if declared.attestation:
                ways = ", ".join(f"{item.kind} on {item.platform}" for item in declared.attestation)
                sentence += f", attested by {ways}"
            yield Change("added", declared, f"{sentence}.{_warnings(declared)}")
        elif differences := _differences(old, declared):
            yield Change("changed", declared, f"App {declared.name} changes: {differences}.{_warnings(declared)}")
    for old in before.values():
        yield Change("removed", old, f"App {old.name} is removed: it is not declared any more.")


def _warnings(app: App) -> str:
    """publish.md 2.9: who bypasses must be told what that opens, each time that the app is touched."""
    warnings = ""
    if app.bypass_verification:
        warnings += " WARNING: bypass_verification lets ANYBODY upload keys, WITHOUT ANY PROOF of a diagnosis."
    if app.bypass_revision_token:
        warnings += " WARNING: bypass_revision_token lets uploads CHANGE OR REVOKE KEYS OF OTHER PEOPLE."
    return warnings


def _feeds(configuration: Configuration, stored: Stored, problems: list[Problem]) -> Iterator[Change]:
    before = {feed.name: feed for feed in stored.declared.feeds}
    for n, declared in enumerate(configuration.declared.feeds):
        old = before.pop(declared.name, None)
        feed = replace(declared, active_thru=_ceil(declared.active_thru, stored.width))
        found = (
            *_feed_problems(feed, old, stored),
            *_new_feed_problems(feed, old, stored),
            *_signing_problems(feed, configuration, stored),
        )
        problems.extend((("feeds", n, what), message) for what, message in found)
        if old is None:
            span = _span(feed.active_from, feed.active_thru)
            sentence = f"Feed {feed.name} is added: {feed.root}, every {_minutes(feed.period_minutes)} {span}."
            yield Change("added", feed, sentence + _gap_warning(feed, configuration, stored))
        elif differences := _differences(old, feed):
            sentence = f"Feed {feed.name} changes: {differences}."
            yield Change("changed", feed, sentence + _gap_warning(feed, configuration, stored))
    problems.extend(_not_declared("feeds", before, "is ended with thru"))


def _retention(configuration: Configuration, stored: Stored) -> Iterator[Change]:
    before, after = stored.declared.retention.days, configuration.declared.retention.days
    if before != after:
        what_goes = " What is older is deleted within an hour, for good." if after < before else ""
        sentence = f"Retention changes: from {before}d to {after}d.{what_goes}"
        yield Change("changed", configuration.declared.retention, sentence)


def _feed_problems(feed: Feed, old: Feed | None, stored: Stored) -> Iterator[tuple[str, str]]:
    width = stored.width // timedelta(minutes=1)
    if feed.period_minutes % width:
        yield "period", f"must be a multiple of this database's windows, which are {_minutes(width)} wide"
    before = old.active_thru if old else None
    if feed.active_thru == before:
        return
    if before is not None and before <= stored.closed_through:
        # Windows were closed without it since; no batch may cover them any more (rule B2).
        yield "thru", f"the feed ended at {_time(before)}, and stays so: go on with a new feed of another name and root"
    elif feed.active_thru is not None and feed.active_thru < (earliest := stored.closed_through + stored.width):
        yield "thru", f"is too early, its windows are closed: the earliest possible is {_time(earliest)}"


def _new_feed_problems(feed: Feed, old: Feed | None, stored: Stored) -> Iterator[tuple[str, str]]:
    if old is None:
        for other in stored.declared.feeds:
            if other.root == feed.root:
                yield "root", f"is that of the stored feed {other.name}; phones go on reading it, and its name stays"
    elif feed.root != old.root:
        yield "root", f"is stored as {old.root}, and stays: phones go on reading it there; declare a new feed"
    if old is not None and feed.active_from == old.active_from:
        return
    if feed.name in stored.feeds_with_batches:
        yield "from", f"is stored as {_time(cast('Feed', old).active_from)}, and stays: the feed has batches already"
    elif feed.active_from < (earliest := stored.now - _REACHES_BACK):
        yield "from", f"is more than 7 days ago: the earliest possible is {_time(earliest)}"


def _signing_problems(feed: Feed, configuration: Configuration, stored: Stored) -> Iterator[tuple[str, str]]:
    """Without an active key a batch could only wait: no file leaves unsigned (export.md B17)."""
    if feed.active_thru is not None and feed.active_thru <= stored.now:
        return
    for name in feed.signing_keys:
        if name in stored.revoked_keys:
            yield "signing_keys", f"{name} was revoked, and stays so: name another"
    moment = max(stored.now, feed.active_from)
    if _without_key_from(feed, configuration, stored) == moment:
        yield "signing_keys", f"none of them is active on {_time(moment)}"


def _gap_warning(feed: Feed, configuration: Configuration, stored: Stored) -> str:
    """B17, of a later day: it may be meant so, as long as another key is declared in time."""
    moment = _without_key_from(feed, configuration, stored)
    return f" WARNING: feed {feed.name} has no signing key from {_time(moment)} on." if moment else ""


def _without_key_from(feed: Feed, configuration: Configuration, stored: Stored) -> datetime | None:
    usable = set(feed.signing_keys) - stored.revoked_keys
    keys = [key for key in configuration.declared.signing_keys if key.name in usable]
    spans = [(key.active_from, key.active_thru) for key in keys]
    return first_gap(spans, max(stored.now, feed.active_from), feed.active_thru)


def _not_declared(section: str, left: Iterable[str], advice: str) -> Iterator[Problem]:
    for name in left:
        yield (section,), f"{name} is stored and not declared; it cannot be removed: declare it as it was (it {advice})"


def _ceil(moment: datetime | None, width: timedelta) -> datetime | None:
    """Round up to a window's end (rule B2)."""
    if moment is None:
        return None
    floor = floor_window(moment, width)
    return floor if floor == moment else floor + width


def _differences(old: Item | AuthorityKey, new: Item | AuthorityKey) -> str:
    """Return ``regions from NO to NO, SE; ...`` with the document's names; nothing when both are equal."""
    names = _NAMES if isinstance(new, Feed | HealthAuthority) else {}
    return "; ".join(
        _attestation_differences(before, after)
        if field.name == "attestation"
        else f"{names.get(field.name, field.name)} from {_shown(field.name, before)} to {_shown(field.name, after)}"
        for field in fields(new)
        if (before := getattr(old, field.name)) != (after := getattr(new, field.name))
    )


def _attestation_differences(old: tuple[Attestation, ...], new: tuple[Attestation, ...]) -> str:
    """Return ``attestation.android is added: play-integrity; attestation.ios.team_id from A to B``, and the like."""
    before, after = ({item.platform: item for item in items} for items in (old, new))
    told = []
    for platform in sorted(before | after):
        place = f"attestation.{platform}"
        match before.get(platform), after.get(platform):
            case None, Attestation(kind=kind):
                told.append(f"{place} is added: {kind}")
            case Attestation(kind=kind), None:
                told.append(f"{place} is removed: {kind} is not asked for any more")
            case Attestation(settings=was), Attestation(settings=will):
                told.extend(
                    f"{place}.{_NAMES.get(name, name)} from {_shown(name, value)} to {_shown(name, will.get(name))}"
                    for name in sorted({*was, *will})
                    if (value := was.get(name)) != will.get(name)
                )
    return "; ".join(told)


def _shown(name: str, value: object) -> str:
    if value is not None and name in _SHOWN:
        return _SHOWN[name](value)
    match value:
        case None:
            return _ABSENT.get(name, "open")
        case bool():
            return str(value).lower()
        case datetime():
            return _time(value)
        case tuple() | list():
            return ", ".join(value) or "none"
    return str(value)


def _minutes(minutes: int) -> str:
    return f"{minutes}m" if minutes % 60 else f"{minutes // 60}h"


def _fingerprint(pem: str) -> str:
    return f"one with SHA-256 {x509.load_pem_x509_certificate(pem.encode()).fingerprint(SHA256()).hex()}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "period_minutes": _minutes,
    "certificate_max_life_minutes": _minutes,
    "max_age_seconds": lambda seconds: _minutes(seconds // 60),
    "root_certificate": _fingerprint,
}
_ABSENT = {"jwks_uri": "none", "root_certificate": "Apple's"}


def _span(start: datetime, end: datetime | None) -> str:
    return f"from {_time(start)}" + (f" to {_time(end)}" if end else "")


def _time(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds" if utc.microsecond else "seconds").replace("+00:00", "Z")
