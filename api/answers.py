"""How an answer is filled up, so that the length of its body does not tell how it came out (E1, publish.md 1.6)."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from flask import Response, g, has_app_context

from keyserver.protocol.messages import CONTENT_TYPE
from keyserver.settings import Settings

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

# What a publish answer may say before its length would tell: a revision token (1.9 kB at most) and a text on 30 keys.
ROOM_BYTES = 4096
# A stats answer tells of up to 15 days (6.2).
STATS_ROOM_BYTES = 12_288


class Answers:
    """Makes the answers of one route; their bodies' lengths come from one distribution, whatever they say.

    An answer is `room` bytes and padding. The settings' minimum and range are the reference's: random bytes, which
    base64 makes a third longer. An answer that says less than `room` gets the rest as padding too; so its padding is
    never shorter than the settings ask for, and longer by what it did not say.
    """

    def __init__(self, settings: Settings, *, room: int = ROOM_BYTES) -> None:
        """``room``: bytes, more than the route's longest answer without its padding."""
        self.room = room
        self._least = settings.response_padding_min_bytes
        self._range = settings.response_padding_range

    def respond(
        self,
        status: int,
        fields: Mapping[str, Any],
        *,
        version: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return compact JSON of ``fields`` without the empty ones, and ``padding``; ``version`` adds x-api-version."""
        response = Response(self.encode(fields), status, content_type=CONTENT_TYPE)
        if has_app_context():
            g.code = fields.get("code", "")  # for the metrics
        if version:
            response.headers["x-api-version"] = "v1"
        response.headers.extend(headers or {})
        return response

    def encode(self, fields: Mapping[str, Any]) -> bytes:
        """Return the body."""
        said = {name: value for name, value in fields.items() if value} | {"padding": ""}
        text = _COMPACT.encode(said).encode()
        length = self.room + _base64_length(self._least + secrets.randbelow(self._range))
        while length - len(text) < _base64_length(self._least):
            # Longer than was thought possible: it tells that much, and no more.
            length += self.room or len(text)
        return text[:-2] + _padding(length - len(text)) + text[-2:]


def _base64_length(size: int) -> int:
    return (size + 2) // 3 * 4


def _padding(length: int) -> bytes:
    """Return random base64 of any length: publish.md 1.3 reads it with any number of ``=`` at its end."""
    text = base64.b64encode(secrets.token_bytes(length // 4 * 3 + 3))[:length]
    # One character of four cannot stand alone.
    return text[:-1] + b"=" if length % 4 == 1 else text
