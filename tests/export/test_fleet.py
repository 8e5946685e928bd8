"""A fleet of phones over sixteen days of real exports: all of them know what they should, at every look (issue 10, 10).

Time is the database's; uploads and revisions go through the use case of publishing, files through every step and real
HTTP. Beside it runs a model, which knows only when what was uploaded and the rules (T2, B2, B5, K3): what a phone must
know is told by the end of the batch that carries a key, never by what the server did.

Index lines older than 14 days are still there at the end: retention takes them, and a phone does not mind them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from keyserver.device.phone import MEMORY, FileCache, Phone
from keyserver.device.platforms import (
    ANDROID_1_3,
    ANDROID_1_5,
    IOS_13_5,
    IOS_13_6,
    IOS_13_7,
    UNLIMITED,
    Platform,
)
from keyserver.export import due, index, replace, windows, withdraw
from keyserver.protocol.exposure import EMBARGO, Limits
from keyserver.protocol.intervals import interval_at, utc_midnight
from keyserver.protocol.messages import decode_request
from keyserver.protocol.signature import load_public_key
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.accept import Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.runtime import Runtime
from tests.conftest import START
from tests.export.conftest import Authority, run_steps
from tests.uploads import APP, TOKEN_AAD, add_revision_key, authorise, issuer

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WIDTH = HOUR
DAYS = 16
# The recommended layout: every four hours and daily; and hours beside the daily one (B11).
PERIODS = {"hourly": HOUR, "four-hourly": 4 * HOUR, "daily": DAY}
NUMBERS = {"confirmed": 1, "likely": 2, "user-report": 3, "negative": 5}
REVOKED = NUMBERS["negative"]

# A batch is taken off after some phones have read it, and put back later; meanwhile keys of it are revoked.
WITHDRAWN_FEED, WITHDRAWN_AT, REPLACED_AT = "four-hourly", START + 6 * DAY + 9 * HOUR, START + 6 * DAY + 20 * HOUR


@dataclass
class Ill:
    """Somebody who uploads, and may revise the report later."""

    phone: Phone
    uploads_at: datetime
    report_type: str
    revises_at: datetime | None = None
    becomes: str = ""

    def created(self, key_end: datetime) -> datetime:
        """Return the window of a key (T2)."""
        return floor(max(self.uploads_at, key_end + EMBARGO), WIDTH)

    def revised(self, key_end: datetime) -> datetime | None:
        """Return the window of its revision (K2)."""
        return None if self.revises_at is None else max(floor(self.revises_at, WIDTH), self.created(key_end))


@dataclass
class Follower:
    """Somebody well, whose phone looks at one feed every few hours, but not on the days on which it is off."""

    phone: Phone
    platform: Platform
    reading: str
    feed: str
    every: timedelta
    off: range = range(0)
    met: list[tuple[Ill, datetime]] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)  # by the model

    def looks_at(self, now: datetime) -> bool:
        return (now - START) % self.every == timedelta() and (now - START) // DAY not in self.off

    def expected(self, now: datetime) -> list[tuple[bytes, int, int]]:
        """Return the matches that the phone must have after a look at `now`: key, interval, report type."""
        found = set()
        for ill, moment in self.met:
            start = interval_at(utc_midnight(moment))
            key = next(key.key for key in ill.phone.keys(moment) if key.start == start)
            self._learn(key, ill, utc_midnight(moment) + DAY, now)
            report_type = self.known.get(key, REVOKED)
            if report_type != REVOKED and interval_at(moment) >= interval_at(now - MEMORY):
                found.add((key, interval_at(moment), report_type))
        return sorted(found, key=lambda match: (match[1], match[0]))

    def _learn(self, key: bytes, ill: Ill, key_end: datetime, now: datetime) -> None:
        created, revised = ill.created(key_end), ill.revised(key_end)
        period = PERIODS[self.feed]
        carried_at = floor(created, period) + period
        withdrawn = self.feed == WITHDRAWN_FEED and floor(created, period) == withdrawn_span()
        if key not in self.known:
            if withdrawn and now >= WITHDRAWN_AT:
                carried_at = REPLACED_AT
            if now < carried_at:
                return
            if revised is None or revised >= carried_at:
                self.known[key] = NUMBERS[ill.report_type]
            elif ill.becomes != "negative":
                self.known[key] = NUMBERS[ill.becomes]
        if key in self.known and revised is not None and floor(revised, period) + period <= now:
            self.known[key] = NUMBERS[ill.becomes]


def floor(moment: datetime, period: timedelta) -> datetime:
    midnight = utc_midnight(moment)
    return midnight + (moment - midnight) // period * period


def withdrawn_span() -> datetime:
    """Return the start of the batch that is withdrawn: the last that was released by then."""
    return floor(WITHDRAWN_AT, PERIODS[WITHDRAWN_FEED]) - PERIODS[WITHDRAWN_FEED]


@dataclass
class World:
    """One authority, its uploaders, and the phones that follow its feeds."""

    authority: Authority
    intake: Intake
    source: random.Random
    ill: list[Ill]
    followers: list[Follower]
    tokens: dict[int, str] = field(default_factory=dict)  # by the uploader's place

    @classmethod
    def make(cls, authority: Authority, intake: Intake) -> World:
        source = random.Random(10)
        for feed, period in PERIODS.items():
            authority.add_feed(
                feed, period_minutes=period // timedelta(minutes=1), max_keys=1000 if feed == "daily" else 12
            )
        trusted = {
            feed: {("242", feed.replace("-", "_")): load_public_key(pem)}
            for feed, pem in authority.sql("SELECT name, public_key FROM signing_key")
        }

        def phone(feed: str, **arguments: object) -> Phone:
            return Phone(trusted[feed], random_bytes=source.randbytes, **arguments)

        def ill(day: float, report_type: str, revises: float | None = None, becomes: str = "") -> Ill:
            made = Ill(
                phone("daily"),
                START + day * DAY + 20 * timedelta(minutes=1),
                report_type,
                None if revises is None else START + revises * DAY + 40 * timedelta(minutes=1),
                becomes,
            )
            made.phone.carry(made.uploads_at - 13 * DAY, made.uploads_at)
            return made

        day_of_withdrawal = (withdrawn_span() + HOUR - START) / DAY
        people = [
            ill(2, "likely", 4, "negative"),
            ill(day_of_withdrawal, "likely", (REPLACED_AT - 5 * HOUR - START) / DAY, "negative"),
            ill(day_of_withdrawal + 1 / 24, "likely", day_of_withdrawal + 2, "confirmed"),
            ill(day_of_withdrawal, "user-report"),
            ill(8.5, "likely", 8.5 + 1 / 24, "negative"),
            ill(9.25, "likely", 9.5, "confirmed"),
            ill(12, "likely"),
            ill(13.5, "likely", 14.5, "negative"),
        ]
        layouts = [
            (IOS_13_5, "daily", 4 * HOUR),
            (IOS_13_6, "four-hourly", 2 * HOUR),
            (IOS_13_7, "four-hourly", 4 * HOUR),
            (IOS_13_7, "hourly", 4 * HOUR),
            (ANDROID_1_3, "hourly", 2 * HOUR),
            (ANDROID_1_5, "four-hourly", 4 * HOUR),
            (ANDROID_1_5, "daily", 4 * HOUR),
        ]
        offline = [range(0), range(1, 3), range(5, 8), range(6, 7), range(3, 14), range(12)]
        followers = [
            Follower(phone(feed, platform=platform, reading=reading), platform, reading, feed, every, off)
            for number, (platform, feed, every) in enumerate(layouts)
            for reading in ("last seen", "set")
            for off in (offline[0], offline[1 + (2 * number + (reading == "set")) % 5])
        ]
        for one in followers:
            for other in people:
                for _ in range(2):
                    moment = other.uploads_at - source.uniform(0.1, 5) * DAY
                    one.phone.hear(other.phone.broadcast(moment), moment)
                    one.met.append((other, moment))
        return cls(authority, intake, source, people, followers)

    def act(self, since: datetime) -> None:
        """Let those upload and revise whose time comes within the hour."""
        for number, person in enumerate(self.ill):
            for moment, report_type in ((person.uploads_at, person.report_type), (person.revises_at, person.becomes)):
                if moment is not None and since <= moment < since + HOUR:
                    self.authority.database.set_time(moment)
                    self._upload(number, moment, report_type)

    def _upload(self, number: int, moment: datetime, report_type: str) -> None:
        """Send the keys of the first upload; a second time with the token that it was answered with."""

        def certify(mac: bytes) -> str:
            return issuer().certify(mac, report_type, moment)

        body = self.ill[number].phone.publish_request(self.ill[number].uploads_at, APP, certify)
        if number in self.tokens:
            body["revisionToken"] = self.tokens[number]
        accepted = accept(self.intake, decode_request("application/json", json.dumps(body).encode()), moment)
        assert not accepted.errors
        self.tokens[number] = accepted.revision_token


@pytest.fixture
def world(served: Authority, tmp_path: Path) -> World:
    url = served.database.url("keyserver_pipeline")
    served.sql("UPDATE release_clock SET width_minutes = %(width)s", width=WIDTH // timedelta(minutes=1))
    authorise(url, regions=("NO",))
    add_revision_key(url, tmp_path)
    database = served.database.database("api")
    keys = RevisionKeys(database, open_keywrap(f"file://{tmp_path}"))
    intake = Intake(database, Configuration(database, Limits()), keys, TOKEN_AAD, source=random.Random(1))
    return World.make(served, intake)


def test_every_phone_knows_in_time_what_it_should_and_keeps_to_its_quota(world):
    authority, cache = world.authority, FileCache()
    runtime = authority.runtime("closing")
    withdrawn = 0
    with httpx.Client() as http:
        for hour in range(DAYS * 24):
            now = START + hour * HOUR
            authority.database.set_time(now)
            windows.close_windows(runtime, now, random.Random(hour))
            export(runtime)
            if now == WITHDRAWN_AT:
                withdrawn = last_released(authority)
                withdraw.withdraw(runtime, withdrawn, "a test")
                withdraw.finish(runtime, withdrawn)
            if now == REPLACED_AT:
                replace.replace(runtime, withdrawn, "a test")
                assert export(runtime) == 1
            for follower in world.followers:
                if follower.looks_at(now):
                    look(authority, follower, now, http, cache)
            world.act(now)
    assert {fate for follower in world.followers for fate in follower.known.values()} == {1, 2, 3, 5}
    assert [one for one in world.followers if no_file_was_read_twice(authority, one, withdrawn)]
    for follower in world.followers:
        no_quota_was_exceeded(follower)


def export(runtime: Runtime) -> int:
    """Work on what is due until nothing is, as runs do; give the number of batches that were released."""
    released = 0
    while claimed := due.claim_due(runtime):
        for batch in claimed:
            run_steps(runtime, batch.batch_id)
        released += len(claimed)
    index.write_all(runtime)
    return released


def look(authority: Authority, follower: Follower, now: datetime, http: httpx.Client, cache: FileCache) -> None:
    """Let a phone look; it has then read its whole index, and knows just what it should."""
    base = f"{authority.public_url}/"
    matches = follower.phone.check(f"{base}{follower.feed}/index.txt", base, now, http=http, cache=cache)
    who = (follower.platform.name, follower.reading, follower.feed, now)
    assert [(match.key, match.interval, match.report_type) for match in matches] == follower.expected(now), who
    lines = (authority.public / follower.feed / "index.txt").read_text().split()
    read = {line for call in follower.phone.calls for line in call.lines}
    assert set(lines) <= read, who


def last_released(authority: Authority) -> int:
    ((batch_id, starts_at),) = authority.sql(
        "SELECT batch.id, starts_at FROM batch JOIN feed ON feed.id = feed_id"
        " WHERE feed.name = %(feed)s AND status = 'released' ORDER BY batch.id DESC LIMIT 1",
        feed=WITHDRAWN_FEED,
    )
    assert starts_at == withdrawn_span()
    return batch_id


def no_file_was_read_twice(authority: Authority, follower: Follower, withdrawn: int) -> bool:
    """But by a phone that remembered a withdrawn line, and so read the whole index again (B5): tell if it did."""
    lines = Counter(line for call in follower.phone.calls for line in call.lines)
    taken = {name for (name,) in authority.sql("SELECT name FROM file WHERE batch_id = %(id)s", id=withdrawn)}
    before = [line for call in follower.phone.calls if call.at < WITHDRAWN_AT for line in call.lines]
    remembered = follower.reading == "last seen" and not taken.isdisjoint(before)
    expected = [line for line in before if line not in taken] if remembered else []
    assert [line for line, times in lines.items() if times > 1] == expected
    assert max(lines.values()) <= 2
    return bool(expected)


def no_quota_was_exceeded(follower: Follower) -> None:
    """Counted anew, over every span of 24 hours (or UTC day) that ends with a call."""
    calls, platform = follower.phone.calls, follower.platform
    assert calls
    for last in calls:
        since = utc_midnight(last.at) if platform.by_utc_day else last.at - DAY + timedelta(seconds=1)
        within = [call for call in calls if since <= call.at <= last.at]
        assert len(within) <= platform.calls
        assert sum(call.new for call in within) <= platform.files
    assert platform.calls < UNLIMITED or platform.files < UNLIMITED
