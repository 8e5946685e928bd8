"""What a feed's batches are made of, in a few lines: written from rules K1 to K3, T3 and B1 to B7 alone.

It knows no SQL, no file and no step. Whoever drives it says which rows there are, when a window closed, how far a batch
came and what an operator decided; it says which batches are planned, which are due, and what each must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)
EMBARGO = 2 * HOUR
CUTOFF = timedelta(hours=24) + timedelta(days=15)  # T3
# A key that ended just then is kept: a day's first window may have taken it, and an ordinary batch drops nothing (T3).
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)  # any midnight
OUT_OF_THE_WAY = {"released", "empty", "held", "rejected", "replaced", "withdrawing", "withdrawn"}  # B3
GONE = {"withdrawing", "withdrawn"}


@dataclass(frozen=True)
class State:
    """What is said of a key: its report type, risk 0..8, and days since onset."""

    report_type: str
    risk: int
    onset: int | None

    @property
    def revoked(self) -> bool:
        return self.report_type == "negative"


@dataclass(eq=False)
class Row:
    """A stored key, with its one revision (K2)."""

    key: bytes
    ended: datetime
    regions: frozenset[str]
    traveler: bool
    first: State
    created_at: datetime
    revised: State | None = None
    revised_at: datetime | None = None

    def state(self, to: datetime) -> State:
        """Its state by the revisions before ``to``."""
        if self.revised is not None and self.revised_at is not None and self.revised_at < to:
            return self.revised
        return self.first


@dataclass(frozen=True)
class Rules:
    """Which keys a feed takes (export.md 2.4)."""

    regions: frozenset[str]
    excluded: frozenset[str] = frozenset()
    travelers: str = "by-region"

    def take(self, row: Row) -> bool:
        if row.regions & self.excluded or (row.traveler and self.travelers == "exclude"):
            return False
        return bool(row.regions & self.regions) or (row.traveler and self.travelers == "include")


@dataclass(eq=False)
class Batch:
    """A batch as it was planned, how far it came, and what it holds since it was built."""

    feed: Feed
    starts_at: datetime
    ends_at: datetime
    rules: Rules
    cutoff: datetime
    revisions_to: datetime
    replaces: Batch | None = None
    with_keys: bool = True
    status: str = "planned"
    was_released: bool = False
    dropped: bool = False  # an operator let its revisions go with it
    keys: dict[bytes, State] = field(default_factory=dict)
    revised: dict[bytes, State] = field(default_factory=dict)

    @property
    def before(self) -> list[Batch]:
        """The batches that it replaces, the nearest first."""
        return [] if self.replaces is None else [self.replaces, *self.replaces.before]

    @property
    def is_supplement(self) -> bool:
        return any(batch.was_released for batch in self.before)

    @property
    def tip(self) -> Batch:
        """The last batch that stands in its place: often itself."""
        return next((other.tip for other in self.feed.batches if other.replaces is self), self)


@dataclass(eq=False)
class Feed:
    """A feed as it is configured now, and its batches in the order in which they were planned (B3)."""

    name: str
    rules: Rules
    period: timedelta
    active_from: datetime
    active_thru: datetime | None = None
    paused: bool = False
    batches: list[Batch] = field(default_factory=list)

    @property
    def planned_to(self) -> datetime:
        return max((batch.ends_at for batch in self.batches), default=self.active_from)

    def covering(self, moment: datetime) -> Batch | None:
        """The one ordinary batch whose span has the window ``moment`` (B2)."""
        spans = (batch for batch in self.batches if batch.replaces is None)
        return next((batch for batch in spans if batch.starts_at <= moment < batch.ends_at), None)


@dataclass
class Model:
    """Everything that was accepted and decided."""

    closed_through: datetime
    rows: dict[bytes, Row] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)

    def close(self, width: timedelta) -> list[Batch]:
        """Close the next window; the batches that end with it (B2)."""
        self.closed_through += width
        return [batch for feed in self.feeds for batch in self._plan(feed, self.closed_through)]

    @staticmethod
    def _plan(feed: Feed, end: datetime) -> Iterator[Batch]:
        start = feed.planned_to
        last = feed.active_thru
        if start >= end or (last is not None and start >= last):
            return
        if (end - MIDNIGHT) % feed.period and end != last:
            return
        feed.batches.append(Batch(feed, start, end, feed.rules, end - CUTOFF, end))
        yield feed.batches[-1]

    def plan_replacing(self, batch: Batch, now: datetime, *, with_keys: bool) -> Batch:
        """Plan a batch in place of another (B1)."""
        planned = Batch(
            batch.feed,
            batch.starts_at,
            batch.ends_at,
            batch.rules,
            now - CUTOFF,
            self.closed_through,
            replaces=batch,
            with_keys=with_keys,
        )
        batch.feed.batches.append(planned)
        return planned

    @staticmethod
    def due(feed: Feed) -> Batch | None:
        """The batch that a run works on, whether it has anything to release or not (B3)."""
        if feed.paused:
            return None
        return next((batch for batch in feed.batches if batch.status not in OUT_OF_THE_WAY), None)

    def build(self, batch: Batch) -> None:
        """Write down what a batch holds, as other batches stand now (K3)."""
        batch.keys, batch.revised = self.keys(batch), self.revised(batch)

    def keys(self, batch: Batch) -> dict[bytes, State]:
        """Its span's keys that its feed takes, in the state of ``revisions_to``; no revoked one, no expired one."""
        if not batch.with_keys:
            return {}
        return {
            row.key: row.state(batch.revisions_to)
            for row in self.rows.values()
            if batch.starts_at <= row.created_at < batch.ends_at
            and batch.rules.take(row)
            and row.ended >= batch.cutoff
            and not row.state(batch.revisions_to).revoked
        }

    def revised(self, batch: Batch) -> dict[bytes, State]:
        """The revisions of its span that phones miss; in a supplement, the revocations of its chain too."""
        told = {}
        for row in self.rows.values():
            if row.revised is None or row.revised_at is None or row.ended < batch.cutoff:
                continue
            of_span = batch.starts_at <= row.revised_at < batch.ends_at
            if (of_span and self._missed(batch, row)) or self._retold(batch, row):
                told[row.key] = row.revised
        return told

    @staticmethod
    def _missed(batch: Batch, row: Row) -> bool:
        """Tell whether phones have this key of this feed, and not its revision."""
        had = [other for other in batch.feed.batches if row.key in other.keys]
        told_before = {other for other in had if row.revised_at < other.revisions_to}
        released = {other for other in had if other.status == "released"}
        if released:
            return bool(released - told_before)
        return row.revised.revoked and any(other.status in GONE for other in set(had) - told_before)

    @staticmethod
    def _retold(batch: Batch, row: Row) -> bool:
        was_out = any(row.key in other.keys for other in batch.before if other.was_released)
        return was_out and row.revised.revoked and row.revised_at < batch.revisions_to
