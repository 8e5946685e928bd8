"""Looking at what was released as a phone does: what is wrong is said, kept in mind, and takes nothing back."""

from __future__ import annotations

import logging
import shutil

import pytest

from keyserver.errors import FormatError, RemoteError, VerificationError
from keyserver.export import confirm, withdraw
from tests.export.operators import events, everything


@pytest.fixture
def published(served):
    """An authority with two released batches, of three files and of one."""
    served.add_feed("north", max_keys=7)
    for seed, count in ((1, 20), (2, 5)):
        served.add_keys(count, seed=seed)
        served.close_windows()
    assert served.export() == [1, 2]
    return served


def waiting(authority) -> list[int]:
    return [batch for (batch,) in authority.sql("SELECT batch_id FROM file WHERE confirmed_at IS NULL ORDER BY 1")]


def first_file(authority):
    ((name,),) = authority.sql("SELECT name FROM file WHERE batch_id = 1 AND number = 1")
    return authority.public / name


def test_every_released_file_is_looked_at_once(published):
    assert confirm.confirm(published.runtime()) == 4
    assert waiting(published) == []
    assert [event["subject"]["file"] for event in events(published, "file.confirmed")] == [1, 2, 3, 1]
    before = everything(published)
    assert confirm.confirm(published.runtime("run-2")) == 0
    assert everything(published) == before


def test_other_bytes_than_were_released_are_an_alert_and_take_nothing_back(published, caplog):
    file = first_file(published)
    right = file.read_bytes()
    file.write_bytes(right + b"\x00")
    for run in ("run-1", "run-2"):
        with caplog.at_level(logging.ERROR), pytest.raises(VerificationError, match="has other bytes than were"):
            confirm.confirm(published.runtime(run))
    assert "ALERT: phones do not get what was released" in caplog.text
    assert waiting(published) == [1, 1, 1]  # the other batch was looked at
    assert published.statuses() == {1: "released", 2: "released"}

    file.write_bytes(right)
    assert confirm.confirm(published.runtime("run-3")) == 3
    assert waiting(published) == []


def test_a_file_that_does_not_answer_is_tried_again(published):
    file = first_file(published)
    shutil.move(file, file.with_suffix(".away"))
    with pytest.raises(RemoteError, match="answered by status 404"):
        confirm.confirm(published.runtime())
    shutil.move(file.with_suffix(".away"), file)
    assert confirm.confirm(published.runtime()) == 3


def test_an_index_that_does_not_list_it_yet_is_tried_again(published):
    index = published.public / "north" / "index.txt"
    listed = index.read_bytes()
    index.write_bytes(listed.split(b"\n")[0])
    with pytest.raises(RemoteError, match=r"does not list north/.* yet"):
        confirm.confirm(published.runtime())
    index.write_bytes(listed)
    assert confirm.confirm(published.runtime()) == 4


def test_an_index_that_is_none_is_no_phone_s_mistake(published):
    (published.public / "north" / "index.txt").write_bytes(b"<html>")
    with pytest.raises(FormatError, match="line 1 of the index"):
        confirm.confirm(published.runtime())


def test_what_no_retry_heals_is_raised_before_what_one_may(published):
    """Otherwise a file that does not answer would hide one that phones refuse."""
    ((second,),) = published.sql("SELECT name FROM file WHERE batch_id = 2")
    first_file(published).unlink()
    (published.public / second).write_bytes(b"PK")
    with pytest.raises(VerificationError, match="other bytes"):
        confirm.confirm(published.runtime())


def test_a_file_that_is_withdrawn_meanwhile_is_not_missed(published):
    runtime = published.runtime()
    fetch = confirm.client.fetch_index

    def withdrawn_first(url, **named):
        lines = fetch(url, **named)
        withdraw.withdraw(published.runtime("operator"), 1, "wrong")
        withdraw.finish(published.runtime("operator"), 1)
        return lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confirm.client, "fetch_index", withdrawn_first)
        assert confirm.confirm(runtime) == 1
    assert [event["subject"]["batch"] for event in events(published, "file.confirmed")] == [2]


def test_without_a_public_url_it_says_that_nobody_looks(published, caplog):
    published.public_url = None
    with caplog.at_level(logging.WARNING):
        assert confirm.confirm(published.runtime()) == 0
    assert "KEYSERVER_PUBLIC_URL" in caplog.text
    assert waiting(published) == [1, 1, 1, 2]
