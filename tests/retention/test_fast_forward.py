"""Twenty days of a key server, by the use cases that its DAGs run and the tests' clock: fourteen days of all are left.

Every four hours: uploads, windows closed, batches released, indexes, logs and confirmations, and retention with its
proof; once a day the revision keys. What must be left is told by what was done, not by what the server says.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from keyserver.export import confirm, due, index, release, transparency, windows
from keyserver.keys import revision
from keyserver.protocol.exposure import EMBARGO, RETENTION, Limits
from keyserver.protocol.intervals import floor_window
from keyserver.protocol.messages import decode_request
from keyserver.protocol.retention import GRACE
from keyserver.providers.keywrap import open_keywrap
from keyserver.publish.accept import Configuration, Intake, accept
from keyserver.publish.revisionkeys import RevisionKeys
from keyserver.runtime import open_runtime
from tests.conftest import START
from tests.export.conftest import Authority, run_steps
from tests.retention.conftest import enforce, events
from tests.uploads import TOKEN_AAD, add_revision_key, authorise, keys, request

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WIDTH, STEP, DAYS = HOUR, 4 * HOUR, 20
BEGIN = START.replace(hour=0)
END = BEGIN + DAYS * DAY
OLDEST = END - RETENTION  # what began here, or before, is gone
FEEDS = {"four-hourly": 240, "daily": 1440, "ended": 1440}
ENDED_AT = BEGIN + 10 * DAY


@dataclass
class World:
    """The server, and what was done to it."""

    authority: Authority
    intake: Intake
    folder: Path
    published: list[datetime] = field(default_factory=list)  # the windows of accepted keys
    files: list[str] = field(default_factory=list)  # every name that an index ever listed

    def step(self, now: datetime) -> None:
        """What happens in four hours, at their end."""
        authority = self.authority
        authority.database.set_time(now)
        self.publish(now)
        runtime = authority.runtime("export-1")
        windows.close_windows(runtime, now, random.Random(int(now.timestamp())))
        for claimed in iter(lambda: due.claim_due(runtime), []):
            for batch in claimed:
                run_steps(runtime, batch.batch_id)
        index.write_all(runtime)
        release.remove_unlisted(runtime)
        confirm.confirm(runtime)
        transparency.publish_logs(runtime)
        if now == floor_window(now, DAY):
            self.rotate()
        self.files += [line for feed in FEEDS for line in self.lines(feed) if line not in self.files]
        enforce(authority)

    def publish(self, now: datetime) -> None:
        sent = keys(now, 3, now.isoformat())
        body = json.dumps(request(sent, now)).encode()
        assert not accept(self.intake, decode_request("application/json", body), now).errors
        for key in sent:
            end = datetime.fromtimestamp((key["rollingStartNumber"] + key["rollingPeriod"]) * 600, now.tzinfo)
            self.published.append(floor_window(max(now, end + EMBARGO), WIDTH))

    def rotate(self) -> None:
        runtime = open_runtime(
            self.authority.runtime().actor,
            self.authority.database.url("keyserver_pipeline"),
            keywrap_url=f"file://{self.folder}",
        )
        revision.rotate(runtime)
        runtime.close()

    def lines(self, feed: str) -> list[str]:
        return (self.authority.public / feed / "index.txt").read_text(encoding="ascii").split()

    def starts(self, statement: str) -> list[datetime]:
        return [moment for (moment,) in self.authority.sql(statement)]


@pytest.fixture
def world(served: Authority, tmp_path: Path) -> World:
    url = served.database.url("keyserver_pipeline")
    served.sql(
        "UPDATE release_clock SET width_minutes = 60, closed_through = %(at)s, rewritten_through = %(at)s", at=BEGIN
    )
    served.database.set_time(BEGIN)
    authorise(url, regions=("NO",))
    add_revision_key(url, tmp_path)
    served.add_log_key()
    for feed, minutes in FEEDS.items():
        served.add_feed(
            feed,
            period_minutes=minutes,
            active_from=BEGIN,
            active_thru=ENDED_AT if feed == "ended" else None,
            max_keys=50,
            padding_minimum=6,
        )
    database = served.database.database("api")
    revision_keys = RevisionKeys(database, open_keywrap(f"file://{tmp_path}"))
    intake = Intake(database, Configuration(database, Limits()), revision_keys, TOKEN_AAD, source=random.Random(1))
    return World(served, intake, tmp_path)


def test_after_twenty_days_there_are_exactly_the_last_fourteen(world):
    authority = world.authority
    for step in range(1, DAYS * DAY // STEP + 1):
        world.step(BEGIN + step * STEP)
    assert authority.database.now() == END

    # Keys: just those of windows that began in the last fourteen days, padding included.
    kept = sorted(window for window in world.published if window > OLDEST)
    assert kept[0] - OLDEST <= STEP
    assert world.starts("SELECT created_at FROM exposure WHERE NOT synthetic ORDER BY created_at, exposure_key") == kept
    synthetic = world.starts("SELECT DISTINCT created_at FROM exposure WHERE synthetic ORDER BY created_at")
    padded = world.starts("SELECT starts_at FROM closed_window WHERE synthetic_keys > 0 ORDER BY starts_at")
    assert synthetic == [window for window in padded if window > OLDEST]
    assert min(padded) < OLDEST

    # Lines: of every batch that began in the last fourteen days, and of a feed that ended none later than its end.
    for feed in FEEDS:
        (feed_id,) = authority.sql("SELECT id FROM feed WHERE name = %(feed)s", feed=feed)[0]
        released = authority.sql(
            "SELECT file.name FROM file JOIN batch ON batch.id = batch_id WHERE batch.feed_id = %(feed)s"
            " AND batch.starts_at > %(oldest)s ORDER BY release_no",
            feed=feed_id,
            oldest=OLDEST,
        )
        assert world.lines(feed) == [name for (name,) in released]
        assert released
    # Objects: those, and what left the index in the last day; all others that phones ever had are gone.
    listed = {name for feed in FEEDS for name in world.lines(feed)}
    grace = {
        name
        for (name,) in authority.sql(
            "SELECT file.name FROM file JOIN batch ON batch.id = batch_id"
            " WHERE batch.starts_at <= %(oldest)s AND batch.starts_at > %(limit)s",
            oldest=OLDEST,
            limit=OLDEST - GRACE,
        )
    }
    there = {name for name in authority.released_files() if name.endswith(".zip")}
    assert there == listed | grace
    assert set(world.files) > there
    assert list((authority.folder / "blobs" / "staging").glob("*")) == []

    # Counters and results.
    hours = world.starts("SELECT DISTINCT hour FROM upload_stats ORDER BY hour")
    assert hours == [OLDEST + step * STEP for step in range(1, 14 * DAY // STEP + 1)]
    days = world.starts("SELECT DISTINCT day FROM profile ORDER BY day")
    assert days == [(OLDEST + day * DAY).date() for day in range(1, 15)]
    assert world.starts("SELECT DISTINCT day FROM profile_marginal ORDER BY day") == days
    checked = world.starts("SELECT DISTINCT at FROM quality_result ORDER BY at")
    assert checked == [OLDEST + step * STEP for step in range(1, 14 * DAY // STEP + 1)]

    # History stays, and so does the public log.
    assert len(world.starts("SELECT starts_at FROM closed_window")) == DAYS * 24
    assert authority.sql("SELECT count(*) FROM transparency_line") == [(len(world.files),)]
    assert len(events(authority, "retention.proved")) == DAYS * DAY // STEP
    deleted = [event["counts"] for event in events(authority, "retention.deleted") if "keys" in event["counts"]]
    assert sum(counts["keys"] - counts["synthetic_keys"] for counts in deleted) == len(world.published) - len(kept)
    assert [counts for counts in deleted if any(name.startswith("unreleased") for name in counts)] == []
