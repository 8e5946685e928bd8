from __future__ import annotations

from pathlib import Path

import pytest

from keyserver.errors import ConfigurationError
from keyserver.providers.secrets import Secrets, open_secrets


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return open_secrets(f"file://{tmp_path}")


def put(folder: Path, name: str, content: bytes, mode: int = 0o600) -> None:
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize("name", ["play-decryption", "secret://play-decryption"])
def test_a_secret_is_returned_byte_for_byte(tmp_path, secrets, name):
    put(tmp_path, "play-decryption", b"\x00 words\n")
    assert secrets.get(name) == b"\x00 words\n"


def test_a_replaced_secret_is_read_anew(tmp_path, secrets):
    put(tmp_path, "one", b"old")
    assert secrets.get("one") == b"old"
    put(tmp_path, "one", b"new")
    assert secrets.get("one") == b"new"


def test_a_missing_secret_is_named(secrets):
    with pytest.raises(ConfigurationError, match=r"^there is no secret one$"):
        secrets.get("one")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_may_read_is_refused_without_its_words(tmp_path, secrets, mode):
    put(tmp_path, "one", b"words", mode)
    with pytest.raises(ConfigurationError, match=r"^others may read or write the secret one; `chmod 600 one`$"):
        secrets.get("one")


def test_a_folder_is_no_secret(tmp_path, secrets):
    (tmp_path / "one").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="the process may not read the secret one"):
        secrets.get("one")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../one", "a/b", "/etc/passwd", ".one", "one\n", "a\0b", "secret://", "x" * 101, "secret:one"],
)
def test_a_name_never_leaves_the_folder(tmp_path, secrets, name):
    put(tmp_path.parent, "one", b"words")
    with pytest.raises(ConfigurationError, match="a secret's name is of letters"):
        secrets.get(name)


@pytest.mark.parametrize("url", ["env:NAME", "https://vault.example/x", "file:///", "file://host/folder", "/srv"])
def test_only_a_folder_is_a_store(url):
    with pytest.raises(ConfigurationError, match="the secrets: "):
        open_secrets(url)
