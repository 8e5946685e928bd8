"""Whatever is tampered with is found, and named: one case each (issue: audit, 2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from keyserver.oversight.verify import Kept, Report
from tests.oversight.verify.conftest import Case

Tamper = Callable[[Case], None]


def sql(*statements: str) -> Tamper:
    return lambda case: case.change(*statements)


def body(seq: int, old: str, new: str) -> str:
    """A change of an event's bytes."""
    return (
        f"UPDATE audit_event SET body = convert_to(replace(convert_from(body, 'UTF8'), '{old}', '{new}'), 'UTF8')"
        f" WHERE seq = {seq}"
    )


HASH = "UPDATE audit_event SET hash = sha256(body) WHERE seq = {}"


def told(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


def assert_named(report: Report, *patterns: str) -> None:
    for pattern in patterns:
        assert [finding for finding in told(report) if re.search(pattern, finding)], (pattern, told(report))
    assert report.status == 1


# The trail


THE_TRAIL: dict[str, tuple[Tamper, str]] = {
    "an event's bytes": (sql(body(3, '"try":null', '"try":1')), r"^event 3: its bytes were changed"),
    "an event's bytes and hash": (
        sql(body(3, '"try":null', '"try":1'), HASH.format(3)),
        r"^event 4: it does not follow event 3",
    ),
    "an event's bytes, not canonical any more": (
        sql(body(3, '"try":null', '"try": null'), HASH.format(3)),
        r"^event 3: it is not written as canonical JSON",
    ),
    "an event's bytes, no event any more": (
        sql(body(3, '"try"', '"tries"'), HASH.format(3)),
        r"^event 3: it is no event of version 1",
    ),
    "an event's hash": (
        sql("UPDATE audit_event SET hash = sha256('x') WHERE seq = 3"),
        r"^event 3: its bytes were changed",
    ),
    "an event's column kind": (
        sql("UPDATE audit_event SET kind = 'a.b' WHERE seq = 3"),
        r"^event 3: its column says another kind",
    ),
    "an event's column at": (
        sql("UPDATE audit_event SET at = at + interval '1 second' WHERE seq = 3"),
        r"^event 3: its column says another time",
    ),
    "an event removed": (sql("DELETE FROM audit_event WHERE seq = 7"), r"^event 7: missing from the trail"),
    "the first events removed": (sql("DELETE FROM audit_event WHERE seq < 4"), r"^events 1 to 3: missing"),
    "the last events removed": (
        sql("DELETE FROM audit_event WHERE seq >= (SELECT max(head_seq) FROM transparency_segment)"),
        r"^event \d+: fork: the public log of feed north, 2026-03-02, at the store, .* removed at its end",
    ),
    "an event left out, the others made to fit": (
        lambda case: case.rewrite(9, lambda event: None if event["seq"] == 9 else event),
        r"^event \d+: fork: the public log .* has another hash of it: the trail was rewritten",
    ),
    "all events rewritten": (
        lambda case: case.rewrite(1, lambda event: {**event, "actor": "nobody"}),
        r"^event \d+: fork: the public log .* the trail was rewritten",
    ),
    "a time set back": (
        lambda case: case.rewrite(9, lambda event: {**event, "at": "2026-03-01T00:00:00.000000Z"}),
        r"^event 9: its time, .* is .* before that of the event before it",
    ),
    "an event appended that nothing shows": (
        sql(
            "SELECT audit_append(ARRAY[jsonb_build_object('actor', 'a', 'dag', null, 'run', null, 'task', null,"
            " 'map_index', null, 'try', null, 'kind', 'batch.withdrawing', 'subject',"
            " jsonb_build_object('batch', 1, 'feed', 'north', 'reason', 'x'), 'counts', '{}'::jsonb,"
            " 'hashes', '{}'::jsonb)])"
        ),
        r"^batch 1: its status is released; by event \d+ it is withdrawing",
    ),
    "an event appended that cannot be": (
        sql(
            "SELECT audit_append(ARRAY[jsonb_build_object('actor', 'a', 'dag', null, 'run', null, 'task', null,"
            " 'map_index', null, 'try', null, 'kind', 'batch.verified', 'subject',"
            " jsonb_build_object('batch', 1), 'counts', '{}'::jsonb, 'hashes', '{}'::jsonb)])"
        ),
        r"^event \d+: batch.verified: batch 1 was released before it",
    ),
}

# The rows

THE_ROWS: dict[str, tuple[Tamper, str]] = {
    "a batch's status": (sql("UPDATE batch SET status = 'released' WHERE id = 5"), r"^batch 5: its status is released"),
    "a batch's counts": (
        sql("""UPDATE batch SET counts = counts || '{"released": 999}' WHERE id = 1"""),
        r"^batch 1: its counts are not those .*: released",
    ),
    "a batch's revisions_to": (
        sql("UPDATE batch SET revisions_to = revisions_to + interval '1 minute' WHERE id = 1"),
        r"^batch 1: its revisions_to is ",
    ),
    "a replacing batch's revisions_to": (
        sql("UPDATE batch SET revisions_to = revisions_to + interval '1 minute' WHERE id = 4"),
        r"^batch 4: its revisions_to is ",
    ),
    "a batch's cutoff": (
        sql("UPDATE batch SET cutoff = cutoff - interval '1 minute' WHERE id = 1"),
        r"^batch 1: its cutoff is ",
    ),
    "a batch's regions": (sql("UPDATE batch SET input_regions = '{NO,SE}' WHERE id = 1"), r"^batch 1: its plan "),
    "a batch's signing keys": (
        sql("UPDATE batch_signing_key SET signing_key_id = signing_key_id + 2 WHERE batch_id = 1"),
        r"^batch 1: its plan ",
    ),
    "a batch's carriers": (
        sql("UPDATE batch SET carriers = '{}' WHERE id = 2"),
        r"^batch 2: the batches that its revised keys came from",
    ),
    "a batch's code version": (
        sql("UPDATE batch SET code_version = 'x' WHERE id = 1"),
        r"^batch 1: its code version",
    ),
    "a decision's reason": (sql("UPDATE batch SET reason = 'x' WHERE id = 5"), r"^batch 5: its reason"),
    "a batch put in": (
        sql(
            "INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region, input_regions,"
            " exclude_regions, travelers, max_keys) SELECT feed_id, 'epoch', '1970-01-02', cutoff, revisions_to, root,"
            " output_region, input_regions, exclude_regions, travelers, max_keys FROM batch WHERE id = 1"
        ),
        r"^batch \d+: it has a row, and no event planned it",
    ),
    "a batch removed": (sql("DELETE FROM batch WHERE id = 3"), r"^batch 3: event \d+ planned it, and it has no row"),
    "a file's export.bin": (
        sql("UPDATE file SET export_sha256 = sha256('x') WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its SHA-256 of export.bin",
    ),
    "a file's zip": (
        sql("UPDATE file SET zip_sha256 = sha256('x') WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its SHA-256 of the zip",
    ),
    "a file's name": (
        sql("UPDATE file SET name = 'north/x.zip' WHERE batch_id = 1 AND number = 1"),
        r"^file north/x.zip: its name",
    ),
    "a file's keys": (
        sql("UPDATE file SET keys = keys + 1 WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its number of keys",
    ),
    "a file's revised keys": (
        sql("UPDATE file SET revised_keys = 5 WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its number of revised keys",
    ),
    "a file's size": (
        sql("UPDATE file SET zip_bytes = 5 WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its size of the zip",
    ),
    "a file's status": (
        sql("UPDATE file SET status = 'expired' WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its status is expired; by its events it is released",
    ),
    "a file's place": (
        sql("UPDATE file SET release_no = 99 WHERE batch_id = 1 AND number = 1"),
        r"^file north/\S+: its place in the index",
    ),
    "a file put in": (
        sql(
            "INSERT INTO file (batch_id, number, feed_id, starts_at, ends_at, keys, revised_keys, export_sha256)"
            " SELECT batch_id, 9, feed_id, starts_at, ends_at, 1, 0, sha256('x') FROM file WHERE batch_id = 1 LIMIT 1"
        ),
        r"^file 9 of batch 1: it has a row, and no event built it",
    ),
    "a file removed": (
        sql("DELETE FROM file WHERE batch_id = 1 AND number = 1"),
        r"^file 1 of batch 1: an event built it",
    ),
    "a window's keys": (
        sql("UPDATE closed_window SET keys = keys + 1 WHERE starts_at = (SELECT min(starts_at) FROM closed_window)"),
        r"^window 2026-03-02 23:54 UTC: its row counts \d+ keys, event \d+ \d+",
    ),
    "a window's revisions": (
        sql("UPDATE closed_window SET revisions = 7 WHERE starts_at = (SELECT min(starts_at) FROM closed_window)"),
        r"^window 2026-03-02 23:54 UTC: its row counts 7 revisions",
    ),
    "a window's end": (
        sql("UPDATE closed_window SET ends_at = ends_at + interval '1 s' WHERE starts_at = '2026-03-02T23:54Z'"),
        r"^window 2026-03-02 23:54 UTC: its row has another end",
    ),
    "a window put in": (
        sql("INSERT INTO closed_window VALUES ('2026-01-01', '2026-01-02', 0, 0, 0, now())"),
        r"^window 2026-01-01 00:00 UTC: its row says that it is closed, and no event does",
    ),
    "a window removed": (
        sql("DELETE FROM closed_window WHERE starts_at = '2026-03-02T23:54Z'"),
        r"^window 2026-03-02 23:54 UTC: event \d+ closed it, and it has no row",
    ),
    "the release clock": (
        sql("UPDATE release_clock SET closed_through = closed_through + interval '1 minute'"),
        r"^release clock: it says that windows are closed to ",
    ),
    "the hash of an index": (
        sql("UPDATE feed SET index_sha256 = sha256('x')"),
        r"^feed north: the hash of its index is not that of event \d+",
    ),
    "a feed's last place": (sql("UPDATE feed SET last_release_no = 99"), r"^feed north: its last place in the index"),
    "a signature": (
        sql("UPDATE signature SET signature = substr(signature, 1, length(signature) - 1) || '\\x00'"),
        r"^signature by 242-north: the stored one over a file \w+ does not verify",
    ),
    "a signature that is none": (
        sql("UPDATE signature SET signature = '\\x00'"),
        r"^signature by 242-north: the stored one over a file \w+ does not verify",
    ),
    "a signature removed": (
        sql("DELETE FROM signature WHERE export_sha256 = (SELECT export_sha256 FROM file WHERE batch_id = 1 LIMIT 1)"),
        r"^signature by 242-north: event \d+ stored it, over export.bin \w+, and it has no row",
    ),
    "a signature put in": (
        sql("INSERT INTO signature SELECT sha256('x'), signing_key_id, signature FROM signature LIMIT 1"),
        r"^signature by 242-north: it is stored over export.bin \w+, and no event stored it",
    ),
    "a signing key's public key": (
        sql(
            "UPDATE signing_key SET public_key = (SELECT public_key FROM signing_key WHERE name = 'spare')"
            " WHERE name = 'north'"
        ),
        r"^signature by 242-north: .* does not verify by the public key that is recorded of signing key north",
    ),
    "a signing key's public key that is none": (
        sql("UPDATE signing_key SET public_key = 'x' WHERE name = 'north'"),
        r"^signing key north: its public key cannot be read",
    ),
    "the log's public key": (
        sql(
            "UPDATE signing_key SET public_key = (SELECT public_key FROM signing_key WHERE name = 'spare')"
            " WHERE name = 'transparency'"
        ),
        r"^public log of feed north: at the store: The segment of 2026-03-02 has no signature by a key that was given",
    ),
    "a signing key's id": (
        sql("UPDATE signing_key SET key_version = 'x' WHERE name = 'north'"),
        r"^signature by 242-north: event \d+ stored it",
    ),
    "a revocation undone": (
        sql("UPDATE signing_key SET revoked_at = NULL WHERE name = 'spare'"),
        r"^signing key spare: it is not revoked, and event \d+ revoked it",
    ),
    "a revocation put in": (
        sql("UPDATE signing_key SET revoked_at = now() WHERE name = 'north'"),
        r"^signing key north: it is revoked, and no event says so",
    ),
    "how far keys were deleted by age": (
        sql("UPDATE retention SET deleted_through = '2026-03-02T23:54Z'"),
        r"^retention: it says of another window than the events",
    ),
    "a batch's padding": (sql("UPDATE batch SET padding_minimum = 1 WHERE id = 1"), r"^batch 1: its plan "),
    "a deletion put in": (
        sql(
            "INSERT INTO deletion (at, app_name, starts_at, ends_at, reason)"
            " VALUES (now(), 'x', '2026-03-02', '2026-03-03', 'x')"
        ),
        r"^deletion 1: it has a row, and no event",
    ),
}

# The public log, as it is stored

THE_LOG: dict[str, tuple[Tamper, str]] = {
    "a line's keys": (
        sql("UPDATE transparency_line SET keys = keys + 1 WHERE number = 1"),
        r"^log of feed north, line 1 \(release of \S+\): its number of keys",
    ),
    "a line's zip": (
        sql("UPDATE transparency_line SET zip_sha256 = sha256('x') WHERE number = 1"),
        r"^log of feed north, line 1 .*: its SHA-256 of the zip",
    ),
    "a line's time": (
        sql("UPDATE transparency_line SET at = at + interval '1 second' WHERE number = 1"),
        r"^log of feed north, 2026-03-02: its lines do not have the hash",
    ),
    "a line's span": (
        sql("UPDATE transparency_line SET ends_at = ends_at + interval '1 second' WHERE number = 1"),
        r"^log of feed north, line 1 .*: its file and span",
    ),
    "a line's day": (
        sql("UPDATE transparency_line SET day = '2026-03-03' WHERE number = 1"),
        r"^log of feed north, 2026-03-02: its lines do not have the hash",
    ),
    "a line of what the day says, not over yet": (
        sql("UPDATE transparency_line SET keys = 1 WHERE number = (SELECT max(number) FROM transparency_line)"),
        r"^public log of feed north: fork: what it says of 2026-03-03, at the store",
    ),
    "lines in another order": (
        sql(
            "UPDATE transparency_line SET number = 100 WHERE number = 1",
            "UPDATE transparency_line SET number = 1 WHERE number = 2",
            "UPDATE transparency_line SET number = 2 WHERE number = 100",
        ),
        r"^log of feed north, line 2 .*: it stands in another order than the events",
    ),
    "a line put in": (
        sql(
            "INSERT INTO transparency_line SELECT feed_id, 99, day, at, kind, name || 'x', starts_at, ends_at, keys,"
            " zip_sha256, export_sha256 FROM transparency_line WHERE number = 1"
        ),
        r"^log of feed north, line 99 .*: it is stored, and no event says so",
    ),
    "a line removed": (
        sql("DELETE FROM transparency_line WHERE number = 1"),
        r"^log of feed north: event \d+ \(release of \S+\) has no line in it",
    ),
    "a withdrawal removed": (
        sql("DELETE FROM transparency_line WHERE kind = 'withdrawal'"),
        r"^log of feed north: event \d+ \(withdrawal of \S+\) has no line in it",
    ),
    "a day's head": (
        sql("UPDATE transparency_segment SET head_sha256 = sha256('x') WHERE day = '2026-03-02'"),
        r"^log of feed north, 2026-03-02: its head is another than event \d+ says",
    ),
    "a day's hash": (
        sql("UPDATE transparency_segment SET sha256 = sha256('x') WHERE day = '2026-03-02'"),
        r"^log of feed north, 2026-03-02: its hash is another than event \d+ says",
    ),
    "a day removed": (
        sql("DELETE FROM transparency_segment WHERE day = '2026-03-02'"),
        r"^log of feed north, 2026-03-02: event \d+ closed it, and it has no row",
    ),
    "a day put in": (
        sql(
            "INSERT INTO transparency_segment SELECT feed_id, '2026-03-03', closed_at, head_seq, head_sha256, sha256"
            " FROM transparency_segment WHERE day = '2026-03-02'"
        ),
        r"^log of feed north, 2026-03-03: the day is closed, and no event says so",
    ),
    "a segment's signature": (
        sql("UPDATE transparency_signature SET signature = '\\x00'"),
        r"^signature by 900-log1: the stored one over a segment of a log \w+ does not verify",
    ),
    "a segment's signature removed": (
        sql("DELETE FROM transparency_signature"),
        r"^signature by 900-log1: event \d+ stored it, over the log's segment \w+, and it has no row",
    ),
}

# What is public

INDEX, DAY = "north/index.txt", "north/log/2026-03-02.txt"


def edit(path: str, change: Callable[[bytes], bytes | None]) -> Tamper:
    def tamper(case: Case) -> None:
        file = case.public / path
        content = change(file.read_bytes())
        file.unlink()
        if content is not None:
            file.write_bytes(content)

    return tamper


def edit_a_zip(change: Callable[[bytes], bytes | None]) -> Tamper:
    def tamper(case: Case) -> None:
        line = (case.public / "north" / "index.txt").read_text().split("\n")[0]
        edit(line, change)(case)

    return tamper


def another_zip(case: Case) -> None:
    (case.public / "north" / "1-2-00001-00000000.zip").write_bytes(b"")


def withdrawn_zip(case: Case) -> None:
    ((name,),) = case.authority.sql("SELECT name FROM file WHERE status = 'withdrawn'")
    (case.public / name).write_bytes(b"")


def archive(case: Case) -> None:
    folder = case.public / "north" / "log-before-restore"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "2026-03-02.txt").write_bytes((case.public / DAY).read_bytes())
    (folder / "index.txt").write_text("north/log-before-restore/x/2026-03-02.txt")


def without_the_last_day(case: Case) -> None:
    edit("north/log/index.txt", lambda content: content.rsplit(b"\n", 1)[0])(case)
    case.authority.database.pass_time(timedelta(minutes=11))  # so it is not just on its way


def swapped(content: bytes) -> bytes:
    lines = content.split(b"\n")
    return b"\n".join([lines[1], lines[0], *lines[2:]])


THE_PUBLIC: dict[str, tuple[Tamper, str]] = {
    "a zip": (edit_a_zip(lambda data: data[:-1] + b"\x01"), r"^file north/\S+: at the store its bytes are not those"),
    "a zip cut off": (edit_a_zip(lambda data: data[:100]), r"^file north/\S+: at the store its bytes are not those"),
    "a zip missing": (edit_a_zip(lambda _: None), r"^file north/\S+: at the store it is missing"),
    "a zip that nobody made": (
        another_zip,
        r"^object public/north/1-2-00001-00000000.zip: it lies in the store, and no file of this name",
    ),
    "a zip that was withdrawn": (
        withdrawn_zip,
        r"^object public/north/\S+: it lies in the store, though its file is withdrawn",
    ),
    "an index line removed": (
        edit(INDEX, lambda content: content.split(b"\n", 1)[1]),
        r"^index of feed north: at the store it does not list north/\S+, which is released",
    ),
    "an index line put in": (
        edit(INDEX, lambda content: content + b"\nnorth/x.zip"),
        r"^index of feed north: at the store it lists north/x.zip, which is not released",
    ),
    "an index line twice": (
        edit(INDEX, lambda content: content + b"\n" + content.split(b"\n")[0]),
        r"^index of feed north: at the store it lists a file twice",
    ),
    "index lines in another order": (
        edit(INDEX, swapped),
        r"^index of feed north: at the store it lists the files in another order",
    ),
    "an index that is none": (edit(INDEX, lambda _: b"\xff"), r"^public log of feed north: at the store: the index"),
    "an index missing": (edit(INDEX, lambda _: None), r"^index of feed north: the store has none"),
    "a segment's line": (
        edit(DAY, lambda content: content.replace(b"T23:", b"T22:", 1)),
        r"^public log of feed north: fork: what it says of 2026-03-02, at the store",
    ),
    "a segment's signature": (
        edit(DAY, lambda content: content.replace(b"signature 900-log1 MEU", b"signature 900-log1 MEQ")[:-3] + b"A=\n"),
        r"^public log of feed north: at the store: The segment of 2026-03-02 (has no signature|cannot be read)",
    ),
    "a segment cut off": (
        edit(DAY, lambda content: content[:-9]),
        r"^public log of feed north: at the store: The segment of 2026-03-02 cannot be read",
    ),
    "a segment missing": (
        edit(DAY, lambda _: None),
        r"^public log of feed north: at the store: The segment of 2026-03-02 is listed and not there",
    ),
    "the list of the log": (
        without_the_last_day,
        r"^public log of feed north: at the store: \S+ is in the index and not in the log",
    ),
    "an archive that nobody declared": (
        archive,
        r"^archived log of feed north: fork: north/log-before-restore/x lies there, and no restore was declared",
    ),
}


# The keys themselves, which only making files again can show

THE_KEYS: dict[str, tuple[Tamper, str]] = {
    "a key removed": (
        sql("DELETE FROM exposure WHERE exposure_key = (SELECT min(exposure_key) FROM exposure)"),
        r"^batch \d: made again: .*retention has no reason",
    ),
    "a key put in": (
        sql(
            "INSERT INTO exposure (exposure_key, interval_number, interval_count, transmission_risk, days_since_onset,"
            " report_type, traveler, regions, created_at) SELECT substr(sha256('x'), 1, 16), interval_number,"
            " interval_count, transmission_risk, days_since_onset, report_type, traveler, regions, created_at"
            " FROM exposure WHERE created_at = (SELECT min(starts_at) FROM closed_window) LIMIT 1"
        ),
        r"^batch 1: made again: .*more rows than when closed",
    ),
    "a key's risk": (
        sql("UPDATE exposure SET transmission_risk = 8 - transmission_risk, days_since_onset = 14"),
        r"^batch 1: made again: .*export.bin is NOT identical",
    ),
    "a key's bytes": (
        sql("UPDATE exposure SET exposure_key = substr(sha256(exposure_key), 1, 16)"),
        r"^batch 1: made again: .*export.bin is NOT identical",
    ),
}


def cases(tamperings: dict[str, tuple[Tamper, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("tamper", "pattern"), tamperings.values(), ids=tamperings)


@cases({**THE_TRAIL, **THE_ROWS, **THE_LOG})
def test_what_is_stored(case, tamper, pattern):
    tamper(case)
    assert_named(case.verify(), pattern)


@cases(THE_PUBLIC)
def test_what_is_public(case, tamper, pattern):
    tamper(case)
    assert_named(case.verify(), pattern)


@cases(THE_KEYS)
def test_the_keys_themselves(case, tamper, pattern):
    tamper(case)
    assert_named(case.verify(rebuild=True), pattern)


def test_events_after_the_last_public_head_are_guarded_by_a_checkpoint_alone(case):
    _, kept = case.verify_and_keep()
    case.change("DELETE FROM audit_event WHERE seq = (SELECT max(seq) FROM audit_event)")
    assert not [finding for finding in told(case.verify()) if "removed at its end" in finding]
    assert_named(case.verify(kept=kept), r"^event \d+: fork: the checkpoint has its hash")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"sha256": "00" * 32}, r"^event \d+: fork: the checkpoint has another hash"),
        ({"seq": 9999}, r"^event 9999: fork: the checkpoint has its hash"),
    ],
)
def test_a_checkpoint_file_that_says_otherwise(case, change, pattern):
    _, kept = case.verify_and_keep()
    altered = Kept(**{"seq": kept.seq, "sha256": kept.sha256, "logs": kept.logs, **change})
    assert_named(case.verify(kept=altered), pattern)
