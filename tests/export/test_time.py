"""What time may do to a feed: a clock that goes back, midnight, a late start, an early end, another period (B2, W2).

More of it: `test_windows` (closing, spans), `test_transparency` (a log's days), tests/configuration (what may be
declared), `test_model` (all of it at random).
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from keyserver.device import exportreader
from keyserver.errors import RemoteError, Superseded
from keyserver.export import build, due, gate, replace, windows, withdraw
from keyserver.protocol.exposure import MAX_AGE
from keyserver.protocol.intervals import interval_at
from tests.conftest import START
from tests.export.conftest import run_steps

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MIDNIGHT = START.replace(hour=0) + DAY


@pytest.fixture
def hourly(authority):
    """Windows of an hour, so that a night is ten of them."""
    authority.sql("UPDATE release_clock SET width_minutes = 60")
    return authority


def spans(authority) -> list[tuple[datetime, datetime]]:
    return authority.sql("SELECT starts_at, ends_at FROM batch WHERE replaces IS NULL ORDER BY id")


def read(authority, batch_id: int) -> exportreader.ExportFile:
    ((name,),) = authority.sql("SELECT name FROM file WHERE batch_id = %(id)s", id=batch_id)
    return exportreader.read((authority.public / name).read_bytes())


def keys(authority, batch_id: int) -> set[bytes]:
    return {key.key for key in read(authority, batch_id).keys}


# The clock goes back.


def test_while_the_clock_is_behind_nothing_closes_twice_and_nothing_is_planned_again(authority):
    authority.add_feed("north", active_from=START)
    first = authority.add_keys(2)
    authority.close_windows(3 * MINUTE)
    authority.database.set_time(START + 30 * timedelta(seconds=1))
    assert windows.close_windows(authority.runtime(), authority.database.now()) == []

    second = authority.add_keys(2, seed=2, created_at=START + 3 * MINUTE)  # the first window that is open
    authority.revise(second[:1], "confirmed")
    assert authority.sql("SELECT DISTINCT revised_at FROM exposure WHERE revised_at IS NOT NULL") == [
        (START + 3 * MINUTE,)
    ]
    closed = authority.close_windows(4 * MINUTE)
    assert [window.starts_at for window in closed] == [START + 3 * MINUTE]
    assert spans(authority) == [(START + n * MINUTE, START + (n + 1) * MINUTE) for n in range(4)]
    assert [keys(authority, batch_id) for batch_id in authority.export()] == [set(first), set(second)]


def test_what_was_planned_is_released_while_the_clock_is_behind(authority):
    """Releasing asks the clock nothing: what a batch is made of was written when it was planned."""
    authority.add_feed("north")
    sent = authority.add_keys(3)
    authority.close_windows()
    authority.database.set_time(START - HOUR)
    (batch,) = authority.export()
    assert keys(authority, batch) == set(sent)


def test_a_claim_of_the_time_before_is_kept_until_it_is_really_old(authority):
    """The clock goes back while a run works: nobody takes its batch over, and it goes on."""
    authority.add_feed("north")
    authority.add_keys(3)
    authority.close_windows()
    (batch,) = due.claim_due(authority.runtime("first"))
    authority.database.set_time(START - HOUR)
    assert due.claim_due(authority.runtime("second")) == []
    build.build(authority.runtime("first"), batch.batch_id)  # it renews its claim, by the clock as it is now

    authority.database.set_time(START - HOUR + MINUTE)
    (again,) = due.claim_due(authority.runtime("second"))
    assert again.batch_id == batch.batch_id
    with pytest.raises(Superseded, match="another run has taken it over"):
        gate.check(authority.runtime("first"), batch.batch_id)
    run_steps(authority.runtime("second"), batch.batch_id)
    assert authority.statuses() == {1: "released"}


def test_a_replacing_batch_that_is_planned_meanwhile_has_all_that_was_closed(authority):
    """`revisions_to` is what was closed, never the clock (B1)."""
    authority.add_feed("north", active_from=START)
    sent = authority.add_keys(3, report_type="likely")
    authority.close_windows()
    assert authority.export() == [1]
    authority.revise(sent[:1], "negative")
    authority.close_windows()
    withdraw.withdraw(authority.runtime(), 1, "a mistake")
    authority.database.set_time(START - HOUR)
    again = replace.replace(authority.runtime(), 1, "again")
    assert authority.export() == [2, again]
    assert keys(authority, again) == set(sent[1:])
    assert {key.key for key in read(authority, again).revised_keys} == {sent[0]}


def test_a_host_whose_clock_alone_went_back_closes_nothing(authority):
    authority.add_feed("north")
    moment = authority.database.pass_time(5 * MINUTE)
    with pytest.raises(RemoteError, match="no window is closed until they agree"):
        windows.close_windows(authority.runtime(), moment - HOUR, random.Random(1))
    assert len(windows.close_windows(authority.runtime(), moment - MINUTE)) == 5


# Midnight.


def test_the_window_before_midnight_is_the_day_s_last_and_the_one_from_midnight_the_next_day_s_first(hourly):
    for name, hours in (("daily", 24), ("often", 4)):
        hourly.add_feed(name, period_minutes=60 * hours, active_from=START)
    hourly.close_windows(13 * HOUR)
    before = hourly.add_keys(2, created_at=MIDNIGHT - HOUR)
    hourly.close_windows(HOUR)
    assert hourly.database.now() == MIDNIGHT
    after = hourly.add_keys(2, seed=2, created_at=MIDNIGHT)
    ended = hourly.sql(
        "SELECT feed.name, starts_at FROM batch JOIN feed ON feed.id = feed_id WHERE ends_at = %(m)s", m=MIDNIGHT
    )
    assert sorted(ended) == [("daily", START), ("often", MIDNIGHT - 4 * HOUR)]

    hourly.close_windows(24 * HOUR)
    of_days: dict[str, list[set[bytes]]] = {"daily": [], "often": []}
    for batch_id in hourly.export():
        ((feed,),) = hourly.sql(
            "SELECT name FROM feed JOIN batch ON feed_id = feed.id WHERE batch.id = %(id)s", id=batch_id
        )
        of_days[feed].append(keys(hourly, batch_id))
    assert of_days == {"daily": [set(before), set(after)], "often": [set(before), set(after)]}
    assert {end for _, end in spans(hourly) if end - MIDNIGHT in (DAY, timedelta(0))} == {MIDNIGHT, MIDNIGHT + DAY}


def test_a_key_as_old_as_may_be_sent_at_midnight_is_in_the_day_s_batch(hourly):
    """T3: an ordinary batch of a day drops nothing, though its first window's oldest key ended just at its cutoff."""
    hourly.add_feed("daily", period_minutes=1440, active_from=START)
    hourly.close_windows(14 * HOUR)
    oldest = interval_at(MIDNIGHT - MAX_AGE)
    (sent,) = hourly.add_keys(1, created_at=MIDNIGHT, interval_number=oldest - 144, interval_count=144)
    hourly.close_windows(DAY)
    assert hourly.sql("SELECT cutoff FROM batch ORDER BY id DESC LIMIT 1") == [(MIDNIGHT - MAX_AGE,)]
    (batch,) = hourly.export()
    assert keys(hourly, batch) == {sent}


