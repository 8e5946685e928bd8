from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyserver.configuration.load import Configuration, load
from keyserver.configuration.plan import Change, plan
from keyserver.errors import ConfigurationError
from keyserver.store.declared import App, Declared, Stored
from tests.configuration.conftest import ATTESTED, FETCHED

NOW = datetime(2026, 3, 2, 10, 0, 30, tzinfo=UTC)
CLOSED = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
EMPTY = Stored(Declared(), NOW, timedelta(minutes=1), CLOSED)


def stored(configuration: Configuration, **changes: object) -> Stored:
    """What is stored after this configuration was applied."""
    return replace(EMPTY, declared=configuration.declared, **changes)


def with_feed(state: Stored, **changes: object) -> Stored:
    (feed,) = state.declared.feeds
    return replace(state, declared=replace(state.declared, feeds=(replace(feed, **changes),)))


def told(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.kind, change.sentence) for change in changes]


def refusal(configuration: Configuration, state: Stored) -> str:
    with pytest.raises(ConfigurationError) as refused:
        plan(configuration, state)
    return str(refused.value).replace(f"{configuration.document.file.parent}/", "")


def test_everything_is_added_in_an_order_that_can_be_stored(site):
    assert told(plan(load(site.write()), EMPTY)) == [
        ("health_authority_added", "Health authority org.example.north is added: North Health."),
        ("health_authority_key_added", "Key v1 of org.example.north is added, valid from 2026-01-01T00:00:00Z."),
        (
            "signing_key_added",
            "Signing key north-1 is added: phones know it as 310 v1, active from 2026-01-01T00:00:00Z.",
        ),
        ("app_added", "App org.example.north.app is added: keys of NO, SE."),
        ("feed_added", "Feed north is added: north, every 4h from 2026-03-01T00:00:00Z."),
    ]


def test_what_is_stored_as_declared_is_left_alone(site):
    configuration = load(site.write())
    assert plan(configuration, stored(configuration)) == []


def test_each_difference_is_told_with_the_names_of_the_document(site):
    before = stored(load(site.write()))
    after = load(
        site.write(
            ("name: North Health", "name: Health of the North"),
            (
                "valid_from: 2026-01-01T00:00:00Z",
                "valid_from: 2026-01-01T00:00:00Z\n        valid_thru: 2027-01-01T00:00:00Z",
            ),
            ('[se, "no"]', '["NO"]'),
            ("active_from: 2026-01-01T00:00:00Z", "active_from: 2026-02-01T00:00:00Z"),
            ('output_region: "NO"', 'output_region: "NO"\n    exclude_regions: [DE]'),
            (
                "period: 4h",
                "period: 6h\n    padding: {minimum: 5, spread: 100, empty: true}\n    paused: true",
            ),
        )
    )
    assert told(plan(after, before)) == [
        (
            "health_authority_changed",
            "Health authority org.example.north changes: name from North Health to Health of the North.",
        ),
        (
            "health_authority_key_changed",
            "Key v1 of org.example.north changes: valid_thru from open to 2027-01-01T00:00:00Z.",
        ),
        (
            "signing_key_changed",
            "Signing key north-1 changes: active_from from 2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z.",
        ),
        ("app_changed", "App org.example.north.app changes: regions from NO, SE to NO."),
        (
            "feed_changed",
            (
                "Feed north changes: exclude_regions from none to DE; period from 4h to 6h;"
                " padding.minimum from 1000 to 5; padding.empty from false to true; paused from false to true."
            ),
        ),
    ]


def test_what_an_authority_may_is_told(site):
    before = stored(load(site.write()))
    after = load(site.write(("    keys:", "    stats: false\n    certificate_max_life: 90m\n    keys:")))
    assert told(plan(after, before)) == [
        (
            "health_authority_changed",
            (
                "Health authority org.example.north changes: stats from true to false;"
                " certificate_max_life from 1h to 90m."
            ),
        ),
    ]


def test_fetched_keys_are_left_to_the_fetching(site):
    before = stored(load(site.write()))
    fetched = load(site.write(FETCHED))
    uri = "https://north.example/jwks.json"
    (change,) = plan(fetched, before)
    assert change.sentence == f"Health authority org.example.north changes: jwks_uri from none to {uri}."
    (declared,) = fetched.declared.health_authorities
    with_keys = replace(declared, keys=before.declared.health_authorities[0].keys)
    state = replace(before, declared=replace(before.declared, health_authorities=(with_keys,)))
    assert plan(fetched, state) == []
    ended = plan(load(site.write((FETCHED[0], "    keys: []\n"))), state)
    assert told(ended) == [
        ("health_authority_changed", f"Health authority org.example.north changes: jwks_uri from {uri} to none."),
        ("health_authority_key_ended", "Key v1 of org.example.north ends now: it is not declared any more."),
    ]


