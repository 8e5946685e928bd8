"""What the tests of decisions share: a batch that its check refuses for good, and ways to look at what was done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyserver.errors import Superseded
from keyserver.export import claim
from keyserver.export.due import claim_due
from keyserver.protocol.intervals import interval_at
from tests.export.conftest import Authority, run_steps

# A key that has not ended is of no ordinary upload (T2), and every batch that has it is refused.
TOO_EARLY = "keys ended two hours before the batch did"


def hold_next(authority: Authority, run: str = "run-1") -> int:
    """Close a window with a key that no check lets pass; let a run find that out. Gives the held batch."""
    now = authority.database.now()
    today = interval_at(now)
    authority.add_keys(1, seed=int(now.timestamp()), interval_number=today, interval_count=144)
    authority.close_windows()
    return work_until_held(authority, run)


def work_until_held(authority: Authority, run: str = "run-1") -> int:
    (batch,) = claim_due(authority.runtime(run))
    with pytest.raises(Superseded, match="held"):
        run_steps(authority.runtime(run), batch.batch_id)
    claim.give_back(authority.runtime(run))
    return batch.batch_id


def delete_on_demand(authority: Authority, which: str) -> None:
    """Delete keys of one window as a deletion on demand does, which says how many it took (R5)."""
    authority.sql(
        f"WITH gone AS (DELETE FROM exposure WHERE {which} RETURNING created_at),"
        " deletion AS (INSERT INTO deletion (at, app_name, starts_at, ends_at, reason)"
        "              SELECT keyserver_now(), 'app', min(created_at), min(created_at) + interval '1 minute', 'odd'"
        "                FROM gone RETURNING id, starts_at)"
        " INSERT INTO deletion_window SELECT id, starts_at, (SELECT count(*) FROM gone), 0 FROM deletion"
    )


def events(authority: Authority, *kinds: str) -> list[dict[str, Any]]:
    """The audit events of some kinds, the oldest first."""
    rows = authority.sql("SELECT body FROM audit_event ORDER BY seq")
    return [event for event in (json.loads(body) for (body,) in rows) if not kinds or event["kind"] in kinds]


def everything(authority: Authority) -> tuple[Any, ...]:
    """All that a decision may change, to see that doing it again changes nothing.

    Batches by their order: a transaction that was undone leaves a gap in their numbers.
    """
    rows = authority.sql(
        "SELECT row_number() OVER (ORDER BY id), status, reason, replaces, with_keys FROM batch ORDER BY id"
    )
    files = authority.sql("SELECT batch_id, number, status, left_index_at, confirmed_at FROM file ORDER BY 1, 2")
    return rows, files, authority.sql("SELECT max(seq) FROM audit_event"), authority.released_files()
