"""The operators' pages: what they show, by the auditor's rights alone, and that nothing of it becomes markup."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import psycopg
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from keyserver.audit import Actor, recorded
from keyserver.oversight.releases import feed_state
from keyserver.runtime import open_runtime
from keyserver.store import quality
from keyserver.store.oversight import FeedNow
from keyserver.store.quality import Outcome
from keyserver_pages import age, create_app, task_path
from tests.export.operators import TOO_EARLY, hold_next

HOSTILE = "<script>alert('x')</script>&\"'"


def allowed() -> None:
    """Let everybody in."""


@pytest.fixture
def pages(authority):
    """The pages of an authority, at the path where Airflow mounts them, read by the auditor's role."""
    url = authority.database.url("keyserver_auditor")
    app = create_app(lambda: open_runtime(Actor("pages"), url), allowed)
    with TestClient(app, root_path="/keyserver") as client:
        yield client


def shown(page) -> str:
    """A page's text, without its markup."""
    assert page.status_code == 200, page.text
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style.*?</style>", "", page.text, flags=re.DOTALL)).split())


@pytest.fixture
def exporting(authority):
    authority.add_feed("north", output_region=HOSTILE)
    authority.add_keys(5)
    authority.close_windows()
    authority.export()
    return authority


def test_in_ten_seconds_an_operator_sees_that_phones_get_fresh_keys(exporting, pages):
    said = shown(pages.get("/releases"))
    assert "Phones get fresh keys" in said
    assert "north" in said
    assert "fresh 2026-03-02 10:01 UTC less than a minute ago 1 minute" in said
    assert "no proof in the last 15 days" in said
    assert "Quality: " in said
    assert "all met" in said


def test_a_feed_that_is_late_is_named_first(exporting, pages):
    exporting.database.pass_time(timedelta(minutes=2))
    said = shown(pages.get("/releases"))
    assert "1 of 1 feed is not fresh Phones that follow north miss keys that are due." in said
    assert " late 2026-03-02 10:01 UTC 2 minutes ago" in said
    exporting.database.pass_time(timedelta(minutes=1))
    assert " stale 2026-03-02 10:01 UTC 3 minutes ago" in shown(pages.get("/releases"))


def test_what_is_held_waits_or_is_withdrawn_is_shown_with_where_to_decide(exporting, pages):
    held = hold_next(exporting)
    exporting.close_windows()
    exporting.sql("UPDATE batch SET status = 'withdrawing' WHERE id = 1")
    page = pages.get("/releases")
    assert f'href="/dags/review_held_batch/runs/batch-{held}/tasks/ask/required_actions"' in page.text
    assert f"Held, and waiting for an answer: batch {held} of north." in shown(page)
    assert "/keyserver/batches/1" in page.text
    assert 'class="number">1</td>' in page.text


def test_the_last_proof_of_retention_is_linked(exporting, pages):
    with recorded(exporting.runtime().database, Actor("test")) as work:
        work.record("retention.proved", {}, counts={"leftovers": 0})
    (seq,) = work.recorded
    page = pages.get("/releases")
    assert "proven" in shown(page)
    assert f'href="/keyserver/events/{seq}"' in page.text
    said = shown(pages.get(f"/events/{seq}"))
    assert f"Audit event {seq}: retention.proved" in said
    exporting.database.pass_time(timedelta(days=16))
    assert "no proof in the last 15 days" in shown(pages.get("/releases"))


def test_without_a_feed(pages):
    assert "No feed is declared" in shown(pages.get("/releases"))


@pytest.mark.parametrize(
    ("rules", "ended_before", "state"),
    [
        ({}, timedelta(hours=4, seconds=59), "fresh"),
        ({}, timedelta(hours=4, minutes=1), "late"),
        ({}, timedelta(hours=8, seconds=59), "late"),
        ({}, timedelta(hours=8, minutes=1), "stale"),
        ({}, None, "stale"),
        ({"paused": True}, timedelta(days=2), "paused"),
        ({"active_from": datetime(2026, 3, 3, tzinfo=UTC)}, None, "not begun"),
        ({"active_thru": datetime(2026, 3, 2, 8, tzinfo=UTC)}, timedelta(hours=4), "ended"),
        ({"active_thru": datetime(2026, 3, 2, 8, tzinfo=UTC), "waiting": 1}, timedelta(hours=4), "fresh"),
    ],
)
def test_how_fresh_a_feed_is(rules, ended_before, state):
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    values = {
        "name": "north",
        "region": "NO",
        "period": timedelta(hours=4),
        "paused": False,
        "development": False,
        "active_from": datetime(2026, 3, 1, tzinfo=UTC),
        "active_thru": None,
        "newest": None if ended_before is None else 1,
        "newest_end": None if ended_before is None else now - ended_before,
        "newest_status": None if ended_before is None else "released",
        "waiting": 0,
        "held": [],
        "withdrawing": [],
    }
    assert feed_state(FeedNow(**values | rules), now).state == state


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (timedelta(seconds=59), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=2, minutes=5), "2 hours 5 minutes"),
        (timedelta(days=1, minutes=5), "1 day"),
        (timedelta(days=3, hours=7, minutes=5), "3 days 7 hours"),
    ],
)
def test_how_long_something_is(of, said):
    assert age(of) == said


