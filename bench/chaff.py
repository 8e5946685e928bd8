"""`make bench-chaff`: whether chaff can be told from uploads by the length of its answer, or by its time.

A server of its own (PostgreSQL, gunicorn with one worker) is asked over loopback, in five runs of 2,000 requests, half
of them uploads and half chaff, in random order, one after the other as one connection sees them. For each run the
two-sample Kolmogorov-Smirnov test is put to the lengths of the bodies and to the times. Then all of it again with the
protection off: chaff is answered at once, and without what fills short answers up. The last line is one JSON object.

SCALE sizes the runs: 1 is 2,000 requests.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
from datetime import UTC, datetime
from typing import Any

from flask import Flask
from scipy.stats import ks_2samp

from api import create_app, edge
from bench.server import served
from keyserver.settings import Settings
from tests.uploads import keys, request

RUNS = 5
REQUESTS = 2000
WARM_UP = 200
KEYS = 14
P = 0.01
PATH = "/v1/publish"


def unprotected() -> Flask:
    """Return the API without what the bench is about."""
    settings = Settings.from_environment(os.environ)
    chaff = edge.chaff_routes(settings, sleep=lambda _: None)
    for route in chaff.values():
        route.answers.room = 0
    return create_app(settings, chaff=chaff)


def ask(connection: http.client.HTTPConnection, body: bytes, *, pretend: bool) -> tuple[int, float]:
    """Send one request; return its answer's length in bytes and its time in seconds."""
    headers = {"Content-Type": "application/json", **({"X-Chaff": "1"} if pretend else {})}
    begun = time.perf_counter()
    connection.request("POST", PATH, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    seconds = time.perf_counter() - begun
    if answer.status != http.HTTPStatus.OK:
        raise SystemExit(f"answered {answer.status}: {text[:200]!r}")
    return len(text), seconds


def run(connection: http.client.HTTPConnection, name: str, count: int) -> dict[str, float]:
    """Ask ``count`` times, in random order; return the p-values."""
    pretends = [number % 2 == 0 for number in range(count)]
    random.shuffle(pretends)
    now = datetime.now(UTC)
    bodies = [json.dumps(request(keys(now, KEYS, f"{name}/{number}"), now)).encode() for number in range(count)]
    found: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    for pretend, body in zip(pretends, bodies, strict=True):
        found[pretend].append(ask(connection, body, pretend=pretend))
    (chaff_lengths, chaff_times), (lengths, times) = (zip(*found[pretend], strict=True) for pretend in (True, False))
    return {
        "p_length": float(ks_2samp(chaff_lengths, lengths).pvalue),
        "p_time": float(ks_2samp(chaff_times, times).pvalue),
        "upload_median_ms": _median_ms(times),
        "chaff_median_ms": _median_ms(chaff_times),
    }


def _median_ms(times: tuple[float, ...]) -> float:
    return round(sorted(times)[len(times) // 2] * 1000, 3)


def main() -> None:
    """Print the runs and what they come to."""
    scale = float(os.environ.get("SCALE", "1"))
    count = max(20, int(REQUESTS * scale))
    print(f"{RUNS} runs of {count:,} requests; p of the two-sample Kolmogorov-Smirnov test (alike: at least {P})")
    result: dict[str, Any] = {"runs": RUNS, "requests": count}
    for protection, application in (("on", "api:create_app()"), ("off", "bench.chaff:unprotected()")):
        with served(application, workers=1) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            run(connection, "warm", WARM_UP)
            runs = [run(connection, str(number), count) for number in range(RUNS)]
        for found in runs:
            print(
                f"  protection {protection:3}  length p = {found['p_length']:.3g}  time p = {found['p_time']:.3g}"
                f"  (medians {found['upload_median_ms']} ms, chaff {found['chaff_median_ms']} ms)"
            )
        result[f"length_alike_{protection}"] = sum(found["p_length"] >= P for found in runs)
        result[f"time_alike_{protection}"] = sum(found["p_time"] >= P for found in runs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
