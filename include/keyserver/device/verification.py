"""What a phone says to a verification server: a code for a token, a token for a certificate (publish.md 4.6, 4.8)."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from keyserver.device.client import MAX_ANSWER_SIZE, exchange
from keyserver.errors import FormatError, KeyserverError, RemoteError

_PADDING = 1024


class RefusedError(KeyserverError):
    """The verification server refused; ``code`` is its errorCode."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the verification server refused: {code or 'no code'} (status {status})")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a code was for, and the token that it became. A date is YYYY-MM-DD, or empty."""

    test_type: str
    symptom_date: str
    test_date: str
    token: str


@dataclass(frozen=True, slots=True)
class VerificationServer:
    """A verification server as an app knows it.

    Every call raises `RefusedError` for a refusal, `RemoteError` for no answer or trouble of the server's,
    `FormatError` for an answer that is none of the protocol.
    """

    base_url: str
    api_key: str
    http: httpx.Client | None = None

    def verify(self, code: str, *, accept: tuple[str, ...] = (), nonce: str = "") -> Diagnosis:
        """Take a code for a token."""
        request = {"code": code, "accept": list(accept)} | ({"nonce": nonce} if nonce else {})
        answer = self.post("verify", request)
        days = {"symptom_date": answer.get("symptomDate", ""), "test_date": answer.get("testDate", "")}
        return Diagnosis(test_type=answer.get("testtype", ""), **days, token=_required(answer, "token"))

    def certificate(self, token: str, mac: bytes) -> str:
        """Take a token for a certificate over the keys whose HMAC (32 bytes) is ``mac``."""
        answer = self.post("certificate", {"token": token, "ekeyhmac": base64.b64encode(mac).decode()})
        return _required(answer, "certificate")

    def certify(self, code: str, mac: bytes) -> str:
        """Take a code for a certificate; of a fixed code it is what `Phone.publish_request` asks for."""
        return self.certificate(self.verify(code).token, mac)

    def post(self, name: str, request: Mapping[str, object]) -> Mapping[str, str]:
        """Post to ``/api/<name>``, with padding, and return the texts of the answer."""
        padded = {
            **request,
            "padding": base64.b64encode(secrets.token_bytes(_PADDING + secrets.randbelow(_PADDING))).decode(),
        }
        url = f"{self.base_url.rstrip('/')}/api/{name}"
        what = "the answer of the verification server"
        headers = {"X-API-Key": self.api_key}
        status, body = exchange("POST", url, what, MAX_ANSWER_SIZE, self.http, json=padded, headers=headers)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            if status >= 500:
                raise RemoteError(f"{what} has status {status} and no body of the protocol")
            raise FormatError(f"{what} is not a JSON object")
        texts = {name: value for name, value in answer.items() if isinstance(value, str)}
        if status == 200:
            return texts
        if status >= 500:
            raise RemoteError(f"{what} has status {status}")
        raise RefusedError(status, texts.get("errorCode", ""))


def _required(answer: Mapping[str, str], name: str) -> str:
    if not answer.get(name):
        raise FormatError(f"the answer of the verification server has no {name}")
    return answer[name]
