"""Secrets of other services that this server uses, by name: a port, and its backend on a local disk.

The declared configuration names secrets and never holds one. Signing keys are no secrets of this kind: the process that
signs need not see them (`keyserver.providers.signers`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from keyserver.errors import ConfigurationError
from keyserver.providers import local_folder, private_file

SCHEME = "secret://"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Secrets(Protocol):
    """Any store of small secrets, each known by a name."""

    def get(self, name: str) -> bytes:
        """Return the secret of this name, byte for byte; ``secret://NAME`` says the same.

        Raises:
            ConfigurationError: the name is none, or there is no such secret, or the process may not read it.
            RemoteError: what a retry can heal.
        """


def open_secrets(url: str) -> Secrets:
    """Open the store that a URL names: ``file:///folder``, which holds a file a secret, named as it is.

    Raises:
        ConfigurationError: the URL names none that is supported.
    """
    return LocalSecrets(local_folder(url, "the secrets"))


class LocalSecrets:
    """A folder of files, each readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; nothing is read before the first question."""
        self._folder = folder

    def get(self, name: str) -> bytes:
        """As the port says; each call reads anew, so that a secret can be replaced while the process runs."""
        bare = name.removeprefix(SCHEME)
        if not _NAME.fullmatch(bare):
            raise ConfigurationError("a secret's name is of letters, digits and, but not first, dots, _ and -")
        return private_file(self._folder / bare, f"secret {bare}")
