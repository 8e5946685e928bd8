"""The commands of oversight, in processes of their own; and that no key is ever printed or logged."""

from __future__ import annotations

import base64
import json
import logging
import os
import pty
import subprocess
import sys

import pytest

from keyserver.oversight.explain import explain_key, parse_key
from tests.test_cli import PROGRAM, ROOT, done, keyserver, refused

URL_SAFE_KEY = bytes([0xFB, 0xE0] + [0xFF] * 14)  # "-..." in the URL-safe alphabet


def forms(key: bytes) -> list[str]:
    """How a key may look in a text, its halves included."""
    texts = [key.hex(), key.hex().upper(), base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()]
    return [text[start : start + 10] for text in texts for start in (0, 8)] + [repr(key)[2:12]]


def silent_on(key: bytes, *texts: str) -> None:
    for text in texts:
        assert [form for form in forms(key) if form in text] == []


@pytest.fixture
def released(north):
    north.keys = north.add_keys(20)
    north.close_windows()
    assert north.export() == [1]
    return north


@pytest.fixture
def settings(released) -> dict[str, str]:
    return {
        "KEYSERVER_PIPELINE_DATABASE_URL": released.database.url("keyserver_pipeline"),
        "KEYSERVER_BLOBS_URL": f"file://{released.folder}/blobs",
    }


def explained_by_pipe(settings, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, "explain", "-", *arguments],
        env={**plain, "PYTHONPATH": str(ROOT / "include"), **settings},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_key_is_explained_and_never_printed(released, settings):
    key = released.keys[0]
    for text in (key.hex(), base64.b64encode(key).decode()):
        result = keyserver("explain", text, **settings)
        piped = explained_by_pipe(settings, text + "\n")
        assert done(result) == done(piped)
        assert "Feed north: batch 1 was released" in result.stdout
        silent_on(key, result.stdout, result.stderr, piped.stderr)
        assert result.stderr == ""


def test_a_key_is_explained_as_json(released, settings):
    key = released.keys[0]
    result = explained_by_pipe(settings, key.hex(), "--json")
    answer = json.loads(done(result))
    (feed,) = answer["feeds"]
    (reason,) = feed["reasons"]
    ((name,),) = released.sql("SELECT name FROM file")
    assert (answer["stored"], feed["belongs"], reason["code"], reason["file"]) == (True, True, "released", name)
    silent_on(key, result.stdout, result.stderr)


def test_a_terminal_is_asked_for_the_key_and_does_not_show_it(released, settings):
    key = released.keys[0]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, "explain", "-"],
        env={**plain, "PYTHONPATH": str(ROOT / "include"), **settings},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        shown = b""
        while b"Key: " not in shown:
            shown += os.read(master, 1000)
        os.write(master, key.hex().encode() + b"\n")
        try:
            while more := os.read(master, 1000):
                shown += more
        except OSError:  # the other end is closed
            pass
        assert process.wait(30) == 0
    os.close(master)
    text = shown.decode().replace("\r", "").replace("\n", "")
    assert "batch 1 was released" in text
    silent_on(key, text)


@pytest.mark.parametrize(
    "arguments",
    [
        [URL_SAFE_KEY.hex()],
        [base64.urlsafe_b64encode(URL_SAFE_KEY).decode()],
        [URL_SAFE_KEY.hex() + "00"],
        [URL_SAFE_KEY.hex()[:16], URL_SAFE_KEY.hex()[16:]],
        ["--" + base64.urlsafe_b64encode(URL_SAFE_KEY).decode()],
        [URL_SAFE_KEY.hex(), "--window", "2026-03-02T10:00Z"],
        ["--file", "north/none.zip", URL_SAFE_KEY.hex()],
    ],
)
def test_no_key_is_repeated_whatever_is_typed(settings, arguments):
    result = keyserver("explain", *arguments, **settings)
    assert result.returncode in (0, 1)
    assert "Traceback" not in result.stderr
    silent_on(URL_SAFE_KEY, result.stdout, result.stderr)


def test_nothing_is_logged_of_a_key(released, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    for key in (released.keys[0], bytes(range(16))):
        explain_key(released.runtime(), parse_key(key.hex()))
        printed = capsys.readouterr()
        silent_on(key, caplog.text, printed.out, printed.err)


def test_an_error_of_the_database_does_not_repeat_a_key(released, settings):
    unreachable = {**settings, "KEYSERVER_PIPELINE_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    result = keyserver("explain", released.keys[0].hex(), **unreachable)
    silent_on(released.keys[0], refused(result, status=2))


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--window", "a", "--file", "b"], ["--window", "yesterday"]])
def test_what_cannot_be_explained_is_one_message(settings, arguments):
    assert refused(keyserver("explain", *arguments, **settings)).startswith("give ")


def test_a_window_and_a_file_are_explained(released, settings):
    text = done(keyserver("explain", "--window", "2026-03-02T10:00Z", **settings))
    assert "Feed north: batch 1 (released): keys: 20 released; revisions: none released." in text
    assert text == done(keyserver("explain", "--window", "2026-03-02 10:00", **settings))
    answer = json.loads(done(keyserver("explain", "--window", "2026-03-02T10:00Z", "--json", **settings)))
    assert answer["totals"]["keys"] == answer["feeds"][0]["keys"]["released"] == 20
    ((name,),) = released.sql("SELECT name FROM file")
    text = done(keyserver("explain", "--file", name, **settings))
    assert "phones can download it" in text
    assert text == done(keyserver("export", "provenance", name, **settings))


def test_provenance_is_printed_and_its_status_says_whether_it_adds_up(released, settings):
    assert json.loads(done(keyserver("export", "provenance", "1", "--json", **settings)))["batch"]["batch_id"] == 1
    assert "no batch 2" in refused(keyserver("export", "provenance", "2", **settings))
    assert "no batch" in refused(keyserver("export", "rebuild", "9" * 30, "--check", **settings))
    released.sql("UPDATE batch SET counts = '{}'")
    result = keyserver("export", "provenance", "1", **settings)
    assert (result.returncode, "went no way that is counted" in result.stdout) == (1, True)
    released.sql("DELETE FROM exposure WHERE exposure_key = %(key)s", key=released.keys[0])
    released.sql("UPDATE closed_window SET keys = 10")
    assert keyserver("explain", "--window", "2026-03-02T10:00Z", **settings).returncode == 1


def test_a_batch_is_rebuilt_and_its_status_says_whether_that_proves_it(released, settings, tmp_path):
    text = done(keyserver("export", "rebuild", "1", "--check", **settings))
    assert "export.bin is identical; the zip is identical." in text
    out = tmp_path / "out"
    assert done(keyserver("export", "rebuild", "1", "--out", out, **settings)) == f"1 files come out, in {out}.\n"
    assert len(list(out.iterdir())) == 2
    assert "give --check" in refused(keyserver("export", "rebuild", "1", **settings))
    released.sql("DELETE FROM exposure WHERE exposure_key = %(key)s", key=released.keys[0])
    result = keyserver("export", "rebuild", "1", "--check", **settings)
    assert (result.returncode, "is NOT what its rows give" in result.stdout) == (1, True)
