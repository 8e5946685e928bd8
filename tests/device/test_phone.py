from __future__ import annotations

import base64
import hmac
import random
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from keyserver.device import exportreader
from keyserver.device.issuer import Issuer
from keyserver.device.phone import Beacon, FileCache, Match, Phone
from keyserver.device.platforms import ANDROID_1_3, ANDROID_1_5, IOS_13_5, IOS_13_6, IOS_13_7
from keyserver.errors import FormatError, RemoteError, VerificationError
from keyserver.protocol import gaen
from keyserver.protocol.intervals import interval_at, interval_start, utc_midnight

NOW = datetime(2024, 5, 20, 15, 30, tzinfo=UTC)
MET = datetime(2024, 5, 18, 12, 3, tzinfo=UTC)
LIKELY, CONFIRMED, REVOKED = 2, 1, 5


def seeded(seed: int):
    return random.Random(seed).randbytes


def uncertified(mac: bytes) -> str:
    """Where no certificate is looked at."""
    return "certificate"


class Cdn:
    """A folder behind a web server: files and an index, as phones find them."""

    def __init__(self, folder, url: str) -> None:
        self.folder = folder
        self.base = url
        self.index_url = url + "index.txt"
        self.put_index()

    def put(self, line: str, content: bytes) -> None:
        (self.folder / line).write_bytes(content)

    def put_index(self, *lines: str) -> None:
        (self.folder / "index.txt").write_text("".join(f"{line}\n" for line in lines))

    def release(self, line: str, content: bytes) -> None:
        self.put(line, content)
        known = (self.folder / "index.txt").read_text().split()
        self.put_index(*known, line)


@pytest.fixture(scope="module")
def web(serve, tmp_path_factory):
    """The folder that is served, its URL, and the files that were asked for."""
    folder = tmp_path_factory.mktemp("cdn")
    fetched: list[str] = []
    files = StaticFiles(directory=folder)

    async def recording(scope, receive, send) -> None:
        fetched.append(scope["path"].rsplit("/", 1)[-1])
        await files(scope, receive, send)

    return folder, serve(Starlette(routes=[Mount("/", recording)])), fetched


@pytest.fixture
def fetched(web):
    web[2].clear()
    return web[2]


@pytest.fixture
def cdn(web, fetched, request) -> Cdn:
    folder = web[0] / str(len(list(web[0].iterdir())))
    folder.mkdir()
    return Cdn(folder, f"{web[1]}/{folder.name}/")


@pytest.fixture
def phones(trusted):
    """An infected phone, carried for 14 days, and one that is near it."""
    infected = Phone(trusted, random_bytes=seeded(1))
    infected.carry(NOW - timedelta(days=14), NOW)
    return infected, Phone(trusted, random_bytes=seeded(2))


def published(phone: Phone, report_type: int | None = CONFIRMED):
    """The phone's keys as a file tells them."""
    return [
        {
            "key_data": key.key,
            "rolling_start_interval_number": key.start,
            "rolling_period": key.period,
            **({} if report_type is None else {"report_type": report_type}),
        }
        for key in phone.keys(NOW)
    ]


def others(count: int):
    """Keys of strangers."""
    source = seeded(3)
    start = interval_at(utc_midnight(MET))
    return [{"key_data": source(16), "rolling_start_interval_number": start} for _ in range(count)]


def meet(one: Phone, other: Phone, moment: datetime = MET, late: timedelta = timedelta(0)) -> None:
    other.hear(one.broadcast(moment), moment + late)


# Keys and broadcasts


def test_a_phone_has_one_key_a_utc_day_and_todays_is_still_valid(phones):
    keys = phones[0].keys(NOW)
    assert len(keys) == len({key.key for key in keys}) == 15
    assert all(len(key.key) == 16 and key.start % 144 == 0 and key.period == 144 for key in keys)
    assert [key.start for key in keys] == list(range(keys[0].start, keys[0].start + 15 * 144, 144))
    assert interval_start(keys[-1].start) < NOW < interval_start(keys[-1].start + 144)
    assert phones[0].keys(NOW) == keys


def test_a_phone_that_was_just_switched_on_has_only_todays_key(trusted):
    assert [key.start for key in Phone(trusted).keys(NOW)] == [interval_at(utc_midnight(NOW))]


