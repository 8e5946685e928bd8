"""docker-compose.yaml and the Dockerfile, without an engine: the schema holds, and all that they name exists."""

import ast
import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from keyserver import settings
from keyserver.settings import Settings

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "docker-compose.yaml"
DOCKERFILE = PROJECT / "deploy" / "images" / "Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

AIRFLOW_OPTIONS = yaml.safe_load(files("airflow").joinpath("config_templates/config.yml").read_text())

# What the base images bring: python:slim, postgres, nginx-unprivileged.
IMAGE_COMMANDS = {"sh", "printf", "umask", "exec", "python", "pip", "useradd", "install", "curl", "pg_isready"}

# Where the image keeps the project, and what compose mounts over it.
IMAGE_PROJECT = "/opt/keyserver"


def commands(words: list[str]) -> list[list[str]]:
    """Return the simple commands of an exec-form command, those of a `sh -c` text among them."""
    if words[0] != "sh":
        return [words]
    found = [words[:2]]
    for line in re.split(r"[;\n]|&&", words[-1].replace("$$", "$")):
        if line.strip():
            simple = shlex.split(line)
            found.append(simple[1:] if simple[0] == "exec" else simple)
    return found


def service_commands() -> list[tuple[str, list[str]]]:
    found = []
    for name, service in SERVICES.items():
        lists = [service["command"]] if "command" in service else []
        if "healthcheck" in service:
            kind, *words = service["healthcheck"]["test"]
            assert kind == "CMD"
            lists.append(words)
        found += [(name, command) for words in lists for command in commands(words)]
    return found


def dockerfile_steps() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def dockerfile_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for step, rest in dockerfile_steps() if step == "ENV" for pair in shlex.split(rest))


def environments() -> dict[str, dict[str, str]]:
    """Return for each service the variables that it gets from the compose file and its env_file."""
    found = {}
    for name, service in SERVICES.items():
        file = parse((PROJECT / service["env_file"]).read_text()) if "env_file" in service else {}
        found[name] = {**file, **service.get("environment", {})}
    return found


def test_it_meets_the_compose_specification() -> None:
    schema = json.loads((PROJECT / "tests/vectors/compose-spec.json").read_text())
    errors = Draft202012Validator(schema).iter_errors(COMPOSE)
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []


def test_the_schema_refuses_a_misspelt_key() -> None:
    schema = json.loads((PROJECT / "tests/vectors/compose-spec.json").read_text())
    wrong = {**COMPOSE, "services": {"api": {**SERVICES["api"], "heathcheck": {}}}}
    assert not Draft202012Validator(schema).is_valid(wrong)


def test_it_runs_with_old_engines_too() -> None:
    assert "name" not in COMPOSE


def test_all_parts_are_there() -> None:
    assert SERVICES.keys() == {
        "postgres", "migrate", "api", "verification", "proxy", "cdn", "cli",
        "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip


@pytest.mark.parametrize(("service", "command"), service_commands())
def test_commands_exist(service: str, command: list[str]) -> None:
    program = command[0]
    scripts = {path.name for path in (PROJECT / ".venv" / "bin").iterdir()}
    entry_points = {"keyserver"}
    assert program in IMAGE_COMMANDS | scripts | entry_points
    if service in OURS:
        assert program not in {"curl", "pg_isready"}, "python:slim has none"


@pytest.mark.parametrize(("service", "command"), service_commands())
def test_modules_and_paths_of_commands_exist(service: str, command: list[str]) -> None:
    for position, word in enumerate(command):
        if command[0] == "python" and word == "-m":
            assert importlib.util.find_spec(command[position + 1]), command
        elif command[0] == "python" and word == "-c":
            compile(command[position + 1], "healthcheck", "exec")
        elif command[0] == "gunicorn" and word == "-c":
            assert (PROJECT / command[position + 1]).is_file()
        elif command[0] == "gunicorn" and ":" in word:
            module, _, factory = word.partition(":")
            assert callable(getattr(importlib.import_module(module), factory.removesuffix("()")))


def test_airflow_knows_its_commands(tmp_path: Path) -> None:
    asked = [command[1:] for _, command in service_commands() if command[0] == "airflow"]
    assert len(asked) == 6
    script = (
        "import json, sys\n"
        "from airflow.cli import cli_parser\n"
        "parser = cli_parser.get_parser()\n"
        "for arguments in json.loads(sys.argv[1]): assert parser.parse_args(arguments).func\n"
    )
    # In a process of its own: Airflow writes files into its home when it is imported, and takes over the logging.
    environment = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, json.dumps(asked)], env=environment, check=True)


@pytest.mark.parametrize(
    "arguments", [command[1:] for _, command in service_commands() if command[0] == "keyserver"], ids=" ".join
)
def test_the_command_line_knows_its_commands(arguments: list[str]) -> None:
    app = importlib.import_module("keyserver.cli").app
    help_of = [word for word in arguments if word != "--help"]
    assert CliRunner().invoke(app, [*help_of, "--help"]).exit_code == 0


