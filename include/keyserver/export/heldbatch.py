"""What an operator reads before deciding about a held batch, in Markdown (rule B4).

In this order: the feed and the span; what failed; how many keys, against what is usual; which phones are late; what
each answer does. It holds counts and times, never a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from keyserver.errors import Superseded
from keyserver.export import replace
from keyserver.export.decide import PATIENCE
from keyserver.export.markdown import escaped
from keyserver.runtime import Runtime
from keyserver.store import batches, quality
from keyserver.store.batches import Batch, Decision, Situation
from keyserver.store.quality import Outcome

USUAL_DAYS = 14
_USUAL = timedelta(days=USUAL_DAYS)
_BARS = "▁▂▃▄▅▆▇█"
_NO_BATCH = "·"
_A_DAY = timedelta(days=1)
_A_TENTH = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that a held batch did not meet, why it is put, what it expected and what it found."""

    expectation: str
    reason: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Review:
    """All that the request is written from.

    ``failures`` hold the batch, ``warnings`` do not; ``revisions``: those that it alone carries (K3).
    """

    batch: Batch
    decision: Decision
    failures: Sequence[Failure]
    warnings: Sequence[Failure]
    situation: Situation
    revisions: int

    @property
    def rejected_at(self) -> datetime:
        """When the batch is rejected if nobody answers."""
        return (self.decision.held_at or self.situation.now) + PATIENCE


def review_text(runtime: Runtime, batch_id: int) -> str:
    """Write the request about a held batch.

    Raises:
        Superseded: nobody has to decide about it any more, or not yet.
        ConflictError: there is no such batch.
    """
    return text(read(runtime, batch_id))


def read(runtime: Runtime, batch_id: int) -> Review:
    """Read what the request is written from; raises as `review_text` does."""
    with runtime.database.transaction("REPEATABLE READ READ ONLY") as connection:
        batch = batches.read(connection, batch_id)
        if batch.status != "held":
            raise Superseded(f"{batch} is {batch.status}: there is nothing to decide")
        decision = batches.decision(connection, batch_id)
        missed = [outcome for outcome in quality.of_batch(connection, batch_id) if not outcome.met]
        return Review(
            batch,
            decision,
            [_failure(outcome) for outcome in missed if outcome.expectation in decision.failed_expectations],
            [_failure(outcome) for outcome in missed if outcome.severity == "warn"],
            batches.situation(connection, batch_id, _USUAL),
            replace.revisions_alone_carried(connection, batch),
        )


def text(review: Review) -> str:
    """Write the request, a paragraph a question."""
    paragraphs = (_span(review), _failed(review), _keys(review), _late(review), _answers(review))
    return "\n\n".join("\n".join(paragraph) for paragraph in paragraphs)


def picture(medians: Mapping[date, float], first: date, own: float) -> tuple[str, str]:
    """Draw the days from ``first`` on, a bar each, and a batch of ``own`` keys to the same scale."""
    days = [medians.get(first + timedelta(days=day)) for day in range(USUAL_DAYS)]
    most = max([own, 1.0, *(day for day in days if day is not None)])

    def bar(value: float) -> str:
        return _BARS[min(int(value / most * len(_BARS)), len(_BARS) - 1)]

    return "".join(_NO_BATCH if day is None else bar(day) for day in days), bar(own)


def _failure(outcome: Outcome) -> Failure:
    return Failure(outcome.expectation, outcome.reason, outcome.expected, outcome.found)


def _span(review: Review) -> Iterator[str]:
    batch = review.batch
    again = f" It replaces batch {batch.replaces}." if batch.replaces is not None else ""
    span = f"{_moment(batch.starts_at)} to {_moment(batch.ends_at)}"
    yield f"**Feed `{batch.feed}`, {span}** (batch {batch.batch_id}).{again}"


def _failed(review: Review) -> Iterator[str]:
    yield "#### What failed"
    yield ""
    if review.failures:
        yield from _table(review.failures)
    else:
        yield f"{escaped(review.decision.problem or 'It is not known')}."
    if review.warnings:
        yield ""
        yield "Odd, though it would hold no batch:"
        yield ""
        yield from _table(review.warnings)


