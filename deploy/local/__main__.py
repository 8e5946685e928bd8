"""`python -m deploy.local up | status | down | demo`: what `make` calls."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from deploy.local import processes
from deploy.local.development import Development
from deploy.local.stack import Stack
from keyserver.errors import KeyserverError

app = typer.Typer(help="The key server on this machine.", no_args_is_help=True, add_completion=False)
console = Console(highlight=False)


@app.command()
def up() -> None:
    """Start PostgreSQL, the API, the CDN and Airflow, and return when all are healthy."""
    stack = Stack.from_environment()
    if stack.running():
        console.print("It is already running.")
    else:
        stack.start(lambda step: console.print(f"[dim]·[/] {step}"))
        console.print("[dim]·[/] declaring a made-up health authority")
        development = Development(stack)
        development.declare(datetime.now(UTC))
        console.print(f"Its configuration, its keys and the phones' settings are in {development.folder}.")
    console.print(_addresses(stack))
    console.print("`make status` looks at it, `make down` stops it.")


@app.command()
def status() -> None:
    """Show what runs and whether it is well; the exit status is 0 only if all is."""
    stack = Stack.from_environment()
    state = stack.state()
    if state is None or not state.running():
        console.print(stack.failure() or "It is not running: `make up` starts it.", markup=False)
        raise typer.Exit(1)
    table = Table("part", "process", "state", "log", title="What runs", title_justify="left")
    for name, identity in state.parts.items():
        running = "running" if processes.alive(identity) else "[red]dead[/]"
        table.add_row(name, str(identity.pid), running, str(stack.logs / f"{name}.log"))
    console.print(table)
    console.print(_addresses(stack))
    problems = stack.problems()
    console.print("\n".join(problems) or "All parts are healthy.", markup=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop exactly what `up` started."""
    stack = Stack.from_environment()
    if stack.running() or stack.database_running() or processes.marked(stack.home):
        stack.stop()
        console.print("Stopped.")
    else:
        console.print("It is not running.")


@app.command()
def demo() -> None:
    """Run the main job once, from uploads to verified matches, and stop what it started."""
    from deploy.local.demo import run  # noqa: PLC0415 - the other commands need nothing of it

    raise typer.Exit(run())


def _addresses(stack: Stack) -> Table:
    table = Table("what", "where", "login", title="Where it answers", title_justify="left")
    logins = "\n".join(f"{user} / {password}" for user, password in stack.passwords.items())
    table.add_row("API for phones", stack.urls.api, "")
    table.add_row("CDN", stack.urls.cdn, "")
    table.add_row("Airflow", stack.urls.airflow, logins)
    table.add_row("logs", str(stack.logs), "")
    return table


def main() -> None:
    """Run the command line; what went wrong is told in words, without a trace."""
    try:
        app()
    except KeyserverError as error:
        Console(stderr=True, highlight=False).print(str(error), markup=False, style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
