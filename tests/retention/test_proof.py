"""The proof finds what deleting has left, of each kind, and names it; and nothing else (R3)."""

from __future__ import annotations

import os
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import VerificationError
from keyserver.export import confirm, index
from keyserver.export.build import stage
from keyserver.protocol.exposure import RETENTION
from keyserver.protocol.retention import CADENCE, GRACE, STAGED_FOR
from keyserver.providers.blobs import BlobVersion, LocalBlobs
from keyserver.retention.lines import expire_lines
from keyserver.retention.objects import delete_objects
from keyserver.retention.proof import prove
from keyserver.retention.staging import clean_staging
from keyserver.runtime import Runtime
from keyserver.store.retention import TABLES
from tests.conftest import START
from tests.retention.conftest import enforce, events
from tests.retention.test_records import ROWS, plant
from tests.uploads import authorise

MOMENT = timedelta(microseconds=1)


@pytest.fixture
def released(served):
    """A feed with one released batch, and a realm of the verification service; all is confirmed and cleaned."""
    authorise(served.database.url("postgres"))
    served.sql(
        "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid,"
        " certificate_key, token_key) VALUES ('mine', 'i', 'a', 'v1', 'c', 't')"
    )
    served.add_feed("north", active_from=START)
    served.add_keys(3)
    served.close_windows()
    served.export()
    confirm.confirm(served.runtime())
    clean_staging(retention(served))
    return served


def retention(authority) -> Runtime:
    return authority.runtime("retention-1", role="retention")


def left(authority) -> str:
    """What the proof says; and it says the same in the audit trail."""
    with pytest.raises(VerificationError) as caught:
        prove(retention(authority))
    ((last,),) = authority.sql("SELECT kind FROM audit_event ORDER BY seq DESC LIMIT 1")
    assert (last, bool(events(authority, last)[-1]["counts"])) == ("retention.not_proved", True)
    return str(caught.value)


def name_of(authority) -> str:
    ((name,),) = authority.sql("SELECT name FROM file")
    return name


def test_a_proof_says_of_each_kind_how_old_the_oldest_is(released):
    released.database.set_time(START + timedelta(days=3))
    kinds = {kind.kind: kind.oldest_s for kind in prove(retention(released))}
    # The results of the batch's check are of the minute after.
    assert kinds == {"exposure": 259_200, "index_line": 259_200, "object": 259_200, "quality_result": 259_140}
    ((told,),) = [[event["counts"]] for event in events(released, "retention.proved")]
    assert told == {f"{kind}_oldest_s": oldest for kind, oldest in kinds.items()}


def test_export_scenario_31_on_an_empty_database_all_is_proven(authority):
    assert enforce(authority) == []
    assert events(authority, "retention.proved") == [{"subject": {}, "counts": {}, "hashes": {}}]


def test_what_is_at_its_limit_may_wait_for_one_run_and_no_longer(released):
    released.database.set_time(START + RETENTION + CADENCE - MOMENT)
    prove(retention(released))
    released.database.set_time(START + RETENTION + CADENCE)
    problem = left(released)
    assert "3 of exposure, the oldest 14 d 1 h 0 min old" in problem
    assert "1 of index_line" in problem
    assert f"1 of index ({name_of(released)})" in problem


def test_after_retention_nothing_is_left_at_any_time(released):
    for moment in (RETENTION, RETENTION + CADENCE, RETENTION + GRACE, RETENTION + GRACE + 2 * CADENCE):
        released.database.set_time(START + moment)
        kinds = enforce(released)
    assert {kind.kind for kind in kinds} <= {"verification_rate"}


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_was_left_is_named(released, table):
    at = START.replace(hour=0)
    released.sql("DELETE FROM quality_result")
    plant(released, table, at)
    released.database.set_time(at + ROWS[table][1] + CADENCE - MOMENT)
    prove(retention(released))
    released.database.set_time(at + ROWS[table][1] + CADENCE)
    with pytest.raises(VerificationError, match=f"1 of {table}, the oldest"):
        prove(retention(released))


def test_an_index_that_was_not_written_is_named(released):
    released.database.set_time(START + RETENTION + CADENCE)
    expire_lines(retention(released))
    released.sql("DELETE FROM exposure")
    assert left(released).startswith(f"there is what should be gone: 1 of index ({name_of(released)})")


