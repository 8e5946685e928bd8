"""One role a process, no more rights than its work (A2; DESIGN section 4): what each may do, and what it is refused.

The database is made as a real one is, by `set_up` and `migrate`; what a statement does is rolled back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from keyserver.store import database as databases
from tests.conftest import ROLES, WIDTH_MINUTES, role_url

PROCESSES = [role for role in ROLES if role != "keyserver_migrate"]

NEW_KEY = (
    "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, traveler, regions,"
    " created_at) SELECT decode(repeat('00', 16), 'hex'), 1, 144, 0, false, '{NO}', closed_through FROM release_clock"
)
REVISE = (
    "UPDATE exposure SET revised_at = created_at, revised_report_type = 'confirmed', revised_transmission_risk = 2,"
    " revised_days_since_onset = 0, revised_authority_id = NULL"
)
NEW_BATCH = (
    "INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region, input_regions,"
    " exclude_regions, travelers, max_keys)"
    " SELECT id, 'epoch', now(), 'epoch', now(), root, output_region, input_regions, exclude_regions, travelers,"
    " max_keys FROM feed"
)
EVENT = (
    'SELECT audit_append(ARRAY[\'{"actor": "a", "dag": null, "run": null, "task": null, "map_index": null,'
    ' "try": null, "kind": "a.b", "subject": {}, "counts": {}, "hashes": {}}\'::jsonb])'
)
WHO_MAY_UPLOAD = "SELECT FROM authorised_app, authorised_app_authority, health_authority, health_authority_key"

# What nobody may do but who set the database up, or who owns the schema.
OF_THE_OWNER = {
    "make a table": "CREATE TABLE mine (id integer)",
    "make a temporary table": "CREATE TEMPORARY TABLE mine (id integer)",
    "make a schema": "CREATE SCHEMA mine",
    "make a function": "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "set the clock": "CREATE OR REPLACE FUNCTION keyserver_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
    "let closed windows be written to": "ALTER TABLE exposure DISABLE TRIGGER ALL",
    "drop the trigger that keeps history": "DROP TRIGGER audit_event_is_append_only ON audit_event",
    "switch triggers off": "SET session_replication_role = 'replica'",
    "take a table over": "ALTER TABLE audit_event OWNER TO CURRENT_USER",
    "become the owner": "SET ROLE keyserver_migrate",
}
OF_THE_SUPERUSER = {
    "make a role": "CREATE ROLE mine",
    "read the server's files": "SELECT pg_read_file('postgresql.conf')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'cat'",
    "switch logging off": "SET log_statement = 'none'",
    "read passwords": "SELECT rolpassword FROM pg_authid",
}
# A2. It holds for the owner too, as long as the trigger stands.
ON_HISTORY = {
    "change an audit event": "UPDATE audit_event SET kind = 'another'",
    "remove an audit event": "DELETE FROM audit_event",
    "empty the audit trail": "TRUNCATE audit_event",
}
WRITE_HISTORY_ITSELF = {
    "write an audit event past audit_append": "INSERT INTO audit_event VALUES (1, now(), 'k', '\\x00', sha256('\\x00'))"
}

FORBIDDEN = {
    "keyserver_migrate": {**OF_THE_SUPERUSER, **ON_HISTORY},
    "keyserver_api": {
        **{
            f"read {table}": f"SELECT FROM {table}"
            for table in (
                "batch",
                "batch_signing_key",
                "file",
                "signature",
                "signing_key",
                "feed",
                "feed_signing_key",
                "closed_window",
                "audit_event",
            )
        },
        "plan a batch": "INSERT INTO batch DEFAULT VALUES",
        "settle a batch": "UPDATE batch SET status = 'rejected'",
        "remove a batch": "DELETE FROM batch",
        "release a file": "UPDATE file SET status = 'released'",
        "bring in a signing key": "INSERT INTO signing_key DEFAULT VALUES",
        "remove a key": "DELETE FROM exposure",
        "empty the table of keys": "TRUNCATE exposure",
        "change a key's regions": "UPDATE exposure SET regions = '{SE}'",
        "change a key's first report": "UPDATE exposure SET report_type = 'likely'",
        "move a key to another window": "UPDATE exposure SET created_at = now()",
        "close a window": "UPDATE release_clock SET closed_through = now()",
        "authorise an app": "INSERT INTO authorised_app VALUES ('mine', '{NO}')",
        "change an app's regions": "UPDATE authorised_app SET regions = '{SE}'",
        "believe another authority's key": "UPDATE health_authority_key SET public_key = 'mine'",
        "append an audit event": EVENT,
        "see what a batch holds": "SELECT batch_rows(1)",
    },
    "keyserver_pipeline": {
        **WRITE_HISTORY_ITSELF,
        "remove a key": "DELETE FROM exposure",
        "empty the table of keys": "TRUNCATE exposure",
        "change a key": "UPDATE exposure SET regions = '{SE}'",
        "revise a key": REVISE,
        "remove a batch": "DELETE FROM batch",
        "replace a signing key": "UPDATE signing_key SET public_key = 'mine'",
        "replace an authority's key": "UPDATE health_authority_key SET public_key = 'mine'",
        "move a feed": "UPDATE feed SET root = 'elsewhere'",
        **{
            f"change {column} of a batch": f"UPDATE batch SET {column} = DEFAULT"
            for column in (
                "feed_id",
                "starts_at",
                "ends_at",
                "cutoff",
                "revisions_to",
                "replaces",
                "root",
                "output_region",
                "input_regions",
                "exclude_regions",
                "travelers",
                "max_keys",
            )
        },
        "change a batch's signing keys": "UPDATE batch_signing_key SET signing_key_id = 1",
        "remove a batch's signing keys": "DELETE FROM batch_signing_key",
        "change the hash that was recorded": "UPDATE file SET export_sha256 = sha256('')",
        "change the counts that were recorded": "UPDATE file SET keys = 1",
        "remove a file": "DELETE FROM file",
        "change a signature": "UPDATE signature SET signature = ''",
        "remove a signature": "DELETE FROM signature",
        "change a closed window": "UPDATE closed_window SET keys = 0",
        "remove a closed window": "DELETE FROM closed_window",
        "change the width of windows": "UPDATE release_clock SET width_minutes = 5",
        "claim that rows were rewritten": "UPDATE release_clock SET rewritten_through = closed_through",
        "make the clock one of the tests'": "UPDATE release_clock SET settable = true",
        "stop the clock": "DELETE FROM release_clock",
        "remove an authority": "DELETE FROM health_authority",
        "remove a signing key": "DELETE FROM signing_key",
        "remove a feed": "DELETE FROM feed",
    },
    "keyserver_rewriter": {
        **WRITE_HISTORY_ITSELF,
        **{
            f"read {table}": f"SELECT FROM {table}"
            for table in (
                "batch",
                "file",
                "feed",
                "signature",
                "signing_key",
                "health_authority",
                "health_authority_key",
                "authorised_app",
                "closed_window",
                "audit_event",
            )
        },
        "change a key": "UPDATE exposure SET regions = '{SE}'",
        "empty the table of keys": "TRUNCATE exposure",
        "close a window": "UPDATE release_clock SET closed_through = now()",
        "see what a batch holds": "SELECT batch_rows(1)",
    },
    "keyserver_auditor": {
        **WRITE_HISTORY_ITSELF,
        "read keys": "SELECT exposure_key FROM exposure",
        "read whole rows of keys": "SELECT exposure FROM exposure",
        "find a key": "SELECT FROM exposure WHERE exposure_key = ''",
        "see what a batch holds": "SELECT batch_rows(1)",
        "append an audit event": EVENT,
        "store a key": NEW_KEY,
        "revise a key": REVISE,
        "remove a key": "DELETE FROM exposure",
        "settle a batch": "UPDATE batch SET status = 'rejected'",
        "release a file": "UPDATE file SET status = 'released'",
        "close a window": "UPDATE release_clock SET closed_through = now()",
        "authorise an app": "INSERT INTO authorised_app VALUES ('mine', '{NO}')",
        "pause a feed": "UPDATE feed SET paused = true",
    },
}
# publish.md 4.6 to 4.9: the verification service and the rest know nothing of each other.
OF_VERIFICATION = ("verification_code", "verification_token", "verification_user_report", "verification_rate")
FORBIDDEN["keyserver_verification"] = {
    **WRITE_HISTORY_ITSELF,
    **{
        f"read {table}": f"SELECT FROM {table}"
        for table in (
            "exposure",
            "batch",
            "file",
            "feed",
            "signature",
            "signing_key",
            "health_authority",
            "health_authority_key",
            "authorised_app",
            "closed_window",
            "audit_event",
            "revision_key",
            "upload_stats",
        )
    },
    "store a key": "INSERT INTO exposure DEFAULT VALUES",
    "append an audit event": EVENT,
    "declare a realm": "INSERT INTO verification_realm DEFAULT VALUES",
    "change a realm": "UPDATE verification_realm SET certificate_issuer = 'mine'",
    "let itself in": "INSERT INTO verification_api_key DEFAULT VALUES",
    "bring an API key back": "UPDATE verification_api_key SET revoked_at = NULL",
    "change what a code says": "UPDATE verification_code SET test_type = 'confirmed'",
    "change what a token says": "UPDATE verification_token SET symptom_date = NULL",
    "empty its own tables": "TRUNCATE verification_code",
    "close a window": "UPDATE release_clock SET closed_through = now()",
}
for process in ("keyserver_api", "keyserver_pipeline", "keyserver_rewriter"):
    FORBIDDEN[process] |= {f"read {table}": f"SELECT FROM {table}" for table in OF_VERIFICATION}
for process in ("keyserver_api", "keyserver_pipeline", "keyserver_rewriter", "keyserver_auditor"):
    FORBIDDEN[process]["read API keys"] = "SELECT key_mac FROM verification_api_key"
FORBIDDEN["keyserver_api"] |= {
    "make a revision key": "INSERT INTO revision_key (created_at, aad, wrapped_key) VALUES (now(), '', '')",
    "forbid a revision key": "UPDATE revision_key SET allowed = false",
    "accept a key of an authority": "INSERT INTO health_authority_key DEFAULT VALUES",
}
FORBIDDEN["keyserver_auditor"] |= {
    "read revision keys": "SELECT wrapped_key FROM revision_key",
    "read what a code says": "SELECT test_type FROM verification_code",
    "read whose a token is": "SELECT realm_id FROM verification_token",
    "read counts of requests": "SELECT count FROM verification_rate",
}
FORBIDDEN["keyserver_pipeline"]["remove a revision key"] = "DELETE FROM revision_key"
FORBIDDEN["keyserver_pipeline"]["make a realm another"] = "UPDATE verification_realm SET certificate_issuer = 'mine'"
FORBIDDEN["keyserver_pipeline"]["sign with another key"] = "UPDATE verification_realm SET certificate_key = 'mine'"
# A3: lines are only ever added, and by the pipeline alone.
OF_THE_LOG = ("transparency_line", "transparency_segment", "transparency_signature")
for process in ("keyserver_api", "keyserver_rewriter", "keyserver_auditor", "keyserver_verification"):
    FORBIDDEN[process] |= {f"write to {table}": f"INSERT INTO {table} DEFAULT VALUES" for table in OF_THE_LOG}
FORBIDDEN["keyserver_pipeline"] |= {
    "change a line of the log": "UPDATE transparency_line SET keys = 0",
    "remove a line of the log": "DELETE FROM transparency_line",
    "open a day of the log again": "DELETE FROM transparency_segment",
    "end a day of the log otherwise": "UPDATE transparency_segment SET head_seq = 0",
    "change a signature of the log": "UPDATE transparency_signature SET signature = ''",
    "remove a signature of the log": "DELETE FROM transparency_signature",
    "use a signing key for something else": "UPDATE signing_key SET purpose = 'transparency'",
}
# R1, R3: it removes what is old, and never writes what is kept.
FORBIDDEN["keyserver_retention"] = {
    **WRITE_HISTORY_ITSELF,
    **{
        f"read {table}": f"SELECT FROM {table}"
        for table in (
            "signature",
            "health_authority",
            "health_authority_key",
            "revision_key",
            "verification_realm",
            "verification_api_key",
        )
    },
    "read codes": "SELECT short_mac FROM verification_code",
    "read what a code says": "SELECT test_type FROM verification_code",
    "read tokens": "SELECT token_mac FROM verification_token",
    "read telephone numbers": "SELECT phone_mac FROM verification_user_report",
    "read used challenges": "SELECT mac FROM attestation_seen",
    "read statistics": "SELECT teks FROM upload_stats",
    "store a key": NEW_KEY,
    "revise a key": REVISE,
    "change a key": "UPDATE exposure SET regions = '{SE}'",
    "empty the table of keys": "TRUNCATE exposure",
    "keep things for longer": "UPDATE retention SET period = '14 days'",
    "close a window": "UPDATE release_clock SET closed_through = now()",
    "plan a batch": "INSERT INTO batch DEFAULT VALUES",
    "remove a batch": "DELETE FROM batch",
    "remove a file": "DELETE FROM file",
    "change a file's name": "UPDATE file SET name = 'mine'",
    "say that a file was released": "UPDATE file SET release_no = 1, released_at = now()",
    "remove a closed window": "DELETE FROM closed_window",
    "pause a feed": "UPDATE feed SET paused = true",
    "take back what was deleted on demand": "DELETE FROM deletion_window",
}
FORBIDDEN["keyserver_pipeline"] |= {
    f"remove rows of {table}": f"DELETE FROM {table}" for table in ("upload_stats", "profile", "quality_result")
}
FORBIDDEN["keyserver_pipeline"] |= {
    "say what retention deleted": "UPDATE retention SET deleted_through = now()",
    "say that something was deleted on demand": "INSERT INTO deletion_window VALUES (1, now(), 0, 0)",
    "change a quality result": "UPDATE quality_result SET met = true",
}
FORBIDDEN["keyserver_auditor"] |= {
    "change how long things are kept": "UPDATE retention SET period = '1 day'",
    "write a quality result": "INSERT INTO quality_result DEFAULT VALUES",
}
for process in PROCESSES:
    FORBIDDEN[process] = {**OF_THE_OWNER, **OF_THE_SUPERUSER, **ON_HISTORY, **FORBIDDEN[process]}

ALLOWED = {
    "keyserver_migrate": {"make a table": "CREATE TABLE mine (id integer)", "read the clock": "SELECT keyserver_now()"},
    "keyserver_api": {
        "read the clock and the open window": "SELECT keyserver_now(), closed_through FROM release_clock",
        "hold a window open": "SELECT pg_advisory_xact_lock_shared(1, window_lock(now()))",
        "read who may upload": WHO_MAY_UPLOAD,
        "read keys": "SELECT exposure_key FROM exposure",
        "store a key": NEW_KEY,
        "revise a key": REVISE,
    },
    "keyserver_pipeline": {
        "read all of it": "SELECT FROM exposure, batch, file, feed, signing_key, signature, closed_window, audit_event",
        "store a synthetic key": NEW_KEY,
        "close a window": "UPDATE release_clock SET closed_through = closed_through",
        "lock the clock": "SELECT FROM release_clock FOR UPDATE",
        "lock feeds": "SELECT FROM feed FOR SHARE",
        "plan batches": NEW_BATCH,
        "see what a batch holds": "SELECT batch_rows(1)",
        "move a batch on": "UPDATE batch SET status = 'empty', claimed_by = NULL, claim_renewed_at = NULL",
        "release a file": "UPDATE file SET status = 'released', release_no = 1, released_at = now()",
        "keep a signature": "INSERT INTO signature SELECT sha256(''), id, '' FROM signing_key",
        "authorise an app": "INSERT INTO authorised_app VALUES ('mine', '{NO}')",
        "remove an app": "DELETE FROM authorised_app",
        "append an audit event": EVENT,
    },
    "keyserver_rewriter": {
        "take keys out": "DELETE FROM exposure",
        "put keys back": NEW_KEY,
        "remember how far": "UPDATE release_clock SET rewritten_through = closed_through",
        "append an audit event": EVENT,
    },
    "keyserver_auditor": {
        "read of keys all but the keys": "SELECT created_at, regions, report_type, revised_at, synthetic FROM exposure",
        "count keys": "SELECT count(*) FROM exposure",
        "read batches and files": "SELECT FROM batch, batch_signing_key, file, feed, signing_key, signature",
        "read history": "SELECT seq, at, kind, body, hash FROM audit_event",
        "read windows": "SELECT FROM closed_window, release_clock",
        "read who may upload": WHO_MAY_UPLOAD,
    },
}
ALLOWED["keyserver_auditor"] |= {
    "read the log": f"SELECT FROM {', '.join(OF_THE_LOG)}",
    "see how old secrets are": (
        "SELECT seen_at, long_expires_at, verification_token.expires_at, until, starts_at FROM attestation_seen,"
        " verification_code, verification_token, verification_user_report, verification_rate"
    ),
}
ALLOWED["keyserver_verification"] = {
    "read realms and API keys": "SELECT FROM verification_realm, verification_api_key",
    "claim a code": "UPDATE verification_code SET claimed_at = keyserver_now(), attempts = 1",
    "use a token": "UPDATE verification_token SET used_at = keyserver_now()",
    "forget": "DELETE FROM verification_code",
    "ask whether it is ready": "SELECT FROM release_clock, alembic_version",
}
ALLOWED["keyserver_retention"] = {
    "remove old keys": "DELETE FROM exposure WHERE created_at <= (SELECT keyserver_now() - period FROM retention)",
    "remember how far": "UPDATE retention SET deleted_through = now()",
    "remove old codes": "DELETE FROM verification_code WHERE long_expires_at < now()",
    "remove old counters": "DELETE FROM upload_stats WHERE ctid = ANY(ARRAY(SELECT ctid FROM upload_stats))",
    "take a line out of the index": "UPDATE file SET status = 'expired', left_index_at = now()",
    "hold a batch": "UPDATE batch SET status = 'held', problem = 'old', held_at = now()",
    "let no window be closed meanwhile": "SELECT hold_release_clock()",
    "remember what was deleted on demand": "INSERT INTO deletion (at, app_name, starts_at, ends_at, reason)"
    " VALUES (now(), 'app', 'epoch', now(), 'asked')",
    "append an audit event": EVENT,
}
ALLOWED["keyserver_pipeline"]["declare how long things are kept"] = "UPDATE retention SET period = '10 days'"
ALLOWED["keyserver_pipeline"]["keep a quality result"] = (
    "INSERT INTO quality_result (at, suite, subject, expectation, owner, reason, severity, met, expected, found)"
    " VALUES (now(), 's', 'batch 1', 'e', 'o', 'r', 'warn', true, '1', '1')"
)
ALLOWED["keyserver_auditor"]["read what was deleted, and found"] = (
    "SELECT FROM retention, deletion, deletion_window, quality_result"
)
ALLOWED["keyserver_pipeline"]["declare a realm"] = (
    "INSERT INTO verification_realm (name, certificate_issuer, certificate_audience, certificate_kid, certificate_key,"
    " token_key) VALUES ('mine', 'i', 'a', 'v1', 'c', 't')"
)
ALLOWED["keyserver_pipeline"]["change what a realm allows"] = (
    "UPDATE verification_realm SET code_digits = 8, user_report = false, codes_per_day = 1"
)

OF_ALL = {"log_error_verbosity": "terse"}  # a key that is refused must not stand in the server's log
SETTINGS = {
    "keyserver_migrate": {"lock_timeout": "4s"},
    "keyserver_api": {  # W2
        "default_transaction_isolation": "read committed",
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "jit": "off",
        "statement_timeout": "5s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "5s",
    },
    "keyserver_pipeline": {  # A1
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    },
    "keyserver_rewriter": {
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    },
    "keyserver_retention": {
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    },
    "keyserver_auditor": {"default_transaction_read_only": "on"},
    "keyserver_verification": {
        "statement_timeout": "5s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "10s",
    },
}


class Made:
    """A database as `set_up` and `migrate` make it."""

    def __init__(self, admin_url: str, name: str) -> None:
        self.admin_url = admin_url
        self.name = name

    def url(self, role: str) -> str:
        return role_url(self.admin_url, role, self.name)

    @contextmanager
    def writing(self, role: str) -> Iterator[psycopg.Connection]:
        """A transaction of a role that may write, whatever the role's settings say, rolled back at the end."""
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            connection.execute("BEGIN READ WRITE")
            yield connection
            connection.execute("ROLLBACK")