PROOF = "WARNING: bypass_verification lets ANYBODY upload keys, WITHOUT ANY PROOF of a diagnosis."
TOKEN = "WARNING: bypass_revision_token lets uploads CHANGE OR REVOKE KEYS OF OTHER PEOPLE."


@pytest.mark.parametrize(
    ("flags", "warnings"),
    [
        ("bypass_verification: true", f" {PROOF}"),
        ("bypass_revision_token: true", f" {TOKEN}"),
        ("bypass_verification: true\n    bypass_revision_token: true", f" {PROOF} {TOKEN}"),
        ("bypass_verification: false", ""),
    ],
)
def test_an_app_that_bypasses_is_warned_of_loudly(site, flags, warnings):
    before = stored(load(site.write()))
    bypassing = ("    regions: [se,", f"    {flags}\n    regions: [se,")
    after = load(site.write(bypassing))
    changes = plan(after, EMPTY)
    assert changes[3].sentence == f"App org.example.north.app is added: keys of NO, SE.{warnings}"
    found = [change.sentence for change in plan(after, before)]
    assert len(found) == bool(warnings)
    assert all(sentence.startswith("App org.example.north.app changes: bypass_") for sentence in found)
    assert all(sentence.endswith(f" from false to true.{warnings}") for sentence in found)
    # Nor is it forgotten when something else of the app changes.
    (later,) = plan(load(site.write(bypassing, ('[se, "no"]', '["NO"]'))), stored(after))
    assert later.sentence == f"App org.example.north.app changes: regions from NO, SE to NO.{warnings}"


def test_differences_of_attestation_are_told(site):
    plain, attested = load(site.write()), load(site.write(ATTESTED))
    added = plan(attested, EMPTY)[3].sentence
    ways = "attested by play-integrity on android, app-attest on ios"
    assert added == f"App org.example.north.app is added: keys of NO, SE, {ways}."
    (change,) = plan(attested, stored(plain))
    assert change.sentence == (
        "App org.example.north.app changes: attestation.android is added: play-integrity;"
        " attestation.ios is added: app-attest."
    )
    (change,) = plan(plain, stored(attested))
    assert change.sentence == (
        "App org.example.north.app changes: attestation.android is removed: play-integrity is not asked for any more;"
        " attestation.ios is removed: app-attest is not asked for any more."
    )
    site.new_certificate("root.pem")
    (change,) = plan(
        load(
            site.write(
                ATTESTED,
                ("play-verification", "other, max_age: 10m, device_verdicts: [MEETS_STRONG_INTEGRITY]"),
                ("environment: production", "environment: production, root_certificate_file: root.pem"),
            )
        ),
        stored(attested),
    )
    found = change.sentence
    for difference in (
        "attestation.android.device_verdicts from MEETS_DEVICE_INTEGRITY to MEETS_STRONG_INTEGRITY;",
        "attestation.android.max_age from 5m to 10m;",
        "attestation.android.verification_key_secret from play-verification to other;",
        "attestation.ios.root_certificate_file from Apple's to one with SHA-256 ",
    ):
        assert f" {difference}" in found
    assert found.count(";") == 3


def test_an_app_that_is_not_declared_is_removed(site):
    configuration = load(site.write())
    state = stored(configuration)
    other = App("org.example.old", ("NO",), ())
    state = replace(state, declared=replace(state.declared, apps=(*state.declared.apps, other)))
    (change,) = plan(configuration, state)
    assert (change.kind, change.item) == ("app_removed", other)
    assert change.sentence == "App org.example.old is removed: it is not declared any more."


