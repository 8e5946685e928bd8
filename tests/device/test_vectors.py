"""Every flaw of `tests/vectors/exportfiles`, each in a file of its own, and every reader of files in this package."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from keyserver.device import exportreader, filecheck
from keyserver.device.exportreader import MAX_ENTRY_SIZE
from keyserver.device.phone import FileCache, Phone
from keyserver.device.settings import load_trusted_key
from keyserver.errors import FormatError, KeyserverError, VerificationError
from tests.vectors import export_files
from tests.vectors.export_files import END, FOLDER

PUBLIC_KEY = load_trusted_key(FOLDER / "public.pem")
TRUSTED = {("242", "v1"): PUBLIC_KEY}
NOW = datetime.fromtimestamp(END, UTC)


def vectors(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (FOLDER / folder).glob("*.zip"))


BAD = vectors("container", "export", "signatures")
GOOD = vectors("good", "index")


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(scope="module")
def web(serve) -> str:
    """Serves the folder; for each file there is an index that names it alone."""

    async def index(request: Request) -> Response:
        return PlainTextResponse(request.path_params["name"])

    return serve(Starlette(routes=[Route("/index/{folder}/{name}", index), Mount("/", StaticFiles(directory=FOLDER))]))


def check(web: str, path: Path, cache: FileCache | None = None) -> Phone:
    phone = Phone(TRUSTED)
    folder = path.parent.name
    phone.check(f"{web}/index/{folder}/{path.name}", f"{web}/{folder}/", NOW, cache=cache)
    return phone


def test_the_script_makes_just_these_files():
    made = export_files.files()
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*")} == set(made)
    assert set(made) >= export_files.SQUEEZED
    for name, content in made.items():
        if name not in export_files.SQUEEZED:
            assert (FOLDER / name).read_bytes() == content, name


@pytest.mark.parametrize("path", GOOD, ids=label)
def test_a_good_file_is_accepted(web, path):
    file = exportreader.verify(path.read_bytes(), TRUSTED)
    assert exportreader.read(path.read_bytes()) == file
    assert [verdict.problem for verdict in filecheck.check([path], PUBLIC_KEY)] == [None]
    assert [call.lines for call in check(web, path).calls] == [(path.name,)]


@pytest.mark.parametrize("path", BAD, ids=label)
def test_a_flawed_file_is_refused_by_every_reader(web, path):
    content = path.read_bytes()
    with pytest.raises((FormatError, VerificationError)) as refusal:
        exportreader.verify(content, TRUSTED)
    for cache in (None, FileCache()):
        with pytest.raises((FormatError, VerificationError)):
            check(web, path, cache)
    (verdict,) = filecheck.check([path], PUBLIC_KEY, ("242", "v1"))
    assert verdict.facts is None
    assert verdict.problem == str(refusal.value)
    if path.stem != "only-an-unknown-key":  # the right key under another name
        with pytest.raises((FormatError, VerificationError)):
            exportreader.verify_by(content, PUBLIC_KEY)


def test_two_files_of_equal_metadata_are_refused_together():
    verdicts = list(filecheck.check(vectors("index"), PUBLIC_KEY))
    assert [verdict.facts is None for verdict in verdicts] == [False, True]
    assert "the same span" in verdicts[1].problem


@pytest.mark.parametrize("path", BAD, ids=label)
def test_refusing_takes_no_more_room_than_an_entry_may_have(path):
    content = path.read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises((FormatError, VerificationError)):
            exportreader.verify(content, TRUSTED)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = 2.5 * MAX_ENTRY_SIZE if path.stem == "a-zip-bomb" else 1_000_000
    assert most < bound


SEEDS = [path.read_bytes() for path in (*GOOD, *BAD) if path.stat().st_size < 5_000]


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_bytes_changed_anywhere_end_in_our_errors_or_change_nothing(drawn):
    """From every vector: bytes are overwritten, cut out, doubled, or taken from another vector."""
    seed = drawn.draw(st.sampled_from(SEEDS))
    body = bytearray(seed)
    for _ in range(drawn.draw(st.integers(1, 5))):
        at = drawn.draw(st.integers(0, len(body)))
        length = drawn.draw(st.integers(0, 12))
        other = drawn.draw(st.sampled_from(SEEDS))
        start = drawn.draw(st.integers(0, len(other)))
        piece = drawn.draw(st.sampled_from([other[start : start + 12], b"\xff" * 8, b"\0" * 8, body[at : at + length]]))
        body[at : at + length] = piece if drawn.draw(st.booleans()) else drawn.draw(st.binary(max_size=8))
    for read in (lambda: exportreader.verify(bytes(body), TRUSTED), lambda: exportreader.read(bytes(body))):
        try:
            file = read()
        except KeyserverError:
            continue
        assert all(len(key.key) == 16 and 1 <= key.rolling_period <= 144 for key in (*file.keys, *file.revised_keys))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_entry_changed_in_a_sound_zip_ends_in_our_errors(drawn):
    """The zip is made anew around it, so that the bytes really come to be parsed."""
    contents = [bytearray(export_files.export()), bytearray(export_files.signature(export_files.export()))]
    body = drawn.draw(st.sampled_from(contents))
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(body)))
        body[at : at + drawn.draw(st.integers(0, 6))] = drawn.draw(
            st.one_of(st.binary(max_size=6), st.just(b"\xff" * 10), st.just(export_files.key(9)))
        )
    zipped = export_files.packed(*map(bytes, contents))
    try:
        file = exportreader.verify(zipped, TRUSTED)
    except KeyserverError:
        return
    assert file.export_sha256 == exportreader.read((FOLDER / "good" / "ordinary.zip").read_bytes()).export_sha256
