from __future__ import annotations

import hashlib
import json
import threading
from datetime import timedelta

import pytest
import rfc8785

from keyserver.audit import Actor
from keyserver.configuration.apply import apply
from keyserver.configuration.load import load
from keyserver.errors import ConfigurationError, RemoteError, StoreError
from keyserver.keys import exportkeys
from keyserver.runtime import Runtime
from keyserver.store import declared
from keyserver.store.database import Database
from tests.configuration.conftest import ATTESTED, FETCHED


@pytest.fixture
def runtime(test_database) -> Runtime:
    return Runtime(Actor("a test"), test_database.database("pipeline"))


def stored(runtime: Runtime) -> declared.Stored:
    with runtime.database.transaction() as connection:
        return declared.read_locked(connection)


def events(test_database) -> list[tuple[str, bytes, bytes]]:
    with test_database.admin() as connection:
        return connection.execute("SELECT kind, body, hash FROM audit_event ORDER BY seq").fetchall()


def test_what_is_declared_is_stored(runtime, site):
    file = site.write(
        (
            "valid_from: 2026-01-01T00:00:00Z",
            "valid_from: 2026-01-01T00:00:00Z\n        valid_thru: 2027-01-01T00:00:00Z",
        ),
        ("period: 4h", "period: 4h\n    thru: 2026-04-01T00:00:00Z\n    exclude_regions: [DK, DE]\n    paused: true"),
    )
    sentences = apply(runtime, file)
    assert len(sentences) == 5
    assert stored(runtime).declared == load(file).declared


def test_applied_again_it_changes_nothing(runtime, test_database, site):
    file = site.write()
    assert apply(runtime, file)
    assert apply(runtime, file) == []
    assert len(events(test_database)) == 1


def test_a_change_of_everything_that_may_change(runtime, test_database, site):
    apply(runtime, site.write())
    site.new_key("north-2.pem")
    second_key = (
        "  - name: north-2\n    key_id: '310'\n    key_version: v2\n    public_key_file: north-2.pem\n"
        "    active_from: 2026-02-01T00:00:00Z\nfeeds:"
    )
    file = site.write(
        ("name: North Health", "name: Health of the North"),
        ("audience: keyserver.example", "audience: keys.example"),
        ("valid_from: 2026-01-01", "valid_from: 2026-02-01"),
        ("name: org.example.North.App", "name: org.example.other"),
        (
            "active_from: 2026-01-01T00:00:00Z",
            "active_from: 2026-01-02T00:00:00Z\n    active_thru: 2026-06-01T00:00:00Z",
        ),
        ("feeds:", second_key),
        ('output_region: "NO"', "output_region: SE\n    travelers: include\n    max_keys: 5"),
        ("period: 4h", "period: 1m\n    development: true\n    padding: {minimum: 0, spread: 0}"),
        ("2026-03-01", "2026-03-02"),
        ("[north-1]", "[north-2]"),
    )
    sentences = apply(runtime, file)
    assert len(sentences) == 7
    assert stored(runtime).declared == load(file).declared
    kind, body, _ = events(test_database)[-1]
    assert kind == "configuration.applied"
    assert json.loads(body)["counts"] == {
        "app_added": 1,
        "app_removed": 1,
        "feed_changed": 1,
        "health_authority_changed": 1,
        "health_authority_key_changed": 1,
        "signing_key_added": 1,
        "signing_key_changed": 1,
    }
    assert apply(runtime, file) == []


def test_what_an_authority_and_an_app_may_is_stored(runtime, test_database, site):
    site.new_certificate("root.pem")
    rooted = ("environment: production", "environment: production, root_certificate_file: root.pem")
    may = ("    keys:", "    stats: false\n    certificate_max_life: 30m\n    keys:")
    bypass = ("    regions: [se,", "    bypass_verification: true\n    bypass_revision_token: true\n    regions: [se,")
    for changes in (
        (may, bypass, ATTESTED),
        (may, ATTESTED, rooted),
        ((ATTESTED[0], ATTESTED[1].split("      ios:")[0]),),
        (),
        (may, bypass, ATTESTED),
    ):
        file = site.write(*changes)
        assert apply(runtime, file)
        assert stored(runtime).declared == load(file).declared
        assert apply(runtime, file) == []
    apply(runtime, site.write(FETCHED, ATTESTED))
    with test_database.admin() as connection:
        row = connection.execute(
            "SELECT jwks_uri, stats_enabled, certificate_max_life FROM health_authority"
        ).fetchone()
        assert row == ("https://north.example/jwks.json", True, timedelta(hours=1))
        platforms = connection.execute("SELECT platform, kind FROM app_attestation ORDER BY platform").fetchall()
        assert platforms == [("android", "play-integrity"), ("ios", "app-attest")]
    apply(runtime, site.write_text(site.write().read_text().replace("org.example.North.App", "org.example.other")))
    with test_database.admin() as connection:
        assert connection.execute("SELECT count(*) FROM app_attestation").fetchone() == (0,)


