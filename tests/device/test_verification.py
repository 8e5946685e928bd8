from __future__ import annotations

import httpx
import pytest

from keyserver.device.verification import RefusedError, VerificationServer
from keyserver.errors import FormatError, RemoteError
from tests.realms import living


@pytest.fixture
def world(test_database, tmp_path):
    with living(test_database, tmp_path) as made:
        yield made


def server(world, key: str) -> VerificationServer:
    return VerificationServer("http://verification", key, httpx.Client(transport=httpx.WSGITransport(world.app)))


def test_a_code_becomes_a_certificate(world):
    issued = server(world, world.admin).post("issue", {"testType": "likely", "symptomDate": "2026-03-01"})
    phone = server(world, world.device)
    assert phone.certify(issued["code"], bytes(32)).count(".") == 2
    with pytest.raises(RefusedError) as refused:
        phone.verify(issued["code"])
    assert (refused.value.status, refused.value.code) == (400, "code_invalid")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        ("200 OK", b"{}", FormatError),
        ("200 OK", b"no", FormatError),
        ("502 Bad Gateway", b"<html>", RemoteError),
        ("503 Service Unavailable", b'{"errorCode": "temporarily_unavailable"}', RemoteError),
        ("429 Too Many Requests", b'{"errorCode": 5}', RefusedError),
    ],
)
def test_other_answers(status, body, error):
    def application(environ, start_response):
        start_response(status, [("Content-Length", str(len(body)))])
        return [body]

    phone = VerificationServer("http://x", "key", httpx.Client(transport=httpx.WSGITransport(application)))
    with pytest.raises(error):
        phone.verify("1")
