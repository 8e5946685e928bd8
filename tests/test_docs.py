"""What the documents name exists: files, headings, targets of make, commands, variables, words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from deploy.local.ports import VARIABLES
from keyserver import cli, settings

PROJECT = Path(__file__).parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "tests").rglob("*.md")])
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(PROJECT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:")  # https:, mailto:
OURS = re.compile(r"(\.ci|api|dags|deploy|docs|include|plugins|sql|tests)/[\w./-]+")


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def code(document: Path) -> list[str]:
    """Each line of a block and each inline piece."""
    text = document.read_text(encoding="utf-8")
    return [line for _, block in FENCE.findall(text) for line in block.splitlines()] + INLINE.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """The headings of a document as a code host names them in links."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(document))}


def named(document: Path, command: str) -> set[str]:
    """What follows a command in code: all words, up to the first that is an option, an argument or the end."""
    found = re.findall(rf"(?:^|[\s`/]){command}((?: [a-z][a-z-]*)+)", "\n".join(code(document)), re.MULTILINE)
    return {words.strip() for words in found}


def test_documents_are_found():
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} <= {document.name for document in DOCUMENTS}
    assert {"glossary.md", "quirks.md", "0001-layout.md"} <= {document.name for document in DOCUMENTS}


@EACH
def test_links_lead_somewhere(document):
    dead = []
    for link in LINK.findall(prose(document)):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@EACH
def test_paths_exist(document):
    """A piece of code that is a path from the root; one with a placeholder (<what>, NNNN, *) is none."""
    paths = [piece for piece in code(document) if OURS.fullmatch(piece) and "NNNN" not in piece]
    assert [path for path in paths if not (PROJECT / path).exists()] == []


@EACH
def test_targets_of_make_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {words.split()[0] for words in named(document, "make")} - targets == set()


@EACH
def test_commands_exist(document):
    """`keyserver GROUP COMMAND`, a group alone, or a command that stands in no group."""
    groups = typer.main.get_command(cli.app).commands
    known = {f"{group} {name}" for group, members in groups.items() for name in getattr(members, "commands", ())}
    known |= {*groups}
    asked = {" ".join(words.split()[:2]) for words in named(document, "keyserver")}
    assert asked - known == set()


@EACH
def test_variables_are_known(document):
    known = {*settings._URLS, *settings._INTEGERS, *settings._TEXTS, *settings._URLS.values(), *VARIABLES.values()}
    known |= {*settings._FLAGS, *settings._BASE64, "KEYSERVER_HOME"}
    assert set(re.findall(r"KEYSERVER_\w+", document.read_text(encoding="utf-8"))) - known == set()


@EACH
def test_code_names_no_path_of_one_machine(document):
    """Absolute paths belong to somebody's machine; what starts with a slash here is a path of the API."""
    absolute = [piece for piece in code(document) if re.match(r"(~|/(home|root|work|Users|tmp|opt)\b)", piece)]
    assert absolute == []


# The glossary

GLOSSARY = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_each_word_stands_once_and_in_order():
    words = re.findall(r"^- \*\*(.+?)\*\*:", GLOSSARY, re.MULTILINE)
    assert len(words) == GLOSSARY.count("\n- ")
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)


def test_every_table_and_every_status_is_explained():
    bodies = "\n".join(path.read_text() for path in (PROJECT / "sql" / "migrations" / "versions").glob("*.sql"))
    names = set(re.findall(r"CREATE TABLE (\w+)", bodies))
    for values in re.findall(r"\bstatus\s+text NOT NULL[^(]*\(status IN \(([^)]*)\)", bodies):
        names |= set(re.findall(r"'([a-z]+)'", values))
    assert {"batch", "planned", "staged", "held"} <= names
    assert names - set(INLINE.findall(GLOSSARY)) == set()


# The quirks of the reference

QUIRKS = (PROJECT / "docs" / "quirks.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in QUIRKS.splitlines() if re.match(r"\| (?!Where )", line)]
DECIDED = re.compile(r"(mended|kept|changed|left out|dropped)\b")


def test_each_quirk_has_a_place_a_decision_and_a_test_that_exists():
    assert len(ROWS) > 80
    assert [row for row in ROWS if len(row) != 4 or not all(row)] == []
    assert [ours for _, _, ours, _ in ROWS if not DECIDED.match(ours)] == []
    missing = []
    for where, _, ours, tests in ROWS:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
        if not named:
            assert (where, tests, ours[:7]) == (where, "none", "dropped")
        for file, function in named:
            path = PROJECT / "tests" / file
            if not path.is_file() or f"\ndef {function}(" not in path.read_text(encoding="utf-8"):
                missing.append(f"{file}::{function}")
    assert missing == []


def test_every_numbered_quirk_is_decided():
    """Publish.md, section 11."""
    numbers = {int(number) for where, *_ in ROWS for number in re.findall(r"\bquirk (\d+)", where)}
    assert numbers == set(range(1, 19))


def test_every_defect_of_the_reference_s_export_is_decided():
    """Export.md, section 4; its numbers are not those of our rules."""
    numbers = {int(number) for where, *_ in ROWS for number in re.findall(r"\bexport B(\d+)", where)}
    assert numbers == set(range(1, 31))
