"""The command line: one group a topic, each command a call of one use case.

Settings come from the environment. A command that cannot do its work ends with one message and status 1, or 2 when
trying again may help.
"""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keyserver.errors import ConfigurationError, KeyserverError, RemoteError

if TYPE_CHECKING:
    from datetime import datetime

    from keyserver.oversight.explain import KeyExplanation
    from keyserver.oversight.provenance import Provenance
    from keyserver.oversight.window import WindowExplanation
    from keyserver.runtime import Runtime
    from keyserver.settings import Settings

_ROLES = ("migrate", "api", "pipeline", "rewriter", "auditor", "verification")


class _TestType(StrEnum):
    CONFIRMED = "confirmed"
    LIKELY = "likely"
    NEGATIVE = "negative"


def _group(help_: str) -> typer.Typer:
    return typer.Typer(help=help_, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


app = _group("Run an Exposure Notifications key server.")
database = _group("Set the database up.")
configuration = _group("Declare authorities, apps, feeds and signing keys.")
keys = _group("Keep the keys that sign released files and those that encrypt revision tokens.")
app.add_typer(database, name="database")
app.add_typer(configuration, name="configuration")
app.add_typer(keys, name="keys")
device = _group("Act as a phone: upload, follow an index, verify a file.")
app.add_typer(device, name="device")
device_log = _group("Read the public log beside an index.")
export = _group("Look into what is released, and decide about it.")
app.add_typer(export, name="export")
device.add_typer(device_log, name="log")
verification = _group("Declare who may use the verification service.")
app.add_typer(verification, name="verification")


def main() -> None:
    """Run the command that the arguments name."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keyserver").setLevel(logging.INFO)
    try:
        app()
    except KeyserverError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(2 if isinstance(error, RemoteError) else 1)


@database.command("setup")
def database_setup() -> None:
    """Make the roles and the database, as the superuser of KEYSERVER_ADMIN_DATABASE_URL. Safe to run again."""
    from keyserver.store.database import set_up

    settings = _settings()
    set_up(settings.url("admin"), {f"keyserver_{role}": settings.url(role) for role in _ROLES})
    typer.echo("The database and its roles are there.")


@database.command("migrate")
def database_migrate() -> None:
    """Bring the schema to the newest version and start the release clock. Safe to run again."""
    from keyserver.store.database import migrate

    settings = _settings()
    migrate(settings.url("migrate"), settings.window_minutes)
    typer.echo(f"The schema is the newest; windows are {settings.window_minutes} minutes wide.")


@configuration.command("check")
def configuration_check(file: Path) -> None:
    """Check a document by itself, without the database, and print the SHA-256 of its content."""
    from keyserver.configuration.load import load

    typer.echo(f"{file} has no mistakes. SHA-256 of its content: {load(file).sha256}")


@configuration.command("apply")
def configuration_apply(
    file: Path,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make the database hold what a document declares. Safe to run again."""
    from keyserver.configuration.apply import apply

    with _pipeline("keyserver configuration apply") as runtime:
        sentences = apply(runtime, file, dry_run=dry_run)
    for sentence in sentences:
        typer.echo(sentence)
    if not sentences:
        typer.echo("Nothing changes: all of it is stored already.")
    elif dry_run:
        typer.echo("This was a dry run: nothing is changed yet.")


@keys.command("generate")
def keys_generate(
    name: str,
    *,
    public: Annotated[Path, typer.Option(help="The new file for the public key, in PEM.")],
) -> None:
    """Make an export signing key in the signer of KEYSERVER_SIGNER_URL. The private key never leaves it."""
    from keyserver.providers.signers import generate

    url = _settings().url("signer")
    try:
        # Before the key: one that was made is never made again.
        with public.open("x") as file:
            try:
                file.write(generate(url, name))
            except BaseException:
                public.unlink()
                raise
    except OSError as error:
        raise ConfigurationError(f"{public} cannot be written: {error.strerror}") from error
    typer.echo(f"Signing key {name} is made; its public key is in {public}.")


@keys.command("public")
def keys_public(name: str) -> None:
    """Print the public key, in PEM, of a signing key that the signer holds already."""
    from keyserver.providers.signers import open_signer

    typer.echo(open_signer(_settings().url("signer")).public_key(name), nl=False)


@keys.command("handover")
def keys_handover(
    name: str,
    *,
    folder: Annotated[Path, typer.Option(help="The new folder for what Apple and Google ask for.")],
) -> None:
    """Write what Apple and Google take of a declared signing key, and a signed file without keys that proves it."""
    import json

    from keyserver.keys.exportkeys import handover

    with _pipeline("keyserver keys handover", signer=True) as runtime:
        described = handover(runtime, name)
    summary = json.dumps(described.summary(), indent=2)
    contents = {
        "public.pem": described.public_key.encode(),
        "summary.json": f"{summary}\n".encode(),
        "export.bin": described.sample,
        "signature.der": described.sample_signature,
    }
    try:
        folder.mkdir(parents=True)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}") from error
    typer.echo(summary)


