"""The main job, once, from uploads to verified matches, with nothing simulated but the phones and the people.

North and south are two regions with an app and a feed each. Some of their people fall ill; their phones upload. Others
met one of them in the days before, and their phones must find exactly that out. Then a mistake is made, held back and
rejected (`mistake.py`), and an auditor looks at it all.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local import mistake
from deploy.local.development import REGIONS, Development, Region
from deploy.local.stack import PROJECT, Stack, StackError
from keyserver.device import client, exportreader
from keyserver.device.exportreader import CONFIRMED_TEST
from keyserver.device.issuer import ReportType
from keyserver.device.phone import FileCache, Phone, TrustedKeys
from keyserver.errors import KeyserverError, RemoteError
from keyserver.protocol.intervals import interval_start
from keyserver.protocol.signature import load_public_key

UPLOADERS = {"north": 120, "south": 80}
BYSTANDERS = {"north": 30, "south": 20}
MET_SOMEBODY_ILL = {"north": 12, "south": 8}
MET_SOMEBODY_HEALTHY = 4  # a region: a meeting alone must not warn anybody
MET_ON_A_KEY_STILL_VALID = 3  # a region: today's keys are uploaded, and held back until they ended
# In the north, two more phones upload a `likely` diagnosis, which their authority then confirms or takes back.
REVISIONS: tuple[ReportType, ...] = ("confirmed", "negative")
REVISED_IN = REGIONS[0]
UPLOADING_TODAY = 10  # a region: phones that send today's key as well
MOST_WAIT_S = 240.0
HELD_AFTER_END = timedelta(hours=2)

# Takes a phone's HMAC to its authority and brings back the certificate.
Certify = Callable[[bytes], str]

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Bystander:
    """Somebody who is not ill, and whether they must be warned."""

    phone: Phone
    region: Region
    must_match: bool
    report_types: set[int | None] = field(default_factory=set)  # what the phone was told of those whom it met

    @property
    def warned(self) -> bool:
        """Whether the phone found a meeting with somebody who tested positive; every report here ends as confirmed."""
        return self.report_types == {CONFIRMED_TEST}


@dataclass
class Revision:
    """A phone that uploads twice: a `likely` report, and what its authority makes of it."""

    phone: Phone
    becomes: ReportType


@dataclass
class Epidemic:
    """The people of the demo, and what their phones sent."""

    uploaders: dict[str, list[Phone]] = field(default_factory=dict)
    revisions: list[Revision] = field(default_factory=list)
    bystanders: list[Bystander] = field(default_factory=list)
    keys: int = 0
    due_keys: dict[str, set[bytes]] = field(default_factory=dict)  # by region: those that must be released
    held_keys: dict[str, set[bytes]] = field(default_factory=dict)  # those that must not be yet
    revoked_keys: set[bytes] = field(default_factory=set)  # and those that must never be


@dataclass(frozen=True)
class ReleasedFile:
    """A file that the index listed."""

    region: Region
    line: str
    url: str
    data: bytes
    content: exportreader.ExportFile


class Steps:
    """The steps of the demo and how long each took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, said: str) -> Iterator[None]:
        """Say what happens, and time it."""
        console.print(f"[bold]{said}[/]")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)


def run() -> int:
    """Run the demo in a home of its own; give the exit status: 0 only if exactly those who should match did."""
    chosen = Stack.from_environment(os.environ)
    stack = Stack(chosen.home / "demo", chosen.ports, 1, os.environ.get("KEYSERVER_ADMIN_DATABASE_URL") or None)
    began = time.monotonic()
    steps = Steps()
    try:
        with steps.step("set_up", "Setting up PostgreSQL, the API, the CDN and Airflow"):
            stack.start(lambda said: console.print(f"  [dim]·[/] {said}"))
        development = Development(stack)
        figures, ok = _main_job(stack, development, steps)
        told, as_told = _mistake(stack, development, steps)
        with steps.step("stop", "Stopping what was started"):
            stack.stop()
    except KeyserverError as error:
        console.print(f"[red]The demo failed:[/] {error}")
        return 1
    finally:
        stack.stop()
    figures |= told | {"total_s": round(time.monotonic() - began, 1), "steps_s": steps.seconds}
    console.print(_times(steps))
    console.print(
        "Where to look next: README.md, `make up` for a server that stays, its Airflow UI for the runs,\n"
        f'{_relative(stack.logs)} for logs, and "Check it yourself" in the README for the file, with openssl.'
    )
    print(json.dumps({**figures, "artifacts": figures.pop("artifacts")}))
    return 0 if ok and as_told else 1


