from __future__ import annotations

import contextlib
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import FormatError
from keyserver.protocol.verification import (
    Diagnosis,
    SentDiagnosis,
    VerificationRefusedError,
    accepted_types,
    certificate_claims,
    diagnosis,
    draw_code,
    draw_long_code,
    keyed_hash,
    parse_subject,
)

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("accept", "types"),
    [
        ([], {"confirmed", "likely", "negative", "user-report"}),
        (["confirmed"], {"confirmed"}),
        (["Likely"], {"confirmed", "likely"}),
        (["negative"], {"confirmed", "likely", "negative"}),
        (["user-report"], {"confirmed", "user-report"}),
        (["likely", "user-report"], {"confirmed", "likely", "user-report"}),
    ],
)
def test_accepting_a_type_accepts_the_stronger_ones(accept, types):
    assert accepted_types(accept) == types


@pytest.mark.parametrize(
    ("day", "now", "offset", "stored"),
    [
        ("2026-03-02", NOW, 0, date(2026, 3, 2)),
        ("2026-02-02", NOW, 0, date(2026, 2, 2)),
        ("2026-02-01", NOW, 0, None),
        ("2026-03-03", NOW, 0, None),
        ("2026-03-03", NOW, 14 * 60, date(2026, 3, 2)),  # it is tomorrow there
        ("2026-03-03", NOW, 13 * 60, None),  # there it is 23:00
        ("2026-02-01", NOW.replace(hour=3), -8 * 60, date(2026, 2, 1)),  # it is still yesterday there
    ],
)
def test_dates_are_taken_by_the_day_here_or_there(day, now, offset, stored):
    sent = SentDiagnosis("confirmed", day, "", offset)
    if stored is None:
        with pytest.raises(VerificationRefusedError) as refused:
            diagnosis(sent, now, date_required=True)
        assert refused.value.code == "invalid_date"
    else:
        assert diagnosis(sent, now, date_required=True).symptom_date == stored


DAYS = st.none() | st.dates()


@given(st.sampled_from(["confirmed", "likely", "negative", "user-report"]), DAYS, DAYS)
def test_a_subject_is_read_as_it_was_written(test_type, symptom, test):
    said = Diagnosis(test_type, symptom, test)
    assert parse_subject(said.subject) == said


def test_the_subject_of_two_parts():
    assert parse_subject("confirmed.2020-08-04") == Diagnosis("confirmed", date(2020, 8, 4), None)
    assert Diagnosis("confirmed", date(2020, 8, 4), None).subject == "confirmed.2020-08-04."


@given(st.text())
def test_other_subjects_are_refused(text):
    with contextlib.suppress(FormatError):
        assert parse_subject(text).subject.startswith(text)


def test_codes_are_of_their_alphabet_and_length():
    below = random.Random(1).randrange
    assert {len(draw_code(8, below)) for _ in range(50)} == {8}
    assert set("".join(draw_code(8, below) for _ in range(50))) == set("0123456789")
    drawn = "".join(draw_long_code(16, below) for _ in range(100))
    assert set(drawn) == set("0123456789abcdefghijklmnopqrstuvwxyz")


def test_a_hash_is_of_one_secret_one_purpose_and_one_value():
    hashes = {keyed_hash(s, p, v) for s in (b"a", b"b") for p in ("c", "d") for v in ("e", "f", "\ud800")}
    assert len(hashes) == 12


def test_only_the_symptom_date_becomes_an_onset():
    said = Diagnosis("confirmed", None, date(2026, 3, 1))
    assert "symptomOnsetInterval" not in certificate_claims(said, "mac", NOW, timedelta(minutes=15))
