from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from keyserver.errors import PublishError, RemoteError
from keyserver.protocol import revision
from keyserver.protocol.certificate import AppAttestation
from keyserver.protocol.exposure import Limits
from keyserver.protocol.messages import PublishRequest, decode_request
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.accept import Accepted, Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from tests.uploads import APP, TOKEN_AAD, add_revision_key, authorise, issuer, key, key_bytes, keys, request


@pytest.fixture
def database(test_database):
    authorise(test_database.url("keyserver_pipeline"))
    return test_database.database("api")


@pytest.fixture
def intake(test_database, database, tmp_path) -> Intake:
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    keys = RevisionKeys(database, open_keywrap(f"file://{tmp_path}"))
    return Intake(database, Configuration(database, Limits()), keys, TOKEN_AAD, source=random.Random(1))


def decoded(body: dict) -> PublishRequest:
    return decode_request("application/json", json.dumps(body).encode())


def rows(test_database, columns: str = "exposure_key") -> list[tuple]:
    with test_database.admin() as connection:
        return connection.execute(f"SELECT {columns} FROM exposure ORDER BY interval_number").fetchall()


def send(intake: Intake, body: dict, now, **arguments) -> Accepted:
    return accept(intake, decoded(body), now, **arguments)


def refusal(intake: Intake, body: dict, now) -> PublishError:
    with pytest.raises(PublishError) as caught:
        send(intake, body, now)
    return caught.value


def token_keys(intake: Intake, token: str) -> list[bytes]:
    return sorted(each.key for each in revision.unseal(token, intake.revision_keys.key, TOKEN_AAD))


def said(accepted: Accepted) -> tuple:
    """What is answered besides the token."""
    return accepted.inserted, accepted.errors, accepted.warnings


def test_scenario_41_an_upload_is_stored(test_database, intake, start):
    sent = keys(start, 4)
    body = request(sent, start, traveler=True)
    assert said(send(intake, body, start)) == (4, (), ())
    found = rows(test_database, "interval_number, regions, created_at, traveler, app_name, health_authority_id")
    starts = sorted(each["rollingStartNumber"] for each in sent)
    assert found == [(number, ["AT", "DE"], start, True, APP, 1) for number in starts]


def test_scenario_2_one_good_key_among_bad_ones(test_database, intake, start):
    good, old, short, long, future = keys(start, 5)
    old["rollingStartNumber"] = 1
    short["key"] = "AAAA"
    long["rollingPeriod"] = 200
    future["rollingStartNumber"] = 2**31 - 1
    accepted = send(intake, request([old, short, good, long, future], start), start)
    assert accepted.inserted == 1
    assert [error.split()[1] for error in accepted.errors] == ["0", "1", "3", "4"]
    assert rows(test_database) == [(key_bytes("/0"),)]


def test_scenarios_40_to_47_certificate_and_request_decide_together(test_database, intake, start):
    day = 144
    (sent,) = keys(start, 1)
    onset = sent["rollingStartNumber"] - 2 * day
    send(intake, request([sent], start, report_type="likely", onset=onset), start)
    assert rows(test_database, "report_type, transmission_risk, days_since_onset") == [("likely", 4, 2)]
    other = sent | {"key": key("other", 0)["key"]}
    body = request([other], start, onset=onset, symptomOnsetInterval=onset - day)
    send(intake, body, start)
    assert rows(test_database, "days_since_onset") == [(2,), (3,)]


def test_scenario_53_all_keys_left_out_is_accepted_with_nothing_stored(test_database, intake, start):
    sent = keys(start, 1)
    body = request(sent, start, symptomOnsetInterval=sent[0]["rollingStartNumber"] - 20 * 144)
    accepted = send(intake, body, start)
    assert (accepted.inserted, accepted.errors, len(accepted.warnings)) == (0, (), 1)
    assert rows(test_database) == []


def test_scenario_74_a_negative_result_of_unknown_keys_stores_nothing(test_database, intake, start):
    body = request(keys(start, 2), start, report_type="negative")
    accepted = send(intake, body, start)
    assert said(accepted) == (0, (), ())
    assert token_keys(intake, accepted.revision_token) == sorted(map(key_bytes, ("/0", "/1")))
    assert rows(test_database) == []


