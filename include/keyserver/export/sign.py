"""Sign the checked bytes and make the zip, once (rules A5, B8, B9; export.md 1.4)."""

from __future__ import annotations

import hashlib
import logging

from keyserver.audit import recorded
from keyserver.errors import VerificationError
from keyserver.export.build import stage, staged_path
from keyserver.export.claim import step
from keyserver.protocol import signature
from keyserver.protocol.exportfile import COMPRESSOR, SignatureInfo, encode_signatures, file_name, pack
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch, BatchSigningKey
from keyserver.store.files import File, Packed

logger = logging.getLogger(__name__)


def sign(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `checked` to `signed`: a stored signature by each of its keys, and a staged zip a file."""
    with step(runtime, batch_id) as batch:
        if batch.has_reached("signed"):
            logger.info("%s was signed before", batch)
            return
        with runtime.database.connection() as connection:
            signing_keys = batches.signing_keys(connection, batch_id)
            unsigned = files.of_batch(connection, batch_id)
        zipped = [(file, _pack(runtime, batch, file, signing_keys)) for file in unsigned]
        for _, zip_data in zipped:
            stage(runtime, zip_data, "zip")
        with recorded(runtime.database, runtime.actor) as work:
            batches.advance(work.connection, batch, "signed", run=runtime.actor.holder)
            for file, zip_data in zipped:
                digest = hashlib.sha256(zip_data).digest()
                name = file_name(batch.root, batch.starts_at, batch.ends_at, file.number, digest)
                packed = Packed(name, digest, len(zip_data), COMPRESSOR)
                files.set_packed(work.connection, batch_id, file.number, packed)
                work.record(
                    "file.signed",
                    {"batch": batch_id, "feed": batch.feed, "file": file.number, "name": name},
                    counts={"signatures": len(signing_keys), "zip_bytes": len(zip_data)},
                    hashes={"export_bin": file.export_sha256.hex(), "zip": digest.hex()},
                )
                logger.info(
                    "%s: file %d is signed: %s, %d bytes, SHA-256 %s",
                    batch,
                    file.number,
                    name,
                    len(zip_data),
                    digest.hex(),
                )


def _pack(runtime: Runtime, batch: Batch, file: File, signing_keys: list[BatchSigningKey]) -> bytes:
    export_bin = runtime.blobs.read(staged_path(file.export_sha256, "bin")).data
    if hashlib.sha256(export_bin).digest() != file.export_sha256:
        raise VerificationError(f"{batch}: the staged file {file.number} is not the one that was checked: not signed")
    signatures = [_signature(runtime, batch, file, key) for key in signing_keys]
    infos = [SignatureInfo(key.key_id, key.key_version) for key in signing_keys]
    return pack(export_bin, encode_signatures(infos, signatures))


def _signature(runtime: Runtime, batch: Batch, file: File, key: BatchSigningKey) -> bytes:
    """Give the stored signature, or make and store it: the one that was stored first is the one that counts."""
    with runtime.database.connection() as connection:
        stored = files.signature(connection, file.export_sha256, key.signing_key_id)
    if stored is not None:
        return stored
    made = runtime.signer.sign(key.name, file.export_sha256)
    # A wrong key behind a right name would only be found on phones.
    signature.verify(signature.load_public_key(key.public_key), made, file.export_sha256)
    with recorded(runtime.database, runtime.actor) as work:
        if files.store_signature(work.connection, file.export_sha256, key.signing_key_id, made):
            work.record(
                "signature.stored",
                {"batch": batch.batch_id, "file": file.number, "key": f"{key.key_id}-{key.key_version}"},
                hashes={"export_bin": file.export_sha256.hex()},
            )
    with runtime.database.connection() as connection:
        return files.signature(connection, file.export_sha256, key.signing_key_id) or made
