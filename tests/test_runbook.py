"""Every command of docs/runbook.md, run in its order against a real database, signer and store; Airflow's part between
them is played here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from keyserver.device import exportreader
from keyserver.errors import Superseded
from keyserver.export import claim, due, transparency
from keyserver.protocol.signature import load_public_key
from keyserver.providers.signers import generate
from tests.conftest import WIDTH_MINUTES
from tests.export.conftest import Authority, run_steps, serve  # noqa: F401 - a fixture

RUNBOOK = (Path(__file__).parents[1] / "docs" / "runbook.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What stands before the runbook begins.
SITE = """\
version: 1
signing_keys:
  - name: north-1
    key_id: "310"
    key_version: v1
    public_key_file: north-1.pem
    active_from: 2026-01-01T00:00:00Z
  - name: north-log
    purpose: transparency
    key_id: "310"
    key_version: log1
    public_key_file: north-log.pem
    active_from: 2026-01-01T00:00:00Z
feeds:
  - name: north
    root: north
    output_region: "NO"
    period: 4h
    from: 2026-03-01T00:00:00Z
    padding: {minimum: 0, spread: 0}
    signing_keys: [north-1]
"""


class Site:
    """An operator's folder with `site.yaml`, the environment of the commands, and what Airflow does meanwhile."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.folder = authority.folder
        self.document = yaml.safe_load(SITE)
        self.runs = 0
        for name in ("north-1", "north-log"):
            (self.folder / f"{name}.pem").write_text(generate(f"file://{self.folder}/signer", name))
        self.write()

    def write(self) -> None:
        (self.folder / "site.yaml").write_text(yaml.safe_dump(self.document, sort_keys=False))

    def declare(self, block: str) -> None:
        """Put a block into the document: what it says of an item of that name, the rest of the item stays."""
        for section, items in yaml.safe_load(block).items():
            for item in items:
                known = next((one for one in self.document[section] if one["name"] == item["name"]), None)
                if known is None:
                    self.document[section].append(item)
                else:
                    known.update(item)
        self.write()

    def run(self, script: str, **variables: str) -> str:
        """Run a block of commands as an operator's shell does; it must go well."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={
                **plain,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "KEYSERVER_PIPELINE_DATABASE_URL": self.authority.database.url("keyserver_pipeline"),
                "KEYSERVER_SIGNER_URL": f"file://{self.folder}/signer",
                "KEYSERVER_BLOBS_URL": f"file://{self.folder}/blobs",
                "KEYSERVER_PUBLIC_URL": self.authority.public_url,
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def operator(self) -> dict[str, str]:
        """What the environment of whoever sets the database up has, too."""
        return {
            "KEYSERVER_MIGRATE_DATABASE_URL": self.authority.database.url("keyserver_migrate"),
            "KEYSERVER_PIPELINE_DATABASE_URL": self.authority.database.url("keyserver_pipeline"),
            "KEYSERVER_WINDOW_MINUTES": str(WIDTH_MINUTES),
        }

    def plan_batch(self, ends_at: datetime) -> None:
        """Time passes, keys are uploaded in the last minute of a batch, and its window is closed."""
        last = ends_at - timedelta(minutes=1)
        self.authority.database.set_time(last)
        self.authority.sql(
            "UPDATE release_clock SET closed_through = %(last)s, rewritten_through = %(last)s", last=last
        )
        self.runs += 1
        self.authority.add_keys(3, seed=self.runs)
        self.authority.close_windows()

    def export(self) -> int:
        """Run what is due; give the batch that was worked on."""
        self.runs += 1
        runtime = self.authority.runtime(f"run-{self.runs}")
        (claimed,) = due.claim_due(runtime)
        try:
            run_steps(runtime, claimed.batch_id)
        except Superseded:
            pass  # as in Airflow: its log says why
        finally:
            claim.give_back(runtime)
        return claimed.batch_id

    def signed_by(self, batch_id: int) -> list[str]:
        """The versions of the keys that a phone finds in a released file, by the names of their keys."""
        ((name,),) = self.authority.sql("SELECT name FROM file WHERE batch_id = %(batch)s", batch=batch_id)
        rows = self.authority.sql("SELECT key_id, key_version, public_key FROM signing_key")
        trusted = {(key_id, version): load_public_key(pem) for key_id, version, pem in rows}
        read = exportreader.verify((self.authority.public / name).read_bytes(), trusted)
        return [info.key_version for info in read.signature_infos]


def blocks(section: str, level: int = 3) -> Iterator[tuple[str, str]]:
    """The blocks under a heading, in their order: what kind each is, and its text."""
    heading = rf"^{'#' * level} {re.escape(section)}\n(.*?)(?=^##|\Z)"
    (text,) = re.findall(heading, RUNBOOK, re.MULTILINE | re.DOTALL)
    return ((kind, block) for kind, block in BLOCK.findall(text))


@pytest.fixture
def site(test_database, tmp_path: Path, serve: Callable[[Authority], None]) -> Iterator[Site]:  # noqa: F811
    (tmp_path / "signer").mkdir(mode=0o700)
    authority = Authority(test_database, tmp_path)
    authority.public.mkdir(parents=True)
    serve(authority)
    made = Site(authority)
    made.run("keyserver configuration apply site.yaml")
    yield made
    for runtime in authority.opened:
        runtime.close()


def test_the_life_of_an_export_signing_key(site):
    told: dict[str, list[str]] = {}

    def follow(section: str, **variables: str) -> None:
        told[section] = []
        for kind, block in blocks(section):
            if kind == "yaml":
                site.declare(block)
            else:
                told[section].append(site.run(block, **variables))

    follow("Create a key")
    generated, applied = told["Create a key"]
    assert generated == "Signing key north-2 is made; its public key is in north-2.pem.\n"
    assert "Signing key north-2 is added: phones know it as 310 v2, active from 2026-04-01T00:00:00Z." in applied
    assert "north-2: 310 v2, not yet active, from 2026-04-01T00:00:00Z" in applied
    assert "feed north: signed by north-1; north-2 on 0 of 0 listed files, north-1 on 0 of 0 listed files" in applied
    assert "WARNING" not in applied

    follow("Hand it to Apple and Google")
    assert '"key_version": "v2"' in told["Hand it to Apple and Google"][0]
    assert told["Hand it to Apple and Google"][0].endswith("Verified OK\n")

    site.plan_batch(datetime(2026, 3, 31, 20, tzinfo=UTC))
    assert site.signed_by(site.export()) == ["v1"]
    site.plan_batch(datetime(2026, 4, 1, tzinfo=UTC))
    overlapping = site.export()
    assert site.signed_by(overlapping) == ["v2", "v1"]
    follow("Overlap")
    assert "feed north: signed by north-2, north-1; north-2 on 1 of 2 listed" in told["Overlap"][0]

    follow("Retire the old one")
    assert "north-1 changes: active_thru from open to 2026-05-01T00:00:00Z.\n" in told["Retire the old one"][0]
    site.plan_batch(datetime(2026, 5, 1, 0, tzinfo=UTC))
    alone = site.export()
    assert site.signed_by(alone) == ["v2"]

    site.plan_batch(datetime(2026, 5, 1, 4, tzinfo=UTC))
    emergency = "Emergency: a private key is in other hands"
    (_, revoke), *later = blocks(emergency)
    listed = site.run(revoke)
    assert "Signing key north-2 is revoked since 2026-05-01T04:00:00Z" in listed
    assert re.findall(r"batch (\d+) of .*signed by no other key in force, in the index", listed) == [str(alone)]
    assert re.findall(r"batch (\d+) of .*also signed by north-1, in the index", listed) == [str(overlapping)]
    (unreleased,) = re.findall(r"batch (\d+) of .*not released", listed)
    assert "WARNING: feed north has no signing key from 2026-05-01T04:00:00Z on" in listed
    assert site.export() == int(unreleased)

    for kind, block in later:
        if kind == "yaml":
            site.declare(block)
        else:
            listed += site.run(block, BATCH=str(alone), HELD=unreleased)
    assert f"batch {unreleased} of feed north" in listed
    assert "signing keys are in force: north-2 revoked" in listed
    replacing = {site.export(), site.export()}
    assert [site.signed_by(batch_id) for batch_id in replacing] == [["v3"], ["v3"]]
    statuses = site.authority.statuses()
    assert (statuses[alone], statuses[int(unreleased)]) == ("withdrawn", "replaced")
    assert {statuses[batch_id] for batch_id in replacing} == {"released"}


def test_a_batch_is_held(site):
    site.plan_batch(datetime(2026, 3, 31, 20, tzinfo=UTC))
    site.authority.sql("UPDATE exposure SET interval_number = interval_number + 144 * 30")
    held = site.export()
    assert site.authority.statuses()[held] == "held"
    (_, decide), (_, release) = (block for name in DECIDED for block in blocks(name))
    said = site.run(decide, HELD=str(held))
    assert f"batch {held} of feed north" in said
    assert f"Batch {held} is rejected: no batch is planned in its place.\n" in said
    said = site.run(release, HELD=str(held))
    assert said == f"Batch {held + 1} is planned in place of batch {held}.\n"


# The sections on a held batch that have commands.
DECIDED = ("Decide on the command line", "Release a rejected batch after all")


def test_the_database_was_restored(site, make_database):
    site.plan_batch(datetime(2026, 3, 31, 20, tzinfo=UTC))
    kept = site.export()
    transparency.publish_logs(site.authority.runtime("run-log"))
    close(site)
    backup = make_database(site.authority.database.name)
    site.plan_batch(datetime(2026, 4, 1, tzinfo=UTC))
    lost = site.export()
    ((name,),) = site.authority.sql("SELECT name FROM file WHERE batch_id = %(batch)s", batch=lost)
    transparency.publish_logs(site.authority.runtime("run-log"))
    close(site)
    backup.set_time(site.authority.database.now())
    site.authority.database = backup

    looked, settled, _ = (
        site.run(block, **site.operator()) for _, block in blocks("The database was restored", level=2)
    )

    assert f"1 object that the database does not know: {name}" in looked
    assert "wrong: clock of the database" in looked  # the test's
    assert "its log before the restore lies in north/log-before-restore/2026-04-01-" in settled
    assert settled.endswith("Store and database agree: every public object is known, and every listed file is there.\n")
    assert site.authority.statuses() == {kept: "released"}
    assert name not in site.authority.released_files()
    transparency.publish_logs(site.authority.runtime("run-log"))


def close(site: Site) -> None:
    for opened in site.authority.opened:
        opened.close()
    site.authority.opened.clear()


def test_every_block_is_run():
    """None stands outside a section that the tests follow."""
    followed = [
        "Create a key",
        "Hand it to Apple and Google",
        "Overlap",
        "Retire the old one",
        "Emergency: a private key is in other hands",
    ]
    section = RUNBOOK[RUNBOOK.index("## Export signing keys") :]
    section = re.split(r"^## (?!Export signing keys)", section, flags=re.MULTILINE)[0]
    assert [block for name in followed for _, block in blocks(name)] == [block for _, block in BLOCK.findall(section)]
    (section,) = re.findall(r"^## A batch is held\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert [block for name in DECIDED for _, block in blocks(name)] == [block for _, block in BLOCK.findall(section)]
