"""Sign the checked bytes and make the zip, once (rules A5, B8, B9; export.md 1.4, B17)."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from keyserver.errors import VerificationError
from keyserver.export.build import stage
from keyserver.export.claim import step
from keyserver.export.signingkeys import keys_in_force
from keyserver.protocol import signature
from keyserver.protocol.exportfile import COMPRESSOR, SignatureInfo, encode_signatures, file_name, pack, staged_path
from keyserver.runtime import Runtime
from keyserver.store import batches, files
from keyserver.store.batches import Batch, BatchSigningKey
from keyserver.store.files import File, Packed

logger = logging.getLogger(__name__)
_AT_A_TIME = 2  # files: hashing and deflating leave Python's lock to each other


def sign(runtime: Runtime, batch_id: int) -> None:
    """Bring a batch from `checked` to `signed`: a stored signature by each of its keys, and a staged zip a file.

    A batch that has no key, or one that was revoked, is held and `Superseded` raised.
    """
    with step(runtime, batch_id) as batch:
        if batch.has_reached("signed"):
            logger.info("%s was signed before", batch)
            return
        with runtime.database.connection() as connection:
            signing_keys = batches.signing_keys(connection, batch_id)
            unsigned = files.of_batch(connection, batch_id)
        with keys_in_force(runtime, batch):
            logger.info("%s is to be signed by %s", batch, ", ".join(key.name for key in signing_keys))
        pack_file = partial(_pack, runtime, batch, signing_keys)
        with ThreadPoolExecutor(_AT_A_TIME) as executor:
            zipped = list(zip(unsigned, executor.map(pack_file, unsigned), strict=True))
        with keys_in_force(runtime, batch) as work:
            batches.advance(work.connection, batch, "signed", run=runtime.actor.holder)
            for file, packed in zipped:
                files.set_packed(work.connection, batch_id, file.number, packed)
                work.record(
                    "file.signed",
                    {"batch": batch_id, "feed": batch.feed, "file": file.number, "name": packed.name},
                    counts={"signatures": len(signing_keys), "zip_bytes": packed.zip_bytes},
                    hashes={"export_bin": file.export_sha256.hex(), "zip": packed.zip_sha256.hex()},
                )
                logger.info(
                    "%s: file %d is signed: %s, %d bytes, SHA-256 %s",
                    batch,
                    file.number,
                    packed.name,
                    packed.zip_bytes,
                    packed.zip_sha256.hex(),
                )


def _pack(runtime: Runtime, batch: Batch, signing_keys: list[BatchSigningKey], file: File) -> Packed:
    """Make and stage one file's zip."""
    export_bin = runtime.blobs.read(staged_path(file.export_sha256, "bin")).data
    if hashlib.sha256(export_bin).digest() != file.export_sha256:
        raise VerificationError(f"{batch}: the staged file {file.number} is not the one that was checked: not signed")
    signatures = [_signature(runtime, batch, file, key) for key in signing_keys]
    infos = [SignatureInfo(key.key_id, key.key_version) for key in signing_keys]
    zip_data = pack(export_bin, encode_signatures(infos, signatures))
    stage(runtime, zip_data, "zip")
    digest = hashlib.sha256(zip_data).digest()
    name = file_name(batch.root, batch.starts_at, batch.ends_at, file.number, digest)
    return Packed(name, digest, len(zip_data), COMPRESSOR)


def _signature(runtime: Runtime, batch: Batch, file: File, key: BatchSigningKey) -> bytes:
    """Give the stored signature, or make and store it: the one that was stored first is the one that counts."""
    with runtime.database.connection() as connection:
        stored = files.signature(connection, file.export_sha256, key.signing_key_id)
    if stored is not None:
        return stored
    with keys_in_force(runtime, batch) as work:  # so a revocation waits for the signature, and none is made after it
        made = runtime.signer.sign(key.name, file.export_sha256)
        # A wrong key behind a right name would only be found on phones.
        signature.verify(signature.load_public_key(key.public_key), made, file.export_sha256)
        if files.store_signature(work.connection, file.export_sha256, key.signing_key_id, made):
            work.record(
                "signature.stored",
                {"batch": batch.batch_id, "file": file.number, "key": f"{key.key_id}-{key.key_version}"},
                hashes={"export_bin": file.export_sha256.hex()},
            )
    with runtime.database.connection() as connection:
        return files.signature(connection, file.export_sha256, key.signing_key_id) or made