def test_keys_that_ended_14_days_ago_are_forgotten_for_uploads(phones):
    later = NOW + timedelta(days=3)
    phones[0].carry(NOW, later)
    assert min(key.start for key in phones[0].keys(later)) == interval_at(utc_midnight(later - timedelta(days=14)))


def test_the_random_source_alone_decides_the_keys(trusted):
    one, same, other = (Phone(trusted, random_bytes=seeded(seed)) for seed in (7, 7, 8))
    assert one.keys(NOW) == same.keys(NOW) != other.keys(NOW)


def test_a_broadcast_changes_with_the_interval_and_carries_the_power(trusted):
    phone = Phone(trusted, transmit_power=-7)
    first, same, next_one = (phone.broadcast(MET + timedelta(minutes=minutes)) for minutes in (0, 6, 7))
    assert first == same != next_one
    phone.carry(MET, NOW)
    tek = phone.keys(NOW)[0].key
    assert first.identifier == gaen.identifier(tek, interval_at(MET))
    plain = gaen.decrypt_metadata(tek, first.identifier, first.metadata)
    assert plain[0] == 0x50
    assert gaen.transmit_power(plain) == -7


@pytest.mark.parametrize("beacon", [Beacon(bytes(15), bytes(4)), Beacon(bytes(16), bytes(5))])
def test_what_is_no_beacon_is_not_heard(trusted, beacon):
    with pytest.raises(FormatError, match="beacon"):
        Phone(trusted).hear(beacon, MET)


# Uploads


@pytest.fixture(scope="module")
def issuer():
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issuer(pem, kid="v1", issuer="health", audience="keyserver")


def test_an_upload_carries_keys_certificate_and_padding_and_its_hmac_is_certified(phones, issuer):
    request = phones[0].publish_request(
        NOW,
        "com.example",
        lambda mac: issuer.certify(mac, "confirmed", NOW),
        symptom_onset_interval=interval_at(MET),
        traveler=True,
    )
    assert set(request) == {
        "temporaryExposureKeys",
        "healthAuthorityID",
        "verificationPayload",
        "hmacKey",
        "padding",
        "symptomOnsetInterval",
        "traveler",
    }
    sent = request["temporaryExposureKeys"]
    assert [base64.b64decode(key["key"]) for key in sent] == [key.key for key in phones[0].keys(NOW)]
    assert 1024 <= len(base64.b64decode(request["padding"])) <= 2048
    secret = base64.b64decode(request["hmacKey"])
    assert len(secret) == 16
    text = ",".join(
        f"{key['key']}.{key['rollingStartNumber']}.144.0" for key in sorted(sent, key=lambda key: key["key"])
    )
    claims = jwt.decode(request["verificationPayload"], options={"verify_signature": False})
    assert base64.b64decode(claims["tekmac"]) == hmac.digest(secret, text.encode(), "sha256")


def test_two_uploads_share_neither_secret_nor_length(phones):
    requests = [phones[0].publish_request(NOW, "com.example", uncertified) for _ in range(8)]
    assert len({request["hmacKey"] for request in requests}) == 8
    assert len({len(request["padding"]) for request in requests}) > 1


def test_the_revision_token_is_remembered_and_sent_with_the_next_upload(phones, serve):
    answers = [{"revisionToken": "Zmlyc3Q="}, {"code": "bad_request"}, {"revisionToken": "c2Vjb25k"}]
    received = []

    async def publish(request: Request) -> Response:
        received.append(await request.json())
        return JSONResponse(answers[len(received) - 1])

    base = serve(Starlette(routes=[Route("/v1/publish", publish, methods=["POST"])]))
    phone = phones[0]
    for answer in answers:
        request = phone.publish_request(NOW, "com.example", uncertified)
        assert phone.upload(base, request).revision_token == answer.get("revisionToken")
    assert [request.get("revisionToken") for request in received] == [None, "Zmlyc3Q=", "Zmlyc3Q="]
    later = phone.publish_request(NOW, "com.example", uncertified)
    assert later["revisionToken"] == "c2Vjb25k"


# Matching


def test_a_meeting_is_found_and_nobody_else_is(phones, cdn, make_file, trusted):
    infected, near = phones
    far = Phone(trusted)
    meet(infected, near)
    meet(near, far)
    cdn.release("1.zip", make_file([*others(20), *published(infected), *others(5)]))
    tek = next(key.key for key in infected.keys(NOW) if key.start == interval_at(utc_midnight(MET)))
    assert near.check(cdn.index_url, cdn.base, NOW) == (Match(tek, interval_at(MET), -12, CONFIRMED),)
    assert far.check(cdn.index_url, cdn.base, NOW) == ()


