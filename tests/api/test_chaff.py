"""The mechanism, on a clock of the test's own. How well it hides over a wire is measured by `make bench-chaff`."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from api import create_app, edge
from api.answers import Answers
from api.chaff import ENOUGH, KEPT, LONGEST_S, PRIOR_S, Chaff
from keyserver.errors import RemoteError
from keyserver.settings import Settings
from tests.uploads import add_revision_key, api_settings, authorise, keys, request

PUBLISH = "/v1/publish"


@dataclass
class Clock:
    """Stands still; sleeping moves it, and is remembered. Each look costs `step`."""

    now: float = 0.0
    step: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def chaff(clock) -> Chaff:
    return Chaff(Answers(Settings()), clock=clock, sleep=clock.sleep)


@pytest.fixture
def now(test_database) -> datetime:
    moment = datetime.now(UTC)
    test_database.set_time(moment)
    return moment


def application(test_database, clock, folder, **values):
    settings = api_settings(folder, **values)
    routes = edge.chaff_routes(settings, clock, clock.sleep)
    app = create_app(settings, test_database.database("api"), settable_clock=True, chaff=routes)
    return app.test_client(), routes


@pytest.fixture
def client_and_routes(test_database, now, clock, tmp_path):
    authorise(test_database.url("keyserver_pipeline"))
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    return application(test_database, clock, tmp_path)


# Times


def test_e1_a_fresh_server_waits_as_the_prior_says(chaff, clock):
    for _ in range(200):
        chaff.answer(clock(), lambda: None)
    assert {round(seconds, 9) for seconds in clock.slept} == set(PRIOR_S)


def test_e1_with_enough_successes_their_times_are_drawn(chaff, clock):
    for _ in range(ENOUGH - 1):
        chaff.remember(0.25)
    assert chaff.time() in PRIOR_S
    chaff.remember(0.5)
    drawn = Counter(chaff.time() for _ in range(5000))
    assert set(drawn) == {0.25, 0.5}
    assert 60 < drawn[0.5] < 350  # one of thirty


def test_e1_only_recent_successes_count_and_their_number_is_bounded(chaff):
    for _ in range(ENOUGH):
        chaff.remember(0.25)
    for _ in range(KEPT):
        chaff.remember(0.5)
    assert {chaff.time() for _ in range(500)} == {0.5}


def test_a_slow_success_does_not_become_a_long_wait(chaff):
    for _ in range(ENOUGH):
        chaff.remember(30.0)
    assert chaff.time() == LONGEST_S


def test_e1_what_reading_and_answering_took_is_part_of_the_time(chaff, clock):
    for _ in range(ENOUGH):
        chaff.remember(0.5)

    def read() -> None:
        clock.now += 0.125

    chaff.answer(clock(), read)
    assert clock.slept == [0.375]

    def slow() -> None:
        clock.now += 2

    chaff.answer(clock(), slow)
    assert clock.slept[1:] == [0.0]


def test_e1_concurrent_chaff_is_bounded(clock):
    inside, leave = threading.Barrier(3), threading.Event()

    def sleep(seconds: float) -> None:
        inside.wait(30)
        leave.wait(30)

    chaff = Chaff(Answers(Settings()), clock=clock, sleep=sleep, most_at_once=2)
    waiting = [threading.Thread(target=chaff.answer, args=(0.0, lambda: None)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    inside.wait(30)
    with pytest.raises(RemoteError):
        chaff.answer(0.0, lambda: None)
    leave.set()
    for thread in waiting:
        thread.join(30)
    assert chaff._places.acquire(blocking=False)
    assert chaff._places.acquire(blocking=False)


# Through the application


@pytest.mark.parametrize("value", ["1", "no", "x" * 100])
def test_scenario_20_chaff_with_garbage_is_answered_and_stores_nothing(client_and_routes, test_database, value):
    client, _ = client_and_routes
    answer = client.post(PUBLISH, data=b"\xffgarbage", headers={"X-Chaff": value, "Content-Type": "image/png"})
    assert (answer.status_code, set(answer.get_json())) == (200, {"padding"})
    with test_database.admin() as connection:
        assert connection.execute("SELECT count(*) FROM exposure").fetchone() == (0,)


def test_an_empty_header_is_none(client_and_routes):
    client, _ = client_and_routes
    assert client.post(PUBLISH, data=b"garbage", headers={"X-Chaff": ""}).status_code == 415


def test_quirk_9_chaff_and_a_real_success_have_the_same_headers_and_lengths(client_and_routes, now):
    client, _ = client_and_routes
    real = client.post(PUBLISH, json=request(keys(now, 14), now))
    assert (real.status_code, real.get_json()["insertedExposures"]) == (200, 14)
    pretended = client.post(PUBLISH, data=b"{}", headers={"X-Chaff": "1"})
    names = [name for name, _ in real.headers]
    assert [name for name, _ in pretended.headers] == names
    for name in set(names) - {"Content-Length", "X-Request-ID"}:
        assert pretended.headers[name] == real.headers[name]
    assert len(pretended.headers["X-Request-ID"]) == len(real.headers["X-Request-ID"])
    lowest, highest = 4096 + 1368, 4096 + 2732
    for answer in (real, pretended):
        assert lowest <= len(answer.data) <= highest


def test_e1_real_answers_are_never_slowed_and_only_successes_are_remembered(client_and_routes, clock, now):
    client, routes = client_and_routes
    clock.step = 0.25  # each look at the clock
    assert client.post(PUBLISH, json=request(keys(now, 1), now)).status_code == 200
    assert client.post(PUBLISH, data=b"{}", content_type="application/json").status_code == 401
    client.post(PUBLISH, data=b"{}", headers={"X-Chaff": "1"})
    assert list(routes[PUBLISH]._times) == [0.25]
    assert len(clock.slept) == 1


def test_quirk_17_each_route_has_its_own_times(client_and_routes, clock):
    client, routes = client_and_routes
    for _ in range(ENOUGH):
        routes[PUBLISH].remember(0.75)
    assert {routes["/v1/stats"].time() for _ in range(50)} <= set(PRIOR_S)
    client.post(PUBLISH, headers={"X-Chaff": "1"})
    assert clock.slept == [0.75]


def test_quirk_17_health_knows_no_chaff(client_and_routes, clock):
    client, _ = client_and_routes
    assert client.get("/health", headers={"X-Chaff": "1"}).get_json() == {"status": "ok"}
    assert clock.slept == []


def test_chaff_by_another_method_is_answered_as_any_request(client_and_routes):
    client, _ = client_and_routes
    assert client.get(PUBLISH, headers={"X-Chaff": "1"}).status_code == 405


def test_scenario_21_chaff_in_maintenance(test_database, now, clock, tmp_path):
    client, _ = application(test_database, clock, tmp_path, maintenance_mode=True)
    assert client.post(PUBLISH, data=b"{}", headers={"X-Chaff": "1"}).status_code == 200
    real = client.post(PUBLISH, json=request(keys(now, 1), now))
    assert (real.status_code, real.headers["Retry-After"]) == (429, "300")
    told = real.get_json()
    assert (told["code"], told["error"]) == ("maintenance", "the service is closed for maintenance; try again later")
    assert 4096 + 1368 <= len(real.data) <= 4096 + 2732


def test_too_much_chaff_is_answered_as_an_overload(client_and_routes):
    client, routes = client_and_routes
    for _ in range(2):
        assert routes[PUBLISH]._places.acquire(blocking=False)
    answer = client.post(PUBLISH, headers={"X-Chaff": "1"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json()["code"] == "temporarily_unavailable"


def test_chaff_leaves_nothing_in_the_log(client_and_routes, caplog):
    client, _ = client_and_routes
    caplog.set_level(logging.DEBUG)
    client.post(PUBLISH, data=b"garbage", headers={"X-Chaff": "1"})
    assert [record for record in caplog.records if record.name.startswith(("api", "keyserver"))] == []


@pytest.mark.parametrize(
    ("path", "lowest", "version"),
    [("/v1/stats", 12_288 + 1368, None), ("/v1/attestation/challenge", 4096 + 1368, "v1")],
)
def test_other_routes_know_chaff_too(client_and_routes, clock, path, lowest, version):
    client, _ = client_and_routes
    pretended = client.post(path, data=b"garbage", headers={"X-Chaff": "1"})
    refused = client.put(path)
    assert (pretended.status_code, refused.status_code) == (200, 405)
    assert pretended.headers.get("x-api-version") == version
    assert lowest <= len(pretended.data) <= lowest + 1364
    assert len(clock.slept) == 1
