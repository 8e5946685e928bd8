from __future__ import annotations

import base64

import pytest

from keyserver.errors import ConfigurationError
from keyserver.settings import Settings


def test_the_defaults_are_the_references():
    settings = Settings.from_environment({"PATH": "/bin", "KEYSERVER_API_BIND": ""})
    assert settings == Settings()
    assert (settings.window_minutes, settings.api_bind, settings.api_workers) == (60, "127.0.0.1:8010", 2)
    assert (settings.maintenance_mode, settings.metrics_bind) == (False, "")
    assert (settings.response_padding_min_bytes, settings.response_padding_range) == (1024, 1024)
    assert (settings.max_keys_on_publish, settings.max_same_start_interval_keys) == (30, 3)
    assert settings.max_symptom_onset_days == 14
    assert settings.max_valid_symptom_onset_report_days == 28
    assert settings.default_symptom_onset_days_ago == 4
    assert (settings.stats_audience, settings.stats_upload_minimum, settings.stats_embargo_hours) == (
        "keyserver",
        10,
        48,
    )


def test_values_are_read():
    environ = {
        "KEYSERVER_WINDOW_MINUTES": "1",
        "KEYSERVER_API_BIND": "unix:/run/api.sock",
        "KEYSERVER_API_WORKERS": "5",
        "KEYSERVER_MAX_KEYS_ON_PUBLISH": "20",
        "KEYSERVER_ALLOW_PARTIAL_REVISIONS": "true",
        "KEYSERVER_MAINTENANCE_MODE": "true",
        "KEYSERVER_METRICS_BIND": "127.0.0.1:9101",
        "KEYSERVER_AUDITOR_DATABASE_URL": "postgresql://auditor@/keyserver",
        "KEYSERVER_BLOBS_URL": "file:///srv",
        "KEYSERVER_AIRFLOW_URL": "http://127.0.0.1:8080",
        "KEYSERVER_AIRFLOW_LOGIN": "op",
        "KEYSERVER_AIRFLOW_PASSWORD": "hidden",
    }
    settings = Settings.from_environment(environ)
    assert (settings.window_minutes, settings.api_workers, settings.max_keys_on_publish) == (1, 5, 20)
    assert settings.api_bind == "unix:/run/api.sock"
    assert settings.allow_partial_revisions
    assert (settings.maintenance_mode, settings.metrics_bind) == (True, "127.0.0.1:9101")
    assert settings.url("auditor") == "postgresql://auditor@/keyserver"
    assert settings.url("blobs") == "file:///srv"
    assert (settings.url("airflow"), settings.airflow_login) == ("http://127.0.0.1:8080", "op")
    assert settings.airflow_password == "hidden"
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize("missing", ["KEYSERVER_AIRFLOW_LOGIN", "KEYSERVER_AIRFLOW_PASSWORD"])
def test_airflow_is_named_with_who_logs_in_there(missing):
    environ = dict.fromkeys(["KEYSERVER_AIRFLOW_URL", "KEYSERVER_AIRFLOW_LOGIN", "KEYSERVER_AIRFLOW_PASSWORD"], "x")
    del environ[missing]
    with pytest.raises(ConfigurationError, match="KEYSERVER_AIRFLOW_URL needs KEYSERVER_AIRFLOW_LOGIN and"):
        Settings.from_environment(environ)


@pytest.mark.parametrize(
    "role", ["admin", "migrate", "api", "pipeline", "rewriter", "retention", "auditor", "verification"]
)
def test_a_missing_database_is_named(role):
    with pytest.raises(ConfigurationError, match=f"KEYSERVER_{role.upper()}_DATABASE_URL is not set"):
        Settings().url(role)
    variable = f"KEYSERVER_{role.upper()}_DATABASE_URL"
    assert Settings.from_environment({variable: "x"}).url(role) == "x"