def test_every_interval_of_a_long_meeting_is_a_match_of_its_own(phones, cdn, make_file):
    infected, near = phones
    for minutes in range(0, 30, 5):
        meet(infected, near, MET + timedelta(minutes=minutes))
    cdn.release("1.zip", make_file(published(infected)))
    assert [match.interval for match in near.check(cdn.index_url, cdn.base, NOW)] == [
        interval_at(MET) + n for n in range(3)
    ]


@pytest.mark.parametrize(("intervals", "matches"), [(-13, 0), (-12, 1), (0, 1), (12, 1), (13, 0)])
def test_clocks_may_differ_by_12_intervals(phones, cdn, make_file, intervals, matches):
    meet(*phones, late=intervals * timedelta(minutes=10))
    cdn.release("1.zip", make_file(published(phones[0])))
    assert len(phones[1].check(cdn.index_url, cdn.base, NOW)) == matches


@pytest.mark.parametrize(("power", "matches"), [(-51, 0), (-50, 1), (20, 1), (21, 0)])
def test_an_implausible_power_is_no_match(trusted, cdn, make_file, power, matches):
    infected, near = Phone(trusted, transmit_power=power), Phone(trusted)
    meet(infected, near)
    cdn.release("1.zip", make_file(published(infected)))
    assert [match.transmit_power for match in near.check(cdn.index_url, cdn.base, NOW)] == [power] * matches


def test_what_was_heard_is_forgotten_after_14_days(phones, cdn, make_file):
    meet(*phones)
    cdn.release("1.zip", make_file(published(phones[0])))
    assert phones[1].check(cdn.index_url, cdn.base, MET + timedelta(days=14, hours=1)) == ()


def test_a_match_is_forgotten_after_14_days(phones, cdn, make_file):
    meet(*phones)
    cdn.release("1.zip", make_file(published(phones[0])))
    assert len(phones[1].check(cdn.index_url, cdn.base, MET + timedelta(days=14))) == 1
    assert phones[1].check(cdn.index_url, cdn.base, MET + timedelta(days=14, hours=1)) == ()


def test_a_key_that_stops_early_covers_no_later_meeting(phones, cdn, make_file):
    meet(*phones)
    short = [{**key, "rolling_period": 72} for key in published(phones[0])]
    cdn.release("1.zip", make_file(short))
    assert interval_at(MET) - interval_at(utc_midnight(MET)) == 72
    assert phones[1].check(cdn.index_url, cdn.base, NOW) == ()


# Revisions


def test_a_revoked_key_takes_its_matches_back(phones, cdn, make_file):
    infected, near = phones
    meet(infected, near)
    meet(infected, near, MET + timedelta(days=1))
    keys = published(infected, LIKELY)
    cdn.release("1.zip", make_file(keys))
    assert len(near.check(cdn.index_url, cdn.base, NOW)) == 2
    first = [key for key in keys if key["rolling_start_interval_number"] == interval_at(utc_midnight(MET))]
    cdn.release("2.zip", make_file(revised_keys=[{**key, "report_type": REVOKED} for key in first]))
    assert [match.interval for match in near.check(cdn.index_url, cdn.base, NOW)] == [interval_at(MET) + 144]


def test_a_changed_report_type_replaces_the_old_one(phones, cdn, make_file):
    meet(*phones)
    cdn.release("1.zip", make_file(published(phones[0], LIKELY)))
    assert [match.report_type for match in phones[1].check(cdn.index_url, cdn.base, NOW)] == [LIKELY]
    cdn.release("2.zip", make_file(revised_keys=published(phones[0], CONFIRMED)))
    assert [match.report_type for match in phones[1].check(cdn.index_url, cdn.base, NOW)] == [CONFIRMED]


SELF_REPORT = 3


