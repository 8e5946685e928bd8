"""Uploads for the tests of publishing: an authority and its app in a database, certificates by a phone's own code."""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import datetime, timedelta
from typing import Any

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyserver.device.issuer import Issuer, publish_hmac
from keyserver.providers import keywrap
from keyserver.settings import Settings

APP = "com.example.app"
ISSUER = "authority.example"
AUDIENCE = "keyserver.example"
KID = "v1"
SECRET = bytes(range(1, 17))
TOKEN_AAD = b"additional data of revision tokens"
PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())


def private_pem(key: Any = PRIVATE_KEY) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Any = PRIVATE_KEY) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def issuer(key: Any = PRIVATE_KEY, *, kid: str = KID, name: str = ISSUER, audience: str = AUDIENCE) -> Issuer:
    return Issuer(private_pem(key), kid=kid, issuer=name, audience=audience)


def authorise(url: str, app: str = APP, regions: tuple[str, ...] = ("DE", "AT"), name: str = ISSUER) -> None:
    """Declare an authority with the key above, valid since long ago, and an app that accepts it."""
    with psycopg.connect(url, autocommit=True) as connection:
        (authority,) = connection.execute(
            "INSERT INTO health_authority (issuer, audience, name) VALUES (%s, %s, 'An authority') RETURNING id",
            [name, AUDIENCE],
        ).fetchone()
        connection.execute(
            "INSERT INTO health_authority_key (health_authority_id, kid, public_key, valid_from)"
            " VALUES (%s, %s, %s, '2020-01-01Z')",
            [authority, KID, public_pem()],
        )
        connection.execute("INSERT INTO authorised_app (name, regions) VALUES (%s, %s)", [app, list(regions)])
        connection.execute(
            "INSERT INTO authorised_app_authority (app_name, health_authority_id) VALUES (%s, %s)", [app, authority]
        )


def api_settings(folder: Any = "/nonexistent", **values: Any) -> Settings:
    """What the API does not start without; in ``folder`` lies the master key that `add_revision_key` makes."""
    urls = {"keywrap": f"file://{folder}", **values.pop("urls", {})}
    return Settings(urls=urls, revision_token_aad_or_none=TOKEN_AAD, **values)


def add_revision_key(url: str, folder: Any) -> int:
    """Store a revision key that is long effective, as the pipeline does; return its id."""
    if not (folder / "master.key").exists():
        keywrap.generate(f"file://{folder}")
    key, aad = AESGCM.generate_key(256), os.urandom(16)
    wrapped = keywrap.open_keywrap(f"file://{folder}").wrap(key, aad)
    with psycopg.connect(url, autocommit=True) as connection:
        (kid,) = connection.execute(
            "INSERT INTO revision_key (aad, wrapped_key, created_at) VALUES (%s, %s, '2020-01-01Z') RETURNING id",
            [aad, wrapped],
        ).fetchone()
    return kid


def interval(moment: datetime) -> int:
    return int(moment.timestamp()) // 600


def key_bytes(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()[:16]


def key(name: object, start: int, period: int = 144, risk: int = 0) -> dict[str, Any]:
    """A key object as a phone sends it."""
    return {
        "key": base64.b64encode(key_bytes(name)).decode(),
        "rollingStartNumber": start,
        "rollingPeriod": period,
        "transmissionRisk": risk,
    }


def keys(now: datetime, count: int, name: object = "") -> list[dict[str, Any]]:
    """Whole days' keys, the newest of which ended at the midnight before ``now``; at most 15 are young enough."""
    midnight = interval(now.replace(hour=0, minute=0, second=0, microsecond=0))
    return [key(f"{name}/{day}", midnight - 144 * (day + 1)) for day in range(count)]


def request(
    sent: list[dict[str, Any]],
    now: datetime,
    *,
    report_type: Any = "confirmed",
    by: Issuer | None = None,
    onset: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A publish request for these keys, with a certificate that was issued a moment before ``now``."""
    certificate = (by or issuer()).certify(
        publish_hmac(SECRET, sent), report_type, now - timedelta(seconds=2), symptom_onset_interval=onset
    )
    return {
        "temporaryExposureKeys": sent,
        "healthAuthorityID": APP,
        "verificationPayload": certificate,
        "hmacKey": base64.b64encode(SECRET).decode(),
        **changes,
    }
