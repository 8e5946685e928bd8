"""`make bench-padding`: how well real keys can be told from padding, ours against copying key by key (export.md 2.9).

Two epidemics are lived through by the code that publishes: phones make uploads, `transform` turns them into rows, what
is counted of them is the profile, and the batches of a feed of four hours are padded with users drawn from it. The
attacker has been through other runs of the same epidemic and was told which keys were real: classifiers (trees) learn
it from each key's metadata and from what stands beside it in its file, and are judged by runs that they have not seen.

* keys: AUC of telling real keys from padding within a file; 0.5 is not at all.
* users: the same for whole users, as if somebody had already told the attacker which keys belong together.
* presence: AUC of telling from a file whether somebody is in it whose metadata is known; 0.5 is not at all.
* count: how much of the variance of the number of people in a file it tells (R2); 0 is nothing.
* pairs: of the pairs of keys that share report type and day of onset, the percentage that is one real person's.

The last line is one JSON object. SCALE sizes it: 1 is four runs to learn from and four to be judged by.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.metrics import roc_auc_score

from keyserver.device.phone import Phone
from keyserver.export.population import Population
from keyserver.protocol import statistics
from keyserver.protocol.exposure import EMBARGO, Exposure, Limits, ReportType, transform
from keyserver.protocol.intervals import INTERVALS_PER_DAY, interval_at, interval_start, utc_midnight
from keyserver.protocol.messages import SentKey
from keyserver.store.synthetic import LEAST_COUNT, RecentUploads

RUNS = 4
DAYS_LEARNED, DAYS_JUDGED = 14, 3
PERIOD = timedelta(hours=4)
MINIMUM, SPREAD = 1000, 100
UPLOADS_A_DAY = 60
# People upload by day, and less at weekends: weights of the 24 hours, share of a Saturday or Sunday.
HOURS = [1, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 10, 10, 10, 10, 10, 10, 9, 8, 7, 5, 3, 2]
WEEKEND = 0.6
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MOST_REASONS = 3


# ---------------------------------------------------------------------------------------------------------- epidemics


@dataclass(frozen=True)
class Sent:
    """An upload as it leaves a phone; ``onset``: an interval, if one is told."""

    keys: list[SentKey]
    report_type: ReportType
    onset: int | None
    traveler: bool = False


def as_the_demo(now: datetime, source: random.Random) -> Sent:
    """Return an upload as in `make demo`: two weeks of whole days, from one phone in twelve today's too."""
    phone = Phone({}, random_bytes=source.randbytes)
    phone.carry(now - timedelta(days=13), now - DAY)
    today = interval_at(utc_midnight(now))
    with_todays = source.randrange(12) == 0
    keys = [sent_key(key.key, key.start, key.period) for key in phone.keys(now) if with_todays or key.start < today]
    report_type = ReportType.LIKELY if source.randrange(100) == 0 else ReportType.CONFIRMED
    return Sent(keys, report_type, today - 3 * INTERVALS_PER_DAY)


def of_another_shape(now: datetime, source: random.Random) -> Sent:
    """Return an upload of people who often report by themselves, by an app that sends the days since two before onset.

    Today's key ends as it is sent; phones are off for days, or make short keys; some people travel, a fifth tell no
    onset, and a tenth of the apps work out risks of their own.
    """
    types = [ReportType.CONFIRMED, ReportType.LIKELY, ReportType.USER_REPORT]
    (report_type,) = source.choices(types, weights=[45, 15, 40])
    (onset_ago,) = source.choices(range(1, 12), weights=[6, 14, 20, 18, 13, 9, 7, 5, 4, 2, 2])
    today = interval_at(utc_midnight(now))
    keys = []
    if (until_now := interval_at(now) - today) and source.random() < 0.6:
        keys.append(sent_key(source.randbytes(16), today, until_now))
    for age in range(1, onset_ago + 3):
        if source.randrange(12):
            period = INTERVALS_PER_DAY if source.randrange(40) else source.randint(6, 143)
            keys.append(sent_key(source.randbytes(16), today - age * INTERVALS_PER_DAY, period))
    if source.randrange(10) == 0:
        keys = [key.model_copy(update={"transmission_risk": source.randint(1, 8)}) for key in keys]
    onset = today - onset_ago * INTERVALS_PER_DAY if source.randrange(5) else None
    return Sent(keys, report_type, onset, source.randrange(20) == 0)


