from __future__ import annotations

from pathlib import Path

import pytest

from keyserver.providers.secrets import Secrets, open_secrets
from tests.providers.attestation.evidence import play_keys


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """The app's response keys."""
    for name, content in zip(("decryption", "verification"), play_keys(), strict=True):
        (tmp_path / name).write_bytes(content + b"\n")
        (tmp_path / name).chmod(0o600)
    return open_secrets(tmp_path.as_uri())