def _main_job(stack: Stack, development: Development, steps: Steps) -> tuple[dict[str, object], bool]:
    with steps.step("declare", "Declaring a made-up health authority, its apps, feeds and keys"):
        development.declare(datetime.now(UTC))
    with steps.step("meet", "People meet; some fall ill"):
        epidemic = _meet(development, datetime.now(UTC))
    with steps.step(
        "upload", f"{sum(UPLOADERS.values()) + len(REVISIONS)} phones get a certificate for their diagnosis and upload"
    ):
        _await_room_in_the_window()
        span = _upload(development, epidemic)
    with steps.step("release_and_match", "Airflow closes the window, builds, checks, signs, verifies and releases"):
        files, last_match = _follow(stack, development, epidemic)
    met = [bystander for bystander in epidemic.bystanders if bystander.must_match]
    warned = sum(bystander.warned for bystander in met)
    leaked = sum(len(epidemic.held_keys[file.region.name] & _keys_of(file)) for file in files)
    revoked = sum(len(epidemic.revoked_keys & _keys_of(file)) for file in files)
    waited = max((last_match[file.region.name] - _batch_end(file)).total_seconds() for file in files)
    figures: dict[str, object] = {
        "uploads": sum(UPLOADERS.values()) + len(REVISIONS),
        "revisions": len(REVISIONS),
        "keys": epidemic.keys,
        "files": len(files),
        "matched": warned,
        "missed": len(met) - warned,
        "false_matches": sum(bool(one.report_types) for one in epidemic.bystanders if not one.must_match),
        "still_valid_keys_released": leaked,
        "revoked_keys_released": revoked,
        "window_end_to_match_s": round(waited, 1),
        "artifacts": {
            "zips": [_relative(stack.blobs / "public" / file.line) for file in files],
            "indexes": [_relative(stack.blobs / "public" / region.name / "index.txt") for region in REGIONS],
            "public_keys": [_relative(development.public_key(region)) for region in REGIONS],
        },
    }
    _say(epidemic, span, files, figures)
    wanted = {
        "matched": sum(MET_SOMEBODY_ILL.values()) + REVISIONS.count("confirmed"),
        "missed": 0,
        "false_matches": 0,
        "still_valid_keys_released": 0,
        "revoked_keys_released": 0,
    }
    return figures, wanted.items() <= figures.items()


def _mistake(stack: Stack, development: Development, steps: Steps) -> tuple[dict[str, object], bool]:
    """Let a mistake be held and rejected, and an auditor look at it all."""

    def say(said: str) -> None:
        console.print(f"  [dim]·[/] {escape(said)}")

    with steps.step("mistake", "Somebody adds keys past the API: a batch is held, and an operator rejects it"):
        made = mistake.make_and_reject(stack, say)
        out = mistake.released(stack, made.keys)
        say(f"{out} of these keys can be downloaded")
    with steps.step("audit", "An auditor walks the whole record: keyserver audit verify"):
        passed, lines = mistake.audit(stack, development)
        for line in lines:
            say(line)
    figures: dict[str, object] = {"mistake": made.status, "mistaken_keys_released": out, "audit_passed": passed}
    return figures, figures == {"mistake": "rejected", "mistaken_keys_released": 0, "audit_passed": True}


# ------------------------------------------------------------------------------------------------------------ people


def _meet(development: Development, now: datetime) -> Epidemic:
    """Let people live for two weeks. Meetings that must warn lie two to ten days back: those keys are due today."""
    source = random.SystemRandom()
    epidemic = Epidemic()
    for region in REGIONS:
        trusted = _trusted(development, region)
        ill = [Phone(trusted) for _ in range(UPLOADERS[region.name])]
        healthy = Phone(trusted)
        for number, phone in enumerate(ill):
            phone.carry(now - timedelta(days=13), now if number < UPLOADING_TODAY else now - timedelta(days=1))
        epidemic.uploaders[region.name] = ill
        # What each bystander met: somebody ill, somebody ill only today, somebody healthy, nobody.
        for number in range(BYSTANDERS[region.name]):
            bystander = Bystander(Phone(trusted), region, number < MET_SOMEBODY_ILL[region.name])
            past = now - timedelta(days=source.randint(2, 10), minutes=source.randint(0, 600))
            rest = number - MET_SOMEBODY_ILL[region.name]
            if bystander.must_match:
                _hear(bystander.phone, source.choice(ill), past, source)
            elif rest < MET_ON_A_KEY_STILL_VALID:
                _hear(bystander.phone, ill[rest], now - timedelta(minutes=1), source)
            elif rest < MET_ON_A_KEY_STILL_VALID + MET_SOMEBODY_HEALTHY:
                _hear(bystander.phone, healthy, past, source)
            epidemic.bystanders.append(bystander)
    for becomes in REVISIONS:
        revised = Revision(Phone(_trusted(development, REVISED_IN)), becomes)
        revised.phone.carry(now - timedelta(days=13), now - timedelta(days=1))
        bystander = Bystander(Phone(_trusted(development, REVISED_IN)), REVISED_IN, becomes == "confirmed")
        _hear(bystander.phone, revised.phone, now - timedelta(days=3), source)
        epidemic.revisions.append(revised)
        epidemic.bystanders.append(bystander)
    return epidemic