@keys.command("status")
def keys_status() -> None:
    """Show which signing keys are active where, until when, and which feeds will soon be without one."""
    from keyserver.keys.exportkeys import state, status

    with _pipeline("keyserver keys status") as runtime:
        found = status(runtime)
    for key in found.keys:
        moments = {"from": key.active_from, "thru": key.active_thru, "revoked at": key.revoked_at}
        told = ", ".join(f"{what} {_moment(moment)}" for what, moment in moments.items() if moment)
        known_as = f"{key.key_id} {key.key_version}" if key.purpose == "export" else "for the public logs"
        typer.echo(f"{key.name}: {known_as}, {state(key, found.now)}, {told}")
    for feed in found.feeds:
        carried = ", ".join(f"{name} on {number} of {feed.files} listed files" for name, number in feed.carried.items())
        typer.echo(f"feed {feed.feed}: signed by {', '.join(feed.signing) or 'none'}; {carried}")
    _warn(found.warnings)


@keys.command("revoke")
def keys_revoke(
    name: str,
    *,
    reason: Annotated[str, typer.Option(help="Why; the audit trail keeps it.")],
) -> None:
    """End a signing key at once and for good, and list what it signed: for emergencies. Safe to run again."""
    from keyserver.keys.exportkeys import revoke

    with _pipeline("keyserver keys revoke") as runtime:
        done = revoke(runtime, name, reason)
    typer.echo(f"Signing key {name} is revoked since {_moment(done.revoked_at)}: nothing is signed by it any more.")
    for batches, fate in (
        (done.listed, "in the index: `keyserver export withdraw {} --then release-again`"),
        (done.unreleased, "not released: it will be held, then `keyserver export approve {}`"),
    ):
        for batch in batches:
            beside = f"also signed by {', '.join(batch.beside)}" if batch.beside else "signed by no other key in force"
            span = f"{_moment(batch.starts_at)} to {_moment(batch.ends_at)}"
            typer.echo(f"batch {batch.batch_id} of feed {batch.feed}, {span}, {beside}, {fate.format(batch.batch_id)}")
    _warn(done.status.warnings)


@keys.command("generate-master")
def keys_generate_master() -> None:
    """Make the master key of KEYSERVER_KEYWRAP_URL, which revision keys are stored under. It never leaves it."""
    from keyserver.providers.keywrap import generate

    generate(_settings().url("keywrap"))
    typer.echo("The master key is made.")


@keys.command("rotate")
def keys_rotate() -> None:
    """Make a new revision key when the newest is a week old; destroy those that no token needs. Safe to run again."""
    from keyserver.keys.revision import rotate

    with _pipeline("keyserver keys rotate", keywrap=True) as runtime:
        done = rotate(runtime)
    made = "no new key is due" if done.created is None else f"key {done.created} is made"
    typer.echo(f"Revision keys: {made}; {len(done.destroyed)} destroyed.")


