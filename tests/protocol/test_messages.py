from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import PublishError
from keyserver.protocol.messages import (
    MAX_BODY_BYTES,
    Attestation,
    BodyTooLargeError,
    ContentTypeError,
    PublishAnswer,
    PublishRequest,
    SentKey,
    decode_request,
)

JSON = "application/json"
FULL = {
    "temporaryExposureKeys": [
        {"key": "AAAAAAAAAAAAAAAAAAAAAA==", "rollingStartNumber": 1, "rollingPeriod": 144, "transmissionRisk": 3}
    ],
    "healthAuthorityID": "com.example",
    "verificationPayload": "a.b.c",
    "hmacKey": "AQ==",
    "symptomOnsetInterval": 7,
    "traveler": True,
    "revisionToken": "AA==",
    "attestation": {"platform": "ios", "challenge": "c", "evidence": "proof of the app"},
    "padding": "xx",
}


def decode(body: object) -> PublishRequest:
    return decode_request(JSON, body if isinstance(body, bytes) else json.dumps(body).encode())


def refusal(body: object, content_type: str = JSON) -> PublishError:
    with pytest.raises(PublishError) as caught:
        decode_request(content_type, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.code == "bad_request"
    return caught.value


def test_every_field_is_read():
    assert decode(FULL) == PublishRequest(
        keys=(SentKey(key="AAAAAAAAAAAAAAAAAAAAAA==", start=1, period=144, transmission_risk=3),),
        health_authority_id="com.example",
        verification_payload="a.b.c",
        hmac_key="AQ==",
        symptom_onset_interval=7,
        traveler=True,
        revision_token="AA==",
        attestation=Attestation(platform="ios", challenge="c", evidence="proof of the app"),
        padding="xx",
    )


def test_a_clients_request_is_read_back_as_it_was():
    request = decode(FULL)
    assert decode(request.model_dump_json(by_alias=True).encode()) == request


@pytest.mark.parametrize("content_type", ["", "application/pdf", "Application/json", "text/json", " application/json"])
def test_scenario_3_another_content_type(content_type):
    assert isinstance(refusal(FULL, content_type), ContentTypeError)


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8", "application/jsonx"])
def test_scenario_19_a_content_type_with_parameters(content_type):
    assert decode_request(content_type, b"{}") == PublishRequest()


def test_scenario_17_the_limit_of_a_body():
    body = b'{"padding": "' + b"x" * (MAX_BODY_BYTES - 15) + b'"}'
    assert len(body) == 64_000
    assert len(decode(body).padding) == MAX_BODY_BYTES - 15
    assert isinstance(refusal(body + b" "), BodyTooLargeError)


def test_the_content_type_is_judged_before_the_size_and_the_size_before_the_syntax():
    assert isinstance(refusal(b"x" * 64_001, "text/plain"), ContentTypeError)
    assert isinstance(refusal(b"x" * 64_001), BodyTooLargeError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body must not be empty"),
        (b" \r\n\t ", "the body must not be empty"),
        (b"{} {}", "the body must be one JSON object; something follows at byte 3"),
        (b'{"padding": "\xff\xc3"}]', "the body must be one JSON object; something follows at byte 17"),
        (b"{}]", "the body must be one JSON object; something follows at byte 2"),  # the reference misses it
        (b'{"a" 1}', "the JSON is malformed at byte 5"),
        ('{"ä" 1}'.encode(), "the JSON is malformed at byte 6"),
        (b'{"padding": 01}', "the JSON is malformed at byte 13"),
        (b'\xef\xbb\xbf{"traveler": true}', "the JSON is malformed at byte 0"),
        (b'{"padding": "\n"}', "the JSON is malformed at byte 13"),
        (b'{"padding": "\\x"}', "the JSON is malformed at byte 13"),
        (b'{"padding": "abc', "the JSON ends too early at byte 12"),
        (b'{"traveler": true', "the JSON ends too early at byte 17"),
        (b"{", "the JSON ends too early at byte 1"),
        (b'{"traveler": NaN}', "the JSON is malformed: NaN is no JSON value"),
        (b'{"traveler": -Infinity}', "the JSON is malformed: -Infinity is no JSON value"),
        (b"[" * 60_000, "the JSON is nested too deeply"),
        (b'{"":' * 15_000, "the JSON is nested too deeply"),  # Python 3.13 reads 10,000
    ],
)
def test_scenario_18_malformed_bodies(body, message):
    assert str(refusal(body)) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body must be an object"),
        ("x", "the body must be an object"),
        (7, "the body must be an object"),
        ({"regions": ["DE"]}, "'regions' is not a field of this request"),
        ({"appPackageName": None}, "'appPackageName' is not a field of this request"),
        ({"key": None}, "key is not a field of this request"),
        ({"\ud800\n": 1}, "'\\ufffd\\n' is not a field of this request"),
        ({"x" * 200: 1}, f"'{'x' * 64}' is not a field of this request"),
        ({"temporaryExposureKeys": {}}, "temporaryExposureKeys must be an array"),
        ({"temporaryExposureKeys": ["x"]}, "temporaryExposureKeys[0] must be an object"),
        ({"temporaryExposureKeys": [{}, {"key": 1}]}, "temporaryExposureKeys[1].key must be a string"),
        ({"temporaryExposureKeys": [{"x": 1}]}, "temporaryExposureKeys[0].'x' is not a field of this request"),
        (
            {"temporaryExposureKeys": [{"rollingPeriod": "1"}]},
            "temporaryExposureKeys[0].rollingPeriod must be an integer",
        ),
        (
            {"temporaryExposureKeys": [{"rollingPeriod": 1.0}]},
            "temporaryExposureKeys[0].rollingPeriod must be an integer",
        ),
        (
            {"temporaryExposureKeys": [{"rollingPeriod": True}]},
            "temporaryExposureKeys[0].rollingPeriod must be an integer",
        ),
        ({"symptomOnsetInterval": 2**31}, "symptomOnsetInterval must be an integer of 32 bits"),
        ({"symptomOnsetInterval": -(2**31) - 1}, "symptomOnsetInterval must be an integer of 32 bits"),
        (b'{"symptomOnsetInterval": ' + b"9" * 60_000 + b"}", "symptomOnsetInterval must be an integer of 32 bits"),
        (b'{"symptomOnsetInterval": 1e400}', "symptomOnsetInterval must be an integer"),
        ({"traveler": 1}, "traveler must be true or false"),
        ({"traveler": "true"}, "traveler must be true or false"),
        ({"hmacKey": []}, "hmacKey must be a string"),
        ({"HMACKEY": []}, "hmacKey must be a string"),
        ({"attestation": "x"}, "attestation must be an object"),
        ({"attestation": {"evidence": 1}}, "attestation.evidence must be a string"),
        ({"attestation": {"padding": "x"}}, "attestation.padding is not a field of this request"),
    ],
)
def test_scenario_18_wrong_fields_are_named(body, message):
    assert str(refusal(body)) == message


