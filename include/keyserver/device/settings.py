"""What a phone of one app is configured with: where to upload, which index to follow, whose signature to trust.

Beside what a real phone has, they name the private key of a development issuer, which stands for the health
authority. `deploy.local` writes such files; the command line reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, ValidationError

from keyserver.device.issuer import Issuer
from keyserver.errors import ConfigurationError


class TrustedKey(BaseModel):
    """A public key that the phone was given beforehand; ``file`` is in PEM, relative to the settings."""

    model_config = ConfigDict(extra="forbid")

    key_id: str
    key_version: str
    file: Path


class PhoneSettings(BaseModel):
    """One phone's configuration. Files are relative to the folder of the settings."""

    model_config = ConfigDict(extra="forbid")

    api_url: str
    index_url: str
    base_url: str  # ends in a slash; lines of the index are appended to it
    app: str  # the healthAuthorityID
    issuer: str
    audience: str
    kid: str
    issuer_key_file: Path
    public_keys: list[TrustedKey]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read settings in JSON; `ConfigurationError` says what is wrong with them."""
        try:
            settings = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            places = ", ".join(".".join(map(str, found["loc"])) or "the document" for found in error.errors())
            raise ConfigurationError(f"{path} does not hold a phone's settings; look at: {places}") from error
        keys = [key.model_copy(update={"file": path.parent / key.file}) for key in settings.public_keys]
        return settings.model_copy(
            update={"issuer_key_file": path.parent / settings.issuer_key_file, "public_keys": keys}
        )

    def open_issuer(self) -> Issuer:
        """Open the development issuer."""
        return Issuer(_read(self.issuer_key_file), kid=self.kid, issuer=self.issuer, audience=self.audience)

    def trusted(self) -> Mapping[tuple[str, str], EllipticCurvePublicKey]:
        """Load the public keys, by key id and version."""
        return {(key.key_id, key.key_version): load_trusted_key(key.file) for key in self.public_keys}


def load_trusted_key(path: Path) -> EllipticCurvePublicKey:
    """Load a P-256 public key from a PEM file, as a phone's vendor would hand it over."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} is not a public key in PEM") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigurationError(f"{path} is not a public key on P-256")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
