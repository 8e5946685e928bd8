"""The authority of the export's tests, and retention as its DAG runs it: the same use cases, by the same roles."""

from __future__ import annotations

from datetime import timedelta

from keyserver.export import index
from keyserver.protocol.exposure import RETENTION
from keyserver.retention.keys import delete_keys
from keyserver.retention.lines import expire_lines, hold_outlived
from keyserver.retention.objects import delete_objects
from keyserver.retention.proof import Kind, prove
from keyserver.retention.records import delete_records
from keyserver.retention.staging import clean_staging
from tests.export.conftest import Authority, authority, make_authority, serve, served

__all__ = ["authority", "make_authority", "serve", "served"]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PERIOD = RETENTION


def enforce(authority: Authority) -> list[Kind]:
    """Run what `dags/enforce_retention` runs, in its order; give the proof."""
    runtime = authority.runtime("retention-1", role="retention")
    try:
        delete_keys(runtime, pause=lambda _: None)
        delete_records(runtime)
        hold_outlived(runtime)
        expire_lines(runtime)
        index.write_all(authority.runtime("retention-1"))
        clean_staging(runtime)
        delete_objects(runtime)
        return prove(runtime)
    finally:
        for opened in authority.opened:
            opened.close()
        authority.opened.clear()


def events(authority: Authority, kind: str) -> list[dict]:
    """Every audit event of a kind, without what all have."""
    found = authority.sql(
        "SELECT convert_from(body, 'UTF8')::jsonb FROM audit_event WHERE kind = %(kind)s ORDER BY seq", kind=kind
    )
    return [{name: body[name] for name in ("subject", "counts", "hashes")} for (body,) in found]
