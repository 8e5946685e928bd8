"""Declare who may use the verification service."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from keyserver.cli import edge
from keyserver.errors import ConfigurationError

commands = edge.group("Declare who may use the verification service.")


class _TestType(StrEnum):
    CONFIRMED = "confirmed"
    LIKELY = "likely"
    NEGATIVE = "negative"


@commands.command("realm-create")
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
    with edge.runtime("keyserver verification realm-create") as runtime:
        create_realm(runtime, realm)
    typer.echo(f"Realm {name} is declared.")
    if user_report_webhook:
        typer.echo(f"The key of X-Keyserver-Signature, in hexadecimal: {webhook_key(secret, name).hex()}")


@commands.command("realm-update")
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
    with edge.runtime("keyserver verification realm-update") as runtime:
        changed = update_realm(runtime, name, changes)
    said = f"changed: {', '.join(changed)}" if changed else "as it was"
    typer.echo(f"Realm {name} is {said}.")
    if user_report_webhook:
        typer.echo(f"The key of X-Keyserver-Signature, in hexadecimal: {webhook_key(secret, name).hex()}")


@commands.command("api-key-create")
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
    with edge.runtime("keyserver verification api-key-create") as runtime:
        typer.echo(create_api_key(runtime, secret, realm, name, kind))


@commands.command("api-key-revoke")
def verification_api_key_revoke(realm: str, name: str) -> None:
    """End an API key at once."""
    from keyserver.verification.realms import revoke_api_key

    with edge.runtime("keyserver verification api-key-revoke") as runtime:
        revoke_api_key(runtime, realm, name)
    typer.echo(f"API key {name} of realm {realm} is revoked.")


def _verification_secret() -> bytes:
    secret = edge.settings().verification_secret
    if secret is None:
        raise ConfigurationError("KEYSERVER_VERIFICATION_SECRET is not set: give the verification service's own")
    return secret


def _check_webhook(url: str | None) -> None:
    if url is not None and not url.startswith("https://"):
        raise ConfigurationError("the webhook's URL must be of https")
