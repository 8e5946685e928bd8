"""### Export keys: from closed windows to files that phones can download.

**Purpose.** Closes every privacy window that is past (which plans the batches that end with it), then works on the due
batch of each feed: build, check, sign, verify, release, index. One mapped task group is one batch. Then every file that
nobody has looked at yet is fetched and verified as a phone does.

**Schedule.** Every minute, and at once again while more is due. What is due is decided by the database, never by a data
interval: run it twice, backfill it, or run it beside another run, and nothing changes. The run's note lists the windows
that it closed.

**What to do when it fails**

* *A task was retried and the run is green:* nothing. A killed worker or a lost connection is healed by the retry.
* *A task of a batch is red:* read its log; the error says what is wrong. The batch stays due, and the next run tries it
  again; after three such runs it is `held`.
* *What went into a file, and what did not:* the log of `index` has the batch's record, its counts by reason included.
* *A task is skipped:* its log says why: the batch was empty, another run had taken it over, or it is held.
* *A batch is held* (`ALERT` in the log of `check` or of the step that failed): nothing of it was released, later
  batches go on. `review_held` starts a run of `review_held_batch`, which asks an operator: answer it there, under
  Required Actions, or by `keyserver export approve` and `keyserver export reject`. After 24 hours without an answer it
  is rejected.
* *`confirm` is red* (`ALERT` in its log): a released file does not reach phones as it was released. Nothing is taken
  back; every run looks again. Mend the web server or the CDN; for a bad file, run `withdraw_release`.
* *`publish_log` is red:* phones are served; the public log beside an index is behind. Its log says which and why: no
  transparency key is active, or what is public has lines that the database has not (docs/transparency.md).
* *`close_windows` refuses because clocks differ:* mend the clock of this host or of the database; it is retried.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    Asset,
    AssetAlias,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    dag,
    get_current_context,
    task,
    task_group,
)

from keyserver_airflow import DEFAULT_ARGS, start_review, task_runtime, unasked

EXPORT_DUE = Asset("keyserver_export_due")
MORE_IS_DUE = AssetAlias("keyserver_more_is_due")
LABEL = "{{ batch_label }}"


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[EXPORT_DUE]),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=["export", "every minute"],
    doc_md=__doc__,
)
def export_keys() -> None:
    @task
    def close_windows() -> list[str]:
        """Close the windows that are past; plan and pad the batches that end with them."""
        from keyserver.export.windows import close_windows as close

        with task_runtime(get_current_context()) as runtime:
            return [f"{window.starts_at:%Y-%m-%d %H:%M}" for window in close(runtime, datetime.now(UTC))]

    @task
    def rewrite_windows() -> int:
        """Put the rows of closed windows in key order."""
        from keyserver.export.windows import rewrite_windows as rewrite

        with task_runtime(get_current_context(), database="keyserver_rewriter") as runtime:
            return rewrite(runtime)

    @task(trigger_rule="all_done")  # what was planned before is released even when no window can be closed now
    def claim_due() -> list[dict[str, Any]]:
        """Claim the due batch of each feed for this run."""
        from keyserver.export.due import claim_due as claim

        with task_runtime(get_current_context()) as runtime:
            return [
                {"id": batch.batch_id, "label": f"{batch.feed} {batch.starts_at:%m-%d %H:%M} to {batch.ends_at:%H:%M}"}
                for batch in claim(runtime)
            ]

    @task_group
    def export_batch(batch: dict[str, Any]) -> None:
        @task(map_index_template=LABEL)
        def build(batch: dict[str, Any]) -> None:
            """Make the unsigned files and stage them."""
            from keyserver.export.build import build as work

            with batch_runtime(batch, blobs=True) as runtime:
                work(runtime, batch["id"])

        @task(map_index_template=LABEL)
        def check(batch: dict[str, Any]) -> None:
            """Put the expectations to the staged files; hold the batch if one is not met."""
            from keyserver.export.gate import check as work

            with batch_runtime(batch, blobs=True) as runtime:
                work(runtime, batch["id"])

        @task(map_index_template=LABEL)
        def sign(batch: dict[str, Any]) -> None:
            """Sign the checked bytes; make the zips."""
            from keyserver.export.sign import sign as work

            with batch_runtime(batch, blobs=True, signer=True) as runtime:
                work(runtime, batch["id"])

        @task(map_index_template=LABEL)
        def verify(batch: dict[str, Any]) -> None:
            """Read the zips as a phone does."""
            from keyserver.export.verify import verify as work

            with batch_runtime(batch, blobs=True) as runtime:
                work(runtime, batch["id"])

        @task(map_index_template=LABEL)
        def release(batch: dict[str, Any]) -> None:
            """Put the files where phones download them."""
            from keyserver.export.release import release as work

            with batch_runtime(batch, blobs=True) as runtime:
                work(runtime, batch["id"])

        @task(map_index_template=LABEL)
        def index(batch: dict[str, Any]) -> None:
            """List them, and tell in the log what the batch was made of."""
            from keyserver.export.index import index as work
            from keyserver.oversight.provenance import log_provenance

            with batch_runtime(batch, blobs=True) as runtime:
                work(runtime, batch["id"])
                log_provenance(runtime, batch["id"])

        build(batch) >> check(batch) >> sign(batch) >> verify(batch) >> release(batch) >> index(batch)

    @task
    def confirm() -> int:
        """Fetch what was released through the public URL and read it as a phone does."""
        from keyserver.export.confirm import confirm as work

        with task_runtime(get_current_context(), blobs=True) as runtime:
            return work(runtime)

    @task(outlets=[MORE_IS_DUE], execution_timeout=timedelta(minutes=2))
    def finish(*, outlet_events: Any) -> list[int]:
        """Tidy the store and what nobody decides on, ask for another run while more is due, give back claims.

        The result: the held batches that nobody was asked about yet.
        """
        from keyserver.export.claim import give_back, more_is_due
        from keyserver.export.decide import reject_unanswered, waiting
        from keyserver.export.index import write_all
        from keyserver.export.release import remove_unlisted

        context = get_current_context()
        with task_runtime(context, blobs=True) as runtime:
            try:
                write_all(runtime)
                remove_unlisted(runtime)
                reject_unanswered(runtime)
                if more_is_due(runtime):
                    outlet_events[MORE_IS_DUE].add(EXPORT_DUE)
                return unasked(context, waiting(runtime))
            finally:
                give_back(runtime)

    @task(execution_timeout=timedelta(minutes=2))
    def publish_log() -> int:
        """Sign and write the public log beside each index: what was released or withdrawn, and a head a day."""
        from keyserver.export.transparency import publish_logs

        with task_runtime(get_current_context(), blobs=True, signer=True) as runtime:
            return publish_logs(runtime)

    @task(doc_md="Ask an operator about a held batch, once.")
    def review_held(batch: int) -> None:
        """Start the run that asks: the words above are the task's, as Airflow shows them of one that is mapped."""
        start_review(batch)

    due, finished = claim_due(), finish()
    exported = export_batch.expand(batch=due)
    # Teardowns, so that all three work whatever became of the batches.
    last = [confirm().as_teardown(), finished.as_teardown(), publish_log().as_teardown()]
    close_windows() >> [rewrite_windows(), due]
    # What ends a run says whether it is green: this says whether its batches and its last steps are.
    all_well = EmptyOperator(
        task_id="all_well", trigger_rule="none_failed", doc_md="Makes the run red if anything of it is."
    )
    exported >> last >> all_well
    exported >> all_well
    review_held.expand(batch=finished)


def batch_runtime(batch: dict[str, Any], **parts: bool) -> Any:
    """Build a step's runtime and name its mapped task after the batch's feed and span."""
    context = get_current_context()
    context["batch_label"] = batch["label"]
    return task_runtime(context, **parts)


export_keys()