def test_a_feed_that_ends_at_midnight_has_no_batch_after_it(hourly):
    hourly.add_feed("north", period_minutes=240, active_from=MIDNIGHT - HOUR, active_thru=MIDNIGHT)
    hourly.close_windows(20 * HOUR)
    assert spans(hourly) == [(MIDNIGHT - HOUR, MIDNIGHT)]


# Created late, ended early.


def test_a_feed_created_late_has_the_windows_since_its_beginning_and_no_earlier_key(hourly):
    """Windows that were closed long before it are its first batch's, with the revisions until its end."""
    too_early = hourly.add_keys(2, seed=1)
    hourly.close_windows(HOUR)
    sent = hourly.add_keys(3, seed=2, report_type="likely")
    hourly.revise(sent[:1], "confirmed")
    hourly.close_windows(3 * HOUR)
    hourly.add_feed("late", period_minutes=240, active_from=START + HOUR + MINUTE)  # 11:01 is in the window of 11:00
    hourly.revise(sent[1:2], "negative")
    hourly.revise(too_early[:1], "negative")
    assert hourly.sql("SELECT closed_through FROM release_clock") == [(START + 4 * HOUR,)]

    hourly.close_windows(2 * HOUR)
    assert spans(hourly) == [(START + HOUR, START + 6 * HOUR)]
    (batch,) = hourly.export()
    file = read(hourly, batch)
    assert {key.key: key.report_type for key in file.keys} == {sent[0]: 1, sent[2]: 2}
    assert file.revised_keys == ()