@pytest.mark.parametrize("service", SERVICES)
def test_variables_are_known(service: str) -> None:
    environment = {**dockerfile_environment(), **environments()[service]} if service in OURS else {}
    ours = {name: value for name, value in environment.items() if name.startswith("KEYSERVER_")}
    # It refuses a name that it does not know; values stand for what the operator fills in, random bytes in base64.
    filled = {name: re.sub(r"\$\{\w+:\?[^}]+\}", 44 * "A", value) for name, value in ours.items()}
    filled = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in filled.items()}
    Settings.from_environment({name: "60" if name.endswith("_MINUTES") else value for name, value in filled.items()})
    for name in environment:
        if name.startswith("AIRFLOW__"):
            _, section, option = name.split("__")
            assert option.lower() in AIRFLOW_OPTIONS[section.lower()]["options"], name
        else:
            assert name in {
                "AIRFLOW_HOME", "AIRFLOW_LOGINS", "GX_ANALYTICS_ENABLED", "PYTHONPATH", "PYTHONUNBUFFERED",
                "PYTHONDONTWRITEBYTECODE", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK",
            } or name.startswith(("AIRFLOW_CONN_KEYSERVER_", "KEYSERVER_"))  # fmt: skip


def test_the_image_sets_what_its_files_are_found_by() -> None:
    environment = dockerfile_environment()
    named = [*environment["PYTHONPATH"].split(":"), environment["AIRFLOW__CORE__DAGS_FOLDER"]]
    named.append(environment["AIRFLOW__CORE__PLUGINS_FOLDER"])
    for path in named:
        assert path.startswith(IMAGE_PROJECT)
        assert (PROJECT / path.removeprefix(IMAGE_PROJECT).removeprefix("/")).is_dir()


def test_copied_and_mounted_files_exist() -> None:
    for step, rest in dockerfile_steps():
        if step == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (PROJECT / source).exists(), source
    for service in SERVICES.values():
        assert (PROJECT / service.get("env_file", FILE.name)).is_file()
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (PROJECT / volume.split(":")[0]).is_file()
            elif not volume.startswith("${"):
                assert volume.split(":")[0] in COMPOSE["volumes"]
    assert (PROJECT / COMPOSE["services"]["api"]["build"]["dockerfile"]).samefile(DOCKERFILE)


def test_the_builder_is_sent_what_is_copied_and_no_secret() -> None:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {name for step, rest in dockerfile_steps() if step == "COPY" for name in rest.split()[:-1]}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied | {"deploy/airflow.env"}


def test_dockerfile_commands_exist() -> None:
    steps = dockerfile_steps()
    for step, rest in steps:
        if step == "RUN":
            for command in commands(["sh", "-c", rest]):
                assert command[0] in IMAGE_COMMANDS
    assert [rest for step, rest in steps if step == "USER"] == ["keyserver"], "it does not run as root"
    assert "--require-hashes" in DOCKERFILE.read_text()


def test_the_image_s_python_is_the_one_that_requirements_are_compiled_for() -> None:
    assert ("FROM", "python:3.11-slim") in dockerfile_steps()
    assert "--python-version 3.11" in (PROJECT / "Makefile").read_text()


def test_every_secret_comes_from_the_environment_and_has_no_default() -> None:
    for service, environment in environments().items():
        for name, value in environment.items():
            hidden = re.search(
                r"PASSWORD|SECRET(?!S_URL)|FERNET_KEY|LOGINS|DATABASE_URL|CONN$|(PIPELINE|REWRITER|RETENTION|AUDITOR)$",
                name,
            )
            if hidden and not name.endswith("PASSWORDS_FILE"):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), (service, name)
                assert not re.search(r"\$\{\w+:?-", value), (service, name)


def example_environment(mark: str = "") -> dict[str, str]:
    """Return what the example sets; with the mark, what it only shows."""
    lines = (PROJECT / "deploy" / "compose.env.example").read_text().splitlines()
    return dict(found.groups() for line in lines if (found := re.fullmatch(rf"{mark}([A-Z_]+)=(.*)", line)))