def _hear(listener: Phone, speaker: Phone, since: datetime, source: random.Random) -> None:
    """Stand near each other for a quarter of an hour; clocks of phones are a little off."""
    drift = timedelta(seconds=source.randint(-600, 600))
    for minute in range(0, 15, 5):
        moment = since + timedelta(minutes=minute)
        listener.hear(speaker.broadcast(moment), moment + drift)


def _trusted(development: Development, region: Region) -> TrustedKeys:
    """Give what a phone's vendor gave it beforehand."""
    return {(region.key_id, "v1"): load_public_key(development.public_key(region).read_text())}


# ------------------------------------------------------------------------------------------------------------ upload


def _await_room_in_the_window() -> None:
    """Let all uploads fall into one window, so that the summary can name it."""
    left = 60 - time.time() % 60
    if left < 30:
        time.sleep(left + 0.5)


def _upload(development: Development, epidemic: Epidemic) -> tuple[datetime, datetime]:
    """Upload from all phones, eight at a time; give the moments of the first and the last."""
    first = datetime.now(UTC)
    onset = first.date() - timedelta(days=3)
    with httpx.Client(timeout=30.0, trust_env=False) as http, ThreadPoolExecutor(8) as pool:
        upload = partial(_upload_one, development.stack.urls.api, http)
        for revision in epidemic.revisions:
            for report_type in ("likely", revision.becomes):
                certify = development.certifier(REVISED_IN, report_type, onset)
                epidemic.keys += upload(REVISED_IN, certify, revision.phone)
        for region in REGIONS:
            certify = development.certifier(region, "confirmed", onset)
            epidemic.keys += sum(pool.map(partial(upload, region, certify), epidemic.uploaders[region.name]))
    for region in REGIONS:
        _expect(epidemic, region.name, epidemic.uploaders[region.name], first)
    for revision in epidemic.revisions:
        if revision.becomes == "negative":
            epidemic.revoked_keys |= {key.key for key in revision.phone.keys(first)}
        else:
            _expect(epidemic, REVISED_IN.name, [revision.phone], first)
    return first, datetime.now(UTC)


def _expect(epidemic: Epidemic, region: str, phones: list[Phone], now: datetime) -> None:
    """Note which keys of phones must be released next, and which not before they ended."""
    ends = {key.key: interval_start(key.start + key.period) for phone in phones for key in phone.keys(now)}
    due, held = epidemic.due_keys.setdefault(region, set()), epidemic.held_keys.setdefault(region, set())
    due |= {key for key, end in ends.items() if end + HELD_AFTER_END <= now}
    held |= {key for key, end in ends.items() if end > now}


def _upload_one(api_url: str, http: httpx.Client, region: Region, certify: Certify, phone: Phone) -> int:
    """Upload from one phone; give how many of its keys were new."""
    request = phone.publish_request(datetime.now(UTC), region.app, certify)
    answer = phone.upload(api_url, request, http=http)
    if answer.status != httpx.codes.OK or answer.code:
        raise StackError(f"an upload was answered {answer.status} {answer.code}: {answer.error}")
    return answer.inserted


# ------------------------------------------------------------------------------------------------- download and match


