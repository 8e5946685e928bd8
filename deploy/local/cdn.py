"""What a CDN does for phones, on one machine: serves the released files, indexes and public logs, and nothing else.

Content types and cache times are those of export.md 2.11: an index is asked for each time (with its ETag, so that an
unchanged one costs no body), and so is a day of a log; a released file never changes.
"""

from __future__ import annotations

import hashlib
import os
import re
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from keyserver.errors import ConfigurationError

INDEX = {"content-type": "text/plain", "cache-control": "no-cache, max-age=0"}
REPLACED = re.compile(r"(.*/)?(index|log/[0-9-]+|log-before-restore/[0-9a-f-]+/[0-9-]+)\.txt")
FILE = {"content-type": "application/zip", "cache-control": "public, max-age=86400"}


class Published(StaticFiles):
    """Indexes, logs and zip files of one folder; every other path is 404, whether something is there or not."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer one request; hidden files (unfinished writes) do not exist either."""
        name = Path(path).name
        replaced = REPLACED.fullmatch(path) is not None
        if scope["path"].endswith("/") or name.startswith(".") or not (replaced or name.endswith(".zip")):
            raise HTTPException(404)
        if replaced and scope["method"] in {"GET", "HEAD"}:
            return self._index(path, scope)
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = FILE["cache-control"]
        if response.status_code != HTTPStatus.NOT_MODIFIED:
            response.headers["content-type"] = FILE["content-type"]
        return response

    def _index(self, path: str, scope: Scope) -> Response:
        """Answer with an index as one read had it: it may be replaced meanwhile, so length and ETag come from that."""
        place, _ = self.lookup_path(path)
        try:
            content = Path(place).read_bytes()
        except OSError as error:
            raise HTTPException(404) from error
        response = Response(content, headers={**INDEX, "etag": f'"{hashlib.sha256(content).hexdigest()}"'})
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
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
