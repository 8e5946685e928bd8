"""A made-up health authority for one machine: two regions, an app and a feed each, and the keys for it all.

Everything goes the way an operator's own would: keys are generated, the configuration is declared in a file and applied
by the `keyserver` command. Private keys stay in the stack's home.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import yaml

from deploy.local.stack import Stack, StackError
from keyserver.device.issuer import Issuer, ReportType
from keyserver.device.verification import VerificationServer
from keyserver.providers import signers

AUDIENCE = "keyserver.development.example"
KID = "v1"
LOG_KEY = "transparency"
TOKEN_KEY = "tokens"  # noqa: S105 - its name


@dataclass(frozen=True)
class Region:
    """One region of the made-up authority."""

    name: str  # its feed's name and folder
    code: str
    period: str
    key_id: str

    @property
    def app(self) -> str:
        """The healthAuthorityID that its phones send."""
        return f"example.development.{self.name}"

    @property
    def issuer(self) -> str:
        """Who certifies its diagnoses."""
        return f"example.development.{self.name}.authority"


# Fast enough to watch; no phone's daily quota allows such feeds, hence `development` (rule B11).
REGIONS = (Region("north", "XN", "1m", "901"), Region("south", "XS", "2m", "902"))


@dataclass(frozen=True)
class Development:
    """The authority's files in a stack's home."""

    stack: Stack

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.stack.home / "development"

    def public_key(self, region: Region) -> Path:
        """Return the public half of a region's export signing key, in PEM."""
        return self.folder / f"{region.name}-export.pem"

    @property
    def log_key(self) -> Path:
        """Where the public half of the key is that signs the public logs, in PEM."""
        return self.folder / f"{LOG_KEY}.pem"

    def issuer(self, region: Region) -> Issuer:
        """Return the region's certifier of diagnoses."""
        private_key = (self.folder / "issuers" / f"{region.name}.pem").read_bytes()
        return Issuer(private_key, kid=KID, issuer=region.issuer, audience=AUDIENCE)

    def phone_settings(self, region: Region) -> Path:
        """Return the settings with which `keyserver device` acts as a phone of a region."""
        return self.folder / f"phone-{region.name}.json"

    def certifier(
        self, region: Region, report_type: ReportType = "confirmed", symptom_date: date | None = None
    ) -> Callable[[bytes], str]:
        """Return what takes the HMAC of a phone's keys to a certificate, by the verification service over HTTP.

        Each call issues a code as a health worker and exchanges it as a phone (publish.md 4.8). ``symptom_date`` is of
        UTC, today unless given.
        """
        keys = json.loads(self.api_keys(region).read_text())
        worker = VerificationServer(self.stack.urls.verification, keys["admin"])
        phone = VerificationServer(self.stack.urls.verification, keys["device"])

        def certify(mac: bytes) -> str:
            day = symptom_date or datetime.now(UTC).date()
            issued = worker.post("issue", {"testType": report_type, "symptomDate": day.isoformat()})
            return phone.certify(issued["code"], mac)

        return certify

    def api_keys(self, region: Region) -> Path:
        """Return the API keys of a region's realm of the verification service, as JSON: admin and device."""
        return self.folder / f"verification-{region.name}.json"

    def declare(self, now: datetime) -> None:
        """Make the keys that are missing, declare the configuration and apply it; safe to do again."""
        for folder in (self.folder, self.folder / "issuers"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = self.folder / "configuration.yaml"
        if not self.log_key.exists():
            _keyserver(self.stack, "keys", "generate", LOG_KEY, "--public", str(self.log_key))
        for region in REGIONS:
            self._make_keys(region)
            settings = {
                "api_url": self.stack.urls.api,
                "index_url": f"{self.stack.urls.cdn}/{region.name}/index.txt",
                "base_url": f"{self.stack.urls.cdn}/",
                "app": region.app,
                "issuer": region.issuer,
                "audience": AUDIENCE,
                "kid": KID,
                "issuer_key_file": f"issuers/{region.name}.pem",
                "public_keys": [{"key_id": region.key_id, "key_version": "v1", "file": f"{region.name}-export.pem"}],
            }
            self.phone_settings(region).write_text(json.dumps(settings, indent=2) + "\n")
        if not document.exists():
            document.write_text(yaml.safe_dump(_configuration(now), sort_keys=False))
        _keyserver(self.stack, "configuration", "apply", str(document))
        for region in REGIONS:
            self._declare_realm(region)

    def _declare_realm(self, region: Region) -> None:
        """Let the verification service certify for a region, with the key that the configuration declares."""
        signer = self.stack.verification_signer
        if not (signer / f"{TOKEN_KEY}.pem").exists():
            signers.generate(signer.as_uri(), TOKEN_KEY)
        if not (signer / f"{region.name}.pem").exists():
            shutil.copy2(self.folder / "issuers" / f"{region.name}.pem", signer)  # with its mode
        if self.api_keys(region).exists():
            return
        command = ["verification", "realm-create", region.name, "--issuer", region.issuer, "--audience", AUDIENCE]
        command += ["--kid", KID, "--certificate-key", region.name, "--token-key", TOKEN_KEY]
        try:
            _keyserver(self.stack, *command)
        except StackError as error:
            # Left by a set-up that was interrupted.
            if "there is a realm" not in str(error):
                raise
        made = secrets.token_hex(4)
        keys = {
            kind: _keyserver(
                self.stack, "verification", "api-key-create", region.name, f"{kind}-{made}", "--type", kind
            ).strip()
            for kind in ("admin", "device")
        }
        file = self.api_keys(region)
        file.touch(mode=0o600)
        file.write_text(json.dumps(keys))

    def _make_keys(self, region: Region) -> None:
        public_key = self.public_key(region)
        if not public_key.exists():
            _keyserver(self.stack, "keys", "generate", region.name, "--public", str(public_key))
        issuers = (self.folder / "issuers").as_uri()
        if not (self.folder / "issuers" / f"{region.name}.pem").exists():
            signers.generate(issuers, region.name)
        # The certificates' public key; the private one is the issuer's alone.
        (self.folder / f"{region.name}-certificates.pem").write_text(
            signers.open_signer(issuers).public_key(region.name)
        )


def _configuration(now: datetime) -> dict[str, object]:
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    since, day_before = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (minute, minute - timedelta(days=1)))
    return {
        "version": 1,
        "health_authorities": [
            {
                "name": f"Development {region.name}",
                "issuer": region.issuer,
                "audience": AUDIENCE,
                "keys": [
                    {
                        "kid": KID,
                        "public_key_file": f"{region.name}-certificates.pem",
                        "valid_from": day_before,
                    }
                ],
            }
            for region in REGIONS
        ],
        "apps": [
            {"name": region.app, "regions": [region.code], "health_authorities": [region.issuer]} for region in REGIONS
        ],
        "signing_keys": [
            {
                "name": region.name,
                "key_id": region.key_id,
                "key_version": "v1",
                "public_key_file": f"{region.name}-export.pem",
                "active_from": day_before,
            }
            for region in REGIONS
        ]
        + [
            {
                "name": LOG_KEY,
                "key_id": "900",
                "key_version": "log1",
                "public_key_file": f"{LOG_KEY}.pem",
                "active_from": day_before,
                "purpose": "transparency",
            }
        ],
        "feeds": [
            {
                "name": region.name,
                "root": region.name,
                "output_region": region.code,
                "period": region.period,
                "from": since,
                "padding": {"minimum": 1000, "spread": 100},
                "development": True,
                "signing_keys": [region.name],
            }
            for region in REGIONS
        ],
    }


def _keyserver(stack: Stack, *arguments: str) -> str:
    """Run the command as an operator would; return what it printed."""
    done = stack.keyserver(*arguments)
    if done.returncode != 0:
        raise StackError(f"`keyserver {' '.join(arguments)}` failed.\n{done.stdout}{done.stderr}")
    return done.stdout
