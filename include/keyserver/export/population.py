"""Whom synthetic users are drawn from: recent real uploads, in counts, and a shipped prior for what is rare (P1).

No real key or row is ever read here. Joint is only (report type, number of keys, age of the oldest), and only what
counts enough. How the rest hangs together is what phones and this server do, not what people sent: a batch has the keys
that come free in it (T2), a risk that no app sent is filled in by report type, and apps that send the days around the
onset of symptoms betray it by the two distributions being one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import accumulate, chain, repeat
from math import sqrt
from typing import Generic, TypeVar

from keyserver.protocol.exposure import EMBARGO, Exposure, Limits, ReportType, filled_risk
from keyserver.protocol.intervals import INTERVALS_PER_DAY, interval_at, interval_start, utc_midnight
from keyserver.store.synthetic import LEAST_COUNT, Combination, RecentUploads, SyntheticUser

T = TypeVar("T")

_DAY = timedelta(days=1)
_LIMITS = Limits()

# The shipped prior, in rounded shares of uploads: report type; number of keys, jointly with the age in days of the
# oldest; days from onset to upload. Shapes of published statistics of 2020 to 2022: most people send what they have.
_REPORT_TYPES = {"confirmed": 80, "likely": 8, "user-report": 12}
_KEYS_AND_AGE = {
    (14, 14): 38,
    (13, 13): 9,
    (12, 12): 7,
    (11, 11): 5,
    (10, 10): 6,
    (9, 9): 4,
    (8, 8): 4,
    (7, 7): 5,
    (6, 6): 4,
    (5, 5): 4,
    (4, 4): 3,
    (3, 3): 3,
    (2, 2): 2,
    (1, 1): 2,
    (10, 12): 2,
    (12, 14): 2,
}
_PRIOR: Mapping[Combination, float] = {
    (report_type, number, oldest): of_type * n / (sum(_REPORT_TYPES.values()) * sum(_KEYS_AND_AGE.values()))
    for report_type, of_type in _REPORT_TYPES.items()
    for (number, oldest), n in _KEYS_AND_AGE.items()
}
_ONSET_DAYS_AGO = {0: 3, 1: 9, 2: 16, 3: 18, 4: 26, 5: 10, 6: 7, 7: 5, 8: 3, 9: 2, 10: 1}
_TRAVELERS = 0.04

# Where this many users in a row had no key that comes free, the profile fits no upload of this span.
_MOST_DRAWS = 500

# Apps that send the keys from so many days before the onset are looked for; two distributions this far apart are one.
_MOST_DAYS_BEFORE_ONSET = 4
_OLDEST_KEPT_BY_PHONES = 14  # days
_ALIKE = 0.15
_SPREAD = 0.6


class Population:
    """What users are drawn from; every draw is independent."""

    def __init__(self, recent: RecentUploads | None = None) -> None:
        recent = recent or RecentUploads()
        learned = recent.combinations
        weights: dict[Combination, float] = dict(learned)
        rarer = recent.rarer or (0 if learned else 1)
        for combination, share in _rarer_shares(recent).items():
            weights[combination] = weights.get(combination, 0) + rarer * share
        self._combinations = _Shares(weights)
        self._todays = _TodaysKeys(weights)
        self.travelers = _share(recent, "traveler", 1, _TRAVELERS)
        self._risks = _Risks(recent, weights)
        self._periods = _Periods(recent, weights, self._todays)
        self._onsets = _Onsets(recent, weights)

    def draw(
        self, regions: list[str], starts_at: datetime, ends_at: datetime, source: random.Random, *, traveler: bool
    ) -> SyntheticUser:
        """Draw one user with those of their keys, at least one, that come free in a batch of this span (T2).

        They may have uploaded before it: what was still valid then comes free now.
        """
        first, last = self._uploading(starts_at, ends_at)
        shares = chain(repeat(self._combinations, _MOST_DRAWS), repeat(_PRIOR_SHARES))
        keys: list[Exposure] = []
        while not keys:
            report_type, number, oldest = next(shares).draw(source)
            moment = first + timedelta(seconds=source.randrange(int((last - first).total_seconds())))
            today, until_now = interval_at(utc_midnight(moment)), interval_at(moment) % INTERVALS_PER_DAY
            ages = list(self._ages(number, oldest, source))
            onset = self._onsets.draw(oldest, min(ages), source)
            sent_risk = self._risks.is_sent(source)
            for age in ages:
                start = today - age * INTERVALS_PER_DAY
                period = self._periods.draw(age, until_now, source)
                if starts_at <= max(moment, interval_start(start + period) + EMBARGO) < ends_at:
                    risk = self._risks.draw(source) if sent_risk else filled_risk(ReportType(report_type))
                    keys.append(Exposure(source.randbytes(16), start, period, risk, onset - age))
        return SyntheticUser(regions, traveler, report_type, keys)

    def _uploading(self, starts_at: datetime, ends_at: datetime) -> tuple[datetime, datetime]:
        """Return the span of the uploads that have keys in a batch of this span, or its last day."""
        starts_at = max(starts_at, ends_at - _DAY)
        comes_free = utc_midnight(ends_at - EMBARGO - timedelta(microseconds=1)) + EMBARGO
        if starts_at <= comes_free:  # yesterday's keys
            return comes_free - EMBARGO - _DAY, ends_at
        if self._periods.end_today:
            return starts_at - EMBARGO, ends_at
        return starts_at, ends_at

    def _ages(self, number: int, oldest: int, source: random.Random) -> Iterator[int]:
        """Draw the ages of a user's keys in days, one a day: all there are, else some that are missing by chance."""
        if number > oldest:
            yield from range(oldest + 1)
            return
        if source.random() < self._todays.share(number, oldest):
            yield 0
            number -= 1
        yield from source.sample(range(1, oldest), number - 1)
        yield oldest