@pytest.fixture(scope="module")
def made(postgres: object) -> Iterator[Made]:
    made = Made(postgres.admin_url, f"roles_{uuid.uuid4().hex[:12]}")
    databases.set_up(made.admin_url, {role: made.url(role) for role in ROLES})
    databases.migrate(made.url("keyserver_migrate"), WIDTH_MINUTES)
    yield made
    with psycopg.connect(made.admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{made.name}"')


def cases(statements: dict[str, dict[str, str]]) -> list[object]:
    return [
        pytest.param(role, statement, id=f"{role.removeprefix('keyserver_')}: {what}")
        for role, of_role in statements.items()
        for what, statement in of_role.items()
    ]


@pytest.mark.parametrize(("role", "statement"), cases(FORBIDDEN))
def test_is_refused(made, role, statement):
    with made.writing(role) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(("role", "statement"), cases(ALLOWED))
def test_is_allowed(made, role, statement):
    with made.writing(role) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_tried(role):
    assert FORBIDDEN[role]
    assert ALLOWED[role]


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_plain(made, role):
    with psycopg.connect(made.url(role)) as connection:
        assert connection.execute("SELECT current_user::text, session_user::text").fetchone() == (role, role)
        attributes = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
        assert attributes == (False,) * 5
        memberships = "SELECT FROM pg_auth_members WHERE current_user::regrole IN (member, roleid)"
        assert connection.execute(memberships).fetchall() == []


@pytest.mark.parametrize("role", ROLES)
def test_roles_have_the_settings_that_the_rules_ask_for(made, role):
    with psycopg.connect(made.url(role)) as connection:
        (settings,) = connection.execute("SELECT rolconfig FROM pg_roles WHERE rolname = current_user").fetchone()
        assert dict(setting.split("=") for setting in settings) == {**OF_ALL, **SETTINGS[role]}
        for name, value in SETTINGS[role].items():
            if not name.startswith("tcp_"):  # a Unix socket has none
                assert connection.execute(f"SHOW {name}").fetchone() == (value,)


@pytest.mark.parametrize("role", PROCESSES)
def test_processes_own_nothing_and_lock_no_table_out(made, role):
    """Rights that no statement above names: over every table there is, those of later migrations too."""
    with psycopg.connect(made.url(role)) as connection:
        assert connection.execute("SELECT FROM pg_class WHERE relowner = current_user::regrole").fetchall() == []
        assert (
            connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
                " AND has_table_privilege(oid, 'TRUNCATE, REFERENCES, TRIGGER')"
            ).fetchall()
            == []
        )


