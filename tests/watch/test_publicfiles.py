"""What phones get, beside the database and the store: whatever differs is seen, and what is on its way is not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keyserver.errors import ConfigurationError
from keyserver.export import due, index, transparency, withdraw
from keyserver.protocol.exportfile import staged_path
from keyserver.protocol.retention import CADENCE, GRACE
from keyserver.providers.signers import generate
from keyserver.quality.publicfiles import Difference, PublicFiles
from keyserver.store.watch import PublicFile
from keyserver.watch import publicfiles
from tests.export.conftest import STEPS, Authority

DAY = timedelta(days=1)


def look(authority: Authority, meanwhile: Callable[[], object] = lambda: None) -> PublicFiles:
    return publicfiles.look(authority.runtime("watch"), meanwhile)


def never() -> None:
    raise AssertionError("it looked twice")


def columns(found: PublicFiles) -> dict[str, int]:
    """How many differences there are, by their column."""
    names = [difference.column for difference in found.differences]
    return {name: names.count(name) for name in names}


def names(authority: Authority) -> list[str]:
    return [name for (name,) in authority.sql("SELECT name FROM file ORDER BY release_no")]


def path_of(authority: Authority, number: int = 0) -> Path:
    return authority.public / names(authority)[number]


def index_of(authority: Authority) -> Path:
    return authority.public / "north" / "index.txt"


def segment_of(authority: Authority) -> Path:
    return max(authority.public.glob("north/log/2*.txt"))


def test_everything_is_as_it_should_be(published):
    found = look(published, never)
    assert found.differences == frozenset()
    assert list(found.feeds) == ["north"]
    assert list(found.lines) == names(published)
    assert found.fetched == found.asked == set(found.lines)
    there = {str(path.relative_to(published.public)) for path in published.public.rglob("*.*")}
    assert set(found.objects) == there
    assert len(there) == 4 + 1 + 3


# What differs


def other_bytes(authority):
    path_of(authority).write_bytes(path_of(authority).read_bytes() + b"\0")


def missing_file(authority):
    path_of(authority).unlink()


def other_key(authority):
    other = generate(f"file://{authority.folder}/signer", "another")
    authority.sql("UPDATE signing_key SET public_key = %(key)s WHERE name = 'north'", key=other)


def lost_line(authority):
    lines = index_of(authority).read_text().splitlines()
    index_of(authority).write_text("\n".join(lines[1:]))


def strange_line(authority):
    index_of(authority).write_text("\n".join([*names(authority), "north/strange.zip"]))


def lines_out_of_order(authority):
    index_of(authority).write_text("\n".join(reversed(names(authority))))


def line_twice(authority):
    index_of(authority).write_text("\n".join([*names(authority), names(authority)[-1]]))


def no_index(authority):
    index_of(authority).unlink()


def index_that_is_none(authority):
    index_of(authority).write_text("<html>")


def strange_object(authority):
    (authority.public / "north" / "strange.zip").write_bytes(b"PK")


def object_of_a_withdrawn_file(authority):
    path = path_of(authority, 3)
    data = path.read_bytes()
    withdraw.withdraw(authority.runtime(), 2, "wrong")
    withdraw.finish(authority.runtime(), 2)
    transparency.publish_logs(authority.runtime())
    path.write_bytes(data)


def expired(authority, left: timedelta):
    authority.sql(
        "UPDATE file SET status = 'expired', left_index_at = keyserver_now() - %(left)s WHERE batch_id = 2", left=left
    )
    index.write_all(authority.runtime())


def grace_that_is_over(authority):
    expired(authority, GRACE + CADENCE + publicfiles.TURN)


def lines_that_are_too_old(authority):
    """Of the first batch only, which began a minute earlier."""
    ((start,),) = authority.sql("SELECT starts_at FROM batch WHERE id = 1")
    authority.database.set_time(start + 14 * DAY + CADENCE + publicfiles.TURN)


def lost_line_of_the_log(authority):
    """As it was before the last two lines, properly signed."""
    authority.sql("DELETE FROM transparency_line WHERE number > 2")
    segment_of(authority).unlink()
    transparency.publish_logs(authority.runtime())
    authority.sql(
        "INSERT INTO transparency_line SELECT feed_id, 2 + row_number() OVER (ORDER BY batch_id, number),"
        " (SELECT max(day) FROM transparency_line), keyserver_now(), 'release', name, starts_at, ends_at,"
        " keys + revised_keys, zip_sha256, export_sha256 FROM file"
        " WHERE name NOT IN (SELECT name FROM transparency_line)"
    )


def other_line_in_the_log(authority):
    authority.sql("UPDATE transparency_line SET keys = keys + 1 WHERE number = 1")


def log_that_is_none(authority):
    segment_of(authority).write_text("<html>")


def no_list_of_the_log(authority):
    (authority.public / "north" / "log" / "index.txt").unlink()


def day_that_is_not_listed(authority):
    listed = authority.public / "north" / "log" / "index.txt"
    listed.write_text(listed.read_text().split("\n")[0])


def day_without_its_head(authority):
    """The next day has begun in the database, and nobody said so in public."""
    authority.database.pass_time(DAY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transparency, "read_public", raise_configuration_error)
        with pytest.raises(ConfigurationError):
            transparency.publish_logs(authority.runtime())


def raise_configuration_error(*_):
    raise ConfigurationError("killed")


SPOILED = {
    other_bytes: {"bytes_as_recorded": 1, "line_verifies": 1},
    missing_file: {"line_answers": 1, "line_stored": 1},
    other_key: {"line_verifies": 4},
    lost_line: {"line_served": 1},
    strange_line: {"line_known": 1},
    lines_out_of_order: {"index_ordered": 1},
    line_twice: {"index_ordered": 1},
    no_index: {"index_readable": 1},
    index_that_is_none: {"index_readable": 1},
    strange_object: {"object_known": 1},
    object_of_a_withdrawn_file: {"object_known": 1},
    grace_that_is_over: {"object_in_time": 1},
    lines_that_are_too_old: {"line_in_time": 3},
    lost_line_of_the_log: {"log_current": 1},
    other_line_in_the_log: {"log_current": 1},
    log_that_is_none: {"log_current": 1},
    no_list_of_the_log: {"log_current": 1},
    day_that_is_not_listed: {"log_current": 1},
    # Its head, the segment that follows, and that one in the list.
    day_without_its_head: {"log_current": 3},
}


@pytest.mark.parametrize(("spoil", "expected"), SPOILED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_whatever_differs_is_seen_twice(published, spoil, expected):
    spoil(published)
    looks = []
    found = look(published, lambda: looks.append(1))
    assert looks == [1]
    assert columns(found) == expected


@pytest.mark.parametrize("left", [timedelta(0), GRACE + CADENCE + publicfiles.TURN - timedelta(seconds=1)])
def test_a_file_in_its_grace_is_no_finding(published, left):
    expired(published, left)
    assert look(published, never).differences == frozenset()


def test_a_line_within_its_time_is_no_finding(published):
    lines_that_are_too_old(published)
    published.database.pass_time(timedelta(seconds=-1))
    assert look(published, never).differences == frozenset()


def test_what_was_moved_aside_after_a_restore_is_part_of_the_log(published):
    archive = published.public / "north" / "log-before-restore"
    (archive / "2026-03-02-00000000").mkdir(parents=True)
    (archive / "2026-03-02-00000000" / "2026-03-02.txt").write_text("kept")
    (archive / "index.txt").write_text("kept")
    assert look(published, never).differences == frozenset()


def test_two_feeds_do_not_take_each_others_files_for_unlisted(published):
    """A root may lie in another's folder."""
    published.add_feed("north-daily", root="north/daily")
    published.add_keys(3, seed=3)
    published.close_windows()
    assert sorted(published.export()) == [3, 4]
    transparency.publish_logs(published.runtime())
    index.write_all(published.runtime())
    found = look(published, never)
    assert found.differences == frozenset()
    assert list(found.feeds) == ["north", "north/daily"]