def fields_read(*modules: str) -> set[str]:
    """Return the settings, other than URLs, that these modules of the API ask for."""
    fields = {each.name for each in dataclasses.fields(Settings)} - {"urls"} | {"revision_token_aad"}
    return {
        node.attr.replace("revision_token_aad", "revision_token_aad_or_none")
        for module in modules
        for node in ast.walk(ast.parse((PROJECT / "api" / module).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in {"settings", "_SETTINGS"} and node.attr in fields
    }


# Whatever answers reads these; the modules of a service of its own besides.
SHARED = ("gunicorn.conf.py", "edge.py", "answers.py", "chaff.py", "health.py")
READING = {
    "api": fields_read(*SHARED, "__init__.py", "publish.py", "stats.py", "attestation.py"),
    "verification": fields_read(*SHARED, "verification.py"),
    "migrate": {"window_minutes"},
    "cli": {"verification_secret", "airflow_login", "airflow_password"},
}
VARIABLE_OF = {
    **{name: variable for variable, (name, *_) in settings._INTEGERS.items()},
    **{name: variable for variables in (settings._TEXTS, settings._FLAGS, settings._BASE64)
       for variable, name in variables.items()},
}  # fmt: skip


def test_every_module_of_the_api_is_looked_at() -> None:
    modules = {path.name for path in (PROJECT / "api").glob("*.py") if "settings: Settings" in path.read_text()}
    assert modules <= {*SHARED, "__init__.py", "publish.py", "stats.py", "attestation.py", "verification.py"}


def test_every_setting_is_read_by_a_service() -> None:
    assert set.union(*READING.values()) == VARIABLE_OF.keys()


@pytest.mark.parametrize("service", READING)
def test_a_service_is_given_every_setting_that_it_reads_and_no_other(service: str) -> None:
    given = {variable for variable in environments()[service] if variable in VARIABLE_OF.values()}
    assert given == {VARIABLE_OF[name] for name in READING[service]}


def test_the_limits_that_the_example_shows_are_those_of_the_code() -> None:
    shown = {f"KEYSERVER_{name}": value for name, value in example_environment("#").items()}
    assert Settings.from_environment(shown) == Settings()
    empty = {
        variable
        for service in READING
        for variable, value in environments()[service].items()
        if re.fullmatch(r"\$\{\w+:-\}", value)
    }
    assert empty == shown.keys()


def test_the_example_environment_names_all_variables_and_holds_no_secret() -> None:
    text = FILE.read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert {name for name, value in example_environment().items() if not value} == required
    assert set(re.findall(r"\$\{(\w+)", text)) == example_environment().keys() | example_environment("#").keys()


def test_each_service_has_only_what_its_work_needs() -> None:
    ours = {
        name: {variable for variable in environment if re.match(r"KEYSERVER_|AIRFLOW_CONN_", variable)}
        for name, environment in environments().items()
    }
    assert ours["api"] == {
        "KEYSERVER_API_DATABASE_URL", "KEYSERVER_API_BIND", "KEYSERVER_ATTESTATION_SECRET", "KEYSERVER_KEYWRAP_URL",
        "KEYSERVER_REVISION_TOKEN_AAD", "KEYSERVER_SECRETS_URL",
    } | {VARIABLE_OF[name] for name in READING["api"]}  # fmt: skip
    for name in ("proxy", "cdn", "postgres", "airflow-dag-processor", "airflow-triggerer"):
        assert ours[name] == set(), name
    assert ours["airflow-apiserver"] == {"AIRFLOW_CONN_KEYSERVER_AUDITOR"}
    holders = {
        name for name, service in SERVICES.items() if any(v.startswith("signer:") for v in service.get("volumes", []))
    }
    assert holders == {"migrate", "airflow-scheduler", "cli"}
    unwrapping = {n for n, s in SERVICES.items() if any(v.startswith("keywrap:") for v in s.get("volumes", []))}
    assert unwrapping == {"migrate", "api", "airflow-scheduler", "cli"}
    reading = {n for n, s in SERVICES.items() if any(v.startswith("secrets:") for v in s.get("volumes", []))}
    assert reading == {"api"}
    verifying = {n for n, s in SERVICES.items() if any("verification-signer:" in v for v in s.get("volumes", []))}
    assert verifying == {"migrate", "verification", "cli"}
    assert ours["verification"] == {
        "KEYSERVER_VERIFICATION_DATABASE_URL", "KEYSERVER_VERIFICATION_SIGNER_URL", "KEYSERVER_VERIFICATION_SECRET",
        "KEYSERVER_API_BIND",
    } | {VARIABLE_OF[name] for name in READING["verification"]}  # fmt: skip
    assert [name for name, variables in ours.items() if "KEYSERVER_ADMIN_DATABASE_URL" in variables] == ["migrate"]
    assert [n for n, variables in ours.items() if "AIRFLOW_CONN_KEYSERVER_SIGNER" in variables] == ["airflow-scheduler"]


def test_connections_are_json_with_the_fields_of_airflow() -> None:
    for service in ("airflow-scheduler", "airflow-apiserver"):
        for name, value in environments()[service].items():
            if not name.startswith("AIRFLOW_CONN_"):
                continue
            connection = json.loads(value)
            assert connection["conn_type"] == ("generic" if "url" in connection.get("extra", {}) else "postgres")


def test_the_api_is_reached_through_the_proxy_alone() -> None:
    assert "ports" not in SERVICES["api"]
    assert "ports" not in SERVICES["postgres"]
    proxy = (PROJECT / "deploy" / "images" / "nginx-api.conf").read_text()
    assert f"http://api:{SERVICES['api']['environment']['KEYSERVER_API_BIND'].rpartition(':')[2]}" in proxy
    bind = SERVICES["verification"]["environment"]["KEYSERVER_API_BIND"]
    assert "ports" not in SERVICES["verification"]
    assert f"http://verification:{bind.rpartition(':')[2]}" in proxy
    for name, port in (("proxy", "8443"), ("cdn", "8011")):
        mounted = next(v.split(":")[0] for v in SERVICES[name]["volumes"] if "nginx-" in v)
        assert re.search(rf"listen {port}\b", (PROJECT / mounted).read_text())
        assert SERVICES[name]["ports"][0].endswith(f":{port}")
    assert "access_log off" in proxy
