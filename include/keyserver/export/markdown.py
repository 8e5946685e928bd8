"""Requests to operators are written in Markdown; what comes from elsewhere must not become a part of its markup."""

from __future__ import annotations

_MARKUP = r"\`*_{}[]()<>#+-.!|~&"


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in _MARKUP else letter for letter in line)