@verification.command("realm-create")
def verification_realm_create(  # noqa: PLR0913 - an option each
    name: str,
    *,
    issuer: Annotated[str, typer.Option(help="The certificates' issuer, as the configuration declares it.")],
    audience: Annotated[str, typer.Option(help="The certificates' audience.")],
    kid: Annotated[str, typer.Option(help="The kid of the key that signs certificates.")] = "v1",
    certificate_key: Annotated[str, typer.Option(help="Its name in the verification service's signer.")],
    token_key: Annotated[str, typer.Option(help="The name of the key that signs tokens.")],
    dates: Annotated[bool, typer.Option("--dates/--no-dates", help="Whether a diagnosis needs a date.")] = True,
    user_report_webhook: Annotated[
        str | None, typer.Option(help="Take people's own reports: https URL that is handed their codes.")
    ] = None,
) -> None:
    """Declare a realm. With a webhook, the key that signs what it is handed is printed: it is shown this once."""
    from keyserver.store.verification import NewRealm
    from keyserver.verification.realms import create_realm
    from keyserver.verification.report import webhook_key

    _check_webhook(user_report_webhook)
    realm = NewRealm(
        name, issuer, audience, kid, certificate_key, token_key, dates, bool(user_report_webhook), user_report_webhook
    )
    secret = _verification_secret() if user_report_webhook else b""
    with _pipeline("keyserver verification realm-create") as runtime:
        create_realm(runtime, realm)
    typer.echo(f"Realm {name} is declared.")
    if user_report_webhook:
        typer.echo(f"The key of X-Keyserver-Signature, in hexadecimal: {webhook_key(secret, name).hex()}")


@verification.command("realm-update")
def verification_realm_update(  # noqa: PLR0913 - an option each
    name: str,
    *,
    code_digits: Annotated[int | None, typer.Option(min=6, max=16, help="Digits of a code.")] = None,
    code_minutes: Annotated[int | None, typer.Option(min=1, max=60, help="How long a code is good.")] = None,
    long_code_length: Annotated[int | None, typer.Option(min=12, max=64, help="Characters of a long code.")] = None,
    long_code_minutes: Annotated[int | None, typer.Option(min=1, max=1440, help="How long it is good.")] = None,
    certificate_minutes: Annotated[int | None, typer.Option(min=1, max=60, help="How long it is good.")] = None,
    test_type: Annotated[list[_TestType] | None, typer.Option(help="What codes are issued for; repeat.")] = None,
    dates: Annotated[bool | None, typer.Option("--dates/--no-dates", help="Whether a diagnosis needs a date.")] = None,
    user_report: Annotated[
        bool | None, typer.Option("--user-report/--no-user-report", help="Whether it takes people's own reports.")
    ] = None,
    user_report_webhook: Annotated[
        str | None, typer.Option(help="Take people's own reports: https URL that is handed their codes.")
    ] = None,
    user_report_again_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="How long a number must wait for another code.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Of one API key.")] = None,
    wrong_codes_per_hour: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Of the realm.")] = None,
    codes_per_day: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Of the realm.")] = None,
) -> None:
    """Change a realm's settings from the next request on; what is not named stays. Safe to run again."""
    from datetime import timedelta

    from keyserver.verification.realms import update_realm
    from keyserver.verification.report import webhook_key

    def minutes(number: int | None) -> timedelta | None:
        return None if number is None else timedelta(minutes=number)

    if user_report_webhook is not None and user_report is None:
        user_report = True
    given = {
        "code_digits": code_digits,
        "code_lifetime": minutes(code_minutes),
        "long_code_length": long_code_length,
        "long_code_lifetime": minutes(long_code_minutes),
        "certificate_lifetime": minutes(certificate_minutes),
        "test_types": tuple(dict.fromkeys(str(each) for each in test_type)) if test_type else None,
        "date_required": dates,
        "user_report": user_report,
        "user_report_webhook": user_report_webhook,
        "user_report_again": None if user_report_again_days is None else timedelta(days=user_report_again_days),
        "requests_per_minute": requests_per_minute,
        "wrong_codes_per_hour": wrong_codes_per_hour,
        "codes_per_day": codes_per_day,
    }
    changes = {setting: value for setting, value in given.items() if value is not None}
    if not changes:
        raise ConfigurationError("nothing to change was named: see --help")
    _check_webhook(user_report_webhook)
    secret = _verification_secret() if user_report_webhook else b""
    with _pipeline("keyserver verification realm-update") as runtime:
        changed = update_realm(runtime, name, changes)
    said = f"changed: {', '.join(changed)}" if changed else "as it was"
    typer.echo(f"Realm {name} is {said}.")
    if user_report_webhook:
        typer.echo(f"The key of X-Keyserver-Signature, in hexadecimal: {webhook_key(secret, name).hex()}")