@pytest.mark.parametrize(
    ("first", "revisions", "then"),
    [
        (SELF_REPORT, [LIKELY], [LIKELY]),
        (SELF_REPORT, [CONFIRMED], [CONFIRMED]),
        (SELF_REPORT, [REVOKED], []),
        (LIKELY, [SELF_REPORT], [LIKELY]),
        (LIKELY, [None], [LIKELY]),
        (CONFIRMED, [REVOKED], [CONFIRMED]),
        (CONFIRMED, [LIKELY], [CONFIRMED]),
        (SELF_REPORT, [LIKELY, REVOKED], [LIKELY]),
        (LIKELY, [REVOKED, CONFIRMED], []),
    ],
)
def test_a_phone_lets_a_key_change_once_and_only_so(phones, cdn, make_file, first, revisions, then):
    infected, near = phones
    meet(infected, near)
    cdn.release("0.zip", make_file(published(infected, first)))
    for number, report_type in enumerate(revisions, 1):
        cdn.release(f"{number}.zip", make_file(revised_keys=published(infected, report_type)))
    assert [match.report_type for match in near.check(cdn.index_url, cdn.base, NOW)] == then


def test_a_key_that_is_released_again_stands_as_it_is_now(phones, cdn, make_file):
    """As the replacing batch of a withdrawn one has it (rule K3), and may be revised from there."""
    infected, near = phones
    meet(infected, near)
    found = []
    for number, (keys, revised) in enumerate([(LIKELY, None), (None, REVOKED), (LIKELY, None), (None, CONFIRMED)]):
        file = make_file(published(infected, keys) if keys else [], published(infected, revised) if revised else [])
        cdn.release(f"{number}.zip", file)
        found.append([match.report_type for match in near.check(cdn.index_url, cdn.base, NOW)])
    assert found == [[LIKELY], [], [LIKELY], [CONFIRMED]]


def test_a_revision_touches_the_matches_of_its_key_alone(phones, cdn, make_file, trusted):
    infected, near = phones
    other = Phone(trusted)
    other.carry(MET, NOW)
    meet(infected, near)
    meet(other, near)
    cdn.release("1.zip", make_file([*published(infected, LIKELY), *published(other, LIKELY)]))
    assert len(near.check(cdn.index_url, cdn.base, NOW)) == 2
    cdn.release("2.zip", make_file(revised_keys=published(other, REVOKED)))
    assert {match.key for match in near.check(cdn.index_url, cdn.base, NOW)} <= {key.key for key in infected.keys(NOW)}
    assert len(near.matches) == 1


def test_a_revised_key_alone_is_no_match(phones, cdn, make_file):
    meet(*phones)
    cdn.release("1.zip", make_file(revised_keys=published(phones[0], CONFIRMED)))
    assert phones[1].check(cdn.index_url, cdn.base, NOW) == ()


# Following an index


def test_only_what_is_new_is_fetched(phones, cdn, make_file, fetched):
    cdn.release("1.zip", make_file())
    cdn.release("2.zip", make_file())
    phones[1].check(cdn.index_url, cdn.base, NOW)
    cdn.release("3.zip", make_file())
    phones[1].check(cdn.index_url, cdn.base, NOW)
    phones[1].check(cdn.index_url, cdn.base, NOW)
    assert [name for name in fetched if name != "index.txt"] == ["1.zip", "2.zip", "3.zip"]


def test_lines_that_left_at_the_top_change_nothing(phones, cdn, make_file, fetched):
    for line in ("1.zip", "2.zip"):
        cdn.release(line, make_file())
    phones[1].check(cdn.index_url, cdn.base, NOW)
    cdn.put("3.zip", make_file())
    cdn.put_index("2.zip", "3.zip")
    phones[1].check(cdn.index_url, cdn.base, NOW)
    assert [name for name in fetched if name != "index.txt"] == ["1.zip", "2.zip", "3.zip"]


@pytest.mark.parametrize(
    ("reading", "again"), [("last seen", ["0.zip", "1.zip", "3.zip"]), ("set", ["0.zip", "3.zip"])]
)
def test_if_the_last_line_is_gone_one_reads_all_again_and_the_other_what_is_new(
    trusted, phones, cdn, make_file, fetched, reading, again
):
    """Both ways come to the same matches (rule B5)."""
    near = Phone(trusted, reading=reading)
    meet(phones[0], near)
    cdn.release("1.zip", make_file(published(phones[0], LIKELY)))
    cdn.release("2.zip", make_file(revised_keys=published(phones[0], CONFIRMED)))
    before = near.check(cdn.index_url, cdn.base, NOW)
    cdn.put("0.zip", make_file())
    cdn.put("3.zip", make_file(revised_keys=published(phones[0], CONFIRMED)))
    cdn.put_index("0.zip", "1.zip", "3.zip")
    assert near.check(cdn.index_url, cdn.base, NOW) == before
    assert [match.report_type for match in before] == [CONFIRMED]
    assert [name for name in fetched if name != "index.txt"] == ["1.zip", "2.zip", *again]
    assert [call.lines for call in near.calls] == [("1.zip", "2.zip"), tuple(again)]