class _Shares(Generic[T]):
    def __init__(self, weights: Mapping[T, float]) -> None:
        self._values = list(weights)
        self._cumulated = list(accumulate(weights.values()))

    def draw(self, source: random.Random) -> T:
        return source.choices(self._values, cum_weights=self._cumulated)[0]


_PRIOR_SHARES = _Shares(_PRIOR)


class _TodaysKeys:
    """How often today's key is among those sent: it shows where there are more keys than days before today.

    Days without a key are taken to be Poisson. Then, of a share q that sends today's key and a mean r of missing days,
    uploads with -1, 0 and 1 missing days are as q, (1-q) + q r and (1-q) r + q r^2/2, from which both follow.
    """

    def __init__(self, weights: Mapping[Combination, float]) -> None:
        missing: dict[int, float] = {}
        for (_, number, oldest), n in weights.items():
            missing[max(oldest - number, -1)] = missing.get(max(oldest - number, -1), 0) + n
        with_it, none, one = (missing.get(days, 0.0) for days in (-1, 0, 1))
        self._missing = (none - sqrt(max(none**2 - 2 * with_it * one, 0))) / with_it if with_it else 0.0
        self._share = with_it / (with_it + max(none - with_it * self._missing, 0)) if with_it else 0.0

    def share(self, number: int, oldest: int) -> float:
        if number > oldest:
            return 1.0
        if number == 1 or not self._share:
            return 0.0
        with_it = self._share * self._missing / (oldest - number + 1)
        return with_it / (1 - self._share + with_it) if with_it else 0.0


class _Risks:
    """Transmission risk: filled in by report type (publish.md 2.7) as often as the counts can be explained so."""

    def __init__(self, recent: RecentUploads, weights: Mapping[Combination, float]) -> None:
        counts = recent.marginals.get("transmission_risk", {})
        whole = sum(counts.values())
        least, expected = _filled_keys(recent.combinations), _filled_keys(weights)
        self._filled = 1.0
        if whole:
            known = sum(least.values()) or 1
            missing = sum(max(n - counts.get(risk, 0), 0) for risk, n in least.items()) / known
            unexplained = sum(n for risk, n in counts.items() if risk not in expected) / whole
            self._filled = min(1 - missing, 1 - unexplained)
        scale = self._filled * whole / sum(expected.values())
        sent = {risk: max(n - scale * expected.get(risk, 0), 0) for risk, n in counts.items()}
        self._sent = _Shares(sent if any(sent.values()) else {0: 1})

    def is_sent(self, source: random.Random) -> bool:
        return source.random() >= self._filled

    def draw(self, source: random.Random) -> int:
        return self._sent.draw(source)


class _Periods:
    """Number of intervals: a whole day, or less. Short ones are today's first, which ended as they were sent."""

    def __init__(self, recent: RecentUploads, weights: Mapping[Combination, float], todays: _TodaysKeys) -> None:
        counts = dict(recent.marginals.get("interval_count", {}))
        rarer = recent.rarer_values.get("interval_count", 0)
        keys = sum(counts.values()) + rarer
        short = keys - counts.pop(INTERVALS_PER_DAY, 0)
        short_share = short / keys if short >= LEAST_COUNT else 0.0
        uploads = sum(weights.values())
        number = sum(number * n for (_, number, _), n in weights.items()) / uploads
        today = sum(n * todays.share(number, oldest) for (_, number, oldest), n in weights.items()) / uploads
        self._today = min(1.0, short_share * number / today) if today else 0.0
        earlier = number - today
        self._earlier = max(0.0, short_share * number - today) / earlier if earlier else 0.0
        self._short = _Shares(counts or dict.fromkeys(range(1, INTERVALS_PER_DAY), 1))

    @property
    def end_today(self) -> bool:
        return self._today > 0

    def draw(self, age: int, until_now: int, source: random.Random) -> int:
        if age == 0:
            return until_now if until_now and source.random() < self._today else INTERVALS_PER_DAY
        return self._short.draw(source) if source.random() < self._earlier else INTERVALS_PER_DAY


