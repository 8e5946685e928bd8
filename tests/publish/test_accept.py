from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import PublishError, RemoteError
from keyserver.protocol.exposure import Limits
from keyserver.protocol.messages import PublishRequest, decode_request
from keyserver.publish.accept import Accepted, Configuration, accept
from tests.uploads import APP, authorise, key, key_bytes, keys, request


@pytest.fixture
def database(test_database):
    authorise(test_database.url("keyserver_pipeline"))
    return test_database.database("api")


@pytest.fixture
def configuration(database) -> Configuration:
    return Configuration(database, Limits())


def decoded(body: dict) -> PublishRequest:
    return decode_request("application/json", json.dumps(body).encode())


def rows(test_database, columns: str = "exposure_key") -> list[tuple]:
    with test_database.admin() as connection:
        return connection.execute(f"SELECT {columns} FROM exposure ORDER BY interval_number").fetchall()


def refusal(database, configuration, body: dict, now) -> PublishError:
    with pytest.raises(PublishError) as caught:
        accept(database, configuration, decoded(body), now)
    return caught.value


def test_scenario_41_an_upload_is_stored(test_database, database, configuration, start):
    sent = keys(start, 4)
    body = request(sent, start, traveler=True)
    assert accept(database, configuration, decoded(body), start) == Accepted(4, (), ())
    found = rows(test_database, "interval_number, regions, created_at, traveler, app_name, health_authority_id")
    starts = sorted(each["rollingStartNumber"] for each in sent)
    assert found == [(number, ["AT", "DE"], start, True, APP, 1) for number in starts]


def test_scenario_2_one_good_key_among_bad_ones(test_database, database, configuration, start):
    good, old, short, long, future = keys(start, 5)
    old["rollingStartNumber"] = 1
    short["key"] = "AAAA"
    long["rollingPeriod"] = 200
    future["rollingStartNumber"] = 2**31 - 1
    accepted = accept(database, configuration, decoded(request([old, short, good, long, future], start)), start)
    assert accepted.inserted == 1
    assert [error.split()[1] for error in accepted.errors] == ["0", "1", "3", "4"]
    assert rows(test_database) == [(key_bytes("/0"),)]


def test_scenarios_40_to_47_certificate_and_request_decide_together(test_database, database, configuration, start):
    day = 144
    (sent,) = keys(start, 1)
    onset = sent["rollingStartNumber"] - 2 * day
    accept(database, configuration, decoded(request([sent], start, report_type="likely", onset=onset)), start)
    assert rows(test_database, "report_type, transmission_risk, days_since_onset") == [("likely", 4, 2)]
    other = sent | {"key": key("other", 0)["key"]}
    body = request([other], start, onset=onset, symptomOnsetInterval=onset - day)
    accept(database, configuration, decoded(body), start)
    assert rows(test_database, "days_since_onset") == [(2,), (3,)]


def test_scenario_53_all_keys_left_out_is_accepted_with_nothing_stored(test_database, database, configuration, start):
    sent = keys(start, 1)
    body = request(sent, start, symptomOnsetInterval=sent[0]["rollingStartNumber"] - 20 * 144)
    accepted = accept(database, configuration, decoded(body), start)
    assert (accepted.inserted, accepted.errors, len(accepted.warnings)) == (0, (), 1)
    assert rows(test_database) == []


def test_scenario_74_a_negative_result_of_unknown_keys_stores_nothing(test_database, database, configuration, start):
    body = request(keys(start, 2), start, report_type="negative")
    assert accept(database, configuration, decoded(body), start) == Accepted(0, (), ())
    assert rows(test_database) == []


@pytest.mark.parametrize("report_type", ["confirmed", "negative"])
def test_scenario_57_a_stored_key_needs_a_revision_token(test_database, database, configuration, start, report_type):
    old, new = keys(start, 2)
    accept(database, configuration, decoded(request([old], start)), start)
    before = rows(test_database)
    for sent in ([old], [new, old]):
        body = request(sent, start, report_type=report_type)
        error = refusal(database, configuration, body, start)
        assert error.code == "missing_revision_token"
    assert rows(test_database) == before