@pytest.mark.parametrize("report_type", ["likely", "negative"])
def test_scenario_57_a_stored_key_needs_a_revision_token(test_database, intake, start, report_type):
    old, new = keys(start, 2)
    send(intake, request([old], start), start)
    before = rows(test_database)
    for sent in ([old], [new, old]):
        body = request(sent, start, report_type=report_type)
        error = refusal(intake, body, start)
        assert error.code == "missing_revision_token"
    assert rows(test_database) == before


def test_scenarios_5_and_24_the_app(intake, start):
    sent = keys(start, 1)
    error = refusal(intake, request(sent, start, healthAuthorityID="other"), start)
    assert error.code == "unknown_health_authority_id"
    body = request(sent, start, healthAuthorityID=APP.upper())
    assert send(intake, body, start).inserted == 1


def test_what_comes_first_is_said_first(intake, start):
    """The order of publish.md 1.5: app, certificate, keys, stored keys."""
    stored, new = keys(start, 2)
    send(intake, request([stored], start), start)
    too_many = [stored] * 31
    body = request(too_many, start, verificationPayload="x", healthAuthorityID="x")
    codes = []
    for changes in (
        {},
        {"healthAuthorityID": APP},
        request(too_many, start),
        request([stored, new], start, report_type="likely"),
    ):
        body |= changes
        codes.append(refusal(intake, body, start).code)
    assert codes == [
        "unknown_health_authority_id",
        "health_authority_verification_certificate_invalid",
        "bad_request",
        "missing_revision_token",
    ]


def test_two_uploads_of_the_same_keys_at_once_are_one(test_database, intake, start):
    body = decoded(request(keys(start, 14), start))

    def upload(_: int) -> object:
        try:
            return accept(intake, body, start).inserted
        except PublishError as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        results = sorted(map(str, pool.map(upload, range(6))))
    # K4: the others might be the same phone, whose answer was lost.
    assert results == ["0"] * 5 + ["14"]
    assert len(rows(test_database)) == 14


# Revisions

REVISION = "report_type, transmission_risk, revised_report_type, revised_transmission_risk, revised_at"


def close_windows(test_database, through) -> None:
    """As the closer does at the end (W3)."""
    test_database.set_time(through)
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET closed_through = %s", [through])


def change_app(test_database, **columns: bool) -> None:
    with test_database.admin() as connection:
        for column, value in columns.items():
            connection.execute(f"UPDATE authorised_app SET {column} = %s", [value])


def test_scenario_56_likely_becomes_confirmed(test_database, intake, start):
    sent = keys(start, 2)
    token = send(intake, request(sent, start, report_type="likely", onset=sent[1]["rollingStartNumber"]), start)
    later = start + timedelta(hours=3)
    close_windows(test_database, later)
    changes = {"revisionToken": token.revision_token, "symptomOnsetInterval": sent[1]["rollingStartNumber"] - 144}
    accepted = send(intake, request(sent, later, **changes), later)
    assert said(accepted) == (0, (), ())
    assert token_keys(intake, accepted.revision_token) == sorted(map(key_bytes, ("/0", "/1")))
    assert rows(test_database, REVISION) == [("likely", 4, "confirmed", 2, later)] * 2
    assert rows(test_database, "created_at, days_since_onset, revised_days_since_onset, revised_authority_id") == [
        (start, 0, 1, 1),
        (start, 1, 2, 1),
    ]


