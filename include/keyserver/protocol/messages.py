"""The v1 publish request and answer (publish.md 1.3, 1.4), and how a body becomes a request (1.2).

A server and a client of the same models: names on the wire are the aliases. Hostile bodies end in a `PublishError`
with code ``bad_request``; its class tells content type and size from the rest (415, 413, 400).
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from keyserver.errors import PublishError

MAX_BODY_BYTES = 64_000
CONTENT_TYPE = "application/json"

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]

_Item = TypeVar("_Item")
_Array = Annotated[tuple[_Item, ...], Field(strict=False)]  # JSON's arrays are read as lists


class ContentTypeError(PublishError):
    """The body is not said to be JSON (415)."""


class BodyTooLargeError(PublishError):
    """The body has more than `MAX_BODY_BYTES` bytes (413)."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_zero_value(cls, members: Any) -> Any:
        if not isinstance(members, dict) or None not in members.values():
            return members
        return {name: value for name, value in members.items() if value is not None or name not in cls._wire_names()}

    @classmethod
    def _wire_names(cls) -> frozenset[str]:
        return frozenset(field.alias or name for name, field in cls.model_fields.items())


Message = _Message  # for the models of other services
_Model = TypeVar("_Model", bound=_Message)


class SentKey(_Message):
    """A key as a phone sends it. Nothing but the types of its fields is checked: see `exposure.transform`."""

    key: str = Field(default="", repr=False)
    start: Int32 = Field(default=0, alias="rollingStartNumber")
    period: Int32 = Field(default=0, alias="rollingPeriod")
    transmission_risk: Int32 = Field(default=0, alias="transmissionRisk")


class Attestation(_Message):
    """What a platform says of the app that uploads; which texts these are is a matter of `providers.attestation`."""

    platform: str = ""
    challenge: str = Field(default="", repr=False)
    evidence: str = Field(default="", repr=False)


class PublishRequest(_Message):
    """A publish request. An absent field has its zero value, as in the reference, which has no ``attestation``."""

    keys: _Array[SentKey] = Field(default=(), alias="temporaryExposureKeys")
    health_authority_id: str = Field(default="", alias="healthAuthorityID")
    verification_payload: str = Field(default="", alias="verificationPayload", repr=False)
    hmac_key: str = Field(default="", alias="hmacKey", repr=False)
    symptom_onset_interval: Int32 = Field(default=0, alias="symptomOnsetInterval")
    traveler: bool = False
    revision_token: str = Field(default="", alias="revisionToken", repr=False)
    attestation: Attestation | None = None
    padding: str = Field(default="", repr=False)

    @field_validator("keys", mode="before")
    @classmethod
    def _null_is_a_key_without_fields(cls, keys: Any) -> Any:
        return [{} if key is None else key for key in keys] if isinstance(keys, list) else keys


class PublishAnswer(_Message):
    """A publish answer; fields at their zero value are left out on the wire."""

    revision_token: str = Field(default="", alias="revisionToken", repr=False)
    inserted_exposures: int = Field(default=0, alias="insertedExposures")
    error: str = ""
    code: str = ""
    padding: str = Field(default="", repr=False)
    warnings: _Array[str] = ()

    def fields(self) -> dict[str, Any]:
        """Return what stands in the JSON object."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


def decode_request(content_type: str, body: bytes) -> PublishRequest:
    """Return the publish request in ``body``; see `decode`."""
    return decode(PublishRequest, content_type, body)


def decode(model: type[_Model], content_type: str, body: bytes) -> _Model:
    """Return the request in ``body``, decoded as publish.md 1.2 says.

    Field names match in any letter case, the last of equal ones counts, null is a field's zero value. Bytes that are no
    UTF-8, and halves of surrogate pairs, become U+FFFD. Reading stops at `MAX_BODY_BYTES` + 1 bytes: give no more.

    Raises:
        PublishError: ``bad_request``, naming the field and, for syntax, the byte at which it went wrong.
    """
    if not content_type.startswith(CONTENT_TYPE):
        raise ContentTypeError("bad_request", f"the content type must be {CONTENT_TYPE}")
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError("bad_request", f"the body is larger than {MAX_BODY_BYTES} bytes")
    if (usual := _as_usual(model, body)) is not None:
        return usual
    value = _parse(body)
    try:
        return model.model_validate({} if value is None else value, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _bad_request(_describe(error.errors(include_url=False, include_context=False)[0])) from None


def register(*models: type[Message]) -> None:
    """Let `decode` know the field names of further models."""
    _NAMES.update((name.lower(), name) for model in models for name in model._wire_names())  # noqa: SLF001 - ours


# Go's encoding/json, which the reference decodes with, prefers the exact name and then takes any letter case.
_NAMES = {
    name.lower(): name
    for model in (PublishRequest, SentKey, Attestation)
    for name in model._wire_names()  # noqa: SLF001 - of this module
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHITESPACE = " \t\r\n"
_MOST_DIGITS = 11  # -2147483648; Python refuses to read integers of thousands of digits
_NO_INT32 = 2**63


def _as_usual(model: type[_Model], body: bytes) -> _Model | None:
    """Return what nearly all requests are, ten times as fast; None: the rules of `decode` may say something of it.

    Exact names, plain UTF-8, no escaped characters and the right types mean the same to any reader.
    """
    if b"\\u" in body:
        return None
    try:
        return model.model_validate(json.loads(body.decode()), by_alias=True, by_name=False)
    except (ValueError, RecursionError):  # pydantic's and JSON's errors are of the first
        return None


def _parse(body: bytes) -> Any:
    """Return the one JSON value of a body."""
    # Escaped, a byte that is no UTF-8 stays one character, so that offsets count bytes; it ends as any lone surrogate.
    text = body.decode("utf-8", "surrogateescape")
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        raise _bad_request("the body must not be empty")
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip(_WHITESPACE)) or error.msg.startswith("Unterminated")
        what = "ends too early" if at_end else "is malformed"
        raise _bad_request(f"the JSON {what} at byte {_bytes(text[: error.pos])}") from None
    except RecursionError:
        raise _bad_request("the JSON is nested too deeply") from None
    rest = text[end:].lstrip(_WHITESPACE)
    if rest:
        raise _bad_request(f"the body must be one JSON object; something follows at byte {len(body) - _bytes(rest)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_NAMES.get(name.lower(), _clean(name)): _clean(value) for name, value in pairs}


def _clean(value: Any) -> Any:
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) and not value.isascii() else value


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else _NO_INT32


def _constant(name: str) -> NoReturn:
    raise _bad_request(f"the JSON is malformed: {name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)

# What pydantic calls an error, in our words.
_PROBLEMS = {
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "model_type": "must be an object",
    "int_type": "must be an integer",
    "greater_than_equal": "must be an integer of 32 bits",
    "less_than_equal": "must be an integer of 32 bits",
}


def _describe(error: ErrorDetails) -> str:
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f"{'.' if place else ''}{_shown(part)}"
    return f"{place or 'the body'} {_PROBLEMS.get(error['type'], 'is not of the right type')}"


def _shown(name: str) -> str:
    """Return a name that somebody made up as it may stand in a message: short, and one line."""
    return name if name.lower() in _NAMES else ascii(name[:64])


def _bytes(text: str) -> int:
    """Return how many bytes of the body a piece of it, decoded with surrogateescape, was."""
    return len(text.encode("utf-8", "surrogateescape"))


def _bad_request(message: str) -> PublishError:
    return PublishError("bad_request", message)
