from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyserver.configuration.load import (
    _App,
    _AppAttest,
    _Authority,
    _Document,
    _Feed,
    _PlayIntegrity,
    _SigningKey,
    load,
)
from keyserver.errors import ConfigurationError
from keyserver.providers.attestation.appattest import AppAttestSettings
from keyserver.providers.attestation.playintegrity import PlayIntegritySettings
from tests.configuration.conftest import ATTESTED, DIGEST, FETCHED

EXAMPLE = Path(__file__).parents[2] / "docs" / "configuration.example.yaml"


def messages(file: Path) -> list[str]:
    """What `load` refuses, a message a mistake, without the folder's name."""
    with pytest.raises(ConfigurationError) as refused:
        load(file)
    return str(refused.value).replace(f"{file.parent}/", "").splitlines()


def message(file: Path) -> str:
    (only,) = messages(file)
    return only


def test_the_example_is_right_and_shows_every_setting():
    (feed,) = load(EXAMPLE).declared.feeds
    assert feed.signing_keys == ("north-1",)
    shown = yaml.safe_load(EXAMPLE.read_text())
    assert set(shown) == set(_Document.model_fields)
    for section, model in (
        ("health_authorities", _Authority),
        ("apps", _App),
        ("signing_keys", _SigningKey),
        ("feeds", _Feed),
    ):
        names = {setting.alias or name for name, setting in model.model_fields.items()} - {"public_key_file"}
        assert set(shown[section][0]) == names
    assert "public_key_file" in EXAMPLE.read_text()
    attestation = shown["apps"][0]["attestation"]
    assert set(attestation["android"]) == set(_PlayIntegrity.model_fields)
    assert set(attestation["ios"]) == set(_AppAttest.model_fields) - {"root_certificate_file"}
    assert "root_certificate_file" in EXAMPLE.read_text()


def test_names_are_normalised_and_defaults_filled_in(site):
    declared = load(site.write()).declared
    (app,) = declared.apps
    assert (app.name, app.regions) == ("org.example.north.app", ("NO", "SE"))
    (feed,) = declared.feeds
    assert feed.input_regions == ("NO",)
    assert feed.exclude_regions == ()
    assert feed.travelers == "by-region"
    assert (feed.max_keys, feed.padding_minimum, feed.padding_spread) == (500_000, 1000, 100)
    assert not feed.padding_empty
    assert (feed.development, feed.paused, feed.active_thru) == (False, False, None)
    assert feed.active_from == datetime(2026, 3, 1, tzinfo=UTC)

    (authority,) = declared.health_authorities
    assert (authority.jwks_uri, authority.stats, authority.certificate_max_life_minutes) == (None, True, 60)
    assert (app.bypass_verification, app.bypass_revision_token, app.attestation) == (False, False, ())


def test_attestation_is_read_with_its_defaults(site):
    (app,) = load(site.write(ATTESTED)).declared.apps
    android, ios = app.attestation
    assert (android.platform, android.kind) == ("android", "play-integrity")
    assert android.settings == {
        "package": "org.example.App",
        "certificate_digests": [DIGEST],
        "minimum_version_code": 0,
        "device_verdicts": ["MEETS_DEVICE_INTEGRITY"],
        "licensed": True,
        "decryption_key_secret": "play-decryption",
        "verification_key_secret": "play-verification",
        "max_age_seconds": 300,
    }
    assert (ios.platform, ios.kind) == ("ios", "app-attest")
    assert ios.settings == {"team_id": "ABCDE12345", "bundle_id": "org.example.app", "environment": "production"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('regions: [se, "no"]', "regions: []", "apps[0].regions: List should have at least 1 item"),
        ('    regions: [se, "no"]\n', "", "apps[0].regions: is missing"),
        ("name: org.example.North.App", "name: ''", "apps[0].name: must be at most 100 of"),
    ],
)
def test_scenario_105_an_app_needs_a_name_and_a_region(site, old, new, expected):
    assert f": {expected}" in message(site.write((old, new)))


def test_what_is_declared_of_attestation_is_what_checks_it(site):
    site.new_certificate("root.pem")
    rooted = ("environment: production", "environment: production, root_certificate_file: root.pem")
    (app,) = load(site.write(ATTESTED, rooted)).declared.apps
    for item, read_as in zip(app.attestation, (PlayIntegritySettings, AppAttestSettings), strict=True):
        assert set(item.settings) == set(read_as.model_fields)
        assert read_as.read(json.loads(json.dumps(item.settings)))


