"""Who may upload: authorised apps with their health authorities (sql/queries/authority.sql)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType

from keyserver.protocol.certificate import AppAttestation, AuthorisedApp, Authority, AuthorityKey
from keyserver.store.database import Connection, queries

_QUERIES = queries("authority")

# Where in a row an app ends and its authority, and where an authority ends and its key.
_APP = slice(0, 5)
_AUTHORITY = slice(5, 9)
_KEY = slice(9, None)


def upload_configuration(connection: Connection) -> Mapping[str, AuthorisedApp]:
    """Read everything that decides whether an upload is accepted: the apps by name (lower case), in one statement."""
    apps = {}
    for app, app_rows in groupby(_QUERIES.upload_configuration(connection), itemgetter(_APP)):
        name, regions, bypass_verification, bypass_revision_token, by_platform = app
        authorities = []
        for (authority_id, issuer, audience, max_life), rows in groupby(app_rows, itemgetter(_AUTHORITY)):
            keys = tuple(AuthorityKey(*row[_KEY]) for row in rows if row[_KEY][0] is not None)
            if authority_id is not None:
                authorities.append(Authority(authority_id, issuer, audience, keys, max_life))
        apps[name] = AuthorisedApp(
            name,
            tuple(sorted({region.upper() for region in regions})),
            tuple(authorities),
            MappingProxyType(
                {platform: AppAttestation(**attestation) for platform, attestation in by_platform.items()}
            ),
            bypass_verification,
            bypass_revision_token,
        )
    return MappingProxyType(apps)
