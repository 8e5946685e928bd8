"""Cases of the suite on stored exposures: rows that no constraint lets in, put there with the constraints away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from keyserver.quality import exposures
from keyserver.quality.suite import validate_sql
from keyserver.store.database import Database
from keyserver.store.quality import Outcome
from tests.uploads import authorise

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
# The test's database stands here; the last whole day is the one before.
NOW = datetime(2026, 3, 16, 10, 15, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0)
# Of a window that closed since the last look. A key that ended two hours before it at the latest.
NEW = NOW - 10 * MINUTE
# The hour of older rows whose turn it is.
SAMPLED = NOW.replace(minute=0) - timedelta(hours=1 + int(NOW.timestamp()) // 900 % 336)
ENDED = int((NEW - timedelta(hours=2)).timestamp()) // 600

_ROW = """
INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset, report_type,
                      traveler, regions, created_at, synthetic, app_name, health_authority_id, revised_at,
                      revised_report_type, revised_transmission_risk, revised_days_since_onset, revised_authority_id)
VALUES (%(exposure_key)s, %(interval_number)s, %(interval_count)s, %(transmission_risk)s, %(days_since_onset)s,
        %(report_type)s, false, %(regions)s, %(created_at)s, %(synthetic)s, %(app_name)s, %(health_authority_id)s,
        %(revised_at)s, %(revised_report_type)s, %(revised_transmission_risk)s, %(revised_days_since_onset)s,
        %(revised_authority_id)s)
