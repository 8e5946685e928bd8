from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError
from keyserver.providers.attestation import cbor


@pytest.mark.parametrize(
    ("encoded", "value"),
    [  # RFC 8949, appendix A
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1a000f4240", 1000000),
        ("1bffffffffffffffff", 18446744073709551615),
        ("40", b""),
        ("4401020304", b"\1\2\3\4"),
        ("60", ""),
        ("62c3bc", "\u00fc"),
        ("80", []),
        ("8301820203820405", [1, [2, 3], [4, 5]]),
        ("a0", {}),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ],
)
def test_values_of_the_standard_are_read(encoded, value):
    assert cbor.decode(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    ("encoded", "problem"),
    [
        ("", "cut short"),
        ("18", "cut short"),
        ("1903", "cut short"),
        ("4301ff", "cut short"),
        ("8201", "cut short"),
        ("a16161", "cut short"),
        ("9bffffffffffffffff", "cut short"),
        ("5bffffffffffffffff00", "cut short"),
        ("0000", "follows"),
        ("5f4101ff", "indefinite"),
        ("1c", "indefinite"),
        ("20", "type"),
        ("c000", "type"),
        ("f5", "type"),
        ("f93c00", "indefinite|type"),
        ("61ff", "UTF-8"),
        ("a10000", "no text"),
        ("a2616101616102", "twice"),
        ("818181818100", "too deeply"),
    ],
)
def test_what_attestation_objects_do_not_have_is_refused(encoded, problem):
    with pytest.raises(FormatError, match=problem):
        cbor.decode(bytes.fromhex(encoded))


@given(st.binary(max_size=200))
def test_hostile_bytes_are_a_value_or_our_error(data):
    try:
        value = cbor.decode(data)
    except FormatError:
        return
    assert isinstance(value, int | bytes | str | list | dict)
