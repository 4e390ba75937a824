"""Percentiles as MLPerf LoadGen takes them, and how many samples each of them needs."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
CONFIDENCE = 0.99


@cache
def needed(percent: float) -> int:
    """The fewest samples from which this percentile may be told: LoadGen's early-stopping rule.

    With one sample allowed above the estimate, the odds that no more than one of n independent samples lies
    above the true percentile p are p^n + n (1 - p) p^(n-1); they must fall below 1 %. 64 for the 90th.
    """
    share = percent / 100
    below, enough = 1, 2
    while _odds(enough, share) >= 1 - CONFIDENCE:
        below, enough = enough, enough * 2
    while enough - below > 1:
        middle = (below + enough) // 2
        if _odds(middle, share) >= 1 - CONFIDENCE:
            below = middle
        else:
            enough = middle
    return enough


def _odds(count: int, share: float) -> float:
    return math.exp((count - 1) * math.log(share)) * (share + count * (1 - share))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The sample at this place of the ordered samples; no interpolation, as LoadGen reports it."""
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def label(percent: float) -> str:
    """`p50`, `p99.9`."""
    return f"p{percent:g}"


def distribution(values: Sequence[float]) -> dict[str, float | None]:
    """count, mean, min, max and the percentiles in the unit of `values`; None where samples are too few."""
    ordered = sorted(values)
    count = len(ordered)
    facts: dict[str, float | None] = {"count": count}
    facts["mean"] = math.fsum(ordered) / count if count else None
    facts["min"] = ordered[0] if count else None
    for percent in PERCENTILES:
        facts[label(percent)] = percentile(ordered, percent) if count >= needed(percent) else None
    facts["max"] = ordered[-1] if count else None
    return facts
