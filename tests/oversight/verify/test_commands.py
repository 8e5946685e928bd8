"""`keyserver audit verify` in a process of its own: its lines, its JSON, its status, its checkpoint."""

from __future__ import annotations

import json

import pytest

from tests.export.conftest import serving
from tests.oversight.verify.conftest import Case
from tests.test_cli import done, keyserver, refused


@pytest.fixture
def settings(case: Case) -> dict[str, str]:
    return {
        "KEYSERVER_AUDITOR_DATABASE_URL": case.authority.database.url("keyserver_auditor"),
        "KEYSERVER_PIPELINE_DATABASE_URL": case.authority.database.url("keyserver_pipeline"),
        "KEYSERVER_BLOBS_URL": f"file://{case.authority.folder}/blobs",
    }


@pytest.fixture
def log_key(case: Case, tmp_path):
    file = tmp_path / "log.pem"
    ((pem,),) = case.authority.sql("SELECT public_key FROM signing_key WHERE purpose = 'transparency'")
    file.write_text(pem)
    return file


def test_nothing_is_wrong_and_that_is_written_down(case, settings, log_key, tmp_path):
    checkpoint = tmp_path / "checkpoint.json"
    arguments = ["audit", "verify", "--public-key", log_key, "--checkpoint", checkpoint]
    text = done(keyserver(*arguments, **settings))
    assert "10 of 10 built batches were made again: 10 identical, 0 not rebuildable." in text
    assert "NOT PROVEN" not in text
    assert text.splitlines()[-1] == "Nothing is wrong."
    before = json.loads(checkpoint.read_text())
    assert "what the checkpoint saw up to 2026-03-03 stands." in done(keyserver(*arguments, **settings))
    # A finding is one line, and nothing is written down then.
    case.change("UPDATE batch SET status = 'released' WHERE id = 5")
    result = keyserver(*arguments, **settings)
    assert result.returncode == 1
    assert [line for line in result.stdout.splitlines() if line.startswith("FINDING")] == [
        f"FINDING: batch 5: its status is released; by event {case.seq('batch.rejected')} it is rejected"
    ]
    assert json.loads(checkpoint.read_text()) == before


def test_as_json(case, settings):
    answer = json.loads(done(keyserver("audit", "verify", "--json", **settings)))
    assert (answer["findings"], answer["unreachable"]) == ([], [])
    assert answer["head_seq"] == case.authority.sql("SELECT max(seq) FROM audit_event")[0][0]
    case.change("UPDATE batch SET status = 'released' WHERE id = 5")
    result = keyserver("audit", "verify", "--json", **settings)
    assert (result.returncode, json.loads(result.stdout)["findings"][0]["about"]) == (1, "batch 5")


def test_with_a_cdn_and_without_one_that_answers(case, settings):
    without = {**settings, "KEYSERVER_BLOBS_URL": "", "KEYSERVER_PIPELINE_DATABASE_URL": ""}
    with serving(case.authority):
        url = case.authority.public_url
        assert "At the CDN: 1 index and 4 listed files" in done(keyserver("audit", "verify", "--cdn", url, **without))
    result = keyserver("audit", "verify", **without, KEYSERVER_PUBLIC_URL=url)
    assert (result.returncode, "NO ANSWER: public log of feed north at the CDN: " in result.stdout) == (2, True)


def test_a_part(case, settings):
    text = done(keyserver("audit", "verify", "--from", "2026-03-03T00:02Z", "--to", "2026-03-03T00:03Z", **settings))
    assert "The audit trail was walked from event " in text


def test_what_cannot_be_done_is_one_message(case, settings, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    assert "KEYSERVER_AUDITOR_DATABASE_URL" in refused(keyserver("audit", "verify"))
    arguments = ["audit", "verify", "--checkpoint", tmp_path / "no.json"]
    assert "none that this command wrote" in refused(keyserver(*arguments, **settings))
    out_of_reach = {**settings, "KEYSERVER_AUDITOR_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    refused(keyserver("audit", "verify", **out_of_reach), status=2)