@pytest.mark.parametrize("role", PROCESSES)
def test_no_process_has_a_right_to_change_history(made, role):
    with psycopg.connect(made.url(role)) as connection:
        rights = (
            "SELECT has_any_column_privilege('audit_event', 'INSERT, UPDATE'),"
            " has_table_privilege('audit_event', 'DELETE, TRUNCATE')"
        )
        assert connection.execute(rights).fetchone() == (False, False)


def test_a_role_of_nobodys_cannot_connect(made):
    stranger = f"stranger_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(made.admin_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {stranger} LOGIN")
        try:
            with pytest.raises(psycopg.OperationalError, match="CONNECT privilege"):
                psycopg.connect(made.url(stranger))
        finally:
            connection.execute(f"DROP ROLE {stranger}")


def test_the_auditor_reads_no_key_no_mac_and_no_wrapped_key(made):
    """Of all columns of bytes these alone: events, hashes and signatures."""
    with psycopg.connect(made.url("postgres")) as connection:
        columns = {
            f"{table}.{column}"
            for table, column in connection.execute(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = 'public' AND data_type = 'bytea'"
                " AND has_column_privilege('keyserver_auditor', table_name::regclass, column_name, 'SELECT')"
            )
        }
    assert columns == {
        "audit_event.body",
        "audit_event.hash",
        "feed.index_sha256",
        "file.export_sha256",
        "file.zip_sha256",
        "signature.export_sha256",
        "signature.signature",
        "transparency_line.export_sha256",
        "transparency_line.zip_sha256",
        "transparency_segment.head_sha256",
        "transparency_segment.sha256",
        "transparency_signature.sha256",
        "transparency_signature.signature",
    }


def test_the_auditor_writes_nothing_even_by_mistake(made):
    with (
        psycopg.connect(made.url("keyserver_auditor")) as connection,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        connection.execute("CREATE TABLE mine (id integer)")
