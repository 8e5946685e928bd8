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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keyserver.errors import ConfigurationError, KeyserverError, RemoteError

if TYPE_CHECKING:
    from keyserver.device.exportreader import ExportFile
    from keyserver.runtime import Runtime
    from keyserver.settings import Settings

_ROLES = ("migrate", "api", "pipeline", "rewriter", "auditor", "verification")


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

    if user_report_webhook is not None and not user_report_webhook.startswith("https://"):
        raise ConfigurationError("the webhook's URL must be of https")
    realm = NewRealm(
        name, issuer, audience, kid, certificate_key, token_key, dates, bool(user_report_webhook), user_report_webhook
    )
    secret = _verification_secret() if user_report_webhook else b""
    with _pipeline("keyserver verification realm-create") as runtime:
        create_realm(runtime, realm)
    typer.echo(f"Realm {name} is declared.")
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
    from keyserver.device.settings import PhoneSettings

    settings = PhoneSettings.load(phone)
    trusted = settings.trusted()
    lines = client.fetch_index(settings.index_url)
    for line in lines:
        data = client.fetch_file(settings.base_url, line)
        typer.echo(f"{settings.base_url}{line}: {_facts(data, exportreader.verify(data, trusted))}")
    typer.echo(f"{len(lines)} files, each with a signature that verifies.")


@device.command("verify")
def device_verify(
    file: Path,
    *,
    public_key: Annotated[Path, typer.Option(help="The export signing key's public half, in PEM.")],
    key_id: Annotated[str, typer.Option(help="Its key id, as the file names it.")],
    key_version: Annotated[str, typer.Option(help="Its key version, as the file names it.")] = "v1",
) -> None:
    """Verify one released file by the acceptance rules of both phone platforms."""
    from keyserver.device import exportreader
    from keyserver.device.settings import load_trusted_key

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    read = exportreader.verify(data, {(key_id, key_version): load_trusted_key(public_key)})
    typer.echo(f"{file}: {_facts(data, read)}. Its signature verifies.")


def _facts(data: bytes, read: ExportFile) -> str:
    import hashlib

    span = f"{read.start:%Y-%m-%dT%H:%M:%SZ} to {read.end:%Y-%m-%dT%H:%M:%SZ}"
    return (
        f"{read.region}, {span}, {len(read.keys)} keys, {len(read.revised_keys)} revised,"
        f" SHA-256 {hashlib.sha256(data).hexdigest()}"
    )


def _settings() -> Settings:
    from keyserver.settings import Settings

    return Settings.from_environment(os.environ)


def _verification_secret() -> bytes:
    secret = _settings().verification_secret
    if secret is None:
        raise ConfigurationError("KEYSERVER_VERIFICATION_SECRET is not set: give the verification service's own")
    return secret


@contextmanager
def _pipeline(command: str, *, keywrap: bool = False) -> Iterator[Runtime]:
    """Lend a runtime with the pipeline's rights, for a command that audit events will name."""
    from keyserver.audit import Actor
    from keyserver.runtime import open_runtime

    settings = _settings()
    keywrap_url = settings.url("keywrap") if keywrap else None
    runtime = open_runtime(Actor(command), settings.url("pipeline"), keywrap_url=keywrap_url)
    try:
        yield runtime
    finally:
        runtime.close()