def test_a_set_reader_takes_a_line_wherever_it_stands(trusted, cdn, make_file, fetched):
    near = Phone(trusted, reading="set")
    cdn.release("1.zip", make_file())
    near.check(cdn.index_url, cdn.base, NOW)
    cdn.put("0.zip", make_file())
    cdn.put_index("0.zip", "1.zip")
    near.check(cdn.index_url, cdn.base, NOW)
    assert [name for name in fetched if name != "index.txt"] == ["1.zip", "0.zip"]


def test_two_files_of_equal_metadata_in_one_call_are_refused(phones, cdn, make_file):
    """Android would take them for parts of one batch."""
    for line in ("1.zip", "2.zip"):
        cdn.release(line, make_file(start=1_720_000_000))
    with pytest.raises(VerificationError, match="the same span"):
        phones[1].check(cdn.index_url, cdn.base, NOW)


def test_a_line_above_the_last_seen_is_never_read(phones, cdn, make_file, fetched):
    """Why an index only ever grows at the bottom (rule B6)."""
    cdn.release("1.zip", make_file())
    phones[1].check(cdn.index_url, cdn.base, NOW)
    cdn.put("0.zip", make_file())
    cdn.put_index("0.zip", "1.zip")
    phones[1].check(cdn.index_url, cdn.base, NOW)
    assert "0.zip" not in fetched


def test_two_indexes_are_followed_apart(phones, cdn, make_file, fetched):
    for line in ("1.zip", "2.zip", "3.zip", "4.zip"):
        cdn.put(line, make_file())
    for hourly, daily in (("1.zip\n", "2.zip\n"), ("1.zip\n3.zip\n", "2.zip\n4.zip\n")):
        (cdn.folder / "index.txt").write_text(hourly)
        (cdn.folder / "daily.txt").write_text(daily)
        phones[1].check(cdn.index_url, cdn.base, NOW)
        phones[1].check(cdn.base + "daily.txt", cdn.base, NOW)
    assert [name for name in fetched if name.endswith(".zip")] == ["1.zip", "2.zip", "3.zip", "4.zip"]


def test_a_file_that_is_not_there_yet_is_tried_again(phones, cdn, make_file):
    meet(*phones)
    cdn.put_index("1.zip")
    with pytest.raises(RemoteError, match=r"1\.zip"):
        phones[1].check(cdn.index_url, cdn.base, NOW)
    cdn.put("1.zip", make_file(published(phones[0])))
    assert len(phones[1].check(cdn.index_url, cdn.base, NOW)) == 1


@pytest.mark.parametrize("cache", [None, FileCache()], ids=["alone", "with a cache"])
def test_a_file_that_does_not_verify_matches_nothing(phones, cdn, make_file, cache):
    meet(*phones)
    stranger = ec.generate_private_key(ec.SECP256R1())
    cdn.release("1.zip", make_file(published(phones[0]), signers=[("310", "v1", stranger)]))
    for _ in range(2):
        with pytest.raises(VerificationError):
            phones[1].check(cdn.index_url, cdn.base, NOW, cache=cache)
    assert phones[1].matches == ()


# Quotas


HOUR = timedelta(hours=1)


@pytest.fixture
def http():
    with httpx.Client() as client:
        yield client


def test_what_a_quota_of_files_has_no_room_for_is_left_for_the_next_day(trusted, cdn, make_file, http):
    near = Phone(trusted, platform=IOS_13_5)
    for number in range(20):
        cdn.release(f"{number}.zip", make_file())
    for moment in (NOW, NOW + 23 * HOUR, NOW + 24 * HOUR, NOW + 25 * HOUR):
        near.check(cdn.index_url, cdn.base, moment, http=http)
    assert [(call.at - NOW, len(call.lines)) for call in near.calls] == [(0 * HOUR, 15), (24 * HOUR, 5)]


