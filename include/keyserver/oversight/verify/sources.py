"""Where what phones get is looked at: in the store, and through the public URL. Both are asked as a phone asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx

from keyserver.device import client
from keyserver.errors import FormatError, RemoteError
from keyserver.protocol.exportfile import public_path
from keyserver.providers.blobs import BlobMissingError, BlobStore

_GONE = (404, 410)
_STORE = "http://store.invalid/"


@dataclass(frozen=True, slots=True)
class Source:
    """A place that serves indexes, logs and files. ``name`` is for people; ``base`` ends in ``/``."""

    name: str
    base: str
    http: httpx.Client

    def read(self, path: str, limit: int = client.MAX_FILE_SIZE) -> bytes | None:
        """Give an object by the name that an index has for it; None when there is none.

        Raises `RemoteError` when there is no answer that says so, `FormatError` when it is larger than ``limit``.
        """
        status, body = client.exchange("GET", self.base + path, path, limit, self.http)
        if status in _GONE:
            return None
        if status != 200:
            raise RemoteError(f"{self.name} answers {path} by status {status}")
        return body


@contextmanager
def sources(blobs: BlobStore | None, public_url: str | None) -> Iterator[list[Source]]:
    """Open the places that are given."""
    with ExitStack() as stack:
        opened = []
        if blobs is not None:
            http = stack.enter_context(httpx.Client(transport=_OfStore(blobs)))
            opened.append(Source("the store", _STORE, http))
        if public_url is not None:
            http = stack.enter_context(httpx.Client())
            opened.append(Source("the CDN", public_url.rstrip("/") + "/", http))
        yield opened


class _OfStore(httpx.BaseTransport):
    """Answers from the store, as the web server before it does."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        try:
            data = self._blobs.read(public_path(request.url.path.lstrip("/"))).data
        except (BlobMissingError, FormatError):
            return httpx.Response(404, stream=httpx.ByteStream(b""))
        return httpx.Response(200, stream=httpx.ByteStream(data))
