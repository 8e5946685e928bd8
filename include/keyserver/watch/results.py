"""What came out of checks, for people: the last result of each expectation, or those of one batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyserver.protocol.exposure import RETENTION
from keyserver.runtime import Runtime
from keyserver.store import batches, quality
from keyserver.store.quality import Outcome


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome, of which suite and on what it was, and when."""

    suite: str
    subject: str
    at: datetime
    outcome: Outcome

    def __str__(self) -> str:
        """Say it in one line."""
        outcome = self.outcome
        verdict = "met" if outcome.met else f"MISSED ({outcome.severity})"
        return f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {verdict}: {self.suite}, {self.subject}: {outcome}"


@dataclass(frozen=True, slots=True)
class Results:
    """The results that were asked for; ``nothing``: what to say when there are none."""

    results: list[Told]
    nothing: str = field(default="No check has left a result.")

    def sentences(self) -> list[str]:
        """Say each, a line each."""
        return [str(result) for result in self.results] or [self.nothing]


def results(runtime: Runtime, *, missed: bool = False, batch_id: int | None = None) -> Results:
    """Give the last result of each expectation and feed, or those of a batch's last check.

    ``missed``: only those that were missed. Raises `ConflictError` when there is no such batch.
    """
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        if batch_id is None:
            found = [
                Told(result.suite, result.subject, result.at, result.outcome)
                for result in quality.newest(connection, RETENTION)
            ]
        else:
            batches.read(connection, batch_id)
            found = [
                Told(result.suite, result.subject, result.at, result.outcome)
                for result in quality.results_of_batch(connection, batch_id)
            ]
    return Results(
        [told for told in found if not (missed and told.outcome.met)],
        "Nothing was missed." if missed else "No check has left a result.",
    )
