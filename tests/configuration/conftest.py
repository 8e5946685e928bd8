"""A document that is right, with its keys beside it, to be changed in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DOCUMENT = """\
version: 1
health_authorities:
  - name: North Health
    issuer: org.example.north
    audience: keyserver.example
    keys:
      - kid: v1
        public_key_file: north.pem
        valid_from: 2026-01-01T00:00:00Z
apps:
  - name: org.example.North.App
    regions: [se, "no"]
    health_authorities: [org.example.north]
signing_keys:
  - name: north-1
    key_id: "310"
    key_version: v1
    public_key_file: north-1.pem
    active_from: 2026-01-01T00:00:00Z
feeds:
  - name: north
    root: north
    output_region: "NO"
    period: 4h
    from: 2026-03-01T00:00:00Z
    signing_keys: [north-1]
"""

# Changes of it: an app that is attested (lines 13 to 19), keys that are fetched (lines 6 and 7).
DIGEST = "PNltkCsTZBgbL5pbwqjbhPWsDGJ0xD8SzZq0-_BQkvM"
ATTESTED = (
    "    health_authorities: [org.example.north]\n",
    f"""\
    health_authorities: [org.example.north]
    attestation:
      android: {{kind: play-integrity, package: org.example.App, certificate_digests: [{DIGEST}],
        decryption_key_secret: play-decryption, verification_key_secret: play-verification}}
      ios:
        {{kind: app-attest, team_id: ABCDE12345, bundle_id: org.example.app,
        environment: production}}
""",
)
FETCHED = (
    "    keys:\n      - kid: v1\n        public_key_file: north.pem\n        valid_from: 2026-01-01T00:00:00Z\n",
    "    jwks_uri: https://north.example/jwks.json\n    keys: []\n",
)


@dataclass
class Site:
    """A folder with ``site.yaml`` and its keys."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "site.yaml"

    def write(self, *replacements: tuple[str, str]) -> Path:
        """Write the document with texts replaced, once each; each must be there."""
        text = DOCUMENT
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new, 1)
        return self.write_text(text)

    def write_text(self, text: str) -> Path:
        self.file.write_text(text)
        return self.file

    def new_key(self, name: str, curve: ec.EllipticCurve | None = None) -> str:
        key = ec.generate_private_key(curve or ec.SECP256R1()).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        (self.folder / name).write_text(pem)
        return pem

    def new_certificate(self, name: str) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A root")])
        start = datetime(2026, 1, 1, tzinfo=UTC)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, start, start + timedelta(days=9))
        pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
        (self.folder / name).write_text(pem)
        return pem


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.new_key("north.pem")
    site.new_key("north-1.pem")
    return site
