"""A person reports a test of their own: a code goes to their telephone by the authority's webhook (publish.md 4.6).

The request is answered before the code is on its way, and in the same way whether or not the number may have one: the
answer's time tells nothing about who reported before.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from keyserver.errors import KeyserverError
from keyserver.protocol.verification import (
    SentDiagnosis,
    VerificationRefusedError,
    check_phone,
    diagnosis,
    keyed_hash,
    required_nonce,
)
from keyserver.providers import webhook
from keyserver.store import verification as store
from keyserver.store.verification import Caller
from keyserver.verification.access import Service, count_codes
from keyserver.verification.issue import Issued, make_code

MAX_WAITING = 64

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What a person says of themselves."""

    symptom_date: str
    test_date: str
    tz_offset: int
    phone: str
    nonce: str


class Courier:
    """Brings codes to webhooks, in threads of its own; a bounded number may wait."""

    def __init__(self, http: httpx.Client | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = http or httpx.Client(trust_env=False)
        self._sleep = sleep
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="courier")
        self._places = threading.BoundedSemaphore(MAX_WAITING)

    def reserve(self) -> None:
        """Take a place; `send` or `release` gives it back. Raises ``sms_queue_full``."""
        if not self._places.acquire(blocking=False):
            raise VerificationRefusedError("sms_queue_full", "too many messages wait to be sent: try again later")

    def release(self) -> None:
        """Give a place back."""
        self._places.release()

    def send(self, service: Service, caller: Caller, phone: str, issued: Issued) -> None:
        """Start to bring a code to a number. A code that does not arrive is removed, and its number may ask again."""
        self._threads.submit(self._send, service, caller, phone, issued)

    def close(self) -> None:
        """Wait until all that was started is done."""
        self._threads.shutdown()
        self._http.close()

    def _send(self, service: Service, caller: Caller, phone: str, issued: Issued) -> None:
        realm = caller.realm
        try:
            told = {
                "realm": realm.name,
                "phone": phone,
                "code": issued.code,
                "longCode": issued.long_code,
                "expiresAtTimestamp": int(issued.expires_at.timestamp()),
                "longExpiresAtTimestamp": int(issued.long_expires_at.timestamp()),
            }
            body = json.dumps(told, separators=(",", ":")).encode()
            signed = webhook.headers(webhook_key(service.secret, realm.name), body, caller.now)
            try:
                webhook.deliver(realm.user_report_webhook or "", body, signed, self._http, self._sleep)
            except KeyserverError as error:
                _LOG.warning("a code for a self report was not delivered: %s", error)
                with service.database.connection() as connection:
                    store.remove_code(connection, realm.id, issued.uuid)
                return
            with service.database.connection() as connection:
                until = caller.now + realm.user_report_again
                store.remember_report(connection, realm.id, service.mac("phone", phone, caller), until)
        except KeyserverError as error:
            _LOG.warning("what became of a self report could not be stored: %s", error)
        finally:
            self.release()


def user_report(service: Service, courier: Courier, caller: Caller, report: Report) -> Issued:
    """Make a code of type user-report, bound to the phone's nonce, and have it sent; its own words stay here.

    A number that had one within the realm's time gets none, and nobody is told.

    Raises:
        VerificationRefusedError: ``invalid_test_type`` where the realm takes no such reports, ``missing_nonce``,
            ``missing_phone``, ``phone_number_invalid``, ``missing_date``, ``invalid_date``, ``unparsable_request``,
            ``quota_exceeded`` (`TooManyError`), ``sms_queue_full``.
    """
    realm = caller.realm
    if not realm.user_report:
        raise VerificationRefusedError("invalid_test_type", "this realm takes no reports of a person's own")
    nonce = required_nonce(report.nonce)
    if not report.phone:
        raise VerificationRefusedError("missing_phone", "phone must be given")
    check_phone(report.phone)
    sent = SentDiagnosis("user-report", report.symptom_date, report.test_date, report.tz_offset)
    said = diagnosis(sent, caller.now, date_required=realm.date_required)
    count_codes(service, caller)
    courier.reserve()
    try:
        with service.database.connection() as connection:
            store.forget(connection)
            reported = store.reported(connection, service.mac("phone", report.phone, caller))
        issued = make_code(service, caller, said, uuid.uuid4(), nonce)
    except BaseException:
        courier.release()
        raise
    if reported:
        courier.release()
    else:
        courier.send(service, caller, report.phone, issued)
    return issued


def webhook_key(secret: bytes, realm: str) -> bytes:
    """Return the key (32 bytes) with which messages to a realm's webhook are signed."""
    return keyed_hash(secret, "webhook", realm)
