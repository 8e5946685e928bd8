"""The whole key server on one machine: set up, started, watched and stopped.

A `Stack` is one folder, its *home* (data, secrets, logs, state), and a set of ports; two with different ones run side
by side. PostgreSQL comes first and goes last. The other parts run under a detached supervisor (`supervisor`), so they
outlive the command that started them.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import httpx
import psycopg
from cryptography.fernet import Fernet
from honcho.environ import parse

from deploy import metadata
from deploy.local import airflow, postgres, processes, supervisor
from deploy.local.ports import Ports
from deploy.local.postgres import Server
from deploy.local.supervisor import Part, State
from keyserver.errors import ConflictError, KeyserverError
from keyserver.providers import keywrap
from keyserver.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
ROLES = ("migrate", "api", "pipeline", "rewriter", "retention", "auditor", "verification")
AIRFLOW_ROLES = {"admin": "admin", "op": "op", "viewer": "viewer", "auditor": "viewer"}
MAIN_DAG = "export_keys"
HEALTHY_S = 180.0
LAST_WORK_S = {"airflow-scheduler": 10.0, "airflow-triggerer": 10.0}

# What a process takes over from whoever starts the stack; all else it is given by name.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR")


class StackError(KeyserverError):
    """The stack did not start, or a part of it died; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Urls:
    """Where the parts answer, without a slash at the end."""

    api: str
    cdn: str
    airflow: str
    verification: str


@dataclass(frozen=True)
class Secrets:
    """What is made up anew for each home and stays in it."""

    airflow_logins: dict[str, str]
    database_passwords: dict[str, str]
    jwt_secret: str
    api_secret_key: str
    fernet_key: str
    attestation_secret: str
    verification_secret: str
    revision_token_aad: str

    @classmethod
    def generate(cls) -> Secrets:
        """Make a fresh set."""
        return cls(
            airflow_logins={user: secrets.token_urlsafe(12) for user in AIRFLOW_ROLES},
            database_passwords={
                role: secrets.token_hex(16) for role in ("airflow", *(f"keyserver_{role}" for role in ROLES))
            },
            jwt_secret=secrets.token_urlsafe(48),
            api_secret_key=secrets.token_urlsafe(32),
            fernet_key=Fernet.generate_key().decode(),
            attestation_secret=base64.b64encode(secrets.token_bytes(32)).decode(),
            verification_secret=base64.b64encode(secrets.token_bytes(32)).decode(),
            revision_token_aad=base64.b64encode(secrets.token_bytes(32)).decode(),
        )