def test_an_object_that_was_not_deleted_is_named(released):
    released.sql("DELETE FROM exposure; DELETE FROM quality_result")
    released.database.set_time(START + RETENTION)
    expire_lines(retention(released))
    index.write_all(released.runtime())
    released.database.set_time(START + RETENTION + GRACE + CADENCE - MOMENT)
    prove(retention(released))
    released.sql("UPDATE file SET status = 'deleted'")
    path = f"public/{name_of(released)}"
    released.database.set_time(START + RETENTION + GRACE + CADENCE)
    with pytest.raises(VerificationError, match=f"1 of object \\({path}\\), the oldest 15 d 1 h"):
        prove(retention(released))


def test_a_staged_file_that_was_not_deleted_is_named(released):
    stage(released.runtime(), (released.public / name_of(released)).read_bytes(), "zip")
    assert released.sql("SELECT encode(zip_sha256, 'hex') FROM file")[0][0] in left_after(released, 2 * CADENCE)


def test_what_a_killed_build_left_is_named(released):
    stage(released.runtime(), b"left", "bin")
    (path,) = (released.folder / "blobs" / "staging").glob("*.bin")
    os.utime(path, (START.timestamp(),) * 2)
    assert "1 of staged (staging/" in left_after(released, STAGED_FOR + CADENCE)


def test_an_object_that_the_database_does_not_know_is_named_when_it_is_too_old(released):
    path = released.public / "north" / "stranger.zip"
    path.write_bytes(b"from another history")
    os.utime(path, (START.timestamp(),) * 2)
    prove(retention(released))
    released.database.set_time(START + RETENTION + GRACE + CADENCE)
    with pytest.raises(VerificationError, match=r"public/north/stranger\.zip"):
        prove(retention(released))


def test_a_version_that_the_bucket_kept_is_named(released):
    """The store keeps what was deleted, as a bucket with versions does."""
    path = f"public/{name_of(released)}"

    class Versioned(LocalBlobs):
        def versions(self, prefix=""):
            return [*super().versions(prefix), BlobVersion(path, START, is_current=False)]

    def prove_it() -> None:
        usual = retention(released)
        prove(Runtime(usual.actor, usual.database, Versioned(released.folder / "blobs")))

    prove_it()
    for moment in (RETENTION, RETENTION + GRACE):
        released.database.set_time(START + moment)
        enforce(released)
    prove_it()
    released.database.set_time(START + RETENTION + CADENCE + GRACE)
    with pytest.raises(VerificationError, match="1 of other_object"):
        prove_it()


def test_the_public_log_and_the_index_are_no_leftovers(released):
    folder = released.public / "north" / "log"
    folder.mkdir()
    for path in (folder / "2026-03-02.txt", folder / "index.txt", released.public / "north" / "index.txt"):
        path.touch()
        os.utime(path, (START.timestamp(),) * 2)
    for moment in (RETENTION, RETENTION + GRACE + CADENCE):
        released.database.set_time(START + moment)
        enforce(released)


def test_a_shorter_period_is_what_counts(released):
    released.sql("UPDATE retention SET period = '2 days'")
    released.database.set_time(START + timedelta(days=2) + CADENCE)
    assert "3 of exposure" in left(released)


def test_the_proof_shares_no_statement_with_what_deletes(released):
    """A mistake in one of them is found by the other: here the deleting one forgets synthetic keys."""
    with psycopg.connect(released.database.url("postgres")) as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute("UPDATE exposure SET synthetic = true")
    released.database.set_time(START + RETENTION + CADENCE)
    released.sql("DELETE FROM exposure WHERE NOT synthetic")
    assert "3 of exposure" in left(released)


def left_after(authority, time: timedelta) -> str:
    authority.database.set_time(START + time)
    return left(authority)


def test_objects_are_deleted_before_the_proof_looks(released):
    for moment in (RETENTION, RETENTION + GRACE):
        released.database.set_time(START + moment)
        enforce(released)
    assert not (released.public / "north").joinpath(name_of(released).split("/")[-1]).exists()
    assert delete_objects(retention(released)) == 0
