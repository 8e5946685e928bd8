"""Publish.md 4.5 and scenarios 91 to 96, against a real HTTPS server with a CA of its own."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from keyserver.errors import FormatError, RemoteError, VerificationError
from keyserver.keys.jwks import Imported, import_all, parse
from keyserver.protocol import signature
from keyserver.protocol.certificate import AuthorityKey
from keyserver.providers import https
from keyserver.store import authorities
from tests.httpserver import https_server

HOUR = timedelta(hours=1)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
PEMS = [signature.public_key_pem(key.public_key()) for key in KEYS]


def jwk(key, kid: str | None = None, **members: object) -> dict[str, object]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else ECAlgorithm
    return {**algorithm.to_jwk(key, as_dict=True), **({"kid": kid} if kid else {}), **members}


FIRST, SECOND, THIRD = (jwk(key.public_key(), f"k{n}") for n, key in enumerate(KEYS, 1))


def document(*keys: object) -> bytes:
    return json.dumps(keys).encode()


# What a set says


@pytest.mark.parametrize("wrap", [lambda keys: keys, lambda keys: {"keys": keys}, lambda keys: {"keys": keys, "x": 1}])
def test_a_bare_array_and_the_standards_set_are_read(wrap):
    assert parse(json.dumps(wrap([FIRST, SECOND])).encode()) == {"k1": PEMS[0], "k2": PEMS[1]}
    assert parse(json.dumps(wrap([])).encode()) == {}


def test_members_that_say_the_same_or_nothing_are_taken():
    assert parse(document({**FIRST, "use": "sig", "alg": "ES256", "x5t": "other", "key_ops": ["verify"]})) == {
        "k1": PEMS[0]
    }


def test_keys_of_another_kind_or_for_another_use_are_left_out():
    others = [
        jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), "p384"),
        jwk(rsa.generate_private_key(65537, 2048).public_key(), "rsa"),
        {"kty": "oct", "k": "AAAA", "kid": "symmetric", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "ed"},
        {**SECOND, "use": "enc"},
        {**SECOND, "alg": "ES384"},
        {**SECOND, "alg": "none"},
        {**SECOND, "kty": ["EC"]},
        {},
    ]
    assert parse(document(FIRST, *others)) == {"k1": PEMS[0]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b" \n", "no JSON"),
        (b"\xff", "no JSON"),
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"null", "neither"),
        (b'"x"', "neither"),
        (b"{}", "neither"),
        (b'{"keys": {}}', "neither"),
        (b'{"keys": [1]}', "neither"),
        (document(*[FIRST] * 101), "more than 100"),
        (document({**FIRST, "kid": None}), "no kid"),
        (document({**FIRST, "kid": ""}), "no kid"),
        (document({**FIRST, "kid": 1}), "no kid"),
        (document({**FIRST, "kid": "x" * 201}), "no kid"),
        (document({**FIRST, "kid": "a\0"}), "no kid"),
        (document({**FIRST, "kid": "\ud800"}), "no kid"),
        (document(FIRST, {**SECOND, "kid": "k1"}), "'k1' twice"),
        (document({**FIRST, "d": "AAAA"}), "private key of 'k1'"),
        (document(jwk(KEYS[0], "k1")), "private key of 'k1'"),
        (document({**FIRST, "x": None}), "'k1' of the set is no point"),
        (document({**FIRST, "x": "!"}), "'k1' of the set is no point"),
        (document({**FIRST, "x": "\u00e4"}), "'k1' of the set is no point"),
        (document({**FIRST, "x": FIRST["y"]}), "'k1' of the set is no point"),
        (document({**FIRST, "y": ""}), "'k1' of the set is no point"),
        (document({**FIRST, "x": "AAAA" + FIRST["x"]}), "'k1' of the set is no point"),
    ],
)
def test_what_is_no_set_of_keys_is_refused(body, message):
    with pytest.raises(FormatError, match=message):
        parse(body)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*FIRST, "keys", "use", "alg", "d"]), inner)
            | st.fixed_dictionaries({**dict.fromkeys(FIRST, inner), "kty": st.just("EC"), "crv": st.just("P-256")})
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_is_a_set_or_refused(body):
    try:
        assert all(pem.startswith("-----BEGIN PUBLIC KEY") for pem in parse(body).values())
    except FormatError as error:
        assert str(error)  # noqa: PT017 - either way is right


def test_scenario_93_the_same_key_is_the_same_however_its_pem_is_broken(published):
    published.declare("k1", "\r\n" + PEMS[0].replace("\n", "\r\n"))
    assert published(FIRST) == Imported(0, 0)


# What becomes of the stored keys


class Published:
    """One authority that publishes its keys at the tests' server."""

    def __init__(self, server, runtime, test_database) -> None:
        self.server, self.runtime, self.database = server, runtime, test_database
        self.fetch = partial(https.fetch, allowed=lambda _: True, trust=server.trust)

    def authority(self, name: str, *keys: object) -> None:
        url = self.server.serve(f"/{name}", document(*keys))
        with self.database.admin() as connection:
            connection.execute(
                "INSERT INTO health_authority (issuer, audience, name, jwks_uri) VALUES (%s, 'aud', 'name', %s)",
                [name, url],
            )

    def declare(self, kid: str, pem: str, valid_from: timedelta = -HOUR, valid_thru: timedelta | None = None) -> None:
        now = self.database.now()
        with self.database.admin() as connection:
            connection.execute(
                "INSERT INTO health_authority_key (health_authority_id, kid, public_key, valid_from, valid_thru)"
                " SELECT id, %s, %s, %s, %s FROM health_authority WHERE issuer = 'first'",
                [kid, pem, now + valid_from, None if valid_thru is None else now + valid_thru],
            )

    def __call__(self, *keys: object) -> Imported:
        """Publish these keys and import them."""
        self.server.serve("/first", document(*keys))
        return import_all(self.runtime, self.fetch)

    def stored(self, issuer: str = "first") -> dict[str, AuthorityKey]:
        with self.database.admin() as connection:
            rows = connection.execute(
                "SELECT kid, public_key, valid_from, valid_thru FROM health_authority_key"
                " JOIN health_authority ON id = health_authority_id WHERE issuer = %s",
                [issuer],
            )
            return {row[0]: AuthorityKey(*row) for row in rows}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with https_server(tmp_path_factory.mktemp("https")) as running:
        yield running