def sent_key(key: bytes, start: int, period: int) -> SentKey:
    """Return a key as a phone sends it, without a risk."""
    return SentKey(key=base64.b64encode(key).decode(), start=start, period=period)


EPIDEMICS: dict[str, Callable[[datetime, random.Random], Sent]] = {
    "as the demo": as_the_demo,
    "another shape": of_another_shape,
}


@dataclass
class Run:
    """One run of an epidemic: who uploaded, and what was counted of it a day."""

    people: list[Person] = field(default_factory=list)
    combinations: defaultdict[int, Counter[tuple[str, int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    marginals: defaultdict[int, Counter[tuple[str, int]]] = field(default_factory=lambda: defaultdict(Counter))

    def recent(self, day: int) -> RecentUploads:
        """Return what the database would give on a day."""
        days = range(day - 13, day + 1)
        combinations = total(self.combinations[each] for each in days)
        rarer = Counter({each: n for each, n in combinations.items() if n < LEAST_COUNT})
        values: defaultdict[str, dict[int, int]] = defaultdict(dict)
        rarer_values: Counter[str] = Counter()
        for (what, value), count in total(self.marginals[each] for each in days).items():
            if count >= LEAST_COUNT:
                values[what][value] = count
            else:
                rarer_values[what] += count
        return RecentUploads(
            {each: n for each, n in combinations.items() if n >= LEAST_COUNT},
            rarer.total(),
            enough(rarer, lambda each: each[0]),
            enough(rarer, lambda each: each[2]),
            enough(rarer, lambda each: each[2] - each[1]),
            values,
            rarer_values,
        )


def total(days: Iterable[Counter[Any]]) -> Counter[Any]:
    """Return the sum of counters."""
    whole: Counter[Any] = Counter()
    for day in days:
        whole.update(day)
    return whole


def enough(rarer: Counter[Any], by: Callable[[Any], Any]) -> dict[Any, int]:
    """Return what rare combinations count by one thing alone, where it is enough."""
    counted: Counter[Any] = Counter()
    for each, n in rarer.items():
        counted[by(each)] += n
    return {value: n for value, n in counted.items() if n >= LEAST_COUNT}


@dataclass(frozen=True)
class Person:
    """What one upload put into the database."""

    moment: datetime
    report_type: str
    keys: tuple[Exposure, ...]


def live(epidemic: Callable[[datetime, random.Random], Sent], seed: int) -> Run:
    """Live through an epidemic."""
    source, run = random.Random(seed), Run()  # noqa: S311 - no secret
    for number in range(DAYS_LEARNED + DAYS_JUDGED):
        day = FIRST_DAY + number * DAY
        share = WEEKEND if day.weekday() > 4 else 1.0
        for _ in range(int(source.gauss(UPLOADS_A_DAY * share, (UPLOADS_A_DAY * share) ** 0.5))):
            moment = day + timedelta(hours=source.choices(range(24), HOURS)[0], seconds=source.randrange(3600))
            upload(run, epidemic(moment, source), moment)
    return run


def upload(run: Run, sent: Sent, now: datetime) -> None:
    """Do what publishing does."""
    if not sent.keys:
        return
    onsets = () if sent.onset is None else (sent.onset,)
    taken = transform(sent.keys, sent.report_type, onsets, now, Limits())
    if not taken.exposures:
        return
    facts = statistics.facts(taken.exposures, taken.onset, statistics.Platform.IOS, now)
    added = statistics.profile(facts, taken.exposures, sent.report_type, now, traveler=sent.traveler)
    if added is None:
        raise SystemExit("an upload with keys and a report type has a profile")
    day = (now - FIRST_DAY) // DAY
    run.combinations[day][added.report_type.value, added.keys, added.oldest_days] += 1
    for what, value, count in added.marginals:
        run.marginals[day][what, value] += count
    run.people.append(Person(now, sent.report_type.value, taken.exposures))


# -------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class User:
    """The keys of one user in one file; of the reference's, what one pass copied of a person's."""

    report_type: str
    keys: tuple[Exposure, ...]
    real: bool


@dataclass(frozen=True)
class File:
    """One batch's users, real and not."""

    starts_at: datetime
    ends_at: datetime
    users: tuple[User, ...]


def spans() -> Iterator[tuple[datetime, datetime]]:
    """Give the batches of the days that are judged."""
    first = FIRST_DAY + DAYS_LEARNED * DAY
    for number in range(DAYS_JUDGED * DAY // PERIOD):
        yield first + number * PERIOD, first + (number + 1) * PERIOD


def real_users(run: Run, starts_at: datetime, ends_at: datetime) -> list[User]:
    """Give what of each person comes free in a batch (T2)."""
    users = []
    for person in run.people:
        free = [key for key in person.keys
                if starts_at <= max(person.moment, interval_start(key.end) + EMBARGO) < ends_at]  # fmt: skip
        if free:
            users.append(User(person.report_type, tuple(free), real=True))
    return users


Pad = Callable[[Run, File, int, random.Random], list[User]]


def drawn_from(population: Population, file: File, few: int, source: random.Random) -> list[User]:
    """Draw users until there are so many keys."""
    users = []
    while few > 0:
        user = population.draw([], file.starts_at, file.ends_at, source, traveler=False)
        users.append(User(user.report_type, tuple(user.keys), real=False))
        few -= len(user.keys)
    return users


def ours(run: Run, file: File, few: int, source: random.Random) -> list[User]:
    """Pad as we do, by what was learned."""
    day = (file.ends_at - timedelta(microseconds=1) - FIRST_DAY) // DAY
    return drawn_from(Population(run.recent(day)), file, few, source)


def prior(_: Run, file: File, few: int, source: random.Random) -> list[User]:
    """Pad as we do before anything was learned."""
    return drawn_from(Population(), file, few, source)


def copying(_: Run, file: File, few: int, __: random.Random) -> list[User]:
    """Pad as the reference does: each key of the file again, as often as it takes."""
    passes = -(-few // sum(len(user.keys) for user in file.users))
    return [User(user.report_type, user.keys, real=False) for _ in range(passes) for user in file.users]


METHODS: dict[str, Pad] = {"ours": ours, "prior": prior, "copying": copying}


def padded(run: Run, pad: Pad, source: random.Random) -> list[File]:
    """Give the files that needed padding."""
    files = []
    for starts_at, ends_at in spans():
        real = real_users(run, starts_at, ends_at)
        few = MINIMUM + source.randint(0, SPREAD) - sum(len(user.keys) for user in real)
        if real and few > 0:
            file = File(starts_at, ends_at, tuple(real))
            files.append(replace(file, users=(*real, *pad(run, file, few, source))))
    return files


# ------------------------------------------------------------------------------------------------------------ attacks

KEY_FEATURES = ["age", "period", "report type", "risk", "onset", "hour", "weekday", "alike", "of one onset",
                "days of that onset", "of its day", "of its type", "keys in the file"]  # fmt: skip
TYPES = {"confirmed": 0, "likely": 1, "user-report": 2}


def onset_of(key: Exposure) -> int:
    """Return the day of onset that a key tells of."""
    return key.start // INTERVALS_PER_DAY - key.days_since_onset


def key_features(file: File) -> list[list[float]]:
    """Describe each key by its metadata and by what stands beside it."""
    rows = [(user.report_type, key) for user in file.users for key in user.keys]
    alike = Counter((of, key.start, key.period, key.transmission_risk, key.days_since_onset) for of, key in rows)
    onsets = Counter((of, onset_of(key)) for of, key in rows)
    days: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for of, key in rows:
        days[of, onset_of(key)].add(key.start)
    starts, types = Counter(key.start for _, key in rows), Counter(of for of, _ in rows)
    last = interval_at(file.ends_at - timedelta(microseconds=1)) // INTERVALS_PER_DAY
    return [
        [
            last - key.start // INTERVALS_PER_DAY, key.period, TYPES[of], key.transmission_risk, key.days_since_onset,
            file.ends_at.hour, file.ends_at.weekday(),
            alike[of, key.start, key.period, key.transmission_risk, key.days_since_onset],
            onsets[of, onset_of(key)], len(days[of, onset_of(key)]), starts[key.start], types[of], len(rows),
        ]
        for of, key in rows
    ]  # fmt: skip


def key_labels(file: File) -> list[bool]:
    """Tell which keys are real."""
    return [user.real for user in file.users for _ in user.keys]


def user_features(file: File) -> list[list[float]]:
    """Describe each user by all their keys in the file."""
    last = interval_at(file.ends_at - timedelta(microseconds=1)) // INTERVALS_PER_DAY
    told = []
    for user in file.users:
        ages = [last - key.start // INTERVALS_PER_DAY for key in user.keys]
        told.append([
            TYPES[user.report_type], len(ages), max(ages), min(ages), max(ages) - min(ages) + 1 - len(ages),
            last - onset_of(user.keys[0]), len({key.transmission_risk for key in user.keys}),
            user.keys[0].transmission_risk, sum(key.period < INTERVALS_PER_DAY for key in user.keys),
            min(key.period for key in user.keys), file.ends_at.hour, file.ends_at.weekday(),
        ])  # fmt: skip
    alike = Counter(tuple(each[:6]) for each in told)
    return [[*each, alike[tuple(each[:6])]] for each in told]


def user_labels(file: File) -> list[bool]:
    """Tell which users are real."""
    return [user.real for user in file.users]


@dataclass(frozen=True)
class Told:
    """How well classifiers told real from padding: a mean AUC a run, and by how much it falls without a feature."""

    runs: list[float]
    reasons: dict[str, float]


def tell(
    known: list[list[File]], unseen: list[list[File]], describe: Callable[[File], list[list[float]]],
    label: Callable[[File], list[bool]], features: Sequence[str] = (),
) -> Told:  # fmt: skip
    """Learn from the runs that are known; be judged by those unseen."""
    rows = np.array([row for run in known for file in run for row in describe(file)])
    labels = np.array([each for run in known for file in run for each in label(file)])
    learned = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.1, random_state=1).fit(rows, labels)
    judged = [[(np.array(describe(file)), label(file)) for file in run] for run in unseen]

    def judge(without: int | None) -> list[float]:
        shuffled = np.random.default_rng(1)
        means = []
        for run in judged:
            aucs = []
            for described, labelled in run:
                asked = described.copy()
                if without is not None:
                    asked[:, without] = shuffled.permutation(asked[:, without])
                aucs.append(roc_auc_score(labelled, learned.predict_proba(asked)[:, 1]))
            means.append(float(np.mean(aucs)))
        return means

    whole = judge(None)
    falls = {name: float(np.mean(whole) - np.mean(judge(number))) for number, name in enumerate(features)}
    strongest = sorted(falls, key=lambda name: -falls[name])[:MOST_REASONS]
    return Told(whole, {name: round(falls[name], 3) for name in strongest if falls[name] > 0.002})


def presence(files: list[File], other: Run) -> float:
    """Return how well a file tells those who are in it from others who uploaded in its span in another run."""
    scores, labels = [], []
    for file in files:
        found = {
            (user.report_type, key.start, key.period, key.transmission_risk, key.days_since_onset)
            for user in file.users
            for key in user.keys
        }
        there = [user for user in file.users if user.real]
        for user in (*there, *(others := real_users(other, file.starts_at, file.ends_at))):
            known = [(user.report_type, key.start, key.period, key.transmission_risk, key.days_since_onset)
                     for key in user.keys]  # fmt: skip
            scores.append(sum(each in found for each in known) / len(known))
        labels += [True] * len(there) + [False] * len(others)
    return float(roc_auc_score(labels, scores))


def file_features(file: File) -> list[float]:
    """Describe a whole file by how many keys there are of each kind."""
    rows = [(user.report_type, key) for user in file.users for key in user.keys]
    alike = sorted(Counter((of, key.start, key.period, key.transmission_risk, key.days_since_onset)
                           for of, key in rows).values())  # fmt: skip
    onsets = Counter((of, onset_of(key)) for of, key in rows)
    types = Counter(of for of, _ in rows)
    return [
        len(rows), len(alike), alike[0], alike[len(alike) // 2], alike[-1], len(rows) / alike[0], len(onsets),
        max(onsets.values()), *(types[each] / len(rows) for each in TYPES), file.ends_at.hour, file.ends_at.weekday(),
    ]  # fmt: skip


def counting(known: list[list[File]], unseen: list[list[File]]) -> float:
    """Return how much of the variance of the number of people in a file it tells, beyond its hour and weekday."""

    def people(runs: list[list[File]]) -> list[int]:
        return [sum(user.real for user in file.users) for run in runs for file in run]

    described = [[file_features(file) for run in runs for file in run] for runs in (known, unseen)]
    wanted, left = people(known), np.array(people(unseen))
    told = RandomForestRegressor(60, random_state=1, min_samples_leaf=2).fit(described[0], wanted).predict(described[1])
    plain = RandomForestRegressor(60, random_state=1, min_samples_leaf=2).fit(
        [each[-2:] for each in described[0]], wanted
    )
    by_time = plain.predict([each[-2:] for each in described[1]])
    return 1 - float(np.sum((left - told) ** 2) / np.sum((left - by_time) ** 2))


def pairs(users: Sequence[User]) -> float:
    """Return how many of the pairs that share report type and day of onset are one real person's, in a hundred."""
    groups: defaultdict[tuple[str, int], list[tuple[int, int, bool]]] = defaultdict(list)
    for number, user in enumerate(users):
        for key in user.keys:
            groups[user.report_type, onset_of(key)].append((number, key.start, user.real))
    theirs = sum(len(user.keys) * (len(user.keys) - 1) // 2 for user in users if user.real)
    sharing = 0
    for group in groups.values():
        days = Counter(start for _, start, _ in group)
        sharing += (len(group) ** 2 - sum(n * n for n in days.values())) // 2
    return 100 * theirs / sharing if sharing else 0.0


# ------------------------------------------------------------------------------------------------------------- report


def spread(runs: list[float]) -> float:
    """Return half the 95 % confidence interval of the mean."""
    return float(1.96 * np.std(runs, ddof=1) / len(runs) ** 0.5)


def measure(name: str, runs: int) -> dict[str, Any]:
    """Measure one epidemic, each method on the same uploads."""
    lived = [live(EPIDEMICS[name], 1000 + seed) for seed in range(2 * runs + 1)]
    *lived, other = lived
    result: dict[str, Any] = {}
    print(f"\n{name}: {len(lived[0].people)} uploads in {DAYS_LEARNED + DAYS_JUDGED} days")
    print(f"  {'':10}{'keys AUC':>16}{'users AUC':>16}{'presence AUC':>14}{'count R2':>10}{'pairs %':>9}")
    for method, pad in METHODS.items():
        files = [padded(run, pad, random.Random(number)) for number, run in enumerate(lived)]  # noqa: S311 - no secret
        known, unseen = files[:runs], files[runs:]
        by_key = tell(known, unseen, key_features, key_labels, KEY_FEATURES)
        by_user = tell(known, unseen, user_features, user_labels)
        there = [presence(run, other) for run in unseen]
        told = {
            "keys_auc": round(float(np.mean(by_key.runs)), 3), "keys_auc_ci": round(spread(by_key.runs), 3),
            "users_auc": round(float(np.mean(by_user.runs)), 3), "users_auc_ci": round(spread(by_user.runs), 3),
            "presence_auc": round(float(np.mean(there)), 3), "presence_auc_ci": round(spread(there), 3),
            "count_r2": round(counting(known, unseen), 3),
            "pairs_percent": round(float(np.mean([pairs(file.users) for run in unseen for file in run])), 2),
            "driven_by": by_key.reasons,
        }  # fmt: skip
        result[method] = told
        print(
            f"  {method:10}{told['keys_auc']:>8.3f} ± {told['keys_auc_ci']:.3f}{told['users_auc']:>8.3f} ±"
            f" {told['users_auc_ci']:.3f}{told['presence_auc']:>14.3f}{told['count_r2']:>10.2f}"
            f"{told['pairs_percent']:>9.2f}   {told['driven_by']}"
        )
    bare = [pairs([user for user in file.users if user.real]) for run in unseen for file in run]
    result["unpadded"] = {"pairs_percent": round(float(np.mean(bare)), 2)}
    print(f"  {'unpadded':10}{'':56}{result['unpadded']['pairs_percent']:>9.2f}")
    return result


def main() -> None:
    """Print a table an epidemic, and everything as JSON."""
    begun = time.monotonic()
    runs = max(2, round(RUNS * float(os.environ.get("SCALE", "1"))))
    print(
        f"{runs} runs to learn from, {runs} to be judged by; batches of {PERIOD}, {MINIMUM} to {MINIMUM + SPREAD} keys"
    )
    figures = {name.replace(" ", "_"): measure(name, runs) for name in EPIDEMICS}
    print(json.dumps({"runs": runs, **figures, "seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
