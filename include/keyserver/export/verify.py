"""Verify the signed files as a phone would, before anybody can download them (crypto-and-clients.md b)."""

from __future__ import annotations

import hashlib
import logging

from keyserver.device import exportreader
from keyserver.errors import VerificationError
from keyserver.export.claim import step
from keyserver.export.signingkeys import keys_in_force
from keyserver.protocol.exportfile import staged_path
from keyserver.protocol.signature import load_public_key
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch, BatchSigningKey
from keyserver.store.files import File

logger = logging.getLogger(__name__)


def verify(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `signed` to `verified`, by the phone's own reader, which shares no code with the encoder.

    Raises `FormatError` or `VerificationError` when a phone would refuse a file, or would read other facts in it than
    those that are recorded. A batch with a key that was revoked meanwhile is held and `Superseded` raised.
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("verified"):
            logger.info("%s was verified before", batch)
            return
        with runtime.database.connection() as connection:
            signing_keys = batches.signing_keys(connection, batch_id)
            signed = files.of_batch(connection, batch_id)
        for file in signed:
            _verify_file(runtime, batch, file, signing_keys)
        with keys_in_force(runtime, batch) as work:
            batches.advance(work.connection, batch, "verified", run=runtime.actor.holder)
            work.record(
                "batch.verified",
                {"batch": batch_id, "feed": batch.feed},
                counts={"files": len(signed)},
                hashes={f"zip_{file.number}": (file.zip_sha256 or b"").hex() for file in signed},
            )
        logger.info("%s is verified: %d files", batch, len(signed))


def _verify_file(runtime: Runtime, batch: Batch, file: File, signing_keys: list[BatchSigningKey]) -> None:
    zip_data = runtime.blobs.read(staged_path(file.zip_sha256 or b"", "zip")).data
    if hashlib.sha256(zip_data).digest() != file.zip_sha256:
        raise VerificationError(f"{batch}: the staged zip {file.number} is not the one that was signed")
    trusted = {(key.key_id, key.key_version): load_public_key(key.public_key) for key in signing_keys}
    read = exportreader.verify(zip_data, trusted)
    found = {
        "export.bin": read.export_sha256,
        "start": read.start,
        "end": read.end,
        "region": read.region,
        "signing keys": [(info.key_id, info.key_version) for info in read.signature_infos],
        "number of keys": len(read.keys),
        "number of revised keys": len(read.revised_keys),
    }
    recorded_facts = {
        "export.bin": file.export_sha256.hex(),
        "start": file.starts_at,
        "end": file.ends_at,
        "region": batch.output_region,
        "signing keys": list(trusted),
        "number of keys": file.keys,
        "number of revised keys": file.revised_keys,
    }
    if wrong := [name for name, fact in recorded_facts.items() if found[name] != fact]:
        raise VerificationError(f"{batch}: file {file.number} says otherwise than recorded: {', '.join(wrong)}")
