"""Where a key stands in a batch's files: looked up in the very bytes, not in what the database says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from keyserver.device import exportreader
from keyserver.errors import VerificationError
from keyserver.protocol.exportfile import decode, public_path, staged_path
from keyserver.providers.blobs import BlobMissingError, BlobStore
from keyserver.store.oversight import FileRecord

ListName = Literal["keys", "revised_keys"]


@dataclass(frozen=True, slots=True)
class Place:
    """A key's place in a file: the number (from 1) in one of its lists, and how many stand there."""

    file: FileRecord
    list: ListName
    position: int
    of: int


class NoPlace(Enum):
    """Why a key has no place in a batch's files."""

    NOT_THERE = auto()  # all files were read, and it is in none
    OUT_OF_REACH = auto()  # a file is no longer, or not yet, in the store


@dataclass(slots=True)
class Places:
    """Looks one key up in files; each file is read once."""

    blobs: BlobStore
    key: bytes = field(repr=False)
    _read: dict[bytes, dict[ListName, tuple[int | None, int]] | None] = field(default_factory=dict)

    def find(self, files: Sequence[FileRecord], name: ListName) -> Place | NoPlace:
        """Return the key's place in a list of one of the files.

        Raises `VerificationError` when phones are handed another file than the one that was released, `RemoteError`
        when the store does not answer.
        """
        out_of_reach = False
        for file in files:
            lists = self._lists(file)
            if lists is None:
                out_of_reach = True
                continue
            position, of = lists[name]
            if position is not None:
                return Place(file, name, position, of)
        return NoPlace.OUT_OF_REACH if out_of_reach else NoPlace.NOT_THERE

    def _lists(self, file: FileRecord) -> dict[ListName, tuple[int | None, int]] | None:
        if file.export_sha256 not in self._read:
            self._read[file.export_sha256] = self._look(file)
        return self._read[file.export_sha256]

    def _look(self, file: FileRecord) -> dict[ListName, tuple[int | None, int]] | None:
        lists = self._public(file) or self._staged(file)
        if lists is None:
            return None
        return {name: (keys.index(self.key) + 1 if self.key in keys else None, len(keys)) for name, keys in lists}

    def _public(self, file: FileRecord) -> list[tuple[ListName, list[bytes]]] | None:
        """Read what phones download, as they do."""
        if file.name is None or (data := self._bytes(public_path(file.name))) is None:
            return None
        if hashlib.sha256(data).digest() != file.zip_sha256:
            raise VerificationError(f"{file.name} in the store is not the file that was released: withdraw its batch")
        read = exportreader.read(data)
        return [("keys", [key.key for key in read.keys]), ("revised_keys", [key.key for key in read.revised_keys])]

    def _staged(self, file: FileRecord) -> list[tuple[ListName, list[bytes]]] | None:
        data = self._bytes(staged_path(file.export_sha256, "bin"))
        if data is None or hashlib.sha256(data).digest() != file.export_sha256:
            return None
        read = decode(data)
        return [("keys", [key for key, *_ in read.keys]), ("revised_keys", [key for key, *_ in read.revised_keys])]

    def _bytes(self, path: str) -> bytes | None:
        try:
            return self.blobs.read(path).data
        except BlobMissingError:
            return None
