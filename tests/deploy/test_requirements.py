"""requirements.txt is what `make lock` made of requirements.in: asked without a network, so that lint stays fast."""

import re
from importlib.metadata import version
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]


def asked() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (PROJECT / "requirements.in").read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def locked() -> dict[str, tuple[str, bool]]:
    """Of each locked distribution its version for this Python, and whether requirements.in asks for it."""
    text = (PROJECT / "requirements.txt").read_text()
    blocks = re.findall(r"^([a-z0-9.-]+)==(\S+)(?: ; (.*?))?( \\(?:\n[ ].*)*)", text, re.MULTILINE)
    return {
        name: (pinned, "-r requirements.in" in rest)
        for name, pinned, marker, rest in blocks
        if not marker or Marker(marker).evaluate()
    }


def test_every_requirement_is_locked_at_a_version_it_allows() -> None:
    pins = locked()
    assert len(pins) > 100
    refused = [
        str(requirement)
        for name, requirement in asked().items()
        if name not in pins or not requirement.specifier.contains(pins[name][0], prereleases=True)
    ]
    assert refused == []


def test_nothing_is_locked_for_a_requirement_that_is_gone() -> None:
    assert {name for name, (_, direct) in locked().items() if direct} == asked().keys()


def test_the_environment_is_the_locked_one() -> None:
    pins = locked()
    assert {name: version(name) for name in asked()} == {name: pins[name][0] for name in asked()}


def test_every_requirement_has_its_reason() -> None:
    lines = (PROJECT / "requirements.in").read_text().splitlines()
    bare = [line for line in lines if line and "#" not in line and not line.startswith(("types-", "pandas-stubs"))]
    assert bare == []
