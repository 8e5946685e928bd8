"""The commands of an operator, as the development set-up runs them."""

from __future__ import annotations

import base64

from typer.testing import CliRunner

from keyserver.cli import app
from tests.realms import SECRET, living

REALM = ["--issuer", "i", "--audience", "a", "--certificate-key", "certificates", "--token-key", "tokens"]


def test_a_realm_and_its_api_keys(test_database, tmp_path):
    environment = {
        "KEYSERVER_PIPELINE_DATABASE_URL": test_database.url("keyserver_pipeline"),
        "KEYSERVER_VERIFICATION_SECRET": base64.b64encode(SECRET).decode(),
    }

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["verification", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    webhook = ("--user-report-webhook", "https://authority.example/codes")
    assert len(run("realm-create", "south", *REALM, *webhook).rpartition(" ")[2]) == 64
    key = run("api-key-create", "south", "phones", "--type", "device")
    with living(test_database, tmp_path) as world:
        assert world.post("/api/verify", {"code": "0"}, key).get_json()["errorCode"] == "code_invalid"
        run("api-key-revoke", "south", "phones")
        assert world.post("/api/verify", {"code": "0"}, key).status_code == 401