@verification.command("api-key-create")
def verification_api_key_create(
    realm: str,
    name: str,
    *,
    kind: Annotated[
        Literal["admin", "device"], typer.Option("--type", help="For health workers' systems, or for phones.")
    ],
) -> None:
    """Make an API key and print it, this once: only an HMAC of it is stored."""
    from keyserver.verification.realms import create_api_key

    secret = _verification_secret()
    with _pipeline("keyserver verification api-key-create") as runtime:
        typer.echo(create_api_key(runtime, secret, realm, name, kind))


@verification.command("api-key-revoke")
def verification_api_key_revoke(realm: str, name: str) -> None:
    """End an API key at once."""
    from keyserver.verification.realms import revoke_api_key

    with _pipeline("keyserver verification api-key-revoke") as runtime:
        revoke_api_key(runtime, realm, name)
    typer.echo(f"API key {name} of realm {realm} is revoked.")


@device.command("upload")
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


@device.command("check")
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


@device.command("verify")
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


@device_log.command("verify")
def device_log_verify(
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
) -> None:
    """Walk a public log from end to end and say what does not hold: status 0 if all does, 1 if something does not.

    It shows that the log is one unbroken, signed story that fits the index, and with a checkpoint that it is still the
    same story; not that what it tells was ever true.
    """
    from datetime import UTC, datetime

    from keyserver.device import releaselog
    from keyserver.device.settings import load_trusted_key

    kept = None
    if checkpoint is not None and checkpoint.exists():
        kept = releaselog.Checkpoint.load(_content(checkpoint).decode(errors="replace"))
    report = releaselog.check_log(
        url,
        datetime.now(UTC),
        public_keys=[load_trusted_key(path) for path in public_key],
        kept=kept,
        file=_content(file) if file else None,
        download=download,
    )
    for fact in report.facts:
        typer.echo(fact)
    for finding in report.findings:
        typer.secho(finding, fg=typer.colors.RED, err=True)
    if report.findings:
        raise typer.Exit(1)
    typer.echo("Nothing is wrong with it.")
    if checkpoint is not None and report.checkpoint is not None:
        _replace(checkpoint, report.checkpoint.dump())


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


