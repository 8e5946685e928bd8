"""What a phone says over HTTP: an upload (publish.md 1.3, 1.4), and the fetching of an index and its files.

Every call takes an open `httpx.Client`, so that many phones can share connections, or makes its own. What may heal is
a RemoteError; an answer that is none of the protocol is a FormatError. No message holds an address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from keyserver.errors import ConfigurationError, FormatError, RemoteError

TIMEOUT = httpx.Timeout(10.0)
MAX_ANSWER_SIZE = 1024 * 1024
MAX_INDEX_SIZE = 4 * 1024 * 1024
MAX_FILE_SIZE = 64 * 1024 * 1024

# Bytes as they are stored, so that the bounds hold: nothing is unpacked on the way.
_HEADERS = {"Accept-Encoding": "identity"}
_LINE = re.compile(r"[A-Za-z0-9_~.-]+(/[A-Za-z0-9_~.-]+)*")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PublishAnswer:
    """The answer to an upload: the HTTP status and what the body held; on success `code` and `error` are empty."""

    status: int
    code: str
    error: str
    inserted: int
    warnings: tuple[str, ...]
    revision_token: str | None


def publish(base_url: str, request: Mapping[str, Any], *, http: httpx.Client | None = None) -> PublishAnswer:
    """Send an upload to ``<base_url>/v1/publish`` and return the answer, refusals included.

    Raises:
        RemoteError: no answer, or a server error without a body of the protocol (a proxy's page).
        FormatError: another answer that is not of the protocol.
        ConfigurationError: `base_url` is no URL of HTTP; so too in the functions below.
    """
    url = base_url.rstrip("/") + "/v1/publish"
    status, body = exchange("POST", url, "the answer to an upload", MAX_ANSWER_SIZE, http, json=dict(request))
    try:
        return _publish_answer(status, body)
    except FormatError as error:
        if status >= 500:
            raise RemoteError(f"the upload was answered by status {status} without a body of the protocol") from error
        raise


def fetch_index(url: str, *, http: httpx.Client | None = None) -> list[str]:
    """Return the lines of an index, oldest first; an empty index is valid.

    Raises:
        RemoteError: no answer, or a status other than 200.
        FormatError: not one relative path a line, in ASCII; or too large.
    """
    body = _fetch(url, "the index", MAX_INDEX_SIZE, http)
    if not body:
        return []
    try:
        lines = body.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("the index is not ASCII") from error
    for number, line in enumerate(lines, 1):
        if not _is_relative_path(line):
            raise FormatError(f"line {number} of the index is not a relative path")
    return lines


def fetch_file(base: str, line: str, *, http: httpx.Client | None = None) -> bytes:
    """Return the bytes of the file that an index names; `line` is appended to `base` as it is, so `base` ends in ``/``.

    Raises:
        RemoteError: no answer, or a status other than 200.
        FormatError: `line` is not a relative path, or the file is too large.
    """
    if not _is_relative_path(line):
        raise FormatError("a line of the index is not a relative path")
    return _fetch(base + line, f"the file {line}", MAX_FILE_SIZE, http)


def file_size(base: str, line: str, *, http: httpx.Client | None = None) -> int | None:
    """Ask for a file without its bytes: their number, None if the answer does not tell. Errors as `fetch_file`."""
    if not _is_relative_path(line):
        raise FormatError("a line of the index is not a relative path")
    with _answered("HEAD", base + line, f"the file {line}", http) as answer:
        if answer.status_code != 200:
            raise RemoteError(f"the file {line} was answered by status {answer.status_code}")
        told = answer.headers.get("Content-Length", "")
    return int(told) if re.fullmatch(r"[0-9]{1,15}", told) else None


def _is_relative_path(line: str) -> bool:
    return _LINE.fullmatch(line) is not None and not {".", ".."} & set(line.split("/"))


def _fetch(url: str, what: str, limit: int, http: httpx.Client | None) -> bytes:
    status, body = exchange("GET", url, what, limit, http)
    if status != 200:
        raise RemoteError(f"{what} was answered by status {status}")
    return body


def exchange(  # noqa: PLR0913 - what httpx is told
    method: str,
    url: str,
    what: str,
    limit: int,
    http: httpx.Client | None,
    *,
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> tuple[int, bytes]:
    """Return status and body of one exchange; the body is read no further than `limit` bytes."""
    body = bytearray()
    with _answered(method, url, what, http, headers=headers, **content) as answer:
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > limit:
                raise FormatError(f"{what} is larger than {limit} bytes")
        return answer.status_code, bytes(body)


@contextmanager
def _answered(
    method: str,
    url: str,
    what: str,
    http: httpx.Client | None,
    *,
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> Iterator[httpx.Response]:
    """Lend an answer whose body is not read yet."""
    stream = httpx.stream if http is None else http.stream
    try:
        with stream(method, url, headers={**_HEADERS, **(headers or {})}, timeout=TIMEOUT, **content) as answer:
            yield answer
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigurationError(f"the URL of {what} is not one that HTTP knows") from error
    except httpx.HTTPError as error:
        raise RemoteError(f"{what} did not arrive ({type(error).__name__})") from error


def _publish_answer(status: int, body: bytes) -> PublishAnswer:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FormatError("the answer to an upload is not JSON") from error
    if not isinstance(answer, dict):
        raise FormatError("the answer to an upload is not a JSON object")
    warnings: list[Any] = _typed(answer, "warnings", list, [])
    if not all(isinstance(warning, str) for warning in warnings):
        raise FormatError("the answer to an upload has warnings that are no text")
    return PublishAnswer(
        status=status,
        code=_typed(answer, "code", str, ""),
        error=_typed(answer, "error", str, ""),
        inserted=_typed(answer, "insertedExposures", int, 0),
        warnings=tuple(warnings),
        revision_token=_typed(answer, "revisionToken", str, None),
    )


def _typed(answer: dict[str, Any], field: str, kind: type, absent: _T) -> Any | _T:
    value = answer.get(field, absent)
    if field in answer and type(value) is not kind:
        raise FormatError(f"the answer to an upload has a {field} of another type")
    return value
