"""`make fuzz`: many hostile requests to the API in process, with a PostgreSQL of its own; N of them (50,000).

Half of them are uploads with real certificates, spoiled in all kinds of ways before or after the authority signed them,
uploads sent again with their revision tokens, and bodies that are no uploads at all; the other half schemathesis makes
from the served OpenAPI document. After each it is asked: was it answered, not by 5xx, and without a trace of a stack;
and is exactly stored what the answer says, so nothing for a refused or pretended upload. Whatever was stored is then
put to the gate, as the files of the windows that it would be released in (rule E5).

SEED repeats a run's requests, but for times and certificates. The last line is one JSON object; failures end it with 1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from api import create_app
from api.chaff import HEADER
from deploy.local import postgres
from keyserver.errors import FormatError
from keyserver.protocol.exportfile import REPORT_TYPES, Header, KeyRun, Metadata, SignatureInfo, encode
from keyserver.protocol.exposure import MAX_AGE
from keyserver.quality.exportfiles import BatchFacts, StagedFile, check_files
from keyserver.store import database as databases
from keyserver.store.database import Database
from keyserver.store.quality import Listed
from tests.conftest import ROLES, role_url
from tests.uploads import APP, add_revision_key, api_settings, authorise, interval, keys, request

REQUESTS = 50_000
# Hypothesis remembers what a test drew: short tests keep that small.
ROUND = 500
# Few enough rows to count them after each request.
ROUNDS_BETWEEN_GATES = 10
WIDTH = timedelta(hours=1)
# An app that needs neither certificate nor token, so that uploads without a report type are stored too.
LENIENT = "com.example.lenient"
INFO = SignatureInfo("242", "v1")
TRACE = re.compile(rb'Traceback \(most recent|File \\?"[^"]*", line \d')
SHOWN = 10

COUNTS = """
SELECT (SELECT count(*) FROM exposure), (SELECT count(revised_at) FROM exposure),
       (SELECT coalesce(sum(teks), 0) + coalesce(sum(revisions), 0) FROM upload_stats)
"""
# What a batch would release, as `batch_rows` has it: revoked keys are in none.
RELEASED = """
SELECT created_at,
       CASE WHEN revised_at IS NULL THEN report_type ELSE revised_report_type END AS report_type,
       CASE WHEN revised_at IS NULL THEN transmission_risk ELSE revised_transmission_risk END AS risk,
       CASE WHEN revised_at IS NULL THEN days_since_onset ELSE revised_days_since_onset END AS days,
       interval_number, interval_count, exposure_key
  FROM exposure
 WHERE revised_report_type IS DISTINCT FROM 'negative'
 ORDER BY created_at, report_type NULLS FIRST, risk, days NULLS FIRST, interval_number, interval_count, exposure_key