@pytest.mark.parametrize(
    "written", [DIGEST, f"{DIGEST}=", DIGEST.replace("-", "+").replace("_", "/"), f"{DIGEST}, {DIGEST}="]
)
def test_a_digest_is_kept_as_google_writes_it(site, written):
    (app,) = load(site.write(ATTESTED, (f"[{DIGEST}]", f"[{written}]"))).declared.apps
    assert app.attestation[0].settings["certificate_digests"] == [DIGEST]


def test_a_root_certificate_is_read_from_beside_the_document(site):
    pem = site.new_certificate("root.pem")
    (site.folder / "root.pem").write_text(f"of a test\n{pem}")
    declaring = ("environment: production", "environment: development, root_certificate_file: root.pem")
    (app,) = load(site.write(ATTESTED, declaring)).declared.apps
    assert app.attestation[1].settings["root_certificate"] == pem
    for content in (b"", b"nonsense", (site.folder / "north.pem").read_bytes(), b"\xff" * 100_000):
        (site.folder / "root.pem").write_bytes(content)
        expected = "site.yaml:19: apps[0].attestation.ios.root_certificate_file: must be a certificate in PEM"
        assert message(site.write(ATTESTED, declaring)).startswith(expected)
    (site.folder / "root.pem").unlink()
    assert message(site.write(ATTESTED, declaring)).endswith("root_certificate_file: there is no file root.pem")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: play-integrity", "kind: safetynet", "android.kind: must be 'play-integrity'"),
        ("kind: play-integrity", "kind: app-attest", "android.kind: must be 'play-integrity'"),
        ("kind: app-attest", "kind: device-check", "ios.kind: must be 'app-attest'"),
        ("      ios:", "      web:", "web: is not known here"),
        ("package: org.example.App", "package: app", "android.package: must be at most 100 of letters, digits and _"),
        (f"[{DIGEST}]", "[]", "android.certificate_digests: List should have at least 1 item"),
        (f"[{DIGEST}]", "[abc*]", "android.certificate_digests[0]: is not base64"),
        (f"[{DIGEST}]", f"[{DIGEST[:-4]}]", "android.certificate_digests[0]: must be a SHA-256, 32 bytes"),
        ("play-decryption", "../play", "android.decryption_key_secret: must be at most 100 of letters"),
        (
            "decryption_key_secret: play-decryption",
            "decryption_key_secret: MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE/+",
            "android.decryption_key_secret: must be at most 100 of letters",
        ),
        (", verification_key_secret: play-verification", "", "android.verification_key_secret: is missing"),
        (
            "verification_key_secret: play-verification",
            "verification_key_secret: v, device_verdicts: [MEETS_NOTHING]",
            "android.device_verdicts[0]: must be 'MEETS_BASIC",
        ),
        (
            "verification_key_secret: play-verification",
            "verification_key_secret: v, device_verdicts: []",
            "android.device_verdicts: List should have at least 1",
        ),
        (
            "verification_key_secret: play-verification",
            "verification_key_secret: v, minimum_version_code: -1",
            "android.minimum_version_code: must be greater",
        ),
        (
            "verification_key_secret: play-verification",
            "verification_key_secret: v, max_age: 61m",
            "android.max_age: must be at most 1h",
        ),
        (
            "verification_key_secret: play-verification",
            "verification_key_secret: v, max_age: 300",
            "android.max_age: must be a number of minutes or hours",
        ),
        ("ABCDE12345", "ABCDE1234", "ios.team_id: must be at most 100 of 10 capitals and digits"),
        ("bundle_id: org.example.app", "bundle_id: a b", "ios.bundle_id: must be at most 100 of letters"),
        ("environment: production", "environment: sandbox", "ios.environment: must be 'production' or 'development'"),
    ],
)
def test_a_mistake_in_attestation_is_named(site, old, new, expected):
    found = message(site.write(ATTESTED, (old, new)))
    assert f": apps[0].attestation.{expected}" in found


