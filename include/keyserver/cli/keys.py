"""Keep the keys that sign released files and those that encrypt revision tokens."""

# Each command imports what it needs, so that --help and a mistyped command answer at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyserver.cli import edge
from keyserver.errors import ConfigurationError

commands = edge.group("Keep the keys that sign released files and those that encrypt revision tokens.")


@commands.command("generate")
def keys_generate(
    name: str,
    *,
    public: Annotated[Path, typer.Option(help="The new file for the public key, in PEM.")],
) -> None:
    """Make an export signing key in the signer of KEYSERVER_SIGNER_URL. The private key never leaves it."""
    from keyserver.providers.signers import generate

    url = edge.settings().url("signer")
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


@commands.command("public")
def keys_public(name: str) -> None:
    """Print the public key, in PEM, of a signing key that the signer holds already."""
    from keyserver.providers.signers import open_signer

    typer.echo(open_signer(edge.settings().url("signer")).public_key(name), nl=False)


@commands.command("handover")
def keys_handover(
    name: str,
    *,
    folder: Annotated[Path, typer.Option(help="The new folder for what Apple and Google ask for.")],
) -> None:
    """Write what Apple and Google take of a declared signing key, and a signed file without keys that proves it."""
    import json

    from keyserver.keys.exportkeys import handover

    with edge.runtime("keyserver keys handover", signer=True) as runtime:
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


@commands.command("status")
def keys_status() -> None:
    """Show which signing keys are active where, until when, and which feeds will soon be without one."""
    from keyserver.keys.exportkeys import state, status

    with edge.runtime("keyserver keys status") as runtime:
        found = status(runtime)
    for key in found.keys:
        moments = {"from": key.active_from, "thru": key.active_thru, "revoked at": key.revoked_at}
        told = ", ".join(f"{what} {edge.moment(moment)}" for what, moment in moments.items() if moment)
        known_as = f"{key.key_id} {key.key_version}" if key.purpose == "export" else "for the public logs"
        typer.echo(f"{key.name}: {known_as}, {state(key, found.now)}, {told}")
    for feed in found.feeds:
        carried = ", ".join(f"{name} on {number} of {feed.files} listed files" for name, number in feed.carried.items())
        typer.echo(f"feed {feed.feed}: signed by {', '.join(feed.signing) or 'none'}; {carried}")
    edge.warn(found.warnings)


@commands.command("revoke")
def keys_revoke(
    name: str,
    *,
    reason: Annotated[str, typer.Option(help="Why; the audit trail keeps it.")],
) -> None:
    """End a signing key at once and for good, and list what it signed: for emergencies. Safe to run again."""
    from keyserver.keys.exportkeys import revoke

    with edge.runtime("keyserver keys revoke") as runtime:
        done = revoke(runtime, name, reason)
    typer.echo(f"Signing key {name} is revoked since {edge.moment(done.revoked_at)}: nothing is signed by it any more.")
    for batches, fate in (
        (done.listed, "in the index: `keyserver export withdraw {} --then release-again`"),
        (done.unreleased, "not released: it will be held, then `keyserver export approve {}`"),
    ):
        for batch in batches:
            beside = f"also signed by {', '.join(batch.beside)}" if batch.beside else "signed by no other key in force"
            span = f"{edge.moment(batch.starts_at)} to {edge.moment(batch.ends_at)}"
            typer.echo(f"batch {batch.batch_id} of feed {batch.feed}, {span}, {beside}, {fate.format(batch.batch_id)}")
    edge.warn(done.status.warnings)


@commands.command("generate-master")
def keys_generate_master() -> None:
    """Make the master key of KEYSERVER_KEYWRAP_URL, which revision keys are stored under. It never leaves it."""
    from keyserver.providers.keywrap import generate

    generate(edge.settings().url("keywrap"))
    typer.echo("The master key is made.")


@commands.command("rotate")
def keys_rotate() -> None:
    """Make a new revision key when the newest is a week old; destroy those that no token needs. Safe to run again."""
    from keyserver.keys.revision import rotate

    with edge.runtime("keyserver keys rotate", keywrap=True) as runtime:
        done = rotate(runtime)
    made = "no new key is due" if done.created is None else f"key {done.created} is made"
    typer.echo(f"Revision keys: {made}; {len(done.destroyed)} destroyed.")
