"""What is usual of a number: the median of those before it, give or take some median absolute deviations.

Only what is far out is worth a warning, so K is 5: of numbers that vary by chance alone one in some 1,500 is further
from the median. A deviation is never taken to be smaller than chance makes it, nor than a tenth of the median (two
hundredths for shares): the week has its rhythm, and a half more or less than usual is no news.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

K = 5
LEAST = 8  # numbers before it; fewer say nothing of what is usual

_KEYS_OF_A_USER = 14  # keys come by users, so that chance moves their number in such steps
_DEVIATION_OF_CHANCE = 0.6745  # the median absolute deviation of what is normally distributed, in standard deviations
_LEAST_OF_MEDIAN, _LEAST_OF_SHARES = 0.1, 0.02


@dataclass(frozen=True, slots=True)
class Usual:
    """Between which bounds a number is usual, and how that is said."""

    low: float
    high: float | None
    text: str

    def __str__(self) -> str:
        """Say it."""
        return self.text


ANYTHING = Usual(0, None, f"any number: there are fewer than {LEAST} to compare it with")


def of_keys(earlier: Sequence[float]) -> Usual:
    """Give what number of keys is usual after these."""
    if len(earlier) < LEAST:
        return ANYTHING
    middle = median(earlier)
    chance = _DEVIATION_OF_CHANCE * math.sqrt(_KEYS_OF_A_USER * max(middle, _KEYS_OF_A_USER))
    spread = K * max(_deviation(earlier, middle), _LEAST_OF_MEDIAN * middle, chance)
    low, high = max(middle - spread, 0), middle + spread
    return Usual(low, high, f"{low:.0f} to {high:.0f}: {_said(earlier, f'{middle:g}')}")


def of_share(earlier: Sequence[float], keys: int) -> Usual:
    """Give what share of so many keys is usual after these, all of 0 to 1."""
    if len(earlier) < LEAST or not keys:
        return ANYTHING
    middle = median(earlier)
    likely = (middle * keys + _KEYS_OF_A_USER) / (keys + 2 * _KEYS_OF_A_USER)  # what was never seen may still come
    chance = _DEVIATION_OF_CHANCE * math.sqrt(likely * (1 - likely) * _KEYS_OF_A_USER / keys)
    spread = K * max(_deviation(earlier, middle), _LEAST_OF_SHARES, chance)
    low, high = max(middle - spread, 0), min(middle + spread, 1)
    return Usual(low, high, f"{low:.1%} to {high:.1%}: {_said(earlier, f'{middle:.1%}')}")


def _deviation(earlier: Sequence[float], middle: float) -> float:
    return median(abs(number - middle) for number in earlier)


def _said(earlier: Sequence[float], middle: str) -> str:
    return f"{middle} is the median of the {len(earlier)} before, and {K} median absolute deviations each way are usual"