def _follow(
    stack: Stack, development: Development, epidemic: Epidemic
) -> tuple[list[ReleasedFile], dict[str, datetime]]:
    """Follow both indexes until every key that is due was seen; let a region's phones look as soon as its are there.

    Gives the files that carried them, and by region the moment at which the last phone had looked.
    """
    deadline = time.monotonic() + MOST_WAIT_S
    seen: dict[str, ReleasedFile] = {}
    last_match: dict[str, datetime] = {}
    with httpx.Client(timeout=30.0, trust_env=False) as http:
        while len(last_match) < len(REGIONS):
            if time.monotonic() > deadline:
                raise StackError(
                    f"not all keys were released within {MOST_WAIT_S:.0f} s:"
                    f" see {_relative(stack.logs)} and the runs of export_keys"
                )
            for region in REGIONS:
                for line in _index(stack, region, http):
                    if line not in seen:
                        seen[line] = _fetch(stack, development, region, line, http)
                        console.print(f"  [dim]·[/] released: {line}, {len(seen[line].content.keys):,} keys")
                released = {key for file in seen.values() for key in _keys_of(file)}
                if region.name not in last_match and epidemic.due_keys[region.name] <= released:
                    last_match[region.name] = _let_phones_look(stack, region, epidemic, http)
            time.sleep(0.5)
    due = set().union(*epidemic.due_keys.values())
    return [file for file in seen.values() if due & _keys_of(file)], last_match


def _index(stack: Stack, region: Region, http: httpx.Client) -> list[str]:
    """Read a feed's index; it is not there before the first run of the DAG has ended."""
    try:
        return client.fetch_index(f"{stack.urls.cdn}/{region.name}/index.txt", http=http)
    except RemoteError:
        return []


def _fetch(stack: Stack, development: Development, region: Region, line: str, http: httpx.Client) -> ReleasedFile:
    base = f"{stack.urls.cdn}/"
    data = client.fetch_file(base, line, http=http)
    return ReleasedFile(region, line, base + line, data, exportreader.verify(data, _trusted(development, region)))


def _let_phones_look(stack: Stack, region: Region, epidemic: Epidemic, http: httpx.Client) -> datetime:
    """Let every bystander of a region download, verify and match; give the moment at which the last one had."""
    index_url, base = f"{stack.urls.cdn}/{region.name}/index.txt", f"{stack.urls.cdn}/"
    cache = FileCache()
    bystanders = [bystander for bystander in epidemic.bystanders if bystander.region == region]
    for bystander in bystanders:
        matches = bystander.phone.check(index_url, base, datetime.now(UTC), http=http, cache=cache)
        bystander.report_types = {match.report_type for match in matches}
    console.print(f"  [dim]·[/] {len(bystanders)} other phones in the {region.name} have looked")
    return datetime.now(UTC)


def _keys_of(file: ReleasedFile) -> set[bytes]:
    return {key.key for key in file.content.keys}


def _batch_end(file: ReleasedFile) -> datetime:
    """Give the end of the file's batch: a file of several says a few seconds more."""
    return file.content.end.replace(second=0, microsecond=0)


# ----------------------------------------------------------------------------------------------------------- summary


def _say(
    epidemic: Epidemic, span: tuple[datetime, datetime], files: list[ReleasedFile], figures: dict[str, object]
) -> None:
    held = sum(map(len, epidemic.held_keys.values()))
    console.print(
        f"\n[bold]{figures['uploads']} phones uploaded {epidemic.keys:,} keys[/] between {span[0]:%H:%M:%S} and"
        f" {span[1]:%H:%M:%S} UTC. {held} of them are still valid and must wait until they ended:"
        f" {figures['still_valid_keys_released']} of these were released.\n"
        "Two phones reported a likely diagnosis first. One was then confirmed, and is released as that; the other was"
        f" taken back, and {figures['revoked_keys_released']} of its keys were released.\n"
    )
    console.print("[bold]Released files[/], each with a signature that verified:")
    for file in files:
        console.print(
            f"  {file.region.name}, uploads from {file.content.start:%H:%M} to {_batch_end(file):%H:%M} UTC:"
            f" {len(file.content.keys):,} keys, {len(file.data):,} bytes\n    {file.url}\n"
            f"    SHA-256 {hashlib.sha256(file.data).hexdigest()}"
        )
    console.print(
        f"\n[bold]{len(epidemic.bystanders)} other phones looked: {figures['matched']} were warned as they should"
        f" be[/], {figures['missed']} were missed, {figures['false_matches']} were warned without reason"
        f" ({sum(not bystander.must_match for bystander in epidemic.bystanders)} had none).\n"
        f"From the end of their window to the last match it took {figures['window_end_to_match_s']} s.\n"
        "Where uploads are few, a file holds synthetic keys as well, so that small numbers point at nobody.\n"
    )


def _times(steps: Steps) -> Table:
    table = Table("step", "seconds", title="How long it took", title_justify="left")
    for name, seconds in steps.seconds.items():
        table.add_row(name.replace("_", " "), f"{seconds:.1f}")
    return table


def _relative(path: Path) -> str:
    """Write a path as seen from the project."""
    return os.path.relpath(path, PROJECT)