def test_a_feed_without_an_index_does_not_hide_what_is_wrong_with_another(published):
    published.add_feed("south")
    missing_file(published)
    assert columns(look(published)) == {"index_readable": 1, "line_answers": 1, "line_stored": 1}


# What is on its way


def test_what_is_mended_meanwhile_is_no_finding(published):
    right = path_of(published).read_bytes()
    other_bytes(published)
    assert look(published, lambda: path_of(published).write_bytes(right)).differences == frozenset()


def release_without_index(authority: Authority, batch_id: int) -> None:
    (claimed,) = due.claim_due(authority.runtime("run-2"))
    assert claimed.batch_id == batch_id
    for name in ("build", "check", "sign", "verify", "release"):
        STEPS[name](authority.runtime("run-2"), batch_id)


@pytest.fixture
def verified(published: Authority) -> Authority:
    """A third and a fourth batch are planned; the third is about to be released, its objects are in the store."""
    for seed in (3, 4):
        published.add_keys(3, seed=seed)
        published.close_windows()
    return published


def test_a_file_about_to_be_released_is_no_finding(verified):
    (claimed,) = due.claim_due(verified.runtime("run-2"))
    for name in ("build", "check", "sign", "verify"):
        STEPS[name](verified.runtime("run-2"), claimed.batch_id)
    ((digest, name),) = verified.sql("SELECT zip_sha256, name FROM file WHERE batch_id = 3")
    staged = verified.folder / "blobs" / staged_path(digest, "zip")
    (verified.public / name).write_bytes(staged.read_bytes())  # as release does first
    assert look(verified, never).differences == frozenset()