def add_result(authority, name: str, *, met: bool, found: str, severity: str = "warn") -> None:
    outcome = Outcome(name, severity, "export", "phones would be wrong", met, "nothing odd", found)
    with authority.runtime().database.transaction() as connection:
        quality.insert(connection, [outcome], suite="stored exposures", subject="all windows", run="run-1")


def test_what_was_missed_comes_first_and_each_expectation_has_a_history(exporting, pages):
    add_result(exporting, "b is right", met=False, found="3 odd rows")
    add_result(exporting, "b is right", met=True, found="none")
    exporting.database.pass_time(timedelta(days=1))
    add_result(exporting, "a is right", met=True, found="none")
    add_result(exporting, "b is right", met=False, found="7 odd rows")
    page = pages.get("/quality")
    said = shown(page)
    assert said.index("b is right") < said.index("a is right")
    assert "not met nothing odd 7 odd rows" in said
    assert "3 odd rows" not in said
    (link,) = re.findall(
        r'href="(/keyserver/quality/expectation\?suite=stored%20exposures&amp;name=b[^"]*)"', page.text
    )
    history = pages.get(link.removeprefix("/keyserver").replace("&amp;", "&"))
    said = shown(history)
    assert "Why: phones would be wrong." in said
    assert "2026-03-03: met 0, not met 1" in said
    assert "2026-03-02: met 1, not met 1" in said
    assert said.index("7 odd rows") < said.index("3 odd rows") < said.index("none")
    assert history.text.count('class="no-run"') == 12


def test_the_check_of_a_batch_is_shown_by_expectation_and_by_batch(exporting, pages):
    held = hold_next(exporting)
    said = shown(pages.get("/quality"))
    assert f"{TOO_EARLY} not met" in said
    page = pages.get(f"/batches/{held}")
    said = shown(page)
    assert f"Batch {held} of feed north held" in said
    assert "1 not met" in said
    assert f'href="/dags/review_held_batch/runs/batch-{held}/tasks/ask/required_actions"' in page.text


def test_a_batch_says_what_it_was_made_of_and_links_its_events(exporting, pages):
    page = pages.get("/batches/1")
    said = shown(page)
    assert "Batch 1 of feed north released" in said
    assert "These counts add up." in said
    events = exporting.sql("SELECT seq FROM audit_event WHERE kind = 'batch.checked'")
    assert f'href="/keyserver/events/{events[0][0]}"' in page.text
    ((name,),) = exporting.sql("SELECT name FROM file")
    for find in ("1", name, f"https://cdn.example/{name}"):
        assert shown(pages.get("/batches", params={"find": find})) == said


def test_an_event_leads_to_the_log_of_its_task_and_back(exporting, pages):
    actor = Actor(
        "airflow", dag="export_keys", run="manual__2026-03-02T10:00:00+00:00", task="export_batch.sign", map_index=2
    )
    with recorded(exporting.runtime().database, actor) as work:
        work.record("batch.signed", {"batch": 1, "feed": "north"})
    (seq,) = work.recorded
    path = "/dags/export_keys/runs/manual__2026-03-02T10%3A00%3A00%2B00%3A00/tasks/export_batch.sign/mapped/2"
    for page in (pages.get("/events", params={"seq": seq}), pages.get("/batches/1")):
        assert f'href="{path}"' in page.text
    assert 'href="/keyserver/batches/1"' in pages.get(f"/events/{seq}").text
    ((body, digest),) = exporting.sql("SELECT body, encode(hash, 'hex') FROM audit_event WHERE seq = %(seq)s", seq=seq)
    said = pages.get(f"/events/{seq}").text
    assert digest in said
    assert json.loads(body)["subject"] == {"batch": 1, "feed": "north"}


