"""Where files lie: the staging area, and what a CDN hands to phones.

A port of a few operations that each object store has, and its backend on a local disk. A path is relative, of letters,
digits and ``._-`` with ``/`` between its parts; no part begins with a dot.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from keyserver.errors import ConfigurationError, ConflictError, FormatError, KeyserverError, RemoteError
from keyserver.providers import local_folder


class BlobMissingError(KeyserverError):
    """There is no blob of this name."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's bytes, and the ETag of this version of it: what `BlobStore.replace` wants to see again."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class BlobVersion:
    """Bytes that a store keeps under a path, written at ``modified`` in UTC by the store's clock.

    ``is_current``: they are what `read` gives; else a version that was replaced or deleted, and is kept all the same.
    """

    path: str
    modified: datetime
    is_current: bool


class BlobStore(Protocol):
    """Any store of files. Every operation is atomic: no reader ever sees a part of a blob.

    All raise `FormatError` for a path that is none, `RemoteError` for what a retry can heal, and `ConfigurationError`
    where the process lacks a permission. An operation that was answered with an error may have been done.
    """

    def read(self, path: str) -> Blob:
        """Return a blob.

        Raises:
            BlobMissingError: there is none.
        """

    def put_if_absent(self, path: str, data: bytes, content_type: str, cache_control: str) -> None:
        """Store a blob under a name that is free, or that has the very same bytes already (rule B9).

        Raises:
            ConflictError: the name is taken by other bytes, which stay.
        """

    def replace(self, path: str, data: bytes, etag: str | None, content_type: str, cache_control: str) -> None:
        """Store a blob in place of the version that has this `etag`, or, with None, of none (rule B7).

        Raises:
            ConflictError: another version, or none, is there meanwhile.
        """

    def list(self, prefix: str = "") -> list[str]:
        """Return the paths of all blobs that begin with `prefix` (which may end within a name), in byte order."""

    def versions(self, prefix: str = "") -> Sequence[BlobVersion]:
        """Return all that the store keeps under paths that begin with `prefix`, in byte order (rule R3)."""

    def keeps_deleted(self) -> str | None:
        """Say in half a sentence what keeps replaced or deleted blobs alive (versioning, soft delete); None: nothing.

        Rule R4: keys in such a store would outlive their retention.
        """

    def delete(self, path: str) -> None:
        """Remove a blob; that it is not there is success."""

    def purge(self, paths: Sequence[str]) -> None:
        """Let caches between the store and its readers forget these paths (rule B5); that they know none is success.

        Asked for, not awaited: whoever needs it done looks at what the readers get.
        """


def open_blobs(url: str) -> BlobStore:
    """Open the store that a URL names: ``file:///folder``.

    Raises:
        ConfigurationError: the URL names none that is supported.
    """
    return LocalBlobs(local_folder(url, "the blob store"))


_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_PATH = re.compile(f"{_PART}(/{_PART})*")
_PREFIX = re.compile(f"({_PART}/)*({_PART})?")
_LONGEST_PATH = 900
_UNFINISHED = ".unfinished"


