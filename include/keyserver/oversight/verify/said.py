"""What the events of the trail say of the state: one pass over them, and of each batch only what is compared later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from keyserver.errors import FormatError
from keyserver.oversight.trail import Event
from keyserver.oversight.verify.report import Report
from keyserver.oversight.wording import moment

_UNSETTLED = ("planned", "built", "checked", "signed", "verified")

# B1: which event of a batch may follow which status, and to which it leads.
_WAY: Mapping[str, tuple[tuple[str, ...], str]] = {
    "batch.built": (("planned",), "built"),
    "batch.empty": (("planned",), "empty"),
    "batch.checked": (("built",), "checked"),
    "file.signed": (("checked", "signed"), "signed"),
    "batch.verified": (("signed",), "verified"),
    "file.released": (("verified", "released"), "released"),
    "batch.held": (_UNSETTLED, "held"),
    "batch.approved": (("held",), "replaced"),
    "batch.rejected": (("held",), "rejected"),
    "batch.withdrawing": (("released",), "withdrawing"),
    "batch.withdrawn": (("withdrawing",), "withdrawn"),
}


@dataclass(slots=True)
class FileSaid:
    """A file, by the newest event that says each."""

    export_sha256: bytes
    status: str = "staged"
    name: str | None = None
    zip_sha256: bytes | None = None
    zip_bytes: int | None = None
    keys: int | None = None  # known once it is released
    revised_keys: int | None = None
    release_no: int | None = None


@dataclass(slots=True)
class BatchSaid:
    """A batch, by its events. ``seq``: of the newest. ``closed_through``: how far windows were when it was planned."""

    planned_by: int
    planned_at: datetime
    feed: str
    replaces: int | None
    plan_sha256: bytes | None
    closed_through: datetime | None
    seq: int
    status: str = "planned"
    reason: str | None = None
    counts: Mapping[str, int] | None = None
    code: str | None = None
    carriers: tuple[str, str] | None = None
    built_at: datetime | None = None
    files: dict[int, FileSaid] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowSaid:
    """A window's end and totals when it was closed."""

    seq: int
    ends_at: datetime
    totals: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LineSaid:
    """A line of a feed's public log: what happened to which file."""

    seq: int
    kind: str
    batch: int
    number: int


@dataclass(frozen=True, slots=True)
class DaySaid:
    """A day of a feed's public log that was closed."""

    seq: int
    head_seq: int
    head_sha256: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class RestoreSaid:
    """A declared restore: what was public of a feed's log that the database has not, and where it lies now."""

    seq: int
    at: datetime
    root: str
    day: str
    archive: str
    lines: int
    sha256: bytes
    head_seq: int
    head_sha256: bytes


@dataclass(frozen=True, slots=True)
class Newest:
    """An event of which only the newest counts: its number, time and, where it has one, its hash."""

    seq: int
    at: datetime
    sha256: bytes = b""


