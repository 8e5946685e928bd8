"""The environment of a process, read once at its edge: every variable, its meaning, its default.

What stands in a shell or a compose file starts with ``KEYSERVER_``. A misspelt name is an error, not a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyserver.errors import ConfigurationError

MINUTES_PER_DAY = 1440

_URLS = {
    "admin": "KEYSERVER_ADMIN_DATABASE_URL",
    "migrate": "KEYSERVER_MIGRATE_DATABASE_URL",
    "api": "KEYSERVER_API_DATABASE_URL",
    "pipeline": "KEYSERVER_PIPELINE_DATABASE_URL",
    "rewriter": "KEYSERVER_REWRITER_DATABASE_URL",
    "auditor": "KEYSERVER_AUDITOR_DATABASE_URL",
    "blobs": "KEYSERVER_BLOBS_URL",
    "signer": "KEYSERVER_SIGNER_URL",
    "public": "KEYSERVER_PUBLIC_URL",
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
}
_TEXTS = {"KEYSERVER_API_BIND": "api_bind"}

# Read by deploy/local, which runs the parts of one machine.
_ELSEWHERE = re.compile(r"KEYSERVER_(HOME|STACK|\w+_PORT)")


@dataclass(frozen=True)
class Settings:
    """What the environment says. URLs are asked for by `url`; they may hold passwords and are never shown."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    window_minutes: int = 60
    api_bind: str = "127.0.0.1:8010"
    api_workers: int = 2
    response_padding_min_bytes: int = 1024
    response_padding_range: int = 1024
    max_keys_on_publish: int = 30
    max_same_start_interval_keys: int = 3
    max_symptom_onset_days: int = 14
    max_valid_symptom_onset_report_days: int = 28
    default_symptom_onset_days_ago: int = 4

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables that ``environ`` sets; an empty one counts as not set.

        Raises `ConfigurationError`, naming the variable, for an unknown one and for a value that it cannot take.
        """
        values: dict[str, int | str] = {}
        urls: dict[str, str] = {}
        names = {variable: name for name, variable in _URLS.items()}
        for variable, value in environ.items():
            if not variable.startswith("KEYSERVER_") or _ELSEWHERE.fullmatch(variable):
                continue
            if variable in names:
                if value:
                    urls[names[variable]] = value
            elif variable in _INTEGERS:
                if value:
                    name, least, greatest = _INTEGERS[variable]
                    values[name] = _integer(variable, value, least, greatest)
            elif variable in _TEXTS:
                if value:
                    values[_TEXTS[variable]] = value
            else:
                raise ConfigurationError(f"{variable} is no setting of the key server: correct its name or unset it")
        settings = cls(urls=urls, **values)  # type: ignore[arg-type] # each value was made for its field
        if MINUTES_PER_DAY % settings.window_minutes:
            raise ConfigurationError(
                f"KEYSERVER_WINDOW_MINUTES is {settings.window_minutes}: give whole minutes that divide a day (1440)"
            )
        return settings

    def url(self, name: str) -> str:
        """Return the URL of a database role (``admin``, ``api``, ...), of ``blobs``, of ``signer`` or ``public``.

        Raises `ConfigurationError` naming the variable that is not set.
        """
        if name not in self.urls:
            raise ConfigurationError(f"{_URLS[name]} is not set")
        return self.urls[name]


def _integer(variable: str, value: str, least: int, greatest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= greatest:
        raise ConfigurationError(f"{variable} must be a whole number from {least} to {greatest}")
    return int(value)
