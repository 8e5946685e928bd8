"""### Withdraw a release: take a bad file off the CDN.

**Purpose.** Takes all files of one released batch back: their lines leave the index, their objects the store and the
CDN, and the public URLs are asked until they say so. Then its keys are released again by a batch that replaces it, or
dropped. Somebody approves first; the request says what cannot be undone, and who approved stands with that task.

* *Regenerate a batch, or sign it anew* (a signing key was revoked, a rule of the format was broken): the same, with
  `then` left at `release again`. The new batch has the span and the rules of the old one, today's signing keys, what
  was revised since, and files whose names and end timestamps are new. `export_keys` releases it within a minute.
* *Keys that must not be out at all*: `then` at `drop`. A batch without keys tells phones of the revisions that the
  withdrawn one alone carried, so that none is lost; `drop with its revisions` leaves these out too.

**Schedule.** By hand, with the number of the batch and a reason, which the audit trail keeps. Run it twice, and nothing
changes.

**What to do when it fails**

* *`describe` is red:* the batch is none that was released; its log says what it is. A held batch is rejected instead
  (`keyserver export reject`).
* *`approve` is red:* nobody answered for a day, and nothing was done. Run it again.
* *`approve` was answered with Reject:* nothing was done.
* *`finish` is red:* the objects are out of the store, and a public URL still answers. Purge the CDN's cache of the
  paths in the log of the task, then clear it.
* *`settle_keys` is red:* its log names the batch that was planned in place of this one before: go on from that one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag, get_current_context, task

from keyserver_airflow import DEFAULT_ARGS, task_runtime

RELEASE_AGAIN = "release again"
DROP = "drop"
DROP_WITH_REVISIONS = "drop with its revisions"


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={
        "batch": Param(type="integer", minimum=1, description="Its number, as logs and the audit trail have it."),
        "reason": Param(
            type="string", minLength=1, maxLength=500, description="Why, in one line, without anybody's name."
        ),
        "then": Param(
            RELEASE_AGAIN,
            enum=[RELEASE_AGAIN, DROP, DROP_WITH_REVISIONS],
            description="What becomes of its keys, and of the revisions that it alone carried.",
        ),
    },
    tags=["export", "by hand"],
    doc_md=__doc__,
)
def withdraw_release() -> None:
    @task
    def describe() -> str:
        """Say what would be withdrawn, and what that cannot do."""
        from keyserver.export.withdraw import approval_text

        context = get_current_context()
        with task_runtime(context) as runtime:
            return approval_text(runtime, context["params"]["batch"], context["params"]["reason"])

    approve = ApprovalOperator(
        task_id="approve",
        subject="Withdraw batch {{ params.batch }}, then {{ params.then }} its keys",
        body="{{ ti.xcom_pull(task_ids='describe') }}",
        response_timeout=timedelta(days=1),
        doc_md="Ask an operator.",
    )

    @task
    def withdraw() -> None:
        """Take the lines out of the index."""
        from keyserver.export.withdraw import withdraw as work

        context = get_current_context()
        with task_runtime(context, blobs=True) as runtime:
            work(runtime, context["params"]["batch"], context["params"]["reason"])

    @task(retries=60)  # as often as a CDN may need to forget
    def finish() -> None:
        """Take the objects out of the store and the CDN; look until the public URLs say so."""
        from keyserver.export.withdraw import finish as work

        context = get_current_context()
        with task_runtime(context, blobs=True) as runtime:
            work(runtime, context["params"]["batch"])

    @task
    def settle_keys() -> int | None:
        """Plan the batch in its place, if there is to be one; the result is its number."""
        from keyserver.export.replace import replace
        from keyserver.export.withdraw import for_good

        context = get_current_context()
        batch, reason, then = (context["params"][name] for name in ("batch", "reason", "then"))
        with task_runtime(context, blobs=True) as runtime:
            if then == RELEASE_AGAIN:
                return replace(runtime, batch, reason)
            return for_good(runtime, batch, reason, keep_revisions=then == DROP)

    describe() >> approve >> withdraw() >> finish() >> settle_keys()


withdraw_release()