class Stack:
    """One stack. The object holds no process: another one with the same home sees and stops the same stack.

    ``home`` is made if missing. ``window_minutes`` is the width of a privacy window (W), fixed when the database is
    first migrated. ``admin_url`` names an existing server by a superuser's URL: it is then used and left running.
    """

    def __init__(
        self, home: Path, ports: Ports | None = None, window_minutes: int = 1, admin_url: str | None = None
    ) -> None:
        self.home = home.resolve()
        self.ports = ports or Ports()
        self.window_minutes = window_minutes
        listening = (self.ports.api, self.ports.cdn, self.ports.airflow, self.ports.verification)
        self.urls = Urls(*(f"http://127.0.0.1:{port}" for port in listening))
        self.blobs = self.home / "blobs"
        self.signer = self.home / "signer"
        self.keywrap = self.home / "keywrap"
        self.secrets = self.home / "secrets"
        self.verification_signer = self.home / "verification-signer"
        self.logs = self.home / "logs"
        self._admin_url = admin_url
        self._server: Server | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Stack:
        """Return the stack that the environment describes.

        Read are KEYSERVER_HOME, the variables of `Ports`, KEYSERVER_WINDOW_MINUTES (here 1 by default) and
        KEYSERVER_ADMIN_DATABASE_URL. Raises ConfigurationError for a value that cannot be.
        """
        minutes = {"KEYSERVER_WINDOW_MINUTES": environment.get("KEYSERVER_WINDOW_MINUTES") or "1"}
        return cls(
            Path(environment.get("KEYSERVER_HOME") or PROJECT / ".keyserver"),
            Ports.from_environment(environment),
            Settings.from_environment(minutes).window_minutes,
            environment.get("KEYSERVER_ADMIN_DATABASE_URL") or None,
        )

    # What others need to work with it

    @property
    def passwords(self) -> dict[str, str]:
        """Airflow's logins: a password for each of `AIRFLOW_ROLES`."""
        return self._secrets().airflow_logins

    def database_url(self, role: str) -> str:
        """Return the libpq URL of our database for one of `ROLES`. The server must have been started."""
        return self._url(f"keyserver_{role}", "keyserver")

    def environment(self, *names: str) -> dict[str, str]:
        """Return what a process needs in any case, and of our variables those of these names."""
        values: dict[str, Callable[[], str]] = {
            **{f"KEYSERVER_{role.upper()}_DATABASE_URL": partial(self.database_url, role) for role in ROLES},
            "KEYSERVER_ADMIN_DATABASE_URL": lambda: self._database_server().admin_url,
            "KEYSERVER_WINDOW_MINUTES": lambda: str(self.window_minutes),
            "KEYSERVER_BLOBS_URL": self.blobs.as_uri,
            "KEYSERVER_SIGNER_URL": self.signer.as_uri,
            "KEYSERVER_KEYWRAP_URL": self.keywrap.as_uri,
            "KEYSERVER_SECRETS_URL": self.secrets.as_uri,
            "KEYSERVER_REVISION_TOKEN_AAD": lambda: self._secrets().revision_token_aad,
            "KEYSERVER_PUBLIC_URL": lambda: self.urls.cdn,
            "KEYSERVER_AIRFLOW_URL": lambda: self.urls.airflow,
            "KEYSERVER_AIRFLOW_LOGIN": lambda: "op",
            "KEYSERVER_AIRFLOW_PASSWORD": lambda: self.passwords["op"],
            "KEYSERVER_API_BIND": lambda: f"127.0.0.1:{self.ports.api}",
            "KEYSERVER_VERIFICATION_SIGNER_URL": self.verification_signer.as_uri,
            "KEYSERVER_VERIFICATION_SECRET": lambda: self._secrets().verification_secret,
            "KEYSERVER_ATTESTATION_SECRET": lambda: self._secrets().attestation_secret,
        }
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "PYTHONPATH": os.pathsep.join([str(PROJECT / "include"), str(PROJECT)]),
            **{name: values[name]() for name in names},
        }

    def cli_environment(self) -> dict[str, str]:
        """Return the environment for any `keyserver` command but the set-up, which alone is the superuser's."""
        roles = (f"KEYSERVER_{role.upper()}_DATABASE_URL" for role in ROLES)
        stores = ("KEYSERVER_BLOBS_URL", "KEYSERVER_SIGNER_URL", "KEYSERVER_KEYWRAP_URL", "KEYSERVER_PUBLIC_URL")
        asked = ("KEYSERVER_AIRFLOW_URL", "KEYSERVER_AIRFLOW_LOGIN", "KEYSERVER_AIRFLOW_PASSWORD")
        return self.environment(*roles, *stores, *asked, "KEYSERVER_WINDOW_MINUTES", "KEYSERVER_VERIFICATION_SECRET")

    def keyserver(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `keyserver` command as an operator would, and give its status and what it printed."""
        return subprocess.run(
            [sys.executable, "-c", "from keyserver.cli import main; main()", *arguments],
            check=False,
            cwd=PROJECT,
            env=self.cli_environment(),
            capture_output=True,
            text=True,
        )

    def airflow(self, user: str = "admin") -> httpx.Client:
        """Return a client of Airflow's REST API, logged in as one of `AIRFLOW_ROLES`; paths are below /api/v2/."""
        return airflow.client(self.urls.airflow, user, self.passwords[user])

    def state(self) -> State | None:
        """Return what the supervisor wrote last, None if there never was one."""
        return State.read(self.home)

    def running(self) -> bool:
        """Whether the stack's supervisor runs; whether its parts are well is `problems`."""
        state = self.state()
        return state is not None and state.running()

    def database_running(self) -> bool:
        """Whether the embedded PostgreSQL runs (a foreign server is never asked)."""
        return self._admin_url is None and postgres.running(self.home / "postgres")

    def problems(self, since: datetime | None = None) -> list[str]:
        """Return what keeps the stack from being healthy, a phrase each; empty when phones and operators are served.

        ``since``: count only heartbeats and parsed DAG files after that instant.
        """
        since = since or datetime.min.replace(tzinfo=UTC)
        problems = []
        asked = (("API", f"{self.urls.api}/ready"), ("verification service", f"{self.urls.verification}/health"))
        for name, url in asked:
            try:
                health = httpx.get(url, timeout=5.0, trust_env=False)
                if health.status_code != httpx.codes.OK:
                    problems.append(f"the {name} answers {health.status_code} to {urlsplit(url).path}")
            except httpx.HTTPError as error:
                problems.append(f"the {name} does not answer ({type(error).__name__})")
        try:
            httpx.get(f"{self.urls.cdn}/", timeout=5.0, trust_env=False)
        except httpx.HTTPError as error:
            problems.append(f"the CDN does not answer ({type(error).__name__})")
        if ill := airflow.unhealthy(self.urls.airflow, since):
            return problems + ill
        with self.airflow() as client:
            errors = airflow.parse_errors(client, since)
            return (
                problems
                + [f"a DAG file has an error:\n{error}" for error in errors]
                + (airflow.unparsed(client, MAIN_DAG, since))
            )

    # Starting and stopping

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Start everything and return when it is healthy; ``say`` is told each step.

        Raises ConfigurationError for a taken port and the like, before anything is started; StackError when a part
        dies or stays ill, after stopping the rest. What an interrupted start began is stopped as well.
        """
        with self._alone():
            if self.running():
                raise StackError(f"It is already running (home: {self.home}).")
            # What a crash left behind would hold the ports.
            processes.end(lambda: processes.marked(self.home))
            self.ports.check()
            try:
                self._set_up(say)
                self._launch(say)
            except BaseException:
                say("stopping what was started")
                self._stop()
                raise

    def stop(self) -> None:
        """Stop exactly what `start` started, also after a crash of the supervisor; PostgreSQL last."""
        with self._alone():
            self._stop()

    def _stop(self) -> None:
        state = self.state()
        if state is not None and state.running():
            processes.end(
                lambda: [p for p in processes.marked(self.home) if p.pid == state.supervisor.pid],
                # It gives its parts their time first.
                sum(LAST_WORK_S.values()) + processes.GRACE_S + 5,
            )
        processes.end(lambda: processes.marked(self.home))
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None
        if self._admin_url is None and (self.home / "postgres").exists():
            postgres.stop(self.home / "postgres")
        self._server = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time start or stop this stack."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StackError(f"Another command is starting or stopping it just now (home: {self.home}).") from error
            yield

    # Setting up

    def _set_up(self, say: Callable[[str], None]) -> None:
        for folder in (self.logs, self.signer, self.verification_signer, self.home / "airflow"):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.blobs / "public", self.blobs / "staging"):
            folder.mkdir(parents=True, exist_ok=True)
        _write_secret(self.home / "airflow" / "passwords.json", json.dumps(self.passwords))

        say("starting PostgreSQL" if self._admin_url is None else "using the existing PostgreSQL")
        self._database_server()
        say("setting up the database")
        roles = tuple(f"KEYSERVER_{role.upper()}_DATABASE_URL" for role in ROLES)
        self._keyserver("database", "setup", names=("KEYSERVER_ADMIN_DATABASE_URL", *roles))
        self._keyserver("database", "migrate", names=("KEYSERVER_MIGRATE_DATABASE_URL", "KEYSERVER_WINDOW_MINUTES"))
        with suppress(ConflictError):  # an older home has one, and what is wrapped by it
            keywrap.generate(self.keywrap.as_uri())
        self._keyserver("keys", "rotate", names=("KEYSERVER_PIPELINE_DATABASE_URL", "KEYSERVER_KEYWRAP_URL"))
        settings = self._airflow_environment()

        def migrate() -> None:
            say("migrating Airflow's database")
            self._run("airflow-migrate", ["-m", "airflow", "db", "migrate"], settings)

        try:
            metadata.set_up(self._database_server().admin_url, settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], migrate)
        except psycopg.Error as error:
            raise StackError(f"Airflow's database could not be set up: {error}") from error

    def _database_server(self) -> Server:
        if self._server is None:
            if self._admin_url is None:
                self._server = postgres.server(self.home / "postgres")
            else:
                self._server = Server(self._admin_url, None)
        return self._server

    def _url(self, role: str, database: str) -> str:
        """Return the URL of a database for a role. The embedded server trusts its socket; others get a password."""
        server = self._database_server()
        admin = urlsplit(server.admin_url)
        login = role
        if server.folder is None:
            login += ":" + self._secrets().database_passwords[role]
        address = admin.netloc.rpartition("@")[2]
        return urlunsplit(("postgresql", f"{login}@{address}", f"/{database}", admin.query, ""))

    def _keyserver(self, *arguments: str, names: tuple[str, ...]) -> None:
        main = ["-c", "from keyserver.cli import main; main()"]
        self._run("-".join(arguments), [*main, *arguments], self.environment(*names))

    def _run(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        """Run a step of the set-up to its end. Raises StackError with the last lines that it printed."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            status = subprocess.run(
                [sys.executable, *arguments],
                check=False,
                cwd=PROJECT,
                env={**environment, **processes.mark(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        if status != 0:
            raise StackError(f"{name} failed (status {status}).\n{tail(log)}")

    # Running

    def _launch(self, say: Callable[[str], None]) -> None:
        (self.home / "state.json").unlink(missing_ok=True)
        parts = self._parts()
        for part in parts:
            part.log.unlink(missing_ok=True)
        supervisor.plan(self.home, parts)
        since = datetime.now(UTC)
        say("starting the API, the CDN and Airflow")
        with (self.logs / "supervisor.log").open("wb") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "deploy.local.supervisor", str(self.home)],
                cwd=PROJECT,
                env={**self.environment(), **processes.mark(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        say("waiting until all parts are healthy")
        deadline = time.monotonic() + HEALTHY_S
        while problems := self.problems(since):
            if self._supervisor.poll() is not None or ((state := self.state()) and state.failure):
                raise StackError(self.failure() or f"The supervisor died.\n{tail(self.logs / 'supervisor.log')}")
            if any(problem.startswith("a DAG file") for problem in problems) or time.monotonic() > deadline:
                raise StackError("It does not get healthy:\n" + "\n".join(problems) + f"\nLogs: {self.logs}")
            time.sleep(0.3)
        with self.airflow() as client:
            client.patch(f"dags/{MAIN_DAG}", json={"is_paused": False}).raise_for_status()

    def failure(self) -> str | None:
        """Return which part died last time and the end of its log, None if none did."""
        state = self.state()
        if state is None or state.failure is None:
            return None
        name, status = state.failure.part, state.failure.returncode
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{name} {ended}; the rest was stopped.\n{tail(self.logs / f'{name}.log')}"

    def _parts(self) -> list[Part]:
        """Return the parts with their commands, each with the variables that its work needs and no others."""
        python = sys.executable
        cdn = ["uvicorn", "deploy.local.cdn:app", "--factory", "--host", "127.0.0.1", "--port", str(self.ports.cdn)]
        shared = self._airflow_environment()
        tasks = {
            **shared,
            **self._stores(),
            **self._connections("pipeline", "rewriter", "retention"),
            **self.environment("KEYSERVER_PUBLIC_URL"),
        }
        tasks["PYTHONPATH"] = shared["PYTHONPATH"]
        commands = {
            # These two first, and so the first to end: what is under way in them finishes through Airflow's API.
            "airflow-scheduler": (["airflow", "scheduler"], tasks),
            "airflow-triggerer": (["airflow", "triggerer"], shared),
            "api": (
                ["gunicorn", "-c", "api/gunicorn.conf.py", "api:create_app()"],
                self.environment(
                    "KEYSERVER_API_DATABASE_URL",
                    "KEYSERVER_API_BIND",
                    "KEYSERVER_ATTESTATION_SECRET",
                    "KEYSERVER_KEYWRAP_URL",
                    "KEYSERVER_REVISION_TOKEN_AAD",
                    "KEYSERVER_SECRETS_URL",
                ),
            ),
            "verification": (
                ["gunicorn", "-c", "api/gunicorn.conf.py", "api.verification:create_verification_app()"],
                {
                    **self.environment(
                        "KEYSERVER_VERIFICATION_DATABASE_URL",
                        "KEYSERVER_VERIFICATION_SIGNER_URL",
                        "KEYSERVER_VERIFICATION_SECRET",
                    ),
                    "KEYSERVER_API_BIND": f"127.0.0.1:{self.ports.verification}",
                },
            ),
            # Addresses of phones are in no log.
            "cdn": ([*cdn, "--no-access-log"], self.environment("KEYSERVER_BLOBS_URL")),
            # The operators' pages are shown by this one, and read as the auditor does.
            "airflow-apiserver": (["airflow", "api-server"], {**shared, **self._connections("auditor")}),
            "airflow-dag-processor": (["airflow", "dag-processor"], shared),
        }
        return [
            Part(
                name,
                [python, "-m", *command],
                environment,
                self.logs / f"{name}.log",
                patience_s=LAST_WORK_S.get(name, 0.0),
            )
            for name, (command, environment) in commands.items()
        ]

    def _airflow_environment(self) -> dict[str, str]:
        secret = self._secrets()
        database = urlsplit(self._url("airflow", "airflow"))
        return {
            **self.environment(),
            **parse((PROJECT / "deploy" / "airflow.env").read_text()),
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            # SQLAlchemy takes a plain postgresql:// for psycopg 3; Airflow's own statements are written for psycopg2.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": urlunsplit(database._replace(scheme="postgresql+psycopg2")),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports.airflow),
            "AIRFLOW__API__BASE_URL": self.urls.airflow,
            "AIRFLOW__API__SECRET_KEY": secret.api_secret_key,
            "AIRFLOW__API_AUTH__JWT_SECRET": secret.jwt_secret,
            "AIRFLOW__CORE__FERNET_KEY": secret.fernet_key,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.urls.airflow}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{u}:{r}" for u, r in AIRFLOW_ROLES.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "airflow" / "passwords.json"),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.ports.worker_log),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports.trigger_log),
            # An edited or new DAG file shows within seconds: this is where people develop.
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        }

    def _stores(self) -> dict[str, str]:
        """Return the Connections of the tasks that are no database, as the variables that Airflow reads them from."""
        urls = {"BLOBS": self.blobs.as_uri(), "SIGNER": self.signer.as_uri(), "KEYWRAP": self.keywrap.as_uri()}
        return {
            f"AIRFLOW_CONN_KEYSERVER_{name}": json.dumps({"conn_type": "generic", "extra": {"url": url}})
            for name, url in urls.items()
        }

    def _connections(self, *roles: str) -> dict[str, str]:
        """Return the Connections to our database as these roles."""
        return {
            f"AIRFLOW_CONN_KEYSERVER_{role.upper()}": json.dumps(postgres_connection(self.database_url(role)))
            for role in roles
        }

    def _secrets(self) -> Secrets:
        """Return the secrets of this home, made when first asked for; an older home gets those that came since."""
        path = self.home / "secrets.json"
        stored = json.loads(path.read_text()) if path.exists() else {}
        fresh = asdict(Secrets.generate())
        complete = {**fresh, **stored}
        for logins in ("airflow_logins", "database_passwords"):
            complete[logins] = {**fresh[logins], **complete[logins]}
        if complete != stored:
            self.home.mkdir(parents=True, exist_ok=True)
            _write_secret(path, json.dumps(complete, indent=2))
        return Secrets(**complete)


def postgres_connection(url: str) -> dict[str, object]:
    """Return an Airflow Connection (conn_type postgres) of a libpq URL, its query parameters as ``extra``."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    connection = {
        "conn_type": "postgres",
        "host": query.pop("host", parts.hostname),
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": unquote(parts.path.removeprefix("/")),
        "port": parts.port or int(query.pop("port", "5432")),
        "extra": query,
    }
    return {name: value for name, value in connection.items() if value}


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log with a headline."""
    if not log.exists():
        return f"({log} was not written.)"
    return f"The end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    fresh.rename(path)
