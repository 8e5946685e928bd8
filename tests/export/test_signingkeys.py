"""Export signing keys over time: overlap, order, ten at most, none at all, and one that is revoked (B17, B18)."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import zipfile
from datetime import timedelta

import psycopg
import pytest

from keyserver.device import exportreader
from keyserver.errors import RemoteError, Superseded
from keyserver.export import decide, due, sign
from keyserver.export.signingkeys import EXPECTATION
from keyserver.keys.exportkeys import revoke
from keyserver.protocol.signature import load_public_key
from keyserver.providers.signers import generate
from keyserver.runtime import Runtime
from tests.export.conftest import STEPS, run_steps

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def add_signing_key(authority, name: str, *, active_from, active_thru=None, feed: str = "north") -> None:
    pem = generate(f"file://{authority.folder}/signer", name)
    with psycopg.connect(authority.database.url("keyserver_pipeline")) as connection:
        (key_id,) = connection.execute(
            "INSERT INTO signing_key (name, key_id, key_version, public_key, active_from, active_thru)"
            " VALUES (%s, '242', %s, %s, %s, %s) RETURNING id",
            [name, name.replace("-", "_"), pem, active_from, active_thru],
        ).fetchone()
        connection.execute(
            "INSERT INTO feed_signing_key SELECT id, %s FROM feed WHERE name = %s",
            [key_id, feed],
        )


def trusted(authority) -> dict:
    rows = authority.sql("SELECT key_id, key_version, public_key FROM signing_key")
    return {(key_id, version): load_public_key(pem) for key_id, version, pem in rows}


def planned_keys(authority) -> dict[int, list[str]]:
    """The names of each batch's keys, in their order."""
    return dict(
        authority.sql(
            "SELECT batch.id, array_remove(array_agg(signing_key.name ORDER BY position), NULL) FROM batch"
            " LEFT JOIN batch_signing_key ON batch_id = batch.id"
            " LEFT JOIN signing_key ON signing_key.id = signing_key_id"
            " GROUP BY batch.id ORDER BY batch.id"
        )
    )


def kinds(authority) -> list[str]:
    return [json.loads(body)["kind"] for (body,) in authority.sql("SELECT body FROM audit_event ORDER BY seq")]


def claimed_batch(authority) -> int:
    """Keys are uploaded, their window is closed, and the batch is claimed by run-1."""
    authority.add_keys(5)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime())
    return claimed.batch_id


def released_zip(authority) -> bytes:
    (content,) = (data for path, data in authority.released_files().items() if path.endswith(".zip"))
    return content


