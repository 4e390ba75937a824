"""Scales from numbers to places in a drawing, with round ticks."""

from __future__ import annotations

import math
from typing import NamedTuple

MARGIN = 0.05  # of the values' range, on either side of it


class Axis(NamedTuple):
    """Values `low` to `high` lie at `start` to `end`; evenly, or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)

    def edges(self, count: int) -> list[float]:
        """The bounds of `count` bins of equal width in the drawing."""
        steps = [place / count for place in range(count + 1)]
        if self.logarithmic:
            return [self.low * (self.high / self.low) ** step for step in steps]
        return [self.low + (self.high - self.low) * step for step in steps]

    def ticks(self, count: int = 5) -> list[float]:
        """Round values, about `count`."""
        if self.logarithmic and self.high / self.low > 8:
            return self._decades()
        if self.high <= self.low:
            return [self.low]
        rough = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _decades(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if self.high / self.low < 500 else (1,)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


def around(values: list[float], start: float, end: float) -> Axis:
    """An axis that holds all values, with a margin; of one value, some room about it."""
    low, high = min(values), max(values)
    room = (high - low) * MARGIN or abs(high) * MARGIN or 1.0
    return Axis(low - room, high + room, start, end)


def spread(values: list[float], start: float, end: float) -> Axis:
    """An axis for latencies: all of them on it; logarithmic where a long tail would squeeze the rest."""
    ordered = sorted(values)
    low, high, middle = ordered[0], ordered[-1], ordered[len(ordered) // 2]
    if low > 0 and high > 4 * middle:
        return Axis(low * (1 - MARGIN), high * (1 + MARGIN), start, end, logarithmic=True)
    return around(values, start, end)


def number(value: float) -> str:
    """As short as it may be: `0.25`, `12`, `1500`."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
