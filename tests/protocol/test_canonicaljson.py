"""Canonical JSON as another implementation of RFC 8785 writes it, and nothing else is read."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError
from keyserver.protocol.canonicaljson import decode, encode

texts = st.text(st.characters(codec="utf-8")) | st.text(st.sampled_from('"\\/\b\f\n\r\t\x01\x1f\x7f\u2028\ufffféß€😀'))
names = st.text(st.characters(min_codepoint=32, max_codepoint=126))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=15,
)


@given(value=values)
def test_it_writes_what_the_rfc_says_and_reads_it_again(value):
    assert encode(value) == rfc8785.dumps(value)
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b"{} ",
        b' {"a":1}',
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":9007199254740992}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\u000A"}',
        b'{"a":"\\ud800"}',
        b"9" * 5000,
        b"[" * 100_000,
        "{}".encode("utf-16"),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_not_canonical_is_refused(data):
    with pytest.raises(FormatError):
        decode(data)


@pytest.mark.parametrize("value", ["\ud800", {"a": object()}, {1: 2, "a": 3}, float("nan")], ids=repr)
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(FormatError):
        encode(value)