@pytest.mark.parametrize(
    ("valid_from", "valid_thru", "ended"),
    [
        (NOW - timedelta(days=9), None, NOW),
        (NOW - timedelta(days=9), NOW + timedelta(days=1), NOW),
        (NOW + timedelta(days=9), None, NOW + timedelta(days=9)),
        (NOW - timedelta(days=9), NOW, None),
        (NOW - timedelta(days=9), NOW - timedelta(days=1), None),
        (NOW + timedelta(days=9), NOW + timedelta(days=9), None),
    ],
)
def test_an_authority_s_key_that_is_not_declared_ends_now(site, valid_from, valid_thru, ended):
    configuration = load(site.write())
    state = stored(configuration)
    (authority,) = state.declared.health_authorities
    old = replace(authority.keys[0], kid="v0", valid_from=valid_from, valid_thru=valid_thru)
    authority = replace(authority, keys=(old, *authority.keys))
    changes = plan(configuration, replace(state, declared=replace(state.declared, health_authorities=(authority,))))
    if ended is None:
        assert changes == []
    else:
        (change,) = changes
        assert (change.kind, change.item.key) == ("health_authority_key_ended", replace(old, valid_thru=ended))
        assert change.sentence == "Key v0 of org.example.north ends now: it is not declared any more."


def test_what_cannot_be_removed_must_be_declared(site):
    state = stored(load(site.write()))
    found = refusal(load(site.write_text("version: 1\nfeeds: []\n")), state).splitlines()
    how = "is stored and not declared; it cannot be removed: declare it as it was (it is ended with"
    assert sorted(found) == [
        f"site.yaml:1: health_authorities: org.example.north {how} keys: [])",
        f"site.yaml:1: signing_keys: north-1 {how} active_thru)",
        f"site.yaml:2: feeds: north {how} thru)",
    ]


def test_a_public_key_stays_what_it_is(site):
    state = stored(load(site.write()))
    site.new_key("north.pem")
    site.new_key("north-1.pem")
    assert refusal(load(site.write()), state).splitlines() == [
        (
            "site.yaml:7: health_authorities[0].keys[0]: another public key is stored as v1, and stays: give the new"
            " one a kid of its own"
        ),
        (
            "site.yaml:15: signing_keys[0].public_key: another public_key is stored for north-1, and stays: give the"
            " new key a name of its own"
        ),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'key_id: "310"',
            'key_id: "311"',
            "site.yaml:16: signing_keys[0].key_id: another key_id is stored for north-1",
        ),
        ("version: v1", "version: v2", "site.yaml:17: signing_keys[0].key_version: another key_version is stored for"),
        ("root: north", "root: south", "site.yaml:22: feeds[0].root: is stored as north, and stays"),
    ],
)
def test_what_phones_know_stays(site, old, new, expected):
    state = stored(load(site.write()))
    assert refusal(load(site.write((old, new))), state).startswith(expected)


LOG_KEY = """\
  - name: log-1
    key_id: '310'
    key_version: log1
    public_key_file: north-1.pem
    active_from: 2026-01-01T00:00:00Z
    purpose: transparency
feeds:"""


def test_a_key_of_the_public_logs_is_told_as_such_and_stays_one(site):
    """Rule A3: it never signs a file, and no export key ever signs a log."""
    before = load(site.write())
    after = load(site.write(("feeds:", LOG_KEY)))
    assert told(plan(after, stored(before))) == [
        (
            "signing_key_added",
            "Signing key log-1 is added: it signs the public logs, active from 2026-01-01T00:00:00Z.",
        )
    ]
    export = load(site.write(("feeds:", LOG_KEY), ("    purpose: transparency\n", "")))
    assert "signing_keys[1].purpose: another purpose is stored for log-1, and stays" in refusal(export, stored(after))


def test_a_name_cannot_change_without_notice(site):
    state = stored(load(site.write()))
    renamed = load(
        site.write(
            ("- name: north\n", "- name: south\n"), ("- name: north-1", "- name: south-1"), ("[north-1]", "[south-1]")
        )
    )
    found = refusal(renamed, state)
    assert "site.yaml:17: signing_keys[0].key_version: 310 v1 is the stored key north-1" in found
    assert "site.yaml:22: feeds[0].root: is that of the stored feed north" in found
    assert "site.yaml:20: feeds: north is stored and not declared" in found


def test_a_period_is_whole_windows(site):
    configuration = load(site.write())
    state = replace(EMPTY, width=timedelta(minutes=480), closed_through=datetime(2026, 3, 2, 8, tzinfo=UTC))
    assert refusal(configuration, state) == (
        "site.yaml:24: feeds[0].period: must be a multiple of this database's windows, which are 8h wide"
    )


def test_a_new_feed_reaches_back_7_days_at_most(site):
    earliest = "2026-02-23T10:00:30Z"
    plan(load(site.write(("2026-03-01T00:00:00Z", earliest))), EMPTY)
    too_early = load(site.write(("2026-03-01T00:00:00Z", "2026-02-23T10:00:29Z")))
    assert refusal(too_early, EMPTY) == (
        f"site.yaml:25: feeds[0].from: is more than 7 days ago: the earliest possible is {earliest}"
    )


