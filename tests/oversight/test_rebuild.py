"""The same rows give the same bytes (B8); what cannot be compared any more is named (A4)."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import ConfigurationError, ConflictError
from keyserver.export import build, replace, withdraw
from keyserver.export.due import claim_due
from keyserver.oversight.rebuild import Rebuilt, rebuild
from keyserver.protocol.exposure import RETENTION
from keyserver.retention.keys import delete_keys
from tests.conftest import START


def again(authority, batch_id: int, out=None) -> Rebuilt:
    return rebuild(authority.runtime(), batch_id, build.rebuild, out)


def findings(rebuilt: Rebuilt) -> list[tuple[str, str]]:
    return [(file.export_bin, file.zip) for file in rebuilt.files]


@pytest.fixture
def released(authority):
    authority.add_feed("north", max_keys=20, padding_minimum=30)
    authority.add_keys(25)
    authority.close_windows()
    assert authority.export() == [1]
    return authority


def change(authority, statement: str, **values: object) -> None:
    """As the database's owner may, past all triggers."""
    with psycopg.connect(authority.database.url("postgres")) as connection:
        connection.execute("SET session_replication_role = 'replica'")
        connection.execute(statement, values)


def test_a_released_batch_comes_out_again_byte_for_byte(released, tmp_path):
    before = released.released_files(), released.sql("SELECT max(seq) FROM audit_event"), released.statuses()
    rebuilt = again(released, 1, tmp_path / "out")
    assert rebuilt.is_proven
    assert len(rebuilt.files) > 1
    assert set(findings(rebuilt)) == {("identical", "identical")}
    for name, zip_sha256 in released.sql("SELECT name, zip_sha256 FROM file"):
        data = (tmp_path / "out" / name.split("/")[-1]).read_bytes()
        assert data == released.released_files()[name]
        assert hashlib.sha256(data).digest() == zip_sha256
    assert rebuilt.sentences()[-1] == "Batch 1 of feed north is what its rows give."
    # It only reads.
    assert before == (released.released_files(), released.sql("SELECT max(seq) FROM audit_event"), released.statuses())


def test_revised_keys_come_out_again_though_their_carrier_is_withdrawn_since(served):
    served.add_feed("north")
    keys = served.add_keys(3, report_type="likely")
    served.close_windows()
    served.export()
    served.revise(keys[:1], "confirmed")
    served.revise(keys[1:2], "negative")
    served.close_windows()
    assert served.export() == [2]
    withdraw.withdraw(served.runtime(), 1, "a mistake")
    withdraw.finish(served.runtime(), 1)
    replace.replace(served.runtime(), 1, "once more")
    assert served.export() == [3]
    assert [again(served, batch).is_proven for batch in (1, 2, 3)] == [True, True, True]


def test_a_batch_that_is_built_and_not_signed_is_compared_as_far_as_it_is(north):
    north.add_keys(3)
    north.close_windows()
    with pytest.raises(ConflictError, match="never built"):
        again(north, 1)
    claim_due(north.runtime())
    build.build(north.runtime(), 1)
    rebuilt = again(north, 1)
    assert (findings(rebuilt), rebuilt.is_proven) == ([("identical", "not signed")], True)


def test_an_empty_batch_comes_out_empty(north):
    north.close_windows()
    north.export()
    rebuilt = again(north, 1)
    assert (rebuilt.files, rebuilt.is_proven) == ([], True)
    assert "It has no files, as recorded." in rebuilt.sentences()


def test_a_changed_row_is_noticed(released):
    change(released, "UPDATE exposure SET transmission_risk = 8 - transmission_risk, days_since_onset = 14")
    rebuilt = again(released, 1)
    assert not rebuilt.is_proven
    assert ("differs", "not compared") in findings(rebuilt)
    assert rebuilt.sentences()[-1] == "Batch 1 of feed north is NOT what its rows give now."


def test_a_row_that_is_gone_too_early_is_noticed(released):
    change(released, "DELETE FROM exposure WHERE exposure_key = (SELECT min(exposure_key) FROM exposure)")
    rebuilt = again(released, 1)
    assert not rebuilt.is_proven
    assert rebuilt.gone == []
    assert "retention has no reason" in rebuilt.problems[0]


