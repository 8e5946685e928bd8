"""Base64 as phones and authorities send it: either alphabet, with or without padding (publish.md 1.3)."""

from __future__ import annotations

import binascii
import re

from keyserver.errors import FormatError

_ALPHABET = re.compile(r"[A-Za-z0-9+/_-]*")


def decode(text: str) -> bytes:
    """Return the bytes of base64 text: standard, URL-safe or mixed alphabet; any number of ``=`` at its end.

    Line breaks inside and non-zero trailing bits are ignored, as the reference does; an empty text is no bytes.

    Raises:
        FormatError: another character, or a length that no bytes have.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # as nearly all are, and several times as fast
    except ValueError:
        return _leniently(text)


def _leniently(text: str) -> bytes:
    digits = text.rstrip("=").replace("\r", "").replace("\n", "")
    if not _ALPHABET.fullmatch(digits):
        raise FormatError("is not base64")
    if len(digits) % 4 == 1:
        raise FormatError("is not base64: it is cut short")
    return binascii.a2b_base64(digits.replace("-", "+").replace("_", "/") + "=" * (-len(digits) % 4))
