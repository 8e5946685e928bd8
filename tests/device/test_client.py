from __future__ import annotations

import socket
import threading

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from keyserver.device import client
from keyserver.errors import ConfigurationError, FormatError, RemoteError


@pytest.fixture(scope="module")
def answering(serve):
    """A function: give one answer at every path below a new base URL, return that URL."""
    answers: list[tuple[bytes, int]] = []

    async def answer(request: Request) -> Response:
        body, status = answers[request.path_params["number"]]
        return Response(body, status)

    server = serve(Starlette(routes=[Route("/{number:int}{path:path}", answer, methods=["GET", "POST"])]))

    def add(body: bytes = b"", status: int = 200) -> str:
        answers.append((body, status))
        return f"{server}/{len(answers) - 1}"

    return add


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def talking_once():
    """A function: serve raw bytes to one connection, then close it; return the base URL."""
    threads, listeners = [], []

    def start(raw: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def talk():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(raw)

        thread = threading.Thread(target=talk)
        thread.start()
        threads.append(thread)
        listeners.append(listener)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread, listener in zip(threads, listeners, strict=True):
        thread.join()
        listener.close()


# An upload


def test_an_upload_is_posted_as_json_and_its_success_read(serve):
    seen = []

    async def publish(request: Request) -> Response:
        seen.append((request.headers["content-type"], await request.json()))
        answer = {"insertedExposures": 14, "revisionToken": "dG9rZW4=", "warnings": ["a dropped key"], "padding": "x"}
        return JSONResponse(answer)

    base = serve(Starlette(routes=[Route("/v1/publish", publish, methods=["POST"])]))
    for url in (base, base + "/"):
        answer = client.publish(url, {"healthAuthorityID": "com.example"})
        assert answer == client.PublishAnswer(200, "", "", 14, ("a dropped key",), "dG9rZW4=")
    assert seen == [("application/json", {"healthAuthorityID": "com.example"})] * 2


def test_connections_can_be_shared(answering):
    base = answering(b'{"insertedExposures": 1}')
    with httpx.Client() as http:
        assert client.publish(base, {}, http=http).inserted == 1
        assert client.publish(base, {}, http=http).inserted == 1


@pytest.mark.parametrize("status", [400, 401, 413, 415, 429, 500, 503])
def test_a_refusal_is_an_answer(answering, status):
    base = answering(b'{"code": "bad_request", "error": "no keys", "padding": "x"}', status)
    assert client.publish(base, {}) == client.PublishAnswer(status, "bad_request", "no keys", 0, (), None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"insertedExposures": "1"}',
        b'{"insertedExposures": true}',
        b'{"code": 7}',
        b'{"revisionToken": null}',
        b'{"warnings": "one"}',
        b'{"warnings": [1]}',
    ],
)
def test_an_answer_that_is_none_is_a_format_error(answering, body):
    with pytest.raises(FormatError, match="answer to an upload"):
        client.publish(answering(body), {})


def test_a_proxys_error_page_may_heal(answering):
    with pytest.raises(RemoteError, match="502"):
        client.publish(answering(b"<html>Bad gateway</html>", 502), {})


def test_an_endless_answer_is_cut_off(answering, monkeypatch):
    monkeypatch.setattr(client, "MAX_ANSWER_SIZE", 1000)
    with pytest.raises(FormatError, match="larger than 1000 bytes"):
        client.publish(answering(b" " * 1001), {})


# Index and files


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", []),
        (b"us/1.zip", ["us/1.zip"]),
        (b"us/1.zip\nus/2-a_b~c.zip\n", ["us/1.zip", "us/2-a_b~c.zip"]),
    ],
)
def test_an_index_is_its_lines(answering, body, lines):
    assert client.fetch_index(answering(body) + "/us/index.txt") == lines


@pytest.mark.parametrize(
    "body",
    [
        b"\n",
        b"us/1.zip\n\nus/2.zip",
        b"us/1.zip\r\nus/2.zip",
        b"/us/1.zip",
        b"../1.zip",
        b"us/./1.zip",
        b"us//1.zip",
        b"http://example/1.zip",
        b"us/1.zip?x=1",
        b"us/1.zip ",
        b"us\\1.zip",
        b"us/1.zip\x00",
        "us/\u00e4.zip".encode(),
        b"<html>",
    ],
)
def test_an_index_of_anything_but_relative_paths_is_refused(answering, body):
    with pytest.raises(FormatError, match="the index"):
        client.fetch_index(answering(body) + "/index.txt")


