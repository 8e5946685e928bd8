"""The commands with which an operator decides about batches."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from keyserver.cli import app
from keyserver.errors import ConfigurationError, ConflictError, FormatError
from tests.airflowapi import PASSWORD, serving
from tests.export.operators import TOO_EARLY, hold_next


@pytest.fixture
def command(served):
    """Run a command of `keyserver export` as an operator's shell does."""
    environment = {
        "KEYSERVER_PIPELINE_DATABASE_URL": served.database.url("keyserver_pipeline"),
        "KEYSERVER_BLOBS_URL": f"file://{served.folder}/blobs",
        "KEYSERVER_PUBLIC_URL": served.public_url,
    }

    def run(*arguments: str, answer: str | None = None, **more: str) -> Result:
        return CliRunner().invoke(app, ["export", *arguments], env={**environment, **more}, input=answer)

    return run


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_held_batch_is_listed_and_approved(served, command):
    served.add_feed("north")
    assert done(command("held")) == "No batch is held.\n"
    hold_next(served)
    assert done(command("held")).startswith(
        "batch 1 of feed north, 2026-03-02T09:59:00Z to 2026-03-02T10:01:00Z, held since 2026-03-02T10:01:00Z:"
        f" {TOO_EARLY}"
    )
    for _ in range(2):
        said = done(command("approve", "1", "--reason", "known"))
        assert said == "Batch 1 is approved: batch 2 is planned in its place.\n"
    assert done(command("held")) == "No batch is held.\n"
    assert served.export() == [2]


def test_a_held_batch_is_rejected_with_or_without_its_revisions(served, command):
    served.add_feed("north")
    keys = served.add_keys(3)
    served.close_windows()
    served.export()
    for number, key in enumerate(keys[:2], start=2):
        served.revise([key], "negative")
        assert hold_next(served) == number
        assert f"It alone carries {number - 1} revisions" in done(command("held"))
        if number == 2:
            said = done(command("reject", "2", "--reason", "no", "--drop-revisions"))
            assert said == "Batch 2 is rejected: no batch is planned in its place.\n"
            served.revise(keys[2:], "negative")
    assert done(command("reject", "3", "--reason", "no")) == "Batch 3 is rejected: batch 4 tells its revisions.\n"
    refused = command("replace", "3", "--reason", "after all")
    assert isinstance(refused.exception, ConflictError)
    assert "was replaced by batch 4" in str(refused.exception)


def login(url: str, password: str = PASSWORD) -> dict[str, str]:
    return {
        "KEYSERVER_AIRFLOW_URL": url,
        "KEYSERVER_AIRFLOW_LOGIN": "op",
        "KEYSERVER_AIRFLOW_PASSWORD": password,
    }


def test_an_open_request_in_airflow_is_answered_instead(served, command):
    served.add_feed("north")
    hold_next(served)
    with serving() as airflow:
        airflow.ask()
        said = done(command("approve", "1", "--reason", " known ", **login(airflow.url)))
        assert said == "The request in Airflow is answered: run batch-1 of review_held_batch commits the decision.\n"
        done(command("reject", "1", "--reason", "no", "--drop-revisions", **login(airflow.url)))
        assert served.statuses() == {1: "held"}
        assert airflow.received == [
            {"chosen_options": ["Approve"], "params_input": {"reason": "known", "revisions": "keep"}},
            {"chosen_options": ["Reject"], "params_input": {"reason": "no", "revisions": "drop"}},
        ]

        refused = command("approve", "1", "--reason", "known", **login(airflow.url, "wrong"))
        assert isinstance(refused.exception, ConfigurationError)
        malformed = command("approve", "1", "--reason", "two\nlines", **login(airflow.url))
        assert isinstance(malformed.exception, FormatError)
        assert served.statuses() == {1: "held"}
        assert len(airflow.received) == 2

        airflow.answers.clear()
        airflow.answers["POST /auth/token"] = (201, {"access_token": "a-token"})
        said = done(command("approve", "1", "--reason", "known", **login(airflow.url)))
        assert said == "Batch 1 is approved: batch 2 is planned in its place.\n"


def test_an_airflow_that_is_away_keeps_nobody_from_deciding(served, command):
    served.add_feed("north")
    hold_next(served)
    said = done(command("reject", "1", "--reason", "no", **login("http://127.0.0.1:1")))
    assert "WARNING: Airflow did not answer" in said
    assert said.endswith("Batch 1 is rejected: no batch is planned in its place.\n")


def test_a_release_is_withdrawn_after_a_question_and_released_again(served, command):
    served.add_feed("north")
    served.add_keys(3)
    served.close_windows()
    served.export()
    asked = command("withdraw", "1", "--reason", "wrong", answer="n\n")
    assert asked.exit_code == 1
    assert "Confirmed matches on phones cannot be recalled" in asked.stdout
    assert served.statuses() == {1: "released"}

    said = done(command("withdraw", "1", "--reason", "wrong", "--then", "release-again", answer="y\n"))
    assert "Batch 1 is withdrawn: its public URLs say so.\nBatch 2 is planned in its place.\n" in said
    assert done(command("replace", "1", "--reason", "wrong")) == "Batch 2 is planned in place of batch 1.\n"
    assert served.export() == [2]
    said = done(command("withdraw", "2", "--reason", "wrong", "--then", "drop", "--yes"))
    assert said.endswith("Its keys are dropped: no batch is planned in its place.\n")


@pytest.mark.parametrize("name", ["approve", "reject", "replace", "withdraw"])
def test_each_decision_needs_a_reason_and_a_batch_that_it_fits(served, command, name):
    served.add_feed("north")
    served.add_keys(3)
    served.close_windows()
    assert command(name, "1").exit_code == 2
    assert isinstance(command(name, "1", "--reason", " ").exception, FormatError)
    for batch in ("1", "9"):
        assert isinstance(command(name, batch, "--reason", "yes").exception, ConflictError)
    assert served.statuses() == {1: "planned"}
