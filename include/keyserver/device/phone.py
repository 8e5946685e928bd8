"""A simulated phone: it makes keys, broadcasts, hears, uploads, downloads, verifies and matches.

A phone is told the time, never looks for it, and knows only what a phone knows: what it broadcast and heard, the index,
the files, and the public keys that it was given beforehand. It matches as Android's matcher does
(crypto-and-clients.md a), keeps to its platform's quota, and follows revisions as phones do (b).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, Literal

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyserver.device import client, exportreader
from keyserver.device.exportreader import (
    CONFIRMED_CLINICAL_DIAGNOSIS,
    CONFIRMED_TEST,
    REVOKED,
    SELF_REPORT,
    DiagnosisKey,
    ExportFile,
)
from keyserver.device.issuer import publish_hmac
from keyserver.device.platforms import EASY_GOING, Call, Platform
from keyserver.errors import FormatError
from keyserver.protocol import gaen
from keyserver.protocol.intervals import INTERVALS_PER_DAY, interval_at, utc_midnight

MEMORY = timedelta(days=14)
CLOCK_DRIFT = 12  # intervals, either way
WEAKEST_POWER, STRONGEST_POWER = -50, 20  # dBm; anything else is implausible

HMAC_KEY_LENGTH = 16
_PADDING = 1024  # bytes, and at most as many again of jitter (publish.md 1.3)

# What a phone lets a revision change, once a key; a confirmed test is final.
REVISIONS: Mapping[int | None, frozenset[int]] = {
    SELF_REPORT: frozenset({CONFIRMED_TEST, CONFIRMED_CLINICAL_DIAGNOSIS, REVOKED}),
    CONFIRMED_CLINICAL_DIAGNOSIS: frozenset({CONFIRMED_TEST, REVOKED}),
}

# How an index is followed (crypto-and-clients.md c, export.md 2.11): on from the last line read, from the top again if
# that is gone; or whatever lines were not read yet.
Reading = Literal["last seen", "set"]

TrustedKeys = Mapping[tuple[str, str], EllipticCurvePublicKey]
RandomBytes = Callable[[int], bytes]
Derived = tuple[DiagnosisKey, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class TemporaryKey:
    """A Temporary Exposure Key of this phone: 16 bytes, valid from interval `start` for `period` intervals."""

    key: bytes
    start: int
    period: int


@dataclass(frozen=True, slots=True)
class Beacon:
    """What is on the air: an RPI (16 bytes) and the AEM beside it (4 bytes)."""

    identifier: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Match:
    """A meeting with an uploader: their key, the interval, the power they sent with (dBm), their report type."""

    key: bytes
    interval: int
    transmit_power: int
    report_type: int | None


@dataclass(frozen=True, slots=True)
class _Scan:
    interval: int
    metadata: bytes


@dataclass(slots=True)
class _Met:
    """An uploader's key that was met: what is said of it now, and the power (dBm) by interval."""

    report_type: int | None
    powers: dict[int, int]
    revised: bool = False


