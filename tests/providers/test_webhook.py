from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keyserver.errors import ConfigurationError, RemoteError
from keyserver.providers.webhook import PAUSES_S, deliver, headers
from tests.webhooks import serving

SIGNED = headers(b"key", b"{}", datetime(2026, 3, 2, tzinfo=UTC))


@pytest.fixture
def webhook(tmp_path):
    with serving(tmp_path) as running:
        yield running


def test_it_pauses_between_attempts(webhook):
    webhook.answers = [500, 408]
    pauses: list[float] = []
    deliver(webhook.url, b"{}", SIGNED, webhook.http, pauses.append)
    assert (pauses, len(webhook.requests)) == (list(PAUSES_S), 3)


def test_it_gives_up(webhook):
    webhook.answers = [500] * 3
    with pytest.raises(RemoteError, match="status 500"):
        deliver(webhook.url, b"{}", SIGNED, webhook.http, lambda _: None)


def test_a_redirect_is_not_followed(webhook):
    webhook.answers = [307]
    with pytest.raises(ConfigurationError, match="307"):
        deliver(webhook.url, b"{}", SIGNED, webhook.http)
    assert len(webhook.requests) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "", "file:///etc", "https://x\x00/"])
def test_what_is_no_https(webhook, url):
    with pytest.raises(ConfigurationError):
        deliver(url, b"{}", SIGNED, webhook.http, lambda _: None)


def test_nobody_there_names_no_address(webhook):
    with pytest.raises(RemoteError) as error:
        deliver("https://127.0.0.1:1/secret", b"{}", SIGNED, webhook.http, lambda _: None)
    assert "127" not in str(error.value)
    assert "secret" not in str(error.value)