class _Onsets:
    """Days from onset to upload, such that every key of the user is near enough to the onset to have been taken."""

    def __init__(self, recent: RecentUploads, weights: Mapping[Combination, float]) -> None:
        uploads = sum(recent.combinations.values()) + recent.rarer
        told: Mapping[int, float] = recent.marginals.get("onset_days", {})
        self._told = 1.0
        if uploads >= LEAST_COUNT:
            self._told = min(1.0, (sum(told.values()) + recent.rarer_values.get("onset_days", 0)) / uploads)
        self._days: Mapping[int, float] = told or _ONSET_DAYS_AGO
        self._before_onset = _days_before_onset(told, weights) if told else None

    def draw(self, oldest: int, youngest: int, source: random.Random) -> int:
        """``oldest``, ``youngest``: ages in days of the user's keys."""
        fits = range(max(0, oldest - _LIMITS.max_onset_days), youngest + _LIMITS.max_onset_days + 1)
        if source.random() >= self._told:
            return max(_LIMITS.default_onset_days_ago, fits.start)
        if self._before_onset is not None and oldest < _OLDEST_KEPT_BY_PHONES:
            return max(oldest - self._before_onset, 0)
        least = fits.start if self._before_onset is None else oldest - self._before_onset
        days = {day: n for day, n in self._days.items() if day in fits and day >= least}
        return _Shares(days or {fits.start: 1}).draw(source)


def _days_before_onset(onsets: Mapping[int, float], weights: Mapping[Combination, float]) -> int | None:
    """Return from how many days before the onset keys are sent, if age of the oldest and onset tell the same story."""
    oldest = _shifted(((age, n) for (_, _, age), n in weights.items()), 0)
    if max(oldest.values()) > _SPREAD:
        return None  # mostly of one age: nothing to tell
    distances = {
        days: sum(abs(oldest.get(age, 0) - onset.get(age, 0)) for age in oldest.keys() | onset.keys()) / 2
        for days in range(_MOST_DAYS_BEFORE_ONSET + 1)
        for onset in [_shifted(onsets.items(), days)]
    }
    nearest = min(distances, key=lambda days: distances[days])
    return nearest if distances[nearest] < _ALIKE else None


def _shifted(counts: Iterable[tuple[int, float]], days: int) -> dict[int, float]:
    """Return a distribution of days, each so many more, as far as phones keep keys."""
    shifted: dict[int, float] = {}
    for day, n in counts:
        age = min(day + days, _OLDEST_KEPT_BY_PHONES)
        shifted[age] = shifted.get(age, 0) + n
    whole = sum(shifted.values())
    return {age: n / whole for age, n in shifted.items()}


def _filled_keys(weights: Mapping[Combination, float]) -> dict[int, float]:
    """Return how many keys would have each risk if all were filled in."""
    keys: dict[int, float] = {}
    for (report_type, number, _), n in weights.items():
        risk = filled_risk(ReportType(report_type))
        keys[risk] = keys.get(risk, 0) + number * n
    return keys


def _rarer_shares(recent: RecentUploads) -> Mapping[Combination, float]:
    """Return what rare combinations are drawn from: the prior, and where enough of them agree in one thing, that."""
    if not (recent.rarer_types or recent.rarer_oldest or recent.rarer_missing):
        return _PRIOR
    of_prior = {oldest: n for (_, oldest), n in _KEYS_AND_AGE.items()}
    shares: dict[Combination, float] = {}
    for report_type, of_type in (recent.rarer_types or _REPORT_TYPES).items():
        for oldest, of_age in (recent.rarer_oldest or of_prior).items():
            for missing, of_missing in (recent.rarer_missing or {0: 1}).items():
                combination = (report_type, max(oldest - missing, 1), oldest)
                shares[combination] = shares.get(combination, 0) + of_type * of_age * of_missing
    whole = sum(shares.values())
    return {combination: share / whole for combination, share in shares.items()}


def _share(recent: RecentUploads, what: str, value: int, prior: float) -> float:
    counts = recent.marginals.get(what, {})
    return counts[value] / (sum(counts.values()) + recent.rarer_values.get(what, 0)) if value in counts else prior
