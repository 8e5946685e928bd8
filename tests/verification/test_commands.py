"""The commands of an operator, as the development set-up runs them."""

from __future__ import annotations

import base64

from click.testing import Result
from typer.testing import CliRunner

from keyserver.cli import app
from keyserver.errors import ConfigurationError
from keyserver.verification.report import webhook_key
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


def test_a_realm_s_settings_are_changed(test_database, tmp_path):
    environment = {
        "KEYSERVER_PIPELINE_DATABASE_URL": test_database.url("keyserver_pipeline"),
        "KEYSERVER_VERIFICATION_SECRET": base64.b64encode(SECRET).decode(),
    }

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["verification", "realm-update", "north", *arguments], env=environment)

    with living(test_database, tmp_path) as world:
        numbers = ("--code-digits", "6", "--code-minutes", "30", "--long-code-length", "20", "--no-dates")
        types = ("--test-type", "likely", "--test-type", "confirmed", "--test-type", "likely")
        done = run(*numbers, *types, "--certificate-minutes", "5", "--codes-per-day", "9")
        assert done.exit_code == 0, done.output
        changed = "code_digits, code_lifetime, long_code_length, test_types, date_required, certificate_lifetime"
        assert done.stdout == f"Realm north is changed: {changed}, codes_per_day.\n"
        issued = world.issue(symptomDate="", testType="likely")
        assert (len(issued["code"]), len(issued["longCode"])) == (6, 20)
        assert run("--code-digits", "6").stdout == "Realm north is as it was.\n"
        report = run("--user-report-webhook", "https://authority.example/codes")
        assert report.stdout.splitlines()[0] == "Realm north is changed: user_report, user_report_webhook."
        assert report.stdout.strip().rpartition(" ")[2] == webhook_key(SECRET, "north").hex()
        assert run("--no-user-report").stdout == "Realm north is changed: user_report.\n"
    assert run("--code-digits", "5").exit_code == 2
    for refused in ((), ("--user-report-webhook", "http://plain.example")):
        assert isinstance(run(*refused).exception, ConfigurationError)
