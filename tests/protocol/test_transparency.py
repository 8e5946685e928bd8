"""The public log's segments: what is written is read back, whatever it says; what is not so written is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError
from keyserver.protocol.transparency import (
    NOTHING,
    Entry,
    Head,
    Segment,
    encode,
    list_name,
    parse,
    seal,
    segment_name,
    sha256,
)

MOMENT = datetime(2026, 3, 2, 10, 1, 5, tzinfo=UTC)
ENTRY = Entry("release", MOMENT, "north/1-2-00001-abcdef01.zip", MOMENT, MOMENT, 30, b"\1" * 32, b"\2" * 32)
SEGMENT = Segment("north", date(2026, 3, 2), b"\3" * 32, (ENTRY,), Head(MOMENT, 7, b"\4" * 32))

times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
hashes = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", fullmatch=True)
entries = st.builds(
    Entry, st.sampled_from(["release", "withdrawal"]), times, names, times, times,
    st.integers(0, 2**31), hashes, hashes,
)  # fmt: skip
heads = st.builds(Head, times, st.integers(0, 10**17), hashes)
segments = st.builds(
    Segment, names, st.dates(), hashes, st.lists(entries, max_size=5).map(tuple), st.none() | heads
)  # fmt: skip


@given(segments, st.binary(min_size=1, max_size=80))
def test_what_is_written_is_read_back(segment, signature):
    text = encode(segment)
    assert text.isascii()
    assert parse(seal(text, "310-log1", signature)) == (segment, text)


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(content):
    with pytest.raises(FormatError):
        parse(content)


@given(segments, st.data())
def test_a_changed_byte_is_seen_in_the_hash_or_refused(segment, data):
    sealed = seal(encode(segment), "310-log1", b"signature")
    place = data.draw(st.integers(0, len(sealed) - 1))
    changed = sealed[:place] + bytes([sealed[place] ^ data.draw(st.integers(1, 255))]) + sealed[place + 1 :]
    try:
        other, text = parse(changed)
    except FormatError:
        return
    if place < len(encode(segment)):
        assert other != segment
        assert sha256(text) != sha256(encode(segment))
    else:
        assert other == segment  # the key's name or the signature, which the signature shows


def test_the_lines_are_as_documented():
    withdrawn = replace(ENTRY, kind="withdrawal")
    sealed = seal(encode(replace(SEGMENT, entries=(ENTRY, withdrawn))), "310-log1", b"signature")
    facts = (
        f"2026-03-02T10:01:05Z north/1-2-00001-abcdef01.zip 2026-03-02T10:01:05Z 2026-03-02T10:01:05Z 30 {'01' * 32}"
    )
    assert sealed.decode("ascii").split("\n") == [
        "keyserver-log 1",
        "root north",
        "day 2026-03-02",
        f"previous {'03' * 32}",
        f"release {facts} {'02' * 32}",
        f"withdrawal {facts} {'02' * 32}",
        f"head 2026-03-02T10:01:05Z 7 {'04' * 32}",
        "signature 310-log1 c2lnbmF0dXJl",
        "",
    ]


def test_the_next_segment_names_the_lines_without_the_signature():
    text = encode(SEGMENT)
    assert sha256(text) == hashlib.sha256(text).digest()
    assert parse(seal(text, "310-log1", b"one"))[1] == parse(seal(text, "310-log2", b"another"))[1] == text


def test_names():
    assert segment_name("no/north", date(2026, 3, 2)) == "no/north/log/2026-03-02.txt"
    assert list_name("no/north") == "no/north/log/index.txt"


@pytest.mark.parametrize(
    "segment",
    [
        replace(SEGMENT, root="north south"),
        replace(SEGMENT, root=""),
        replace(SEGMENT, previous=b"\3" * 31),
        replace(SEGMENT, entries=(replace(ENTRY, name="north/a.zip\nrelease"),)),
        replace(SEGMENT, entries=(replace(ENTRY, name="nørth/a.zip"),)),
        replace(SEGMENT, entries=(replace(ENTRY, keys=-1),)),
        replace(SEGMENT, entries=(replace(ENTRY, at=MOMENT.replace(microsecond=1)),)),
        replace(SEGMENT, entries=(replace(ENTRY, at=MOMENT.replace(tzinfo=None)),)),
        replace(SEGMENT, entries=(replace(ENTRY, zip_sha256=b""),)),
        replace(SEGMENT, head=Head(MOMENT, -1, NOTHING)),
    ],
    ids=["root", "no-root", "previous", "name", "not-ascii", "keys", "fraction", "no-zone", "hash", "seq"],
)
def test_what_a_line_cannot_hold_is_not_written(segment):
    with pytest.raises(FormatError):
        encode(segment)


def test_a_key_that_a_line_cannot_hold_is_not_written():
    with pytest.raises(FormatError):
        seal(encode(SEGMENT), "310 log1", b"signature")


GOOD = seal(encode(SEGMENT), "310-log1", b"signature").decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keyserver-log 1", "keyserver-log 2"),
        ("root north", "feed north"),
        ("day 2026-03-02", "day 2026-02-30"),
        ("day 2026-03-02", "day 20260302"),
        ("previous 03", "previous 3"),
        ("release ", "retire "),
        ("release ", "release  "),
        ("T10:01:05Z north", "T25:01:05Z north"),
        (" 30 ", " 030 "),
        ("head ", "head 1 "),
        ("signature ", "signed "),
        ("c2lnbmF0dXJl", "c2lnbmF0dXJ"),
        ("c2lnbmF0dXJl", "c2ln bmF0dXJl"),
        ("\nhead", "\r\nhead"),
        ("\nhead", "\n\nhead"),
        ("north", "nørth"),
        ("c2lnbmF0dXJl\n", "c2lnbmF0dXJl"),
        ("c2lnbmF0dXJl\n", "c2lnbmF0dXJl\n\n"),
    ],
)
def test_what_is_not_so_written_is_refused(old, new):
    changed = GOOD.replace(old, new, 1)
    assert changed != GOOD
    with pytest.raises(FormatError):
        parse(changed.encode())