def test_integers_reach_to_the_ends_of_int32():
    keys = decode({"temporaryExposureKeys": [{"rollingStartNumber": n} for n in (-(2**31), 2**31 - 1)]}).keys
    assert [key.start for key in keys] == [-(2**31), 2**31 - 1]


def test_names_match_in_any_letter_case_and_the_last_of_equal_ones_counts():
    body = b'{"hmackey": "a", "HMACKEY": "b", "hmacKey": "c", "TEMPORARYexposurekeys": [{"KEY": "k"}], "hmacKEY": "d"}'
    assert decode(body) == PublishRequest(hmac_key="d", keys=(SentKey(key="k"),))


def test_null_is_the_zero_value():
    assert decode(b"null") == decode(b"{}") == decode(dict.fromkeys(FULL)) == PublishRequest()
    body = {"temporaryExposureKeys": [None, {"key": None, "rollingPeriod": None}]}
    assert decode(body).keys == (SentKey(), SentKey())
    assert decode({"Attestation": {"PLATFORM": None}}).attestation == Attestation()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\\ud800", "\ufffd"),
        (b"\\udfff\\ud800", "\ufffd\ufffd"),
        (b"\\ud83d\\ude00", "\U0001f600"),
        ("ä€😀".encode(), "ä€😀"),
    ],
)
def test_what_is_no_text_is_replaced(raw, text):
    assert decode(b'{"padding": "' + raw + b'"}').padding == text


def attempt(body: object) -> PublishRequest | PublishError:
    try:
        return decode(body)
    except PublishError as error:
        return error


def can_be_sent(result: PublishRequest | PublishError) -> bool:
    """Whether it is one of the two, and its text is text: no half of a surrogate pair came through."""
    if isinstance(result, PublishRequest):
        return bool(result.model_dump_json().encode())
    return result.code == "bad_request" and bool(str(result).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(body):
    assert can_be_sent(attempt(body))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from([*FULL, *FULL["temporaryExposureKeys"][0], "other"]), children, max_size=5)
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_is_a_request_or_refused(value):
    assert can_be_sent(attempt(value))


@given(st.dictionaries(st.sampled_from([*FULL, "other"]), JSON_VALUES, max_size=5))
def test_the_usual_request_is_read_as_any_other(value):
    """A character that is written as an escape sequence asks for the careful reader."""
    usual = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    careful = b'{"\\u0070adding": null' + (b", " if value else b"") + usual[1:]
    results = attempt(usual), attempt(careful)
    assert results[0] == results[1] or str(results[0]) == str(results[1])


def test_an_answer_leaves_out_what_is_empty():
    assert PublishAnswer().fields() == {}
    answer = PublishAnswer(inserted_exposures=2, code="partial_failure", error="é\n", warnings=("w",))
    assert answer.fields() == {
        "insertedExposures": 2,
        "error": "é\n",
        "code": "partial_failure",
        "warnings": ("w",),
    }
    assert PublishAnswer.model_validate_json(json.dumps(answer.fields())) == answer


def test_what_proves_a_diagnosis_is_not_shown():
    shown = repr(decode(FULL))
    assert not any(secret in shown for secret in ("a.b.c", "AQ==", "AA==", "proof of the app"))
