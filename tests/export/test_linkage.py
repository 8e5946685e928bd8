"""Who sent what, by the database's system columns (W5), and by the order of a file (B10).

Uploads come by the publish path. Whoever may read the system columns tries to find rows of one person: rows that one
transaction wrote (``xmin``) or locked (``xmax``), and rows that lie side by side (``ctid``).
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from keyserver.export import windows
from keyserver.protocol.exposure import Limits
from keyserver.protocol.messages import decode_request
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.accept import Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from tests.conftest import START
from tests.uploads import TOKEN_AAD, add_revision_key, authorise, interval, key, key_bytes, keys, request

PEOPLE, KEYS = 12, 8
PAIRS = PEOPLE * KEYS * (KEYS - 1) // 2
MIDNIGHT = interval(START.replace(hour=0))


def open_intake(authority, folder: Path) -> Intake:
    url, database = authority.database.url("keyserver_pipeline"), authority.database.database("api")
    authorise(url, regions=("NO",))
    add_revision_key(url, folder)
    revision_keys = RevisionKeys(database, open_keywrap(f"file://{folder}"))
    return Intake(database, Configuration(database, Limits()), revision_keys, TOKEN_AAD, source=random.Random(1))


@pytest.fixture
def intake(authority, tmp_path) -> Intake:
    return open_intake(authority, tmp_path)


def send(intake: Intake, body: dict, now) -> str:
    return accept(intake, decode_request("application/json", json.dumps(body).encode()), now).revision_token


def upload_all(authority, intake: Intake, report_type: str = "confirmed", more=()) -> list[tuple[dict, str]]:
    """Let everybody upload; give what each sent, and their token."""
    now, sent = authority.database.now(), []
    for person in range(PEOPLE):
        body = keys(now, KEYS, person) + [key(f"{person}/{start}", start, period) for start, period in more]
        sent.append((body, send(intake, request(body, now, report_type=report_type), now)))
    return sent


def revise_all(authority, intake: Intake, sent: list[tuple[dict, str]]) -> None:
    now = authority.database.now()
    for body, token in sent:
        send(intake, request(body, now, revisionToken=token), now)


def close_and_rewrite(authority, step: timedelta = timedelta(minutes=1)) -> None:
    authority.close_windows(step)
    windows.rewrite_windows(authority.runtime(role="rewriter"))


def person_of(exposure_key: bytes) -> int:
    return PERSONS[exposure_key]


IS_OPEN = "created_at >= (SELECT closed_through FROM release_clock)"
MARKS_OF_OPEN = f"(SELECT xmin::text FROM exposure WHERE {IS_OPEN})"
MORE = [(MIDNIGHT, 42), (MIDNIGHT + 42, 12), (MIDNIGHT + 54, 90)]  # ended 3 h and 1 h ago, and still valid
PERSONS = {
    key_bytes(f"{person}/{part}"): person
    for person in range(PEOPLE)
    for part in [*range(KEYS), *(start for start, _ in MORE)]
}


def linked(authority, condition: str = "true") -> int:
    """How many pairs of one person's rows can be found: nobody else has the same mark, or they lie side by side.

    Rows that lie in key order lie where their keys put them: that tells nothing.
    """
    rows = authority.sql(
        "SELECT exposure_key, xmin::text, xmax::text, created_at, revised_at FROM exposure"
        f" WHERE {condition} ORDER BY ctid"
    )
    found: set[frozenset[bytes]] = set()
    for column in (1, 2):
        groups = defaultdict(list)
        for row in rows:
            groups[row[column]].append(row[0])
        for mark, group in groups.items():
            if mark != "0" and len({person_of(each) for each in group}) == 1:
                found |= {frozenset(pair) for pair in combinations(group, 2)}
    order = [row[0] for row in rows]
    in_key_order = {frozenset(pair) for pair in pairwise(sorted(order))}
    for pair in pairwise(order):
        if person_of(pair[0]) == person_of(pair[1]) and frozenset(pair) not in in_key_order:
            found.add(frozenset(pair))
    return len(found)


def test_w5_in_an_open_window_all_rows_of_a_person_can_be_paired(authority, intake):
    upload_all(authority, intake)
    assert linked(authority) == PAIRS


def test_w5_in_a_closed_window_none_can(authority, intake):
    upload_all(authority, intake)
    close_and_rewrite(authority)
    assert authority.sql("SELECT count(*) FROM exposure") == [(PEOPLE * KEYS,)]
    assert linked(authority) == 0
    ((marks, locks),) = authority.sql(
        "SELECT count(DISTINCT xmin::text), count(*) FILTER (WHERE xmax <> 0) FROM exposure"
    )
    assert (marks, locks) == (1, 0)


def test_w5_of_embargoed_keys_only_those_of_windows_that_are_still_open(authority, intake):
    upload_all(authority, intake, more=MORE)
    close_and_rewrite(authority)
    assert authority.sql(f"SELECT count(*) FROM exposure WHERE {IS_OPEN}") == [(2 * PEOPLE,)]
    # A person's two embargoed keys lie in different windows and share their upload's transaction,
    assert linked(authority, IS_OPEN) == PEOPLE
    assert linked(authority, f"NOT {IS_OPEN}") == 0
    # and no row that was rewritten has it any more.
    assert authority.sql(f"SELECT count(*) FROM exposure WHERE NOT {IS_OPEN} AND xmin::text IN {MARKS_OF_OPEN}") == [
        (0,)
    ]

    close_and_rewrite(authority, timedelta(hours=1))
    assert authority.sql(f"SELECT count(*) FROM exposure WHERE {IS_OPEN}") == [(PEOPLE,)]
    for (created_at,) in authority.sql("SELECT DISTINCT created_at FROM exposure"):
        assert linked(authority, f"created_at = '{created_at.isoformat()}'") == 0
    assert authority.sql(f"SELECT count(*) FROM exposure WHERE NOT {IS_OPEN} AND xmin::text IN {MARKS_OF_OPEN}") == [
        (0,)
    ]


def test_w5_revised_rows_can_be_paired_until_the_window_of_their_revision_is_closed(authority, intake):
    sent = upload_all(authority, intake, "likely")
    close_and_rewrite(authority)
    revise_all(authority, intake, sent)
    assert authority.sql("SELECT count(*) FROM exposure WHERE revised_at IS NOT NULL") == [(PEOPLE * KEYS,)]
    assert linked(authority) == PAIRS
    close_and_rewrite(authority)
    assert linked(authority) == 0


def test_w5_a_revision_in_the_window_of_its_upload_leaves_nothing_either(authority, intake):
    revise_all(authority, intake, upload_all(authority, intake, "likely"))
    assert linked(authority) == PAIRS
    close_and_rewrite(authority)
    assert linked(authority) == 0


def export_of(authority, intake: Intake, uploads: list[list[dict]], minutes: list[int], *, rewritten: bool) -> bytes:
    """Publish the uploads in this order, each in its minute of the batch; give the SHA-256 of what is released."""
    authority.add_feed("north", period_minutes=5, active_from=START)
    for body, minute in zip(uploads, minutes, strict=True):
        authority.database.set_time(START + timedelta(minutes=minute))
        send(intake, request(body, START), START)
    authority.database.set_time(START)
    authority.close_windows(timedelta(minutes=5))
    if rewritten:
        windows.rewrite_windows(authority.runtime(role="rewriter"))
    assert len(authority.export()) == 1
    ((sha256, count),) = authority.sql("SELECT export_sha256, keys FROM file")
    assert count == 30
    return sha256


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_b10_the_order_of_a_file_tells_nothing_of_arrival(make_authority, make_database, tmp_path, seed):
    """The same rows: by one upload; each by itself, in any order of windows; by some, with their rows rewritten."""
    source = random.Random(seed)
    rows = [key(number, MIDNIGHT - 144 * (1 + number % 12), risk=number % 4) for number in range(30)]
    alone = [[row] for row in source.sample(rows, 30)]
    mixed = source.sample(rows, 30)
    some = [mixed[start:end] for start, end in pairwise([0, *sorted(source.sample(range(1, 30), 6)), 30])]
    found = set()
    for number, uploads in enumerate([[rows], alone, some]):
        authority = make_authority(make_database(), f"authority-{number}")
        intake = open_intake(authority, authority.folder)
        minutes = [source.randrange(5) for _ in uploads]
        found.add(export_of(authority, intake, uploads, minutes, rewritten=number == 2))
    assert len(found) == 1
