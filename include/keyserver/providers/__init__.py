"""The world outside, one port each; a URL chooses the backend."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from keyserver.errors import ConfigurationError, RemoteError


def local_folder(url: str, what: str) -> Path:
    """Return the folder that a ``file:///folder`` URL names, for the backend of `what` that lives on this machine.

    Raises:
        ConfigurationError: another scheme, or no absolute folder. The message never repeats the URL, which may hold
            a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{what}: not a URL") from error
    if parts.scheme != "file":
        raise ConfigurationError(f"{what}: the scheme {parts.scheme!r} is not supported; supported: file:///folder")
    folder = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not folder.strip("/") or "\0" in folder:
        raise ConfigurationError(f"{what}: a file URL must name an absolute folder and nothing else: file:///folder")
    return Path(folder)


def private_file(path: Path, what: str) -> bytes:
    """Return the bytes of a file that nobody but its owner may read; ``what`` it is, as "signing key north-1".

    Raises:
        ConfigurationError: there is none, or the process may not read it, or others may.
        RemoteError: the disk failed.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigurationError(f"others may read or write the {what}; `chmod 600 {path.name}`")
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(f"there is no {what}") from error
    except (PermissionError, IsADirectoryError) as error:
        raise ConfigurationError(f"the process may not read the {what}") from error
    except OSError as error:
        raise RemoteError(f"the {what} could not be read: {error.strerror}") from error
