"""Connections, transactions, set-up and migrations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import aiosql
import psycopg
import sqlalchemy
from psycopg import sql

from keyserver.errors import ConfigurationError, RemoteError, StoreError

SQL = Path(__file__).parents[3] / "sql"

Connection = psycopg.Connection[tuple[Any, ...]]

# Rule E4: what a retry can heal. Connection trouble, wrong state of a transaction after it, rollbacks asked for by
# the server, lack of resources, cancelled or refused by an operator, trouble of the host.
_HEALED_BY_RETRY = ("08", "25", "40", "53", "55", "57", "58")

_OUT_OF_REACH = "the database cannot be reached: is its URL right, and does the server run?"


def queries(aggregate: str) -> Any:
    """Load the named statements of one aggregate, sql/queries/<aggregate>.sql."""
    return aiosql.from_path(SQL / "queries" / f"{aggregate}.sql", "psycopg")


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turn what a retry can heal into `RemoteError` (rule E4), any other error of the database into `StoreError`."""
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        if not state and isinstance(error, psycopg.OperationalError):
            raise RemoteError(_OUT_OF_REACH) from None
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or state[:2] in _HEALED_BY_RETRY:
            raise RemoteError(f"the database did not answer as it should (SQLSTATE {state or 'none'})") from None
        raise StoreError(f"the database refused a statement: {_safe_text(error)}") from None
    except sqlalchemy.exc.TimeoutError as error:
        raise RemoteError("no connection to the database was free in time") from error
    except sqlalchemy.exc.OperationalError as error:
        raise RemoteError(_OUT_OF_REACH) from error


def _safe_text(error: psycopg.Error) -> str:
    """Say what the database said without any value: its DETAIL quotes rows, its errors of data (class 22) values."""
    if error.sqlstate is None or error.sqlstate.startswith("22") or not error.diag.message_primary:
        return type(error).__name__
    return error.diag.message_primary


class Database:
    """A pool of connections to one database as one role.

    Connections are psycopg's, in autocommit: a transaction is what a use case begins and ends. The pool does not ask
    whether a connection still lives before it hands it out (rule W2); one that was lost is thrown away by the caller
    that met it, and the others with it.
    """

    def __init__(self, url: str, *, pool_size: int = 4) -> None:
        """Take a libpq URL; connect when first asked."""
        self._url = url
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            pool_size=pool_size,
            max_overflow=4,
            pool_timeout=5,
            use_native_hstore=False,
        )

    def connect(self) -> Connection:
        """Open a connection that is not of the pool, in autocommit, for who keeps it: its errors are psycopg's own."""
        # The process is named, so that an operator finds in pg_stat_activity who holds a lock.
        return psycopg.connect(
            self._url,
            autocommit=True,
            application_name=f"keyserver pid {os.getpid()}",
            connect_timeout=5,
            # A server that vanished without a word is noticed within half a minute.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=20_000,
        )

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit; the database's errors come out as `RemoteError` or `StoreError`."""
        with remote_errors():
            lent = self._engine.raw_connection()
            try:
                connection = cast("Connection", lent.driver_connection)
                yield connection
            finally:
                if connection.closed:
                    # The server went away, and with it all that wait in the pool.
                    self._engine.dispose()
                if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    lent.invalidate()
                lent.close()

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
        """Begin a transaction, commit it at the end, roll it back on any error."""
        with self.connection() as connection:
            connection.execute(cast("Any", f"BEGIN ISOLATION LEVEL {isolation}"))
            with rolled_back_on_error(connection):
                yield connection
                connection.execute("COMMIT")

    @contextmanager
    def snapshot(self, connections: int) -> Iterator[list[Connection]]:
        """Lend connections that all see the database as it is at one moment, to read from at once (rule K2).

        They have ten minutes of patience: they never take the audit chain's lock, so large work may take its time (A1).
        """
        with ExitStack() as stack:
            lent: list[Connection] = []
            name = None
            for _ in range(connections):
                connection = stack.enter_context(self.transaction("REPEATABLE READ READ ONLY"))
                if name is None:
                    (name,) = connection.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
                else:
                    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
                lent.append(connection)
            yield lent

    def forget_connections(self) -> None:
        """Close the pool's connections, at the end or because the server went away."""
        self._engine.dispose()


@contextmanager
def rolled_back_on_error(connection: Connection) -> Iterator[None]:
    """End an open transaction when the body fails; a connection that cannot even do that is closed."""
    try:
        yield
    except BaseException:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
        raise


def set_up(admin_url: str, role_urls: Mapping[str, str]) -> None:
    """Make the roles and the database, once, as a superuser; safe to run again.

    ``role_urls`` maps role names to the URLs that their processes will use: passwords and the database's name are
    read from them. Raises `ConfigurationError` when they disagree, `RemoteError` when the server is out of reach.
    """
    names = {urlsplit(url).path.lstrip("/") for url in role_urls.values()}
    if len(names) != 1 or not (database := names.pop()):
        raise ConfigurationError("the database URLs of the roles must all name the same database")
    with remote_errors(), psycopg.connect(admin_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(cast("Any", (SQL / "roles.sql").read_text()))
        for role, url in role_urls.items():
            if password := urlsplit(url).password:
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
                connection.execute(statement.format(sql.Identifier(role), sql.Literal(unquote(password))))
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchall():
            statement = sql.SQL("CREATE DATABASE {} OWNER keyserver_migrate ENCODING 'UTF8' TEMPLATE template0")
            connection.execute(statement.format(sql.Identifier(database)))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.SQL(", ").join(sql.Identifier(role) for role in role_urls)
            )
        )


def migrate(url: str, width_minutes: int) -> None:
    """Bring the schema to the newest version and start the release clock if it does not run yet.

    ``width_minutes`` is the width of a privacy window, W; once the clock runs it cannot be changed
    (`ConfigurationError`).
    """
    # Alembic costs every task half a second that never migrates anything.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url, connect_timeout=5), use_native_hstore=False
    )
    try:
        with remote_errors(), engine.connect() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(SQL / "migrations"))
            command.upgrade(config, "head")
            connection.commit()
            driver = cast("Connection", connection.connection.driver_connection)
            clock = queries("release_clock")
            clock.start(driver, width_minutes=width_minutes)
            width = clock.read(driver)[0]
            driver.commit()
    finally:
        engine.dispose()
    if width != width_minutes:
        raise ConfigurationError(
            f"this database's windows are {width} minutes wide; KEYSERVER_WINDOW_MINUTES says {width_minutes}."
            " A width is chosen once: set the variable back, or start with a new database."
        )