def test_an_app_s_authorities_follow_the_document(runtime, site):
    second = "  - {name: South, issuer: org.example.south, audience: a, keys: []}\napps:"
    for issuers in ("[org.example.north]", "[org.example.north, org.example.south]", "[org.example.south]", "[]"):
        file = site.write(
            ("apps:", second), ("    health_authorities: [org.example.north]", f"    health_authorities: {issuers}")
        )
        assert apply(runtime, file)
        assert stored(runtime).declared == load(file).declared


def test_the_audit_event_tells_what_was_applied(runtime, test_database, site):
    first = site.write()
    apply(runtime, first)
    digest = load(first).sha256
    apply(runtime, site.write(("period: 4h", "period: 6h")))
    (kind, body, hashed), (_, second_body, second_hash) = events(test_database)
    event = json.loads(body)
    assert (kind, event["kind"], event["seq"], event["prev"]) == (
        "configuration.applied",
        "configuration.applied",
        1,
        None,
    )
    assert event["actor"] == "a test"
    assert event["counts"] == {
        "app_added": 1,
        "feed_added": 1,
        "health_authority_added": 1,
        "health_authority_key_added": 1,
        "signing_key_added": 1,
    }
    assert event["hashes"] == {"configuration": digest}
    assert body == rfc8785.dumps(event)
    assert hashed == hashlib.sha256(body).digest()
    second = json.loads(second_body)
    assert (second["seq"], second["prev"], second["counts"]) == (2, hashed.hex(), {"feed_changed": 1})
    assert second["hashes"] != event["hashes"]
    assert second_hash == hashlib.sha256(rfc8785.dumps(second)).digest()


def test_a_dry_run_tells_the_same_and_changes_nothing(runtime, test_database, site):
    file = site.write()
    before = stored(runtime)
    told = apply(runtime, file, dry_run=True)
    assert stored(runtime) == before
    assert events(test_database) == []
    assert apply(runtime, file) == told


def test_a_mistake_in_the_last_section_leaves_nothing(runtime, test_database, site):
    before = stored(runtime)
    with pytest.raises(ConfigurationError, match=r"site\.yaml:25: feeds\[0\]\.from: is more than 7 days ago"):
        apply(runtime, site.write(("2026-03-01", "2026-02-01")))
    assert stored(runtime) == before
    assert events(test_database) == []


def test_a_failure_after_the_first_writes_leaves_nothing(runtime, test_database, site):
    """The database itself refuses the last statement."""
    before = stored(runtime)
    with test_database.admin() as connection:
        connection.execute("ALTER TABLE feed ADD CONSTRAINT nothing_works CHECK (false) NOT VALID")
    with pytest.raises(StoreError, match="nothing_works"):
        apply(runtime, site.write())
    assert stored(runtime) == before
    assert events(test_database) == []


def test_a_key_that_is_not_declared_any_more_ends_now(runtime, test_database, site):
    apply(runtime, site.write())
    file = site.write(
        (
            "keys:\n      - kid: v1\n        public_key_file: north.pem\n        valid_from: 2026-01-01T00:00:00Z",
            "keys: []",
        )
    )
    test_database.pass_time(timedelta(hours=1))
    assert apply(runtime, file) == ["Key v1 of org.example.north ends now: it is not declared any more."]
    (key,) = stored(runtime).declared.health_authorities[0].keys
    assert key.valid_thru == test_database.now()
    test_database.pass_time(timedelta(hours=1))
    assert apply(runtime, file) == []


def test_keys_of_a_removed_app_s_authority_stay(runtime, test_database, site):
    apply(runtime, site.write())
    text = site.file.read_text()
    apply(runtime, site.write_text(text[: text.index("apps:")] + text[text.index("signing_keys:") :]))
    after = stored(runtime).declared
    assert after.apps == ()
    assert len(after.health_authorities) == 1


