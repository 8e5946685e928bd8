"""Histories of one authority: whatever happens is done with the real parts, and told to the model (`model`).

`World` does it: uploads, revisions, closings, runs and their troubles, decisions, changes of feeds, phones that read
what is public. After each step it looks at the database, and compares what was planned, settled and released.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg

from keyserver.audit import Actor
from keyserver.device import exportreader
from keyserver.errors import FormatError, RemoteError, Superseded
from keyserver.export import build, claim, decide, gate, index, windows, withdraw
from keyserver.export import replace as replacing
from keyserver.export.due import claim_due
from keyserver.oversight.provenance import provenance
from keyserver.oversight.rebuild import rebuild
from keyserver.protocol.exportfile import decode
from keyserver.protocol.intervals import interval_at
from keyserver.quality.exportfiles import BatchFacts, StagedFile
from keyserver.store.quality import Listed, Outcome
from tests.export.conftest import STEPS, Authority
from tests.export.model import EMBARGO, HOUR, OUT_OF_THE_WAY, Batch, Feed, Model, Row, Rules, State

REGIONS = ("NO", "SE", "DK")
TRAVELERS = ("by-region", "include", "exclude")
PERIODS = (1, 2, 4)  # hours; windows are of one
REVISIONS = {"likely": ("confirmed", "negative"), "user-report": ("confirmed", "negative"), "confirmed": ()}
IN_FILES = {"confirmed": 1, "likely": 2, "user-report": 3, "negative": 5}
MINUTE = timedelta(minutes=1)
WAY = ["planned", "built", "checked", "signed", "verified", "released", "withdrawing", "withdrawn"]

Told = tuple[int | None, int, int | None]


class Killed(BaseException):
    """What ends a task wherever it is."""


def cheap_check(
    facts: BatchFacts, staged: list[tuple[StagedFile, bytes]], look_up: Callable[[bytes, bytes], Listed]
) -> list[Outcome]:
    """What the gate's suite asks of the database, without the library, which takes a third of a second."""
    if [file.number for file, data in staged if hashlib.sha256(data).digest() != file.export_sha256]:
        return [outcome("bytes are those that were built", "other bytes")]
    read = [decode(data) for _, data in staged]
    listed = look_up(
        b"".join(row[0] for content in read for row in content.keys),
        b"".join(row[0] for content in read for row in content.revised_keys),
    )
    rows = (facts.rows, facts.rows if facts.rows_when_closed is None else facts.rows_when_closed)
    unmet = [name for name in ("strangers", "carried", "unknown_revised") if getattr(listed, name)]
    unmet += ["rows"] * (rows[0] != rows[1]) + ["synthetic"] * (listed.synthetic > (facts.most_synthetic or 0))
    return [outcome(name, f"{listed}, rows {rows}") for name in unmet]


def outcome(name: str, found: str) -> Outcome:
    return Outcome(name, "block", "tests", "", met=False, expected="none", found=found)


class Troubled:
    """An object store that fails at its ``after``-th call: before it is done, or after, with the answer lost."""

    def __init__(self, blobs: Any, after: int, error: BaseException) -> None:
        self._blobs, self._left, self._error = blobs, after // 2, error
        self._does_it = bool(after % 2)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == -1 and not self._does_it:
                raise self._error
            answer = getattr(self._blobs, name)(*args, **kwargs)
            if self._left == -1:
                raise self._error
            return answer

        return call


@dataclass
class Reader:
    """A phone's reading of one feed: what it knows of which key (b of crypto-and-clients.md)."""

    feed: Feed
    remembers: str  # "last seen" or "set"
    last: str | None = None
    read: set[str] = field(default_factory=set)
    known: dict[bytes, Told] = field(default_factory=dict)

    def sync(self, lines: list[str], open_file: Callable[[str], exportreader.ExportFile]) -> None:
        if self.remembers == "set":
            new = [line for line in lines if line not in self.read]
        else:
            new = lines[lines.index(self.last) + 1 :] if self.last in lines else lines
        for line in new:
            file = open_file(line)
            self.known |= {key.key: _told(key) for key in file.keys}
            self.known |= {key.key: _told(key) for key in file.revised_keys if key.key in self.known}
            self.read.add(line)
            self.last = line


