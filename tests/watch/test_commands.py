"""`keyserver quality`: what an operator asks for now, and what checks found before."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from click.testing import Result
from typer.testing import CliRunner

from keyserver.cli import app
from keyserver.errors import ConflictError, VerificationError


@pytest.fixture
def command(published):
    environment = {
        "KEYSERVER_PIPELINE_DATABASE_URL": published.database.url("keyserver_pipeline"),
        "KEYSERVER_BLOBS_URL": f"file://{published.folder}/blobs",
        "KEYSERVER_PUBLIC_URL": published.public_url,
    }

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["quality", *arguments], env=environment)

    return run


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_is_looked_at_or_one_of_it(published, command):
    said = done(command("check")).splitlines()
    assert [line.split(":")[0] for line in said] == ["exposures", "public", "freshness"]
    assert done(command("check", "public")) == "public: 12 of 12 expectations are met.\n"


def test_warnings_are_told_and_what_blocks_is_the_end(published, command):
    published.sql("UPDATE signing_key SET active_thru = keyserver_now() + interval '3 days'")
    warned, counted = done(command("check", "freshness")).splitlines()
    assert warned.startswith("WARNING: signing keys last two weeks: expected a key for each feed")
    assert counted == "freshness: 5 of 6 expectations are met."

    published.database.pass_time(timedelta(hours=1))
    result = command("check", "freshness")
    assert isinstance(result.exception, VerificationError)
    assert str(result.exception).startswith("freshness: windows are closed: ")

    missed = done(command("results", "--missed")).splitlines()
    assert len(missed) == 3
    assert all(" MISSED (" in line for line in missed)
    told = json.loads(done(command("results", "--missed", "--json")))
    assert {result["outcome"]["met"] for result in told["results"]} == {False}
    assert len(done(command("results")).splitlines()) > 20


def test_the_results_of_a_batch(command):
    assert all(", batch 1 of feed north: " in line for line in done(command("results", "--batch", "1")).splitlines())
    assert done(command("results", "--batch", "1", "--missed")) == "Nothing was missed.\n"
    assert isinstance(command("results", "--batch", "9").exception, ConflictError)
