"""Which code this is: its version, and the hash of the sources that decide what a batch holds."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent
_SQL = _PACKAGE.parents[1] / "sql"


@functools.cache
def code_version() -> str:
    """Return ``<version>+<12 hex digits>``: the first of the SHA-256 over the library's sources and its statements.

    Anybody who holds the sources can compute it again: over each file's path, a zero byte, its bytes and a zero byte,
    in the order of the paths; the files are all ``.py`` under ``include/keyserver`` and the ``.sql`` of ``sql/queries``
    and ``sql/migrations/versions``.
    """
    root = _SQL.parent
    files = [*_PACKAGE.rglob("*.py"), *(_SQL / "queries").glob("*.sql"), *(_SQL / "migrations/versions").glob("*.sql")]
    digest = hashlib.sha256()
    for path in sorted(file.relative_to(root).as_posix() for file in files):
        digest.update(path.encode() + b"\0" + (root / path).read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:12]}"
