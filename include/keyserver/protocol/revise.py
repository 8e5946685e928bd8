"""What an upload does to keys that are stored already: nothing, a revision, or a refusal (publish.md 3.3 to 3.7, K4).

Refusals come in the order of publish.md 1.5, each naming all keys that it is about by their index in the request as
sent; any of them refuses the whole upload, new keys included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from keyserver.errors import PublishError
from keyserver.protocol.exposure import Exposure, ReportType

# 3.4: from what is stored to what may be said of it afterwards. A stored key without a type counts as likely (3.4).
_TRANSITIONS = {
    ReportType.LIKELY: {ReportType.CONFIRMED, ReportType.NEGATIVE},
    ReportType.USER_REPORT: {ReportType.CONFIRMED, ReportType.LIKELY, ReportType.NEGATIVE},
    ReportType.CONFIRMED: set(),
    ReportType.NEGATIVE: set(),
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a key that was not uploaded here comes from: a federation query or an import, and which."""

    kind: str
    id: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored key. ``window`` is the start of the window it is published in; report type None: no authority's word.

    ``local``: it was uploaded here. One that was not can only be revised by its own ``lineage``.
    """

    start: int
    period: int
    report_type: ReportType | None
    window: datetime
    revised_report_type: ReportType | None = None
    local: bool = True
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Those of an upload's keys that are stored; every window that ends at or before ``closed_through`` is closed."""

    rows: Mapping[bytes, Stored]
    closed_through: datetime


# What most uploads meet.
NOTHING_STORED = Known(MappingProxyType({}), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Token:
    """The revision token that came with an upload: its keys with (start, period), if it could be read.

    ``sent``: there was one (in base64). A token that cannot be read proves nothing, but is told from none (1.5, 8b).
    """

    sent: bool = False
    keys: Mapping[bytes, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    read: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """How strictly tokens are asked for: of an app (2.9), of the server (8.1); and whose keys these are (3.7)."""

    bypass_token: bool = False
    allow_partial: bool = False
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is written, and what the next token holds: ``proven`` are keys to add to those of the token that came."""

    insert: tuple[Exposure, ...] = ()
    revise: tuple[Exposure, ...] = ()
    proven: tuple[tuple[bytes, int, int], ...] = ()
    warnings: tuple[str, ...] = ()


def decide(
    exposures: Sequence[Exposure],
    report_type: ReportType | None,
    known: Known,
    token: Token,
    rules: Rules,
) -> Decision:
    """Decide about an upload's keys (distinct), given what is known of them.

    Raises:
        PublishError: ``missing_revision_token``, ``invalid_revision_token``, ``key_metadata_mismatch``,
            ``key_already_revised``, ``invalid_report_type_transition`` or ``key_of_other_origin`` (1.5, rows 8 to 13).
    """
    old = [(exposure, known.rows[exposure.key]) for exposure in exposures if exposure.key in known.rows]
    new = tuple(exposure for exposure in exposures if exposure.key not in known.rows)
    without = [(sent, row) for sent, row in old if sent.key not in token.keys]
    again = all(_sent_again(sent, row, report_type, known.closed_through) for sent, row in without)
    dropped: list[Exposure] = []
    if not rules.bypass_token:
        if not again:
            dropped = _without_proof(without, token, rules)
        _check_token(old, token)
        _refuse(
            (sent for sent, row in old if (sent.start, sent.period) != (row.start, row.period)),
            "key_metadata_mismatch",
            "was uploaded before with another rollingStartNumber or rollingPeriod",
        )
    left_out = {exposure.key for exposure in dropped}
    changed = [
        (sent, row)
        for sent, row in old
        if sent.key not in left_out and report_type not in (row.report_type, row.revised_report_type or row.report_type)
    ]
    _check_changes(changed, report_type, rules)
    # Nobody was told of new keys that are negative, so there is nothing to take back (2.8).
    insert = () if report_type is ReportType.NEGATIVE else new
    return Decision(
        insert,
        tuple(sent for sent, _ in changed),
        (
            *((sent.key, sent.start, sent.period) for sent in new),
            *((sent.key, row.start, row.period) for sent, row in (*changed, *(without if again else ()))),
        ),
        tuple(
            f"key {sent.index} was left out: it was uploaded before and is not in the revision token"
            for sent in dropped
        ),
    )


def _sent_again(sent: Exposure, row: Stored, report_type: ReportType | None, closed_through: datetime) -> bool:
    """Whether a key is there only because the answer to its upload was lost (K4).

    Its window is open, so nobody but its phone knows it.
    """
    return (
        row.local
        and row.revised_report_type is None
        and row.report_type == report_type
        and (row.start, row.period) == (sent.start, sent.period)
        and row.window >= closed_through
    )


def _without_proof(without: Sequence[tuple[Exposure, Stored]], token: Token, rules: Rules) -> list[Exposure]:
    """Refuse stored keys that are not in the token (1.5, rows 8 to 9); or, by the server's rules, leave them out."""
    sent = [exposure for exposure, _ in without]
    if not token.sent:
        _refuse(sent, "missing_revision_token", "was uploaded before; the token of that upload is needed")
    if not token.read:
        _refuse(sent, "invalid_revision_token", "was uploaded before, and the revision token cannot be read")
    if not rules.allow_partial:
        _refuse(sent, "invalid_revision_token", "was uploaded before and is not in the revision token")
    return sent


def _check_token(old: Iterable[tuple[Exposure, Stored]], token: Token) -> None:
    _refuse(
        (sent for sent, row in old if token.keys.get(sent.key, (row.start, row.period)) != (row.start, row.period)),
        "invalid_revision_token",
        "is in the revision token with another rollingStartNumber or rollingPeriod than it was stored with",
    )


def _check_changes(changed: Sequence[tuple[Exposure, Stored]], report_type: ReportType | None, rules: Rules) -> None:
    """Apply 3.4 to keys that the upload says something new of, in the order of 1.5, rows 11 to 13."""
    _refuse(
        (sent for sent, row in changed if row.revised_report_type is not None),
        "key_already_revised",
        "was revised before; that is possible once",
    )
    _refuse(
        (sent for sent, row in changed if report_type not in _TRANSITIONS[row.report_type or ReportType.LIKELY]),
        "invalid_report_type_transition",
        f"cannot become {report_type or 'a key without a report type'}",
    )
    _refuse(
        (sent for sent, row in changed if row.lineage != rules.lineage or row.local != (rules.lineage is None)),
        "key_of_other_origin",
        "came from another server, which alone can revise it",
    )


def _refuse(exposures: Iterable[Exposure], code: str, what: str) -> None:
    wrong = sorted(exposure.index for exposure in exposures)
    if wrong:
        raise PublishError(code, "\n".join(f"key {index} {what}" for index in wrong))


# How `decide` looks to the store, which calls it once it has read what is stored and where windows are closed.
Plan = Callable[[Known], Decision]
