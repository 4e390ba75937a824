"""How outputs of a resized side are made of inputs: filters as matrices, in bands around their diagonal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeinfer.spec import Placement, Size

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

# multiplications in one matrix product: OpenBLAS gives larger ones to threads, which then wait for those of
# the engine (and of everybody else) many times longer than the work takes
PRODUCT = 250_000


def _triangle(distance: Doubles) -> Doubles:
    return np.maximum(1 - distance, 0)


def _cubic(distance: Doubles) -> Doubles:
    """Keys' cubic (Cubic convolution interpolation for digital image processing, 1981) with a = -1/2."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


class Filter(NamedTuple):
    """What an output is made of: `weigh` weighs by the distance to its middle, 0 from `reach` on.

    Distances are in source pixels; in resized ones, if those are larger and the filter `widens`. A filter that
    `overshoots` may come to values that no pixel has.
    """

    weigh: Callable[[Doubles], Doubles]
    reach: int
    widens: bool
    overshoots: bool

    def unit(self, scale: float) -> float:
        """How many source pixels are one of `weigh`'s, where `scale` of them become a resized one."""
        return max(scale, 1.0) if self.widens else 1.0


# by Preprocess.interpolation
FILTERS = {
    "linear": Filter(_triangle, 1, widens=False, overshoots=False),
    "linear-antialias": Filter(_triangle, 1, widens=True, overshoots=False),
    "cubic-antialias": Filter(_cubic, 2, widens=True, overshoots=True),
}


class Side(NamedTuple):
    """One side of a picture, resized from `source` to `resized` pixels, of which `first` to `last` are looked at."""

    source: int
    resized: int
    first: int
    last: int

    @property
    def scale(self) -> float:
        """Source pixels a resized one."""
        return self.source / self.resized

    def inputs(self, how: Filter) -> tuple[int, int]:
        """The part of the source that is looked at, first and behind the last."""
        reach = how.reach * how.unit(self.scale)
        low, high = (self.first + 0.5) * self.scale - reach, (self.last - 0.5) * self.scale + reach
        return max(0, int(low)), min(self.source, int(high) + 1)


def sides(placement: Placement, frame: Size) -> tuple[Side, Side]:
    """The columns and the rows of a picture that lie in the frame."""
    source, resized, left, top = placement.source, placement.resized, placement.left, placement.top
    columns = Side(source.width, resized.width, max(0, -left), min(resized.width, frame.width - left))
    rows = Side(source.height, resized.height, max(0, -top), min(resized.height, frame.height - top))
    return columns, rows


class Band(NamedTuple):
    """Outputs `first` to `last` are `weights` (last - first, end - start) times inputs `start` to `end`."""

    first: int
    last: int
    start: int
    end: int
    weights: Floats

    def counted(self, first: int, start: int) -> Band:
        """The same, its outputs and inputs counted from these."""
        moved = self.first - first, self.last - first, self.start - start, self.end - start
        return Band(*moved, self.weights)


def bands(how: Filter, side: Side, across: int, most: int) -> list[Band]:
    """How a side is made, for `across` columns at once, of `most` outputs each; the first output is 0.

    There are fewer where the product would be too large, and more where outputs have many inputs in common.
    """
    affordable = max(1, int((PRODUCT / across / max(side.scale, 1.0)) ** 0.5) - how.reach)
    step = min(affordable, int(most / min(side.scale, 1.0)))
    found = []
    for start in range(side.first, side.last, step):
        part = side._replace(first=start, last=min(start + step, side.last))
        low, high = part.inputs(how)
        middles = (np.arange(part.first, part.last)[:, None] + 0.5) * side.scale
        weights = how.weigh(np.abs(np.arange(low, high) + 0.5 - middles) / how.unit(side.scale))
        weights /= weights.sum(axis=1, keepdims=True)
        found.append(Band(start - side.first, part.last - side.first, low, high, weights.astype(np.float32)))
    return found