def test_a_feed_with_a_batch_keeps_its_beginning(runtime, test_database, site, start):
    apply(runtime, site.write())
    with test_database.admin() as connection:
        connection.execute(
            "INSERT INTO batch (feed_id, starts_at, ends_at, cutoff, revisions_to, root, output_region,"
            " input_regions, exclude_regions, travelers, max_keys)"
            " SELECT id, active_from, %(end)s, active_from, %(end)s, root, output_region,"
            " input_regions, exclude_regions, travelers, max_keys FROM feed",
            {"end": start},
        )
    assert stored(runtime).feeds_with_batches == {"north"}
    with pytest.raises(ConfigurationError, match="the feed has batches already"):
        apply(runtime, site.write(("2026-03-01", "2026-03-02")))


def test_what_was_revoked_is_not_brought_back(runtime, test_database, site):
    apply(runtime, site.write())
    site.new_key("north-2.pem")
    second_key = """\
  - name: north-2
    key_id: "310"
    key_version: v2
    public_key_file: north-2.pem
    active_from: 2026-03-01T00:00:00Z
feeds:"""
    second = ("feeds:", second_key)
    exportkeys.revoke(runtime, "north-1", "stolen")
    with pytest.raises(ConfigurationError, match="north-1 was revoked, and stays so: name another"):
        apply(runtime, site.write(second, ("[north-1]", "[north-1, north-2]")))
    later = ("active_from: 2026-01-01", "active_from: 2026-02-01")
    assert len(apply(runtime, site.write(second, later, ("[north-1]", "[north-2]")))) == 3
    assert stored(runtime).revoked_keys == {"north-1"}
    assert [key.revoked_at is None for key in exportkeys.status(runtime).keys] == [True, False]


def test_thru_is_judged_after_a_closing_that_came_first(runtime, test_database, site, start):
    """B2: the closing holds the clock's row; the earliest possible end counts from where it leaves the clock."""
    apply(runtime, site.write())
    file = site.write(("period: 4h", "period: 4h\n    thru: 2026-03-02T10:01:00Z"))
    refused: list[str] = []

    def declare() -> None:
        try:
            apply(runtime, file)
        except ConfigurationError as error:
            refused.append(str(error))

    with test_database.database("pipeline").transaction() as closing:
        closing.execute("SELECT FROM release_clock FOR UPDATE")
        other = threading.Thread(target=declare)
        other.start()
        with test_database.admin() as watch:
            while not watch.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchall():
                pass
        closing.execute("UPDATE release_clock SET closed_through = %s", [start + timedelta(minutes=1)])
    other.join()
    assert len(refused) == 1
    assert "the earliest possible is 2026-03-02T10:02:00Z" in refused[0]
    assert stored(runtime).declared.feeds[0].active_thru is None


def test_two_at_once_store_it_once(test_database, site):
    file = site.write()
    told: list[list[str]] = []

    def declare() -> None:
        told.append(apply(Runtime(Actor("a test"), test_database.database("pipeline")), file))

    threads = [threading.Thread(target=declare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(sentences) for sentences in told) == [0, 5]
    assert len(events(test_database)) == 1


@pytest.mark.parametrize("role", ["api", "auditor", "rewriter"])
def test_no_other_role_may_apply(test_database, site, role):
    runtime = Runtime(Actor("a test"), test_database.database(role))
    with pytest.raises((StoreError, RemoteError)):
        apply(runtime, site.write())
    assert events(test_database) == []


def test_a_database_without_tables_says_what_to_do(postgres, site):
    database = Database(postgres.admin_url)  # its own database, where nothing of ours is
    try:
        with pytest.raises(ConfigurationError, match="run `keyserver database migrate` first"):
            apply(Runtime(Actor("a test"), database), site.write())
    finally:
        database.forget_connections()


def test_a_server_out_of_reach_is_worth_another_try(site):
    database = Database("postgresql://keyserver_pipeline@127.0.0.1:1/none")
    with pytest.raises(RemoteError):
        apply(Runtime(Actor("a test"), database), site.write())


def test_retention_is_stored_and_audited(runtime, test_database, site):
    for days in (12, 12, 14):
        apply(runtime, site.write(("version: 1", f"version: 1\nretention: {days}d")))
        with test_database.admin() as connection:
            assert connection.execute("SELECT period FROM retention").fetchall() == [(timedelta(days=days),)]
    counts = [json.loads(body)["counts"] for kind, body, _ in events(test_database) if kind == "configuration.applied"]
    assert [count.get("retention_changed") for count in counts] == [1, 1]