@pytest.mark.parametrize("name", ["blobs", "signer", "keywrap", "secrets", "public", "airflow"])
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
        ("KEYSERVER_MAINTENANCE_MODE", "yes"),
        ("KEYSERVER_MAX_SYMPTOM_ONSET_DAYS", "15"),
        ("KEYSERVER_MAX_KEYS_ON_PUBLISH", "0"),  # scenario 27
        ("KEYSERVER_STATS_UPLOAD_MINIMUM", "9"),
        ("KEYSERVER_STATS_EMBARGO_HOURS", "47"),
        ("KEYSERVER_STATS_EMBARGO_HOURS", "-1"),
        ("KEYSERVER_MAX_SAME_START_INTERVAL_KEYS", "0"),  # scenario 27
        ("KEYSERVER_RESPONSE_PADDING_RANGE", "0"),
        ("KEYSERVER_ALLOW_PARTIAL_REVISIONS", "yes"),
        ("KEYSERVER_REVISION_TOKEN_AAD", "no base64"),
        ("KEYSERVER_REVISION_TOKEN_AAD", "AAAA-"),
        ("KEYSERVER_REVISION_TOKEN_AAD", "\u00e4"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_variable(variable, value):
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: value})


def test_what_revision_tokens_are_bound_to_is_mandatory_where_it_is_asked_for():
    assert Settings.from_environment({"KEYSERVER_REVISION_TOKEN_AAD": "AQID"}).revision_token_aad == b"\1\2\3"
    for environ in ({}, {"KEYSERVER_REVISION_TOKEN_AAD": ""}):
        with pytest.raises(ConfigurationError, match="KEYSERVER_REVISION_TOKEN_AAD is not set"):
            _ = Settings.from_environment(environ).revision_token_aad


@pytest.mark.parametrize("hours", [0, 48, 72])
def test_the_embargo_of_statistics_is_off_or_long(hours):
    assert Settings.from_environment({"KEYSERVER_STATS_EMBARGO_HOURS": str(hours)}).stats_embargo_hours == hours


def test_the_secret_of_attestations_is_read_and_not_shown():
    settings = Settings.from_environment({"KEYSERVER_ATTESTATION_SECRET": base64.b64encode(bytes(range(32))).decode()})
    assert settings.attestation_secret == bytes(range(32))
    assert "x1f" not in repr(settings)
    assert Settings.from_environment({"KEYSERVER_ATTESTATION_SECRET": ""}).attestation_secret is None


@pytest.mark.parametrize("value", ["no base64", base64.b64encode(bytes(31)).decode()])
def test_a_secret_of_attestations_that_is_none_or_too_short_is_an_error(value):
    with pytest.raises(ConfigurationError, match="KEYSERVER_ATTESTATION_SECRET must be base64"):
        Settings.from_environment({"KEYSERVER_ATTESTATION_SECRET": value})


def test_a_misspelt_variable_is_an_error():
    with pytest.raises(ConfigurationError, match="KEYSERVER_WINDOWS_MINUTES"):
        Settings.from_environment({"KEYSERVER_WINDOWS_MINUTES": "60"})


def test_what_the_local_stack_reads_is_left_to_it():
    names = ("KEYSERVER_HOME", "KEYSERVER_STACK", "KEYSERVER_API_PORT", "KEYSERVER_AIRFLOW_WORKER_LOG_PORT")
    assert Settings.from_environment(dict.fromkeys(names, "x")) == Settings()


def test_passwords_are_not_shown():
    url = "postgresql://api:secret@db/keyserver"
    assert "secret" not in repr(Settings.from_environment({"KEYSERVER_API_DATABASE_URL": url}))


@pytest.mark.parametrize("variable", ["KEYSERVER_MAX_KEYS_ON_PUBLISH", "KEYSERVER_MAX_SAME_START_INTERVAL_KEYS"])
def test_scenario_27_an_upload_of_no_keys_is_no_limit(variable):
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: "0"})