@pytest.fixture
def published(server, runtime, test_database) -> Published:
    published = Published(server, runtime, test_database)
    published.authority("first")
    return published


def test_scenario_95_a_new_key_is_stored_from_now_on_and_then_known(published, events):
    now = published.database.now()
    assert published(FIRST) == Imported(1, 0)
    assert published.stored() == {"k1": AuthorityKey("k1", PEMS[0], now, None)}
    assert published(FIRST) == Imported(0, 0)
    assert published(FIRST, SECOND) == Imported(1, 0)
    assert set(published.stored()) == {"k1", "k2"}
    assert [(event["kind"], event["subject"]["kid"]) for event in events()] == [
        ("health_authority_key.added", "k1"),
        ("health_authority_key.added", "k2"),
    ]


def test_an_imported_key_is_what_uploads_are_checked_with(published):
    published(FIRST)
    with published.database.admin() as connection:
        connection.execute("INSERT INTO authorised_app (name, regions) VALUES ('app', '{XX}')")
        connection.execute("INSERT INTO authorised_app_authority SELECT 'app', id FROM health_authority")
    with published.database.database("api").connection() as connection:
        (authority,) = authorities.upload_configuration(connection)["app"].authorities
    assert [(key.kid, key.public_key) for key in authority.keys] == [("k1", PEMS[0])]


def test_scenario_95_a_key_that_is_replaced_is_revoked_once(published, events):
    published(FIRST)
    then = published.database.pass_time(HOUR)
    assert published(SECOND) == Imported(1, 1)
    published.database.pass_time(HOUR)
    assert published(SECOND) == Imported(0, 0)
    stored = published.stored()
    assert (stored["k1"].valid_thru, stored["k2"].valid_thru) == (then, None)
    assert [event["kind"] for event in events()] == [
        "health_authority_key.added",
        "health_authority_key.revoked",
        "health_authority_key.added",
    ]


def test_scenario_95_an_empty_list_revokes_all_and_an_empty_body_nothing(published):
    published(FIRST, SECOND)
    published.server.serve("/first", b"")
    with pytest.raises(VerificationError, match="no JSON"):
        import_all(published.runtime, published.fetch)
    assert {key.valid_thru for key in published.stored().values()} == {None}
    assert published() == Imported(0, 2)


def test_scenario_92_a_key_of_the_future_is_revoked_at_its_begin(published):
    published.declare("k3", PEMS[2], valid_from=HOUR)
    assert published() == Imported(0, 1)
    key = published.stored()["k3"]
    assert key.valid_thru == key.valid_from == published.database.now() + HOUR
    assert published() == Imported(0, 0)


