"""Resizing with a triangle filter that widens when shrinking, as Pillow's BILINEAR: only the part that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.spec import Placement, Size

    Floats = NDArray[np.float32]

# multiplications in one matrix product: OpenBLAS gives larger ones to threads, which then wait for those of
# the engine (and of everybody else) many times longer than the work takes
PRODUCT = 250_000


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


def bands(source: int, resized: int, seen: tuple[int, int], across: int, *, widen: bool) -> list[Band]:
    """How the outputs seen of a side resized from `source` to `resized` pixels are made, `across` columns at once."""
    first, last = seen
    reach = max(source / resized, 1.0)
    step = max(1, int((PRODUCT / across / reach) ** 0.5) - 1)
    found = []
    for start in range(first, last, step):
        end = min(start + step, last)
        weights = _triangle(source, resized, np.arange(start, end), widen=widen)
        used = np.flatnonzero(weights.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        found.append(Band(start - first, end - first, low, high, weights[:, low:high].astype(np.float32)))
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
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        narrow = bands(source.width, resized.width, columns, height * channels**2, widen=widen)
        self._left, self._right = narrow[0].start, narrow[-1].end
        self._span = (self._right - self._left) * channels
        self._down = bands(source.height, resized.height, rows, self._span, widen=widen)
        self._across = [_spread(band, self._left, channels) for band in narrow]
        tallest = max(band.end - band.start for band in self._down)
        self._part = np.empty((tallest, self._right - self._left, channels), np.float32)
        self._tall = np.empty((height, self._span), np.float32)
        self._result = np.empty((height, width * channels), np.float32)
        self.result = self._result.reshape(height, width, channels)

    def run(self, pixels: NDArray[np.uint8]) -> Floats:
        """pixels (h, w, channels) -> the visible part of the resized picture, valid until the next run."""
        # OpenBLAS for ARM leaves complaints, such as a division by zero, that no number here gives cause for
        with np.errstate(all="ignore"):
            for band in self._down:
                part = self._part[: band.end - band.start]
                np.copyto(part, pixels[band.start : band.end, self._left : self._right])
                np.matmul(band.weights, part.reshape(len(part), -1), out=self._tall[band.first : band.last])
            for band in self._across:
                source = self._tall[:, band.start : band.end]
                np.matmul(source, band.weights, out=self._result[:, band.first : band.last])
        return self.result


def _spread(band: Band, left: int, channels: int) -> Band:
    """The band over interleaved channels, transposed, counted from column `left`: no channel meets another."""
    first, last = band.first * channels, band.last * channels
    start, end = (band.start - left) * channels, (band.end - left) * channels
    return Band(first, last, start, end, np.kron(band.weights.T, np.eye(channels, dtype=np.float32)))