def test_k2_a_key_that_is_not_out_yet_is_revised_in_its_own_window(test_database, intake, start):
    young = key("young", int(start.timestamp()) // 600 - 10)
    token = send(intake, request([young], start, report_type="likely"), start).revision_token
    send(intake, request([young], start, report_type="negative", revisionToken=token), start)
    ((created, revised, report_type),) = rows(test_database, "created_at, revised_at, revised_report_type")
    assert created > start
    assert (revised, report_type) == (created, "negative")


def test_scenario_70_another_authority_with_more_regions_revises(test_database, intake, start):
    """K2: its word and its id are stored; regions and the first authority stay."""
    sent = keys(start, 1)
    token = send(intake, request(sent, start, report_type="likely"), start).revision_token
    authorise(test_database.url("keyserver_pipeline"), "second", ("CH",), "second.example")
    with test_database.admin() as connection:
        connection.execute("INSERT INTO authorised_app_authority VALUES ('second', 1)")
    fresh = replace(intake, configuration=Configuration(intake.database, Limits()))
    risky = [sent[0] | {"transmissionRisk": 5}]
    by = issuer(name="second.example")
    send(fresh, request(risky, start, by=by, healthAuthorityID="second", revisionToken=token), start)
    columns = (
        "regions, health_authority_id, transmission_risk, revised_authority_id, revised_transmission_risk, app_name"
    )
    assert rows(test_database, columns) == [(["AT", "DE"], 1, 4, 2, 5, APP)]


def test_scenarios_58_and_68_a_second_revision_is_refused(test_database, intake, start):
    sent = keys(start, 1)
    token = send(intake, request(sent, start, report_type="likely"), start).revision_token
    send(intake, request(sent, start, report_type="negative", revisionToken=token), start)
    before = rows(test_database, REVISION)
    error = refusal(intake, request(sent, start, report_type="confirmed", revisionToken=token), start)
    assert (error.code, str(error)) == ("key_already_revised", "key 0 was revised before; that is possible once")
    assert rows(test_database, REVISION) == before


def test_scenario_73_user_report_becomes_likely_and_nothing_after(intake, start):
    sent = keys(start, 1)
    token = send(intake, request(sent, start, report_type="user-report"), start).revision_token
    token = send(intake, request(sent, start, report_type="likely", revisionToken=token), start).revision_token
    error = refusal(intake, request(sent, start, report_type="confirmed", revisionToken=token), start)
    assert error.code == "key_already_revised"


def test_scenario_60_a_refusal_stores_none_of_the_new_keys_either(test_database, intake, start):
    first, second, new = keys(start, 3)
    token = send(intake, request([first], start, report_type="likely"), start).revision_token
    send(intake, request([second], start, report_type="likely"), start)
    error = refusal(intake, request([new, second, first], start, revisionToken=token), start)
    assert (error.code, str(error)) == (
        "invalid_revision_token",
        "key 1 was uploaded before and is not in the revision token",
    )
    assert len(rows(test_database)) == 2


def test_scenarios_66_and_67_partial_revisions(test_database, intake, start):
    intake = replace(intake, allow_partial_revisions=True)
    first, second, new = keys(start, 3)
    token = send(intake, request([first], start, report_type="likely"), start).revision_token
    send(intake, request([second], start, report_type="likely"), start)
    accepted = send(intake, request([new, second, first], start, revisionToken=token), start)
    assert said(accepted) == (
        1, (), ("key 1 was left out: it was uploaded before and is not in the revision token",)
    )  # fmt: skip
    assert token_keys(intake, accepted.revision_token) == sorted(map(key_bytes, ("/0", "/2")))
    assert rows(test_database, "report_type, revised_report_type") == [
        ("confirmed", None), ("likely", None), ("likely", "confirmed"),
    ]  # fmt: skip


def test_scenarios_61_and_62_a_token_whose_key_is_gone(test_database, intake, start):
    old, new = keys(start, 2)
    token = send(intake, request([old], start, report_type="likely"), start).revision_token
    with test_database.admin() as connection:
        connection.execute(
            "UPDATE revision_key SET aad = NULL, wrapped_key = NULL, allowed = false, destroyed_at = now()"
        )
    folder = intake.revision_keys._keywrap._path.parent
    add_revision_key(test_database.url("keyserver_pipeline"), folder)
    keys_read_anew = RevisionKeys(intake.database, open_keywrap(f"file://{folder}"))
    intake = replace(intake, revision_keys=keys_read_anew)
    assert send(intake, request([new], start, revisionToken=token), start).inserted == 1
    error = refusal(intake, request([old], start, revisionToken=token), start)
    assert error.code == "invalid_revision_token"
    # Row 8: what is not even base64 is no token.
    assert refusal(intake, request([old], start, revisionToken="?"), start).code == "missing_revision_token"


def test_scenario_63_the_same_upload_again_with_its_token(test_database, intake, start):
    sent = keys(start, 2)
    token = send(intake, request(sent, start), start).revision_token
    close_windows(test_database, start + timedelta(hours=3))
    before = rows(test_database, "exposure::text")
    accepted = send(intake, request(sent, start, revisionToken=token), start)
    assert said(accepted) == (0, (), ())
    assert token_keys(intake, accepted.revision_token) == token_keys(intake, token)
    assert rows(test_database, "exposure::text") == before


def test_k4_an_upload_whose_answer_was_lost_is_answered_again(test_database, intake, start):
    body = request(keys(start, 2), start, report_type="likely")
    first = send(intake, body, start)
    again = send(intake, body, start)
    assert said(again) == (0, (), ())
    assert token_keys(intake, again.revision_token) == token_keys(intake, first.revision_token)
    # The token is as good as the one that was lost.
    revised = request(keys(start, 2), start, revisionToken=again.revision_token)
    send(intake, revised, start)
    assert rows(test_database, "revised_report_type") == [("confirmed",)] * 2


def test_k4_ends_when_the_window_is_closed(test_database, intake, start):
    body = request(keys(start, 2), start)
    send(intake, body, start)
    close_windows(test_database, start + timedelta(minutes=1))
    assert refusal(intake, body, start).code == "missing_revision_token"


def test_a_token_forgets_keys_that_are_too_old_to_be_sent(intake, start):
    token = send(intake, request(keys(start, 14), start, report_type="likely"), start).revision_token
    later = start + timedelta(days=9)
    accepted = send(intake, request(keys(later, 1, "new"), later, revisionToken=token), later)
    assert len(token_keys(intake, accepted.revision_token)) == 1 + 14 - 8


def test_nothing_is_stored_when_no_token_could_be_given(test_database, intake, start):
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET allowed = false")
    with pytest.raises(RemoteError, match="no revision key"):
        send(intake, request(keys(start, 1), start), start)
    assert rows(test_database) == []


# Bypass flags (2.9)


def test_scenario_1_an_app_that_needs_no_certificate(test_database, intake, start):
    change_app(test_database, bypass_verification=True)
    accepted = send(intake, request(keys(start, 2), start, verificationPayload=""), start)
    assert accepted.inserted == 2
    assert accepted.revision_token
    columns = "report_type, health_authority_id, transmission_risk, regions"
    assert rows(test_database, columns) == [(None, None, 0, ["AT", "DE"])] * 2
    assert counted(test_database) == []


def test_an_app_that_needs_no_certificate_is_believed_by_a_good_one(test_database, intake, start):
    change_app(test_database, bypass_verification=True)
    send(intake, request(keys(start, 1), start), start)
    assert rows(test_database, "report_type, health_authority_id") == [("confirmed", 1)]


def test_scenario_25_no_keys_without_a_certificate(test_database, intake, start):
    change_app(test_database, bypass_verification=True)
    body = {"healthAuthorityID": APP}
    assert refusal(intake, body, start).code == "bad_request"


def test_scenario_59_a_bypassed_certificate_revises_nothing(test_database, intake, start):
    change_app(test_database, bypass_verification=True)
    sent = keys(start, 1)
    token = send(intake, request(sent, start, report_type="likely"), start).revision_token
    body = request(sent, start, verificationPayload="x", revisionToken=token)
    error = refusal(intake, body, start)
    assert (error.code, str(error)) == (
        "invalid_report_type_transition",
        "key 0 cannot become a key without a report type",
    )


def test_a_broken_key_of_ours_is_not_bypassed(test_database, intake, start):
    change_app(test_database, bypass_verification=True)
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority_key SET public_key = 'garbage'")
    assert refusal(intake, request(keys(start, 1), start), start).code == "unable_to_load_health_authority"


def test_scenario_75_an_app_that_needs_no_token(test_database, intake, start):
    change_app(test_database, bypass_revision_token=True)
    sent = keys(start, 1)
    send(intake, request(sent, start, report_type="likely"), start)
    close_windows(test_database, start + timedelta(minutes=1))
    accepted = send(intake, request(sent, start), start)
    assert token_keys(intake, accepted.revision_token) == [key_bytes("/0")]
    assert rows(test_database, "revised_report_type") == [("confirmed",)]
    # Nothing to change any more, nothing to prove.
    assert send(intake, request(sent, start), start) == Accepted(0, (), ())


def test_a_made_up_key_is_revised_by_nobody(test_database, intake, start):
    change_app(test_database, bypass_revision_token=True)
    sent = keys(start, 1)
    with test_database.admin() as connection:
        connection.execute(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, report_type,"
            " traveler, regions, created_at, synthetic)"
            " VALUES (%s, %s, 144, 2, 'likely', false, '{DE}', keyserver_now(), true)",
            [key_bytes("/0"), sent[0]["rollingStartNumber"]],
        )
    assert refusal(intake, request(sent, start), start).code == "key_of_other_origin"


def test_scenario_23_there_is_no_app_without_regions(test_database, database):
    with test_database.admin() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE authorised_app SET regions = '{}'")


# Attestation


def test_attestation_is_asked_for_right_after_the_certificate(test_database, intake, start):
    asked = []

    def attest(app, sent, now) -> None:
        asked.append((app.name, app.attestations, sent.attestation, now))
        raise PublishError("attestation_required", "no")

    with test_database.admin() as connection:
        connection.execute(
            "INSERT INTO app_attestation VALUES (%s, 'android', 'play-integrity', %s)", [APP, '{"package": "p"}']
        )
    intake = replace(intake, attest=attest)
    sent = keys(start, 1)
    assert refusal(intake, request(sent, start, verificationPayload="x"), start).code.startswith("health_authority")
    assert asked == []
    body = request([sent[0] | {"rollingPeriod": 0}], start)
    assert refusal(intake, body, start).code == "attestation_required"
    body["attestation"] = {"platform": "android", "challenge": "c", "evidence": "e"}
    refusal(intake, body, start)
    (_, _, none, _), (name, attestations, given, now) = asked
    assert (none, name, now) == (None, APP, start)
    assert attestations == {"android": AppAttestation("play-integrity", {"package": "p"})}
    assert (given.platform, given.challenge, given.evidence) == ("android", "c", "e")


# Statistics (2.10, 6.4, P1)

COUNTERS = (
    "SELECT hour, sum(publish[1])::int, sum(publish[2])::int, sum(publish[3])::int, sum(teks)::int,"
    " sum(revisions)::int, sum(missing_onset)::int FROM upload_stats GROUP BY hour ORDER BY hour"
)


def counted(test_database, query: str = COUNTERS) -> list[tuple]:
    with test_database.admin() as connection:
        return connection.execute(query).fetchall()


def buckets(test_database, column: str) -> dict[int, int]:
    """The filled places of an array, counted from 0."""
    query = f"SELECT place - 1, sum(n)::int FROM upload_stats, unnest({column}) WITH ORDINALITY AS each (n, place)"
    return dict(counted(test_database, query + " WHERE n > 0 GROUP BY place"))


def test_scenario_8_what_an_upload_counts(test_database, intake, start):
    sent = keys(start, 2)
    body = request(sent, start, traveler=True, onset=sent[0]["rollingStartNumber"])
    test_database.set_time(start + timedelta(minutes=59))
    send(intake, body, start, user_agent="Dalvik/2.1.0 (Linux; U; Android 11)")
    assert counted(test_database) == [(start, 0, 1, 0, 2, 0, 0)]
    assert (buckets(test_database, "oldest_tek_days"), buckets(test_database, "onset_age_days")) == ({2: 1}, {1: 1})
    assert counted(test_database, "SELECT day::text, report_type, keys, oldest_days, uploads FROM profile") == [
        ("2026-03-02", "confirmed", 2, 2, 1)
    ]
    assert counted(test_database, "SELECT what, value, count FROM profile_marginal ORDER BY what") == [
        ("interval_count", 144, 2), ("onset_days", 1, 1), ("transmission_risk", 2, 2), ("traveler", 1, 1),
    ]  # fmt: skip


def test_scenarios_11_and_12_platforms_and_a_missing_onset(test_database, intake, start):
    first, second = keys(start, 2)
    send(intake, request([first], start, report_type="likely"), start)
    send(intake, request([second], start), start, user_agent="bluetoothd (unknown) CFNetwork/1 Darwin/20")
    assert counted(test_database) == [(start, 1, 0, 1, 2, 0, 2)]
    assert buckets(test_database, "onset_age_days") == {}


def test_scenario_100_a_revision_counts_as_one(test_database, intake, start):
    sent = keys(start, 3)
    token = send(intake, request(sent[:2], start, report_type="likely"), start).revision_token
    send(intake, request(sent, start, revisionToken=token), start)
    assert counted(test_database) == [(start, 2, 0, 0, 5, 1, 1)]
    assert buckets(test_database, "oldest_tek_days") == {2: 1}


def test_an_upload_that_changes_nothing_or_is_refused_counts_nothing(test_database, intake, start):
    sent = keys(start, 1)
    token = send(intake, request(sent, start), start).revision_token
    before = counted(test_database), counted(test_database, "SELECT * FROM profile")
    send(intake, request(sent, start, revisionToken=token), start)
    send(intake, request(sent, start), start)
    send(intake, request(keys(start, 1, "new"), start, report_type="negative"), start)
    refusal(intake, request(sent, start, report_type="likely", revisionToken=token), start)
    assert (counted(test_database), counted(test_database, "SELECT * FROM profile")) == before


def test_counters_lose_nothing_when_many_upload_at_once(test_database, intake, start):
    bodies = [decoded(request(keys(start, 3, number), start)) for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        accepted = list(pool.map(lambda body: accept(intake, body, start), bodies))
    assert sum(each.inserted for each in accepted) == 180
    assert counted(test_database) == [(start, 60, 0, 0, 180, 0, 60)]
    assert counted(test_database, "SELECT sum(uploads)::int, max(keys) FROM profile") == [(60, 3)]
    marginals = "SELECT sum(count)::int FROM profile_marginal WHERE what = 'interval_count'"
    assert counted(test_database, marginals) == [(180,)]
    assert counted(test_database, "SELECT count(*) > 1 FROM upload_stats") == [(True,)]


def test_two_devices_that_revise_the_same_keys_at_once(test_database, intake, start):
    """One wins, whole; the other's answer says so, and the counters count one revision an upload of keys."""
    uploads = 12
    sent = [keys(start, 5, number) for number in range(uploads)]
    tokens = [send(intake, request(each, start, report_type="likely"), start).revision_token for each in sent]

    def revise(arguments: tuple[int, str]) -> str:
        number, report_type = arguments
        # Each device sends its keys in an order of its own.
        mine = sent[number] if report_type == "confirmed" else sent[number][::-1]
        body = request(mine, start, report_type=report_type, revisionToken=tokens[number])
        try:
            accept(intake, decoded(body), start)
        except PublishError as error:
            return error.code
        return report_type

    pairs = [(number, report_type) for number in range(uploads) for report_type in ("confirmed", "negative")]
    with ThreadPoolExecutor(6) as pool:
        outcomes = dict(zip(pairs, pool.map(revise, pairs), strict=True))
    stored = dict(rows(test_database, "exposure_key, revised_report_type"))
    for number in range(uploads):
        both = {outcomes[number, "confirmed"], outcomes[number, "negative"]}
        (winner,) = both - {"key_already_revised"}
        assert {stored[key_bytes(f"{number}/{day}")] for day in range(5)} == {winner}
        assert len(both) == 2
    assert counted(test_database) == [(start, 2 * uploads, 0, 0, 10 * uploads, uploads, uploads)]


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


def test_a_revoked_key_stops_working_within_a_minute(test_database, database, intake, start, monkeypatch):
    """Issue 9, item 3: what is cached lives 30 s."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sent = keys(start, 2)
    send(intake, request(sent[:1], start), start)
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority_key SET valid_thru = %s", [start])
    clock[0] += 60
    error = refusal(intake, request(sent[1:], start), start)
    assert "no active key" in str(error)


def test_what_an_authority_and_an_app_may_is_read(test_database, database):
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority SET certificate_max_life = interval '2 hours'")
    change_app(test_database, bypass_verification=True)
    app = Configuration(database, Limits()).app(APP)
    assert (app.bypass_verification, app.bypass_revision_token, dict(app.attestations)) == (True, False, {})
    assert app.authorities[0].certificate_max_life == timedelta(hours=2)


def test_e4_a_lost_database_is_no_reason_to_go_on_with_what_was_read(test_database, database, start):
    configuration = Configuration(database, Limits(), timedelta(0))
    configuration.app(APP)
    with test_database.admin() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keyserver_api'")
    with pytest.raises(RemoteError):
        configuration.app(APP)
    assert configuration.app(APP).name == APP


def test_a_broken_key_of_ours_is_our_fault(test_database, intake, start):
    with test_database.admin() as connection:
        connection.execute("UPDATE health_authority_key SET public_key = 'garbage'")
    error = refusal(intake, request(keys(start, 1), start), start)
    assert error.code == "unable_to_load_health_authority"


def test_scenario_9_a_self_report_is_stored_as_one(test_database, intake, start):
    assert send(intake, request(keys(start, 2), start, report_type="user-report"), start).inserted == 2
    assert rows(test_database, "report_type, health_authority_id") == [("user-report", 1)] * 2


def test_scenario_10_a_confirmed_key_without_a_risk_is_stored_with_risk_2(test_database, intake, start):
    unrated, rated = keys(start, 2)
    rated["transmissionRisk"] = 5
    send(intake, request([unrated, rated], start), start)
    assert rows(test_database, "transmission_risk") == [(5,), (2,)]
