"""Delete what is old beside keys: counters, used challenges, codes and tokens, quality results (rules R1, P1, E3)."""

from __future__ import annotations

import logging

from keyserver.audit import recorded
from keyserver.runtime import Runtime
from keyserver.store import retention

logger = logging.getLogger(__name__)

_ROWS_A_CHUNK = 10_000


def delete_records(runtime: Runtime) -> dict[str, int]:
    """Delete what is old in every table; give the number of rows by table, where there were any.

    Each chunk is a short transaction with its event; cut off anywhere, the next call goes on.
    """
    deleted = {table: _delete_from(runtime, table) for table in retention.TABLES}
    return {table: rows for table, rows in deleted.items() if rows}


def _delete_from(runtime: Runtime, table: str) -> int:
    deleted = 0
    while True:
        with recorded(runtime.database, runtime.actor) as work:
            rows = retention.delete_from(work.connection, table, _ROWS_A_CHUNK)
            if rows:
                work.record("retention.deleted", {"what": table}, counts={"rows": rows})
        deleted += rows
        if rows < _ROWS_A_CHUNK:
            break
    if deleted:
        logger.info("deleted %d rows of %s", deleted, table)
    return deleted