@pytest.mark.parametrize("body", [{}, {"dag": "d", "run": None, "task": "t"}, {"dag": "d", "run": "r"}])
def test_what_no_task_did_leads_to_none(body):
    assert task_path(body) is None
    assert task_path({"dag": "d", "run": "r", "task": "t", "map_index": -1}) == "/dags/d/runs/r/tasks/t"


def test_nothing_that_is_shown_becomes_markup(exporting, pages):
    add_result(exporting, HOSTILE, met=False, found=HOSTILE)
    exporting.sql("UPDATE batch SET reason = %(text)s", text=HOSTILE)
    where = f"/quality/expectation?suite=stored%20exposures&name={quote(HOSTILE, safe='')}"
    for path in ("/releases", "/quality", where, "/batches/1", f"/batches?find={quote(HOSTILE)}"):
        page = pages.get(path)
        assert "<script" not in page.text, path
    assert "&lt;script&gt;" in pages.get("/releases").text
    assert "&lt;script&gt;" in pages.get("/quality").text


def test_a_page_loads_nothing_from_elsewhere_and_runs_no_script(exporting, pages):
    for path in ("/releases", "/quality", "/batches", "/batches/1", "/events/1"):
        page = pages.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
        assert re.findall(r'(?:src|href|action)="(?!/keyserver/|/dags/|/")[^"]*"', page.text) == []
        assert " style=" not in page.text
        assert " onclick" not in page.text
    assert pages.get("/style.css").headers["content-type"].startswith("text/css")
    assert "url(" not in pages.get("/style.css").text
    assert pages.get("/icon.svg").headers["content-type"] == "image/svg+xml"


def test_beside_airflow_s_ui_a_page_leads_back_and_within_it_does_not(pages):
    assert 'href="/">Airflow</a>' in pages.get("/batches").text
    assert 'href="/">Airflow</a>' not in pages.get("/batches", headers={"Sec-Fetch-Dest": "iframe"}).text


def test_the_first_page_is_that_of_releases(pages):
    answer = pages.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/keyserver/releases")


@pytest.mark.parametrize(
    "path",
    [
        "/batches/99",
        "/batches?find=north/none.zip",
        f"/batches/{2**63}",
        "/batches/0",
        "/batches/x",
        "/events/99999",
        "/events?seq=-1",
        "/events?seq=x",
        "/events",
        "/quality/expectation?suite=a&name=b",
        "/quality/expectation",
        "/nothing",
        f"/batches?find={'9' * 400}",
        f"/batches?find={'a' * 501}",
        "/batches?find=%00",
    ],
)
def test_what_is_not_there(exporting, pages, path):
    page = pages.get(path)
    assert page.status_code == 404
    assert "Key server" in page.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_is_changed_from_here(pages, method):
    assert pages.request(method, "/releases").status_code == 405


def test_a_database_that_is_away_is_said_calmly(authority):
    app = create_app(lambda: open_runtime(Actor("pages"), "postgresql://x@127.0.0.1:1/none?password=secret"), allowed)
    with TestClient(app, root_path="/keyserver") as client:
        page = client.get("/releases")
    assert page.status_code == 503
    assert "Phones are served all the same" in page.text
    assert "127.0.0.1" not in page.text
    assert "secret" not in page.text


def test_who_may_not_see_them_sees_none(authority):
    def refuse() -> None:
        raise HTTPException(403, "Forbidden")

    app = create_app(authority.runtime, refuse)
    with TestClient(app, root_path="/keyserver") as client:
        for path in ("/", "/releases", "/quality", "/quality/expectation?suite=a&name=b", "/batches", "/batches/1",
                     "/events?seq=1", "/events/1", "/style.css", "/icon.svg"):  # fmt: skip
            answer = client.get(path, follow_redirects=False)
            assert answer.status_code == 403, path


def test_the_pages_read_no_key(exporting, pages):
    """What they read, the auditor's role may; and that role cannot read a key."""
    with (
        psycopg.connect(exporting.database.url("keyserver_auditor")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT exposure_key FROM exposure")
    keys = [key for (key,) in exporting.sql("SELECT exposure_key FROM exposure")]
    for path in ("/releases", "/quality", "/batches/1", *(f"/events/{seq}" for seq in range(1, 12))):
        text = pages.get(path).text
        assert not [key for key in keys if key.hex() in text]
