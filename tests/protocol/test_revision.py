from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError, VerificationError
from keyserver.protocol.pb import revision_pb2
from keyserver.protocol.revision import RevisableKey, seal, union, unseal

KID, KEY, AAD, NONCE = 7, bytes(range(32)), b"this server", b"n" * 12
A = RevisableKey(b"a" * 16, 2650032, 144)
B = RevisableKey(b"b" * 16, 2650176, 1)
C = RevisableKey(b"c" * 16, 2650320, 127)

KEYS = st.lists(
    st.builds(RevisableKey, st.binary(min_size=16, max_size=16), st.integers(0, 2**28 - 1), st.integers(1, 144)),
    max_size=70,
)


def key_of(kid: int) -> bytes | None:
    return KEY if kid == KID else None


def sealed(*keys: RevisableKey, aad: bytes = AAD) -> str:
    return seal(keys, KID, KEY, aad, NONCE)


def envelope(plaintext: bytes, kid: str = str(KID), key: bytes = KEY) -> str:
    """A token around any plaintext, written by hand as the sheet says."""
    data = NONCE + AESGCM(key).encrypt(NONCE, plaintext, AAD)
    outer = bytes([0x0A, len(kid.encode())]) + kid.encode() + b"\x12" + varint(len(data)) + data
    return base64.b64encode(outer).decode()


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def entry(revisable: RevisableKey) -> bytes:
    inner = b"\x0a\x10" + revisable.key
    for tag, number in ((0x10, revisable.interval_number), (0x18, revisable.interval_count)):
        inner += bytes([tag]) + varint(number) if number else b""
    return b"\x0a" + bytes([len(inner)]) + inner


# What the reference writes and reads


def test_scenario_77_a_token_of_the_reference_is_read_without_its_padding():
    padding = entry(RevisableKey(bytes(16), 0, 0)) * 26
    assert unseal(envelope(entry(A) + entry(B) + padding), key_of, AAD) == (A, B)


def test_a_token_begins_as_the_references_does():
    outer = base64.b64decode(sealed(A, B), validate=True)
    assert outer.startswith(b"\x0a\x017\x12")
    data = revision_pb2.RevisionToken.FromString(outer).data
    assert data[:12] == NONCE
    plaintext = AESGCM(KEY).decrypt(NONCE, data[12:], AAD)
    assert plaintext.startswith(entry(A) + entry(B))
    # What is left is an entry that has a key only: both numbers are 0, and the reference drops it.
    *_, filler = revision_pb2.RevisionTokenData.FromString(plaintext).revisableKeys
    assert (filler.intervalNumber, filler.intervalCount) == (0, 0)
    assert not any(filler.temporaryExposureKey)


@given(KEYS)
def test_scenario_77_what_is_sealed_is_unsealed(keys):
    assert unseal(sealed(*keys), key_of, AAD) == tuple(keys)


@given(KEYS, KEYS)
def test_the_length_does_not_tell_how_many_keys_a_token_holds(some, others):
    assert len(sealed(*some[:28])) == len(sealed(*others[:28])) == len(sealed())
    blocks = max(1, (len(some) + 27) // 28)
    assert len(sealed(*some)) == len(sealed(*[A] * 28 * blocks))


# What cannot be read


@pytest.mark.parametrize("token", ["", "=", "\n", "no base64!", "AAAAA", "ä", "\ud800"])
def test_text_that_is_not_base64_is_no_token(token):
    with pytest.raises(FormatError):
        unseal(token, key_of, AAD)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(sealed(A, aad=b"another server"), id="other additional data"),
        pytest.param(seal([A], KID, bytes(32), AAD, NONCE), id="another key"),
        pytest.param(seal([A], 8, KEY, AAD, NONCE), id="an unknown or destroyed key"),
        pytest.param(seal([A], -7, KEY, AAD, NONCE), id="a negative id"),
        pytest.param(envelope(entry(A), kid=""), id="no id"),
        pytest.param(envelope(entry(A), kid="\u0667"), id="an id in other digits"),
        pytest.param(envelope(entry(A), kid="7 "), id="an id with a blank"),
        pytest.param(envelope(entry(A), kid="7" * 120), id="an endless id"),
        pytest.param(envelope(b"\xff"), id="no message inside"),
        pytest.param(base64.b64encode(b"\xff").decode(), id="no message"),
        pytest.param(base64.b64encode(b"\x0a\x01\xff").decode(), id="an id that is no text"),
        pytest.param(base64.b64encode(b"\x0a\x017").decode(), id="no data"),
        pytest.param(base64.b64encode(b"\x0a\x017\x12\x04nonc").decode(), id="a nonce that is cut short"),
        pytest.param(base64.b64encode(b"\x0a\x017\x12\x0c" + NONCE).decode(), id="no ciphertext"),
        pytest.param(base64.b64encode(base64.b64decode(sealed(A))[:-1]).decode(), id="cut short"),
    ],
)
def test_scenario_77_a_token_that_is_not_of_this_server_is_refused(token):
    with pytest.raises(VerificationError):
        unseal(token, key_of, AAD)


@given(st.integers(0, len(base64.b64decode(sealed(A))) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position, change):
    raw = bytearray(base64.b64decode(sealed(A)))
    raw[position] ^= change
    with pytest.raises(VerificationError):
        unseal(base64.b64encode(raw).decode(), key_of, AAD)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode()))
def test_any_text_is_one_of_our_errors(token):
    with pytest.raises((FormatError, VerificationError)):
        unseal(token, lambda _: KEY, AAD)


@given(st.binary(max_size=60))
def test_any_plaintext_under_our_key_is_read_or_one_of_our_errors(plaintext):
    try:
        assert isinstance(unseal(envelope(plaintext), key_of, AAD), tuple)
    except VerificationError as error:
        assert str(error) == "the revision token cannot be decrypted"  # noqa: PT017 - either way is right


def test_a_key_is_not_shown():
    assert "aaaa" not in repr(A)


# What the next token holds


def test_scenario_76_old_keys_come_first_and_each_key_once():
    assert union([A, B], [C, B], 0) == (A, B, C)
    assert union([], [A, A], 0) == (A,)


def test_scenario_76_a_duplicate_keeps_what_the_old_token_said():
    assert union([A], [RevisableKey(A.key, 1, 1)], 0) == (A,)


def test_scenario_78_a_token_from_the_old_one_alone():
    assert union([A], [], 0) == (A,)
    assert union([], [], 0) == ()


def test_old_keys_that_ended_too_long_ago_are_left_out():
    end = A.interval_number + A.interval_count
    assert union([A, C], [], end) == (A, C)
    assert union([A, C], [], end + 1) == (C,)
    assert union([A], [A], end + 1) == (A,)  # uploaded in this request: its age was judged there