@pytest.mark.parametrize("life", ["1m", "30m", "1h", "168h"])
def test_a_certificate_s_life_need_not_divide_a_day(site, life):
    declared = load(site.write(("    keys:", f"    certificate_max_life: {life}\n    keys:"))).declared
    minutes = int(life[:-1]) * (60 if life.endswith("h") else 1)
    assert declared.health_authorities[0].certificate_max_life_minutes == minutes


@pytest.mark.parametrize("life", ["0m", "169h", "10000m", "90s", "1d"])
def test_a_certificate_s_life_has_bounds(site, life):
    found = message(site.write(("    keys:", f"    certificate_max_life: {life}\n    keys:")))
    assert found.startswith("site.yaml:6: health_authorities[0].certificate_max_life: must be ")


def test_keys_are_declared_or_fetched(site):
    (authority,) = load(site.write(FETCHED)).declared.health_authorities
    assert (authority.jwks_uri, authority.keys) == ("https://north.example/jwks.json", ())
    both = message(site.write(("    keys:", "    jwks_uri: https://north.example/jwks.json\n    keys:")))
    assert both.startswith("site.yaml:3: health_authorities[0]: its keys are fetched from jwks_uri")


@pytest.mark.parametrize(
    "uri",
    [
        "http://north.example/jwks.json",
        "HTTPS://north.example/jwks.json",
        "ftp://north.example",
        "https://",
        "https:///jwks.json",
        "https://user@north.example/",
        "https://:word@north.example/",
        "https://north.example/#keys",
        "https://north.example:99999/",
        "https://[north.example/",
        "https://north.example/a b",
        "https://nörth.example/",
        "' '",
        "''",
    ],
)
def test_scenario_94_keys_are_fetched_by_https_alone(site, uri):
    found = message(site.write((FETCHED[0], FETCHED[1].replace("https://north.example/jwks.json", uri))))
    assert found.startswith("site.yaml:6: health_authorities[0].jwks_uri: must be an address that begins with https://")


def test_a_time_of_another_zone_is_the_same_moment(site):
    (feed,) = load(site.write(("2026-03-01T00:00:00Z", "2026-03-01T02:00:00+02:00"))).declared.feeds
    assert feed.active_from == datetime(2026, 3, 1, tzinfo=UTC)
    assert feed.active_from.utcoffset().total_seconds() == 0


def test_a_key_inline_is_the_key_in_a_file(site):
    in_file = load(site.write())
    pem = (site.folder / "north.pem").read_text()
    block = "public_key: |\n" + "".join(f"          {line}\r\n" for line in pem.splitlines())
    inline = load(site.write(("public_key_file: north.pem\n", block)))
    assert inline.declared == in_file.declared
    assert inline.declared.health_authorities[0].keys[0].public_key == pem


