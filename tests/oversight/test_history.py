"""In a history of every fate, each answer agrees with the files and with the other answers."""

from __future__ import annotations

from keyserver.audit import Actor
from keyserver.device import exportreader
from keyserver.export import build
from keyserver.oversight.explain import explain_key
from keyserver.oversight.provenance import provenance
from keyserver.oversight.rebuild import rebuild
from keyserver.oversight.verify import Asked, Rebuilding, verify
from keyserver.oversight.window import explain_window
from keyserver.runtime import open_runtime


def test_every_key_is_explained_as_phones_find_it(history):
    """What `explain` says of all stored keys is, together, what all files in the index hold, place by place."""
    found = {
        (name, which, place, key.key)
        for name, data in history.released_files().items()
        if name.endswith(".zip")
        for which in ("keys", "revised_keys")
        for place, key in enumerate(getattr(exportreader.read(data), which), start=1)
    }
    assert len(found) >= 10
    explained = {
        (reason.file, reason.list, reason.position, key)
        for (key,) in history.sql("SELECT exposure_key FROM exposure")
        for feed in explain_key(history.runtime(), key).feeds
        for reason in feed.reasons
        if reason.code in {"released", "revision_released"}
    }
    assert explained == found


def test_every_window_adds_up_and_agrees_with_the_batch_that_stands_for_it(history):
    for (starts_at,) in history.sql("SELECT starts_at FROM closed_window"):
        explained = explain_window(history.runtime(), starts_at)
        assert explained.problems == []
        (feed,) = explained.feeds
        of_batch = provenance(history.runtime(), str(feed.batch)).account
        assert feed.keys == {fate: keys for fate, keys in of_batch.keys.items() if keys}
        told = sum(number for fate, number in feed.revisions.items())
        assert told == of_batch.counted_revisions == explained.totals.revisions


def test_every_batch_comes_out_again(history):
    for batch in history.statuses():
        assert rebuild(history.runtime(), batch, build.rebuild).is_proven, batch


def test_an_auditor_finds_nothing_wrong_with_it(history):
    """But that it ends 17 days later, when nobody has deleted anything."""
    auditor = open_runtime(Actor("keyserver audit verify"), history.database.url("keyserver_auditor"))
    history.opened.append(auditor)
    report, _ = verify(auditor, Asked(), Rebuilding(history.runtime(), build.rebuild))
    assert [
        str(finding) for finding in report.findings if "should" not in finding.text and finding.about != "retention"
    ] == []
    assert "8 of 8 built batches were made again: 8 identical" in "\n".join(report.facts)
