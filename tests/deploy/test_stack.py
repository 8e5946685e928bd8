"""Running it on one machine, short of Airflow: ports, state, files, the CDN, and processes that die."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import psycopg
import pytest
import uvicorn
import yaml
from cryptography.fernet import Fernet

from deploy import metadata
from deploy.local import postgres, processes, supervisor
from deploy.local.cdn import app, cdn
from deploy.local.ports import VARIABLES, Ports
from deploy.local.postgres import Server
from deploy.local.stack import MAIN_DAG, PROJECT, Stack, StackError, postgres_connection
from deploy.local.supervisor import Failure, Part, State
from keyserver.errors import ConfigurationError


def wait_for(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until it is true; how long is no claim of the test, only its end is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


# Ports


@pytest.mark.parametrize("name", VARIABLES)
def test_a_taken_port_names_port_variable_and_process(name: str) -> None:
    ports = Ports.unused()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(ports, name)))
        taken.listen()
        with pytest.raises(ConfigurationError) as error:
            ports.check()
    message = str(error.value)
    assert f"Port {getattr(ports, name)} is taken by process {os.getpid()}" in message
    assert VARIABLES[name] in message
    assert message.count("Port") == 1
    ports.check()


def test_a_port_that_is_set_twice_names_both_variables() -> None:
    port = str(Ports.unused().api)
    ports = Ports.from_environment({"KEYSERVER_API_PORT": port, "KEYSERVER_CDN_PORT": port})
    with pytest.raises(ConfigurationError, match="set twice, by KEYSERVER_API_PORT and KEYSERVER_CDN_PORT"):
        ports.check()


def test_ports_come_from_the_environment() -> None:
    assert Ports.from_environment({"KEYSERVER_CDN_PORT": ""}) == Ports()
    chosen = Ports.from_environment({variable: str(9000 + n) for n, variable in enumerate(VARIABLES.values())})
    assert chosen == Ports(9000, 9001, 9002, 9003, 9004, 9005)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "8010.0", "٨"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="KEYSERVER_API_PORT"):
        Ports.from_environment({"KEYSERVER_API_PORT": text})


def test_a_taken_port_is_found_before_anything_is_started(tmp_path: Path) -> None:
    ports = Ports.unused()
    stack = Stack(tmp_path / "home", ports)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.cdn))
        taken.listen()
        with pytest.raises(ConfigurationError, match="KEYSERVER_CDN_PORT"):
            stack.start()
    assert not (stack.home / "postgres").exists()
    assert not stack.running()


# What a stack writes and hands out


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path / "home", Ports.unused(), admin_url="postgresql://boss:secret@db.example:5433/postgres?a=b")


def test_secrets_are_made_once_and_are_the_owner_s(stack: Stack, tmp_path: Path) -> None:
    passwords = stack.passwords
    assert passwords.keys() == {"admin", "op", "viewer", "auditor"}
    assert len(set(passwords.values())) == 4
    assert Stack(stack.home).passwords == passwords
    assert Stack(tmp_path / "other").passwords != passwords
    assert stat.S_IMODE((stack.home / "secrets.json").stat().st_mode) == 0o600
    Fernet(stack._airflow_environment()["AIRFLOW__CORE__FERNET_KEY"])


def test_role_urls_of_an_existing_server_keep_its_address_and_options(stack: Stack) -> None:
    url = stack.database_url("api")
    assert url.startswith("postgresql://keyserver_api:")
    assert url.endswith("@db.example:5433/keyserver?a=b")
    assert "secret" not in url
    assert "boss" not in url


def test_each_part_gets_only_what_its_work_needs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "of somebody else's Airflow")
    monkeypatch.setenv("UNRELATED_TOKEN", "secret")
    ours = {
        part.name: {name for name in part.environment if name.startswith(("KEYSERVER_", "AIRFLOW_CONN_"))}
        for part in stack._parts()
    }
    assert ours == {
        "api": {
            "KEYSERVER_API_DATABASE_URL",
            "KEYSERVER_API_BIND",
            "KEYSERVER_ATTESTATION_SECRET",
            "KEYSERVER_KEYWRAP_URL",
            "KEYSERVER_REVISION_TOKEN_AAD",
            "KEYSERVER_SECRETS_URL",
        },
        "verification": {
            "KEYSERVER_VERIFICATION_DATABASE_URL",
            "KEYSERVER_VERIFICATION_SIGNER_URL",
            "KEYSERVER_VERIFICATION_SECRET",
            "KEYSERVER_API_BIND",
        },
        "cdn": {"KEYSERVER_BLOBS_URL"},
        "airflow-apiserver": {"AIRFLOW_CONN_KEYSERVER_AUDITOR"},
        "airflow-scheduler": {
            "AIRFLOW_CONN_KEYSERVER_PIPELINE",
            "AIRFLOW_CONN_KEYSERVER_REWRITER",
            "AIRFLOW_CONN_KEYSERVER_RETENTION",
            "AIRFLOW_CONN_KEYSERVER_BLOBS",
            "AIRFLOW_CONN_KEYSERVER_SIGNER",
            "AIRFLOW_CONN_KEYSERVER_KEYWRAP",
            "KEYSERVER_PUBLIC_URL",
        },
        "airflow-dag-processor": set(),
        "airflow-triggerer": set(),
    }
    for part in stack._parts():
        assert "UNRELATED_TOKEN" not in part.environment
        assert part.environment.get("AIRFLOW__CORE__EXECUTOR") in {None, "LocalExecutor"}
    assert "KEYSERVER_ADMIN_DATABASE_URL" not in stack.cli_environment()


def test_airflow_knows_every_option_that_is_set(stack: Stack) -> None:
    options = [name for name in stack._airflow_environment() if name.startswith("AIRFLOW__")]
    assert len(options) > 20
    known = yaml.safe_load(files("airflow").joinpath("config_templates/config.yml").read_text())
    for name in options:
        _, section, option = name.split("__")
        assert option.lower() in known[section.lower()]["options"], name


def test_airflow_notices_killed_workers_within_the_promise(stack: Stack) -> None:
    """Rule B12's numbers."""
    environment = stack._airflow_environment()
    assert environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"] == "60"
    assert environment["AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL"] == "20"
    assert environment["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"] == "60"
    assert environment["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL"] == "15"
    assert int(environment["AIRFLOW__CORE__DEFAULT_TASK_RETRIES"]) > 0


