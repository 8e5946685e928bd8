"""Counters, used challenges, codes, tokens and quality results go when they are old, each by its own limit (R1)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from keyserver.protocol.exposure import RETENTION
from keyserver.retention.records import delete_records
from keyserver.store.retention import TABLES
from tests.conftest import START
from tests.retention.conftest import DAY, events
from tests.uploads import authorise

# Of each table how to store a row of a moment, and for how long it stays from then on.
ROWS: dict[str, tuple[str, timedelta]] = {
    "upload_stats": (
        (
            "INSERT INTO upload_stats SELECT id, %(at)s, 0, '{0,0,0}', 0, 0, array_fill(0, '{16}'),"
            " array_fill(0, '{30}'), 0 FROM health_authority"
        ),
        RETENTION,
    ),
    "profile": ("INSERT INTO profile VALUES ((%(at)s AT TIME ZONE 'UTC')::date, 'confirmed', 1, 1, 0, 1)", RETENTION),
    "profile_marginal": (
        "INSERT INTO profile_marginal VALUES ((%(at)s AT TIME ZONE 'UTC')::date, 'traveler', 0, 0, 1)",
        RETENTION,
    ),
    "attestation_seen": ("INSERT INTO attestation_seen VALUES (sha256(%(at)s::text::bytea), %(at)s)", DAY),
    "verification_code": (
        (
            "INSERT INTO verification_code (realm_id, uuid, short_mac, long_mac, test_type, expires_at,"
            " long_expires_at) SELECT id, gen_random_uuid(), sha256(%(at)s::text::bytea), sha256(%(at)s::text::bytea),"
            " 'confirmed', %(at)s, %(at)s FROM verification_realm"
        ),
        RETENTION,
    ),
    "verification_token": (
        (
            "INSERT INTO verification_token (token_mac, realm_id, test_type, expires_at)"
            " SELECT sha256(%(at)s::text::bytea), id, 'confirmed', %(at)s FROM verification_realm"
        ),
        DAY,
    ),
    "verification_user_report": (
        "INSERT INTO verification_user_report SELECT sha256(%(at)s::text::bytea), id, %(at)s FROM verification_realm",
        timedelta(),
    ),
    "verification_rate": (
        "INSERT INTO verification_rate SELECT id, %(at)s::text, %(at)s, 1 FROM verification_realm",
        RETENTION,
    ),
    "quality_result": (
        (
            "INSERT INTO quality_result (at, suite, subject, expectation, owner, reason, severity, met, expected,"
            " found) VALUES (%(at)s, 's', 'batch 1', 'e', 'o', 'r', 'warn', true, '1', '1')"
        ),
        RETENTION,
    ),
}


def plant(authority, table: str, at: datetime) -> None:
    authority.sql(ROWS[table][0], at=at)


@pytest.fixture
def stocked(authority):
    """An authority with a realm of its verification service."""
    authorise(authority.database.url("postgres"))
    authority.sql(
        "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid,"
        " certificate_key, token_key) VALUES ('mine', 'i', 'a', 'v1', 'c', 't')"
    )
    return authority


def test_every_table_has_a_case():
    assert set(ROWS) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_goes_at_its_limit_and_not_before(stocked, table):
    midnight = START.replace(hour=0)
    kept_for = ROWS[table][1]
    plant(stocked, table, midnight)
    plant(stocked, table, midnight + DAY)
    runtime = stocked.runtime("retention-1", role="retention")
    stocked.database.set_time(midnight + kept_for - timedelta(microseconds=1))
    assert delete_records(runtime) == {}
    stocked.database.set_time(midnight + kept_for)
    assert delete_records(runtime) == {table: 1}
    assert delete_records(runtime) == {}
    assert stocked.sql(f"SELECT count(*) FROM {table}") == [(1,)]
    assert events(stocked, "retention.deleted") == [{"subject": {"what": table}, "counts": {"rows": 1}, "hashes": {}}]


def test_many_rows_go_in_chunks(stocked, monkeypatch):
    monkeypatch.setattr("keyserver.retention.records._ROWS_A_CHUNK", 3)
    for minute in range(7):
        plant(stocked, "quality_result", START + timedelta(minutes=minute))
    stocked.database.set_time(START + RETENTION + DAY)
    assert delete_records(stocked.runtime("retention-1", role="retention")) == {"quality_result": 7}
    assert [event["counts"]["rows"] for event in events(stocked, "retention.deleted")] == [3, 3, 1]
