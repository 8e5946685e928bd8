"""### Review a held batch: approve it, or reject it.

**Purpose.** Asks an operator about a batch that its check refused, or whose steps failed in three runs. Nothing of it
is released until somebody answers; later batches and other feeds go on. The request says what failed, how many keys
there are against the days before, which phones wait, and what each answer does; the reason that is given with the
answer stands in the audit trail.

* *Approve*: a batch of the same span takes its place. It may fail the same expectations, and no other.
* *Reject*: nothing of it is released. The revisions that it alone carried are told by a batch without keys, unless
  `revisions` is put to `drop`.

**Schedule.** By `export_keys`, at once when a batch is held: one run a batch, named after it (`batch-12`). By hand,
with that run id and the number of the batch, where the run was deleted. `keyserver export approve` and
`keyserver export reject` answer the same request.

**What to do when it fails**

* *`ask` waits* (the run is running): answer it, under Required Actions. After 24 hours the batch is rejected and the
  run ends; an answer after that changes nothing.
* *A task is skipped:* its log says why: nobody has to decide any more, since somebody did on the command line, or 24
  hours are over.
* *`ask` or `decide` is red:* the answer came by Airflow's API without what the form asks for; a reason is one line of
  500 characters at most. Nothing was decided: clear `ask`, and it asks again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from keyserver_airflow import DEFAULT_ARGS, pseudonym, task_runtime

APPROVE = "Approve"
REJECT = "Reject"
KEEP = "keep"
DROP = "drop"


class AskOperator(HITLOperator):
    """Asks an operator. That nobody answers is no failure: `export_keys` rejects the batch then."""

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        """End as skipped when time is over."""
        if event["error_type"] == "timeout":
            raise AirflowSkipException("nobody answered within 24 hours: export_keys rejects the batch")
        super().process_trigger_event_error(event)


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={"batch": Param(type="integer", minimum=1, description="Its number, as logs and the audit trail have it.")},
    tags=["export", "asks"],
    doc_md=__doc__,
)
def review_held_batch() -> None:
    @task
    def describe() -> str:
        """Say what failed, who waits, and what each answer does."""
        from keyserver.export.heldbatch import review_text

        context = get_current_context()
        with task_runtime(context) as runtime:
            return review_text(runtime, context["params"]["batch"])

    ask = AskOperator(
        task_id="ask",
        subject="Batch {{ params.batch }} is held: release it?",
        body="{{ ti.xcom_pull(task_ids='describe') }}",
        options=[APPROVE, REJECT],
        params={
            # Without a default Airflow would not even ask; with an empty one its form asks for more than that.
            "reason": Param("", type="string", maxLength=500, description="Why, in one line, without anybody's name."),
            "revisions": Param(
                KEEP,
                enum=[KEEP, DROP],
                description="If you reject it: what becomes of the revisions that it alone carries.",
            ),
        },
        response_timeout=timedelta(hours=24),
        doc_md="Ask an operator.",
    )

    @task
    def decide() -> int | None:
        """Commit the answer; the result is the batch that is planned in its place, if one is."""
        from keyserver.export.decide import answer

        context = get_current_context()
        answered = context["ti"].xcom_pull(task_ids="ask")
        given = answered["params_input"]
        with task_runtime(context, actor=pseudonym(answered["responded_by_user"])) as runtime:
            return answer(
                runtime,
                context["params"]["batch"],
                given.get("reason") or "",
                approved=answered["chosen_options"] == [APPROVE],
                keep_revisions=given.get("revisions") != DROP,
            )

    describe() >> ask >> decide()


review_held_batch()