def test_a_feed_that_begins_later_has_no_batch_before(hourly):
    hourly.add_feed("later", period_minutes=240, active_from=START + 5 * HOUR)
    hourly.add_keys(2)
    hourly.close_windows(6 * HOUR)
    assert spans(hourly) == [(START + 5 * HOUR, START + 6 * HOUR)]
    assert hourly.export() == []
    assert hourly.statuses() == {1: "empty"}


def test_a_feed_ended_early_releases_what_came_before_its_end_and_nothing_after(hourly):
    hourly.add_feed("north", period_minutes=240, active_from=START)
    hourly.close_windows(2 * HOUR + MINUTE)
    last = hourly.add_keys(3, created_at=START + 2 * HOUR, report_type="likely")
    hourly.sql("UPDATE feed SET active_thru = %(thru)s", thru=START + 3 * HOUR)
    hourly.close_windows(HOUR)
    assert hourly.export() == [2]
    assert (spans(hourly)[-1], keys(hourly, 2)) == ((START + 2 * HOUR, START + 3 * HOUR), set(last))

    hourly.add_keys(2, seed=2)
    hourly.revise(last[:1], "negative")
    hourly.close_windows(10 * HOUR)
    assert hourly.export() == []
    assert len(spans(hourly)) == 2


def test_what_an_ended_feed_released_can_be_withdrawn_and_told_again(hourly):
    """After its end only a replacing batch can still tell phones of a revocation."""
    hourly.add_feed("north", period_minutes=240, active_from=START, active_thru=START + HOUR)
    sent = hourly.add_keys(3, report_type="likely")
    hourly.close_windows(HOUR)
    assert hourly.export() == [1]
    hourly.revise(sent[:1], "negative")
    hourly.close_windows(HOUR)
    withdraw.withdraw(hourly.runtime(), 1, "one of them is revoked")
    again = replace.replace(hourly.runtime(), 1, "without it")
    assert hourly.export() == [again]
    assert keys(hourly, again) == set(sent[1:])
    assert {key.key for key in read(hourly, again).revised_keys} == {sent[0]}


# Another period in the middle of a span.


@pytest.mark.parametrize(
    ("before", "after", "hours"),
    [
        (4, 1, [(2, 4), (4, 5)]),  # shorter: the next end is the next hour's that is open
        (4, 24, [(2, 14)]),  # longer: it is midnight's
        (4, 6, [(2, 8), (8, 14)]),
        (1, 4, [(2, 3), (3, 6), (6, 10)]),
    ],
)
def test_a_period_changed_in_the_middle_of_a_span_gives_every_key_once(hourly, before, after, hours):
    """The span that is open goes on from where the last batch ended, to the next end of the new period (B2)."""
    hourly.add_feed("north", period_minutes=60 * before, active_from=START)
    hourly.close_windows(3 * HOUR)
    sent = set(hourly.add_keys(2, created_at=START + 3 * HOUR))
    hourly.sql("UPDATE feed SET period_minutes = %(minutes)s", minutes=60 * after)
    hourly.close_windows(HOUR)
    for n in range(4, 14):
        sent |= set(hourly.add_keys(1, seed=n, created_at=START + n * HOUR))
        hourly.close_windows(HOUR)

    later = [(start, end) for start, end in spans(hourly) if end > START + 2 * HOUR]
    assert later[: len(hours)] == [(START + start * HOUR, START + end * HOUR) for start, end in hours]
    assert all(end == start for (_, end), (start, _) in zip(spans(hourly), spans(hourly)[1:], strict=False))
    found = [key for batch_id in hourly.export() for key in keys(hourly, batch_id)]
    assert (len(found), set(found)) == (len(sent), sent)
