"""A realm of the verification service with its keys, and phones and health workers of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from api.verification import create_verification_app
from keyserver.audit import Actor
from keyserver.providers.signers import generate, open_signer
from keyserver.runtime import Runtime
from keyserver.settings import Settings
from keyserver.store.verification import NewRealm
from keyserver.verification.access import Service
from keyserver.verification.realms import create_api_key, create_realm, revoke_api_key
from keyserver.verification.report import Courier
from tests.webhooks import Webhook, serving

SECRET = bytes(range(32))


@dataclass
class World:
    """One realm, `north`, and what a test does to it."""

    database: Any
    service: Service
    app: Flask
    courier: Courier
    webhook: Webhook
    signer: Path
    device: str
    admin: str
    pipeline: Runtime

    def post(self, path: str, body: object, key: str | None = None, **headers: str) -> TestResponse:
        if key is None:
            key = self.device if path.rpartition("/")[2] in {"verify", "certificate", "user-report"} else self.admin
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Content-Type": "application/json",
            "X-API-Key": key,
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return self.app.test_client().post(path, data=data, headers=sent)

    def issue(self, **fields: Any) -> dict[str, Any]:
        """A new code: what /api/issue answers."""
        answer = self.post("/api/issue", {"testType": "confirmed", "symptomDate": "2026-03-01", **fields})
        assert answer.status_code == 200, answer.data
        return answer.get_json()

    def token(self, **fields: Any) -> str:
        return self.post("/api/verify", {"code": self.issue(**fields)["code"]}).get_json()["token"]

    def set(self, **settings: Any) -> None:
        """Change the realm's settings."""
        with self.database.admin() as connection:
            columns = ", ".join(f"{name} = %s" for name in settings)
            connection.execute(f"UPDATE verification_realm SET {columns}", list(settings.values()))

    def api_key(self, realm: str, kind: Any) -> str:
        return create_api_key(self.pipeline, SECRET, realm, f"another {kind}", kind)

    def revoke(self, name: str) -> None:
        revoke_api_key(self.pipeline, "north", name)

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.admin() as connection:
            return connection.execute(statement).fetchall()


def build(database: Any, folder: Path, webhook: Webhook, **settings: Any) -> World:
    pipeline = Runtime(Actor("a test"), database.database("pipeline"))
    for name in ("certificates", "tokens"):
        if not (folder / f"{name}.pem").exists():
            generate(folder.as_uri(), name)
    realm = NewRealm("north", "authority.example", "keyserver.example", "v1", "certificates", "tokens")
    create_realm(pipeline, realm)
    device = create_api_key(pipeline, SECRET, "north", "app", "device")
    admin = create_api_key(pipeline, SECRET, "north", "portal", "admin")
    service = Service(database.database("verification"), open_signer(folder.as_uri()), SECRET)
    courier = Courier(webhook.http, sleep=lambda _: None)
    app = create_verification_app(Settings(**settings), service, courier, settable_clock=True, sleep=lambda _: None)
    return World(database, service, app, courier, webhook, folder, device, admin, pipeline)


@contextmanager
def living(database: Any, folder: Path, **settings: Any) -> Iterator[World]:
    """A world for the time of a test; ``settings`` are the service's."""
    with serving(folder) as webhook:
        made = build(database, folder / "signer", webhook, **settings)
        yield made
        made.courier.close()
