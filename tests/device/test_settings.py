"""A phone's settings and the commands that use it, on files made here."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from keyserver.cli import app
from keyserver.device.settings import PhoneSettings
from keyserver.errors import ConfigurationError
from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo, encode, encode_signatures, pack
from keyserver.providers import signers

START = datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    """A folder with a signer's key and a phone's settings that trust it."""
    tmp_path.chmod(0o700)
    url = tmp_path.as_uri()
    (tmp_path / "export-public.pem").write_text(signers.generate(url, "export"))
    signers.generate(url, "issuer")
    settings = {
        "api_url": "http://127.0.0.1:1",
        "index_url": "http://127.0.0.1:1/index.txt",
        "base_url": "http://127.0.0.1:1/",
        "app": "app",
        "issuer": "i",
        "audience": "a",
        "kid": "v1",
        "issuer_key_file": "issuer.pem",
        "public_keys": [{"key_id": "901", "key_version": "v1", "file": "export-public.pem"}],
    }
    (tmp_path / "phone.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.fixture
def released(folder):
    """A signed file."""
    info = SignatureInfo("901", "v1")
    run = KeyRun(Metadata(1, 2, 0, 2_900_000, 144), bytes(range(32)))
    export_bin = encode(Header(START, START + timedelta(hours=1), "XN", (info,)), [run], [])
    signature = signers.open_signer(folder.as_uri()).sign("export", hashlib.sha256(export_bin).digest())
    path = folder / "released.zip"
    path.write_bytes(pack(export_bin, encode_signatures([info], [signature])))
    return path


def test_settings_find_their_files_beside_themselves(folder):
    settings = PhoneSettings.load(folder / "phone.json")
    assert list(settings.trusted()) == [("901", "v1")]
    assert settings.open_issuer()


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "look at"), ("[]", "look at"), ('{"api_url": 1}', "api_url"), ('{"surprise": 1}', "surprise")],
)
def test_what_are_no_settings_is_refused_with_the_place(tmp_path, content, said):
    (tmp_path / "phone.json").write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        PhoneSettings.load(tmp_path / "phone.json")


def test_missing_settings_are_said(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PhoneSettings.load(tmp_path / "none.json")


@pytest.mark.parametrize("pem", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_key_that_is_none_is_refused(folder, pem):
    (folder / "export-public.pem").write_text(pem)
    with pytest.raises(ConfigurationError, match="not a public key"):
        PhoneSettings.load(folder / "phone.json").trusted()


def verify(released, folder, *more: str):
    return CliRunner().invoke(
        app, ["device", "verify", str(released), "--public-key", str(folder / "export-public.pem"), *more]
    )


def test_a_file_that_verifies_is_described(released, folder):
    done = verify(released, folder, "--key-id", "901")
    assert done.exit_code == 0
    assert "XN, 2026-03-02T10:00:00Z to 2026-03-02T11:00:00Z, 2 keys, 0 revised" in done.output
    assert hashlib.sha256(released.read_bytes()).hexdigest() in done.output


def test_a_file_by_another_key_or_with_other_bytes_is_refused(released, folder):
    assert verify(released, folder, "--key-id", "902").exit_code != 0
    data = bytearray(released.read_bytes())
    data[60] ^= 1
    released.write_bytes(data)
    assert verify(released, folder, "--key-id", "901").exit_code != 0
