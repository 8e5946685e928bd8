"""### Rotate keys: those that encrypt revision tokens, and those of health authorities.

**Purpose.** Makes a new revision key every week and destroys those that no token needs any more; stores the keys that
health authorities publish at their `jwks_uri`, and revokes those that they publish no longer. The two tasks have
nothing to do with each other.

**Schedule.** Every hour. What is due is decided by the database: run it at any time, or twice, and nothing changes.
After an authority has withdrawn a key, run it at once.

**What to do when it fails**

* *A task was retried and the run is green:* nothing.
* *`rotate_revision_keys` is red:* its log says what is wrong with the master key. Uploads go on with the keys that
  there are; mend it within days.
* *`import_jwks` is red:* its log names each authority that failed, and why; the others were imported, and the keys that
  it had stay as they were. A kid that came with another key, a private key or an address inside is for the authority to
  mend: call them.
* *The log of `import_jwks` warns that a key which has ended is listed:* it stays ended. If the authority means it,
  declare the key without `jwks_uri`, apply that, and put `jwks_uri` back.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from keyserver_airflow import DEFAULT_ARGS, task_runtime


@dag(
    schedule=CronTriggerTimetable("7 * * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    tags=["keys", "every hour"],
    doc_md=__doc__,
)
def rotate_keys() -> None:
    @task
    def rotate_revision_keys() -> int | None:
        """Make a revision key when one is due; destroy what is not needed. The result is the new key's id."""
        from keyserver.keys.revision import rotate

        with task_runtime(get_current_context(), keywrap=True) as runtime:
            return rotate(runtime).created

    @task
    def import_jwks() -> dict[str, int]:
        """Store the keys that health authorities publish; revoke those that they do not any more."""
        from keyserver.keys.jwks import import_all

        with task_runtime(get_current_context()) as runtime:
            imported = import_all(runtime)
            return {"added": imported.added, "revoked": imported.revoked}

    rotate_revision_keys()
    import_jwks()


rotate_keys()
