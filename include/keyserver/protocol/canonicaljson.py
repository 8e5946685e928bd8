"""Canonical JSON (RFC 8785) as far as audit events use it: whole numbers only, names of ASCII (rule A1).

The database writes it by a function of its own (`canonical_json`); this is who reads it, and shares nothing with that.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from keyserver.errors import FormatError

_MOST = 2**53 - 1  # beyond it a number of JSON is not exact
# Names of ASCII: the order of code points is that of UTF-16's units, which the RFC asks for.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode(value: object) -> bytes:
    """Write a value of dictionaries with names of ASCII, lists, texts, whole numbers, booleans and None.

    Raises:
        FormatError: a text that UTF-8 has no bytes for.
    """
    try:
        return _ENCODER.encode(value).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError("a value that has no canonical JSON") from error


def decode(data: bytes) -> Any:
    """Read a value.

    Raises:
        FormatError: it is not JSON, or not just what `encode` writes of what it says.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_int=_whole_number, parse_float=_not_whole, parse_constant=_not_whole
        )
    except (ValueError, RecursionError) as error:
        raise FormatError("it is not JSON of whole numbers in UTF-8") from error
    if encode(value) != data:
        raise FormatError("it is not written as canonical JSON")
    return value


def _whole_number(text: str) -> int:
    number = int(text)
    if abs(number) > _MOST:
        raise ValueError("too large")
    return number


def _not_whole(_: str) -> NoReturn:
    raise ValueError("not whole")
