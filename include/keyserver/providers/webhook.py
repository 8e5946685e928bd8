"""A message to an authority's own service over HTTPS, signed, and sent again when that may help.

The receiver checks ``X-Keyserver-Signature``: ``sha256=`` and the HMAC-SHA256, in hexadecimal, of the text of
``X-Keyserver-Timestamp`` (seconds since the epoch), a full stop, and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import datetime

import httpx

from keyserver.errors import ConfigurationError, RemoteError

TIMEOUT = httpx.Timeout(5.0)
PAUSES_S = (1.0, 4.0)


def headers(key: bytes, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers that go with a body of JSON."""
    timestamp = str(int(now.timestamp()))
    mac = hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Keyserver-Timestamp": timestamp,
        "X-Keyserver-Signature": f"sha256={mac}",
    }


def deliver(
    url: str,
    body: bytes,
    signed: dict[str, str],
    http: httpx.Client,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Post a body until a status from 200 to 299 answers; three times at most. Redirects are not followed.

    Raises:
        ConfigurationError: the URL is not of HTTPS, or the receiver refused it (4xx but 408, 425, 429).
        RemoteError: it did not answer as it should. No message holds the address or the body.
    """
    if not url.startswith("https://"):
        raise ConfigurationError("a webhook's URL must be of https")
    for pause in (*PAUSES_S, None):
        try:
            answer = http.post(url, content=body, headers=signed, timeout=TIMEOUT, follow_redirects=False)
            what = f"status {answer.status_code}"
            if answer.is_success:
                return
            if answer.is_redirect or (answer.is_client_error and answer.status_code not in {408, 425, 429}):
                raise ConfigurationError(f"the webhook refused a message ({what})")
        except httpx.InvalidURL:
            raise ConfigurationError("a webhook's URL is not one that HTTP knows") from None
        except httpx.HTTPError as error:
            what = type(error).__name__
        if pause is not None:
            sleep(pause)
    raise RemoteError(f"the webhook did not take a message ({what})")
