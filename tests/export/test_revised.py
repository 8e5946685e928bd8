"""Which revisions a batch tells of, and which it leaves to others (rules K1 to K3, A6)."""

from __future__ import annotations

import pytest

from keyserver.device import exportreader
from keyserver.errors import ConflictError
from keyserver.export import build

CONFIRMED, LIKELY, USER_REPORT, REVOKED = 1, 2, 3, 5


@pytest.fixture
def north(authority):
    authority.add_feed("north")
    return authority


def read(authority, batch_id: int) -> exportreader.ExportFile:
    (name,) = authority.sql("SELECT name FROM file WHERE batch_id = %(id)s", id=batch_id)[0]
    return exportreader.read((authority.public / name).read_bytes())


def told(authority, batch_id: int) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """The report types of a batch's first and revised keys."""
    file = read(authority, batch_id)
    return tuple({key.key: key.report_type for key in keys} for keys in (file.keys, file.revised_keys))


def counts(authority, batch_id: int) -> dict[str, int]:
    ((found,),) = authority.sql("SELECT counts FROM batch WHERE id = %(id)s", id=batch_id)
    return found


def test_a_revision_of_a_released_key_is_told_by_the_batch_of_its_window(north):
    keys = north.add_keys(4, report_type="likely")
    north.close_windows()
    (first,) = north.export()
    north.revise(keys[:1], "confirmed", risk=6, onset=-2)
    north.revise(keys[1:2], "negative")
    north.close_windows()
    (second,) = north.export()

    assert told(north, first) == (dict.fromkeys(keys, LIKELY), {})
    assert told(north, second) == ({}, {keys[0]: CONFIRMED, keys[1]: REVOKED})
    (revised,) = (key for key in read(north, second).revised_keys if key.key == keys[0])
    assert (revised.transmission_risk, revised.days_since_onset) == (6, -2)  # B9: the revised risk, not the first one
    assert counts(north, second)["revised_released"] == 2


def test_a_key_that_is_revised_in_its_own_batch_stands_once_in_its_last_state(north):
    keys = north.add_keys(3, report_type="likely")
    north.revise(keys[:1], "confirmed")
    north.revise(keys[1:2], "negative")
    north.close_windows()
    (batch,) = north.export()

    assert told(north, batch) == ({keys[0]: CONFIRMED, keys[2]: LIKELY}, {})
    assert counts(north, batch) == {"released": 2, "revoked": 1, "synthetic": 0, "revised_in_state": 2}


def test_a_revision_after_the_batch_s_end_is_of_the_next_one_however_late_the_batch_is_built(north):
    keys = north.add_keys(1, report_type="likely")
    north.close_windows()
    north.revise(keys, "negative")
    north.close_windows()
    first, second = north.export()

    assert told(north, first) == ({keys[0]: LIKELY}, {})
    assert told(north, second) == ({}, {keys[0]: REVOKED})


def test_a_revision_is_told_whatever_the_later_batch_s_own_rules_say(north):
    keys = north.add_keys(1, report_type="likely")
    north.close_windows()
    north.export()
    north.sql("UPDATE feed SET input_regions = '{SE}'")
    north.revise(keys, "negative")
    north.close_windows()
    (second,) = north.export()

    assert told(north, second) == ({}, {keys[0]: REVOKED})


@pytest.mark.parametrize(
    ("rules", "columns"),
    [
        ({}, {"regions": ("SE",)}),
        ({"exclude_regions": ["SE"]}, {"regions": ("NO", "SE")}),
        ({"travelers": "exclude"}, {"traveler": True}),
    ],
    ids=["other region", "excluded region", "traveler"],
)
def test_a_revision_of_a_key_that_the_feed_never_had_is_not_told(authority, rules, columns):
    authority.add_feed("north", **rules)
    strange = authority.add_keys(1, seed=2, report_type="likely", **columns)
    own = authority.add_keys(1, report_type="likely")
    authority.close_windows()
    authority.export()
    authority.revise(strange + own, "confirmed")
    authority.close_windows()
    (second,) = authority.export()

    assert told(authority, second) == ({}, {own[0]: CONFIRMED})
    assert counts(authority, second)["revised_not_carried"] == 1


