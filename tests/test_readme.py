"""The README's "Check it yourself" is run as it stands there, on files made here; its table of ports is the code's."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local.ports import VARIABLES, Ports
from keyserver.device import exportreader
from keyserver.protocol.exportfile import Header, KeyRun, Metadata, SignatureInfo, encode, encode_signatures, pack
from keyserver.providers.signers import generate, open_signer

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
START = datetime(2026, 3, 2, 8, tzinfo=UTC)
DAY = int(START.timestamp()) // 86400 * 144 - 144  # yesterday, in intervals


def check_it_yourself() -> str:
    """All its blocks as one script."""
    (section,) = re.findall(r"^## Check it yourself\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    return "\n".join(blocks)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what `make demo` leaves behind, as far as the script looks at it."""
    (tmp_path / ".keyserver/demo/blobs/public/north").mkdir(parents=True)
    (tmp_path / ".keyserver/demo/development").mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    signer = (tmp_path / "signer").as_uri()
    (tmp_path / ".keyserver/demo/development/north-export.pem").write_text(generate(signer, "north"))
    generate(signer, "newer")
    return tmp_path


def release(
    project: Path, keys: int, versions: tuple[str, ...] = ("v1",), spoil: Callable[[bytes], bytes] = bytes
) -> Path:
    """Release a file of some keys, signed by `north` (version v1) and whoever else; ``spoil`` it after signing."""
    infos = [SignatureInfo("901", version) for version in versions]
    made = b"".join(sorted(hashlib.sha256(bytes([n, keys])).digest()[:16] for n in range(keys)))
    header = Header(START, START + timedelta(minutes=1), "XN", tuple(infos))
    export_bin = encode(header, [KeyRun(Metadata(1, 2, 0, DAY, 144), made)], [])
    signer = open_signer((project / "signer").as_uri())
    digest = hashlib.sha256(export_bin).digest()
    signatures = [signer.sign("north" if version == "v1" else "newer", digest) for version in versions]
    zipped = pack(spoil(export_bin), encode_signatures(infos, signatures))
    name = (
        f"{int(START.timestamp())}-{int(START.timestamp()) + 60}-{keys:05}-{hashlib.sha256(zipped).hexdigest()[:8]}.zip"
    )
    path = project / ".keyserver/demo/blobs/public/north" / name
    path.write_bytes(zipped)
    return path


def run(project: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", check_it_yourself()],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("versions", [("v1",), ("v1", "v2")], ids=["one signature", "the first of two"])
def test_a_released_file_verifies(project, versions):
    path = release(project, 5, versions)
    result = run(project)
    assert result.returncode == 0, result.stderr
    assert hashlib.sha256(path.read_bytes()).hexdigest() in result.stdout
    assert "Verified OK" in result.stdout
    assert "5 keys" in result.stdout


@pytest.mark.parametrize("length", [70, 71, 72])
def test_signatures_of_every_length_are_cut_out_whole(project, length):
    """An integer of a signature has 32 bytes, or 33 with the sign; shorter ones are rare."""
    for keys in itertools.count(1):
        path = release(project, keys)
        (signature,) = exportreader.read(path.read_bytes()).signatures
        if len(signature) == length:
            break
        path.unlink()
    assert "Verified OK" in run(project).stdout
    assert (project / ".keyserver/check/signature.der").read_bytes() == signature


def test_a_changed_file_does_not(project):
    release(project, 5, spoil=lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    result = run(project)
    assert result.returncode != 0
    assert "Verified OK" not in result.stdout


def test_another_key_does_not(project):
    release(project, 5)
    other = generate((project / "signer").as_uri(), "other")
    (project / ".keyserver/demo/development/north-export.pem").write_text(other)
    result = run(project)
    assert result.returncode != 0
    assert "Verified OK" not in result.stdout


def test_the_ports_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `(KEYSERVER_\w+_PORT)` \| (\d+) \|", README, re.MULTILINE))
    assert rows == {VARIABLES[name]: str(port) for name, port in asdict(Ports()).items()}
