from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from api import create_app, health
from api.problems import problem
from keyserver.errors import ConfigurationError, RemoteError
from keyserver.providers import keywrap
from keyserver.settings import Settings
from keyserver.store.readiness import newest_schema
from tests.uploads import add_revision_key, api_settings


@pytest.fixture
def client(test_database, tmp_path):
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    return create_app(api_settings(tmp_path), test_database.database("api"), settable_clock=True).test_client()


@pytest.fixture
def real_database(test_database):
    """One that says that its clock cannot be set, with the present time."""
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET settable = false")
    test_database.set_time(datetime.now(UTC))
    return test_database


@pytest.mark.parametrize(("path", "status"), [("/health", "ok"), ("/ready", "ready")])
def test_a_database_that_answers(client, path, status):
    answer = client.get(path)
    assert (answer.status_code, answer.get_json(), answer.content_type) == (200, {"status": status}, "application/json")
    assert client.post(path).status_code == 405


def test_t1_a_database_whose_clock_can_be_set_is_refused(test_database, tmp_path, caplog):
    add_revision_key(test_database.url("keyserver_pipeline"), tmp_path)
    client = create_app(api_settings(tmp_path), test_database.database("api")).test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    assert "clock can be set" in caplog.text
    with test_database.admin() as connection:
        connection.execute("UPDATE release_clock SET settable = false")
    test_database.set_time(datetime.now(UTC))
    assert client.get("/ready").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_database_out_of_reach(path):
    settings = api_settings(urls={"api": "postgresql://api:secret@/none?host=/nonexistent"})
    answer = create_app(settings).test_client().get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json() == {
        "error": "the server cannot do this now; try again later",
        "code": "temporarily_unavailable",
    }


@pytest.mark.parametrize("version", ["0000", "9999"])
def test_ready_wants_the_newest_schema(client, test_database, caplog, version):
    with test_database.admin() as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", [version])
    assert client.get("/ready").status_code == 503
    assert f"the schema is {version}, this code needs {newest_schema()}" in caplog.text
    assert client.get("/health").status_code == 200


def test_a_database_that_was_not_migrated(client, test_database):
    with test_database.admin() as connection:
        connection.execute("DROP TABLE release_clock CASCADE")
    answer = client.get("/ready")
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")


@pytest.mark.parametrize(("seconds", "status"), [(-61, 503), (-60, 200), (60, 200), (61, 503)])
def test_t1_the_clocks_of_host_and_database_agree(real_database, seconds, status, caplog):
    host = real_database.now() + timedelta(seconds=seconds)
    assert ready(real_database, now=lambda: host) == status
    assert ("differ by more than a minute" in caplog.text) == (status == 503)


@pytest.mark.parametrize(("missing", "status"), [(None, 200), ("a thing is missing", 503)])
def test_ready_asks_for_what_else_is_needed(real_database, caplog, missing, status):
    asked = []

    def also():
        asked.append(True)
        if missing:
            raise RemoteError(missing)

    assert ready(real_database, also=also) == status
    assert len(asked) == 1
    assert ("a thing is missing" in caplog.text) == (status == 503)


def test_ready_wants_a_revision_key_that_can_be_used(test_database, tmp_path, caplog):
    """As uploads do: the first key makes it ready at once; one that this process cannot unwrap is none."""
    url = test_database.url("keyserver_pipeline")

    def asked(folder) -> int:
        app = create_app(api_settings(folder), test_database.database("api"), settable_clock=True)
        return app.test_client().get("/ready").status_code

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    keywrap.generate(f"file://{elsewhere}")
    client = create_app(api_settings(tmp_path), test_database.database("api"), settable_clock=True).test_client()
    assert client.get("/ready").status_code == 503
    assert "there is no revision key that can be used: `keyserver keys rotate` makes one" in caplog.text
    assert client.get("/health").status_code == 200
    add_revision_key(url, tmp_path)
    assert client.get("/ready").status_code == 200
    assert asked(elsewhere) == 503
    with test_database.admin() as connection:
        connection.execute("UPDATE revision_key SET allowed = false")
    assert asked(tmp_path) == 503


def ready(database, **given) -> int:
    app = Flask("readiness")
    app.register_blueprint(health.blueprint(database.database("api"), Settings(), settable_clock=False, **given))
    app.register_error_handler(Exception, lambda error: (problem(error).message, problem(error).status))
    return app.test_client().get("/ready").status_code


def test_the_api_does_not_start_without_a_database():
    with pytest.raises(ConfigurationError, match="KEYSERVER_API_DATABASE_URL is not set"):
        create_app(api_settings())