class FileCache:
    """Lets many phones of one process share the work of verifying a file and of deriving its identifiers.

    Each phone still downloads the file and brings its own trusted keys: what is shared is the answer to the same
    question, "are these very bytes signed by one of these very keys?". Refusals are not kept.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, frozenset[tuple[str, str, bytes]]], tuple[ExportFile, tuple[Derived, ...]]] = {}
        self._lock = Lock()

    def open(self, zip_bytes: bytes, trusted: TrustedKeys) -> tuple[ExportFile, tuple[Derived, ...]]:
        """Return the verified file and the identifiers of its keys; errors as `exportreader.verify`."""
        question = (hashlib.sha256(zip_bytes).digest(), _fingerprint(trusted))
        with self._lock:
            if question not in self._known:
                file = exportreader.verify(zip_bytes, trusted)
                self._known[question] = (file, tuple(_derive(file.keys)))
            return self._known[question]


class Phone:
    """One phone. `trusted` are the public keys by (key id, key version) that it was given beforehand.

    `random_bytes` is where its keys and paddings come from, `transmit_power` (dBm) what its broadcasts state; `reading`
    is how it follows an index, `platform` whose quota it keeps.
    """

    def __init__(
        self,
        trusted: TrustedKeys,
        *,
        random_bytes: RandomBytes = secrets.token_bytes,
        transmit_power: int = -12,
        reading: Reading = "last seen",
        platform: Platform = EASY_GOING,
    ) -> None:
        self._trusted = dict(trusted)
        self._random_bytes = random_bytes
        self._metadata = gaen.metadata(transmit_power)
        self._keys: dict[int, TemporaryKey] = {}
        self._heard: dict[bytes, list[_Scan]] = {}
        self._met: dict[bytes, _Met] = {}
        self._reading = reading
        self._platform = platform
        self._last_line: dict[str, str] = {}
        self._processed: set[tuple[str, str]] = set()
        self._calls: list[Call] = []
        self._revision_token: str | None = None

    def carry(self, since: datetime, until: datetime) -> None:
        """Let the phone be on from `since` to `until`: it makes the key of every UTC day that this touches."""
        first, last = interval_at(utc_midnight(since)), interval_at(until)
        for start in range(first, last + 1, INTERVALS_PER_DAY):
            self._key_of_day(start)

    def broadcast(self, moment: datetime) -> Beacon:
        """Return what the phone has on the air at `moment`."""
        tek = self._key_of_day(interval_at(utc_midnight(moment))).key
        rpi = gaen.identifier(tek, interval_at(moment))
        return Beacon(rpi, gaen.encrypt_metadata(tek, rpi, self._metadata))

    def hear(self, beacon: Beacon, moment: datetime) -> None:
        """Remember a broadcast of another phone that was heard at `moment`.

        Raises:
            FormatError: it has not the size of a beacon.
        """
        if (len(beacon.identifier), len(beacon.metadata)) != (gaen.IDENTIFIER_LENGTH, gaen.METADATA_LENGTH):
            raise FormatError("a beacon has 16 bytes of identifier and 4 of metadata")
        self._heard.setdefault(beacon.identifier, []).append(_Scan(interval_at(moment), beacon.metadata))

    def keys(self, now: datetime) -> tuple[TemporaryKey, ...]:
        """Return the keys to upload, oldest first: of the last 14 days, and today's, which is still valid."""
        today, oldest = interval_at(utc_midnight(now)), interval_at(now - MEMORY)
        self._key_of_day(today)
        return tuple(
            self._keys[start] for start in sorted(self._keys) if oldest < start + INTERVALS_PER_DAY and start <= today
        )

    def publish_request(
        self,
        now: datetime,
        health_authority: str,
        certify: Callable[[bytes], str],
        *,
        symptom_onset_interval: int | None = None,
        traveler: bool = False,
    ) -> dict[str, Any]:
        """Return the body of an upload at `now` (publish.md 1.3).

        `certify` takes the HMAC of the keys (32 bytes) to the health authority and brings back the certificate.
        """
        keys = [
            {
                "key": base64.b64encode(key.key).decode(),
                "rollingStartNumber": key.start,
                "rollingPeriod": key.period,
                "transmissionRisk": 0,
            }
            for key in self.keys(now)
        ]
        secret = self._random_bytes(HMAC_KEY_LENGTH)
        jitter = int.from_bytes(self._random_bytes(2), "big") % (_PADDING + 1)
        request: dict[str, Any] = {
            "temporaryExposureKeys": keys,
            "healthAuthorityID": health_authority,
            "verificationPayload": certify(publish_hmac(secret, keys)),
            "hmacKey": base64.b64encode(secret).decode(),
            "padding": base64.b64encode(self._random_bytes(_PADDING + jitter)).decode(),
        }
        if symptom_onset_interval is not None:
            request["symptomOnsetInterval"] = symptom_onset_interval
        if traveler:
            request["traveler"] = True
        if self._revision_token is not None:
            request["revisionToken"] = self._revision_token
        return request

    def upload(
        self, base_url: str, request: Mapping[str, Any], *, http: httpx.Client | None = None
    ) -> client.PublishAnswer:
        """Send an upload and return the answer; its revision token, if any, goes with every later upload.

        Raises:
            RemoteError, FormatError: as `client.publish`.
        """
        answer = client.publish(base_url, request, http=http)
        if answer.revision_token is not None:
            self._revision_token = answer.revision_token
        return answer

    def check(
        self,
        index_url: str,
        base: str,
        now: datetime,
        *,
        http: httpx.Client | None = None,
        cache: FileCache | None = None,
    ) -> tuple[Match, ...]:
        """Follow an index, process what is new, and return all matches that the phone has at `now`.

        Files are named by the lines of the index, each appended to `base`. What the platform's quota has no room for is
        left for a later check. A file that cannot be fetched or verified ends the check; what came before it is done,
        and the next check begins with it again.

        Raises:
            RemoteError: the index or a file did not arrive.
            FormatError, VerificationError: the index is none, or a file is not one that a phone accepts.
        """
        self._forget(now)
        lines = self._new_lines(index_url, base, client.fetch_index(index_url, http=http))
        room = self._platform.room(self._calls, now)
        passed: list[str] = []
        spans: list[tuple[datetime, datetime]] = []
        new = 0
        try:
            for line in lines:
                is_new = (base, line) not in self._processed
                if room is None or (is_new and new >= room):
                    break
                zip_bytes = client.fetch_file(base, line, http=http)
                passed.append(line)
                new += is_new
                file, derived = self._open(zip_bytes, cache)
                spans.append((file.start, file.end))
                exportreader.demand_distinct(spans)
                self._process(file, derived)
                self._processed.add((base, line))
                self._last_line[index_url] = line
        finally:  # a failed call counts too
            if passed:
                self._calls.append(Call(now, tuple(passed), new))
        return self.matches

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls that handed files over, in order."""
        return tuple(self._calls)

    @property
    def matches(self) -> tuple[Match, ...]:
        """All matches with keys that are not revoked, in order of their interval, then key."""
        found = [
            Match(key, interval, power, met.report_type)
            for key, met in self._met.items()
            if met.report_type != REVOKED
            for interval, power in met.powers.items()
        ]
        return tuple(sorted(found, key=lambda match: (match.interval, match.key)))

    def _key_of_day(self, start: int) -> TemporaryKey:
        if start not in self._keys:
            self._keys[start] = TemporaryKey(self._random_bytes(gaen.KEY_LENGTH), start, INTERVALS_PER_DAY)
        return self._keys[start]

    def _new_lines(self, index_url: str, base: str, lines: list[str]) -> list[str]:
        if self._reading == "set":
            return [line for line in lines if (base, line) not in self._processed]
        last = self._last_line.get(index_url)
        return lines[lines.index(last) + 1 :] if last in lines else lines

    def _open(self, zip_bytes: bytes, cache: FileCache | None) -> tuple[ExportFile, Iterable[Derived]]:
        if cache is not None:
            return cache.open(zip_bytes, self._trusted)
        file = exportreader.verify(zip_bytes, self._trusted)
        return file, _derive(file.keys)

    def _process(self, file: ExportFile, derived: Iterable[Derived]) -> None:
        for key, identifiers in derived:
            if not self._heard.keys().isdisjoint(identifiers):
                self._match(key, identifiers)
        for key in file.revised_keys:
            self._revise(key)

    def _match(self, key: DiagnosisKey, identifiers: Iterable[bytes]) -> None:
        """Remember a key that was met, as this file tells of it: in `keys` it stands as it is now."""
        powers: dict[int, int] = {}
        for interval, rpi in enumerate(identifiers, key.rolling_start):
            for scan in self._heard.get(rpi, ()):
                power = gaen.transmit_power(gaen.decrypt_metadata(key.key, rpi, scan.metadata))
                if abs(scan.interval - interval) <= CLOCK_DRIFT and WEAKEST_POWER <= power <= STRONGEST_POWER:
                    powers[interval] = power
        if powers:
            self._met[key.key] = _Met(key.report_type, powers)

    def _revise(self, revised: DiagnosisKey) -> None:
        """Let a revision change what is known of a key that was met; any other key is none of this phone's business."""
        met = self._met.get(revised.key)
        if met is None or met.revised or revised.report_type not in REVISIONS.get(met.report_type, ()):
            return
        met.report_type, met.revised = revised.report_type, True

    def _forget(self, now: datetime) -> None:
        """Drop what was heard, and what was matched, more than 14 days before `now`."""
        oldest = interval_at(now - MEMORY)
        kept = {rpi: [scan for scan in scans if scan.interval >= oldest] for rpi, scans in self._heard.items()}
        self._heard = {rpi: scans for rpi, scans in kept.items() if scans}
        for key, met in list(self._met.items()):
            met.powers = {interval: power for interval, power in met.powers.items() if interval >= oldest}
            if not met.powers:
                del self._met[key]


def _derive(keys: Iterable[DiagnosisKey]) -> Iterator[Derived]:
    for key in keys:
        yield key, gaen.identifiers(key.key, key.rolling_start, key.rolling_period)


def _fingerprint(trusted: TrustedKeys) -> frozenset[tuple[str, str, bytes]]:
    return frozenset(
        (key_id, version, public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        for (key_id, version), public_key in trusted.items()
    )