def test_a_file_that_is_released_between_index_and_fetch_is_no_finding(verified, monkeypatch):
    fetch = publicfiles.client.fetch_index

    def released_first(url, **named):
        lines = fetch(url, **named)
        if url.endswith("/north/index.txt"):
            assert verified.export("run-2") in ([3, 4], [])
            transparency.publish_logs(verified.runtime("run-2"))
        return lines

    monkeypatch.setattr(publicfiles.client, "fetch_index", released_first)
    found = look(verified, never)
    assert found.differences == frozenset()
    assert list(found.lines) == names(verified)[:4]


def test_a_released_file_whose_index_is_written_a_little_later_is_no_finding(verified):
    release_without_index(verified, 3)
    first = look(verified)
    assert columns(first) == {"line_served": 1, "log_current": 1}

    def next_run():
        STEPS["index"](verified.runtime("run-2"), 3)
        transparency.publish_logs(verified.runtime("run-2"))
        release_without_index(verified, 4)

    assert look(verified, next_run).differences == frozenset()


def test_a_file_that_is_withdrawn_while_it_is_fetched_is_no_finding(published, monkeypatch):
    fetch = publicfiles.client.fetch_file

    def withdrawn_first(base, line, **named):
        if line == names(published)[3]:
            withdraw.withdraw(published.runtime("operator"), 2, "wrong")
            withdraw.finish(published.runtime("operator"), 2)
            transparency.publish_logs(published.runtime("operator"))
        return fetch(base, line, **named)

    monkeypatch.setattr(publicfiles.client, "fetch_file", withdrawn_first)
    looks = []
    assert look(published, lambda: looks.append(1)).differences == frozenset()
    assert looks == [1]


def test_without_a_public_url_nobody_can_look(published):
    published.public_url = None
    with pytest.raises(ConfigurationError, match="KEYSERVER_PUBLIC_URL"):
        look(published)


# Whose turn it is


def listed(count: int, size: int, start) -> list[PublicFile]:
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(count)]
    return [
        PublicFile(1, 1, f"north/{n}.zip", "released", start - DAY, None, start, digest, size)
        for n, digest in enumerate(digests)
    ]


def turns(start) -> list:
    return [start + publicfiles.TURN * n for n in range(DAY // publicfiles.TURN)]


def test_every_file_is_fetched_once_a_day_and_asked_for_at_every_other_look(start):
    files = listed(300, 1 << 20, start)
    chosen = [publicfiles._chosen(files, now, None) for now in turns(start)]
    assert all(len(fetched) + len(asked) == 300 for fetched, asked in chosen)
    assert sorted(file.name for fetched, _ in chosen for file in fetched) == sorted(file.name for file in files)


def test_of_a_long_index_all_are_asked_for_within_a_few_looks(start):
    files = listed(2500, 1 << 20, start)
    turn = math.ceil(len(files) / 1000)
    for first in (0, 40):
        looks = [publicfiles._chosen(files, now, None) for now in turns(start)[first : first + turn]]
        assert {file.name for fetched, asked in looks for file in (*fetched, *asked)} == {file.name for file in files}
        assert all(len(asked) < 1100 for _, asked in looks)


def test_a_new_file_is_fetched_at_once_and_so_are_all_while_they_are_small(start):
    files = listed(300, 1 << 20, start)
    new = PublicFile(1, 1, "new", "released", start, None, start, bytes(32), 1)
    assert new in publicfiles._chosen([*files, new], start + timedelta(minutes=29), None)[0]
    small = listed(300, 1000, start)
    assert publicfiles._chosen(small, start, None) == (small, [])


def test_what_is_looked_at_again_is_fetched(start):
    files = listed(3, 1 << 30, start)
    assert publicfiles._chosen(files, start, {files[1].name, "north"}) == ([files[1]], [])


def test_the_size_of_a_file_that_has_no_turn_is_compared(published, monkeypatch):
    monkeypatch.setattr(publicfiles, "_FEW_BYTES", 0)
    monkeypatch.setattr(publicfiles, "_FETCHED_WITHIN", timedelta(0))
    monkeypatch.setattr(publicfiles, "_TURNS_A_DAY", 1 << 70)
    found = look(published, never)
    assert (found.fetched, found.asked) == (frozenset(), frozenset(found.lines))
    other_bytes(published)
    path_of(published, 1).unlink()
    assert columns(look(published)) == {"bytes_as_recorded": 1, "line_answers": 1, "line_stored": 1}


def test_a_difference_names_what_differs(published):
    strange_line(published)
    found = look(published)
    assert found.differences == {Difference("index lines", "line_known", "north/strange.zip")}
    assert found.named == {"line_known": "north/strange.zip"}