def test_scenarios_5_and_24_the_app(database, configuration, start):
    sent = keys(start, 1)
    error = refusal(database, configuration, request(sent, start, healthAuthorityID="other"), start)
    assert error.code == "unknown_health_authority_id"
    body = request(sent, start, healthAuthorityID=APP.upper())
    assert accept(database, configuration, decoded(body), start).inserted == 1


def test_what_comes_first_is_said_first(database, configuration, start):
    """The order of publish.md 1.5: app, certificate, keys, stored keys."""
    stored, new = keys(start, 2)
    accept(database, configuration, decoded(request([stored], start)), start)
    too_many = [stored] * 31
    body = request(too_many, start, verificationPayload="x", healthAuthorityID="x")
    codes = []
    for changes in ({}, {"healthAuthorityID": APP}, request(too_many, start), request([stored, new], start)):
        body |= changes
        codes.append(refusal(database, configuration, body, start).code)
    assert codes == [
        "unknown_health_authority_id",
        "health_authority_verification_certificate_invalid",
        "bad_request",
        "missing_revision_token",
    ]


def test_two_uploads_of_the_same_keys_at_once_are_one(test_database, database, configuration, start):
    body = decoded(request(keys(start, 14), start))

    def upload(_: int) -> object:
        try:
            return accept(database, configuration, body, start).inserted
        except PublishError as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        results = sorted(map(str, pool.map(upload, range(6))))
    assert results == ["14", *["missing_revision_token"] * 5]
    assert len(rows(test_database)) == 14


# The configuration that is read


def test_apps_authorities_and_keys_are_put_together(test_database, database):
    authorise(test_database.url("keyserver_pipeline"), "second", ("ch", "CH"), "second.example")
    with psycopg.connect(test_database.url("keyserver_pipeline"), autocommit=True) as connection:
        connection.execute("INSERT INTO authorised_app (name, regions) VALUES ('without', '{DE}')")
        connection.execute("INSERT INTO authorised_app_authority VALUES ('second', 1)")
        connection.execute("INSERT INTO health_authority_key VALUES (1, 'v2', 'pem', '2026-01-01Z', '2026-02-01Z')")
        connection.execute("INSERT INTO health_authority (issuer, audience, name) VALUES ('keyless', 'a', 'n')")
        connection.execute("INSERT INTO authorised_app_authority VALUES ('second', 3)")
    configuration = Configuration(database, Limits())
    second = configuration.app("second")
    assert second.regions == ("CH",)
    assert [
        (authority.id, authority.issuer, [key.kid for key in authority.keys]) for authority in second.authorities
    ] == [
        (1, "authority.example", ["v1", "v2"]),
        (2, "second.example", ["v1"]),
        (3, "keyless", []),
    ]
    assert configuration.app("without").authorities == ()
    app = configuration.app(APP)
    assert (app.regions, len(app.authorities)) == (("AT", "DE"), 1)
    assert [key.valid_thru is None for key in app.authorities[0].keys] == [True, False]


def test_what_was_read_is_used_for_its_time_only(test_database, database, start):
    lasting = Configuration(database, Limits(), timedelta(hours=1))
    fleeting = Configuration(database, Limits(), timedelta(0))
    for configuration in (lasting, fleeting):
        configuration.app(APP)
    with test_database.admin() as connection:
        connection.execute("DELETE FROM authorised_app")
    assert lasting.app(APP).name == APP
    with pytest.raises(PublishError):
        fleeting.app(APP)


def test_e4_a_lost_database_is_no_reason_to_go_on_with_what_was_read(test_database, database, start):
    configuration = Configuration(database, Limits(), timedelta(0))
    configuration.app(APP)
    with test_database.admin() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keyserver_api'")
    with pytest.raises(RemoteError):
        configuration.app(APP)
    assert configuration.app(APP).name == APP


def test_a_broken_key_of_ours_is_our_fault(test_database, database, configuration, start):
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority_key SET public_key = 'garbage'")
    error = refusal(database, configuration, request(keys(start, 1), start), start)
    assert error.code == "unable_to_load_health_authority"