def test_a_large_index_and_a_large_file_are_refused(answering, monkeypatch):
    monkeypatch.setattr(client, "MAX_INDEX_SIZE", 10)
    monkeypatch.setattr(client, "MAX_FILE_SIZE", 10)
    base = answering(b"us/12345678.zip")
    with pytest.raises(FormatError, match="the index is larger"):
        client.fetch_index(base)
    with pytest.raises(FormatError, match=r"1\.zip is larger"):
        client.fetch_file(base + "/", "1.zip")


def test_a_file_is_its_bytes_at_the_base_and_the_line(serve):
    async def file(request: Request) -> Response:
        return Response(bytes(range(256)) + request.url.path.encode())

    base = serve(Starlette(routes=[Route("/{path:path}", file)]))
    assert client.fetch_file(base + "/cdn/", "us/1.zip") == bytes(range(256)) + b"/cdn/us/1.zip"


def test_a_file_is_asked_for_without_its_bytes(talking_once):
    told = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"  # no body: nothing is waited for
    assert client.file_size(talking_once(told) + "/", "north/1.zip") == 1234
    untold = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert client.file_size(talking_once(untold) + "/", "north/1.zip") is None


def test_a_file_that_is_not_there_has_no_size(talking_once):
    with pytest.raises(RemoteError, match=r"north/1\.zip was answered by status 404"):
        client.file_size(talking_once(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n") + "/", "north/1.zip")
    with pytest.raises(FormatError):
        client.file_size("http://127.0.0.1/", "../other")


def test_a_line_that_leaves_the_base_is_never_fetched(answering):
    with pytest.raises(FormatError, match="relative path"):
        client.fetch_file(answering(b"secret") + "/cdn/", "../secret")


@pytest.mark.parametrize("status", [204, 403, 404, 410, 500])
def test_another_status_may_heal(answering, status):
    base = answering(b"", status)
    with pytest.raises(RemoteError, match=f"the index .* {status}"):
        client.fetch_index(base)
    with pytest.raises(RemoteError, match=rf"the file 1\.zip .* {status}"):
        client.fetch_file(base + "/", "1.zip")


def test_a_redirect_is_not_followed(serve):
    async def redirect(request: Request) -> Response:
        return RedirectResponse("/elsewhere") if request.url.path == "/index" else Response(b"us/1.zip")

    with pytest.raises(RemoteError, match="307"):
        client.fetch_index(serve(Starlette(routes=[Route("/{path:path}", redirect)])) + "/index")


# The network


def calls(base: str):
    return [
        lambda: client.publish(base, {}),
        lambda: client.fetch_index(base + "/index.txt"),
        lambda: client.fetch_file(base + "/", "1.zip"),
    ]


def test_nobody_at_the_port_may_heal(closed_port):
    for call in calls(f"http://127.0.0.1:{closed_port}"):
        with pytest.raises(RemoteError, match="ConnectError"):
            call()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="closed at once"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nus/1", id="cut off"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another protocol"),
    ],
)
def test_a_broken_exchange_may_heal(talking_once, raw):
    with pytest.raises(RemoteError, match="did not arrive"):
        client.fetch_index(talking_once(raw))


def test_silence_ends_in_a_timeout(monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", httpx.Timeout(0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for call in calls(f"http://127.0.0.1:{silent.getsockname()[1]}"):
            with pytest.raises(RemoteError, match="ReadTimeout"):
                call()


@pytest.mark.parametrize("url", ["http://localhost:port/index.txt", "ftp://localhost/index.txt", "index.txt"])
def test_a_url_that_is_none_is_a_fault_of_the_configuration(url):
    with pytest.raises(ConfigurationError, match="URL"):
        client.fetch_index(url)


def test_no_message_holds_an_address(closed_port):
    with pytest.raises(RemoteError) as caught:
        client.fetch_index(f"http://127.0.0.1:{closed_port}/index.txt")
    assert "127.0.0.1" not in str(caught.value)