def _replace(file: Path, text: str) -> None:
    """Write a file so that whoever interrupts it leaves the old one."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        unfinished.write_text(text)
        unfinished.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error


@app.command("explain", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def explain(
    context: typer.Context,
    key: Annotated[
        str | None,
        typer.Argument(help="A key in base64 or hexadecimal; better -, to read it from the terminal or a pipe."),
    ] = None,
    *,
    window: Annotated[str | None, typer.Option(help="Explain a window: its start, such as 2026-03-02T10:00Z.")] = None,
    file: Annotated[str | None, typer.Option(help="Explain a file: its name as the index lists it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say where a key is or why it is nowhere, what became of a window, or what a file is. No key is printed or logged.

    A key that is an argument is seen by other users of the machine and kept in the shell's history: with - it is not.
    """
    from keyserver.oversight import explain as keys_explained
    from keyserver.oversight.provenance import provenance
    from keyserver.oversight.window import explain_window

    # Not left to the parser of options, which would repeat what it does not know, and that may be a key.
    if context.args or (key is not None) + (window is not None) + (file is not None) != 1:
        raise ConfigurationError("give one of: a key, --window START, --file NAME; and --json, if you want that")
    wanted = None if key is None else keys_explained.parse_key(_from_input() if key == "-" else key)
    with _pipeline("keyserver explain", blobs=wanted is not None) as runtime:
        if wanted is not None:
            _answer(keys_explained.explain_key(runtime, wanted), [], as_json=as_json)
        elif window is not None:
            of_window = explain_window(runtime, _parse_moment(window))
            _answer(of_window, of_window.problems, as_json=as_json)
        else:
            of_file = provenance(runtime, file or "")
            _answer(of_file, of_file.problems, as_json=as_json)


