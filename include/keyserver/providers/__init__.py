"""The world outside, one port each; a URL chooses the backend."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from keyserver.errors import ConfigurationError


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
