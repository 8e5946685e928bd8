from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyserver.errors import FormatError
from keyserver.protocol import gaen

VECTOR = Path(__file__).parents[1] / "vectors" / "gaen-v1.2.txt"
TEK = bytes.fromhex("75c734c6dd1a782de7a965da5eb93125")
START = 2642976
METADATA = bytes.fromhex("40080000")


def rows():
    lines = [line for line in VECTOR.read_text().splitlines() if not line.startswith("#")]
    return [(int(j), bytes.fromhex(rpi), bytes.fromhex(aem)) for j, rpi, aem in (line.split() for line in lines)]


def naive_identifiers(info: bytes, byte_order: str) -> set[bytes]:
    """All identifiers of the vector's key, from the definition alone, with what is to be varied."""
    rpik = hmac.digest(hmac.digest(bytes(32), TEK, "sha256"), info + b"\x01", "sha256")[:16]
    encryptor = Cipher(algorithms.AES(rpik), modes.ECB()).encryptor()  # noqa: S305
    return {
        encryptor.update(b"EN-RPI" + bytes(6) + interval.to_bytes(4, byte_order))
        for interval in range(START, START + 144)
    }


def test_the_vector_is_whole():
    assert [j for j, _, _ in rows()] == list(range(144))


def test_the_derived_keys_are_those_of_the_vector():
    assert gaen.identifier_key(TEK).hex() == "185ad91db69ec7dd048960f1f3ba6175"
    assert gaen.metadata_key(TEK).hex() == "d57c46af7a1d83965b9bed8bd152936a"


def test_all_144_rows_one_by_one():
    for j, rpi, aem in rows():
        assert gaen.identifier(TEK, START + j) == rpi
        assert gaen.encrypt_metadata(TEK, rpi, METADATA) == aem
        assert gaen.decrypt_metadata(TEK, rpi, aem) == METADATA


def test_all_144_rows_at_once():
    assert list(gaen.identifiers(TEK, START, 144)) == [rpi for _, rpi, _ in rows()]


def test_a_shorter_or_later_period_is_a_part_of_the_day():
    assert list(gaen.identifiers(TEK, START + 100, 20)) == [rpi for _, rpi, _ in rows()[100:120]]


def test_the_definition_gives_the_vector_and_two_usual_mistakes_give_no_row_of_it():
    expected = {rpi for _, rpi, _ in rows()}
    assert naive_identifiers(b"EN-RPIK", "little") == expected
    assert not naive_identifiers(b"EN-RPIK", "big") & expected
    assert not naive_identifiers(b"EN-RPIK\x00", "little") & expected


@pytest.mark.parametrize("power", [-128, -50, -1, 0, 8, 20, 127])
def test_metadata_states_version_1_1_and_the_power(power):
    plain = gaen.metadata(power)
    assert plain == bytes([0x50, power & 0xFF, 0, 0])
    assert gaen.transmit_power(plain) == power


def test_the_vectors_metadata_states_8_dbm():
    assert gaen.transmit_power(METADATA) == 8


@pytest.mark.parametrize(
    "call",
    [
        lambda: gaen.identifier_key(TEK[:15]),
        lambda: gaen.metadata_key(TEK + b"x"),
        lambda: gaen.identifiers(TEK, START, 0),
        lambda: gaen.identifiers(TEK, START, 145),
        lambda: gaen.identifiers(TEK, -1, 1),
        lambda: gaen.identifiers(TEK, 2**32 - 1, 2),
        lambda: gaen.metadata(128),
        lambda: gaen.transmit_power(b"\x50"),
        lambda: gaen.encrypt_metadata(TEK, bytes(15), METADATA),
        lambda: gaen.encrypt_metadata(TEK, bytes(16), METADATA[:3]),
        lambda: gaen.decrypt_metadata(TEK, bytes(16), bytes(5)),
    ],
)
def test_wrong_sizes_and_ranges_are_refused(call):
    with pytest.raises(FormatError):
        call()
