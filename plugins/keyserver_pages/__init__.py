"""The operators' and auditors' pages in Airflow's UI: what they show is read as the auditor, and never a key's bytes.

Plain HTML without scripts, from templates that escape all that they are given; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException

from keyserver.errors import ConflictError, KeyserverError
from keyserver.oversight import releases
from keyserver.oversight.provenance import provenance
from keyserver.oversight.wording import counted, moment, span
from keyserver.providers.reviews import DAG, run_of
from keyserver.runtime import Runtime
from keyserver.store.quality import Outcome, Result

PREFIX = "/keyserver"
HISTORY_DAYS = 14
_LAST_RESULTS = 30
_HERE = pathlib.Path(__file__).parent
_NO_ZERO = r"^[^\x00]*$"  # PostgreSQL's texts have no such character
_Number = Annotated[int, Path(ge=1, lt=2**63)]
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class ExpectationState:
    """An expectation of a suite: how it went last for each feed, and for how many of them it was not met."""

    suite: str
    outcome: Outcome  # of the newest that was missed, else of the newest
    at: datetime
    feeds: int
    missed: list[Result]


@dataclass(frozen=True, slots=True)
class Day:
    """How often an expectation was met and missed on a day."""

    day: date
    met: int
    missed: int


def create_app(open_runtime: Callable[[], Runtime], guard: Callable[..., Any]) -> FastAPI:
    """Make the application. Each page asks ``guard``, a dependency of FastAPI, whether whoever asks may see it."""
    app = FastAPI(dependencies=[Depends(guard)], docs_url=None, redoc_url=None, openapi_url=None)
    pages = _Pages(open_runtime)
    for path, page in {
        "/": pages.start,
        "/style.css": pages.style,
        "/icon.svg": pages.icon,
        "/releases": pages.releases,
        "/quality": pages.quality,
        "/quality/expectation": pages.expectation,
        "/batches": pages.find_batch,
        "/batches/{number}": pages.batch,
        "/events": pages.find_event,
        "/events/{seq}": pages.event,
    }.items():
        app.add_api_route(path, page, methods=["GET"])
    app.add_exception_handler(ConflictError, pages.not_there)
    app.add_exception_handler(KeyserverError, pages.unavailable)
    app.add_exception_handler(RequestValidationError, pages.malformed)
    app.add_exception_handler(HTTPException, pages.refused)
    return app


class _Pages:
    """The pages, one method each."""

    def __init__(self, open_runtime: Callable[[], Runtime]) -> None:
        self._open_runtime = open_runtime
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(moment=moment, age=age, path=lambda text: quote(str(text), safe=""))
        self._templates.globals.update(counted=counted, span=span, task_path=task_path, request_path=request_path)

    def start(self, request: Request) -> Response:
        return RedirectResponse(f"{request.scope['root_path']}/releases")

    def style(self) -> Response:
        return Response((_HERE / "style.css").read_bytes(), media_type="text/css")

    def icon(self) -> Response:
        return Response((_HERE / "icon.svg").read_bytes(), media_type="image/svg+xml")

    def releases(self, request: Request) -> Response:
        with self._runtime() as runtime:
            overview = releases.overview(runtime)
        return self._show("releases.html", request, overview=overview)

    def quality(self, request: Request) -> Response:
        with self._runtime() as runtime:
            results = releases.results(runtime)
        return self._show("quality.html", request, suites=by_suite(results))

    def expectation(
        self,
        request: Request,
        suite: Annotated[str, Query(max_length=200, pattern=_NO_ZERO)],
        name: Annotated[str, Query(max_length=200, pattern=_NO_ZERO)],
    ) -> Response:
        with self._runtime() as runtime:
            history = releases.history(runtime, suite, name, _LAST_RESULTS)
        return self._show("expectation.html", request, suite=suite, name=name, history=history, days=days(history))

    def find_batch(
        self, request: Request, find: Annotated[str, Query(max_length=500, pattern=_NO_ZERO)] = ""
    ) -> Response:
        wanted = find.strip()
        return self._batch(request, wanted) if wanted else self._show("batches.html", request)

    def batch(self, request: Request, number: _Number) -> Response:
        return self._batch(request, str(number))

    def find_event(self, request: Request, seq: Annotated[int, Query(ge=1, lt=2**63)]) -> Response:
        return self.event(request, seq)

    def event(self, request: Request, seq: _Number) -> Response:
        with self._runtime() as runtime:
            event = releases.event(runtime, seq)
        body = json.loads(event.body)
        pretty = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False)
        return self._show("event.html", request, event=event, body=body, pretty=pretty)

    def not_there(self, request: Request, error: Exception) -> Response:
        return self._message(request, 404, "Not found", f"{error}.")

    def malformed(self, request: Request, _: Exception) -> Response:
        return self._message(request, 404, "Not found", "There is no such page.")

    def refused(self, request: Request, error: HTTPException) -> Response:
        return self._message(request, error.status_code, "Not shown", f"{error.detail}.")

    def unavailable(self, request: Request, error: Exception) -> Response:
        what_to_do = "Phones are served all the same; try again, and see to the database if this stays so."
        return self._message(request, 503, "Nothing can be shown just now", f"{error}. {what_to_do}")

    def _batch(self, request: Request, file_or_batch: str) -> Response:
        with self._runtime() as runtime:
            record = provenance(runtime, file_or_batch)
            results = releases.results_of_batch(runtime, record.batch.batch_id)
        return self._show("batch.html", request, record=record, results=results)

    def _message(self, request: Request, status: int, title: str, message: str) -> Response:
        return self._show("message.html", request, status=status, title=title, message=message)

    def _show(self, template: str, request: Request, *, status: int = 200, **values: Any) -> Response:
        pages = request.scope["root_path"]
        text = self._templates.get_template(template).render(
            pages=pages,
            airflow=pages.removesuffix(PREFIX),
            here=template,
            framed=request.headers.get("Sec-Fetch-Dest") == "iframe",
            **values,
        )
        return HTMLResponse(text, status_code=status, headers=_HEADERS)

    @contextmanager
    def _runtime(self) -> Iterator[Runtime]:
        opened = self._open_runtime()
        try:
            yield opened
        finally:
            opened.close()


def by_suite(results: Sequence[Result]) -> dict[str, list[ExpectationState]]:
    """Put results of feeds together by expectation, and these by suite: what was missed comes first."""
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        grouped.setdefault((result.suite, result.outcome.expectation), []).append(result)
    suites: dict[str, list[ExpectationState]] = {}
    for (suite, _), of in grouped.items():
        missed = [result for result in of if not result.outcome.met]
        shown = max(missed or of, key=lambda result: result.at)
        suites.setdefault(suite, []).append(ExpectationState(suite, shown.outcome, shown.at, len(of), missed))
    for states in suites.values():
        states.sort(key=lambda state: (not state.missed, state.outcome.severity, state.outcome.expectation))
    return suites


def days(history: releases.History) -> list[Day]:
    """Give the last days, oldest first, those without a run included."""
    today = history.now.astimezone(UTC).date()
    shown = [today - timedelta(days=back) for back in range(HISTORY_DAYS - 1, -1, -1)]
    return [Day(day, *history.days.get(day, (0, 0))) for day in shown]


def age(of: timedelta) -> str:
    """Say how long something is, in its two greatest units."""
    minutes = int(of.total_seconds()) // 60
    if minutes < 1:
        return "less than a minute"
    parts = [(minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(counted(number, unit) for number, unit in parts[:2] if number)


def request_path(batch_id: int) -> str:
    """Give the path, in Airflow, of the request about a held batch."""
    return f"/dags/{DAG}/runs/{run_of(batch_id)}/tasks/ask/required_actions"


def task_path(body: dict[str, Any]) -> str | None:
    """Give the path, in Airflow, of the task that an event names; None when a command caused it."""
    dag, run, task = (body.get(name) for name in ("dag", "run", "task"))
    if not (dag and run and task):
        return None
    path = f"/dags/{quote(dag, safe='')}/runs/{quote(run, safe='')}/tasks/{quote(task, safe='')}"
    index = body.get("map_index")
    return path if index is None or index < 0 else f"{path}/mapped/{index}"
