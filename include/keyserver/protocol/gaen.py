"""What a phone computes from a Temporary Exposure Key: GAEN cryptography v1.2 (crypto-and-clients.md a).

A key (16 bytes) gives one rolling proximity identifier (RPI, 16 bytes) a 10-minute interval, under a key derived from
it (RPIK), and encrypts four bytes of metadata beside each identifier (AEM) under another (AEMK). Everything is
bytes in, bytes out; interval numbers are unsigned 32 bits; wrong sizes and ranges raise FormatError.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyserver.errors import FormatError
from keyserver.protocol.intervals import INTERVALS_PER_DAY

KEY_LENGTH = 16
IDENTIFIER_LENGTH = 16
METADATA_LENGTH = 4

_VERSION_1_1 = 0x50
_PADDED_DATA = struct.Struct("<6s6xI")
_METADATA = struct.Struct("<Bb2x")


def identifier_key(tek: bytes) -> bytes:
    """Return the RPIK of a key: HKDF-SHA256 without salt, info ``EN-RPIK``; 16 bytes."""
    return _derive(tek, b"EN-RPIK")


def metadata_key(tek: bytes) -> bytes:
    """Return the AEMK of a key: HKDF-SHA256 without salt, info ``EN-AEMK``; 16 bytes."""
    return _derive(tek, b"EN-AEMK")


def identifier(tek: bytes, interval: int) -> bytes:
    """Return the RPI that a phone with this key broadcasts in `interval`; 16 bytes."""
    return identifiers(tek, interval, 1)[0]


def identifiers(tek: bytes, start: int, period: int) -> tuple[bytes, ...]:
    """Return the RPIs of intervals `start` to `start + period - 1`, in that order; `period` is 1 to 144.

    One AES call makes them all: this is the inner loop of matching.
    """
    cipher = Cipher(algorithms.AES(identifier_key(tek)), modes.ECB())  # noqa: S305 - one block an RPI, by the standard
    return struct.unpack("16s" * period, cipher.encryptor().update(_padded_data(start, period)))


def metadata(transmit_power: int) -> bytes:
    """Return the 4 bytes of metadata, version 1.1: version, transmit power (dBm, -128 to 127), two zero bytes."""
    try:
        return _METADATA.pack(_VERSION_1_1, transmit_power)
    except struct.error as error:
        raise FormatError(f"a transmit power of {transmit_power} dBm does not fit a signed byte") from error


def transmit_power(plain: bytes) -> int:
    """Return the transmit power, in dBm, that 4 bytes of decrypted metadata state."""
    _demand_length("metadata", plain, METADATA_LENGTH)
    return int(_METADATA.unpack(plain)[1])


def encrypt_metadata(tek: bytes, rpi: bytes, plain: bytes) -> bytes:
    """Return the AEM: the 4 bytes of metadata under AES-CTR with the AEMK, the RPI as first counter block."""
    _demand_length("metadata", plain, METADATA_LENGTH)
    _demand_length("an identifier", rpi, IDENTIFIER_LENGTH)
    return Cipher(algorithms.AES(metadata_key(tek)), modes.CTR(rpi)).encryptor().update(plain)


def decrypt_metadata(tek: bytes, rpi: bytes, aem: bytes) -> bytes:
    """Return the 4 bytes of metadata of an AEM heard beside `rpi`. Nothing authenticates them: check what they say."""
    return encrypt_metadata(tek, rpi, aem)  # AES-CTR is its own inverse


def _derive(tek: bytes, info: bytes) -> bytes:
    _demand_length("a key", tek, KEY_LENGTH)
    return HKDF(algorithm=SHA256(), length=16, salt=None, info=info).derive(tek)


@lru_cache(maxsize=1024)  # nearly all keys of a file share a few dozen starts and periods
def _padded_data(start: int, period: int) -> bytes:
    if not 1 <= period <= INTERVALS_PER_DAY:
        raise FormatError(f"a rolling period of {period} is outside 1..{INTERVALS_PER_DAY}")
    try:
        return b"".join(_PADDED_DATA.pack(b"EN-RPI", interval) for interval in range(start, start + period))
    except struct.error as error:
        raise FormatError(f"intervals from {start} do not fit 32 bits") from error


def _demand_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise FormatError(f"{what} has {len(value)} bytes, not {length}")