def test_a_key_that_was_to_end_later_is_revoked_now_and_an_expired_one_keeps_its_end(published):
    published.declare("k1", PEMS[0], valid_thru=HOUR)
    published.declare("k2", PEMS[1], valid_from=-2 * HOUR, valid_thru=-HOUR)
    assert published() == Imported(0, 1)
    now = published.database.now()
    assert {kid: key.valid_thru for kid, key in published.stored().items()} == {"k1": now, "k2": now - HOUR}


@pytest.mark.parametrize("kid", ["k1", "another"])
def test_a_revoked_key_that_is_listed_again_stays_revoked_under_any_kid(published, kid, caplog):
    published(FIRST)
    published()
    published.database.pass_time(HOUR)
    assert published({**FIRST, "kid": kid}) == Imported(0, 0)
    assert set(published.stored()) == {"k1"}
    assert published.stored()["k1"].valid_thru is not None
    assert f"first lists its key '{kid}', which has ended here" in caplog.text


def test_a_key_under_a_new_kid_is_added_and_the_old_kid_revoked(published):
    published(FIRST)
    assert published({**FIRST, "kid": "new"}) == Imported(1, 1)
    assert published.stored()["new"].valid_thru is None
    published.database.pass_time(HOUR)
    assert published({**FIRST, "kid": "new"}) == Imported(0, 0)


def test_a_kid_with_another_key_is_an_error_that_names_it_and_changes_nothing(published, events):
    published(FIRST)
    with pytest.raises(VerificationError, match="first: the kid 'k1' is listed with another key"):
        published({**SECOND, "kid": "k1"}, THIRD)
    assert {kid: key.valid_thru for kid, key in published.stored().items()} == {"k1": None}
    assert len(events()) == 1


def test_scenario_96_one_that_fails_does_not_stop_the_others(published):
    published.authority("second", SECOND)
    published.authority("third", THIRD)
    published.server.serve("/second", b"oops", "404 Not Found")
    with pytest.raises(VerificationError, match=r"the keys of 1 of 3 authorities were not imported: second: .* 404"):
        published(FIRST)
    assert [set(published.stored(issuer)) for issuer in ("first", "second", "third")] == [{"k1"}, set(), {"k3"}]


def test_scenario_96_all_succeed(published):
    published.authority("second", SECOND)
    assert published(FIRST) == Imported(2, 0)


def test_what_a_retry_can_heal_is_retried(published):
    published.authority("second", SECOND)
    published.server.serve("/second", b"", "503 Busy")
    with pytest.raises(RemoteError, match="second"):
        published(FIRST)
    assert set(published.stored()) == {"k1"}


def test_scenario_94_an_authority_that_publishes_nowhere_keeps_its_keys(published):
    published.declare("k1", PEMS[0])
    with published.database.admin() as connection:
        connection.execute("UPDATE health_authority SET jwks_uri = NULL")
    assert published(SECOND) == Imported(0, 0)
    assert published.stored()["k1"].valid_thru is None


def test_keys_fetched_from_where_they_are_not_published_any_more_are_not_stored(published):
    def moved_meanwhile(url: str) -> bytes:
        with published.database.admin() as connection:
            connection.execute("UPDATE health_authority SET jwks_uri = 'https://elsewhere.example/'")
        return document(FIRST)

    assert import_all(published.runtime, moved_meanwhile) == Imported(0, 0)
    assert published.stored() == {}


def test_by_default_no_address_inside_is_asked(published):
    asked = len(published.server.requests)
    with pytest.raises(VerificationError, match="public internet"):
        import_all(published.runtime)
    assert len(published.server.requests) == asked


def test_no_key_and_no_address_is_logged_or_told(published, caplog):
    with pytest.raises(VerificationError) as caught:
        published({**SECOND, "d": "c2VjcmV0"})
    told = caplog.text + str(caught.value)
    assert not any(word in told for word in ("c2VjcmV0", str(SECOND["x"]), "localhost", "127.0.0.1"))


def test_scenario_93_a_stored_key_of_rsa_is_an_error_of_its_authority_alone(published):
    key = rsa.generate_private_key(65537, 2048).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    published.declare("rsa", pem, valid_thru=timedelta(0))
    published.authority("second", SECOND)
    with pytest.raises(VerificationError, match="1 of 2"):
        published(FIRST)
    assert set(published.stored("second")) == {"k2"}