@pytest.mark.parametrize(("platform", "calls"), [(IOS_13_6, 15), (IOS_13_7, 6), (ANDROID_1_3, 20)])
def test_a_quota_of_calls_lets_any_number_of_files_through(trusted, cdn, make_file, platform, calls, http):
    near = Phone(trusted, platform=platform)
    for number in range(calls + 2):
        cdn.release(f"{number}.zip", make_file())
        cdn.release(f"{number}-2.zip", make_file())
        near.check(cdn.index_url, cdn.base, NOW + number * timedelta(minutes=1), http=http)
    assert [len(call.lines) for call in near.calls] == [2] * calls
    near.check(cdn.index_url, cdn.base, NOW + 24 * HOUR, http=http)
    assert len(near.calls[-1].lines) == 4


def test_android_counts_by_the_utc_day(trusted, cdn, make_file, http):
    near = Phone(trusted, platform=ANDROID_1_5)
    midnight = utc_midnight(NOW) + 24 * HOUR
    for number in range(14):
        cdn.release(f"{number}.zip", make_file())
        near.check(cdn.index_url, cdn.base, midnight + (number - 7) * timedelta(minutes=1), http=http)
    assert [(call.at < midnight, len(call.lines)) for call in near.calls] == [(True, 1)] * 6 + [(False, 2)] + [
        (False, 1)
    ] * 5


def test_a_check_that_finds_nothing_new_is_no_call(trusted, cdn, make_file, http):
    near = Phone(trusted, platform=IOS_13_7)
    cdn.release("1.zip", make_file())
    for minute in range(10):
        near.check(cdn.index_url, cdn.base, NOW + minute * timedelta(minutes=1), http=http)
    assert len(near.calls) == 1


def test_a_call_that_fails_counts_and_a_file_that_did_not_arrive_makes_none(trusted, cdn, make_file, http):
    near = Phone(trusted, platform=IOS_13_5)
    cdn.put_index("1.zip")
    with pytest.raises(RemoteError):
        near.check(cdn.index_url, cdn.base, NOW, http=http)
    assert near.calls == ()
    cdn.put("1.zip", b"not a zip")
    for _ in range(2):
        with pytest.raises(FormatError):
            near.check(cdn.index_url, cdn.base, NOW, http=http)
    assert [(call.lines, call.new) for call in near.calls] == [(("1.zip",), 1)] * 2


def test_files_that_are_read_again_are_not_new_to_the_platform(trusted, cdn, make_file, http):
    near = Phone(trusted, platform=IOS_13_5)
    for number in range(15):
        cdn.release(f"{number}.zip", make_file())
    near.check(cdn.index_url, cdn.base, NOW, http=http)
    cdn.put_index(*(f"{number}.zip" for number in range(14)))
    near.check(cdn.index_url, cdn.base, NOW, http=http)
    assert [(len(call.lines), call.new) for call in near.calls] == [(15, 15), (14, 0)]


# Many phones in one process


def test_a_cache_verifies_a_file_once_and_changes_no_result(phones, cdn, make_file, trusted, monkeypatch):
    infected, _ = phones
    crowd = [Phone(trusted) for _ in range(6)]
    for phone in crowd[:3]:
        meet(infected, phone)
    cdn.release("1.zip", make_file([*others(10), *published(infected)]))
    verified = []
    verify = exportreader.verify
    monkeypatch.setattr(exportreader, "verify", lambda *arguments: verified.append(1) or verify(*arguments))
    cache = FileCache()
    with httpx.Client() as http:
        found = [phone.check(cdn.index_url, cdn.base, NOW, http=http, cache=cache) for phone in crowd]
    assert [len(matches) for matches in found] == [1, 1, 1, 0, 0, 0]
    assert len(verified) == 1


def test_a_cache_never_answers_a_phone_with_what_another_trusts(cdn, make_file, trusted):
    cache = FileCache()
    cdn.release("1.zip", make_file())
    assert Phone(trusted).check(cdn.index_url, cdn.base, NOW, cache=cache) == ()
    stranger = {("310", "v1"): ec.generate_private_key(ec.SECP256R1()).public_key()}
    with pytest.raises(VerificationError, match="does not verify"):
        Phone(stranger).check(cdn.index_url, cdn.base, NOW, cache=cache)


def test_a_cache_sees_that_a_file_changed_under_its_name(phones, cdn, make_file, trusted):
    cache = FileCache()
    cdn.release("1.zip", make_file())
    phones[1].check(cdn.index_url, cdn.base, NOW, cache=cache)
    cdn.put("1.zip", b"something else")
    with pytest.raises(FormatError):
        Phone(trusted).check(cdn.index_url, cdn.base, NOW, cache=cache)
