"""Rule E5: what publish accepts passes the gate and a phone's reader; one person's odd key never blocks a feed."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from keyserver.device import exportreader
from keyserver.errors import PublishError
from keyserver.protocol.exportfile import (
    REPORT_TYPES,
    Header,
    KeyRun,
    Metadata,
    SignatureInfo,
    encode,
    encode_signatures,
    end_timestamp,
    pack,
    split,
)
from keyserver.protocol.exposure import (
    EMBARGO,
    MAX_AGE,
    Exposure,
    Limits,
    ReportType,
    created_at,
    transform,
)
from keyserver.protocol.intervals import floor_window, interval_at, interval_start
from keyserver.protocol.messages import SentKey
from keyserver.quality.exportfiles import BatchFacts, StagedFile, check_files
from keyserver.store.quality import Listed

DAY = timedelta(days=1)
# (width of a window, period of a feed)
LAYOUTS = [(1, 1), (1, 1440), (5, 30), (60, 60), (60, 240), (60, 1440), (1440, 1440)]
INFO = SignatureInfo("242", "v1")
# DER of the integers 1, 1: the reader is asked to read, not to verify.
SIGNATURE = bytes.fromhex("3006020101020101")

moments = st.integers(0, 10 * 365 * 86400).map(
    lambda seconds: datetime(2021, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@st.composite
def requests(draw, now: datetime) -> list[SentKey]:
    """Keys one after another from before the oldest that is taken to the future, and some that are no keys at all."""
    start = interval_at(now - MAX_AGE) - draw(st.sampled_from([145, 144, 1, 0, -100]))
    sent = []
    while start <= interval_at(now) + 1 and len(sent) < 25:
        period = draw(st.sampled_from([144, 144, 144, 1, 100, 0, 145]))
        for _ in range(draw(st.sampled_from([1, 1, 1, 3]))):
            data = draw(st.binary(min_size=16, max_size=16))
            risk = draw(st.integers(-1, 9))
            key = base64.b64encode(data).decode()
            sent.append(SentKey(key=key, start=start, period=period, transmission_risk=risk))
        start += period + draw(st.sampled_from([0, 0, 1, 144]))
    return draw(st.permutations(sent))


def batch_of(window: datetime, period: timedelta) -> tuple[datetime, datetime]:
    """The span of the ordinary batch that holds a window (B2)."""
    start = floor_window(window, period)
    return start, start + period


def runs_of(exposures: list[Exposure], report_type: ReportType) -> list[KeyRun]:
    """Keys as the database hands them to build: grouped by metadata, in the order of B10."""
    by_metadata = defaultdict(list)
    for exposure in exposures:
        metadata = Metadata(
            REPORT_TYPES[report_type],
            exposure.transmission_risk,
            exposure.days_since_onset,
            exposure.start,
            exposure.period,
        )
        by_metadata[metadata].append(exposure.key)

    def order(metadata: Metadata) -> tuple[int, int, int, int, int]:
        assert metadata.report_type is not None
        assert metadata.days_since_onset is not None
        return (
            metadata.report_type,
            metadata.transmission_risk,
            metadata.days_since_onset,
            metadata.rolling_start,
            metadata.rolling_period,
        )

    return [KeyRun(metadata, b"".join(sorted(by_metadata[metadata]))) for metadata in sorted(by_metadata, key=order)]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    now=moments,
    layout=st.sampled_from(LAYOUTS),
    report_type=st.sampled_from([ReportType.CONFIRMED, ReportType.LIKELY, ReportType.USER_REPORT]),
    onset_days=st.integers(-1, 30),
    max_keys=st.integers(1, 10),
)
def test_what_publish_accepts_passes_the_gate_and_a_phones_reader(data, now, layout, report_type, onset_days, max_keys):
    width, period = (timedelta(minutes=minutes) for minutes in layout)
    try:
        taken = transform(data.draw(requests(now)), report_type, [interval_at(now - DAY * onset_days)], now, Limits())
    except PublishError:
        assume(False)
    assume(taken.exposures)

    batches = defaultdict(list)
    for exposure in taken.exposures:
        batches[batch_of(created_at(now, exposure.end, width), period)].append(exposure)
    for (start, end), exposures in batches.items():
        cutoff = end - DAY - MAX_AGE
        # T3: an ordinary batch drops nothing.
        assert all(interval_start(exposure.end) >= cutoff for exposure in exposures)
        check_batch(start, end, cutoff, exposures, report_type, max_keys)


def none_of_them(_keys, _revised_keys):
    """What the database says of keys that are all of the batch."""
    return Listed(strangers=0, synthetic=0, carried=0, unknown_revised=0)


def check_batch(start, end, cutoff, exposures, report_type, max_keys) -> None:
    divided = list(split(runs_of(exposures, report_type), [], max_keys))
    staged, read = [], []
    for number, (keys, _) in enumerate(divided, start=1):
        header = Header(start, end_timestamp(end, number, split=len(divided) > 1), "NO", (INFO,))
        export_bin = encode(header, keys, [])
        count = sum(run.count for run in keys)
        digest = hashlib.sha256(export_bin).digest()
        staged.append((StagedFile(number, start, header.end, count, 0, digest), export_bin))
        file = exportreader.read(pack(export_bin, encode_signatures([INFO], [SIGNATURE])))
        assert (file.start, file.end) == (start, header.end)
        read += file.keys
    facts = BatchFacts(start, end, cutoff, "NO", max_keys, len(exposures), 0, (("242", "v1"),), closed_through=end)
    assert not staged or [str(outcome) for outcome in check_files(facts, staged, none_of_them) if not outcome.met] == []
    assert sorted((key.key, key.rolling_start, key.rolling_period, key.transmission_risk) for key in read) == sorted(
        (exposure.key, exposure.start, exposure.period, exposure.transmission_risk) for exposure in exposures
    )
    assert all(interval_start(key.rolling_start + key.rolling_period) + EMBARGO <= end for key in read)
