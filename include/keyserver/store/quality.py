"""Results of quality checks: what was expected, what was found, with history (sql/queries/quality.sql)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal

from keyserver.store.database import Connection, queries

_SQL = queries("quality")

Severity = Literal["block", "warn"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an expectation: whether it was met, in words what it expected and what was found.

    ``observed``: the number that was measured, where there is one: later runs compare themselves with it.
    """

    expectation: str
    severity: Severity
    owner: str
    reason: str
    met: bool
    expected: str
    found: str
    observed: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether it keeps what was looked at from going on."""
        return not self.met and self.severity == "block"

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.expectation}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written down of a batch and its span before it was built.

    ``rows_when_closed``: how many rows its windows held as they closed, without those deleted on demand since; None
    once retention may have reached them. ``least_keys``: what it was padded to, 0 if it was not to be.
    ``most_synthetic``: how many rows padding can have added to its span; None when a batch of it was planned before
    that was written down.
    """

    closed_through: datetime
    rows_when_closed: int | None
    least_keys: int
    most_synthetic: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """What the database knows of the keys that a batch's files list, in counts.

    ``strangers``: not among the rows that the batch's rules select. ``synthetic``: added by padding. ``carried``: in
    `keys` of another batch of the feed that is not withdrawn, rejected or replaced, too (K1). ``unknown_revised``:
    revised keys that none of its carriers had out (K3).
    """

    strangers: int
    synthetic: int
    carried: int
    unknown_revised: int


def recorded(connection: Connection, batch_id: int, longest_user: int) -> Recorded:
    """Read what was written down of a batch; a synthetic user adds at most so many keys to it."""
    return Recorded(*_SQL.recorded(connection, batch_id=batch_id, longest_user=longest_user))


def listed(connection: Connection, batch_id: int, keys: bytes, revised_keys: bytes) -> Listed:
    """Look up the keys that a batch's files list, 16 bytes each, end to end. Only counts come out."""
    found = Listed(*_SQL.listed(connection, batch_id=batch_id, keys=keys, revised_keys=revised_keys))
    if not found.strangers:
        return found
    return replace(found, carried=_SQL.carried(connection, batch_id=batch_id, keys=keys))


def earlier_keys(connection: Connection, batch_id: int, before: timedelta) -> list[int]:
    """Give the numbers of real keys of the feed's earlier batches of the same length, up to so long before it."""
    return [keys for (keys,) in _SQL.earlier_keys(connection, batch_id=batch_id, before=before)]


def earlier_observed(
    connection: Connection, batch_id: int, suite: str, expectations: Sequence[str], before: timedelta
) -> dict[str, list[float]]:
    """Give what these expectations measured of the feed's earlier batches that went out, up to so long before it."""
    return dict(
        _SQL.earlier_observed(
            connection, batch_id=batch_id, suite=suite, expectations=list(expectations), before=before
        )
    )


def insert(  # noqa: PLR0913 - one a column
    connection: Connection,
    outcomes: Sequence[Outcome],
    *,
    suite: str,
    subject: str,
    batch_id: int | None = None,
    feed_id: int | None = None,
    run: str | None,
) -> None:
    """Keep the outcomes of one run of a suite on one subject (`batch 12 of feed north`), at the database's time."""
    _SQL.insert(
        connection,
        suite=suite,
        subject=subject,
        batch_id=batch_id,
        feed_id=feed_id,
        run=run,
        expectations=[outcome.expectation for outcome in outcomes],
        severities=[outcome.severity for outcome in outcomes],
        owners=[outcome.owner for outcome in outcomes],
        reasons=[outcome.reason for outcome in outcomes],
        met=[outcome.met for outcome in outcomes],
        expected=[outcome.expected for outcome in outcomes],
        found=[outcome.found for outcome in outcomes],
        observed=[outcome.observed for outcome in outcomes],
    )


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome as it was kept: of which suite, on what (a feed's, a batch's, or neither), when, by which run."""

    suite: str
    feed: str | None
    batch_id: int | None
    subject: str
    at: datetime
    run: str | None
    outcome: Outcome


def newest(connection: Connection, within: timedelta) -> list[Result]:
    """Give the last result of each expectation and feed, by suite, expectation and feed; none older than ``within``."""
    return [_result(row) for row in _SQL.newest(connection, within=within)]


def results_of_batch(connection: Connection, batch_id: int) -> list[Result]:
    """Give the results of a batch's last check, in the suite's order."""
    return [_result(row) for row in _SQL.results_of_batch(connection, batch_id=batch_id)]


def of_batch(connection: Connection, batch_id: int) -> list[Outcome]:
    """Give the outcomes of a batch's last check, in the suite's order."""
    return [result.outcome for result in results_of_batch(connection, batch_id)]


def by_day(connection: Connection, suite: str, expectation: str) -> dict[date, tuple[int, int]]:
    """Count, for each day in UTC, how often an expectation was met and how often it was missed."""
    rows = _SQL.by_day(connection, suite=suite, expectation=expectation)
    return {day: (met, missed) for day, met, missed in rows}


def last_of(connection: Connection, suite: str, expectation: str, most: int) -> list[Result]:
    """Give the last results of an expectation, those that were missed first."""
    return [_result(row) for row in _SQL.last_of(connection, suite=suite, expectation=expectation, most=most)]


def _result(row: tuple[Any, ...]) -> Result:
    suite, feed, batch_id, subject, at, run, *outcome = row
    return Result(suite, feed, batch_id, subject, at, run, Outcome(*outcome))
