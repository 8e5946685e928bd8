from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta

import pytest

from keyserver.verification.report import webhook_key
from tests.realms import SECRET

NONCE = base64.b64encode(bytes(256)).decode()


@pytest.fixture
def report(world, test_database):
    world.set(user_report=True, user_report_webhook=world.webhook.url)

    def send(phone: str = "+4712345678") -> None:
        body = {"symptomDate": test_database.now().date().isoformat(), "phone": phone, "nonce": NONCE}
        assert world.post("/api/user-report", body).status_code == 200

    return send


def test_the_webhook_is_handed_the_code_signed(world, report, start):
    report()
    world.courier.close()
    ((headers, body),) = world.webhook.requests
    assert world.webhook.messages[0].keys() == {
        "realm", "phone", "code", "longCode", "expiresAtTimestamp", "longExpiresAtTimestamp"
    }  # fmt: skip
    assert headers["X-Keyserver-Timestamp"] == str(int(start.timestamp()))
    signed = headers["X-Keyserver-Timestamp"].encode() + b"." + body
    mac = hmac.new(webhook_key(SECRET, "north"), signed, hashlib.sha256).hexdigest()
    assert headers["X-Keyserver-Signature"] == f"sha256={mac}"


def test_it_is_sent_again_when_that_may_help(world, report):
    world.webhook.answers = [503, 429]
    report()
    world.courier.close()
    assert len(world.webhook.requests) == 3
    assert len({body for _, body in world.webhook.requests}) == 1
    assert len(world.fetch("SELECT 1 FROM verification_code")) == 1


@pytest.mark.parametrize(("answers", "sent"), [([503] * 3, 3), ([400], 1), ([302], 1)])
def test_a_code_that_does_not_arrive_is_removed_and_the_number_may_ask_again(world, report, answers, sent):
    world.webhook.answers = answers
    report()
    world.courier.close()
    assert len(world.webhook.requests) == sent
    assert world.fetch("SELECT 1 FROM verification_code") == []
    assert world.fetch("SELECT 1 FROM verification_user_report") == []


def test_a_number_gets_no_other_code_for_a_while_and_nobody_is_told(world, report, test_database):
    def until_delivered(count: int) -> None:
        with world.database.admin() as connection:
            for _ in range(3000):
                if connection.execute("SELECT count(*) FROM verification_user_report").fetchone()[0] == count:
                    return
                connection.execute("SELECT pg_sleep(0.01)")
        raise AssertionError("it was not delivered")

    report()
    until_delivered(1)
    report()
    report("+4787654321")
    until_delivered(2)
    test_database.pass_time(timedelta(days=91))
    report()
    world.courier.close()
    assert [message["phone"] for message in world.webhook.messages] == ["+4712345678", "+4787654321", "+4712345678"]
