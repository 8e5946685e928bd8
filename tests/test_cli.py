from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "configuration.example.yaml"
PROGRAM = "from keyserver.cli import main; main()"


def keyserver(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with no settings but these."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments)],
        env={**plain, "PYTHONPATH": str(ROOT / "include"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one message of a command that could not do its work."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_help_names_the_groups():
    text = done(keyserver("--help"))
    for group in ("database", "configuration", "keys"):
        assert group in text


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from typer.testing import CliRunner; from keyserver.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'sqlalchemy', 'psycopg', 'alembic', 'pydantic', 'cryptography', 'yaml', 'aiosql', 'rfc8785'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["database"], ["configuration", "destroy"], ["configuration", "apply"]])
def test_a_mistyped_command_is_explained(arguments):
    result = keyserver(*arguments)
    assert result.returncode == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def new_database(postgres) -> Callable[[], dict[str, str]]:
    """The settings for a database that does not exist yet."""
    name = f"test_{uuid.uuid4().hex[:12]}"

    def url(role: str) -> str:
        return postgres.admin_url.replace("://postgres@/postgres", f"://{role}@/{name}", 1)

    yield {
        "KEYSERVER_ADMIN_DATABASE_URL": postgres.admin_url,
        **{
            f"KEYSERVER_{role.upper()}_DATABASE_URL": url(f"keyserver_{role}")
            for role in ("migrate", "api", "pipeline", "rewriter", "retention", "auditor", "verification")
        },
    }
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def test_a_database_from_nothing(new_database):
    assert done(keyserver("database", "setup", **new_database)) == "The database and its roles are there.\n"
    unmigrated = refused(keyserver("configuration", "apply", EXAMPLE, **new_database))
    assert "run `keyserver database migrate` first" in unmigrated
    for _ in range(2):
        text = done(keyserver("database", "migrate", KEYSERVER_WINDOW_MINUTES="5", **new_database))
        assert text == "The schema is the newest; windows are 5 minutes wide.\n"
    assert done(keyserver("database", "setup", **new_database))
    other_width = refused(keyserver("database", "migrate", KEYSERVER_WINDOW_MINUTES="6", **new_database))
    assert "this database's windows are 5 minutes wide" in other_width


def test_a_configuration_is_applied(test_database):
    url = {"KEYSERVER_PIPELINE_DATABASE_URL": test_database.url("keyserver_pipeline")}
    dry = done(keyserver("configuration", "apply", EXAMPLE, "--dry-run", **url)).splitlines()
    assert dry[-1] == "This was a dry run: nothing is changed yet."
    assert len(dry) == 7
    result = keyserver("configuration", "apply", EXAMPLE, **url)
    assert done(result).splitlines() == dry[:-1]
    assert result.stderr.startswith("audit event 1: configuration.applied")
    again = done(keyserver("configuration", "apply", EXAMPLE, **url))
    assert again == "Nothing changes: all of it is stored already.\n"
    with test_database.admin() as connection:
        body = connection.execute("SELECT convert_from(body, 'UTF8')::jsonb FROM audit_event").fetchall()
    ((event,),) = body
    assert event["actor"] == "keyserver configuration apply"
    assert event["hashes"]["configuration"] in done(keyserver("configuration", "check", EXAMPLE))


def test_a_wrong_document_is_one_message_with_a_line_for_each_mistake(tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text("version: 2\napps: 5\n")
    for command in ("check", "apply"):
        # The document is read before the database is asked for.
        result = keyserver(
            "configuration", command, file, KEYSERVER_PIPELINE_DATABASE_URL="postgresql://x@127.0.0.1:1/x"
        )
        assert refused(result) == f"{file}:1: version: must be 1\n{file}:2: apps: must be a list\n"


def test_what_another_try_may_heal_has_a_status_of_its_own():
    result = keyserver(
        "configuration", "apply", EXAMPLE, KEYSERVER_PIPELINE_DATABASE_URL="postgresql://x@127.0.0.1:1/x"
    )
    assert "the database cannot be reached" in refused(result, status=2)


def test_a_missing_setting_is_named():
    assert refused(keyserver("configuration", "apply", EXAMPLE)) == "KEYSERVER_PIPELINE_DATABASE_URL is not set\n"
    assert "KEYSERVER_WIDTH" in refused(keyserver("database", "migrate", KEYSERVER_WIDTH="5"))


def test_a_signing_key_is_made_once(tmp_path):
    url = {"KEYSERVER_SIGNER_URL": (tmp_path / "signer").as_uri()}
    public = tmp_path / "north-1.pem"
    done(keyserver("keys", "generate", "north-1", "--public", public, **url))
    private = load_pem_private_key((tmp_path / "signer" / "north-1.pem").read_bytes(), None)
    assert load_pem_public_key(public.read_bytes()) == private.public_key()
    before = public.read_bytes()
    assert done(keyserver("keys", "public", "north-1", **url)) == before.decode()
    assert "no signing key north-2" in refused(keyserver("keys", "public", "north-2", **url))
    # The public key's file is not overwritten, and no key is made for nothing.
    assert "File exists" in refused(keyserver("keys", "generate", "north-2", "--public", public, **url))
    assert not (tmp_path / "signer" / "north-2.pem").exists()
    # Nor is a key replaced, and then no empty file stays behind.
    other = tmp_path / "other.pem"
    assert "north-1" in refused(keyserver("keys", "generate", "north-1", "--public", other, **url))
    assert not other.exists()
    assert public.read_bytes() == before


def test_a_signing_key_is_handed_over_into_a_new_folder(test_database, tmp_path):
    url = {
        "KEYSERVER_SIGNER_URL": (tmp_path / "signer").as_uri(),
        "KEYSERVER_PIPELINE_DATABASE_URL": test_database.url("keyserver_pipeline"),
    }
    done(keyserver("keys", "generate", "north-1", "--public", tmp_path / "north-1.pem", **url))
    pem = (tmp_path / "north-1.pem").read_text()
    file = tmp_path / "site.yaml"
    signing_key = {"name": "north-1", "key_id": "310", "key_version": "v1", "public_key": pem}
    active = {"active_from": "2026-01-01T00:00:00Z"}
    file.write_text(yaml.safe_dump({"version": 1, "signing_keys": [signing_key | active]}))
    done(keyserver("configuration", "apply", file, **url))

    folder = tmp_path / "handover"
    summary = json.loads(done(keyserver("keys", "handover", "north-1", "--folder", folder, **url)))
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["public_key_pem"] == pem == (folder / "public.pem").read_text()
    # Two handovers never mix.
    assert "File exists" in refused(keyserver("keys", "handover", "north-1", "--folder", folder, **url))
    assert "no signing key south" in refused(
        keyserver("keys", "handover", "south", "--folder", tmp_path / "south", **url)
    )
    assert not (tmp_path / "south").exists()


def test_revision_keys_are_rotated_under_a_master_key_that_is_made_once(test_database, tmp_path):
    url = {"KEYSERVER_KEYWRAP_URL": (tmp_path / "keywrap").as_uri()}
    pipeline = {**url, "KEYSERVER_PIPELINE_DATABASE_URL": test_database.url("keyserver_pipeline")}
    assert "no master key" in refused(keyserver("keys", "rotate", **pipeline))
    done(keyserver("keys", "generate-master", **url))
    assert "there is a master key already" in refused(keyserver("keys", "generate-master", **url))
    assert done(keyserver("keys", "rotate", **pipeline)) == "Revision keys: key 1 is made; 0 destroyed.\n"
    assert done(keyserver("keys", "rotate", **pipeline)) == "Revision keys: no new key is due; 0 destroyed.\n"
    assert refused(keyserver("keys", "rotate")) == "KEYSERVER_KEYWRAP_URL is not set\n"