def test_a_row_that_came_late_is_noticed_though_it_is_of_no_file(released):
    (key,) = released.add_keys(1, seed=9, regions=("SE",))
    change(released, "UPDATE exposure SET created_at = %(at)s WHERE exposure_key = %(key)s", at=START, key=key)
    rebuilt = again(released, 1)
    assert set(findings(rebuilt)) == {("identical", "identical")}
    assert "more rows than when closed" in rebuilt.problems[0]
    assert not rebuilt.is_proven


def test_a_file_that_should_not_come_out_and_one_that_should_are_noticed(released):
    change(released, "UPDATE file SET number = 9 WHERE number = 1")
    assert {("not recorded", "not compared"), ("missing", "not compared")} <= set(findings(again(released, 1)))


def test_rows_that_retention_deleted_are_named(released):
    released.revise([released.sql("SELECT exposure_key FROM exposure WHERE NOT synthetic LIMIT 1")[0][0]], "confirmed")
    released.close_windows()
    released.export()
    released.database.set_time(START + RETENTION)
    delete_keys(released.runtime(role="retention"), pause=lambda _: None)
    first, second = again(released, 1), again(released, 2)
    assert (first.problems, first.is_proven) == ([], False)
    assert "were deleted by retention" in first.gone[0]
    assert first.sentences()[-1].startswith("Batch 1 of feed north is not rebuildable: rows deleted by retention.")
    assert second.gone == ["1 revision of its windows went with keys that are deleted."]
    assert not second.is_proven


def test_rows_that_are_gone_though_retention_did_not_run_are_no_retention_s(released):
    released.database.set_time(START + 2 * RETENTION)
    change(released, "DELETE FROM exposure WHERE exposure_key = (SELECT min(exposure_key) FROM exposure)")
    assert "retention has no reason" in again(released, 1).problems[0]


def test_rows_that_retention_deleted_by_a_shorter_period_are_named_when_it_is_longer_again(released):
    released.database.set_time(START + RETENTION - timedelta(days=2))
    released.sql("UPDATE retention SET period = '12 days'")
    delete_keys(released.runtime(role="retention"), pause=lambda _: None)
    released.sql("UPDATE retention SET period = '14 days'")
    assert "were deleted by retention" in again(released, 1).gone[0]


def test_rows_that_were_deleted_on_demand_are_named(released):
    key = released.sql("SELECT exposure_key FROM exposure WHERE NOT synthetic LIMIT 1")[0][0]
    change(released, "DELETE FROM exposure WHERE exposure_key = %(key)s", key=key)
    released.sql(
        "WITH deletion AS (INSERT INTO deletion (at, app_name, starts_at, ends_at, reason)"
        " VALUES (keyserver_now(), 'app', %(start)s, keyserver_now(), 'asked') RETURNING id)"
        " INSERT INTO deletion_window SELECT id, %(start)s, 1, 0 FROM deletion",
        start=START,
    )
    rebuilt = again(released, 1)
    assert (rebuilt.problems, rebuilt.is_proven) == ([], False)
    assert rebuilt.gone == ["1 key and 0 revisions of its windows were deleted on demand."]
    assert "is not rebuildable: rows deleted on demand." in rebuilt.sentences()[-1]


def test_an_empty_batch_proves_nothing_once_its_rows_are_deleted(north):
    north.add_keys(1, regions=("SE",))
    north.close_windows()
    north.export()
    assert again(north, 1).is_proven
    north.database.set_time(START + RETENTION)
    delete_keys(north.runtime(role="retention"), pause=lambda _: None)
    assert not again(north, 1).is_proven


@pytest.mark.parametrize(
    ("statement", "finding", "proven"),
    [
        ("UPDATE file SET compressor = 'another', zip_sha256 = sha256('another')", "another compressor", True),
        ("UPDATE file SET zip_sha256 = sha256('another')", "differs", False),
        ("DELETE FROM signature", "a signature is missing", False),
    ],
)
def test_the_zip_is_compared_where_it_can_be(released, statement, finding, proven):
    change(released, statement)
    rebuilt = again(released, 1)
    assert set(findings(rebuilt)) == {("identical", finding)}
    assert rebuilt.is_proven is proven


def test_there_must_be_such_a_batch_and_such_a_folder(released, tmp_path):
    with pytest.raises(ConflictError, match="no batch 2"):
        again(released, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        again(released, 1, tmp_path / "file")


def test_time_that_passes_changes_nothing(released):
    released.database.pass_time(timedelta(days=10))
    assert again(released, 1).is_proven
