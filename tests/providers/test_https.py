from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from functools import partial

import pytest

from keyserver.errors import ConfigurationError, FormatError, RemoteError, VerificationError
from keyserver.providers import https
from tests.httpserver import https_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with https_server(tmp_path_factory.mktemp("https")) as running:
        yield running


@pytest.fixture
def fetch(server):
    return partial(https.fetch, allowed=lambda _: True, trust=server.trust)


def test_a_body_is_fetched(server, fetch):
    assert fetch(server.serve("/keys?a=b", b"[]")) == b"[]"
    assert b"Host: localhost:" in server.requests[-1]
    assert b"Accept-Encoding: identity" in server.requests[-1]


def test_a_proxy_of_the_environment_is_not_asked(server, fetch, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert fetch(server.serve("/proxy", b"{}")) == b"{}"


@pytest.mark.parametrize("location", ["http://localhost/", "https://other.example/", "/elsewhere", "//10.0.0.1/"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed(server, fetch, status, location):
    url = server.serve("/moved", b"", status, f"Location: {location}")
    asked = len(server.requests)
    with pytest.raises(FormatError, match="redirect"):
        fetch(url)
    assert len(server.requests) == asked + 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("404 Not Found", FormatError),
        ("204 No Content", FormatError),
        ("403 Forbidden", FormatError),
        ("500 Oops", RemoteError),
        ("503 Busy", RemoteError),
        ("429 Slow down", RemoteError),
    ],
)
def test_another_status_is_an_error(server, fetch, status, error):
    with pytest.raises(error, match=status[:3]):
        fetch(server.serve("/status", b"", status))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"])
def test_an_address_inside_is_refused_and_never_reached(server, host):
    asked = len(server.requests)
    with pytest.raises(VerificationError, match="not of the public internet"):
        https.fetch(server.url("/", host), trust=server.trust)
    assert len(server.requests) == asked


@pytest.mark.parametrize("address", [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.1.2.3", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "198.18.0.1", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:10.0.0.1", "2002:0a00:0001::1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "2001:db8::1",
])  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not https.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "193.0.6.139", "2606:4700:4700::1111", "64:ff9b::1.1.1.1"])
def test_addresses_that_are_public(address):
    assert https.is_public(ipaddress.ip_address(address))


def test_one_address_that_is_not_allowed_is_enough(server, monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, server.port)) for ip in ("1.1.1.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(VerificationError):
        https.fetch(server.url(), trust=server.trust)


def test_the_connection_goes_to_the_address_that_was_checked(server, fetch, monkeypatch):
    """A name that resolves differently the second time is not asked a second time."""
    asked = []
    real = socket.getaddrinfo

    def once(host, *arguments, **options):
        asked.append(host)
        if host == "localhost" and asked.count(host) > 1:
            raise AssertionError("the name was resolved again")
        return real(host if host != "localhost" else "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    assert fetch(server.serve("/pinned", b"x")) == b"x"
    assert asked.count("localhost") == 1


def test_a_certificate_of_an_unknown_ca_is_refused(server):
    with pytest.raises(VerificationError, match="certificate"):
        https.fetch(server.url(), allowed=lambda _: True)


def test_a_certificate_of_another_host_is_refused(server, fetch, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **options: real("127.0.0.1", *rest, **options))
    with pytest.raises(VerificationError, match="certificate"):
        fetch(server.url("/", "authority.example"))


@pytest.mark.parametrize("url", [
    "http://localhost/", "HTTP://localhost/", "ftp://localhost/", "file:///etc/passwd", "https://", "https:///x", "",
    "https://user:word@localhost/", "https://localhost:port/", "https://localhost:99999/", "https://[::1/",
    "https://localhost/a b", "https://localhost/\x00", "https://loc\u00e4lhost/",
])  # fmt: skip
def test_a_url_that_is_none_of_https_is_refused(fetch, url):
    with pytest.raises(ConfigurationError):
        fetch(url)


def test_a_name_that_does_not_resolve_is_a_remote_error(fetch):
    for host in ("no-such-host.invalid", "x" * 64, "a..b"):
        with pytest.raises(RemoteError, match="resolved"):
            fetch(f"https://{host}/")


def test_a_port_where_nobody_listens_is_a_remote_error(fetch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RemoteError, match="did not answer"):
        fetch(f"https://127.0.0.1:{port}/")


@pytest.mark.parametrize("head", [b"Content-Length: 99\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"])
def test_a_body_is_bounded(server, fetch, head):
    body = b"x" * 11
    server.answers["/large"] = b"HTTP/1.1 200 OK\r\n" + head + (b"b\r\n" if b"chunked" in head else b"") + body
    with pytest.raises(FormatError, match="more than 10 bytes"):
        fetch(server.url("/large"), max_bytes=10)
    assert fetch(server.serve("/small", body[:10]), max_bytes=10) == body[:10]


@pytest.mark.parametrize("answer", [
    b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]",
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[]",
])  # fmt: skip
def test_an_answer_that_is_cut_off_or_none_is_a_remote_error(server, fetch, answer):
    server.answers["/broken"] = answer
    with pytest.raises(RemoteError):
        fetch(server.url("/broken"))


def test_an_answer_whose_end_nobody_vouches_for_is_a_remote_error(server, fetch):
    """Without a length it ends with the connection: one that an attacker cuts is not taken for an empty one."""

    def cut(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[]")
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

    server.answers["/cut"] = cut
    with pytest.raises(RemoteError):
        fetch(server.url("/cut"))


def test_an_answer_that_drips_is_cut(server, fetch):
    ended = threading.Event()

    def drip(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        for _ in range(500):  # each byte comes soon enough; all of them do not
            if ended.wait(0.02):
                return
            connection.sendall(b"x")

    server.answers["/drip"] = drip
    try:
        with pytest.raises(RemoteError):
            fetch(server.url("/drip"), max_s=0.3)
    finally:
        ended.set()


def test_a_handshake_that_never_ends_is_cut():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(RemoteError):
            https.fetch(f"https://127.0.0.1:{port}/", allowed=lambda _: True, max_s=0.2)
