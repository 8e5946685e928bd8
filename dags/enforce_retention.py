"""### Enforce retention: what is old goes, and then it is proven that it is gone.

**Purpose.** Deletes keys a period (14 days, unless a shorter one is declared) after they were published, with their
revisions; likewise counters, codes, tokens, used challenges and quality results. Takes old lines out of every index,
also of feeds that ended or are paused, writes these indexes, and deletes files whose lines left a day ago or earlier.
Last, questions of their own and a listing of the store must find nothing older than its limit and an hour
(docs/retention.md).

**Schedule.** Every hour, at a minute at which few batches are being built. What is old is decided by the database's
clock: run it at any time, or twice, and nothing changes. After an outage it catches up by itself.

**What to do when it fails**

* *A task was retried and the run is green:* nothing. It went on where it was cut off.
* *The log of `delete_keys` says ALERT:* keys go that no feed ever released; it says of which window, how many and why.
  They cannot be kept. Look for the reason: a batch that nobody decided on, a feed that is paused, a region of which
  there is no feed.
* *`expire_lines` says ALERT:* a batch was built and waited until its keys were to be deleted, mostly since its feed is
  paused: it is held. Approve it, and what is still stored is released; reject it, or leave it, and nothing is.
* *`write_indexes` is red:* its log says which index, and why. Until it is green no file is deleted.
* *`delete_objects` is red:* its log names each file that could not be deleted; all others were. Does the process have
  the right to delete?
* *`prove` is red:* something is there that should be gone, and the log names it: a table with how many rows, an index,
  a path. Look first whether another task of the run is red. A path that the database does not know is for
  `keyserver reconcile`. Older versions of an object mean that the bucket keeps versions: `keyserver doctor` says so.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from keyserver_airflow import DEFAULT_ARGS, task_runtime

RETENTION = "keyserver_retention"


@dag(
    schedule=CronTriggerTimetable("37 * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=["retention", "every hour"],
    doc_md=__doc__,
)
def enforce_retention() -> None:
    @task(execution_timeout=timedelta(minutes=50))
    def delete_keys() -> dict[str, int]:
        """Delete old keys in short transactions; report those that were never released."""
        from keyserver.retention.keys import delete_keys as work

        with task_runtime(get_current_context(), database=RETENTION) as runtime:
            deleted = work(runtime)
            return {"keys": deleted.keys, "revisions": deleted.revisions, "unreleased": deleted.unreleased}

    @task
    def delete_records() -> dict[str, int]:
        """Delete old counters, codes, tokens, used challenges, quality results."""
        from keyserver.retention.records import delete_records as work

        with task_runtime(get_current_context(), database=RETENTION) as runtime:
            return work(runtime)

    @task
    def expire_lines() -> int:
        """Take old lines out of the index that the database gives; hold what waited too long."""
        from keyserver.retention.lines import expire_lines as work
        from keyserver.retention.lines import hold_outlived

        with task_runtime(get_current_context(), database=RETENTION) as runtime:
            hold_outlived(runtime)
            return work(runtime)

    @task
    def write_indexes() -> int:
        """Write every index that differs from what the database gives."""
        from keyserver.export.index import write_all

        with task_runtime(get_current_context(), blobs=True) as runtime:
            return write_all(runtime)

    @task(execution_timeout=timedelta(minutes=30))
    def delete_objects() -> dict[str, int]:
        """Delete files that left their index a day ago or earlier, and staged files that nobody needs."""
        from keyserver.retention.objects import delete_objects as delete
        from keyserver.retention.staging import clean_staging

        with task_runtime(get_current_context(), database=RETENTION, blobs=True) as runtime:
            return {"staged": clean_staging(runtime), "files": delete(runtime)}

    @task
    def prove() -> dict[str, int]:
        """Find nothing that should be gone, or name it. The result: the age of the oldest of each kind, in seconds."""
        from keyserver.retention.proof import prove as work

        with task_runtime(get_current_context(), database=RETENTION, blobs=True) as runtime:
            return {kind.kind: kind.oldest_s for kind in work(runtime)}

    deleted = delete_objects()
    expire_lines() >> write_indexes() >> deleted
    [delete_keys(), delete_records(), deleted] >> prove()


enforce_retention()
