from __future__ import annotations

import pytest

from keyserver.errors import ConfigurationError
from keyserver.settings import Settings


def test_the_defaults_are_the_references():
    settings = Settings.from_environment({"PATH": "/bin", "KEYSERVER_API_BIND": ""})
    assert settings == Settings()
    assert (settings.window_minutes, settings.api_bind, settings.api_workers) == (60, "127.0.0.1:8010", 2)
    assert (settings.response_padding_min_bytes, settings.response_padding_range) == (1024, 1024)
    assert (settings.max_keys_on_publish, settings.max_same_start_interval_keys) == (30, 3)
    assert settings.max_symptom_onset_days == 14
    assert settings.max_valid_symptom_onset_report_days == 28
    assert settings.default_symptom_onset_days_ago == 4


def test_values_are_read():
    environ = {
        "KEYSERVER_WINDOW_MINUTES": "1",
        "KEYSERVER_API_BIND": "unix:/run/api.sock",
        "KEYSERVER_API_WORKERS": "5",
        "KEYSERVER_MAX_KEYS_ON_PUBLISH": "20",
        "KEYSERVER_AUDITOR_DATABASE_URL": "postgresql://auditor@/keyserver",
        "KEYSERVER_BLOBS_URL": "file:///srv",
    }
    settings = Settings.from_environment(environ)
    assert (settings.window_minutes, settings.api_workers, settings.max_keys_on_publish) == (1, 5, 20)
    assert settings.api_bind == "unix:/run/api.sock"
    assert settings.url("auditor") == "postgresql://auditor@/keyserver"
    assert settings.url("blobs") == "file:///srv"


@pytest.mark.parametrize("role", ["admin", "migrate", "api", "pipeline", "rewriter", "auditor"])
def test_a_missing_database_is_named(role):
    with pytest.raises(ConfigurationError, match=f"KEYSERVER_{role.upper()}_DATABASE_URL is not set"):
        Settings().url(role)
    variable = f"KEYSERVER_{role.upper()}_DATABASE_URL"
    assert Settings.from_environment({variable: "x"}).url(role) == "x"


@pytest.mark.parametrize("name", ["blobs", "signer", "public"])
def test_a_missing_url_is_named(name):
    with pytest.raises(ConfigurationError, match=f"KEYSERVER_{name.upper()}_URL is not set"):
        Settings.from_environment({f"KEYSERVER_{name.upper()}_URL": ""}).url(name)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KEYSERVER_WINDOW_MINUTES", "7"),
        ("KEYSERVER_WINDOW_MINUTES", "0"),
        ("KEYSERVER_WINDOW_MINUTES", "2880"),
        ("KEYSERVER_WINDOW_MINUTES", "1.0"),
        ("KEYSERVER_WINDOW_MINUTES", "9" * 5000),
        ("KEYSERVER_API_WORKERS", "-1"),
        ("KEYSERVER_API_WORKERS", "two"),
        ("KEYSERVER_MAX_SYMPTOM_ONSET_DAYS", "15"),
        ("KEYSERVER_MAX_KEYS_ON_PUBLISH", "0"),  # scenario 27
        ("KEYSERVER_MAX_SAME_START_INTERVAL_KEYS", "0"),  # scenario 27
        ("KEYSERVER_RESPONSE_PADDING_RANGE", "0"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_variable(variable, value):
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: value})


def test_a_misspelt_variable_is_an_error():
    with pytest.raises(ConfigurationError, match="KEYSERVER_WINDOWS_MINUTES"):
        Settings.from_environment({"KEYSERVER_WINDOWS_MINUTES": "60"})


def test_what_the_local_stack_reads_is_left_to_it():
    names = ("KEYSERVER_HOME", "KEYSERVER_STACK", "KEYSERVER_API_PORT", "KEYSERVER_AIRFLOW_WORKER_LOG_PORT")
    assert Settings.from_environment(dict.fromkeys(names, "x")) == Settings()


def test_passwords_are_not_shown():
    url = "postgresql://api:secret@db/keyserver"
    assert "secret" not in repr(Settings.from_environment({"KEYSERVER_API_DATABASE_URL": url}))