class LocalBlobs:
    """A folder on a local disk, made when first written to; other processes may use it at the same time.

    A blob is written to a file of its own in the hidden folder ``.unfinished``, brought to the disk, and only then
    given its name: by a hard link where the name must be free, by a rename where it is replaced; so the folder must lie
    in one file system. What a killed process leaves there no path reaches and no listing shows, and the next write or
    deletion that finds no other writer at work removes it. Locks are `flock` on folders: a process that dies gives them
    back; a network share may lack them.

    Content types and cache control are left to the web server that serves the folder. File modes follow the umask.
    """

    def __init__(self, folder: Path, *, patience: float = 10.0) -> None:
        """Take the folder, and the seconds to wait for another process's lock before giving up with `RemoteError`."""
        self._folder = folder
        self._patience = patience

    def read(self, path: str) -> Blob:
        """As the port says."""
        target = self._target(path)
        with _os_errors(path):
            try:
                return _read(target)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise BlobMissingError(f"there is no {path} in the blob store") from error

    def put_if_absent(self, path: str, data: bytes, content_type: str, cache_control: str) -> None:  # noqa: ARG002
        """As the port says."""
        target = self._target(path)
        with _os_errors(path), self._unfinished(target, data) as unfinished:
            try:
                os.link(unfinished, target)
            except FileExistsError:
                if _read(target).data != data:
                    raise ConflictError(f"{path} is there already, with other bytes") from None
            # Also for a blob found there: who put it may have died before this.
            _sync(target.parent)

    def replace(self, path: str, data: bytes, etag: str | None, content_type: str, cache_control: str) -> None:  # noqa: ARG002
        """As the port says."""
        target = self._target(path)
        with (
            _os_errors(path),
            self._unfinished(target, data) as unfinished,
            self._locked(target.parent, fcntl.LOCK_EX),
        ):
            if _etag_if_there(target) != etag:
                raise ConflictError(f"{path} was changed by another process")
            if etag is None:
                os.link(unfinished, target)  # put_if_absent takes no lock
            else:
                unfinished.replace(target)
            _sync(target.parent)

    def list(self, prefix: str = "") -> list[str]:
        """As the port says."""
        if not _PREFIX.fullmatch(prefix):
            raise FormatError(
                "a prefix of paths has letters, digits and ._-, / between its parts, no part with a dot first"
            )
        paths = []
        with _os_errors(prefix):
            for parent, folders, files in os.walk(self._folder / prefix.rpartition("/")[0], onerror=_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                paths += [
                    (Path(parent) / name).relative_to(self._folder).as_posix()
                    for name in files
                    if not name.startswith(".")
                ]
        return sorted(path for path in paths if path.startswith(prefix))

    def versions(self, prefix: str = "") -> Sequence[BlobVersion]:
        """As the port says: a folder has one version of a file."""
        found = []
        with _os_errors(prefix):
            for path in self.list(prefix):
                try:
                    modified = (self._folder / path).stat().st_mtime
                except FileNotFoundError:
                    continue  # it was deleted meanwhile
                found.append(BlobVersion(path, datetime.fromtimestamp(modified, UTC), is_current=True))
        return found

    def keeps_deleted(self) -> str | None:
        """As the port says: what is deleted in a folder is gone; what snapshots its disk has is not known here."""
        return None

    def delete(self, path: str) -> None:
        """As the port says."""
        target = self._target(path)
        with _os_errors(path):
            self._sweep()
            if target.is_file():
                with self._locked(target.parent, fcntl.LOCK_EX):
                    target.unlink(missing_ok=True)
                    _sync(target.parent)

    def purge(self, paths: Sequence[str]) -> None:
        """As the port says: a folder has no caches before it."""
        for path in paths:
            self._target(path)

    def _target(self, path: str) -> Path:
        if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path):
            raise FormatError(
                "a path is relative, of letters, digits and ._-, / between its parts, no part with a dot first"
            )
        return self._folder / path

    @contextmanager
    def _unfinished(self, target: Path, data: bytes) -> Iterator[Path]:
        """Lend a file with these bytes, safe on the disk, that has no name of its own yet."""
        folder = self._folder / _UNFINISHED
        _make(folder)
        _make(target.parent)
        self._sweep()
        with self._locked(folder, fcntl.LOCK_SH):
            unfinished = folder / secrets.token_hex(16)
            try:
                with unfinished.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield unfinished
            finally:
                unfinished.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what killed processes left: all that is here while no writer at work holds the folder's lock."""
        folder = self._folder / _UNFINISHED
        if not folder.is_dir():
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in folder.iterdir():
                leftover.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self, folder: Path, mode: int) -> Iterator[None]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            deadline = time.monotonic() + self._patience
            while True:
                try:
                    fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise RemoteError(f"another process has kept a folder locked for {self._patience} s") from error
                    time.sleep(0.005)
            yield
        finally:
            os.close(descriptor)


def _read(target: Path) -> Blob:
    with target.open("rb") as file:
        data = file.read()
        status = os.fstat(file.fileno())
    # The hash alone would not do: bytes that went and came back are another version. Nor would the rest: a file system
    # uses numbers again, and its clock is coarse.
    return Blob(data, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{hashlib.sha256(data).hexdigest()}")


def _etag_if_there(target: Path) -> str | None:
    try:
        return _read(target).etag
    except FileNotFoundError:
        return None


def _make(folder: Path) -> None:
    """Make a folder and those above it, each safe on the disk."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConflictError(f"{path}: something else has this name, or that of a folder in it") from error
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV}:
            raise ConfigurationError(f"{path}: the blob store does not allow this: {error.strerror}") from error
        raise RemoteError(f"{path}: the blob store failed: {error.strerror}") from error
