from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError
from keyserver.protocol.base64text import decode


@given(st.binary(max_size=40), st.integers(0, 3))
def test_scenarios_29_and_109_equivalent_encodings(data, padding):
    standard, urlsafe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    mixed = "".join(a if index % 2 else b for index, (a, b) in enumerate(zip(standard, urlsafe, strict=True)))
    for text in (standard, urlsafe, mixed):
        assert decode(text) == decode(text.rstrip("=") + "=" * padding) == data


@pytest.mark.parametrize("text", ["", "=", "=="])
def test_scenario_109_empty(text):
    assert decode(text) == b""


def test_line_breaks_and_stray_bits_are_ignored():
    assert decode("AA\r\nEC\n") == b"\x00\x01\x02"
    assert decode("//") == decode("/w") == b"\xff"


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA AA", "AA=A", "AA==\n", "AAé=", "\ufffd", "AA\x00A", "A*"])
def test_scenario_28_what_is_no_base64(text):
    with pytest.raises(FormatError, match="is not base64"):
        decode(text)


@given(st.text(max_size=30))
def test_any_text_decodes_or_is_refused(text):
    try:
        assert isinstance(decode(text), bytes)
    except FormatError as error:
        assert "base64" in str(error)  # noqa: PT017
