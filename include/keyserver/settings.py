"""The environment of a process, read once at its edge: every variable, its meaning, its default.

What stands in a shell or a compose file starts with ``KEYSERVER_``. A misspelt name is an error, not a default.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyserver.errors import ConfigurationError

MINUTES_PER_DAY = 1440
LEAST_STATS_EMBARGO_HOURS = 48  # publish.md 6.3
ATTESTATION_SECRET_BYTES = 32
VERIFICATION_SECRET_BYTES = 32

_URLS = {
    "admin": "KEYSERVER_ADMIN_DATABASE_URL",
    "migrate": "KEYSERVER_MIGRATE_DATABASE_URL",
    "api": "KEYSERVER_API_DATABASE_URL",
    "pipeline": "KEYSERVER_PIPELINE_DATABASE_URL",
    "rewriter": "KEYSERVER_REWRITER_DATABASE_URL",
    "retention": "KEYSERVER_RETENTION_DATABASE_URL",
    "auditor": "KEYSERVER_AUDITOR_DATABASE_URL",
    "verification": "KEYSERVER_VERIFICATION_DATABASE_URL",
    "verification_signer": "KEYSERVER_VERIFICATION_SIGNER_URL",
    "blobs": "KEYSERVER_BLOBS_URL",
    "signer": "KEYSERVER_SIGNER_URL",
    "keywrap": "KEYSERVER_KEYWRAP_URL",
    "secrets": "KEYSERVER_SECRETS_URL",
    "public": "KEYSERVER_PUBLIC_URL",
    "airflow": "KEYSERVER_AIRFLOW_URL",
}

# Variable: field, least and greatest value. The numbers of publish.md 8.1 that this server has.
_INTEGERS = {
    "KEYSERVER_WINDOW_MINUTES": ("window_minutes", 1, MINUTES_PER_DAY),
    "KEYSERVER_API_WORKERS": ("api_workers", 1, 256),
    "KEYSERVER_RESPONSE_PADDING_MIN_BYTES": ("response_padding_min_bytes", 1, 1_000_000),
    "KEYSERVER_RESPONSE_PADDING_RANGE": ("response_padding_range", 1, 1_000_000),
    "KEYSERVER_MAX_KEYS_ON_PUBLISH": ("max_keys_on_publish", 1, 1000),
    "KEYSERVER_MAX_SAME_START_INTERVAL_KEYS": ("max_same_start_interval_keys", 1, 1000),
    # A stored key is at most 14 days from the onset: what an export file may say (rule E5).
    "KEYSERVER_MAX_SYMPTOM_ONSET_DAYS": ("max_symptom_onset_days", 1, 14),
    "KEYSERVER_MAX_VALID_SYMPTOM_ONSET_REPORT_DAYS": ("max_valid_symptom_onset_report_days", 1, 366),
    "KEYSERVER_DEFAULT_SYMPTOM_ONSET_DAYS_AGO": ("default_symptom_onset_days_ago", 0, 366),
    "KEYSERVER_STATS_UPLOAD_MINIMUM": ("stats_upload_minimum", 10, 1_000_000),
    "KEYSERVER_STATS_EMBARGO_HOURS": ("stats_embargo_hours", 0, 8760),
}
_TEXTS = {
    "KEYSERVER_API_BIND": "api_bind",
    "KEYSERVER_METRICS_BIND": "metrics_bind",
    "KEYSERVER_STATS_AUDIENCE": "stats_audience",
    "KEYSERVER_AIRFLOW_LOGIN": "airflow_login",
    "KEYSERVER_AIRFLOW_PASSWORD": "airflow_password",
}
_FLAGS = {
    "KEYSERVER_MAINTENANCE_MODE": "maintenance_mode",
    "KEYSERVER_ALLOW_PARTIAL_REVISIONS": "allow_partial_revisions",
}
_BASE64 = {
    "KEYSERVER_VERIFICATION_SECRET": "verification_secret",
    "KEYSERVER_ATTESTATION_SECRET": "attestation_secret",
    "KEYSERVER_REVISION_TOKEN_AAD": "revision_token_aad_or_none",
}

# Read by deploy/local, which runs the parts of one machine.
_ELSEWHERE = re.compile(r"KEYSERVER_(HOME|STACK|\w+_PORT)")


@dataclass(frozen=True)
class Settings:
    """What the environment says. URLs are asked for by `url`; they may hold passwords and are never shown."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    window_minutes: int = 60
    api_bind: str = "127.0.0.1:8010"
    api_workers: int = 2
    metrics_bind: str = ""
    maintenance_mode: bool = False
    allow_partial_revisions: bool = False
    response_padding_min_bytes: int = 1024
    response_padding_range: int = 1024
    max_keys_on_publish: int = 30
    max_same_start_interval_keys: int = 3
    max_symptom_onset_days: int = 14
    max_valid_symptom_onset_report_days: int = 28
    default_symptom_onset_days_ago: int = 4
    stats_audience: str = "keyserver"
    airflow_login: str = ""  # who decides about held batches on the command line
    airflow_password: str = field(default="", repr=False)
    stats_upload_minimum: int = 10
    stats_embargo_hours: int = 48  # 0: none
    revision_token_aad_or_none: bytes | None = field(default=None, repr=False)
    attestation_secret: bytes | None = field(default=None, repr=False)
    verification_secret: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables that ``environ`` sets; an empty one counts as not set.

        Raises `ConfigurationError`, naming the variable, for an unknown one and for a value that it cannot take.
        """
        values: dict[str, int | str | bytes] = {}
        urls: dict[str, str] = {}
        names = {variable: name for name, variable in _URLS.items()}
        for variable, value in environ.items():
            if not variable.startswith("KEYSERVER_") or _ELSEWHERE.fullmatch(variable):
                continue
            if variable not in {**names, **_INTEGERS, **_TEXTS, **_FLAGS, **_BASE64}:
                raise ConfigurationError(f"{variable} is no setting of the key server: correct its name or unset it")
            if not value:
                continue
            if variable in names:
                urls[names[variable]] = value
            elif variable in _INTEGERS:
                name, least, greatest = _INTEGERS[variable]
                values[name] = _integer(variable, value, least, greatest)
            elif variable in _TEXTS:
                values[_TEXTS[variable]] = value
            elif variable in _FLAGS:
                values[_FLAGS[variable]] = _flag(variable, value)
            else:
                values[_BASE64[variable]] = _bytes(variable, value)
        settings = cls(urls=urls, **values)  # type: ignore[arg-type] # each value was made for its field
        _check_secrets(settings)
        _check_airflow(settings)
        if MINUTES_PER_DAY % settings.window_minutes:
            raise ConfigurationError(
                f"KEYSERVER_WINDOW_MINUTES is {settings.window_minutes}: give whole minutes that divide a day (1440)"
            )
        _check_embargo(settings.stats_embargo_hours)
        return settings

    def url(self, name: str) -> str:
        """Return the URL of a database role (``admin``, ``api``, ...), of ``blobs``, of ``signer`` or ``public``.

        Raises `ConfigurationError` naming the variable that is not set.
        """
        if name not in self.urls:
            raise ConfigurationError(f"{_URLS[name]} is not set")
        return self.urls[name]

    @property
    def revision_token_aad(self) -> bytes:
        """What every revision token of this server is bound to (publish.md 3.1): the API does not start without it.

        Raises `ConfigurationError` when it is not set.
        """
        if self.revision_token_aad_or_none is None:
            raise ConfigurationError(
                "KEYSERVER_REVISION_TOKEN_AAD is not set: give random bytes in base64, and keep them"
            )
        return self.revision_token_aad_or_none


def _integer(variable: str, value: str, least: int, greatest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= greatest:
        raise ConfigurationError(f"{variable} must be a whole number from {least} to {greatest}")
    return int(value)


def _flag(variable: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise ConfigurationError(f"{variable} must be true or false")
    return value == "true"


def _check_embargo(hours: int) -> None:
    if 0 < hours < LEAST_STATS_EMBARGO_HOURS:
        raise ConfigurationError(
            f"KEYSERVER_STATS_EMBARGO_HOURS must be at least {LEAST_STATS_EMBARGO_HOURS},"
            " or 0: days of few uploads are then never shown"
        )


def _bytes(variable: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{variable} must be base64") from None


def _check_airflow(settings: Settings) -> None:
    if "airflow" in settings.urls and not (settings.airflow_login and settings.airflow_password):
        raise ConfigurationError(
            "KEYSERVER_AIRFLOW_URL needs KEYSERVER_AIRFLOW_LOGIN and KEYSERVER_AIRFLOW_PASSWORD beside it"
        )


def _check_secrets(settings: Settings) -> None:
    if settings.attestation_secret is not None and len(settings.attestation_secret) < ATTESTATION_SECRET_BYTES:
        raise ConfigurationError(
            f"KEYSERVER_ATTESTATION_SECRET must be base64 of {ATTESTATION_SECRET_BYTES} random bytes or more"
        )
    if settings.verification_secret is not None and len(settings.verification_secret) < VERIFICATION_SECRET_BYTES:
        raise ConfigurationError(
            f"KEYSERVER_VERIFICATION_SECRET must be base64 of {VERIFICATION_SECRET_BYTES} random bytes or more"
        )
