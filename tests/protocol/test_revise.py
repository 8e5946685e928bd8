from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyserver.errors import PublishError
from keyserver.protocol.exposure import Exposure, ReportType
from keyserver.protocol.revise import Decision, Known, Lineage, Rules, Stored, Token, decide

CLOSED_THROUGH = datetime(2026, 3, 2, 10, tzinfo=UTC)
LONG_CLOSED = CLOSED_THROUGH - timedelta(days=1)
START, PERIOD = 2_954_000, 144
CONFIRMED, LIKELY, SELF, NEGATIVE = (
    ReportType.CONFIRMED,
    ReportType.LIKELY,
    ReportType.USER_REPORT,
    ReportType.NEGATIVE,
)


def sent(name: int, index: int = 0, *, period: int = PERIOD) -> Exposure:
    return Exposure(bytes([name]) * 16, START, period, 2, 0, index)


A, B, C = sent(1, 5), sent(2, 3), sent(3, 8)


def row(report_type: ReportType | None = LIKELY, window: datetime = LONG_CLOSED, **changes) -> Stored:
    return Stored(**{"start": START, "period": PERIOD, "report_type": report_type, "window": window, **changes})


def token(*exposures: Exposure) -> Token:
    return Token(sent=True, keys={each.key: (each.start, each.period) for each in exposures}, read=True)


def result(
    exposures: tuple[Exposure, ...],
    report_type: ReportType | None,
    rows: dict[Exposure, Stored],
    proof: Token | None = None,
    **rules,
) -> Decision:
    known = Known({exposure.key: stored for exposure, stored in rows.items()}, CLOSED_THROUGH)
    return decide(exposures, report_type, known, token(*rows) if proof is None else proof, Rules(**rules))


def refusal(*arguments, **rules) -> tuple[str, list[str]]:
    """The code, and the keys that are named, in order."""
    with pytest.raises(PublishError) as caught:
        result(*arguments, **rules)
    return caught.value.code, [" ".join(line.split()[:2]) for line in str(caught.value).splitlines()]


def told(*exposures: Exposure) -> tuple[tuple[bytes, int, int], ...]:
    return tuple((each.key, each.start, each.period) for each in exposures)


def test_new_keys_need_no_token():
    """Scenario 61 too: what cannot be read does not matter then."""
    for proof in (Token(), Token(sent=True), token(), token(C)):
        assert result((A, B), CONFIRMED, {}, proof) == Decision(insert=(A, B), proven=told(A, B))


def test_scenario_74_new_keys_that_are_negative_are_not_stored_but_get_a_token():
    assert result((A,), NEGATIVE, {}) == Decision(proven=told(A))


def test_scenario_56_a_revision_and_new_keys():
    assert result((A, B), CONFIRMED, {A: row()}) == Decision(insert=(B,), revise=(A,), proven=told(B, A))


# 3.3: the token


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (Token(), "missing_revision_token"),  # scenario 57
        (Token(sent=True), "invalid_revision_token"),  # scenario 62
        (token(B), "invalid_revision_token"),  # scenarios 60 and 65
    ],
)
def test_scenarios_57_60_62_and_65_the_token_must_hold_what_is_stored(proof, code):
    assert refusal((A, B, C), CONFIRMED, {A: row(), B: row()}, proof)[0] == code


def test_keys_are_named_by_their_place_in_the_request():
    assert refusal((A, B, C), CONFIRMED, {A: row(), C: row()}, Token()) == (
        "missing_revision_token",
        ["key 5", "key 8"],
    )


def test_scenario_65_a_token_with_other_intervals():
    proof = Token(sent=True, keys={A.key: (START + 1, PERIOD)}, read=True)
    assert refusal((A,), CONFIRMED, {A: row()}, proof) == ("invalid_revision_token", ["key 5"])
    assert result((A,), CONFIRMED, {A: row()}, proof, bypass_token=True).revise == (A,)


@pytest.mark.parametrize("changes", [{"period": 143}, {"start": START - 1}])
def test_scenario_65_a_key_sent_with_other_intervals(changes):
    """Row 10: the reference answers internal_error."""
    proof = Token(sent=True, keys={A.key: (row(**changes).start, row(**changes).period)}, read=True)
    assert refusal((A,), CONFIRMED, {A: row(**changes)}, proof) == ("key_metadata_mismatch", ["key 5"])
    # A bypassing app's key keeps what is stored, and so does its token.
    passed = result((A,), CONFIRMED, {A: row(**changes)}, proof, bypass_token=True)
    assert passed.proven == ((A.key, row(**changes).start, row(**changes).period),)