def test_from_stays_once_there_are_batches(site):
    state = stored(load(site.write()), now=NOW + timedelta(days=30))
    assert plan(load(site.write()), state) == []
    moved = load(site.write(("2026-03-01T00:00:00Z", "2026-03-30T00:00:00Z")))
    assert [change.kind for change in plan(moved, state)] == ["feed_changed"]
    state = replace(state, feeds_with_batches=frozenset(["north"]))
    assert refusal(moved, state) == (
        "site.yaml:25: feeds[0].from: is stored as 2026-03-01T00:00:00Z, and stays: the feed has batches already"
    )


def ending(site, thru: str) -> Configuration:
    return load(site.write(("period: 4h", f"period: 4h\n    thru: {thru}")))


@pytest.mark.parametrize("there_before", [False, True])
def test_thru_is_rounded_up_and_not_before_the_next_window_s_end(site, there_before):
    """B2."""
    state = stored(load(site.write())) if there_before else EMPTY
    for allowed in ("2026-03-02T10:01:00Z", "2026-03-02T10:00:01Z"):
        changes = plan(ending(site, allowed), state)
        assert changes[-1].item.active_thru == CLOSED + timedelta(minutes=1)
    for refused in ("2026-03-02T10:00:00Z", "2026-03-02T09:59:01Z", "2026-03-01T12:00:00Z"):
        assert refusal(ending(site, refused), state) == (
            "site.yaml:25: feeds[0].thru: is too early, its windows are closed:"
            " the earliest possible is 2026-03-02T10:01:00Z"
        )


def test_thru_can_move_until_it_is_reached(site):
    thru = CLOSED + timedelta(minutes=1)
    state = with_feed(stored(load(site.write())), active_thru=thru)
    (change,) = plan(load(site.write()), state)
    assert change.sentence == "Feed north changes: thru from 2026-03-02T10:01:00Z to open."
    assert [change.kind for change in plan(ending(site, "2026-03-03T00:00:00Z"), state)] == ["feed_changed"]


def test_a_feed_that_ended_stays_ended(site):
    state = with_feed(stored(load(site.write())), active_thru=CLOSED)
    assert plan(ending(site, "2026-03-02T10:00:00Z"), state) == []
    assert plan(ending(site, "2026-03-02T09:59:30Z"), state) == []  # rounded up, it is the same
    for again in (load(site.write()), ending(site, "2026-03-03T00:00:00Z")):
        assert "feeds[0].thru: the feed ended at 2026-03-02T10:00:00Z, and stays so" in refusal(again, state)


@pytest.mark.parametrize(
    ("active_from", "active_thru", "refused"),
    [
        ("2026-01-01T00:00:00Z", "null", False),
        ("2026-03-02T10:00:30Z", "2026-03-02T10:00:31Z", False),
        ("2026-03-02T10:00:31Z", "null", True),
        ("2026-01-01T00:00:00Z", "2026-03-02T10:00:30Z", True),
    ],
)
def test_a_feed_has_an_active_signing_key(site, active_from, active_thru, refused):
    """B17: no batch goes unsigned, so one without a key would wait for ever."""
    configuration = load(
        site.write(("active_from: 2026-01-01T00:00:00Z", f"active_from: {active_from}\n    active_thru: {active_thru}"))
    )
    if refused:
        assert refusal(configuration, EMPTY) == (
            "site.yaml:27: feeds[0].signing_keys: none of them is active on 2026-03-02T10:00:30Z"
        )
    else:
        assert len(plan(configuration, EMPTY)) == 5


def test_an_ended_feed_needs_no_active_signing_key(site):
    configuration = load(
        site.write(
            (
                "active_from: 2026-01-01T00:00:00Z",
                "active_from: 2026-01-01T00:00:00Z\n    active_thru: 2026-03-02T10:00:00Z",
            ),
            ("period: 4h", "period: 4h\n    thru: 2026-03-02T10:00:00Z"),
        )
    )
    assert plan(configuration, stored(configuration)) == []


def two_keys(site, *replacements: tuple[str, str]) -> Configuration:
    """A second key for the feed, active from April on."""
    if not (site.folder / "north-2.pem").exists():
        site.new_key("north-2.pem")
    second = (
        "  - name: north-2\n    key_id: '310'\n    key_version: v2\n    public_key_file: north-2.pem\n"
        "    active_from: 2026-04-01T00:00:00Z\nfeeds:"
    )
    return load(site.write(("feeds:", second), ("[north-1]", "[north-1, north-2]"), *replacements))


