from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import ConfigurationError, ConflictError, VerificationError
from keyserver.providers.keywrap import LocalKeyWrap, generate, open_keywrap

KEY, AAD = bytes(range(32)), b"a" * 16


@pytest.fixture
def url(tmp_path) -> str:
    return (tmp_path / "keywrap").as_uri()


def test_a_wrapped_key_is_unwrapped_with_its_aad_alone(url):
    generate(url)
    keywrap = open_keywrap(url)
    wrapped = keywrap.wrap(KEY, AAD)
    assert KEY not in wrapped
    assert wrapped != keywrap.wrap(KEY, AAD)
    assert open_keywrap(url).unwrap(wrapped, AAD) == KEY
    with pytest.raises(VerificationError):
        keywrap.unwrap(wrapped, b"b" * 16)


def test_another_master_key_unwraps_nothing(url, tmp_path):
    generate(url)
    other = (tmp_path / "other").as_uri()
    generate(other)
    with pytest.raises(VerificationError):
        open_keywrap(other).unwrap(open_keywrap(url).wrap(KEY, AAD), AAD)


@given(wrapped=st.binary(max_size=80))
def test_any_bytes_are_refused_alike(tmp_path_factory, wrapped):
    folder = tmp_path_factory.getbasetemp() / "one-master"
    if not folder.exists():
        generate(folder.as_uri())
    with pytest.raises(VerificationError):
        LocalKeyWrap(folder).unwrap(wrapped, AAD)


def test_a_master_key_is_its_owners_alone_and_never_replaced(url, tmp_path):
    generate(url)
    (file,) = (tmp_path / "keywrap").iterdir()
    assert (file.name, file.stat().st_mode & 0o777, file.stat().st_size) == ("master.key", 0o600, 32)
    before = file.read_bytes()
    with pytest.raises(ConflictError):
        generate(url)
    assert [path.name for path in file.parent.iterdir()] == ["master.key"]
    assert file.read_bytes() == before


def test_a_master_key_that_others_may_read_is_not_used(url, tmp_path):
    generate(url)
    (tmp_path / "keywrap" / "master.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"chmod 600 master\.key"):
        open_keywrap(url).wrap(KEY, AAD)


def test_a_missing_or_odd_master_key_is_said(url, tmp_path):
    with pytest.raises(ConfigurationError, match="no master key"):
        open_keywrap(url).wrap(KEY, AAD)
    generate(url)
    (tmp_path / "keywrap" / "master.key").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="32 bytes"):
        open_keywrap(url).unwrap(b"x" * 60, AAD)


@pytest.mark.parametrize("url", ["gcpkms://key", "file://host/folder", "", "file:///"])
def test_a_url_that_is_not_supported_is_refused(url):
    for act in (open_keywrap, generate):
        with pytest.raises(ConfigurationError):
            act(url)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        LocalKeyWrap(tmp_path / "file" / "below").wrap(KEY, AAD)