def _table(failures: Sequence[Failure]) -> Iterator[str]:
    yield "| Expectation | Expected | Found | Why it is asked |"
    yield "|---|---|---|---|"
    for failure in failures:
        cells = (failure.expectation, failure.expected, failure.found, failure.reason)
        yield f"| {' | '.join(escaped(cell) for cell in cells)} |"


def _keys(review: Review) -> Iterator[str]:
    yield "#### How many keys"
    yield ""
    counts, situation = review.situation.counts, review.situation
    if not counts:
        yield "It could not be built, so nothing is counted."
        return
    synthetic = counts.get("synthetic", 0)
    own = counts.get("released", 0) - synthetic
    padding = f", and {synthetic:,} synthetic ones" if synthetic else ""
    if situation.median is None:
        nothing = f"The feed had no batch in the {USUAL_DAYS} days before: nothing to compare."
        yield f"**{own:,}** real keys{padding}. {nothing}"
        return
    times = f", **{_times(own / situation.median)}**" if situation.median else ""
    yield (
        f"**{own:,}** real keys{padding}; the median of its batches in the {USUAL_DAYS} days before is"
        f" **{situation.median:,.0f}**{times}."
    )
    first = (review.batch.starts_at - _USUAL).astimezone(UTC).date()
    days, bar = picture(situation.medians, first, own)
    last = first + timedelta(days=USUAL_DAYS - 1)
    yield ""
    yield "| Real keys | A bar a day |"  # Airflow shows a block of code in one line
    yield "|---|---|"
    yield f"| the median of each day's batches, {first:%m-%d} to {last:%m-%d} | `{days}` |"
    yield f"| this batch, to the same scale | `{bar}` |"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f} times as many" if ratio >= _A_TENTH else "less than a tenth as many"


def _late(review: Review) -> Iterator[str]:
    batch, situation = review.batch, review.situation
    yield "#### Who waits"
    yield ""
    newest = (
        "they have had no batch yet"
        if situation.newest_end is None
        else f"the newest that they have ended at {_moment(situation.newest_end)}"
    )
    yield (
        f"Phones of region **{escaped(batch.output_region)}** that follow `{batch.feed}` (a batch every"
        f" {_period(situation.period)}) have been without the keys of this span since {_moment(batch.ends_at)}. Later"
        f" batches and other feeds go on: {newest}."
    )


def _answers(review: Review) -> Iterator[str]:
    batch, failed = review.batch, review.decision.failed_expectations
    may_fail = f"It may fail {_listed(failed)}, and nothing else" if failed else "It must meet every expectation"
    yield "#### What an answer does"
    yield ""
    yield (
        "* **Approve**: a batch of the same span takes its place, built from what is stored now and signed by the keys"
        f" that are active now. {may_fail}; otherwise you are asked again. Phones can download it about a minute later."
    )
    yield f"* **Reject**: nothing of it is released. {_revisions(review.revisions)}"
    yield (
        f"* **No answer until {_moment(review.rejected_at)}**: it is rejected, and the revisions that it alone carries"
        " are kept."
    )
    yield ""
    yield (
        f"A rejected batch can still be released while its keys live: `keyserver export replace {batch.batch_id}`. Your"
        " reason is kept in the audit trail for ever: one line, nobody's name."
    )


def _revisions(number: int) -> str:
    if not number:
        return "Phones learn of every revision in it from another batch, so `revisions` makes no difference."
    these = "**1 revision**" if number == 1 else f"**{number:,} revisions**"
    return (
        f"It alone carries {these}: with `revisions` at `keep`, a batch without keys tells phones of them; at `drop`,"
        " nothing does."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{escaped(name)}"' for name in names)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _period(period: timedelta) -> str:
    minutes = int(period.total_seconds()) // 60
    if period == _A_DAY:
        return "day"
    if minutes % 60 == 0:
        return "hour" if minutes == 60 else f"{minutes // 60} hours"
    return "minute" if minutes == 1 else f"{minutes} minutes"
