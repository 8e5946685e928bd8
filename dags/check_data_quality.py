"""### Check data quality: what was stored, what phones get, and how fresh it is.

**Purpose.** Puts three suites of expectations to what is there, one a task: on stored exposures (their table's
constraints restated, embargo, retention, volume and report types beside the last 14 days), on what the CDN serves and
the store holds (every index, every log, the files by turns, each read as a phone does), and on freshness (feeds,
withdrawals, held batches, signing keys, windows, the proof of retention). The three have nothing to do with each other.
`keyserver quality results` and the operators' pages show what came out, with history.

**Schedule.** Every quarter of an hour, a little after batches end. It changes nothing: run it at any time, or twice.

**What to do when it fails**

* *A task was retried and the run is green:* nothing. *A task is green with a warning in its log:* look at it today.
* *A task is red* (`ALERT` in its log): the log names each expectation that was missed, what was expected and found. It
  is asked again every quarter of an hour, and the task is green again when it is met.
* *`exposures` is red:* rows are in the database that the API would never write, or are there too long. What is wrong
  with a key keeps its batch from being signed; find out who wrote it. Too long: look at `enforce_retention`.
* *`public_files` is red:* what phones get is not what was released. It was seen twice, more than a minute apart. A line
  or an object that is wrong: run `export_keys`, which rewrites indexes, then look who else writes to the store. Bytes
  that are wrong: mend the CDN or its cache; for a bad file, run `withdraw_release`. A log that is behind: the task
  `publish_log` says why.
* *`freshness` is red:* it names the feed, the batch or the key. A late feed: the newest runs of `export_keys`. A
  withdrawal that does not end: `finish` of `withdraw_release`. A held batch: answer, or it is rejected. A key that
  ends: make and declare a new one (`keyserver keys status`). Windows that are not closed: `close_windows` of
  `export_keys`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from keyserver_airflow import DEFAULT_ARGS, task_runtime


@dag(
    schedule=CronTriggerTimetable("3-59/15 * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=["quality", "every 15 minutes"],
    doc_md=__doc__,
)
def check_data_quality() -> None:
    @task
    def exposures() -> dict[str, int]:
        """Look at what was stored since the last look, and at an hour of what was stored before."""
        from keyserver.watch.check import check_exposures, summary

        with task_runtime(get_current_context()) as runtime:
            return summary(check_exposures(runtime))

    @task
    def public_files() -> dict[str, int]:
        """Look at what phones get, and at what lies in the store."""
        from keyserver.watch.check import check_public_files, summary

        with task_runtime(get_current_context(), blobs=True) as runtime:
            return summary(check_public_files(runtime))

    @task
    def freshness() -> dict[str, int]:
        """Look at feeds, withdrawals, held batches, signing keys, windows and the proof of retention."""
        from keyserver.watch.check import check_freshness, summary

        with task_runtime(get_current_context()) as runtime:
            return summary(check_freshness(runtime))

    exposures()
    public_files()
    freshness()


check_data_quality()