def test_the_main_dag_is_one_of_ours() -> None:
    assert (PROJECT / "dags" / f"{MAIN_DAG}.py").is_file()


def test_a_connection_says_what_the_url_says() -> None:
    assert postgres_connection("postgresql://keyserver_api@/keyserver?host=/a/b") == {
        "conn_type": "postgres", "host": "/a/b", "login": "keyserver_api", "schema": "keyserver", "port": 5432,
    }  # fmt: skip
    assert postgres_connection("postgresql://a%40b:p%2Fw@db:5433/k?sslmode=require") == {
        "conn_type": "postgres", "host": "db", "login": "a@b", "password": "p/w", "schema": "k", "port": 5433,
        "extra": {"sslmode": "require"},
    }  # fmt: skip


def test_a_stack_is_described_by_the_environment(tmp_path: Path) -> None:
    stack = Stack.from_environment({"KEYSERVER_HOME": str(tmp_path), "KEYSERVER_AIRFLOW_PORT": "9999"})
    assert (stack.home, stack.window_minutes, stack.urls.airflow) == (tmp_path, 1, "http://127.0.0.1:9999")
    assert Stack.from_environment({}).home == PROJECT / ".keyserver"
    with pytest.raises(ConfigurationError, match="KEYSERVER_WINDOW_MINUTES"):
        Stack.from_environment({"KEYSERVER_WINDOW_MINUTES": "7"})


def test_the_state_file_says_what_was_written(tmp_path: Path) -> None:
    assert State.read(tmp_path) is None
    me = processes.identify(os.getpid())
    assert me is not None
    written = State(me, {"cdn": me}, Failure("cdn", -9))
    written.write(tmp_path)
    assert State.read(tmp_path) == written
    assert written.running()


# The embedded PostgreSQL


