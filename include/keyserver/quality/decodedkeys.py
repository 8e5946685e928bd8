"""Decoded keys in columns, and what is expected of keys whoever sends them (export.md 1.3, 2.7; rules E5, K1).

No key stands in what Great Expectations sees: how keys stand to each other is worked out before, and told as yes or no.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keyserver.protocol.exportfile import DecodedKey
from keyserver.protocol.exposure import KEY_BYTES, MAX_TRANSMISSION_RISK
from keyserver.quality.suite import Expectation, between, in_set

if TYPE_CHECKING:
    import pandas as pd

# B10: what stands in a file before the key itself, and so in its order. What is not said comes first.
_ORDER = ("report_type", "transmission_risk", "days_since_onset", "rolling_start", "rolling_period")

_VALUES = "{count} of {of} {table} otherwise: {values}"


def of_format(table: str, owner: str) -> Iterator[Expectation]:
    """Give what is expected of every list of keys; a name says of which."""
    yield Expectation(
        f"{table} are 16 bytes",
        table,
        "phones drop any other",
        "16 bytes",
        in_set("key_length", KEY_BYTES),
        owner=owner,
        found=_VALUES,
    )
    yield Expectation(
        f"{table} are unique",
        table,
        "a key is released once (K1)",
        "no key twice",
        in_set("not_seen_before", True),
        owner=owner,
        found="{count} of {of} {table} that stood there before",
    )
    yield Expectation(
        f"periods of {table} are of a day",
        table,
        "iOS ignores a longer key, Android's builder throws",
        "1 to 144",
        between("rolling_period", 1, 144),
        owner=owner,
        found=_VALUES,
    )
    yield Expectation(
        f"starts of {table} are not negative",
        table,
        "Android's key builder throws",
        "0 or later",
        between("rolling_start", 0, 2**31 - 1),
        owner=owner,
        found=_VALUES,
    )
    yield Expectation(
        f"risks of {table} are known",
        table,
        "Android's key builder throws on others",
        "0 to 8",
        between("transmission_risk", 0, MAX_TRANSMISSION_RISK),
        owner=owner,
        found=_VALUES,
    )
    yield Expectation(
        f"days from onset of {table} are within two weeks",
        table,
        "Android's key builder throws on others",
        "-14 to 14 or none",
        between("days_since_onset", -14, 14),
        owner=owner,
        found=_VALUES,
    )


Columns = dict[str, "np.ndarray[Any, Any]"]


def columns(rows: Sequence[DecodedKey]) -> Columns:
    """Turn the keys of one file into a column a field, which takes a tenth of the room; NaN is what is not said.

    The numbers are protobuf's, of 32 bits.
    """
    key, report_type, risk, days, start, period = zip(*rows, strict=True) if rows else ((),) * 6
    return {
        "key": np.array(key, f"S{KEY_BYTES}"),  # one of another length is cut or filled: it is let through by nobody
        "key_length": np.fromiter(map(len, key), np.int32, len(key)),
        "report_type": np.array(report_type, np.float32),
        "transmission_risk": np.array(risk, np.int32),
        "days_since_onset": np.array(days, np.float32),
        "rolling_start": np.array(start, np.int32),
        "rolling_period": np.array(period, np.int32),
    }


class Keys:
    """The keys of one list of all files, in their order."""

    def __init__(self, files: Sequence[Columns]) -> None:
        """Take the columns of each file."""
        parts = files or [columns([])]
        self._columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self._key = self._columns.pop("key")
        self._sorted, self._is_first = _sorted(self._key)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._key)

    @property
    def bytes(self) -> bytes:
        """The keys, 16 bytes each, end to end."""
        return self._key.tobytes()

    def table(self, elsewhere: Keys | None = None) -> pd.DataFrame:
        """Tabulate what is said of the keys, how they stand to each other, and to those of another list."""
        import pandas as pd  # noqa: PLC0415 - costs more than a second

        said = self._columns
        start = said["rolling_start"].astype(np.int64)
        table = pd.DataFrame(said)
        table["began"] = start * 600
        table["ended"] = (start + said["rolling_period"]) * 600
        table["in_order"] = _in_order([*(said[name] for name in _ORDER), self._key])
        table["not_seen_before"] = self._is_first
        if elsewhere is not None:
            table["in_one_list"] = ~elsewhere.holding(self._key)
        return table

    def holding(self, keys: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Tell of each key whether it is among these."""
        if not len(self):
            return np.zeros(len(keys), bool)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        return np.asarray(self._sorted[places] == keys)


def _sorted(keys: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the keys in order, and of each, where it stands, whether it is the first of its like."""
    places = np.argsort(keys, kind="stable")
    in_order = keys[places]
    is_first = np.ones(len(keys), bool)
    is_first[places[1:]] = in_order[1:] != in_order[:-1]
    return in_order, is_first


def _in_order(ordered_by: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Tell of each row whether it may follow the one before it."""
    rows = len(ordered_by[-1])
    follows = np.ones(max(rows - 1, 0), bool)
    for column in reversed(ordered_by):
        values = np.nan_to_num(column, nan=-np.inf) if column.dtype.kind == "f" else column
        follows = (values[1:] > values[:-1]) | ((values[1:] == values[:-1]) & follows)
    return np.concatenate([np.ones(min(rows, 1), bool), follows])