"""


@dataclass
class Watch:
    """Looks at every answer, and at the tables behind it."""

    admin: psycopg.Connection[Any]
    started: float = field(default_factory=time.monotonic)
    by_status: Counter[int] = field(default_factory=Counter)
    by_kind: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    stored: int = 0
    failures: list[str] = field(default_factory=list)
    counts: tuple[int, int, int] = (0, 0, 0)  # of a new database

    @property
    def requests(self) -> int:
        """How many were answered."""
        return self.by_status.total()

    def see(self, kind: str, sent: object, status: int, body: bytes, *, may_store: bool) -> dict[str, Any]:
        """Judge an answer; return what it says, nothing unless it is a success that ``may_store``."""
        self.by_status[status] += 1
        self.by_kind[kind][status] += 1
        if status >= 500:
            self.fail(kind, sent, f"answered {status}")
        if TRACE.search(body):
            self.fail(kind, sent, "the answer shows a stack")
        said: dict[str, Any] = json.loads(body) if status == 200 and may_store else {}
        before, self.counts = self.counts, self._count()
        inserted = self.counts[0] - before[0]
        self.stored += inserted
        if inserted != said.get("insertedExposures", 0):
            self.fail(kind, sent, f"answered {status}, {inserted} keys stored")
        if not said and self.counts != before:
            self.fail(kind, sent, f"answered {status}, and the tables changed")
        return said

    def fail(self, kind: str, sent: object, why: str) -> None:
        """Take note of a failure."""
        self.failures.append(f"request {self.requests}, {kind}: {why}: {sent!r:.300}")

    def pass_gate(self) -> None:
        """Put what is stored to the gate, a batch a window, and empty the table."""
        rows = self.admin.execute(RELEASED).fetchall()
        for created_at, group in groupby(rows, key=lambda row: row[0]):
            for finding in _findings(created_at, [row[1:] for row in group]):
                self.fail("gate", created_at.isoformat(), str(finding))
        self.admin.execute("TRUNCATE exposure")
        self.counts = self._count()

    def _count(self) -> tuple[int, int, int]:
        return self.admin.execute(COUNTS).fetchone()  # type: ignore[return-value]


def _findings(start: datetime, rows: list[tuple[Any, ...]]) -> list[object]:
    end = start + WIDTH
    runs = []
    for metadata, group in groupby(rows, key=lambda row: Metadata(REPORT_TYPES.get(row[0]), *row[1:5])):
        runs.append(KeyRun(metadata, b"".join(row[5] for row in group)))
    try:
        data = encode(Header(start, end, "NO", (INFO,)), runs, [])
        file = StagedFile(1, start, end, len(rows), 0, hashlib.sha256(data).digest())
        cutoff = end - timedelta(days=1) - MAX_AGE
        infos = ((INFO.key_id, INFO.key_version),)
        facts = BatchFacts(start, end, cutoff, "NO", len(rows), len(rows), 0, infos, closed_through=end)
        outcomes = check_files(facts, [(file, data)], lambda *_: Listed(0, 0, 0, 0))
        return [outcome for outcome in outcomes if not outcome.met]
    except FormatError as error:
        return [error]


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**31) - 1, 2**31)
    | st.floats(allow_nan=True)
    | st.text(max_size=40)
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    "temporaryExposureKeys",
    "healthAuthorityID",
    "verificationPayload",
    "hmacKey",
    "symptomOnsetInterval",
    "traveler",
    "revisionToken",
    "attestation",
    "padding",
    "regions",
]
REPORTS = ["confirmed"] * 4 + ["likely"] * 2 + ["user-report", "negative", "", "recovered", None, 1]
VISIBLE = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
HEADERS = st.fixed_dictionaries(
    {
        "Content-Type": st.sampled_from(
            ["application/json"] * 12 + ["application/json; charset=utf-8", "", "text/plain"]
        )
    },
    optional={
        "User-Agent": st.sampled_from(["Dalvik/2.1.0", "bluetoothd (unknown version) CFNetwork", ""]) | VISIBLE,
        "X-Request-ID": VISIBLE | st.uuids().map(str),
        "Accept": VISIBLE | st.sampled_from(["text/csv", "*/*;q=0.1"]),
        "Authorization": VISIBLE | VISIBLE.map("Bearer {}".format),
        "Content-Encoding": st.sampled_from(["gzip", "br", "identity"]),
        "Transfer-Encoding": st.sampled_from(["chunked", "gzip"]),
        "Content-Length": st.sampled_from(["-1", "0", "1", "70000", "x"]),
        "Expect": st.just("100-continue"),
    },
)
# Most requests with the plain headers, so that their bodies are what decides.
PLAIN = st.just({"Content-Type": "application/json"})


@st.composite
def _keys(draw: Any, now: datetime, name: str) -> list[dict[str, Any]]:
    """Draw keys as phones have them, of which some are not quite."""
    sent = keys(now, draw(st.integers(1, 16)), name)
    for each in sent:
        if draw(st.integers(0, 5)) == 0:
            each["rollingStartNumber"] = interval(now) + draw(st.integers(-144 * 17, 200))
        if draw(st.integers(0, 5)) == 0:
            each["rollingPeriod"] = draw(st.integers(-1, 146) | st.integers(-(2**31), 2**31 - 1))
        if draw(st.integers(0, 5)) == 0:
            each["transmissionRisk"] = draw(st.integers(-1, 9) | st.integers(-(2**31), 2**31 - 1))
        if draw(st.integers(0, 15)) == 0:
            each["key"] = draw(st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()) | st.text())
    return sent + sent[: draw(st.sampled_from([0, 0, 0, 1, 16]))]


# What is drawn must not depend on what was answered before, or on the time, for Hypothesis follows it: places are drawn
# as large numbers, and taken modulo what there is.
ANY_PLACE = st.integers(0, 2**16)


@st.composite
def uploads(draw: Any, now: datetime, name: str, accepted: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw an upload with a certificate for its keys: ones made of ``name``, or an accepted upload's with its token."""
    onset = draw(st.none() | st.integers(-40, 2).map(lambda days: interval(now) // 144 * 144 + 144 * days))
    report = draw(st.sampled_from(REPORTS))
    changes: dict[str, Any] = {}
    sent = draw(_keys(now, name))
    again, place = draw(st.sampled_from([True, False, False])), draw(ANY_PLACE)
    if again and accepted:
        earlier = accepted[place % len(accepted)]
        sent, changes["revisionToken"] = list(earlier["keys"]), earlier["token"]
    if draw(st.integers(0, 3)) == 0:
        changes["healthAuthorityID"] = LENIENT
    if draw(st.booleans()):
        changes["traveler"] = draw(st.booleans())
    if draw(st.booleans()):
        changes["symptomOnsetInterval"] = onset or 0
    return request(sent, now, report_type=report, onset=onset, **changes)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(FIELDS),
        st.sampled_from(["drop", "replace", "case", "edit", "key"]),
        ANY_PLACE,
        st.integers(0, 3),
        st.text(max_size=3),
        ANY_JSON,
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def spoiled(draw: Any, upload: dict[str, Any]) -> bytes:
    """Draw the bytes of an upload after up to three changes that nobody certified."""
    for name, change, place, length, text, anything in draw(CHANGES):
        value = upload.get(name)
        sent = upload.get("temporaryExposureKeys")
        if change == "drop":
            upload.pop(name, None)
        elif change == "case":
            upload[name.upper()] = upload.pop(name, None)
        elif change == "edit" and isinstance(value, str):
            upload[name] = _edited(value, place, length, text)
        elif change == "key" and isinstance(sent, list) and sent:
            sent[place % len(sent)] = anything
        else:
            upload[name] = anything
    body = json.dumps(upload).encode()
    edits, place, length, data = draw(st.tuples(st.integers(0, 3), ANY_PLACE, st.integers(0, 4), st.binary(max_size=4)))
    return _edited(body, place, length, data) if edits == 0 else body


def _edited(value: Any, place: int, length: int, by: Any) -> Any:
    place %= len(value) + 1
    return value[:place] + by + value[place + length :]


OTHER_BODIES = (
    st.binary(max_size=300)
    | ANY_JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=5).map(lambda value: json.dumps(value).encode())
    | st.integers(1, 70_000).map(lambda count: b"[" * count)
    | st.integers(63_990, 64_010).map(lambda size: b'{"padding":"%s"}' % (b"x" * (size - 14)))
    | st.integers(1, 5000).map(lambda digits: b'{"symptomOnsetInterval":%s}' % (b"9" * digits))
)
PATHS = ["/v1/publish"] * 12 + [
    "/v1/stats",
    "/v1/stats?format=csv",
    "/v1/attestation/challenge",
    "/v1/publish/",
    "/%00",
]
METHODS = ["POST"] * 20 + ["GET", "PUT", "HEAD", "OPTIONS"]


def uploading(watch: Watch, app: Flask, count: int, number: int) -> None:
    """Send ``count`` bodies of ours; the earlier uploads that some repeat are of the same round."""
    client = app.test_client()
    accepted: list[dict[str, Any]] = []

    @_test(count, number)
    @given(data=st.data())
    def run(data: Any) -> None:
        draw, now = data.draw, datetime.now(UTC)
        kind = draw(st.sampled_from(["upload", "upload", "spoiled upload", "other body"]))
        path, method, upload = "/v1/publish", "POST", {}
        headers = draw(st.one_of(PLAIN, PLAIN, HEADERS))
        if kind == "other body":
            path, method, body = draw(st.sampled_from(PATHS)), draw(st.sampled_from(METHODS)), draw(OTHER_BODIES)
        else:
            upload = draw(uploads(now, f"{number}/{watch.requests}", accepted))
            sent = list(upload["temporaryExposureKeys"])
            body = json.dumps(upload).encode() if kind == "upload" else draw(spoiled(upload))
        pretends = draw(st.integers(0, 19)) == 0
        if pretends:
            headers = {**headers, HEADER: draw(VISIBLE.filter(bool))}
        answer = client.open(path, method=method, data=body, headers=headers)
        may_store = path == "/v1/publish" and method == "POST" and not pretends
        said = watch.see(kind, (method, path, headers, body), answer.status_code, answer.data, may_store=may_store)
        if kind == "upload" and said.get("revisionToken"):
            accepted.append({"keys": sent, "token": said["revisionToken"]})

    run()


def from_the_document(watch: Watch, app: Flask, count: int, number: int) -> None:
    """Send ``count`` requests that schemathesis makes of the document, right ones and wrong ones."""
    described = schemathesis.openapi.from_wsgi("/openapi.json", app)
    strategies = [
        operation.ok().as_strategy(mode)
        for operation in described.get_all_operations()
        for mode in GenerationMode
        for _ in range(4 if operation.ok().method == "post" else 1)
    ]

    @_test(count, number)
    @given(case=st.one_of(strategies))
    def run(case: Any) -> None:
        answer = case.call()
        sent = (case.method, case.path, case.headers, case.body)
        may_store = case.path == "/v1/publish" and case.method == "POST" and not (case.headers or {}).get(HEADER)
        watch.see("from the document", sent, answer.status_code, answer.content, may_store=may_store)

    run()


def _test(count: int, number: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    def decorate(test: Callable[..., None]) -> Callable[[], None]:
        bounded = settings(
            max_examples=count,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return seed(number)(bounded(test))

    return decorate


@contextmanager
def served() -> Iterator[tuple[Flask, psycopg.Connection[Any]]]:
    """Run PostgreSQL in a folder that goes away; lend the API on it, and a superuser's connection."""
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = postgres.server(folder / "postgres", settings=postgres.THROWAWAY)
        try:
            url = {role: role_url(server.admin_url, role, "fuzz") for role in (*ROLES, "postgres")}
            databases.set_up(server.admin_url, {role: url[role] for role in ROLES})
            databases.migrate(url["keyserver_migrate"], WIDTH // timedelta(minutes=1))
            authorise(url["keyserver_pipeline"])
            add_revision_key(url["keyserver_pipeline"], folder)
            with psycopg.connect(url["postgres"], autocommit=True) as admin:
                admin.execute(
                    "INSERT INTO authorised_app (name, regions, bypass_verification, bypass_revision_token)"
                    " VALUES (%s, '{DE}', true, true)",
                    [LENIENT],
                )
                admin.execute(
                    "INSERT INTO authorised_app_authority (app_name, health_authority_id)"
                    " SELECT %s, health_authority_id FROM authorised_app_authority WHERE app_name = %s",
                    [LENIENT, APP],
                )
                database = Database(url["keyserver_api"])
                yield create_app(api_settings(folder, attestation_secret=bytes(32)), database), admin
                database.forget_connections()
        finally:
            server.stop()


def main() -> None:
    """Print the requests by kind and status, and what they come to."""
    wanted = int(os.environ.get("N") or REQUESTS)
    first = int(os.environ.get("SEED") or secrets.randbelow(2**32))
    print(f"{wanted:,} requests, SEED={first}")
    with served() as (app, admin):
        watch = Watch(admin)
        number = 0
        while watch.requests < wanted:
            send = (uploading, from_the_document)[number % 2]
            send(watch, app, min(ROUND, wanted - watch.requests, max(1, wanted // 2)), first + number)
            number += 1
            if number % ROUNDS_BETWEEN_GATES == 0:
                watch.pass_gate()
        watch.pass_gate()
    _report(watch)
    sys.exit(bool(watch.failures))


def _report(watch: Watch) -> None:
    statuses = sorted(watch.by_status)
    print(f"{'':18}", *(f"{status:>8}" for status in statuses))
    for kind, counted in sorted(watch.by_kind.items()):
        print(f"{kind:18}", *(f"{counted[status]:>8,}" for status in statuses))
    for failure in watch.failures[:SHOWN]:
        print(f"FAILED {failure}")
    result = {
        "requests": watch.requests,
        "by_status": {str(status): watch.by_status[status] for status in statuses},
        "stored": watch.stored,
        "seconds": round(time.monotonic() - watch.started, 1),
        "failures": len(watch.failures),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
