"""A development issuer of verification certificates, and the HMAC that binds a phone's keys to one (publish.md 4).

It stands in for a health authority's verification server: it certifies whatever it is asked to, so its key belongs in
no production configuration.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyserver.errors import ConfigurationError, FormatError

ReportType = Literal["confirmed", "likely", "user-report", "negative"]

LIFETIME = timedelta(minutes=15)


class Issuer:
    """Signs certificates (JWT, ES256) as the health authority `issuer` with the key that it calls `kid`.

    Raises:
        ConfigurationError: the PEM holds no unencrypted private key on P-256.
    """

    def __init__(self, private_key_pem: bytes, *, kid: str, issuer: str, audience: str) -> None:
        try:
            key = load_pem_private_key(private_key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigurationError("the issuer's key is not an unencrypted private key in PEM") from error
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ConfigurationError("the issuer's key is not on P-256, as ES256 demands")
        self._key = key
        self._kid = kid
        self._issuer = issuer
        self._audience = audience

    def certify(
        self,
        mac: bytes,
        report_type: ReportType,
        now: datetime,
        *,
        symptom_onset_interval: int | None = None,
        lifetime: timedelta = LIFETIME,
    ) -> str:
        """Return a certificate over the keys whose HMAC is `mac`, valid from `now` for `lifetime` (publish.md 4.2).

        `symptom_onset_interval` is a 10-minute interval number.

        Raises:
            FormatError: `now` is naive.
        """
        if now.utcoffset() is None:
            raise FormatError("a certificate's time has no time zone")
        issued = int(now.timestamp())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "iat": issued,
            "nbf": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "reportType": report_type,
            "tekmac": base64.b64encode(mac).decode(),
        }
        if symptom_onset_interval is not None:
            claims["symptomOnsetInterval"] = symptom_onset_interval
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._kid})


def publish_hmac(secret: bytes, keys: Sequence[Mapping[str, Any]], *, with_risk: bool = True) -> bytes:
    """Return the HMAC-SHA256 (32 bytes) over the keys of an upload, as the phone computes it (publish.md 4.3).

    `keys` are the key objects of the request, just as they are sent. Without `with_risk` it is the short variant, which
    only covers keys whose transmission risk is 0 or absent.

    Raises:
        FormatError: there are no keys, or the short variant would hide a transmission risk.
    """
    if not keys:
        raise FormatError("an upload's HMAC needs at least one key")
    if not with_risk and any(key.get("transmissionRisk", 0) for key in keys):
        raise FormatError("the HMAC without transmission risk is only for keys whose risk is 0")
    segments = []
    for key in sorted(keys, key=lambda key: str(key["key"])):
        parts = [key["key"], key["rollingStartNumber"], key["rollingPeriod"]]
        if with_risk:
            parts.append(key.get("transmissionRisk", 0))
        segments.append(".".join(str(part) for part in parts))
    return hmac.digest(secret, ",".join(segments).encode(), hashlib.sha256)