def test_a_file_with_two_signatures_is_verified_with_each_key_by_openssl(authority, tmp_path):
    authority.add_feed("north")
    add_signing_key(authority, "north-2", active_from=authority.database.now())
    run_steps(authority.runtime(), claimed_batch(authority))

    data = released_zip(authority)
    for known in trusted(authority).items():
        assert len(exportreader.verify(data, dict([known])).keys) == 5  # a phone that knows one of both takes it
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        zipped.extract("export.bin", tmp_path)
    signatures = exportreader.read(data).signatures
    pems = dict(authority.sql("SELECT name, public_key FROM signing_key"))
    for name, signature, verifies in [
        ("north-2", signatures[0], True),
        ("north", signatures[1], True),
        ("north", signatures[0], False),
    ]:
        (tmp_path / "public.pem").write_text(pems[name])
        (tmp_path / "signature.der").write_bytes(signature)
        said = subprocess.run(
            ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature.der", "export.bin"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (said.stdout.strip() == "Verified OK") is verifies


def test_b18_the_key_that_is_active_since_last_comes_first_whichever_was_declared_first(authority):
    authority.add_feed("north")  # its key is active since yesterday
    now = authority.database.now()
    add_signing_key(authority, "oldest", active_from=now - 3 * DAY)
    add_signing_key(authority, "newest", active_from=now)
    add_signing_key(authority, "older", active_from=now - 2 * DAY)
    run_steps(authority.runtime(), claimed_batch(authority))

    read = exportreader.verify(released_zip(authority), trusted(authority))
    assert [info.key_version for info in read.signature_infos] == ["newest", "north", "older", "oldest"]


def test_keys_overlap_from_the_activation_of_one_to_the_end_of_the_other(authority):
    authority.add_feed("north")
    now = authority.database.now()
    authority.sql("UPDATE signing_key SET active_thru = %(thru)s", thru=now + 4 * MINUTE)
    add_signing_key(authority, "north-2", active_from=now + 2 * MINUTE)
    for _ in range(5):
        authority.close_windows()
    # Batches end one minute apart; a span holds its start and not its end.
    assert list(planned_keys(authority).values()) == [
        ["north"],
        ["north-2", "north"],
        ["north-2", "north"],
        ["north-2"],
        ["north-2"],
    ]


def test_ten_keys_sign_a_file_and_an_eleventh_does_not(authority):
    authority.add_feed("north")
    now = authority.database.now()
    for number in range(2, 12):
        add_signing_key(authority, f"north-{number}", active_from=now - timedelta(hours=number))
    run_steps(authority.runtime(), claimed_batch(authority))

    read = exportreader.verify(released_zip(authority), trusted(authority))
    names = [info.key_version for info in read.signature_infos]
    assert names == [f"north_{number}" for number in range(2, 12)]  # `north` is the oldest
    assert len(read.signatures) == 10


def test_b17_a_batch_without_a_key_is_held_and_the_next_goes_on(authority):
    authority.add_feed("north")
    authority.sql("UPDATE signing_key SET active_thru = active_from")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    with pytest.raises(Superseded, match="held"):
        STEPS["check"](authority.runtime(), batch_id)
    assert authority.statuses() == {batch_id: "held"}
    assert authority.released_files() == {}

    add_signing_key(authority, "north-2", active_from=authority.database.now())
    authority.add_keys(5, seed=2)
    authority.close_windows()
    (claimed,) = due.claim_due(authority.runtime("run-2"))
    run_steps(authority.runtime("run-2"), claimed.batch_id)
    assert authority.statuses() == {batch_id: "held", claimed.batch_id: "released"}


def test_b17_nothing_is_released_unsigned_even_if_the_check_lets_it_pass(authority):
    authority.add_feed("north")
    authority.sql("UPDATE signing_key SET active_thru = active_from")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    authority.sql("UPDATE batch SET status = 'checked'")
    with pytest.raises(Superseded, match="planned with none"):
        sign.sign(authority.runtime(), batch_id)
    assert authority.sql("SELECT status, failed_expectations FROM batch") == [("held", [EXPECTATION])]


def test_a_revoked_key_is_planned_no_more(authority):
    authority.add_feed("north")
    add_signing_key(authority, "north-2", active_from=authority.database.now())
    authority.close_windows()
    revoke(authority.runtime(), "north", "stolen")
    authority.close_windows()
    assert list(planned_keys(authority).values()) == [["north-2", "north"], ["north-2"]]


@pytest.mark.parametrize("other_key", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("done", range(5), ids=["planned", "built", "checked", "signed", "verified"])
def test_a_key_revoked_between_two_steps_holds_the_batch(authority, done, other_key):
    authority.add_feed("north")
    if other_key:
        add_signing_key(authority, "north-2", active_from=authority.database.now())
    batch_id = claimed_batch(authority)
    for step in list(STEPS.values())[:done]:
        step(authority.runtime(), batch_id)
    revoke(authority.runtime(), "north", "stolen")
    with pytest.raises(Superseded, match="north revoked"):
        run_steps(authority.runtime(), batch_id)

    problem = f"{EXPECTATION}: north revoked"
    assert authority.sql("SELECT status, problem, failed_expectations FROM batch") == [("held", problem, [EXPECTATION])]
    assert kinds(authority)[-1] == "batch.held"
    assert authority.released_files() == {}
    if done < 3:
        assert not any("signature" in kind for kind in kinds(authority))


def test_a_key_revoked_after_the_release_changes_nothing_by_itself(authority):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    run_steps(authority.runtime(), batch_id)
    files = authority.released_files()
    revoke(authority.runtime(), "north", "stolen")
    for step in STEPS.values():
        step(authority.runtime(), batch_id)
    assert authority.released_files() == files
    assert authority.statuses() == {batch_id: "released"}


def test_an_approved_batch_has_the_keys_of_its_own_day_and_is_released(authority):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    revoke(authority.runtime(), "north", "stolen")
    with pytest.raises(Superseded, match="north revoked"):
        run_steps(authority.runtime(), batch_id)
    add_signing_key(authority, "north-2", active_from=authority.database.now())
    replacing = decide.approve(authority.runtime("an operator"), batch_id, "signed by the new key")
    (claimed,) = due.claim_due(authority.runtime())
    assert claimed.batch_id == replacing
    run_steps(authority.runtime(), replacing)
    assert authority.statuses() == {batch_id: "replaced", replacing: "released"}
    read = exportreader.verify(released_zip(authority), trusted(authority))
    assert ([info.key_version for info in read.signature_infos], len(read.keys)) == (["north_2"], 5)


def test_an_approval_does_not_let_a_revoked_key_pass(authority):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    revoke(authority.runtime(), "north", "stolen")
    with pytest.raises(Superseded, match="north revoked"):
        run_steps(authority.runtime(), batch_id)
    replacing = decide.approve(authority.runtime("an operator"), batch_id, "I do not care")
    due.claim_due(authority.runtime())
    with pytest.raises(Superseded, match="held"):
        run_steps(authority.runtime(), replacing)
    assert authority.statuses() == {batch_id: "replaced", replacing: "held"}


def test_the_signer_is_not_asked_for_a_revoked_key(authority):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    STEPS["check"](authority.runtime(), batch_id)
    revoke(authority.runtime(), "north", "stolen")
    without_signer = Runtime(authority.runtime().actor, authority.runtime().database, authority.runtime().blobs)
    with pytest.raises(Superseded, match="north revoked"):
        sign.sign(without_signer, batch_id)


def test_a_signature_that_was_stored_before_does_not_get_into_a_file(authority, monkeypatch):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    STEPS["check"](authority.runtime(), batch_id)

    def fail(*_) -> None:
        raise RemoteError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(sign, "stage", fail)
        with pytest.raises(RemoteError):
            sign.sign(authority.runtime(), batch_id)
    assert kinds(authority)[-1] == "signature.stored"
    revoke(authority.runtime(), "north", "stolen")
    with pytest.raises(Superseded, match="north revoked"):
        sign.sign(authority.runtime(), batch_id)
    assert authority.sql("SELECT status FROM batch") == [("held",)]


class Slow:
    """A signer during whose work somebody revokes the key."""

    def __init__(self, authority) -> None:
        self.authority = authority
        self.signer = authority.runtime().signer
        self.revoking = threading.Thread(
            target=revoke, args=(authority.runtime("an operator"), "north", "stolen"), daemon=True
        )

    def sign(self, key_name: str, sha256: bytes) -> bytes:
        self.revoking.start()
        while not self.authority.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            pass
        return self.signer.sign(key_name, sha256)


def test_a_revocation_waits_for_the_signature_that_is_being_made(authority):
    authority.add_feed("north")
    batch_id = claimed_batch(authority)
    STEPS["build"](authority.runtime(), batch_id)
    STEPS["check"](authority.runtime(), batch_id)
    slow = Slow(authority)
    plain = authority.runtime()
    with pytest.raises(Superseded, match="north revoked"):
        sign.sign(Runtime(plain.actor, plain.database, plain.blobs, slow), batch_id)
    slow.revoking.join()
    assert kinds(authority)[-3:] == ["signature.stored", "signing_key.revoked", "batch.held"]


def test_what_is_revoked_stays_so(authority):
    authority.add_feed("north")
    revoke(authority.runtime(), "north", "stolen")
    with (
        psycopg.connect(authority.database.url("keyserver_pipeline")) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute("UPDATE signing_key SET revoked_at = NULL")
