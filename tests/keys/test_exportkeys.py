"""Export signing keys: what is handed over, what is active where, and an emergency (export.md 3)."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from keyserver.audit import Actor
from keyserver.configuration.load import load
from keyserver.device import exportreader
from keyserver.errors import ConfigurationError, ConflictError, FormatError, RemoteError, StoreError
from keyserver.export import due
from keyserver.keys.exportkeys import handover, revoke, status
from keyserver.protocol import signature
from keyserver.protocol.exportfile import ECDSA_P256_SHA256, SignatureInfo, encode_signatures, pack
from keyserver.providers.signers import generate
from keyserver.runtime import Runtime
from tests.configuration.conftest import DOCUMENT, Site
from tests.export.conftest import STEPS, Authority, run_steps

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def authority(test_database, tmp_path: Path) -> Iterator[Authority]:
    """A feed `north`, whose files the key `north` signs; and a key of the public logs."""
    (tmp_path / "signer").mkdir(mode=0o700)
    made = Authority(test_database, tmp_path)
    made.add_feed("north")
    made.add_log_key()
    yield made
    for runtime in made.opened:
        runtime.close()


def add_key(authority: Authority, name: str, *, active_from, active_thru=None, feed: str | None = "north") -> None:
    with psycopg.connect(authority.database.url("keyserver_pipeline")) as connection:
        (key_id,) = connection.execute(
            "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, active_thru)"
            " VALUES (%s, '242', %s, %s, %s, %s) RETURNING id",
            [
                name,
                name.replace("-", "_"),
                generate(f"file://{authority.folder}/signer", name),
                active_from,
                active_thru,
            ],
        ).fetchone()
        connection.execute("INSERT INTO feed_signing_key SELECT id, %s FROM feed WHERE name = %s", [key_id, feed])


def release_one(authority: Authority, run: str, seed: int) -> int:
    authority.add_keys(3, seed=seed)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime(run))
    run_steps(authority.runtime(run), claimed.batch_id)
    return claimed.batch_id


# What is handed over


def openssl(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True).stdout


def test_the_public_key_is_what_openssl_makes_of_it(authority, tmp_path):
    described = handover(authority.runtime(), "north")
    summary = described.summary()
    (tmp_path / "public.pem").write_text(summary["public_key_pem"])
    der = openssl(tmp_path, "pkey", "-pubin", "-in", "public.pem", "-outform", "DER")
    assert base64.b64decode(summary["public_key_base64"]) == der
    assert summary["public_key_sha256"] == hashlib.sha256(der).hexdigest()
    assert summary["public_key_pem"].startswith("-----BEGIN PUBLIC KEY-----\n")
    openssl(tmp_path, "pkey", "-in", "signer/north.pem", "-pubout", "-out", "again.pem")
    assert (tmp_path / "again.pem").read_text() == summary["public_key_pem"]


def test_it_says_how_phones_know_the_key(authority):
    summary = handover(authority.runtime(), "north").summary()
    assert (summary["key_id"], summary["key_version"]) == ("242", "north")
    assert summary["android_key"] == f"242-north,{summary['public_key_base64']}"
    assert summary["signature_algorithm"] == ECDSA_P256_SHA256


def test_the_sample_is_signed_by_the_key_and_holds_nobody_s_keys(authority, tmp_path):
    described = handover(authority.runtime(), "north")
    (tmp_path / "public.pem").write_text(described.public_key)
    (tmp_path / "export.bin").write_bytes(described.sample)
    (tmp_path / "signature.der").write_bytes(described.sample_signature)
    said = openssl(tmp_path, "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature.der", "export.bin")
    assert said == b"Verified OK\n"
    summary = described.summary()
    assert summary["sample_sha256"] == hashlib.sha256(described.sample).hexdigest()
    assert base64.b64decode(summary["sample_signature_base64"]) == described.sample_signature


def test_a5_the_sample_is_an_export_file_like_any_other(authority):
    """The key signs export.bin and nothing else, not even a text that says hello."""
    described = handover(authority.runtime(), "north")
    infos = [SignatureInfo(described.key_id, described.key_version)]
    zipped = pack(described.sample, encode_signatures(infos, [described.sample_signature]))
    trusted = {("242", "north"): signature.load_public_key(described.public_key)}
    read = exportreader.verify(zipped, trusted)
    assert (read.keys, read.revised_keys, read.region) == ((), (), "SAMPLE")


def test_the_signer_must_hold_the_key_that_is_declared(authority):
    folder = authority.folder / "signer"
    generate(f"file://{folder}", "other")
    shutil.move(folder / "other.pem", folder / "north.pem")
    with pytest.raises(ConfigurationError, match="another key as north"):
        handover(authority.runtime(), "north")
    (folder / "north.pem").unlink()
    with pytest.raises(ConfigurationError, match="no signing key north"):
        handover(authority.runtime(), "north")


def test_a_key_that_no_phone_is_to_know_is_not_handed_over(authority):
    with pytest.raises(ConflictError, match="no signing key south is declared"):
        handover(authority.runtime(), "south")
    with pytest.raises(ConflictError, match="public logs"):
        handover(authority.runtime(), "transparency")
    revoke(authority.runtime(), "north", "stolen")
    with pytest.raises(ConflictError, match="revoked"):
        handover(authority.runtime(), "north")


# What is active where


def test_the_status_of_each_key_and_of_each_feed(authority):
    now = authority.database.now()
    add_key(authority, "newer", active_from=now)
    add_key(authority, "next", active_from=now + SECOND)
    add_key(authority, "past", active_from=now - 9 * DAY, active_thru=now)
    add_key(authority, "elsewhere", active_from=now - 8 * DAY, feed=None)
    add_key(authority, "gone", active_from=now - 7 * DAY)
    revoke(authority.runtime(), "gone", "stolen")

    found = status(authority.runtime())
    assert [key.name for key in found.keys] == ["next", "newer", "transparency", "north", "gone", "elsewhere", "past"]
    (feed,) = found.feeds
    assert (feed.feed, feed.signing, feed.without_from) == ("north", ("newer", "north"), None)
    assert list(feed.carried) == ["next", "newer", "north", "gone", "past"]
    assert found.warnings == []


def test_how_many_listed_files_carry_each_signature(authority):
    release_one(authority, "run-1", 1)
    add_key(authority, "north-2", active_from=authority.database.now())
    release_one(authority, "run-2", 2)
    release_one(authority, "run-3", 3)
    (feed,) = status(authority.runtime()).feeds
    assert (feed.files, feed.carried) == (3, {"north-2": 2, "north": 3})


@pytest.mark.parametrize(
    ("ends_in", "next_from", "warned"),
    [
        (14 * DAY, None, False),
        (14 * DAY - SECOND, None, True),
        (DAY, DAY, False),
        (DAY, DAY + SECOND, True),
        (0 * DAY, None, True),
    ],
)
def test_a_feed_that_will_soon_be_without_a_key_is_warned_of(authority, ends_in, next_from, warned):
    now = authority.database.now()
    authority.sql("UPDATE signing_key SET active_thru = %(thru)s WHERE name = 'north'", thru=now + ends_in)
    if next_from is not None:
        add_key(authority, "north-2", active_from=now + next_from)
    warnings = status(authority.runtime()).warnings
    moment = f"{now + ends_in:%Y-%m-%dT%H:%M:%SZ}"
    assert warnings == [f"feed north has no signing key from {moment} on: its batches will be held"][: int(warned)]


def test_a_feed_that_ends_first_is_not(authority):
    now = authority.database.now()
    authority.sql("UPDATE signing_key SET active_thru = %(thru)s WHERE name = 'north'", thru=now + DAY)
    authority.sql("UPDATE feed SET active_thru = %(thru)s", thru=now + DAY)
    assert status(authority.runtime()).warnings == []
    authority.sql("UPDATE feed SET active_thru = %(thru)s", thru=now + DAY + timedelta(minutes=1))
    assert len(status(authority.runtime()).warnings) == 1


def test_logs_without_a_key_are_warned_of(authority):
    revoke(authority.runtime(), "transparency", "stolen")
    (warning,) = status(authority.runtime()).warnings
    assert warning.startswith("the public log of each feed has no signing key from 2026-03-02T10:00:00Z on")


# Ten at most


def test_ten_keys_may_be_declared_for_a_feed_and_an_eleventh_not(tmp_path):
    site = Site(tmp_path)
    site.new_key("north.pem")
    keys = "".join(
        f"  - {{name: north-{n}, key_id: '310', key_version: v{n}, public_key_file: north-{n}.pem,"
        f" active_from: 2026-01-01T00:00:00Z}}\n"
        for n in range(1, 12)
    )
    for n in range(1, 12):
        site.new_key(f"north-{n}.pem")
    text = DOCUMENT[: DOCUMENT.index("  - name: north-1")] + keys + DOCUMENT[DOCUMENT.index("feeds:") :]
    names = [f"north-{n}" for n in range(1, 12)]
    listed = text.replace("signing_keys: [north-1]", f"signing_keys: [{', '.join(names[:10])}]")
    assert len(load(site.write_text(listed)).declared.feeds[0].signing_keys) == 10
    with pytest.raises(ConfigurationError, match=r"feeds\[0\]\.signing_keys: .*at most 10"):
        load(site.write_text(text.replace("signing_keys: [north-1]", f"signing_keys: [{', '.join(names)}]")))


# An emergency


def test_a_revocation_is_one_event_with_its_reason(authority, events):
    now = authority.database.now()
    first = revoke(authority.runtime(), "north", "the laptop was stolen")
    authority.database.pass_time(DAY)
    again = revoke(authority.runtime(), "north", "again")
    assert (first.revoked_at, again.revoked_at) == (now, now)
    assert [(event["kind"], event["subject"]) for event in events()] == [
        ("signing_key.revoked", {"name": "north", "key": "242-north", "reason": "the laptop was stolen"})
    ]


def test_it_lists_what_the_key_signed_and_who_signed_beside_it(authority):
    alone = release_one(authority, "run-1", 1)
    add_key(authority, "north-2", active_from=authority.database.now())
    add_key(authority, "other", active_from=authority.database.now())
    beside = release_one(authority, "run-2", 2)
    authority.add_keys(3, seed=3)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime("run-3"))
    STEPS["build"](authority.runtime("run-3"), claimed.batch_id)
    revoke(authority.runtime(), "other", "stolen")

    done = revoke(authority.runtime(), "north", "stolen too")
    assert [(batch.batch_id, batch.beside) for batch in done.listed] == [(alone, ()), (beside, ("north-2",))]
    assert [(batch.batch_id, batch.status) for batch in done.unreleased] == [(claimed.batch_id, "built")]
    assert done.status.warnings == []
    assert [batch.batch_id for batch in revoke(authority.runtime(), "north-2", "and this").listed] == [beside]


def test_what_left_the_index_is_not_listed(authority):
    release_one(authority, "run-1", 1)
    authority.sql("UPDATE file SET status = 'expired'")
    assert revoke(authority.runtime(), "north", "stolen").listed == ()


def test_it_says_which_feed_has_no_key_now(authority):
    assert revoke(authority.runtime(), "north", "stolen").status.warnings == [
        "feed north has no signing key from 2026-03-02T10:00:00Z on: its batches will be held"
    ]


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "a" * 501])
def test_a_reason_is_asked_for(authority, events, reason):
    with pytest.raises(FormatError, match="a reason is needed"):
        revoke(authority.runtime(), "north", reason)
    assert events() == []


def test_an_unknown_key_is_not_revoked(authority, events):
    with pytest.raises(ConflictError, match="no signing key south is declared"):
        revoke(authority.runtime(), "south", "stolen")
    assert events() == []


def test_an_auditor_sees_the_status_and_revokes_nothing(test_database, authority):
    auditor = Runtime(Actor("test"), test_database.database("auditor"))
    assert [feed.feed for feed in status(auditor).feeds] == ["north"]
    with pytest.raises((StoreError, RemoteError)):
        revoke(auditor, "north", "stolen")
    assert [key.revoked_at for key in status(auditor).keys] == [None, None]
