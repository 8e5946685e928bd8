"""What a CDN does for phones, on one machine: serves the released files and indexes, and nothing else.

Content types and cache times are those of export.md 2.11: an index is asked for each time (with its ETag, so that an
unchanged one costs no body), a released file never changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from keyserver.errors import ConfigurationError

INDEX = {"content-type": "text/plain", "cache-control": "no-cache, max-age=0"}
FILE = {"content-type": "application/zip", "cache-control": "public, max-age=86400"}


class Published(StaticFiles):
    """Indexes and zip files of one folder; every other path is 404, whether something is there or not."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer one request; hidden files (unfinished writes) do not exist either."""
        name = Path(path).name
        if scope["path"].endswith("/") or name.startswith(".") or not (name == "index.txt" or name.endswith(".zip")):
            raise HTTPException(404)
        headers = INDEX if name == "index.txt" else FILE
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = headers["cache-control"]
        if response.status_code != 304:
            response.headers["content-type"] = headers["content-type"]
        return response


def cdn(folder: Path) -> Starlette:
    """Return the application that serves ``folder``, which must exist."""
    return Starlette(routes=[Mount("/", Published(directory=folder))])


def app() -> Starlette:
    """Return the application for the ``public`` folder of the store that KEYSERVER_BLOBS_URL names (file:///...)."""
    url = urlsplit(os.environ.get("KEYSERVER_BLOBS_URL", ""))
    if url.scheme != "file" or not url.path:
        raise ConfigurationError("KEYSERVER_BLOBS_URL must be a file:/// URL of the folder that holds public/.")
    return cdn(Path(unquote(url.path)) / "public")
