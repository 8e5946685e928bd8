"""Documents of other organisations, fetched so that whoever answers can harm nobody but themselves.

Only HTTPS; no redirect, no proxy; a public address, and the connection goes to the very address that was checked, so
that a name which resolves differently a moment later (DNS rebinding) reaches nothing inside; bounded in size and time.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from keyserver.errors import ConfigurationError, FormatError, RemoteError, VerificationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_BYTES = 256 * 1024
MAX_S = 20.0

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address that an IPv6 one may stand for, belongs to the public internet."""
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return all(is_public(one) for one in inner if one is not None)


def fetch(
    url: str,
    *,
    allowed: Callable[[Address], bool] = is_public,
    trust: ssl.SSLContext | None = None,
    max_bytes: int = MAX_BYTES,
    max_s: float = MAX_S,
) -> bytes:
    """Return the body that an ``https`` URL is answered with.

    ``allowed`` says which addresses may be connected to: all that the name has must be. ``trust`` holds the CAs, the
    system's by default. Looking up the name is bounded by the resolver; from then on ``max_s`` seconds are.

    Raises:
        ConfigurationError: the URL is none of HTTPS.
        RemoteError: no answer, not in time, or one that a retry can heal.
        VerificationError: the name has an address that is not allowed, or the server's certificate does not verify.
        FormatError: another status than 200, a redirect included; or too large.
    """
    parts, host, port = _parts(url)
    addresses = _addresses(host, port)
    if not all(allowed(address) for address in addresses):
        raise VerificationError("the host has an address that is not of the public internet")
    connection = _Connection(host, port, addresses, trust or ssl.create_default_context(), max_s)
    try:
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request("GET", path, headers={"Accept": "application/json", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status >= 500 or response.status == http.client.TOO_MANY_REQUESTS:
            raise RemoteError(f"the host answered with status {response.status}")
        if response.status != http.client.OK:
            said = "a redirect, which is not followed" if 300 <= response.status < 400 else "not 200"
            raise FormatError(f"the host answered with status {response.status}: {said}")
        body = response.read(max_bytes + 1)
        # A body that ends early shows in what is left to read.
        if len(body) <= max_bytes and response.length:
            raise RemoteError("the host's answer was cut off")
    except http.client.InvalidURL:
        raise ConfigurationError("the URL holds characters that no URL has") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise VerificationError("the host's TLS certificate does not verify") from None
        raise RemoteError(f"the host did not answer as it should, or not in time ({type(error).__name__})") from None
    finally:
        connection.close()
    if len(body) > max_bytes:
        raise FormatError(f"the host's answer has more than {max_bytes} bytes")
    return body


def _parts(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("it is no URL") from None
    if parts.scheme != "https" or not host or parts.username is not None or not url.isascii():
        raise ConfigurationError("its URL must start with https:// and name a host, without a login")
    return parts, host, port or 443


def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RemoteError("the host's name cannot be resolved") from None
    # Without a zone (%eth0): only a link-local address has one, and none of these is allowed.
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


class _Connection(http.client.HTTPSConnection):
    """Connects to addresses that were checked, and is cut after so many seconds whatever the other side does."""

    def __init__(self, host: str, port: int, addresses: list[Address], trust: ssl.SSLContext, max_s: float) -> None:
        super().__init__(host, port, context=trust)
        self._addresses = addresses
        self._trust = trust
        self._max_s = max_s
        self._watchdog: threading.Timer | None = None

    def connect(self) -> None:
        raw = self._first_that_answers()
        # The handshake by itself: it too must end when the watchdog says so.
        tls = self._trust.wrap_socket(
            raw,
            server_hostname=self.host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # an answer that somebody cut is no answer
        )
        self.sock = tls
        self._watchdog = threading.Timer(self._max_s, _cut, [tls])
        self._watchdog.daemon = True
        self._watchdog.start()
        tls.do_handshake()

    def close(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        super().close()

    def _first_that_answers(self) -> socket.socket:
        problem: OSError | None = None
        each_s = self._max_s / len(self._addresses)
        for address in self._addresses:
            try:
                return socket.create_connection((str(address), self.port), timeout=each_s)
            except OSError as error:
                problem = error
        raise problem or OSError("no address")


def _cut(tls: ssl.SSLSocket) -> None:
    """End both directions under TLS's feet: whoever reads or writes just now gets an error."""
    try:
        socket.socket.shutdown(tls, socket.SHUT_RDWR)
    except OSError:
        return  # it has ended
