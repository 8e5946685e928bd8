"""### Delete on demand: remove all keys that one app uploaded in a span of windows.

**Purpose.** Somebody may demand it: an authority whose app uploaded what it should not have, or a court. A dry run says
what would go and which files hold some of it; somebody approves; then the rows are deleted. A batch that was made of
them and is not released never will be: it is held, and replaced at once by one without them. Released files stay as
they are, or are withdrawn, whichever `withdraw` says; then what remains of their keys is released again, or nothing is.

**Schedule.** By hand, with an app, a span and a reason, which the audit trail keeps. The span is of whole windows that
are closed: for an app that goes on uploading, run it again later. Run it twice, and nothing changes.

**What to do when it fails**

* *`describe` is red:* its log says what is wrong with the span; it names the latest end that is possible.
* *`approve` is red:* nobody answered for a day, and nothing was done. Run it again.
* *`approve` was answered with Reject:* nothing was done.
* *`delete` is red:* what it has deleted until then is deleted, and counted. Clear it: it goes on.
* *`withdrawal.finish` is red:* the objects are out of the store, and a public URL still answers. Purge the CDN's cache
  of the paths in the log of the task, then clear it.
* *`withdrawal.settle_keys` is red:* its log names the batch that was planned in place of this one before: go on from
  that one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag, get_current_context, task, task_group

from keyserver_airflow import DEFAULT_ARGS, task_runtime

LEAVE = "leave them out"
RELEASE_AGAIN = "withdraw them, then release what remains"
DROP = "withdraw them for good"


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={
        "app": Param(type="string", minLength=1, description="The app, as the configuration names it."),
        "from": Param(type="string", format="date-time", description="The start of its first window."),
        "thru": Param(type="string", format="date-time", description="The end of its last window, at or before now."),
        "reason": Param(
            type="string", minLength=1, maxLength=500, description="Why, in one line, without anybody's name."
        ),
        "withdraw": Param(
            LEAVE,
            enum=[LEAVE, RELEASE_AGAIN, DROP],
            description="What becomes of files that are out and hold some of the keys.",
        ),
    },
    tags=["retention", "by hand"],
    doc_md=__doc__,
)
def delete_on_demand() -> None:
    @task
    def describe() -> str:
        """Say what would be deleted, and what that cannot do: the dry run."""
        from keyserver.retention.demand import approval_text

        with retention_runtime() as runtime:
            return approval_text(runtime, *asked(), get_current_context()["params"]["reason"])

    approve = ApprovalOperator(
        task_id="approve",
        subject="Delete the keys that {{ params.app }} uploaded; files that are out: {{ params.withdraw }}",
        body="{{ ti.xcom_pull(task_ids='describe') }}",
        response_timeout=timedelta(days=1),
        doc_md="Ask an operator.",
    )

    @task(execution_timeout=timedelta(hours=2))
    def delete() -> dict[str, int]:
        """Delete the rows, in parts; hold what was built of them."""
        from keyserver.retention.demand import delete as work

        with retention_runtime() as runtime:
            done = work(runtime, *asked(), get_current_context()["params"]["reason"])
            return {"keys": done.keys, "revisions": done.revisions, "held": len(done.held)}

    @task
    def held() -> list[int]:
        """List the batches that were held because of it."""
        from keyserver.retention.demand import held as work

        with retention_runtime() as runtime:
            return work(runtime)

    @task(doc_md="Plan a batch without the keys in place of a held one.")
    def replace(batch: int) -> int:
        """Plan one; of a task that is mapped Airflow does not show this."""
        from keyserver.export.decide import approve as work

        context = get_current_context()
        with task_runtime(context) as runtime:
            return work(runtime, batch, context["params"]["reason"])

    @task
    def to_withdraw() -> list[int]:
        """List the released batches that held some of the keys, if they are to be withdrawn."""
        from keyserver.retention.demand import out

        if get_current_context()["params"]["withdraw"] == LEAVE:
            return []
        with retention_runtime() as runtime:
            return out(runtime, *asked())

    @task_group
    def withdrawal(batch: int) -> None:
        @task
        def withdraw(batch: int) -> None:
            """Take the lines out of the index."""
            from keyserver.export.withdraw import withdraw as work

            context = get_current_context()
            with task_runtime(context, blobs=True) as runtime:
                work(runtime, batch, context["params"]["reason"])

        @task(retries=60)  # as often as a CDN may need to forget
        def finish(batch: int) -> None:
            """Take the objects out of the store and the CDN; look until the public URLs say so."""
            from keyserver.export.withdraw import finish as work

            with task_runtime(get_current_context(), blobs=True) as runtime:
                work(runtime, batch)

        @task
        def settle_keys(batch: int) -> int | None:
            """Plan the batch in its place, if there is to be one; the result is its number."""
            from keyserver.export.replace import replace as work
            from keyserver.export.withdraw import for_good

            context = get_current_context()
            with task_runtime(context, blobs=True) as runtime:
                if context["params"]["withdraw"] == DROP:
                    return for_good(runtime, batch, context["params"]["reason"])
                return work(runtime, batch, context["params"]["reason"])

        withdraw(batch) >> finish(batch) >> settle_keys(batch)

    @task(trigger_rule="none_failed")  # most often nothing is held, and nothing withdrawn
    def clear_staging() -> int:
        """Remove staged files that had the keys and are of no use any more."""
        from keyserver.retention.demand import clear_staging as work

        with retention_runtime(blobs=True) as runtime:
            return work(runtime, *asked())

    deleted, of_held, of_released = delete(), held(), to_withdraw()
    describe() >> approve >> deleted >> [of_held, of_released]
    [replace.expand(batch=of_held), withdrawal.expand(batch=of_released)] >> clear_staging()


def retention_runtime(**parts: bool) -> Any:
    """Build the runtime of the one role that removes keys."""
    return task_runtime(get_current_context(), database="keyserver_retention", **parts)


def asked() -> tuple[str, datetime, datetime]:
    """Read the app and the span of the run's parameters; moments without a zone are in UTC."""
    params = get_current_context()["params"]
    starts_at, ends_at = (datetime.fromisoformat(params[name]) for name in ("from", "thru"))
    return (
        params["app"],
        starts_at if starts_at.tzinfo else starts_at.replace(tzinfo=UTC),
        ends_at if ends_at.tzinfo else ends_at.replace(tzinfo=UTC),
    )


delete_on_demand()