def _told(key: exportreader.DiagnosisKey) -> Told:
    return key.report_type, key.transmission_risk, key.days_since_onset


def as_told(state: State) -> Told:
    return IN_FILES[state.report_type], state.risk, state.onset


class World:
    """One authority with windows of an hour, and the model beside it. ``act`` does one thing of a history."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        authority.sql("UPDATE release_clock SET width_minutes = 60")
        authority.sql("INSERT INTO health_authority (issuer, audience, name) VALUES ('i', 'a', 'n')")
        self.base = authority.runtime("base")
        self.pipeline = psycopg.connect(authority.database.url("keyserver_pipeline"), autocommit=True)
        self.api = psycopg.connect(authority.database.url("keyserver_api"), autocommit=True)
        self.admin = authority.database.admin()
        self.now = authority.database.now()
        self.model = Model(self.now)
        self.batches: dict[int, Batch] = {}
        self.readers: list[Reader] = []
        self.files: dict[str, exportreader.ExportFile] = {}
        self.lines: dict[str, list[str]] = {}
        self.runs = 0
        self.settled: set[Batch] = set()  # withdrawn, and an operator has decided that no key of it comes back
        self.done: set[str] = set()  # which things have really happened

    def close(self) -> None:
        for connection in (self.pipeline, self.api, self.admin):
            connection.close()

    def act(self, choice: int, number: int, kind: int) -> None:
        """Do one of the things that can be done now; those that change more are chosen more often."""
        statuses = {batch.status for batch in self.batches.values()}
        is_revisable = any(row.revised is None and REVISIONS[row.first.report_type] for row in self.model.rows.values())
        is_due = any(Model.due(feed) is not None for feed in self.model.feeds)
        can: dict[Callable[[int, int], None], int] = {
            self.upload: 5,
            self.arrive: 2,
            self.revise: 6 * is_revisable,
            self.wait: 7,
            self.run: 6 * is_due,
            self.troubled_run: 3 * is_due,
            self.tampered_run: 2 * is_due,
            self.frozen_run: is_due,
            self.decide: 4 * ("held" in statuses),
            self.withdraw: 3 * ("released" in statuses),
            self.finish: "withdrawing" in statuses,
            self.replace: 4 * bool(statuses & {"rejected", "withdrawing", "withdrawn"}),
            self.sync: 3 * bool(statuses & {"released", "withdrawn"}),
            self.change_feed: 2,
            self.add_feed: 1 * (len(self.model.feeds) < 3),
            self.end_feed: 1,
        }
        things = [thing for thing, often in can.items() for _ in range(often)]
        things[choice % len(things)](number, kind)

    # What people, phones and peers do.

    def upload(self, number: int, kind: int, *, imported: bool = False) -> None:
        source = random.Random(number * 1000 + kind)
        regions = source.choice([("NO",), ("NO", "SE"), ("SE",), ("DK", "NO")])
        traveler = source.random() < 0.2
        first = State(
            source.choice(["likely", "user-report", "likely", "confirmed"]),
            source.randint(0, 8),
            source.choice([None, 3]),
        )
        ages = [
            timedelta(hours=-5),
            timedelta(hours=1),
            timedelta(days=2),
            timedelta(days=7),
            timedelta(days=14, hours=20),
        ]
        for _ in range(source.randint(1, 4)):
            key = hashlib.sha256(f"{number}/{kind}/{len(self.model.rows)}".encode()).digest()[:16]
            ended = self.now.replace(minute=0, second=0) - source.choice(ages)
            created_at = max(_hour(max(self.now, ended + EMBARGO)), self.base_window)
            count = source.choice([144, 60])
            self.api.execute(
                "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk,"
                " days_since_onset, report_type, traveler, regions, created_at, app_name, health_authority_id)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    key,
                    interval_at(ended) - count,
                    count,
                    first.risk,
                    first.onset,
                    first.report_type,
                    traveler,
                    list(regions),
                    created_at,
                    *((None, None) if imported else ("app", 1)),
                ],
            )
            self.model.rows[key] = Row(key, ended, frozenset(regions), traveler, first, created_at)

    def arrive(self, number: int, kind: int) -> None:
        """Keys of a peer or a file: rows of no app and no authority."""
        self.upload(number, kind + 1000, imported=True)

    def revise(self, number: int, kind: int) -> None:
        """Revise up to three keys: of those that were out at some time, or of those that were stored last (K2)."""
        rows = [row for row in self.model.rows.values() if row.revised is None and REVISIONS[row.first.report_type]]
        were_out = {key for batch in self.batches.values() if batch.was_released for key in batch.keys}
        candidates = [row for row in rows if row.key in were_out] if number % 5 else []
        candidates = candidates or rows[-12:]
        source = random.Random(kind)
        for row in source.sample(candidates, min(len(candidates), 1 + number % 3)):
            kinds = REVISIONS[row.first.report_type]
            # A revocation is what rules say most about.
            row.revised = State(kinds[source.random() < 0.7], source.randint(0, 8), source.choice([None, -2]))
            row.revised_at = max(self.base_window, row.created_at)
            done = self.api.execute(
                "UPDATE exposure SET revised_at = %s, revised_report_type = %s, revised_transmission_risk = %s,"
                " revised_days_since_onset = %s WHERE exposure_key = %s AND revised_at IS NULL",
                [row.revised_at, row.revised.report_type, row.revised.risk, row.revised.onset, row.key],
            )
            assert done.rowcount == 1
            self.done.add("a revision")

    @property
    def base_window(self) -> datetime:
        return max(_hour(self.now), self.model.closed_through)

    # Time and feeds.

    def pass_time(self, step: timedelta) -> None:
        self.now += step
        self.admin.execute("UPDATE test_time SET moment = %s", [self.now])

    def wait(self, number: int, kind: int) -> None:
        """Let 20 minutes to 3 hours pass, seldom 30, and close what is past."""
        self.pass_time(30 * HOUR if number % 40 == 17 else [MINUTE * 20, HOUR, HOUR, 2 * HOUR, 3 * HOUR][number % 5])
        windows.close_windows(self.base, self.now, random.Random(kind))
        planned = []
        while self.model.closed_through + HOUR <= self.now:
            planned += self.model.close(HOUR)
        self._meet(planned)

    def add_feed(self, number: int, kind: int) -> None:
        name, rules = f"feed-{len(self.model.feeds)}", _rules(number)
        since = self.now - timedelta(minutes=kind % 300)
        self.authority.add_feed(
            name,
            **_columns(rules),
            period_minutes=60 * PERIODS[kind % 3],
            active_from=since,
            max_keys=[3, 5, 100][number % 3],
        )
        feed = Feed(name, rules, PERIODS[kind % 3] * HOUR, _hour(since))
        self.model.feeds.append(feed)
        self.readers += [Reader(feed, remembers) for remembers in ("last seen", "set", "last seen", "set")]

    def change_feed(self, number: int, kind: int) -> None:
        feed = self.model.feeds[number % len(self.model.feeds)]
        match kind % 5:
            case 0:
                feed.rules = _rules(kind // 5)
                self._configure(feed, **_columns(feed.rules))
            case 1:
                feed.period = PERIODS[kind // 5 % 3] * HOUR
                self._configure(feed, period_minutes=feed.period // MINUTE)
            case 2:
                self._configure(feed, max_keys=[3, 5, 100][kind // 5 % 3])
            case _:
                feed.paused = not feed.paused
                self._configure(feed, paused=feed.paused)

    def end_feed(self, number: int, kind: int) -> None:
        """End a feed early, at the earliest moment that there is or a little later (B2)."""
        feed = self.model.feeds[number % len(self.model.feeds)]
        if feed.active_thru is None and kind % 3 == 0:
            feed.active_thru = self.model.closed_through + (1 + kind % 4) * HOUR
            self._configure(feed, active_thru=feed.active_thru)
            self.done.add("a feed's end")

    def _configure(self, feed: Feed, **columns: Any) -> None:
        values = ", ".join(f"{column} = %({column})s" for column in columns)
        self.pipeline.execute(f"UPDATE feed SET {values} WHERE name = %(name)s", {**columns, "name": feed.name})

    # Runs, and what may happen to them.

    def run(self, number: int = 0, kind: int = 0) -> None:
        """A run that meets no trouble; seldom it ends after a few steps."""
        self._run(list(STEPS) if number % 4 else list(STEPS)[: kind % 7])

    def troubled_run(self, number: int, kind: int) -> None:
        """A run whose store fails at some call, is killed there, or loses its claim; or that fails for good, thrice."""
        error = [RemoteError("no answer"), Killed(), FormatError("damaged")][number % 3]
        for _ in range(3 if isinstance(error, FormatError) else 1):
            self._run(list(STEPS), trouble=(kind % 24, error))

    def tampered_run(self, _number: int, _kind: int) -> None:
        """A run whose staged files somebody changes before they are checked: its batches are held."""
        self._run(["build"])
        run = self._actor()
        claimed = claim_due(run)
        self.follow()
        for batch in claimed:
            for (sha256,) in self._sql(
                "SELECT export_sha256 FROM file JOIN batch ON batch.id = batch_id"
                " WHERE batch_id = %(id)s AND batch.status = 'built' AND approved = '{}' LIMIT 1",
                id=batch.batch_id,
            ):
                path = self.authority.folder / "blobs" / build.staged_path(sha256, "bin")
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[:-1] + b"\xff")
                with self._expect(Superseded):
                    gate.check(run, batch.batch_id)
                self.follow()
                assert self.batches[batch.batch_id].status == "held"
                self.done.add("held")
        claim.give_back(run)

    def frozen_run(self, number: int, kind: int) -> None:
        """A run that is silent for a minute: another takes its batches over, and it can do nothing more to them."""
        frozen = self._actor()
        claimed = claim_due(frozen)
        self.follow()
        steps = list(STEPS)
        for batch in claimed:
            for step in steps[: kind % 5]:
                STEPS[step](frozen, batch.batch_id)
                self.follow()
        self.pass_time(MINUTE)
        self._run(steps)
        for batch in claimed:
            with self._expect(Superseded):
                STEPS[steps[number % 5]](frozen, batch.batch_id)
            self.done.add("a frozen run")
        self.follow()

    def _run(self, steps: list[str], trouble: tuple[int, BaseException] | None = None) -> None:
        run = self._actor()
        if trouble is not None:
            run = replace(run, blobs_or_none=Troubled(run.blobs, *trouble))
        claimed = claim_due(run)
        self.follow()
        assert {self.batches[batch.batch_id] for batch in claimed} == {
            batch for feed in self.model.feeds if (batch := Model.due(feed)) is not None
        }
        kill = False
        for batch in claimed:
            try:
                for step in steps:
                    try:
                        STEPS[step](run, batch.batch_id)
                    finally:
                        self.follow()
            except (RemoteError, FormatError):
                assert trouble is not None
                self.done.add("an answer lost" if isinstance(trouble[1], RemoteError) else "a failure for good")
                if self.batches[batch.batch_id].status == "held":
                    self.done.add("held by three runs")
            except Superseded:
                assert self.batches[batch.batch_id].status == "held", "only of a batch that is held nothing is left"
            except Killed:
                kill = True
                self.done.add("killed")
                break
        if kill:
            self.pass_time(MINUTE)  # until its claims are lost
            return
        claim.give_back(run)
        if trouble is None and "index" in steps:
            index.write_all(run)
            self.look_at_indexes()

    # Operators.

    def decide(self, number: int, kind: int) -> None:
        """Approve or reject a held batch, with or without its revisions."""
        held = [item for item in self.batches.items() if item[1].status == "held"]
        if not held:
            return
        batch_id, batch = held[number % len(held)]
        if kind % 3 == 0:
            planned = decide.approve(self._actor(), batch_id, "looked at")
            self._planned_instead(planned, batch, with_keys=batch.with_keys)
            self.done.add("approved")
            return
        keep = kind % 3 == 1
        is_missed = bool(self.model.revised(batch))
        planned = decide.reject(self._actor(), batch_id, "not that", keep_revisions=keep)
        batch.dropped = not keep
        assert (planned is not None) == (keep and is_missed)
        if planned is not None:
            self._planned_instead(planned, batch, with_keys=False)
            self.done.add("rejected, revisions kept")
        self.done.add("rejected")
        self.follow()

    def withdraw(self, number: int, _kind: int) -> None:
        released = [item for item in self.batches.items() if item[1].status == "released"]
        if released:
            batch_id, batch = released[-1 - number % len(released)]
            withdraw.withdraw(self._actor(), batch_id, "a mistake")
            self.follow()
            self.look_at_index(batch.feed)
            self.done.add("withdrawn")

    def finish(self, number: int, _kind: int) -> None:
        """Take a withdrawn batch's objects out of the store."""
        withdrawing = [item for item in self.batches.items() if item[1].status == "withdrawing"]
        if withdrawing:
            withdraw.finish(self._actor(), withdrawing[number % len(withdrawing)][0])
            self.follow()

    def replace(self, number: int, kind: int) -> None:
        """Release again what was rejected or withdrawn; or drop it for good, with or without its revisions."""
        there = [
            (batch_id, batch)
            for batch_id, batch in self.batches.items()
            if batch.tip is batch
            and (
                batch.status in ("rejected", "withdrawing", "withdrawn")
                or (batch.status == "empty" and not batch.with_keys)
            )
        ]
        if not there:
            return
        batch_id, batch = there[number % len(there)]
        if kind % 4 < 2 or batch.status in ("rejected", "empty"):
            with_keys = [None, True, False][kind // 4 % 3]
            planned = replacing.replace(self._actor(), batch_id, "after all", with_keys=with_keys)
            self._planned_instead(planned, batch, with_keys=batch.with_keys if with_keys is None else with_keys)
            self.done.add("released again")
        elif kind % 4 == 2:
            self._drop(batch_id, batch)
        else:
            assert withdraw.for_good(self._actor(), batch_id, "gone", keep_revisions=False) is None
            batch.dropped = True

    def _drop(self, batch_id: int, batch: Batch) -> None:
        is_missed = bool(self.model.revised(batch))
        planned = withdraw.for_good(self._actor(), batch_id, "gone")
        assert (planned is not None) == is_missed
        if planned is not None:
            self._planned_instead(planned, batch, with_keys=False)
            self.done.add("dropped, revisions kept")
        batch.dropped = False
        self.settled.add(batch)

    def _planned_instead(self, planned: int, batch: Batch, *, with_keys: bool) -> None:
        self._meet([self.model.plan_replacing(batch, self.now, with_keys=with_keys)])
        assert self.batches[planned].replaces is batch
        self.follow()

    # Phones.

    def sync(self, number: int, _kind: int) -> None:
        reader = self.readers[number % len(self.readers)]
        reader.sync(self.index(reader.feed), self.open_file)

    def index(self, feed: Feed) -> list[str]:
        path = self.authority.public / feed.name / "index.txt"
        return path.read_text().splitlines() if path.exists() else []

    def open_file(self, line: str) -> exportreader.ExportFile:
        """What a phone gets: the bytes that are there now."""
        data = (self.authority.public / line).read_bytes()
        if line not in self.files:
            self.files[line] = exportreader.read(data)
        return self.files[line]

    # What is compared.

    def _meet(self, expected: list[Batch]) -> None:
        """Compare what was planned since with what rules say, and learn its ids."""
        rows = self._sql(
            "SELECT batch.id, feed.name, starts_at, ends_at, cutoff, revisions_to, replaces, with_keys,"
            " batch.input_regions, batch.exclude_regions, batch.travelers"
            " FROM batch JOIN feed ON feed.id = feed_id WHERE NOT batch.id = ANY (%(known)s) ORDER BY batch.id",
            known=list(self.batches),
        )
        by_id: dict[int | None, Batch] = dict(self.batches)
        found = {
            (name, start, end, cutoff, revisions_to, by_id.get(replaces), with_keys, _as_rules(*rules)): batch_id
            for batch_id, name, start, end, cutoff, revisions_to, replaces, with_keys, *rules in rows
        }
        wanted = {
            (
                batch.feed.name,
                batch.starts_at,
                batch.ends_at,
                batch.cutoff,
                batch.revisions_to,
                batch.replaces,
                batch.with_keys,
                batch.rules,
            ): batch
            for batch in expected
        }
        assert found.keys() == wanted.keys()
        self.batches |= {found[what]: batch for what, batch in wanted.items()}

    def follow(self) -> None:
        """Look how far each batch has come; what was built meanwhile, the model builds too."""
        for batch_id, status in self._sql("SELECT id, status FROM batch ORDER BY id"):
            batch = self.batches[batch_id]
            if status == batch.status:
                continue
            if batch.status == "planned" and status in (*WAY, "empty"):
                assert Model.due(batch.feed) is batch, "batches are worked in the order of their planning"
                self.model.build(batch)
                assert (status == "empty") == (not batch.keys and not batch.revised)
            if status == "released":
                self._released(batch_id, batch)
            batch.status = status

    def _released(self, batch_id: int, batch: Batch) -> None:
        """Compare a batch's files, as they are when they can first be read, with what it must hold (K1 to K3, T2)."""
        assert Model.due(batch.feed) is batch
        batch.was_released = True
        names = self._sql("SELECT name FROM file WHERE batch_id = %(id)s ORDER BY number", id=batch_id)
        files = [self.open_file(name) for (name,) in names]
        keys = [key for file in files for key in file.keys]
        revised = [key for file in files for key in file.revised_keys]
        assert {key.key: _told(key) for key in keys} == {key: as_told(state) for key, state in batch.keys.items()}
        assert {key.key: _told(key) for key in revised} == {key: as_told(state) for key, state in batch.revised.items()}
        assert (len(keys), len(revised)) == (len(batch.keys), len(batch.revised)), "no key twice"
        for key in keys:
            assert self.model.rows[key.key].ended + EMBARGO <= self.now, "no key before its end + 2 h"
        if batch.is_supplement:
            self.done.add("a supplement")
        if any(key in other.keys for other in batch.before for key in batch.revised if other.was_released):
            self.done.add("told again")
        if any(state.revoked for state in batch.revised.values()):
            self.done.add("a revocation told")

    def look_at_indexes(self) -> None:
        """Look at all of them: each run rewrites what differs (B7)."""
        for feed in self.model.feeds:
            self.look_at_index(feed)

    def look_at_index(self, feed: Feed) -> None:
        """Lines stand in the order of their release, are added at the bottom, and leave without moving any (B6)."""
        lines = self.index(feed)
        wanted = self._sql(
            "SELECT file.name FROM file JOIN feed ON feed.id = feed_id"
            " WHERE feed.name = %(feed)s AND file.status = 'released' ORDER BY release_no",
            feed=feed.name,
        )
        assert lines == [name for (name,) in wanted]
        kept = [line for line in self.lines.get(feed.name, []) if line in lines]
        assert lines[: len(kept)] == kept
        self.lines[feed.name] = lines

    # The end of a history.

    def settle(self, seed: int) -> None:
        """Come to rest: feeds go on, every window is closed, every batch is released, decided on, or replaced."""
        source = random.Random(seed)
        for feed in self.model.feeds:
            if feed.paused:
                feed.paused = False
                self._configure(feed, paused=False)
        last = max([self.now, *(row.revised_at or row.created_at for row in self.model.rows.values())])
        while self.model.closed_through <= last or any(
            feed.planned_to <= last for feed in self.model.feeds if feed.active_thru is None
        ):
            self.wait(1, 0)
        while True:
            self._run(list(STEPS))
            held = [batch for batch in self.batches.values() if batch.status == "held"]
            taken_back = [
                (batch_id, batch)
                for batch_id, batch in self.batches.items()
                if batch.status in ("withdrawing", "withdrawn")
                and batch.tip is batch
                and not batch.dropped
                and batch not in self.settled
            ]
            if held:
                self.decide(0, source.choice([0, 1]))
            elif taken_back:
                batch_id, batch = taken_back[0]
                if batch.status == "withdrawing" and source.random() < 0.5:
                    withdraw.finish(self._actor(), batch_id)
                    self.follow()
                elif source.random() < 0.5:
                    self._drop(batch_id, batch)
                else:
                    self._planned_instead(
                        replacing.replace(self._actor(), batch_id, "again"), batch, with_keys=batch.with_keys
                    )
            elif all(batch.status in OUT_OF_THE_WAY for batch in self.batches.values()):
                break
        self.look_at_indexes()

    def check_phones(self) -> None:
        """Hold what phones know at the end against what was accepted (K1, K3)."""
        fresh = [Reader(feed, remembers) for feed in self.model.feeds for remembers in ("last seen", "set")]
        for reader in [*self.readers, *fresh]:
            reader.sync(self.index(reader.feed), self.open_file)
            for row in self.model.rows.values():
                self._check_row(reader, row)

    def _check_row(self, reader: Reader, row: Row) -> None:
        feed, known = reader.feed, reader.known.get(row.key)
        first = feed.covering(row.created_at)
        if known is not None:
            assert first is not None
            assert first.rules.take(row), "no phone knows a key that its feed does not take"
        is_told = self._is_told(feed, row)
        if is_told and row.revised.revoked:
            assert known is None or known[0] == IN_FILES["negative"], "a revocation is lost"
            return
        if first is None or not first.rules.take(row):
            return
        tip = first.tip
        if tip.status != "released" or not tip.with_keys or row.ended < tip.cutoff:
            return
        if row.state(tip.revisions_to).revoked:
            assert known is None or known[0] == IN_FILES["negative"]
            return
        wanted = (
            {as_told(row.revised)}
            if is_told
            else {as_told(row.first)} | ({as_told(row.revised)} if row.revised else set())
        )
        assert known in wanted, "a key that every phone should know, in its newest state"

    def _is_told(self, feed: Feed, row: Row) -> bool:
        """Tell whether K3 promises a revision to every phone that has the key."""
        if row.revised is None or row.ended <= self.now - timedelta(days=16):
            return False
        batch = feed.covering(row.revised_at)
        return batch is not None and not batch.tip.dropped

    def check_records(self) -> None:
        """K1 over all batches that count; B1's distinct ends; A6's sums; B8's rebuilds."""
        for feed in self.model.feeds:
            counting = [batch for batch in feed.batches if batch.status == "released"]
            keys = [key for batch in counting for key in batch.keys]
            assert len(keys) == len(set(keys))
            revised = [
                key
                for batch in counting
                for key, state in batch.revised.items()
                if not (batch.is_supplement and state.revoked)
            ]
            assert len(revised) == len(set(revised))
        ends: dict[Batch, set[datetime]] = {batch: set() for batch in self.batches.values()}
        for batch_id, end in self._sql("SELECT batch_id, ends_at FROM file ORDER BY batch_id, number"):
            batch = self.batches[batch_id]
            used = ends[batch].union(*(ends[other] for other in batch.before if batch.is_supplement))
            assert end not in used, "no two files of a chain end alike"
            ends[batch].add(end)
        auditor = self.base
        for batch_id, batch in self.batches.items():
            assert provenance(auditor, str(batch_id)).problems == []
            if batch.keys or batch.revised:
                assert rebuild(auditor, batch_id, build.rebuild).is_proven

    # Small things.

    def _actor(self) -> Any:
        self.runs += 1
        return replace(self.base, actor=Actor("test", run=f"run-{self.runs}"))

    def _sql(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.admin.execute(statement, values).fetchall()

    @staticmethod
    @contextmanager
    def _expect(error: type[Exception]) -> Iterator[None]:
        try:
            yield
        except error:
            return
        raise AssertionError(f"{error.__name__} was expected")


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _rules(number: int) -> Rules:
    regions = [{"NO"}, {"NO", "SE"}, {"SE"}][number % 3]
    excluded = [set(), set(), {"DK"}][number // 3 % 3]
    return Rules(frozenset(regions), frozenset(excluded), TRAVELERS[number // 9 % 3])


def _columns(rules: Rules) -> dict[str, Any]:
    return {
        "input_regions": sorted(rules.regions),
        "exclude_regions": sorted(rules.excluded),
        "travelers": rules.travelers,
    }


def _as_rules(regions: list[str], excluded: list[str], travelers: str) -> Rules:
    return Rules(frozenset(regions), frozenset(excluded), travelers)