def test_scenario_66_partial_revisions():
    passed = result((A, B), CONFIRMED, {A: row(), B: row()}, token(A), allow_partial=True)
    assert (passed.insert, passed.revise, passed.proven) == ((), (A,), told(A))
    assert passed.warnings == ("key 3 was left out: it was uploaded before and is not in the revision token",)


def test_scenario_67_partial_revisions_with_a_new_key():
    passed = result((A, B, C), CONFIRMED, {A: row(), B: row()}, token(A), allow_partial=True)
    assert (passed.insert, passed.revise, passed.proven) == ((C,), (A,), told(C, A))


def test_partial_revisions_leave_out_all_and_still_need_a_token_that_can_be_read():
    left_out = result((A,), CONFIRMED, {A: row()}, token(), allow_partial=True)
    assert (left_out.insert, left_out.revise, left_out.proven, len(left_out.warnings)) == ((), (), (), 1)
    assert refusal((A,), CONFIRMED, {A: row()}, Token(), allow_partial=True)[0] == "missing_revision_token"
    assert refusal((A,), CONFIRMED, {A: row()}, Token(sent=True), allow_partial=True)[0] == "invalid_revision_token"


@pytest.mark.parametrize("proof", [Token(), Token(sent=True), token(B)])
def test_scenario_75_an_app_that_needs_no_token(proof):
    assert result((A,), CONFIRMED, {A: row()}, proof, bypass_token=True) == Decision(revise=(A,), proven=told(A))


# K4


@pytest.mark.parametrize("proof", [Token(), Token(sent=True), token(B)])
def test_k4_what_is_sent_again_in_an_open_window_needs_no_token_and_gets_one(proof):
    rows = {A: row(window=CLOSED_THROUGH), B: row(window=CLOSED_THROUGH + timedelta(hours=3))}
    assert result((A, B), LIKELY, rows, proof).proven[:1] == told(A)
    assert result((A, B, C), LIKELY, rows, proof).insert == (C,)
    assert result((A, B), LIKELY, rows, proof, bypass_token=True) == result((A, B), LIKELY, rows, proof)


@pytest.mark.parametrize(
    "other",
    [
        row(window=CLOSED_THROUGH - timedelta(minutes=1)),
        row(CONFIRMED, CLOSED_THROUGH),
        row(None, CLOSED_THROUGH),
        row(window=CLOSED_THROUGH, period=143),
        row(window=CLOSED_THROUGH, revised_report_type=CONFIRMED),
        row(window=CLOSED_THROUGH, local=False),
    ],
    ids=["window closed", "other type", "no type", "other period", "revised", "not uploaded here"],
)
def test_k4_one_key_that_differs_needs_the_token(other):
    assert refusal((A, B), LIKELY, {A: row(window=CLOSED_THROUGH), B: other}, Token()) == (
        "missing_revision_token",
        ["key 3", "key 5"],
    )


def test_k4_a_key_of_the_token_and_one_whose_answer_was_lost():
    passed = result((A, B), CONFIRMED, {A: row(), B: row(CONFIRMED, CLOSED_THROUGH)}, token(A))
    assert (passed.insert, passed.revise, passed.proven) == ((), (A,), told(A, B))


# 3.4: what may become of a key

ALLOWED = {
    (LIKELY, CONFIRMED), (LIKELY, NEGATIVE), (None, CONFIRMED), (None, NEGATIVE),
    (SELF, CONFIRMED), (SELF, LIKELY), (SELF, NEGATIVE),
}  # fmt: skip


@pytest.mark.parametrize("after", [*ReportType, None])
@pytest.mark.parametrize("before", [*ReportType, None])
def test_scenarios_59_63_and_69_all_transitions(before, after):
    if before == after:
        assert result((A,), after, {A: row(before)}) == Decision()  # scenario 63
    elif (before, after) in ALLOWED:
        assert result((A,), after, {A: row(before)}) == Decision(revise=(A,), proven=told(A))
    else:
        assert refusal((A,), after, {A: row(before)}) == ("invalid_report_type_transition", ["key 5"])


