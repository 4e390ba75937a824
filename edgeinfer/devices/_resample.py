"""Resizing with a triangle filter that widens when shrinking, as Pillow's BILINEAR: only the part that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.spec import Placement, Size

    Floats = NDArray[np.float32]

STEP = 16  # outputs computed by one matrix product


class Band(NamedTuple):
    """Outputs `first` to `last` are `weights` (last - first, end - start) times inputs `start` to `end`."""

    first: int
    last: int
    start: int
    end: int
    weights: Floats


def visible(offset: int, resized: int, frame: int) -> tuple[int, int]:
    """The part of a resized side that lies in the frame, in resized pixels."""
    return max(0, -offset), min(resized, frame - offset)


def bands(source: int, resized: int, first: int, last: int, *, widen: bool) -> list[Band]:
    """How outputs `first` to `last` of a side resized from `source` to `resized` pixels are made."""
    found = []
    for start in range(first, last, STEP):
        end = min(start + STEP, last)
        weights = _triangle(source, resized, np.arange(start, end), widen=widen)
        used = np.flatnonzero(weights.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        found.append(
            Band(start - first, end - first, low, high, np.ascontiguousarray(weights[:, low:high], np.float32))
        )
    return found


def _triangle(source: int, resized: int, places: NDArray[Any], *, widen: bool) -> NDArray[np.float64]:
    """Weights (places, source) of a triangle around each output's middle; the rows sum to one."""
    scale = source / resized
    half = max(scale, 1.0) if widen else 1.0
    middles = (places[:, None] + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - middles) / half
    weights: NDArray[np.float64] = np.maximum(1 - distance, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


class Resampler:
    """One source size's way into the frame; `run` allocates nothing that is as large as a picture."""

    def __init__(self, placement: Placement, frame: Size, channels: int, *, widen: bool) -> None:
        source, resized = placement.source, placement.resized
        rows = visible(placement.top, resized.height, frame.height)
        columns = visible(placement.left, resized.width, frame.width)
        self._down = bands(source.height, resized.height, *rows, widen=widen)
        self._across = bands(source.width, resized.width, *columns, widen=widen)
        self._left, self._right = self._across[0].start, self._across[-1].end
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        self._shape = (self._right - self._left, channels, height)
        tallest = max(band.end - band.start for band in self._down)
        self._part = np.empty((tallest, self._right - self._left, channels), np.float32)
        self._tall = np.empty(self._shape, np.float32)
        self.result = np.empty((width, channels, height), np.float32)

    def run(self, pixels: NDArray[np.uint8]) -> Floats:
        """pixels (h, w, channels) -> (width, channels, height) of the visible part, valid until the next run."""
        flat = self._tall.reshape(-1, self._shape[2])
        for band in self._down:
            part = self._part[: band.end - band.start]
            np.copyto(part, pixels[band.start : band.end, self._left : self._right])
            np.matmul(part.reshape(len(part), -1).T, band.weights.T, out=flat[:, band.first : band.last])
        rows, result = self._tall.reshape(len(self._tall), -1), self.result.reshape(len(self.result), -1)
        for band in self._across:
            source = rows[band.start - self._left : band.end - self._left]
            np.matmul(band.weights, source, out=result[band.first : band.last])
        return self.result
