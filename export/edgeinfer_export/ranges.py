"""What values a tensor takes, counted as they stream by, and the range that 8 bits are spread over.

Four ways to choose the range: `minmax` keeps every value; `percentile` gives up the outermost 0.01 %; `entropy` loses
the least information (Kullback-Leibler divergence, Migacz, "8-bit inference with TensorRT", 2017); `mse` the least
square error of rounding inside and clipping outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BINS = 4096
PERCENTILE = 99.99
# the packaged detector loses least by it in both flavours: 0.4 and 0.7 points
DEFAULT = "mse"
LEVELS = 256
# shares of the full range that `entropy` and `mse` try
SHARES = np.linspace(0.1, 1.0, 91)


class Range(NamedTuple):
    """Least and greatest value to be told apart, 0 always between them, and the mean of each channel."""

    low: float
    high: float
    means: tuple[float, ...] = ()


class Histogram:
    """Counts of values in even bins round 0; when a value lies outside, the bins become twice as wide."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._reach = 0.0
        self._counts = np.zeros(BINS, np.int64)
        self._means: list[NDArray[Any]] = []

    def add(self, low: float, high: float, sample: NDArray[Any], means: NDArray[Any] | None = None) -> None:
        """Least and greatest of all values seen now, some of them, and the mean of each channel.

        Raises ExportError for NaN and infinity.
        """
        # least and greatest leave out NaN in ONNX Runtime, a mean does not
        unknown = np.isnan(sample).any() or (means is not None and np.isnan(means).any())
        if unknown or not (np.isfinite(low) and np.isfinite(high)):
            raise ExportError("values that are not finite", hint="the model itself overflows on this picture")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if self._reach:
            places = (sample.ravel() / self._reach + 1) * (BINS / 2)  # what float32 holds whatever the reach
            self._counts += np.bincount(places.astype(np.int64).clip(0, BINS - 1), minlength=BINS)
        self._means += [] if means is None else [means]

    def _widen(self, reach: float) -> None:
        self._reach = self._reach or reach
        while self._reach < reach:
            pairs = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.pad(pairs, BINS // 4)
            self._reach *= 2

    def range(self, method: str) -> Range:
        """The range that this method chooses."""
        low, high = METHODS[method](self) if self._counts.any() else (self.low, self.high)
        means = np.mean(self._means, axis=0, dtype=np.float64).ravel() if self._means else ()
        return Range(min(low, 0.0), max(high, 0.0), tuple(map(float, means)))

    def _centres(self) -> Floats:
        return (np.arange(BINS, dtype=np.float64) + 0.5) * (2 * self._reach / BINS) - self._reach

    def minmax(self) -> tuple[float, float]:
        return self.low, self.high

    def percentile(self) -> tuple[float, float]:
        total = np.cumsum(self._counts) / self._counts.sum()
        centres, tail = self._centres(), 1 - PERCENTILE / 100
        first, last = np.searchsorted(total, (tail, 1 - tail))
        return max(self.low, float(centres[first])), min(self.high, float(centres[min(last, BINS - 1)]))

    def mse(self) -> tuple[float, float]:
        centres, counts = self._centres(), self._counts

        def error(low: float, high: float) -> float:
            step = (high - low) / (LEVELS - 1)
            inside = (np.round((centres - low) / step) * step + low).clip(low, high)
            return float((counts * (inside - centres) ** 2).sum())

        return self._best(error)

    def entropy(self) -> tuple[float, float]:
        counts, centres = self._counts.astype(np.float64), self._centres()

        def divergence(low: float, high: float) -> float:
            kept = (centres >= low) & (centres <= high)
            inside = counts[kept]
            true = inside.copy()
            true[0] += counts[centres < low].sum()
            true[-1] += counts[centres > high].sum()
            levels = np.arange(len(inside)) * LEVELS // len(inside)
            sums, filled = np.bincount(levels, inside), np.bincount(levels, inside > 0)
            coarse = np.where(inside > 0, (sums / filled.clip(1))[levels], 0.0)
            true, coarse = true / true.sum(), coarse / max(coarse.sum(), 1e-300)
            return float((true * np.log(true.clip(1e-12) / coarse.clip(1e-12))).sum())

        return self._best(divergence)

    def _best(self, loss: Callable[[float, float], float]) -> tuple[float, float]:
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        share = min(SHARES, key=lambda one: loss(low * one, high * one))
        return low * share, high * share


METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": Histogram.minmax,
    "percentile": Histogram.percentile,
    "entropy": Histogram.entropy,
    "mse": Histogram.mse,
}