@export.command("provenance")
def export_provenance(
    file_or_batch: Annotated[str, typer.Argument(help="A file as the index lists it, its URL, or a batch's number.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a batch's files were made of, by which rules, code and keys. Status 1 if its counts do not add up."""
    from keyserver.oversight.provenance import provenance

    with _pipeline("keyserver export provenance") as runtime:
        record = provenance(runtime, file_or_batch)
    _answer(record, record.problems, as_json=as_json)


@export.command("rebuild")
def export_rebuild(
    batch: int,
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare with what was recorded.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the files that come out to this folder.")] = None,
) -> None:
    """Make a batch's files again from the database. With --check: status 0 only if they are proven to be identical."""
    from keyserver.export.build import rebuild as build
    from keyserver.oversight.rebuild import rebuild

    if not check and out is None:
        raise ConfigurationError("give --check, --out FOLDER or both")
    with _pipeline("keyserver export rebuild") as runtime:
        rebuilt = rebuild(runtime, batch, build, out)
    if out is not None:
        typer.echo(f"{len(rebuilt.files)} files come out, in {out}.")
    if check:
        for sentence in rebuilt.sentences():
            typer.echo(sentence)
        if not rebuilt.is_proven:
            raise typer.Exit(1)


@export.command("held")
def export_held() -> None:
    """List the batches that wait for a decision, why, and since when. After 24 hours without one they are rejected."""
    from keyserver.export.decide import held

    with _pipeline("keyserver export held") as runtime:
        waiting = held(runtime)
    for batch in waiting:
        since = f"held since {_moment(batch.held_at)}" if batch.held_at else "held"
        span = f"{_moment(batch.starts_at)} to {_moment(batch.ends_at)}"
        typer.echo(f"batch {batch.batch_id} of feed {batch.feed}, {span}, {since}: {batch.problem}")
        if batch.revisions:
            typer.echo(f"  It alone carries {batch.revisions} revisions; a rejection keeps them unless told otherwise.")
    if not waiting:
        typer.echo("No batch is held.")


_Reason = Annotated[str, typer.Option("--reason", help="Why, in one line; the audit trail keeps it.")]


@export.command("approve")
def export_approve(batch: int, *, reason: _Reason) -> None:
    """Plan a batch in place of a held one; it may fail the same expectations, and no other. Safe to run again."""
    from keyserver.export.decide import approve

    with _pipeline("keyserver export approve") as runtime:
        planned = approve(runtime, batch, reason)
    typer.echo(f"Batch {batch} is approved: batch {planned} is planned in its place.")


@export.command("reject")
def export_reject(
    batch: int,
    *,
    reason: _Reason,
    drop_revisions: Annotated[
        bool, typer.Option("--drop-revisions", help="Also drop the revisions that it alone carried.")
    ] = False,
) -> None:
    """End a held batch: nothing of it is released. Safe to run again."""
    from keyserver.export.decide import reject

    with _pipeline("keyserver export reject") as runtime:
        planned = reject(runtime, batch, reason, keep_revisions=not drop_revisions)
    told = f"batch {planned} tells its revisions" if planned else "no batch is planned in its place"
    typer.echo(f"Batch {batch} is rejected: {told}.")


@export.command("replace")
def export_replace(
    batch: int,
    *,
    reason: _Reason,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Release the span's keys, though this batch only told revisions.")
    ] = False,
) -> None:
    """Plan a batch in place of a rejected or withdrawn one: its keys are released after all. Safe to run again."""
    from keyserver.export.replace import replace

    with _pipeline("keyserver export replace", blobs=True) as runtime:
        planned = replace(runtime, batch, reason, with_keys=True if with_keys else None)
    typer.echo(f"Batch {planned} is planned in place of batch {batch}.")


@export.command("withdraw")
def export_withdraw(
    batch: int,
    *,
    reason: _Reason,
    then: Annotated[
        Literal["release-again", "drop", "drop-with-revisions"] | None, typer.Option(help="What becomes of its keys.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
) -> None:
    """Take a released batch's files out of the index, the store and the CDN. Safe to run again."""
    from keyserver.export.replace import replace
    from keyserver.export.withdraw import approval_text, finish, for_good, withdraw

    with _pipeline("keyserver export withdraw", blobs=True) as runtime:
        typer.echo(approval_text(runtime, batch, reason))
        if not yes:
            typer.confirm("Withdraw it?", abort=True)
        withdraw(runtime, batch, reason)
        finish(runtime, batch)
        typer.echo(f"Batch {batch} is withdrawn: its public URLs say so.")
        if then == "release-again":
            typer.echo(f"Batch {replace(runtime, batch, reason)} is planned in its place.")
        elif then is not None:
            planned = for_good(runtime, batch, reason, keep_revisions=then == "drop")
            told = f"batch {planned} tells its revisions" if planned else "no batch is planned in its place"
            typer.echo(f"Its keys are dropped: {told}.")


def _answer(answer: KeyExplanation | WindowExplanation | Provenance, problems: list[str], *, as_json: bool) -> None:
    from keyserver.oversight.wording import to_json

    typer.echo(to_json(answer) if as_json else "\n".join(answer.sentences()))
    if problems:
        raise typer.Exit(1)


def _from_input() -> str:
    """Read one line: unseen from a terminal, else from what is piped in."""
    from getpass import getpass

    return getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline(1000)


def _parse_moment(text: str) -> datetime:
    from datetime import UTC, datetime

    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("give the window's start in UTC, such as 2026-03-02T10:00Z") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _settings() -> Settings:
    from keyserver.settings import Settings

    return Settings.from_environment(os.environ)


def _verification_secret() -> bytes:
    secret = _settings().verification_secret
    if secret is None:
        raise ConfigurationError("KEYSERVER_VERIFICATION_SECRET is not set: give the verification service's own")
    return secret


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        typer.secho(f"WARNING: {warning}", fg=typer.colors.YELLOW)


def _moment(moment: datetime) -> str:
    from datetime import UTC

    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _check_webhook(url: str | None) -> None:
    if url is not None and not url.startswith("https://"):
        raise ConfigurationError("the webhook's URL must be of https")


@contextmanager
def _pipeline(command: str, *, blobs: bool = False, keywrap: bool = False, signer: bool = False) -> Iterator[Runtime]:
    """Lend a runtime with the pipeline's rights, for a command that audit events will name."""
    from keyserver.audit import Actor
    from keyserver.runtime import open_runtime

    settings = _settings()
    blobs_url = settings.url("blobs") if blobs else None
    keywrap_url = settings.url("keywrap") if keywrap else None
    signer_url = settings.url("signer") if signer else None
    runtime = open_runtime(
        Actor(command),
        settings.url("pipeline"),
        blobs_url=blobs_url,
        signer_url=signer_url,
        keywrap_url=keywrap_url,
        public_url=settings.urls.get("public"),
    )
    try:
        yield runtime
    finally:
        runtime.close()