def test_the_hash_is_of_the_content_only(site):
    before = load(site.write()).sha256
    assert load(site.write(("version: 1", "# a comment\nversion: 1"), ('[se, "no"]', "[NO_, SE]"))).sha256 != before
    assert load(site.write(("version: 1", "# a comment\nversion: 1"), ('[se, "no"]', '["no", SE]'))).sha256 == before
    assert load(site.write(("period: 4h", "period: 240m\n    paused: false"))).sha256 == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "site.yaml:1: version: must be 1"),
        ("version: 1", "version: true", "site.yaml:1: version: must be a whole number"),
        ("version: 1\n", "", "site.yaml:1: version: is missing"),
        ("feeds:", "foods: []\nfeeds:", "site.yaml:20: foods: is not known here"),
        ("    period: 4h\n", "", "site.yaml:21: feeds[0].period: is missing"),
        ("    root: north", "    roof: x\n    root: north", "site.yaml:22: feeds[0].roof: is not known here"),
        (
            "    root: north",
            "    name: x\n    root: north",
            "site.yaml:22: feeds[0].name: stands twice, first on line 21",
        ),
        ("kid: v1", "kid: v1\n        kid: v1", "site.yaml:8: health_authorities[0].keys[0].kid: stands twice, first"),
        (
            'output_region: "NO"',
            "output_region: NO",
            (
                "site.yaml:23: feeds[0].output_region: must be text, and YAML reads "
                'NO as something else: write "NO" in quotes'
            ),
        ),
        (
            'regions: [se, "no"]',
            "regions: [se, no]",
            "site.yaml:12: apps[0].regions[1]: must be text, and YAML reads no",
        ),
        ('key_id: "310"', "key_id: 310", "site.yaml:16: signing_keys[0].key_id: must be text, and YAML reads 310"),
        ('key_id: "310"', "key_id: 0310", "site.yaml:16: signing_keys[0].key_id: YAML reads 0310 as something"),
        ('key_id: "310"', "key_id: 3.1", "site.yaml:16: signing_keys[0].key_id: YAML reads 3.1 as something"),
        ('key_id: "310"', "key_id: 12:30", "site.yaml:16: signing_keys[0].key_id: YAML reads 12:30 as something"),
        ('key_id: "310"', "key_id: a b", "site.yaml:16: signing_keys[0].key_id: must be at most 100 of letters"),
        ("period: 4h", "max_keys: '5'\n    period: 4h", "site.yaml:24: feeds[0].max_keys: must be a whole number"),
        ("period: 4h", "max_keys: 0\n    period: 4h", "site.yaml:24: feeds[0].max_keys: must be greater than or equal"),
        (
            "period: 4h",
            "max_keys: 750001\n    period: 4h",
            "site.yaml:24: feeds[0].max_keys: must be less than or equal",
        ),
        ("period: 4h", "max_keys: true\n    period: 4h", "site.yaml:24: feeds[0].max_keys: must be a whole number"),
        ("period: 4h", "max_keys: 99999999999999999999\n    period: 4h", "site.yaml:24: feeds[0].max_keys: YAML reads"),
        ("period: 4h", "paused: 1\n    period: 4h", "site.yaml:24: feeds[0].paused: must be true or false"),
        ("period: 4h", "padding: 3\n    period: 4h", "site.yaml:24: feeds[0].padding: must be a mapping"),
        ("period: 4h", "padding: {minimum: 3}\n    period: 4h", "site.yaml:24: feeds[0].padding.spread: is missing"),
        (
            "period: 4h",
            "padding: {minimum: 0, spread: 100, empty: true}\n    period: 4h",
            "site.yaml:24: feeds[0].padding: minimum is 0, so an empty batch would stay empty",
        ),
        (
            "period: 4h",
            "travelers: none\n    period: 4h",
            "site.yaml:24: feeds[0].travelers: must be 'by-region', 'incl",
        ),
        ("signing_keys: [north-1]", "signing_keys: north-1", "site.yaml:26: feeds[0].signing_keys: must be a list"),
        (
            "signing_keys: [north-1]",
            "signing_keys: []",
            "site.yaml:26: feeds[0].signing_keys: List should have at least",
        ),
        ("[north-1]", f"[{', '.join('abcdefghijk')}]", "site.yaml:26: feeds[0].signing_keys: List should have at most"),
        (
            "[north-1]",
            "[north-2]",
            "site.yaml:26: feeds[0].signing_keys[0]: north-2 is not declared under signing_keys",
        ),
        (
            "key_version: v1",
            "key_version: v1\n    purpose: transparency",
            "site.yaml:27: feeds[0].signing_keys[0]: north-1 signs the public logs, and no files: name another",
        ),
        (
            "key_version: v1",
            "key_version: v1\n    purpose: both",
            "site.yaml:18: signing_keys[0].purpose: must be 'export' or 'transparency'",
        ),
        (
            "    health_authorities: [org.example.north]",
            "    health_authorities: [org.example.south]",
            "site.yaml:13: apps[0].health_authorities[0]: org.example.south is not declared under health_authorities",
        ),
        ("period: 4h", "period: 5h", "site.yaml:24: feeds[0].period: must divide a day"),
        ("period: 4h", "period: 90", "site.yaml:24: feeds[0].period: must be a number of minutes or hours"),
        ("period: 4h", "period: 1d", "site.yaml:24: feeds[0].period: must be a number of minutes or hours"),
        ("period: 4h", "period: 9999h", "site.yaml:24: feeds[0].period: must divide a day"),
        ("period: 4h", "period: 30m", "site.yaml:24: feeds[0].period: must be 4h or more; less than 1h"),
        ("period: 4h", "period: 2h", "site.yaml:24: feeds[0].period: must be 4h or more; 1h to 3h only beside"),
        ("from: 2026-03-01T00:00:00Z", "from: 2026-03-01T00:00:00", "site.yaml:25: feeds[0].from: must say its time"),
        ("from: 2026-03-01T00:00:00Z", "from: 2026-03-01", "site.yaml:25: feeds[0].from: must say its time zone"),
        ("from: 2026-03-01T00:00:00Z", "from: 2026-13-01T00:00:00Z", "site.yaml:25: feeds[0].from: must be a time"),
        (
            "from: 2026-03-01T00:00:00Z",
            "from: 0001-01-01T00:00:00+05:00",
            "site.yaml:25: feeds[0].from: must be a time",
        ),
        ("from: 2026-03-01T00:00:00Z", "from: soon", "site.yaml:25: feeds[0].from: must be a time"),
        ("from: 2026-03-01T00:00:00Z", "from: 5", "site.yaml:25: feeds[0].from: must be a time"),
        (
            "from: 2026-03-01T00:00:00Z",
            "from: 2026-03-01T00:00:00Z\n    thru: 2026-03-01T00:00:00Z",
            "site.yaml:21: feeds[0]: thru is not after from",
        ),
        (
            "        valid_from: 2026-01-01",
            "        valid_thru: 2025-01-01T00:00:00Z\n        valid_from: 2026-01-01",
            "site.yaml:7: health_authorities[0].keys[0]: valid_thru is before valid_from",
        ),
        (
            "    active_from: 2026-01-01",
            "    active_thru: 2025-01-01T00:00:00Z\n    active_from: 2026-01-01",
            "site.yaml:15: signing_keys[0]: active_thru is before active_from",
        ),
        ("root: north", "root: ../north", "site.yaml:22: feeds[0].root: must be at most 100 of small letters"),
        ("root: north", "root: North", "site.yaml:22: feeds[0].root: must be at most 100 of small letters"),
        ("root: north", 'root: "north\\n"', "site.yaml:22: feeds[0].root: must be at most 100 of small letters"),
        ("name: North Health", 'name: "a\\0b"', "site.yaml:3: health_authorities[0].name: must be 1 to 200 printable"),
        (
            "name: North Health",
            'name: "\\ud800"',
            "site.yaml:3: health_authorities[0].name: must be 1 to 200 printable",
        ),
        ("name: North Health", "name: ''", "site.yaml:3: health_authorities[0].name: must be 1 to 200 printable"),
        ("name: org.example.North.App", "name: org example", "site.yaml:11: apps[0].name: must be at most 100 of"),
        (
            "public_key_file: north-1.pem",
            "public_key: nonsense",
            "site.yaml:18: signing_keys[0].public_key: must be a pub",
        ),
        (
            "public_key_file: north-1.pem",
            "public_key_file: gone.pem",
            "site.yaml:18: signing_keys[0].public_key_file: there is no file gone.pem",
        ),
        (
            "public_key_file: north-1.pem",
            "public_key_file: .",
            "site.yaml:18: signing_keys[0].public_key_file: there is no",
        ),
        ("    public_key_file: north-1.pem\n", "", "site.yaml:15: signing_keys[0]: needs either public_key or"),
        ("health_authorities:\n", "health_authorities: &a\n", "site.yaml:13: apps[0].health_authorities: aliases"),
        (
            "version: 1",
            "version: !!python/object/apply:os.getcwd []",
            "site.yaml:1: version: the tag tag:yaml.org,2002:pyt",
        ),
        ("name: North Health", "name: !mine x", "site.yaml:3: health_authorities[0].name: YAML reads x as something"),
        ("version: 1", "version: 1\n<<: {apps: []}", "site.yaml:2: '<<' as a name is not supported"),
        ("version: 1", "version: 1\nno: 1", "site.yaml:2: 'no' as a name is not supported"),
        ("version: 1", "version: 1\n? [a]\n: 1", "site.yaml:2: a name that is no text is not supported"),
        ("kid: v1", "kid: v1\n\tx: 1", "site.yaml:8: this is not YAML: a tab stands where only spaces may"),
        ("kid: v1", "kid: [", "site.yaml:9: this is not YAML: expected ',' or ']'"),
        ("feeds:", "---\nfeeds:", "site.yaml:20: this is not YAML: but found another document"),
        ("kid: v1", "kid: v\a1", "site.yaml:7: a character that YAML does not allow"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_place(site, old, new, expected):
    replacements = [(old, new)]
    if "&a" in new:
        replacements.append(("    health_authorities: [org.example.north]", "    health_authorities: *a"))
    found = message(site.write(*replacements))
    assert found.startswith(expected)


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(site):
    file = site.write(
        ("name: North Health", "name: North Health\n    name: again"),
        ("kid: v1", "kid: ''"),
        ('[se, "no"]', "[se, no]"),
        ("    health_authorities: [org.example.north]", "    health_authorities: [org.example.south]"),
        ("period: 4h", "period: 7h"),
        ("[north-1]", "[north-2]"),
    )
    assert [found.split(": ")[0:2] for found in messages(file)] == [
        ["site.yaml:4", "health_authorities[0].name"],
        ["site.yaml:8", "health_authorities[0].keys[0].kid"],
        ["site.yaml:13", "apps[0].regions[1]"],
        ["site.yaml:25", "feeds[0].period"],
    ]
    # What refers to others is looked at in items that are right in themselves.
    file = site.write(
        ("kid: v1", "kid: ''"),
        ("    health_authorities: [org.example.north]", "    health_authorities: [org.example.south]"),
        ("[north-1]", "[north-1, north-2]"),
    )
    assert [found.split(": ")[1] for found in messages(file)] == [
        "health_authorities[0].keys[0].kid",
        "apps[0].health_authorities[0]",
        "feeds[0].signing_keys[1]",
    ]


def test_names_are_declared_once(site):
    text = site.write().read_text()
    head, authorities, apps, signing_keys, feeds = (
        text[text.index(start) : text.index(end) if end else None]
        for start, end in (
            ("version", "health_"),
            ("health_", "apps"),
            ("apps", "signing"),
            ("signing", "feeds"),
            ("feeds", None),
        )
    )
    doubled = [section + section.split("\n", 1)[1] for section in (authorities, apps, signing_keys, feeds)]
    found = [line.split(": ", 1)[1] for line in messages(site.write_text(head + "".join(doubled)))]
    assert found == [
        "health_authorities[1].issuer: org.example.north is declared already, by health_authorities[0]",
        "apps[1].name: org.example.north.app is declared already, by apps[0]",
        "signing_keys[1].name: north-1 is declared already, by signing_keys[0]",
        "signing_keys[1].key_version: 310 v1 is declared already, by signing_keys[0]",
        "feeds[1].name: north is declared already, by feeds[0]",
        "feeds[1].root: north is declared already, by feeds[0]",
    ]


def test_a_kid_is_declared_once(site):
    key = "      - kid: v1\n        public_key_file: north.pem\n        valid_from: 2026-01-01T00:00:00Z\n"
    assert message(site.write((key, key + key))) == ("site.yaml:3: health_authorities[0]: declares the key 'v1' twice")


DAILY = """\
  - name: daily
    root: daily
    output_region: "NO"
    period: 24h
    from: 2026-03-01T00:00:00Z
    signing_keys: [north-1]
"""


@pytest.mark.parametrize(
    ("period", "daily", "allowed"),
    [
        ("4h", "", True),
        ("3h", DAILY, True),
        ("1h", DAILY, True),
        ("30m", DAILY, False),
        ("1h", "", False),
        ("1h", DAILY.replace('"NO"', "SE"), False),
        ("1h", DAILY.replace("24h", "24h\n    travelers: include"), False),
        ("1h", DAILY.replace("24h", "24h\n    exclude_regions: [SE]"), False),
        ("1h", DAILY.replace("24h", "24h\n    input_regions: [SE]"), False),
        ("1h", DAILY.replace("24h", "24h\n    development: true"), False),
        ("1h", DAILY.replace("24h", "24h\n    thru: 2026-06-01T00:00:00Z"), False),
        ("1h\n    thru: 2026-06-02T00:00:00Z", DAILY.replace("24h", "24h\n    thru: 2026-06-01T00:00:00Z"), False),
        ("1h\n    thru: 2026-06-01T00:00:00Z", DAILY.replace("24h", "24h\n    thru: 2026-06-01T00:00:00Z"), True),
        ("1h\n    thru: 2026-06-01T00:00:00Z", DAILY, True),
        ("1m\n    development: true", "", True),
    ],
)
def test_how_often_phones_are_asked(site, period, daily, allowed):
    """B11."""
    text = site.write(("period: 4h", f"period: {period}")).read_text() + daily
    file = site.write_text(text)
    if allowed:
        assert load(file).declared.feeds[0].development == ("development" in period)
    else:
        assert message(file).startswith("site.yaml:24: feeds[0].period: must be 4h or more; ")


def test_only_public_p256_keys_are_taken(site):
    place = "site.yaml:8: health_authorities[0].keys[0].public_key_file: "
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (site.folder / "north.pem").write_text(pem)
    found = message(site.write())
    assert found.startswith(f"{place}holds a private key")
    assert pem.splitlines()[1] not in found
    site.new_key("north.pem", ec.SECP384R1())
    assert message(site.write()).startswith(f"{place}must be a key on the curve P-256")
    other = rsa.generate_private_key(65537, 2048).public_key()
    (site.folder / "north.pem").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert message(site.write()).startswith(f"{place}must be a key on the curve P-256")
    (site.folder / "north.pem").write_bytes(b"\xff" * 100_000)
    assert message(site.write()).startswith(f"{place}must be a public key in PEM")


def test_a_key_stands_in_one_place(site):
    pem = json.dumps(site.new_key("north.pem"))
    file = site.write(("public_key_file: north.pem", f"public_key_file: north.pem\n        public_key: {pem}"))
    assert message(file) == "site.yaml:7: health_authorities[0].keys[0]: needs either public_key or public_key_file"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "site.yaml:1: the document is empty"),
        (b"# only a comment\n", "site.yaml:1: the document is empty"),
        (b"- a\n", "site.yaml:1: must be a mapping of names to values"),
        (b"version: 1\napps: \xff\n", "site.yaml:2: this is not UTF-8"),
        (b"a: " + b"[" * 5000, "site.yaml: the document is nested too deeply"),
        (b'a: "\\UFFFFFFFF"', "site.yaml: this is not YAML: an escape that names no character"),
        (b"#" * 1_000_001, "site.yaml is larger than 1000000 bytes"),
        (b"version: 1\napps: 5\n", "site.yaml:2: apps: must be a list"),
        (b"version: 1\napps:\n  - 5\n", "site.yaml:3: apps[0]: must be a mapping of names to values"),
        (b"version: 1\napps: &a [*a]\n", "site.yaml:2: apps[0]: aliases"),
    ],
)
def test_what_is_no_document_is_refused(site, content, expected):
    site.file.write_bytes(content)
    assert message(site.file).startswith(expected)


