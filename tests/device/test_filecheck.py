"""The command that verifies released files, as anyone runs it."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyserver.device import filecheck
from keyserver.device.client import MAX_FILE_SIZE
from tests.test_cli import done, keyserver, refused

REVOKED = 5


def pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def folder(tmp_path, make_file, signing_key):
    """Two good files of an index, the key that signed them, and another."""
    (tmp_path / "key.pem").write_bytes(pem(signing_key))
    (tmp_path / "other.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    keys = [{"key_data": bytes([n]) * 16} for n in range(5)]
    (tmp_path / "1.zip").write_bytes(make_file(keys, start=1_720_000_000))
    revised = [{"key_data": b"k" * 16, "report_type": report_type} for report_type in (1, REVOKED, REVOKED)]
    (tmp_path / "2.zip").write_bytes(make_file(revised_keys=revised))
    return tmp_path


def test_good_files_are_said_to_be_good(folder):
    files = [folder / "1.zip", folder / "2.zip"]
    first, second = done(keyserver("device", "verify", *files, "--public-key", folder / "key.pem")).splitlines()
    assert f"{files[0]}: US, 2024-07-03T09:46:40Z to 2024-07-03T10:46:40Z, 5 keys, 0 revised" in first
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() in first
    assert "0 keys, 3 revised" in second
    assert second.endswith("Its signature verifies.")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--key-id", "310"], True),
        (["--key-id", "310", "--key-version", "v1"], True),
        (["--key-id", "310", "--key-version", "v2"], False),
        (["--key-id", "311"], False),
    ],
)
def test_a_name_of_the_key_must_be_the_files(folder, options, found):
    result = keyserver("device", "verify", folder / "1.zip", "--public-key", folder / "key.pem", *options)
    assert result.returncode == (0 if found else 1)
    assert ("no signature by a trusted key" in result.stderr) != found


def test_a_bad_file_is_named_with_its_problem_and_the_others_are_still_checked(folder):
    (folder / "bad.zip").write_bytes((folder / "1.zip").read_bytes()[:-1])
    result = keyserver("device", "verify", folder / "bad.zip", folder / "2.zip", "--public-key", folder / "key.pem")
    assert result.returncode == 1
    assert f"{folder / 'bad.zip'}: refused: zip: what follows the central directory" in result.stderr
    assert "2.zip: US" in result.stdout


def test_files_of_equal_span_are_refused_together(folder):
    (folder / "again.zip").write_bytes((folder / "1.zip").read_bytes())
    result = keyserver("device", "verify", folder / "1.zip", folder / "again.zip", "--public-key", folder / "key.pem")
    assert result.returncode == 1
    assert "1.zip: US" in result.stdout
    assert "again.zip: refused: two files of one index have the same span" in result.stderr


def test_the_outcome_can_be_read_by_a_program(folder):
    result = keyserver(
        "device", "verify", folder / "2.zip", folder / "1.zip", "--public-key", folder / "key.pem", "--json"
    )
    outcome = json.loads(done(result))
    assert outcome["accepted"] is True
    second, first = outcome["files"]
    assert first == {
        "file": str(folder / "1.zip"),
        "accepted": True,
        "problem": None,
        "verified_by": "310-v1",
        "start": "2024-07-03T09:46:40+00:00",
        "end": "2024-07-03T10:46:40+00:00",
        "region": "US",
        "keys": 5,
        "revised_keys": 0,
        "revoked_keys": 0,
        "zip_sha256": hashlib.sha256((folder / "1.zip").read_bytes()).hexdigest(),
        "export_sha256": first["export_sha256"],
        "signing_keys": ["310-v1"],
    }
    assert (second["keys"], second["revised_keys"], second["revoked_keys"]) == (0, 3, 2)

    result = keyserver("device", "verify", folder / "1.zip", "--public-key", folder / "other.pem", "--json")
    assert result.returncode == 1
    outcome = json.loads(result.stdout)
    assert outcome["accepted"] is False
    assert outcome["files"] == [
        {
            "file": str(folder / "1.zip"),
            "accepted": False,
            "problem": "the file has no signature by this key",
            "verified_by": None,
        }
    ]


def test_what_cannot_be_read_is_one_message(folder):
    assert "cannot be read" in refused(
        keyserver("device", "verify", folder / "none.zip", "--public-key", folder / "key.pem")
    )
    assert "cannot be read" in refused(
        keyserver("device", "verify", folder / "1.zip", "--public-key", folder / "none.pem")
    )
    assert "not a public key" in refused(
        keyserver("device", "verify", folder / "1.zip", "--public-key", folder / "2.zip")
    )


def test_a_file_that_no_phone_would_download_is_not_read_to_its_end(folder, signing_key):
    with (folder / "large.zip").open("wb") as large:
        large.truncate(MAX_FILE_SIZE + 1)
    (verdict,) = filecheck.check([folder / "large.zip"], signing_key.public_key())
    assert verdict.problem == f"the file is larger than {MAX_FILE_SIZE} bytes"
