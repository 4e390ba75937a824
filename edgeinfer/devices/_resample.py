"""Resizing with filters that widen when shrinking, Pillow's BILINEAR and BICUBIC: only the part that is seen."""

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
# source rows that go across at once
BLOCK = 128


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


# by Preprocess.interpolation
FILTERS = {
    "linear": Filter(_triangle, 1, widens=False, overshoots=False),
    "linear-antialias": Filter(_triangle, 1, widens=True, overshoots=False),
    "cubic-antialias": Filter(_cubic, 2, widens=True, overshoots=True),
}


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


def bands(how: Filter, source: int, resized: int, seen: tuple[int, int], across: int) -> list[Band]:
    """How the outputs seen of a side resized from `source` to `resized` pixels are made, `across` columns at once."""
    scale = source / resized
    one = max(scale, 1.0) if how.widens else 1.0
    step = max(1, int((PRODUCT / across / max(scale, 1.0)) ** 0.5) - how.reach)
    found = []
    for start in range(*seen, step):
        end = min(start + step, seen[1])
        middles = (np.arange(start, end)[:, None] + 0.5) * scale
        low = max(0, int(middles[0, 0] - how.reach * one))
        high = min(source, int(middles[-1, 0] + how.reach * one) + 1)
        weights = how.weigh(np.abs(np.arange(low, high) + 0.5 - middles) / one)
        weights /= weights.sum(axis=1, keepdims=True)
        found.append(Band(start - seen[0], end - seen[0], low, high, weights.astype(np.float32)))
    return found


class Across:
    """From rows of the source's columns `seen` to rows of the visible columns: all channels of a row lie together."""

    def __init__(self, how: Filter, placement: Placement, frame: Size, channels: int, rows: int) -> None:
        columns = visible(placement.left, placement.resized.width, frame.width)
        found = bands(how, placement.source.width, placement.resized.width, columns, rows * channels**2)
        self.seen = slice(found[0].start, found[-1].end)
        self.span, self.width = (found[-1].end - found[0].start) * channels, found[-1].last * channels
        self._bands = [_spread(band, self.seen.start, channels) for band in found]

    def run(self, rows: Floats, result: Floats) -> None:
        """rows (n, span) -> result (n, width), n at most as many rows as it was made for."""
        for band in self._bands:
            np.matmul(rows[:, band.start : band.end], band.weights, out=result[:, band.first : band.last])


class Resampler:
    """One source size's way into the frame, first down; `run` allocates nothing that is as large as a picture."""

    def __init__(self, how: Filter, placement: Placement, frame: Size, channels: int) -> None:
        rows = visible(placement.top, placement.resized.height, frame.height)
        height = rows[1] - rows[0]
        self._across = Across(how, placement, frame, channels, height)
        self._down = bands(how, placement.source.height, placement.resized.height, rows, self._across.span)
        tallest = max(band.end - band.start for band in self._down)
        self._part = np.empty((tallest, self._across.span // channels, channels), np.float32)
        self._tall = np.empty((height, self._across.span), np.float32)
        self._result = np.empty((height, self._across.width), np.float32)
        self.result = self._result.reshape(height, -1, channels)

    def run(self, pixels: NDArray[np.uint8]) -> Floats:
        """pixels (h, w, channels) -> the visible part of the resized picture, valid until the next run."""
        # OpenBLAS for ARM leaves complaints, such as a division by zero, that no number here gives cause for
        with np.errstate(all="ignore"):
            for band in self._down:
                part = self._part[: band.end - band.start]
                np.copyto(part, pixels[band.start : band.end, self._across.seen])
                np.matmul(band.weights, part.reshape(len(part), -1), out=self._tall[band.first : band.last])
            self._across.run(self._tall, self._result)
        return self.result


class RoundingResampler:
    """As a `Resampler`, but first across, and to pixel values after each direction.

    So Pillow does it, and where a filter overshoots it can be seen: what is cut off would else be made up for by
    the other direction.
    """

    def __init__(self, how: Filter, placement: Placement, frame: Size, channels: int) -> None:
        rows = visible(placement.top, placement.resized.height, frame.height)
        self._across = Across(how, placement, frame, channels, BLOCK)
        found = bands(how, placement.source.height, placement.resized.height, rows, self._across.width)
        self._top, self._bottom = found[0].start, found[-1].end
        self._down = _in_blocks(found)
        self._part = np.empty((BLOCK, self._across.span // channels, channels), np.float32)
        self._wide = np.empty((BLOCK, self._across.width), np.float32)
        self._sum = np.empty((max(band.last - band.first for band in found), self._across.width), np.float32)
        self._result = np.empty((rows[1] - rows[0], self._across.width), np.float32)
        self.result = self._result.reshape(len(self._result), -1, channels)

    def run(self, pixels: NDArray[np.uint8]) -> Floats:
        """pixels (h, w, channels) -> the visible part of the resized picture, valid until the next run."""
        self._result[...] = 0
        with np.errstate(all="ignore"):
            for start, down in zip(range(self._top, self._bottom, BLOCK), self._down):
                rows = pixels[start : min(start + BLOCK, self._bottom), self._across.seen]
                part, wide = self._part[: len(rows)], self._wide[: len(rows)]
                np.copyto(part, rows)
                self._across.run(part.reshape(len(rows), -1), wide)
                _to_pixel_values(wide)
                for band in down:
                    share = self._sum[: band.last - band.first]
                    np.matmul(band.weights, wide[band.start : band.end], out=share)
                    self._result[band.first : band.last] += share
            _to_pixel_values(self._result)
        return self.result


def resampler(how: Filter, placement: Placement, frame: Size, channels: int) -> Resampler | RoundingResampler:
    """The way into the frame by this filter."""
    return (RoundingResampler if how.overshoots else Resampler)(how, placement, frame, channels)


def _in_blocks(down: list[Band]) -> list[list[Band]]:
    """What each block of inputs gives to the outputs; its bands' inputs are counted from its first."""
    top = down[0].start
    blocks: list[list[Band]] = [[] for _ in range(top, down[-1].end, BLOCK)]
    for first, last, start, end, weights in down:
        for block in range((start - top) // BLOCK, (end - 1 - top) // BLOCK + 1):
            zero = top + block * BLOCK
            low, high = max(start, zero), min(end, zero + BLOCK)
            share = np.ascontiguousarray(weights[:, low - start : high - start])
            blocks[block].append(Band(first, last, low - zero, high - zero, share))
    return blocks


def _to_pixel_values(values: Floats) -> None:
    """Halves go up, as in Pillow."""
    np.clip(values, 0, 255, out=values)
    values += 0.5
    np.floor(values, out=values)


def _spread(band: Band, left: int, channels: int) -> Band:
    """The band over interleaved channels, transposed, counted from column `left`: no channel meets another."""
    first, last = band.first * channels, band.last * channels
    start, end = (band.start - left) * channels, (band.end - left) * channels
    return Band(first, last, start, end, np.kron(band.weights.T, np.eye(channels, dtype=np.float32)))
