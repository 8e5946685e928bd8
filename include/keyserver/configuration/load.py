"""Read the declared configuration and check all that can be checked without the database."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import rfc8785
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from keyserver.configuration.document import Document, Place, Problem, read
from keyserver.errors import FormatError
from keyserver.protocol import base64text
from keyserver.protocol.exposure import RETENTION
from keyserver.protocol.retention import LEAST_RETENTION
from keyserver.store.declared import (
    App,
    Attestation,
    AuthorityKey,
    Declared,
    Feed,
    HealthAuthority,
    Retention,
    SigningKey,
)

VERSION = 1

_DAY_MINUTES = 1440
_MAX_KEY_FILE_BYTES = 16_384
_PERIOD = re.compile(r"([1-9][0-9]{0,3})([mh])")
_DAYS = re.compile(r"([1-9][0-9]?)d")


@dataclass(frozen=True)
class Configuration:
    """A document without mistakes of its own."""

    declared: Declared
    document: Document

    @property
    def sha256(self) -> str:
        """The hash of the content, in hexadecimal: of its canonical JSON (RFC 8785), with keys in place of their files.

        Comments, layout, omitted defaults, and the order within sets do not change it.
        """
        content = {"version": VERSION, **asdict(self.declared)}
        plain = json.loads(json.dumps(content, default=datetime.isoformat))
        return hashlib.sha256(rfc8785.dumps(plain)).hexdigest()


def load(file: Path) -> Configuration:
    """Read and check the document at ``file``.

    Raises ConfigurationError with a line for every mistake: ``<file>:<line>: <place in the document>: <what to do>``.
    """
    document = read(file)
    outside = _check_model(document, _Document, document.value, ())
    sections = document.value if isinstance(document.value, dict) else {}
    authorities = _items(document, sections, "health_authorities", _Authority)
    apps = _items(document, sections, "apps", _App)
    signing_keys = _items(document, sections, "signing_keys", _SigningKey)
    feeds = _items(document, sections, "feeds", _Feed)
    for problem in (
        *_twice(authorities, "issuer", lambda item: item.issuer),
        *_twice(apps, "name", lambda item: item.name),
        *_twice(signing_keys, "name", lambda item: item.name),
        *_twice(signing_keys, "key_version", lambda item: f"{item.key_id} {item.key_version}"),
        *_twice(feeds, "name", lambda item: item.name),
        *_twice(feeds, "root", lambda item: item.root),
        *_unknown(apps, "health_authorities", _names(sections, "health_authorities", "issuer")),
        *_unknown(feeds, "signing_keys", _names(sections, "signing_keys", "name")),
        *_of_the_log(feeds, {item.name for item in signing_keys.values() if item.purpose != "export"}),
        *_too_often(feeds),
        *_too_short(outside),
    ):
        document.refuse(*problem)
    document.check()
    return Configuration(
        Declared(
            tuple(item.declared() for item in authorities.values()),
            tuple(item.declared() for item in apps.values()),
            tuple(item.declared() for item in signing_keys.values()),
            tuple(item.declared() for item in feeds.values()),
            Retention(outside.retention if outside else RETENTION.days),
        ),
        document,
    )


# ---------------------------------------------------------------------------------------------------- kinds of values


def _version(version: int) -> int:
    if version != VERSION:
        raise ValueError(f"must be {VERSION}")
    return version


def _text(text: str) -> str:
    if not (0 < len(text) <= 200 and text.isprintable() and text == text.strip()):
        raise ValueError("must be 1 to 200 printable characters, without spaces around them")
    return text


def _like(pattern: str, description: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if len(text) > 100 or not compiled.fullmatch(text):
            raise ValueError(f"must be at most 100 of {description}")
        return text

    return check


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(cast("str", value))
        utc = moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("must be a time, as 2026-01-01T00:00:00Z") from error
    if moment.utcoffset() is None:
        raise ValueError("must say its time zone, as 2026-01-01T00:00:00Z does")
    return utc


def _minutes(value: object) -> int:
    match = _PERIOD.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number of minutes or hours, as 30m, 4h or 24h")
    return int(match[1]) * {"m": 1, "h": 60}[match[2]]


def _days(value: object) -> int:
    match = _DAYS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) > RETENTION.days:
        raise ValueError(f"must be a number of days, {RETENTION.days}d at most")
    return int(match[1])


def _divides_a_day(minutes: int) -> int:
    if _DAY_MINUTES % minutes:
        raise ValueError("must divide a day, as 4h, 6h, 8h, 12h or 24h do")
    return minutes


def _at_most(hours: int) -> Callable[[int], int]:
    def check(minutes: int) -> int:
        if minutes > hours * 60:
            raise ValueError(f"must be at most {hours}h")
        return minutes

    return check


def _https_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        named = parts.hostname is not None and parts.port != 0
    except ValueError:
        named = False
    # Nothing but a plain address: what is declared is shown in plans, so it is no place for a password.
    if not (named and parts.scheme == "https" and re.fullmatch(r"https://[!-~]{1,500}", text)) or (
        parts.username is not None or parts.password is not None or parts.fragment
    ):
        raise ValueError("must be an address that begins with https://, without a user name, a password or a fragment")
    return text


def _sha256(text: str) -> str:
    """Check a SHA-256 in base64; give it as Google writes it: base64url without padding."""
    try:
        digest = base64text.decode(text)
    except FormatError as error:
        raise ValueError(str(error)) from error
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("must be a SHA-256, 32 bytes, in base64")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _public_key(pem: str | bytes) -> str:
    """Check a P-256 SubjectPublicKeyInfo in PEM; give it in the one form in which it is stored and compared."""
    content = pem.encode(errors="replace") if isinstance(pem, str) else pem
    if b"PRIVATE KEY" in content:
        raise ValueError("holds a private key, which belongs nowhere near here: give the public one")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)") from error
    if not (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)):
        raise ValueError(  # noqa: TRY004 - a wrong value for whoever wrote it, whatever Python's type
            "must be a key on the curve P-256 (prime256v1): phones know no other"
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _public_key_file(name: str, info: ValidationInfo) -> str:
    return _public_key(_content(name, info))


def _certificate_file(name: str, info: ValidationInfo) -> str:
    """Check an X.509 certificate in PEM; give it alone, without what stands around it."""
    content = _content(name, info)
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise ValueError("must be a certificate in PEM (-----BEGIN CERTIFICATE-----)") from error
    return certificate.public_bytes(Encoding.PEM).decode()


def _content(name: str, info: ValidationInfo) -> bytes:
    file = cast("Path", info.context) / _text(name)
    try:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        with file.open("rb") as stream:
            return stream.read(_MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


_Text = Annotated[str, AfterValidator(_text)]
_Moment = Annotated[datetime, BeforeValidator(_moment)]
_Minutes = Annotated[int, BeforeValidator(_minutes)]
_Days = Annotated[int, BeforeValidator(_days)]
_HttpsUrl = Annotated[str, AfterValidator(_https_url)]
_Sha256 = Annotated[str, AfterValidator(_sha256)]
_PublicKey = Annotated[str, AfterValidator(_public_key)]
_PublicKeyFile = Annotated[str, AfterValidator(_public_key_file)]
_CertificateFile = Annotated[str, AfterValidator(_certificate_file)]
_SecretName = Annotated[
    str, AfterValidator(_like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, dots, - and _: a secret's name"))
]
_Package = Annotated[
    str,
    AfterValidator(_like(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", "letters, digits and _ in two parts or more, parted by dots")),
]
_TeamId = Annotated[str, AfterValidator(_like(r"[A-Z0-9]{10}", "10 capitals and digits"))]
_BundleId = Annotated[str, AfterValidator(_like(r"[A-Za-z0-9][A-Za-z0-9.-]*", "letters, digits, dots and -"))]
_Region = Annotated[
    str,
    AfterValidator(str.upper),  # uploads carry them so (export.md B19)
    AfterValidator(_like(r"[A-Z0-9][A-Z0-9_-]*", "letters, digits, - and _")),
]
_AppName = Annotated[
    str,
    AfterValidator(str.lower),  # publish.md 7.1
    AfterValidator(_like(r"[a-z0-9][a-z0-9._-]*", "letters, digits, dots, - and _")),
]
_KeyName = Annotated[str, AfterValidator(_like(r"[a-z0-9][a-z0-9_-]*", "small letters, digits, - and _"))]
_KeyLabel = Annotated[str, AfterValidator(_like(r"[A-Za-z0-9_]+", "letters, digits and _"))]
_FeedName = Annotated[str, AfterValidator(_like(r"[a-z0-9][a-z0-9-]*", "small letters, digits and -"))]
_Root = Annotated[
    str,
    AfterValidator(_like(r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*", "small letters, digits and -, parted by /")),
]
# Synthetic keys are drawn and stored while a window is being closed: more of them would hold up all feeds.
_Count = Annotated[int, Field(ge=0, le=20_000)]


# ------------------------------------------------------------------------------------------------------------- models


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _WithPublicKey(_Model):
    public_key: _PublicKey | None = None
    public_key_file: _PublicKeyFile | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.public_key is None) == (self.public_key_file is None):
            raise ValueError("needs either public_key or public_key_file")
        return self

    @property
    def pem(self) -> str:
        return self.public_key or cast("str", self.public_key_file)


class _AuthorityKey(_WithPublicKey):
    kid: _Text
    valid_from: _Moment
    valid_thru: _Moment | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_thru is not None and self.valid_thru < self.valid_from:
            raise ValueError("valid_thru is before valid_from")
        return self


class _Authority(_Model):
    name: _Text
    issuer: _Text
    audience: _Text
    jwks_uri: _HttpsUrl | None = None
    stats: bool = True
    certificate_max_life: Annotated[_Minutes, AfterValidator(_at_most(168))] = 60
    keys: list[_AuthorityKey]

    @model_validator(mode="after")
    def _keys_are_declared_or_fetched(self) -> Self:
        if self.jwks_uri is not None and self.keys:
            raise ValueError("its keys are fetched from jwks_uri, which would end others: declare keys: []")
        return self

    @model_validator(mode="after")
    def _kids_are_unique(self) -> Self:
        kids = [key.kid for key in self.keys]
        for kid in sorted({kid for kid in kids if kids.count(kid) > 1}):
            raise ValueError(f"declares the key {kid!r} twice")
        return self

    def declared(self) -> HealthAuthority:
        keys = tuple(AuthorityKey(key.kid, key.pem, key.valid_from, key.valid_thru) for key in self.keys)
        return HealthAuthority(
            self.name, self.issuer, self.audience, keys, self.jwks_uri, self.stats, self.certificate_max_life
        )


class _PlayIntegrity(_Model):
    kind: Literal["play-integrity"]
    package: _Package
    certificate_digests: Annotated[list[_Sha256], Field(min_length=1, max_length=10)]
    minimum_version_code: Annotated[int, Field(ge=0, le=2_100_000_000)] = 0
    device_verdicts: Annotated[
        list[
            Literal[
                "MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY", "MEETS_VIRTUAL_INTEGRITY"
            ]
        ],
        Field(min_length=1),
    ] = ["MEETS_DEVICE_INTEGRITY"]
    licensed: bool = True
    decryption_key_secret: _SecretName
    verification_key_secret: _SecretName
    max_age: Annotated[_Minutes, AfterValidator(_at_most(1))] = 5

    def settings(self) -> dict[str, Any]:
        settings = self.model_dump(exclude={"kind", "max_age"})
        return {
            **settings,
            "certificate_digests": sorted(set(self.certificate_digests)),
            "device_verdicts": sorted(set(self.device_verdicts)),
            "max_age_seconds": self.max_age * 60,
        }


class _AppAttest(_Model):
    kind: Literal["app-attest"]
    team_id: _TeamId
    bundle_id: _BundleId
    environment: Literal["production", "development"]
    root_certificate_file: _CertificateFile | None = None

    def settings(self) -> dict[str, Any]:
        settings = self.model_dump(exclude={"kind", "root_certificate_file"})
        return settings | ({"root_certificate": self.root_certificate_file} if self.root_certificate_file else {})


class _Attestation(_Model):
    android: _PlayIntegrity | None = None
    ios: _AppAttest | None = None

    def declared(self) -> tuple[Attestation, ...]:
        platforms = {"android": self.android, "ios": self.ios}
        return tuple(Attestation(name, item.kind, item.settings()) for name, item in platforms.items() if item)


class _App(_Model):
    name: _AppName
    regions: Annotated[list[_Region], Field(min_length=1)]
    health_authorities: list[_Text]
    bypass_verification: bool = False
    bypass_revision_token: bool = False
    attestation: _Attestation = _Attestation()

    def declared(self) -> App:
        return App(
            self.name,
            _set(self.regions),
            _set(self.health_authorities),
            self.bypass_verification,
            self.bypass_revision_token,
            self.attestation.declared(),
        )


class _SigningKey(_WithPublicKey):
    name: _KeyName
    key_id: _KeyLabel
    key_version: _KeyLabel
    active_from: _Moment
    active_thru: _Moment | None = None
    purpose: Literal["export", "transparency"] = "export"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.active_thru is not None and self.active_thru < self.active_from:
            raise ValueError("active_thru is before active_from")
        return self

    def declared(self) -> SigningKey:
        return SigningKey(
            self.name, self.key_id, self.key_version, self.pem, self.active_from, self.active_thru, self.purpose
        )


class _Padding(_Model):
    minimum: _Count
    spread: _Count
    empty: bool = False

    @model_validator(mode="after")
    def _fills(self) -> Self:
        if self.empty and not self.minimum:
            raise ValueError("minimum is 0, so an empty batch would stay empty")
        return self


class _Feed(_Model):
    name: _FeedName
    root: _Root
    output_region: _Region
    input_regions: list[_Region] = []
    exclude_regions: list[_Region] = []
    travelers: Literal["by-region", "include", "exclude"] = "by-region"
    period: Annotated[_Minutes, AfterValidator(_divides_a_day)]
    active_from: Annotated[_Moment, Field(alias="from")]
    active_thru: Annotated[_Moment | None, Field(alias="thru")] = None
    max_keys: Annotated[int, Field(ge=1, le=750_000)] = 500_000  # what both platforms recommend at most
    padding: _Padding = _Padding(minimum=1000, spread=100)
    development: bool = False
    paused: bool = False
    signing_keys: Annotated[list[_KeyName], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.active_thru is not None and self.active_thru <= self.active_from:
            raise ValueError("thru is not after from")
        return self

    def declared(self) -> Feed:
        return Feed(
            name=self.name,
            root=self.root,
            output_region=self.output_region,
            input_regions=_set(self.input_regions or [self.output_region]),
            exclude_regions=_set(self.exclude_regions),
            travelers=self.travelers,
            period_minutes=self.period,
            active_from=self.active_from,
            active_thru=self.active_thru,
            max_keys=self.max_keys,
            padding_minimum=self.padding.minimum,
            padding_spread=self.padding.spread,
            padding_empty=self.padding.empty,
            development=self.development,
            paused=self.paused,
            signing_keys=_set(self.signing_keys),
        )


class _Document(_Model):
    """The outside of the document; the items of its sections are checked one by one, each against its own model."""

    version: Annotated[int, AfterValidator(_version)]
    health_authorities: list[Any] = []
    apps: list[Any] = []
    signing_keys: list[Any] = []
    feeds: list[Any] = []
    retention: _Days = RETENTION.days
    retention_below_ten_days: bool = False


_Item = TypeVar("_Item", bound=_Model)


def _set(texts: list[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


# ------------------------------------------------------------------------------------------------------------- checks


def _items(document: Document, sections: dict[str, Any], section: str, model: type[_Item]) -> dict[Place, _Item]:
    """Return the valid items of a section by their places; note what is wrong with the others."""
    values = sections.get(section)
    checked = {
        (section, n): _check_model(document, model, value, (section, n))
        for n, value in enumerate(values if isinstance(values, list) else [])
    }
    return {place: item for place, item in checked.items() if item is not None}


def _check_model(document: Document, model: type[_Item], value: object, place: Place) -> _Item | None:
    try:
        return model.model_validate(value, context=document.file.parent)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            at = (*place, *found["loc"])
            document.refuse(at, _message(found["type"], found["msg"], found.get("ctx", {}), document.written.get(at)))
        return None


_MUST_BE = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be a mapping of names to values",
    "missing": "is missing",
    "extra_forbidden": "is not known here",
}


def _message(kind: str, pydantic_message: str, context: dict[str, Any], written: str | None) -> str:
    if kind == "string_type" and written:
        return f'must be text, and YAML reads {written} as something else: write "{written}" in quotes'
    if kind == "value_error":
        return str(context["error"])
    return _MUST_BE.get(kind) or pydantic_message.replace("Input should be", "must be")


def _names(sections: dict[str, Any], section: str, name: str) -> set[str]:
    """Return what a section declares, its faulty items included: a reference to one of them is not a second mistake."""
    items = sections.get(section)
    return {
        item[name]
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict) and isinstance(item.get(name), str)
    }


def _twice(items: dict[Place, _Item], what: str, name: Callable[[_Item], str]) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for place, item in items.items():
        if (other := first.setdefault(name(item), place)) != place:
            yield (*place, what), f"{name(item)} is declared already, by {other[0]}[{other[1]}]"


def _unknown(items: dict[Place, Any], member: str, known: set[str]) -> Iterator[Problem]:
    for place, item in items.items():
        for n, name in enumerate(getattr(item, member)):
            if name not in known:
                yield (*place, member, n), f"{name} is not declared under {member}"


def _of_the_log(feeds: dict[Place, _Feed], names: set[str]) -> Iterator[Problem]:
    """Rule A3: the public logs have a key of their own."""
    for place, feed in feeds.items():
        for n, name in enumerate(feed.signing_keys):
            if name in names:
                yield (*place, "signing_keys", n), f"{name} signs the public logs, and no files: name another"


def _too_often(feeds: dict[Place, _Feed]) -> Iterator[Problem]:
    """Rule B11: how often a phone may be asked to fetch and match."""
    daily = [feed for feed in feeds.values() if feed.period == _DAY_MINUTES and not feed.development]
    for place, feed in feeds.items():
        if feed.development or feed.period >= 240:
            continue
        if feed.period < 60:
            yield (*place, "period"), "must be 4h or more; less than 1h exhausts phones: only with development: true"
        elif not any(_is_beside(other, feed) for other in daily):
            yield (
                (*place, "period"),
                (
                    "must be 4h or more; 1h to 3h only beside a daily feed (24h) of the same regions and travelers"
                    " that ends no earlier"
                ),
            )


def _is_beside(daily: _Feed, feed: _Feed) -> bool:
    lasts = daily.active_thru is None or (feed.active_thru is not None and daily.active_thru >= feed.active_thru)
    return lasts and _rules(daily.declared()) == _rules(feed.declared())


def _too_short(outside: _Document | None) -> Iterator[Problem]:
    """As the reference does, which has a named override as well (export.md 2.13)."""
    if outside and outside.retention < LEAST_RETENTION.days and not outside.retention_below_ten_days:
        yield (
            ("retention",),
            (
                f"is below {LEAST_RETENTION.days}d, and phones that look rarely would miss files: if that is meant, set"
                " retention_below_ten_days: true"
            ),
        )


def _rules(feed: Feed) -> tuple[object, ...]:
    return feed.output_region, feed.input_regions, feed.exclude_regions, feed.travelers