class Said:
    """What the events that were read say; ``whole``: they are all that there are, from the first on."""

    def __init__(self, report: Report, *, whole: bool) -> None:
        """Begin before the first event that is read."""
        self.whole = whole
        self.batches: dict[int, BatchSaid] = {}
        self.windows: dict[datetime, WindowSaid] = {}
        self.closed_through: datetime | None = None
        self.indexes: dict[str, Newest] = {}
        self.release_numbers: dict[str, int] = {}
        self.revoked: dict[str, int] = {}
        self.signatures: dict[tuple[bytes, str], int] = {}
        self.log_signatures: dict[tuple[bytes, str], int] = {}
        self.log_lines: dict[str, list[LineSaid]] = {}
        self.log_days: dict[tuple[str, date], DaySaid] = {}
        self.restores: list[RestoreSaid] = []
        self.deletions: dict[int, tuple[int, int, int]] = {}  # event, keys, revisions
        self.deleted_through: datetime | None = None  # by age
        self.proved: Newest | None = None
        self.not_proved: Newest | None = None
        self.configuration: Newest | None = None
        self._report = report
        self._take: Mapping[str, Callable[[Event], None]] = {
            "window.closed": self._window_closed,
            "batch.planned": self._batch_planned,
            **dict.fromkeys(_WAY, self._batch_moved),
            "file.expired": self._file_left,
            "file.deleted": self._file_left,
            "signature.stored": self._signature_stored,
            "index.written": self._index_written,
            "log.day_closed": self._day_closed,
            "log.signed": self._log_signed,
            "signing_key.revoked": self._key_revoked,
            "configuration.applied": self._configuration_applied,
            "keys.deleted_on_demand": self._deleted_on_demand,
            "retention.deleted": self._retention_deleted,
            "retention.proved": self._retention_proved,
            "retention.not_proved": self._retention_not_proved,
            "database.restored": self._database_restored,
        }

    def take(self, event: Event) -> None:
        """Take the next event in; one that does not say what its kind says is a finding."""
        take = self._take.get(event.kind)
        if take is None:
            return
        try:
            take(event)
        except FormatError as error:
            self._report.find(f"event {event.seq}", str(error))

    def _window_closed(self, event: Event) -> None:
        starts_at, ends_at = _moment(event, "start"), _moment(event, "end")
        if self.closed_through is not None and starts_at != self.closed_through:
            self._report.find(
                f"event {event.seq}",
                f"the window from {moment(starts_at)} is closed, and the one before ended at"
                f" {moment(self.closed_through)}: windows are closed in order, each once",
            )
        totals = (event.count("keys"), event.count("synthetic_keys"), event.count("revisions"))
        self.windows[starts_at] = WindowSaid(event.seq, ends_at, totals)
        self.closed_through = ends_at

    def _batch_planned(self, event: Event) -> None:
        number = event.number("batch")
        if number in self.batches:
            self._report.find(f"event {event.seq}", f"batch {number} is planned a second time")
            return
        self.batches[number] = BatchSaid(
            planned_by=event.seq,
            planned_at=event.at,
            feed=event.text("feed"),
            replaces=event.number("replaces") if "replaces" in event.subject else None,
            plan_sha256=event.sha256("plan") if "plan" in event.hashes else None,
            closed_through=self.closed_through,
            seq=event.seq,
            reason=event.text("reason") if "reason" in event.subject else None,
        )

    def _batch(self, event: Event) -> BatchSaid | None:
        """Find an event's batch; None when it was planned before the events that are read."""
        number = event.number("batch")
        batch = self.batches.get(number)
        if batch is None and self.whole:
            self._report.find(f"event {event.seq}", f"{event.kind}: no event before it planned batch {number}")
        return batch

    def _batch_moved(self, event: Event) -> None:
        if event.kind == "file.released":
            self._takes_place(event)
        batch = self._batch(event)
        if batch is None:
            return
        before, after = _WAY[event.kind]
        if batch.status not in before:
            self._report.find(
                f"event {event.seq}", f"{event.kind}: batch {event.number('batch')} was {batch.status} before it"
            )
        batch.status, batch.seq = after, event.seq
        if "reason" in event.subject:
            batch.reason = event.text("reason")
        match event.kind:
            case "batch.built" | "batch.empty":
                self._built(event, batch)
            case "file.signed":
                file = self._file(event, batch)
                file.name, file.zip_bytes = event.text("name"), event.count("zip_bytes")
                self._agrees(event, "export.bin", event.sha256("export_bin"), file.export_sha256)
                file.zip_sha256 = event.sha256("zip")
            case "file.released":
                self._released(event, batch)
            case "batch.withdrawing":
                self._left(event, batch, "released", "withdrawing")
                lines = self.log_lines.setdefault(batch.feed, [])
                number = event.number("batch")
                lines.extend(LineSaid(event.seq, "withdrawal", number, each) for each in sorted(batch.files))
            case "batch.withdrawn":
                self._left(event, batch, "withdrawing", "withdrawn")
                self._left(event, batch, "expired", "deleted")

    def _built(self, event: Event, batch: BatchSaid) -> None:
        batch.counts, batch.built_at, batch.code = event.counts, event.at, event.text("code")
        if "carriers" in event.subject:
            batch.carriers = (event.text("carriers"), event.text("withdrawn_carriers"))
        prefix = "export_bin_"
        for name in event.hashes:
            number = name.removeprefix(prefix)
            if not (name.startswith(prefix) and number.isascii() and number.isdigit() and len(number) < 6):
                raise FormatError(f"event {event.seq} ({event.kind}) has a hash of no file")
            batch.files[int(number)] = FileSaid(event.sha256(name))

    def _released(self, event: Event, batch: BatchSaid) -> None:
        file = self._file(event, batch)
        self._agrees(event, "export.bin", event.sha256("export_bin"), file.export_sha256)
        self._agrees(event, "zip", event.sha256("zip"), file.zip_sha256)
        self._agrees(event, "name", event.text("name"), file.name)
        file.status = "released"
        file.keys, file.revised_keys = event.count("keys"), event.count("revised_keys")
        file.release_no = event.count("release_no")
        line = LineSaid(event.seq, "release", event.number("batch"), event.number("file"))
        self.log_lines.setdefault(batch.feed, []).append(line)

    def _takes_place(self, event: Event) -> None:
        """Follow the places in a feed's index, which are taken one after the other (B7)."""
        feed, place = event.text("feed"), event.count("release_no")
        before = self.release_numbers.get(feed)
        if before is not None and place != before + 1:
            self._report.find(
                f"event {event.seq}",
                f"its file takes place {place} in feed {feed}'s index, and the one before {before}",
            )
        self.release_numbers[feed] = place

    def _file_left(self, event: Event) -> None:
        """Take in that retention took a line out of the index, or an object out of the store."""
        batch = self._batch(event)
        if batch is not None:
            self._file(event, batch).status = event.kind.removeprefix("file.")

    def _file(self, event: Event, batch: BatchSaid) -> FileSaid:
        file = batch.files.get(event.number("file"))
        if file is None:
            raise FormatError(f"{event.kind}: batch {event.number('batch')} was built without that file")
        return file

    def _left(self, event: Event, batch: BatchSaid, before: str, after: str) -> None:
        for number, file in batch.files.items():
            if file.status == before:
                file.status = after
            if f"zip_{number}" in event.hashes:
                self._agrees(event, "zip", event.sha256(f"zip_{number}"), file.zip_sha256)

    def _agrees(self, event: Event, what: str, now: object, before: object) -> None:
        if now != before:
            self._report.find(f"event {event.seq}", f"{event.kind}: another {what} than an event before it says")

    def _signature_stored(self, event: Event) -> None:
        self.signatures[event.sha256("export_bin"), event.text("key")] = event.seq

    def _log_signed(self, event: Event) -> None:
        self.log_signatures[event.sha256("segment"), event.text("key")] = event.seq

    def _index_written(self, event: Event) -> None:
        self.indexes[event.text("feed")] = Newest(event.seq, event.at, event.sha256("index"))

    def _day_closed(self, event: Event) -> None:
        self.log_days[event.text("feed"), _day(event)] = DaySaid(
            event.seq, event.count("head"), event.sha256("head"), event.sha256("segment")
        )

    def _key_revoked(self, event: Event) -> None:
        self.revoked[event.text("name")] = event.seq

    def _configuration_applied(self, event: Event) -> None:
        self.configuration = Newest(event.seq, event.at, event.sha256("configuration"))

    def _deleted_on_demand(self, event: Event) -> None:
        self.deletions[event.number("deletion")] = (event.seq, event.count("keys"), event.count("revisions"))

    def _retention_deleted(self, event: Event) -> None:
        if event.text("what") == "exposure":
            last = _moment(event, "to")
            self.deleted_through = max(last, self.deleted_through or last)

    def _retention_proved(self, event: Event) -> None:
        self.proved = Newest(event.seq, event.at)

    def _retention_not_proved(self, event: Event) -> None:
        self.not_proved = Newest(event.seq, event.at)

    def _database_restored(self, event: Event) -> None:
        self.restores.append(
            RestoreSaid(
                seq=event.seq,
                at=event.at,
                root=event.text("root"),
                day=event.text("day"),
                archive=event.text("archive"),
                lines=event.count("lines"),
                sha256=event.sha256("segment"),
                head_seq=event.count("head_seq"),
                head_sha256=event.sha256("head"),
            )
        )


def _moment(event: Event, name: str) -> datetime:
    try:
        at = datetime.fromisoformat(event.text(name))
    except ValueError as error:
        raise FormatError(f"event {event.seq} ({event.kind}): its {name} is no moment") from error
    if at.tzinfo is None:
        raise FormatError(f"event {event.seq} ({event.kind}): its {name} is no moment")
    return at


def _day(event: Event) -> date:
    try:
        return date.fromisoformat(event.text("day"))
    except ValueError as error:
        raise FormatError(f"event {event.seq} ({event.kind}): its day is none") from error