def test_scenarios_58_68_and_73_a_key_is_revised_once():
    for revised, after in ((NEGATIVE, CONFIRMED), (CONFIRMED, NEGATIVE)):
        assert refusal((A,), after, {A: row(LIKELY, revised_report_type=revised)}) == ("key_already_revised", ["key 5"])
    assert refusal((A,), CONFIRMED, {A: row(SELF, revised_report_type=LIKELY)})[0] == "key_already_revised"
    assert (
        refusal((A,), CONFIRMED, {A: row(revised_report_type=NEGATIVE)}, bypass_token=True)[0] == "key_already_revised"
    )


def test_scenario_71_the_same_revision_again_and_the_first_type_again_change_nothing():
    for again in (CONFIRMED, LIKELY):
        assert result((A,), again, {A: row(LIKELY, revised_report_type=CONFIRMED)}) == Decision()


OURS, OTHERS = Lineage("query", 1), Lineage("import", 1)


@pytest.mark.parametrize(
    ("stored", "incoming", "allowed"),
    [
        (row(), None, True),
        (row(local=False), None, False),  # scenario 69: no lineage
        (row(local=False, lineage=OURS), None, False),
        (row(local=False, lineage=OURS), OURS, True),  # scenario 72
        (row(local=False, lineage=OURS), OTHERS, False),
        (row(local=False, lineage=OURS), Lineage("query", 2), False),
        (row(local=False), OURS, False),
        (row(), OURS, False),
    ],
)
def test_scenarios_69_and_72_only_its_own_source_revises_a_key(stored, incoming, allowed):
    """Row 13, with the query id that the reference never reads (quirk 12)."""
    if allowed:
        assert result((A,), CONFIRMED, {A: stored}, lineage=incoming, bypass_token=True).revise == (A,)
    else:
        told_ = refusal((A,), CONFIRMED, {A: stored}, lineage=incoming, bypass_token=True)
        assert told_ == ("key_of_other_origin", ["key 5"])
    assert result((A,), LIKELY, {A: stored}, lineage=incoming, bypass_token=True) == Decision()


def test_row_by_row_what_comes_first_in_1_5_is_said_first():
    """Keys that are wrong in several ways, made right one row after the other."""
    rows = {A: row(CONFIRMED, period=143, revised_report_type=NEGATIVE, local=False), B: row()}
    stored_a = (START, 143)
    codes = [refusal((A, B), LIKELY, rows, Token())[0], refusal((A, B), LIKELY, rows, token(A))[0]]
    whole = Token(sent=True, keys={A.key: stored_a, B.key: (START, PERIOD)}, read=True)
    codes.append(refusal((A, B), LIKELY, rows, whole)[0])
    a = sent(1, 5, period=143)
    codes.append(refusal((a, B), LIKELY, rows, whole)[0])
    codes.append(refusal((a, B), LIKELY, rows | {A: row(CONFIRMED, period=143, local=False)}, whole)[0])
    codes.append(refusal((a, B), LIKELY, rows | {A: row(SELF, period=143, local=False)}, whole)[0])
    assert codes == [
        "missing_revision_token",
        "invalid_revision_token",
        "key_metadata_mismatch",
        "key_already_revised",
        "invalid_report_type_transition",
        "key_of_other_origin",
    ]


STORED = st.builds(
    Stored,
    start=st.sampled_from([START, START - 1]),
    period=st.just(PERIOD),
    report_type=st.none() | st.sampled_from([CONFIRMED, LIKELY, SELF]),
    window=st.sampled_from([LONG_CLOSED, CLOSED_THROUGH]),
    revised_report_type=st.none() | st.sampled_from(ReportType),
    local=st.booleans(),
)
TOKENS = st.sets(st.sampled_from([A, B, C])).map(lambda keys: token(*keys)) | st.builds(Token, sent=st.booleans())


@given(
    st.dictionaries(st.sampled_from([A, B, C]), STORED),
    st.none() | st.sampled_from(ReportType),
    TOKENS,
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_decided_no_key_is_revised_twice_or_without_proof(rows, report_type, proof, bypass, partial):
    try:
        passed = result((A, B, C), report_type, rows, proof, bypass_token=bypass, allow_partial=partial)
    except PublishError:
        return
    assert not set(passed.insert) & set(rows)
    for exposure in passed.revise:
        assert rows[exposure].revised_report_type is None
        assert rows[exposure].local
        assert (rows[exposure].report_type, report_type) in ALLOWED
        assert bypass or exposure.key in proof.keys
    assert len({key for key, _, _ in passed.proven}) == len(passed.proven)
