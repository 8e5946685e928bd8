"""Store the declared configuration: all of it or nothing, and nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from keyserver.audit import recorded
from keyserver.configuration.load import VERSION, load
from keyserver.configuration.plan import Change, KeyOfAuthority, plan
from keyserver.runtime import Runtime
from keyserver.store import declared
from keyserver.store.database import Connection
from keyserver.store.declared import App, Feed, HealthAuthority, Retention, SigningKey


def apply(runtime: Runtime, file: Path, *, dry_run: bool = False) -> list[str]:
    """Make the database hold what the document at ``file`` declares; return what changed, a sentence each.

    One transaction, with one audit event ``configuration.applied``: how many changes of each kind, and the hash of the
    document's content (`Configuration.sha256`). Windows do not close meanwhile, so the rules on ``thru`` hold to the
    commit (B2). Without a change there is no event. A dry run only says what it would change.

    Raises ConfigurationError for a document that is wrong or cannot follow what is stored, RemoteError when the
    database does not answer.
    """
    configuration = load(file)
    with recorded(runtime.database, runtime.actor) as work:
        changes = plan(configuration, declared.read_locked(work.connection))
        if changes and not dry_run:
            for change in changes:
                _store(work.connection, change)
            work.record(
                "configuration.applied",
                {"version": VERSION},
                counts=Counter(change.kind for change in changes),
                hashes={"configuration": configuration.sha256},
            )
    return [change.sentence for change in changes]


def _store(connection: Connection, change: Change) -> None:
    new = change.action == "added"
    match change.item:
        case HealthAuthority() as authority:
            declared.write_authority(connection, authority, new=new)
        case KeyOfAuthority(issuer, key):
            declared.write_authority_key(connection, issuer, key, new=new)
        case SigningKey() as key:
            declared.write_signing_key(connection, key, new=new)
        case App() as app if change.action == "removed":
            declared.remove_app(connection, app.name)
        case App() as app:
            declared.write_app(connection, app, new=new)
        case Retention() as retention:
            declared.write_retention(connection, retention)
        case Feed() as feed:
            declared.write_feed(connection, feed, new=new)