def test_a_missing_document_is_refused(site):
    assert message(site.folder / "none.yaml") == "none.yaml cannot be read: No such file or directory"


def test_an_empty_configuration_is_one(site):
    declared = load(site.write_text("version: 1\n")).declared
    assert (declared.health_authorities, declared.apps, declared.signing_keys, declared.feeds) == ((), (), (), ())


def test_retention_is_14_days_unless_a_shorter_time_is_declared(site):
    assert load(site.write()).declared.retention.days == 14
    for days in (14, 10):
        assert load(site.write(("version: 1", f"version: 1\nretention: {days}d"))).declared.retention.days == days


def test_export_scenario_30_less_than_ten_days_need_a_named_override(site):
    """As the reference does with CLEANUP_TTL (export.md 2.13)."""
    short = ("version: 1", "version: 1\nretention: 9d")
    assert message(site.write(short)) == (
        "site.yaml:2: retention: is below 10d, and phones that look rarely would miss files: if that is meant, set"
        " retention_below_ten_days: true"
    )
    override = (short[0], f"{short[1]}\nretention_below_ten_days: true")
    assert load(site.write(override)).declared.retention.days == 9


@pytest.mark.parametrize("written", ["15d", "0d", "14", '"14"', "336h", "-1d", "14 d", "null", "100d"])
def test_retention_is_a_number_of_days_and_never_more_than_14(site, written):
    found = message(site.write(("version: 1", f"version: 1\nretention: {written}")))
    assert found == "site.yaml:2: retention: must be a number of days, 14d at most"
