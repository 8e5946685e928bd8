"""The one family of errors.

Hostile input ends in one of these, never in a ``ValueError`` or an error of a parser. A message says what is wrong,
where, and what to do; it never holds a key, a certificate, a token or an address. Three questions decide the class:

* Can trying again heal it? Then it is a `RemoteError`; Airflow retries these alone, and the API answers 503 (rule E4).
* Is it about an upload? Then it is a `PublishError` with the code that phones know (publish.md 1.5).
* Is there nothing wrong, but nothing left to do for this caller? Then it is a `Superseded`.
"""

from __future__ import annotations


class KeyserverError(Exception):
    """Something that trying again will not heal."""


class RemoteError(KeyserverError):
    """A database, a network or a store did not answer as it should; the same call may succeed later (rule E4)."""


class StoreError(KeyserverError):
    """The database refused a statement: a constraint, a right, a mistake of ours. The message quotes no value."""


class ConfigurationError(KeyserverError):
    """A setting or the declared configuration is wrong; the message names the place."""


class FormatError(KeyserverError):
    """Bytes that are not what their format demands: a file, a token, a certificate, a key."""


class VerificationError(KeyserverError):
    """Well-formed bytes that do not verify: a signature, a hash, a rule of acceptance."""


class ConflictError(KeyserverError):
    """A name is taken by other bytes, or a state is not the one that the step needs."""


class Superseded(KeyserverError):  # noqa: N818 - no error: the caller has simply nothing left to do
    """The work was done, taken over or ended by somebody else (rule B3: such a task ends as skipped)."""


class PublishError(KeyserverError):
    """An upload that is refused as a whole: nothing of it is stored.

    ``code`` is one of publish.md 1.5; `api.problems` alone knows which HTTP status it takes.
    """

    def __init__(self, code: str, message: str, warnings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.warnings = warnings
