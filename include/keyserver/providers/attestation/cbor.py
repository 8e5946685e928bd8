"""The CBOR of attestation objects (RFC 8949; WebAuthn's subset): definite lengths, no tags, no floating numbers.

Less than a library reads, and nothing that it could be made to do: a few hundred bytes, four levels deep at most.
"""

from __future__ import annotations

from typing import Any

from keyserver.errors import FormatError

_DEPTH = 4
_LONG_LENGTHS = {24: 1, 25: 2, 26: 4, 27: 8}
_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5


def decode(data: bytes) -> Any:
    """Return the one value of ``data``: int, bytes, str, list, or dict with text as keys.

    Raises:
        FormatError: it is cut short, goes on after its value, or has what this subset has not.
    """
    value, end = _value(data, 0, _DEPTH)
    if end != len(data):
        raise FormatError("something follows the CBOR value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth < 0:
        raise FormatError("the CBOR is nested too deeply")
    kind, number, at = _head(data, at)
    if kind == _UNSIGNED:
        return number, at
    if kind in {_BYTES, _TEXT}:
        if number > len(data) - at:
            raise FormatError("the CBOR is cut short")
        content = data[at : at + number]
        try:
            return (content if kind == _BYTES else content.decode()), at + number
        except UnicodeDecodeError:
            raise FormatError("a CBOR text is not UTF-8") from None
    if kind not in {_ARRAY, _MAP}:
        raise FormatError("the CBOR has a type that attestation objects do not have")
    # Every item takes a byte at least, so a length that lies ends before the bytes do.
    items: list[Any] = []
    for _ in range(number if kind == _ARRAY else 2 * number):
        item, at = _value(data, at, depth - 1)
        items.append(item)
    if kind == _ARRAY:
        return items, at
    names = items[::2]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise FormatError("a CBOR map has a key that is no text, or one twice")
    return dict(zip(names, items[1::2], strict=True)), at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return type, number (a value or a length) and where the content begins."""
    if at >= len(data):
        raise FormatError("the CBOR is cut short")
    kind, number = data[at] >> 5, data[at] & 31
    at += 1
    if number < 24:
        return kind, number, at
    if number not in _LONG_LENGTHS:
        raise FormatError("the CBOR has an indefinite length")
    end = at + _LONG_LENGTHS[number]
    if end > len(data):
        raise FormatError("the CBOR is cut short")
    return kind, int.from_bytes(data[at:end]), end
