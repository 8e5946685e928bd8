"""Who may upload: authorised apps with their health authorities (sql/queries/authority.sql)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType

from keyserver.protocol.certificate import AuthorisedApp, Authority, AuthorityKey
from keyserver.store.database import Connection, queries

_QUERIES = queries("authority")


def upload_configuration(connection: Connection) -> Mapping[str, AuthorisedApp]:
    """Read everything that decides whether an upload is accepted: the apps by name (lower case), in one statement."""
    apps = {}
    for (name, regions), app_rows in groupby(_QUERIES.upload_configuration(connection), itemgetter(0, 1)):
        authorities = []
        for (authority_id, issuer, audience), rows in groupby(app_rows, itemgetter(2, 3, 4)):
            keys = tuple(AuthorityKey(*row[5:]) for row in rows if row[5] is not None)
            if authority_id is not None:
                authorities.append(Authority(authority_id, issuer, audience, keys))
        upper = tuple(sorted({region.upper() for region in regions}))
        apps[name] = AuthorisedApp(name, upper, tuple(authorities))
    return MappingProxyType(apps)