# Not below pytest's own folders: each session of pytest takes other users' rights from them, the server's among these.


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = postgres.server(Path(folder) / "data", postgres.THROWAWAY)
        yield server
        server.stop()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as parent:
        yield Path(parent)
        for pid_file in Path(parent).rglob("postmaster.pid"):
            postgres.stop(pid_file.parent)


def test_a_server_starts_is_found_running_and_stops(folder: Path) -> None:
    folder = folder / "data"
    first = postgres.server(folder)
    assert postgres.server(folder) == first
    assert postgres.running(folder)
    first.stop()
    assert not postgres.running(folder)
    first.stop()
    again = postgres.server(folder)
    with psycopg.connect(again.admin_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    again.stop()


def test_only_the_server_s_user_reaches_its_socket_and_no_port_is_open(database: Server) -> None:
    assert database.folder is not None
    assert stat.S_IMODE(database.folder.stat().st_mode) == 0o700
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_settings_are_in_force(database: Server) -> None:
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("off",)


def test_a_path_too_long_for_a_socket_works_all_the_same(folder: Path) -> None:
    server = postgres.server(folder / ("long" * 30) / "data", postgres.THROWAWAY)
    with psycopg.connect(server.admin_url) as connection:
        row = connection.execute("SHOW unix_socket_directories").fetchone()
    assert row is not None
    assert Path(row[0]) != server.folder
    assert stat.S_IMODE(Path(row[0]).stat().st_mode) == 0o700


def test_what_postgresql_says_against_a_start_is_told(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "foreign").write_text("a file of somebody else")
    with pytest.raises(ConfigurationError, match="exists but is not empty"):
        postgres.server(folder / "data")


def test_a_stale_pid_file_names_nobody(folder: Path) -> None:
    (folder / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n")
    assert not postgres.running(folder)
    postgres.stop(folder)


def test_a_path_that_cannot_work_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="KEYSERVER_HOME"):
        postgres.server(tmp_path / "with space")


def test_somebody_else_s_server_is_left_running(database: Server) -> None:
    Server(database.admin_url, None).stop()
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_airflow_s_database_is_migrated_once_and_after_a_failure_again(database: Server) -> None:
    url = "postgresql+psycopg2://flow:p%40ss@/flowdb"
    done: list[int] = []

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        metadata.set_up(database.admin_url, url, fail)
    for _ in range(2):
        metadata.set_up(database.admin_url, url, lambda: done.append(1))
    assert done == [1]
    with psycopg.connect(database.admin_url.replace("postgres@/postgres", "flow@/flowdb")) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("flow",)


# Processes: one dies, all stop; nothing is left behind


SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Deaf to SIGTERM, with a child in a session of its own, whose title (and with it the environment) is rewritten.
STUBBORN = [
    sys.executable,
    "-c",
    """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import setproctitle, time; setproctitle.setproctitle('a worker'); print('up', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
time.sleep(600)
""",
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end(lambda: processes.marked(tmp_path), grace_s=0.0)


def supervise(home: Path, commands: dict[str, list[str]], patience_s: float = 0.0) -> subprocess.Popen[bytes]:
    """Start a supervisor as `Stack` does, and wait until its parts run."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{PROJECT / 'include'}{os.pathsep}{PROJECT}"}
    parts = [Part(name, command, environment, home / f"{name}.log", patience_s) for name, command in commands.items()]
    supervisor.plan(home, parts)
    assert stat.S_IMODE((home / "supervisor.json").stat().st_mode) == 0o600
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local.supervisor", str(home)],
        cwd=PROJECT,
        env={**environment, **processes.mark(home)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: (state := State.read(home)) and state.parts.keys() == commands.keys())
    return process


def state_of(home: Path) -> State:
    state = State.read(home)
    assert state is not None
    return state


def test_when_one_part_is_killed_all_stop_and_the_state_says_which(home: Path) -> None:
    process = supervise(home, {"api": SLEEP, "cdn": SLEEP})
    os.kill(state_of(home).parts["cdn"].pid, signal.SIGKILL)
    assert process.wait(60) == 1
    assert processes.marked(home) == []
    assert state_of(home).failure == Failure("cdn", -signal.SIGKILL)
    assert not state_of(home).running()
    stack = Stack(home)
    stack.logs.mkdir()
    (stack.logs / "cdn.log").write_text("what it said last\n")
    assert stack.failure() == (
        f"cdn was killed by signal 9; the rest was stopped.\nThe end of {stack.logs / 'cdn.log'}:\nwhat it said last"
    )


def test_a_part_that_ends_by_itself_stops_the_rest_and_its_output_is_in_its_log(home: Path) -> None:
    ends = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    assert supervise(home, {"api": ends, "cdn": SLEEP}).wait(60) == 1
    assert state_of(home).failure == Failure("api", 3)
    assert (home / "api.log").read_text() == "the reason\n"
    assert processes.marked(home) == []


def test_the_next_parts_go_on_while_a_patient_one_finishes_its_work(home: Path) -> None:
    code = """
import pathlib, signal, sys, time
def finish(*_):
    while not pathlib.Path('finished').exists(): time.sleep(0.01)
    raise SystemExit(0)
signal.signal(signal.SIGTERM, finish)
pathlib.Path('ready').touch()
time.sleep(600)
"""
    worker = [sys.executable, "-c", f"import os; os.chdir({str(home)!r}){code}"]
    process = supervise(home, {"worker": worker, "api": SLEEP}, patience_s=60.0)
    wait_for((home / "ready").exists)
    process.terminate()
    time.sleep(0.3)
    assert processes.alive(state_of(home).parts["api"])
    (home / "finished").touch()
    assert process.wait(60) == 0
    assert processes.marked(home) == []


def test_stop_is_no_failure(home: Path) -> None:
    process = supervise(home, {"api": SLEEP, "cdn": SLEEP})
    Stack(home).stop()
    assert process.wait(60) == 0
    assert state_of(home).failure is None
    assert processes.marked(home) == []


def test_after_a_crash_of_the_supervisor_stop_finds_every_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.end, "__defaults__", (1.0,))
    process = supervise(home, {"api": SLEEP, "worker": STUBBORN})
    wait_for(lambda: "up" in (home / "worker.log").read_text())
    process.kill()
    process.wait()
    # Two parts, the stubborn one's child, and honcho's process for each part.
    assert len(processes.marked(home)) >= 3
    assert not Stack(home).running()
    Stack(home).stop()
    assert processes.marked(home) == []


def test_a_pid_that_was_given_to_another_process_is_not_ours() -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    assert processes.alive(me)
    assert not processes.alive(processes.Identity(me.pid, me.started - 100))


def test_processes_of_another_home_are_left_alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    process = supervise(home, {"api": SLEEP})
    Stack(other).stop()
    assert process.poll() is None
    assert all(processes.alive(part) for part in state_of(home).parts.values())
    Stack(home).stop()
    process.wait()


def test_two_commands_at_once_do_not_mix(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    with stack._alone(), pytest.raises(StackError, match="just now"):
        Stack(tmp_path).stop()


def test_up_says_that_it_already_runs(home: Path) -> None:
    process = supervise(home, {"api": SLEEP})
    with pytest.raises(StackError, match="already running"):
        Stack(home, Ports.unused()).start()
    assert process.poll() is None
    Stack(home).stop()
    process.wait()


def test_a_failing_step_of_the_set_up_shows_what_it_printed(home: Path) -> None:
    stack = Stack(home)
    stack.logs.mkdir()
    with pytest.raises(StackError, match=r"database-migrate failed \(status 4\)(?s:.*)the reason"):
        stack._run("database-migrate", ["-c", "print('the reason'); raise SystemExit(4)"], dict(os.environ))


# The CDN


@pytest.fixture
def published(tmp_path: Path) -> Path:
    public = tmp_path / "public"
    (public / "r1").mkdir(parents=True)
    (public / "r1" / "index.txt").write_text("r1/a.zip")
    (public / "r1" / "a.zip").write_bytes(b"PK")
    (public / "r1" / ".b.zip").write_bytes(b"unfinished")
    (public / "r1" / "a.zip.json").write_text("{}")
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "c.zip").write_bytes(b"secret")
    (public / "r1" / "link.zip").symlink_to(tmp_path / "staging" / "c.zip")
    return public


@pytest.fixture
def served(published: Path) -> Iterator[httpx.Client]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(cdn(published), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False) as client:
            yield client
        server.should_exit = True
        thread.join()


def test_an_index_is_asked_for_each_time(served: httpx.Client, published: Path) -> None:
    answer = served.get("/r1/index.txt")
    assert (answer.status_code, answer.text) == (200, "r1/a.zip")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["cache-control"] == "no-cache, max-age=0"
    same = served.get("/r1/index.txt", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["cache-control"] == "no-cache, max-age=0"
    (published / "r1" / "index.txt").write_text("r1/a.zip\nr1/d.zip")
    changed = served.get("/r1/index.txt", headers={"If-None-Match": answer.headers["etag"]})
    assert (changed.status_code, changed.text) == (200, "r1/a.zip\nr1/d.zip")


def test_a_log_is_asked_for_each_time_and_nothing_beside_it_is_there(served: httpx.Client, published: Path) -> None:
    (published / "r1" / "log").mkdir()
    for name in ("index.txt", "2026-03-02.txt", "secret.txt", ".2026-03-02.txt"):
        (published / "r1" / "log" / name).write_text(name)
    for name in ("index.txt", "2026-03-02.txt"):
        answer = served.get(f"/r1/log/{name}")
        assert (answer.status_code, answer.text) == (200, name)
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["cache-control"] == "no-cache, max-age=0"
    for name in ("secret.txt", ".2026-03-02.txt"):
        assert served.get(f"/r1/log/{name}").status_code == 404


def test_what_was_moved_out_of_a_log_is_still_served(served: httpx.Client, published: Path) -> None:
    archive = published / "r1" / "log-before-restore" / "2026-03-02-0a1b2c3d"
    archive.mkdir(parents=True)
    for path in (archive.parent / "index.txt", archive / "2026-03-02.txt", archive / "secret.txt"):
        path.write_text(path.name)
    for name in ("index.txt", "2026-03-02-0a1b2c3d/2026-03-02.txt"):
        answer = served.get(f"/r1/log-before-restore/{name}")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache, max-age=0")
    assert served.get("/r1/log-before-restore/2026-03-02-0a1b2c3d/secret.txt").status_code == 404


def test_a_file_may_be_kept_for_a_day(served: httpx.Client) -> None:
    answer = served.get("/r1/a.zip")
    assert (answer.status_code, answer.content) == (200, b"PK")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["cache-control"] == "public, max-age=86400"
    assert answer.headers["etag"]
    assert served.head("/r1/a.zip").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/r1", "/r1/", "/r1/b.zip", "/r1/.b.zip", "/r1/a.zip.json", "/r1/a.zip/", "/index.txt", "/r1/link.zip",
     "/%2e%2e/staging/c.zip", "/..%2fstaging/c.zip", "/r1/%00.zip"],
)  # fmt: skip
def test_all_else_is_not_there(served: httpx.Client, path: str) -> None:
    assert served.get(path).status_code == 404


def test_nothing_can_be_written(served: httpx.Client) -> None:
    assert served.post("/r1/index.txt").status_code == 405
    assert served.put("/r1/a.zip", content=b"x").status_code == 405


def test_the_cdn_serves_the_public_folder_of_the_store(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSERVER_BLOBS_URL", published.parent.as_uri())
    mount = app().routes[0]
    assert Path(mount.app.directory) == published  # type: ignore[attr-defined]
    monkeypatch.setenv("KEYSERVER_BLOBS_URL", "s3://bucket")
    with pytest.raises(ConfigurationError, match="KEYSERVER_BLOBS_URL"):
        app()


def test_an_index_that_is_replaced_while_it_is_read_comes_whole(served: httpx.Client, published: Path) -> None:
    """Short and long versions take turns as the store puts them there; each answer is one of them."""
    versions = [b"r1/a.zip", b"\n".join(b"r1/%05d.zip" % number for number in range(20_000))]
    stop = threading.Event()

    def replace() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            fresh = published / "r1" / f".{turn % 2}"
            fresh.write_bytes(versions[turn % 2])
            fresh.rename(published / "r1" / "index.txt")

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        seen = {served.get("/r1/index.txt").content for _ in range(150)}
    finally:
        stop.set()
        replacing.join()
    assert len(seen) > 1
    assert seen <= {b"r1/a.zip", *versions}
