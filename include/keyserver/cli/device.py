"""Act as a phone: upload, follow an index, verify a file, read the public log."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from keyserver.cli import edge

commands = edge.group("Act as a phone: upload, follow an index, verify a file.")
log = edge.group("Read the public log beside an index.")
commands.add_typer(log, name="log")


@commands.command("upload")
def device_upload(
    phone: Annotated[Path, typer.Argument(help="The phone's settings, JSON.")],
    *,
    days: Annotated[int, typer.Option(min=1, max=14, help="How many days' keys it has.")] = 14,
    report_type: Annotated[
        Literal["confirmed", "likely", "user-report"], typer.Option(help="What the certificate says.")
    ] = "confirmed",
) -> None:
    """Upload the keys of a new phone, with a development certificate; today's key is held back until it ended."""
    from datetime import UTC, datetime, timedelta
    from functools import partial

    from keyserver.device.phone import Phone
    from keyserver.device.settings import PhoneSettings

    settings = PhoneSettings.load(phone)
    now = datetime.now(UTC)
    simulated = Phone(settings.trusted())
    simulated.carry(now - timedelta(days=days), now - timedelta(days=1))
    certify = partial(settings.open_issuer().certify, report_type=report_type, now=now)
    answer = simulated.upload(settings.api_url, simulated.publish_request(now, settings.app, certify))
    said = f": {answer.code}, {answer.error}" if answer.code else ""
    typer.echo(f"The server answered {answer.status}{said}. It took {answer.inserted} new keys.")
    for warning in answer.warnings:
        typer.echo(f"It warned: {warning}")
    if answer.code:
        raise typer.Exit(1)


@commands.command("check")
def device_check(phone: Annotated[Path, typer.Argument(help="The phone's settings, JSON.")]) -> None:
    """Follow the index to its end and verify every file as a phone does; one line a file."""
    from keyserver.device import client, exportreader
    from keyserver.device.filecheck import Facts
    from keyserver.device.settings import PhoneSettings

    settings = PhoneSettings.load(phone)
    trusted = settings.trusted()
    lines = client.fetch_index(settings.index_url)
    spans = []
    for line in lines:
        data = client.fetch_file(settings.base_url, line)
        facts = Facts.of(data, exportreader.verify(data, trusted))
        spans.append((facts.start, facts.end))
        exportreader.demand_distinct(spans)
        typer.echo(f"{settings.base_url}{line}: {facts}")
    typer.echo(f"{len(lines)} files, each with a signature that verifies.")


@commands.command("verify")
def device_verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of one index, as they were downloaded.")
    ],
    *,
    public_key: Annotated[Path, typer.Option(help="The export signing key's public half, in PEM.")],
    key_id: Annotated[
        str | None, typer.Option(help="The key id by which the files must name it; else any that verifies will do.")
    ] = None,
    key_version: Annotated[str, typer.Option(help="The version that goes with --key-id.")] = "v1",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify released files by the acceptance rules of both phone platforms: format, values, signature, distinct spans.

    Ends with status 0 if phones would take them all, with 1 if they would refuse one, or one cannot be read.
    """
    import json

    from keyserver.device import filecheck
    from keyserver.device.settings import load_trusted_key

    name = None if key_id is None else (key_id, key_version)
    accepted = True
    verdicts = []
    for verdict in filecheck.check(files, load_trusted_key(public_key), name):
        accepted = accepted and verdict.facts is not None
        if as_json:
            verdicts.append(verdict.as_json())
        elif verdict.facts is not None:
            typer.echo(f"{verdict.file}: {verdict.facts}. Its signature verifies.")
        else:
            typer.secho(f"{verdict.file}: refused: {verdict.problem}", fg=typer.colors.RED, err=True)
    if as_json:
        typer.echo(json.dumps({"accepted": accepted, "files": verdicts}, indent=2))
    if not accepted:
        raise typer.Exit(1)


@log.command("verify")
def device_log_verify(  # noqa: PLR0913 - an option each
    url: Annotated[str, typer.Argument(help="The URL of the index: .../index.txt.")],
    *,
    public_key: Annotated[
        list[Path],
        typer.Option(default_factory=list, help="A key that signs the log, in PEM; once for each that ever did."),
    ],
    file: Annotated[Path | None, typer.Option(help="A released file that must be in the log.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download all that is listed, and compare.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Compare with what this file says, then write down what was seen now.")
    ] = None,
    listed_days: Annotated[
        int, typer.Option(min=1, max=14, help="For how long the operator says that a line stands in the index.")
    ] = 14,
) -> None:
    """Walk a public log from end to end and say what does not hold: status 0 if all does, 1 if something does not.

    It shows that the log is one unbroken, signed story that fits the index, and with a checkpoint that it is still the
    same story; not that what it tells was ever true.
    """
    from datetime import UTC, datetime, timedelta

    from keyserver.device import releaselog
    from keyserver.device.settings import load_trusted_key

    kept = None
    if checkpoint is not None and checkpoint.exists():
        kept = releaselog.Checkpoint.load(edge.content(checkpoint).decode(errors="replace"))
    report = releaselog.check_log(
        url,
        datetime.now(UTC),
        public_keys=[load_trusted_key(path) for path in public_key],
        kept=kept,
        file=edge.content(file) if file else None,
        download=download,
        listed_for=timedelta(days=listed_days),
    )
    for fact in report.facts:
        typer.echo(fact)
    for finding in report.findings:
        typer.secho(finding, fg=typer.colors.RED, err=True)
    if report.findings:
        raise typer.Exit(1)
    typer.echo("Nothing is wrong with it.")
    if checkpoint is not None and report.checkpoint is not None:
        edge.replace(checkpoint, report.checkpoint.dump())