FIRST_FROM = "active_from: 2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("thru", "warning"),
    [
        ("2026-04-01T00:00:00Z", ""),
        ("2026-05-01T00:00:00Z", ""),
        ("2026-03-31T23:59:59Z", " WARNING: feed north has no signing key from 2026-03-31T23:59:59Z on."),
    ],
)
def test_a_key_that_ends_before_the_next_begins_is_warned_of(site, thru, warning):
    """B17: batches that end in between would be held."""
    before = stored(two_keys(site))
    after = two_keys(site, (FIRST_FROM, f"{FIRST_FROM}\n    active_thru: {thru}"))
    assert told(plan(after, before)) == [
        ("signing_key_changed", f"Signing key north-1 changes: active_thru from open to {thru}.{warning}")
    ]


def test_a_feed_with_a_gap_is_warned_of_when_it_is_touched(site):
    ending_key = (FIRST_FROM, f"{FIRST_FROM}\n    active_thru: 2026-03-20T00:00:00Z")
    *_, feed_added = plan(load(site.write(ending_key)), EMPTY)
    assert feed_added.sentence.endswith(" WARNING: feed north has no signing key from 2026-03-20T00:00:00Z on.")
    changed = load(site.write(ending_key, ("period: 4h", "period: 6h")))
    (change,) = plan(changed, stored(load(site.write(ending_key))))
    assert change.sentence.endswith(" WARNING: feed north has no signing key from 2026-03-20T00:00:00Z on.")
    until = load(site.write(ending_key, ("period: 4h", "period: 6h\n    thru: 2026-03-20T00:00:00Z")))
    assert "WARNING" not in told(plan(until, stored(load(site.write(ending_key)))))[0][1]


def test_a_revoked_key_stays_revoked_and_a_feed_must_name_another(site):
    state = stored(two_keys(site), revoked_keys=frozenset({"north-1"}))
    both = two_keys(site, ("2026-04-01", "2026-03-01"))
    assert refusal(both, state) == (
        "site.yaml:31: feeds[0].signing_keys: north-1 was revoked, and stays so: name another"
    )
    other = two_keys(site, ("2026-04-01", "2026-03-01"), ("[north-1, north-2]", "[north-2]"))
    assert [kind for kind, _ in told(plan(other, state))] == ["signing_key_changed", "feed_changed"]


def test_a_revoked_key_does_not_count_as_active(site):
    state = stored(two_keys(site), revoked_keys=frozenset({"north-1"}))
    later = two_keys(site, ("[north-1, north-2]", "[north-2]"))
    assert refusal(later, state) == (
        "site.yaml:31: feeds[0].signing_keys: none of them is active on 2026-03-02T10:00:30Z"
    )


def test_new_times_of_a_revoked_key_do_not_bring_it_back(site):
    named = (("[north-1, north-2]", "[north-2]"), ("2026-04-01", "2026-03-01"))
    state = stored(two_keys(site, *named), revoked_keys=frozenset({"north-1"}))
    after = two_keys(site, *named, (FIRST_FROM, f"{FIRST_FROM}\n    active_thru: 2027-01-01T00:00:00Z"))
    assert [sentence for _, sentence in told(plan(after, state))] == [
        "Signing key north-1 changes: active_thru from open to 2027-01-01T00:00:00Z. It was revoked, and stays so."
    ]


def test_all_refusals_are_told_at_once(site):
    state = stored(load(site.write()))
    site.new_key("north.pem")
    found = refusal(load(site.write(("root: north", "root: south"), ('"310"', '"311"'))), state)
    assert [line.split(": ")[1] for line in found.splitlines()] == [
        "health_authorities[0].keys[0]",
        "signing_keys[0].key_id",
        "feeds[0].root",
    ]


def test_a_change_of_retention_is_told_and_a_shorter_one_with_what_it_deletes(site):
    before, after = (load(site.write(("version: 1", f"version: 1\nretention: {days}d"))) for days in (14, 11))
    assert told(plan(after, stored(before))) == [
        (
            "retention_changed",
            "Retention changes: from 14d to 11d. What is older is deleted within an hour, for good.",
        )
    ]
    assert told(plan(before, stored(after))) == [("retention_changed", "Retention changes: from 11d to 14d.")]
