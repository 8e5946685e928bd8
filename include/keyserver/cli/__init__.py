"""The command line: one module a group of commands, each command a call of one use case.

Settings come from the environment. A command that cannot do its work ends with one message and status 1, or 2 when
trying again may help.
"""

from __future__ import annotations

import logging
import sys

import typer

from keyserver.cli import audit, configuration, database, device, edge, export, keys, quality, retention, verification
from keyserver.cli.doctor import doctor
from keyserver.cli.explain import explain
from keyserver.cli.reconcile import reconcile
from keyserver.errors import KeyserverError, RemoteError

app = edge.group("Run an Exposure Notifications key server.")
app.add_typer(database.commands, name="database")
app.add_typer(configuration.commands, name="configuration")
app.add_typer(keys.commands, name="keys")
app.add_typer(device.commands, name="device")
app.add_typer(export.commands, name="export")
app.add_typer(verification.commands, name="verification")
app.add_typer(quality.commands, name="quality")
app.add_typer(retention.commands, name="retention")
app.add_typer(audit.commands, name="audit")
app.command("doctor")(doctor)
app.command("reconcile")(reconcile)
# What it does not know may be a key: it is not left to the parser of options, which would repeat it.
app.command("explain", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(explain)


def main() -> None:
    """Run the command that the arguments name."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keyserver").setLevel(logging.INFO)
    try:
        app()
    except KeyserverError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(2 if isinstance(error, RemoteError) else 1)
