"""An operator declares realms and API keys, and their public keys are shown.

The commands take the pipeline's role: it may audit, and sees no code. The service's own may not, nor let itself in.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

from keyserver.audit import recorded
from keyserver.errors import ConfigurationError, ConflictError
from keyserver.protocol import signature
from keyserver.protocol.verification import jwk
from keyserver.runtime import Runtime
from keyserver.store import verification as store
from keyserver.store.database import Connection
from keyserver.store.verification import NewRealm
from keyserver.verification.access import Service, api_key_mac

Kind = Literal["admin", "device"]


def create_realm(runtime: Runtime, realm: NewRealm) -> None:
    """Declare a realm, and audit it.

    Raises:
        ConflictError: there is one of this name; it stays as it is.
        StoreError: a value is not one that the schema takes.
    """
    with recorded(runtime.database, runtime.actor) as work:
        if store.add_realm(work.connection, realm) is None:
            raise ConflictError(f"there is a realm {realm.name} already")
        work.record("verification_realm.created", {"realm": realm.name})


def update_realm(runtime: Runtime, name: str, changes: Mapping[str, Any]) -> list[str]:
    """Change settings of a realm, by their names in `store.verification.SETTINGS`; return those that were others.

    They hold from the next request on; codes that were issued stay as they are. What changed is audited, with its
    values but for the webhook's address; when nothing did, nothing is.

    Raises:
        ConfigurationError: there is no such realm; it shall take reports of people's own and has no webhook.
        StoreError: a value is not one that the schema takes.
    """
    with recorded(runtime.database, runtime.actor) as work:
        old = store.lock_realm(work.connection, name)
        if old is None:
            raise _no_realm(name)
        new = replace(old, **changes)
        if new.user_report and new.user_report_webhook is None:
            raise ConfigurationError(f"realm {name} has no webhook to hand codes to: give its URL as well")
        changed = [setting for setting in store.SETTINGS if getattr(new, setting) != getattr(old, setting)]
        if changed:
            store.update_realm(work.connection, new)
            told = {
                setting: "another" if setting == "user_report_webhook" else _told(getattr(new, setting))
                for setting in changed
            }
            work.record("verification_realm.changed", {"realm": name, **told})
    return changed


def create_api_key(runtime: Runtime, secret: bytes, realm: str, name: str, kind: Kind) -> str:
    """Make an API key, audit it and return it: it stands nowhere else.

    Raises:
        ConfigurationError: there is no such realm.
        ConflictError: the realm has a key of this name.
    """
    api_key = secrets.token_urlsafe(32)
    with recorded(runtime.database, runtime.actor) as work:
        identifier = _realm(work.connection, realm)
        if store.add_api_key(work.connection, identifier, name, kind, api_key_mac(secret, api_key)) is None:
            raise ConflictError(f"realm {realm} has an API key {name} already")
        work.record("verification_api_key.created", {"realm": realm, "name": name, "type": kind})
    return api_key


def revoke_api_key(runtime: Runtime, realm: str, name: str) -> None:
    """End an API key at once, and audit it. Raises `ConfigurationError` for one that is not there."""
    with recorded(runtime.database, runtime.actor) as work:
        if store.revoke_api_key(work.connection, _realm(work.connection, realm), name) is None:
            raise ConfigurationError(f"realm {realm} has no live API key {name}")
        work.record("verification_api_key.revoked", {"realm": realm, "name": name})


def public_keys(service: Service, realm: str | None) -> list[Mapping[str, str]] | None:
    """Return a realm's certificate keys as JWKs (publish.md 4.9); without a name, those of the only realm.

    None: there is no such realm, or there are several. The keys of two are never mixed: whoever imports them would take
    one authority's certificates for another's.
    """
    with service.database.connection() as connection:
        known = store.signing_keys(connection)
    if realm is None and len(known) == 1:
        (realm,) = known
    if realm is None or realm not in known:
        return None
    kid, name = known[realm]
    return [jwk(kid, signature.load_public_key(service.signer.public_key(name)))]


def _realm(connection: Connection, name: str) -> int:
    identifier = store.realm_id(connection, name)
    if identifier is None:
        raise _no_realm(name)
    return identifier


def _no_realm(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is no realm {name}: make it by `keyserver verification realm-create`")


def _told(value: int | timedelta | tuple[str, ...]) -> str | int:
    """Return a setting as an event tells it: yes or no, a number, seconds, words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return f"{int(value.total_seconds())} s"
    return value if isinstance(value, int) else ", ".join(value)