"""
PLAIN = {
    "exposure_key": bytes(16),
    "interval_number": ENDED - 144,
    "interval_count": 144,
    "transmission_risk": 8,
    "days_since_onset": -14,
    "report_type": "confirmed",
    "regions": ["DE", "AT"],
    "created_at": NEW,
    "synthetic": False,
    "app_name": "com.example.app",
    "health_authority_id": 1,
    "revised_at": None,
    "revised_report_type": None,
    "revised_transmission_risk": None,
    "revised_days_since_onset": None,
    "revised_authority_id": None,
}
REVISED = {
    "exposure_key": b"\1" * 16,
    "report_type": "likely",
    "created_at": TODAY - 3 * DAY,
    "interval_number": ENDED - 144 - 5 * 144,
    "revised_at": NEW,
    "revised_report_type": "negative",
    "revised_transmission_risk": 0,
    "revised_authority_id": 1,
}
SYNTHETIC = {
    "exposure_key": b"\2" * 16,
    "report_type": "user-report",
    "days_since_onset": None,
    "synthetic": True,
    "app_name": None,
    "health_authority_id": None,
    "regions": ["DE"],
}
AS_CLOSED = "windows hold what they held when they closed"
OF_A_DAY = "UPDATE closed_window SET keys = %s WHERE starts_at >= %s AND starts_at < %s"
REVISED_AT = "keys are revised at a window's start, and not before they were published"


def insert(connection: psycopg.Connection, *rows: dict[str, object]) -> None:
    for row in rows:
        connection.execute(_ROW, PLAIN | row)


def prepare(connection: psycopg.Connection, url: str) -> None:
    """Store good rows and the counts of 15 days, then take away what keeps bad rows out."""
    authorise(url)
    connection.execute("UPDATE test_time SET moment = %s", [NOW])
    connection.execute("UPDATE release_clock SET closed_through = %s", [NOW - MINUTE])
    connection.execute(
        "INSERT INTO closed_window (starts_at, ends_at, keys, synthetic_keys, revisions, closed_at)"
        " SELECT start, start + interval '1 minute', 2, 1, 0, start + interval '1 minute'"
        " FROM generate_series(%s::timestamptz, %s, interval '1 minute') AS start",
        [TODAY - 15 * DAY, NOW - 2 * MINUTE],
    )
    connection.execute(
        "INSERT INTO profile (day, report_type, keys, oldest_days, shard, uploads)"
        " SELECT day, type, 14, 13, 0, uploads FROM generate_series(%s::date, %s, interval '1 day') AS day,"
        " (VALUES ('confirmed'::report_type, 80), ('likely', 15), ('user-report', 5)) AS usual (type, uploads)",
        [(TODAY - 15 * DAY).date(), TODAY.date()],
    )
    connection.execute("SET session_replication_role = replica")  # no trigger, no foreign key
    constraints = "SELECT conname FROM pg_constraint WHERE conrelid = 'exposure'::regclass AND contype = 'c'"
    for (name,) in connection.execute(constraints).fetchall():
        connection.execute(f"ALTER TABLE exposure DROP CONSTRAINT {name}")
    insert(connection, {}, REVISED, SYNTHETIC)
    for number, report_type in enumerate(["confirmed"] * 16 + ["likely"] * 3 + ["user-report"]):
        insert(
            connection,
            {
                "exposure_key": bytes([4, number] * 8),
                "report_type": report_type,
                "created_at": TODAY - DAY + MINUTE * number,
                "interval_number": ENDED - 144 - 2 * 144,
            },
        )

    count(connection)


def count(connection: psycopg.Connection) -> None:
    """Let the windows that are looked at say what they hold."""
    connection.execute(
        "UPDATE closed_window SET (keys, synthetic_keys) = (SELECT count(*), count(*) FILTER (WHERE synthetic)"
        " FROM exposure WHERE created_at = starts_at)"
        " WHERE starts_at >= %(today)s OR starts_at >= %(sampled)s AND starts_at < %(sampled)s + interval '1 hour'",
        {"today": TODAY, "sampled": SAMPLED},
    )


def check(database: Database) -> list[Outcome]:
    with database.connection() as connection:
        facts, queries = exposures.read(connection)
    return validate_sql(exposures.SUITE, database.connect, queries, facts)


def passing(request: pytest.FixtureRequest) -> list[Outcome]:
    test_database = request.getfixturevalue("test_database")
    with test_database.admin() as connection:
        prepare(connection, test_database.url("postgres"))
    return check(test_database.database("pipeline"))


def _sql(statement: str, *values: object) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    def case(request: pytest.FixtureRequest) -> list[Outcome]:
        test_database = request.getfixturevalue("test_database")
        with test_database.admin() as connection:
            prepare(connection, test_database.url("postgres"))
            connection.execute(statement, values)
        return check(test_database.database("pipeline"))

    return case


def _row(
    base: dict[str, object], *, counted: bool = True, **columns: object
) -> Callable[[pytest.FixtureRequest], list[Outcome]]:
    def case(request: pytest.FixtureRequest) -> list[Outcome]:
        test_database = request.getfixturevalue("test_database")
        with test_database.admin() as connection:
            prepare(connection, test_database.url("postgres"))
            insert(connection, base | {"exposure_key": b"\5" * 16} | columns)
            if counted:
                count(connection)
        return check(test_database.database("pipeline"))

    return case


CASES = [
    ("keys are 16 bytes", _row({}, exposure_key=b"\5" * 17)),
    ("first intervals are not negative", _row({}, interval_number=-1)),
    ("interval counts are of a day", _row({}, interval_count=0)),
    ("interval counts are of a day", _row({}, interval_number=ENDED - 145, interval_count=145)),
    ("transmission risks are known", _row({}, transmission_risk=9)),
    ("days from onset are within two weeks", _row({}, days_since_onset=15)),
    ("report types are first reports", _row({}, report_type="negative")),
    ("every key has a region", _row({}, regions=[])),
    ("keys are stored at a window's start", _row({}, created_at=NEW + timedelta(seconds=1))),
    ("the embargo is respected", _row({}, interval_number=ENDED - 143)),
    ("revisions are whole", _row({}, revised_at=NEW, revised_report_type="negative")),
    ("revisions are whole", _row({}, revised_days_since_onset=0)),
    ("revisions are whole", _row({}, revised_authority_id=1)),
    (REVISED_AT, _row(REVISED, created_at=NEW + MINUTE)),
    (REVISED_AT, _row(REVISED, revised_at=NEW + timedelta(seconds=1))),
    ("revised report types are those of revisions", _row(REVISED, revised_report_type="user-report")),
    ("revised transmission risks are known", _row(REVISED, revised_transmission_risk=-1)),
    ("revised days from onset are within two weeks", _row(REVISED, revised_days_since_onset=-15)),
    ("synthetic keys have no origin", _row(SYNTHETIC, app_name="com.example.app")),
    ("synthetic keys have no origin", _row(SYNTHETIC, health_authority_id=1)),
    ("synthetic keys have no origin", _row(REVISED, synthetic=True, app_name=None, health_authority_id=None)),
    ("authorities are known", _row({}, health_authority_id=99)),
    ("authorities are known", _row(REVISED, revised_authority_id=99)),
    ("regions of new keys are known", _row({}, regions=["DE", "Mars"])),
    (AS_CLOSED, _row({}, counted=False)),
    (AS_CLOSED, _row({}, counted=False, created_at=SAMPLED, interval_number=ENDED - 144 * 14)),
    (AS_CLOSED, _sql("UPDATE exposure SET created_at = created_at + interval '1 minute' WHERE created_at = %s", NEW)),
    ("no key is kept too long", _row({}, created_at=NOW - 14 * DAY - timedelta(minutes=76))),
    ("the share of confirmed is usual", _sql("DELETE FROM exposure WHERE report_type = 'confirmed'")),
    ("the share of likely is usual", _sql("UPDATE exposure SET report_type = 'likely' WHERE NOT synthetic")),
    ("the share of user-report is usual", _sql("UPDATE exposure SET report_type = 'user-report' WHERE NOT synthetic")),
    ("the last day's volume is usual", _sql(OF_A_DAY, 3, TODAY - DAY, TODAY)),
    ("the last day's volume is usual", _sql(OF_A_DAY, 1, TODAY - DAY, TODAY)),
]