def test_a_revision_of_a_key_older_than_the_feed_is_not_told(authority):
    keys = authority.add_keys(1, report_type="likely")
    authority.close_windows()
    authority.add_feed("north", active_from=authority.database.now())
    authority.revise(keys, "confirmed")
    authority.close_windows()
    authority.export()

    assert authority.statuses() == {1: "empty"}
    assert counts(authority, 1) == {"synthetic": 0, "revised_not_carried": 1}


def test_a_revision_whose_carrier_is_held_is_passed_over(north):
    keys = north.add_keys(1, report_type="likely")
    north.close_windows()
    north.sql("UPDATE batch SET status = 'held', problem = 'for the test', held_at = keyserver_now() WHERE id = 1")
    north.revise(keys, "negative")
    north.close_windows()
    north.export()

    assert north.statuses() == {1: "held", 2: "empty"}
    assert counts(north, 2) == {"synthetic": 0, "revised_carrier_not_released": 1}


def test_of_a_withdrawn_key_only_a_revocation_is_told(north):
    keys = north.add_keys(2, report_type="likely")
    north.close_windows()
    north.export()
    north.sql("UPDATE batch SET status = 'withdrawing'")
    north.revise(keys[:1], "confirmed")
    north.revise(keys[1:], "negative")
    north.close_windows()
    (second,) = north.export()

    assert told(north, second) == ({}, {keys[1]: REVOKED})
    assert counts(north, second)["revised_carrier_not_released"] == 1


def test_a_feed_s_batches_tell_of_a_revision_though_another_feed_has_done_so(authority):
    for name in ("hourly", "daily"):
        authority.add_feed(name)
    keys = authority.add_keys(1, report_type="likely")
    authority.close_windows()
    authority.export()
    authority.revise(keys, "negative")
    authority.close_windows()
    for batch_id in authority.export():
        assert told(authority, batch_id) == ({}, {keys[0]: REVOKED})


def test_revised_keys_are_in_order_and_share_a_file_s_maximum_with_first_ones(authority):
    authority.add_feed("north", max_keys=10)
    old = authority.add_keys(12, report_type="likely")
    authority.close_windows()
    authority.export()
    authority.revise(old[:7], "negative")
    authority.revise(old[7:], "confirmed")
    authority.add_keys(5, seed=9)
    authority.close_windows()
    (batch,) = authority.export()

    names = [
        name for (name,) in authority.sql("SELECT name FROM file WHERE batch_id = %(id)s ORDER BY number", id=batch)
    ]
    files = [exportreader.read((authority.public / name).read_bytes()) for name in names]
    assert [(len(file.keys), len(file.revised_keys)) for file in files] == [(5, 5), (0, 7)]
    order = [(key.report_type, key.rolling_start, key.rolling_period, key.key) for f in files for key in f.revised_keys]
    assert order == sorted(order)


def test_a_batch_is_rebuilt_as_it_was_though_its_carrier_was_withdrawn_since(north):
    keys = north.add_keys(3, report_type="likely")
    north.close_windows()
    north.export()
    north.revise(keys[:2], "confirmed")
    north.close_windows()
    (second,) = north.export()
    ((digest,),) = north.sql("SELECT export_sha256 FROM file WHERE batch_id = %(id)s", id=second)
    north.sql("UPDATE batch SET status = 'withdrawing' WHERE id = 1")

    ((file, export_bin),) = build.rebuild(north.runtime(), second)
    assert (file.export_sha256, file.revised_keys) == (digest, 2)
    assert export_bin.endswith(b"\x28\x01")  # the last key's report type: CONFIRMED_TEST


def test_a_batch_that_was_never_built_cannot_be_rebuilt(north):
    north.add_keys(1)
    north.close_windows()
    with pytest.raises(ConflictError):
        build.rebuild(north.runtime(), 1)
