"""Airflow's own database: its role and database made, and migrated when Airflow's version is new.

`python -m deploy.metadata` does it from the environment (KEYSERVER_ADMIN_DATABASE_URL,
AIRFLOW__DATABASE__SQL_ALCHEMY_CONN), for the one-shot service of docker-compose.yaml.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql


def set_up(admin_url: str, airflow_url: str, migrate: Callable[[], None]) -> None:
    """Make the role and the database that ``airflow_url`` names, if missing; call ``migrate`` if it must be migrated.

    ``admin_url`` is a superuser's libpq URL. `airflow db migrate` takes 5 s even with nothing to do; so the database's
    comment remembers the version of Airflow that migrated it. Raises psycopg.Error.
    """
    wanted = urlsplit(airflow_url)
    role, database = unquote(wanted.username or ""), unquote(wanted.path.removeprefix("/"))
    done = f"migrated by Airflow {version('apache-airflow')}"
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        if wanted.password:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(unquote(wanted.password)))
            )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(role))
            )
        found = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
        if found != (done,):
            migrate()
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(done))
            )


def _migrate() -> None:
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)


if __name__ == "__main__":
    set_up(
        os.environ["KEYSERVER_ADMIN_DATABASE_URL"],
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"],
        _migrate,
    )
