"""Resizing with filters that widen when shrinking, Pillow's BILINEAR and BICUBIC: only the part that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeinfer.devices._filters import Band, bands
from edgeinfer.pictures import opencv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeinfer.devices._filters import Filter, Side

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]

cv2 = opencv()
# outputs of one product: more would multiply more zeros, fewer are more calls
DOWN, ACROSS = 4, 16
# source rows that are worked on at once, so that what they become on the way stays in the cache
BLOCK = 192


class Part:
    """Some of a picture's rows as numbers, the channels of a row one after the other."""

    def __init__(self, rows: int, channels: int, columns: int) -> None:
        self._channels = channels
        self._bytes = np.empty((rows, channels * columns), np.uint8)
        self._numbers = np.empty(self._bytes.shape, np.float32)

    def take(self, pixels: Bytes) -> Floats:
        """pixels (n, columns, channels) -> (n, channels times columns), valid until the next call."""
        taken, numbers = self._bytes[: len(pixels)], self._numbers[: len(pixels)]
        cv2.split(pixels, list(_planes(taken, self._channels)))
        np.copyto(numbers, taken)
        return numbers


class Block(NamedTuple):
    """Outputs `first` to `last` by bands counted from there and from input `start`, up to input `end`."""

    first: int
    last: int
    start: int
    end: int
    bands: list[Band]


class Across:
    """From rows of the source's columns to rows of the resized ones."""

    def __init__(self, how: Filter, columns: Side, rows: int) -> None:
        found = bands(how, columns, rows, ACROSS)
        left, self.width = found[0].start, found[-1].last
        self._span = found[-1].end - left
        # the products take the weights the other way round
        self._bands = [band.counted(0, left)._replace(weights=np.ascontiguousarray(band.weights.T)) for band in found]

    def run(self, rows: Floats, result: Floats) -> None:
        """rows (..., span) -> result (..., width), both contiguous, at most as many rows as it was made for."""
        rows, result = rows.reshape(-1, self._span), result.reshape(-1, self.width)
        for band in self._bands:
            np.matmul(rows[:, band.start : band.end], band.weights, out=result[:, band.first : band.last])


class Resampler:
    """One source size's way into the frame, first down; `run` allocates nothing that is as large as a picture."""

    def __init__(self, how: Filter, columns: Side, rows: Side, channels: int) -> None:
        self._columns = slice(*columns.inputs(how))
        span = self._columns.stop - self._columns.start
        self._blocks = list(_blocks(bands(how, rows, span * channels, DOWN)))
        highest = max(block.last - block.first for block in self._blocks)
        self._across = Across(how, columns, highest * channels)
        width = self._across.width * channels
        self._part = Part(max(block.end - block.start for block in self._blocks), channels, span)
        self._tall = np.empty((highest, span * channels), np.float32)
        self._wide = np.empty((highest, width), np.float32)
        self._result = np.empty((rows.last - rows.first, width), np.uint8)
        self._planes = _planes(self._result, channels)

    def run(self, pixels: Bytes) -> Bytes:
        """pixels (h, w, channels) -> planes (channels, ...) of what is seen of it resized, valid until the next run."""
        # OpenBLAS for ARM leaves complaints, such as a division by zero, that no number here gives cause for
        with np.errstate(all="ignore"):
            for first, last, start, end, down in self._blocks:
                part = self._part.take(pixels[start:end, self._columns])
                tall, wide = self._tall[: last - first], self._wide[: last - first]
                for band in down:
                    np.matmul(band.weights, part[band.start : band.end], out=tall[band.first : band.last])
                self._across.run(tall, wide)
                cv2.convertScaleAbs(wide, self._result[first:last])
        return self._planes


class RoundingResampler:
    """As a `Resampler`, but first across, and to pixel values after each direction.

    So Pillow does it, and where a filter overshoots it can be seen: what is cut off would else be made up for by
    the other direction.
    """

    def __init__(self, how: Filter, columns: Side, rows: Side, channels: int) -> None:
        self._columns = slice(*columns.inputs(how))
        self._across = Across(how, columns, BLOCK * channels)
        width = self._across.width * channels
        found = bands(how, rows, width, DOWN)
        self._top, self._bottom = found[0].start, found[-1].end
        self._down = _in_blocks(found)
        self._part = Part(BLOCK, channels, self._columns.stop - self._columns.start)
        self._wide = np.empty((BLOCK, width), np.float32)
        self._share = np.empty((max(band.last - band.first for band in found), width), np.float32)
        self._sum = np.empty((rows.last - rows.first, width), np.float32)
        self._result = np.empty(self._sum.shape, np.uint8)
        self._planes = _planes(self._result, channels)

    def run(self, pixels: Bytes) -> Bytes:
        """pixels (h, w, channels) -> planes (channels, ...) of what is seen of it resized, valid until the next run."""
        self._sum[...] = 0
        with np.errstate(all="ignore"):
            for start, down in zip(range(self._top, self._bottom, BLOCK), self._down):
                part = self._part.take(pixels[start : min(start + BLOCK, self._bottom), self._columns])
                wide = self._wide[: len(part)]
                self._across.run(part, wide)
                _to_pixel_values(wide)
                for band in down:
                    share = self._share[: band.last - band.first]
                    np.matmul(band.weights, wide[band.start : band.end], out=share)
                    self._sum[band.first : band.last] += share
            _to_pixel_values(self._sum)
        cv2.convertScaleAbs(self._sum, self._result)
        return self._planes


def resampler(how: Filter, columns: Side, rows: Side, channels: int) -> Resampler | RoundingResampler:
    """The way into the frame by this filter."""
    return (RoundingResampler if how.overshoots else Resampler)(how, columns, rows, channels)


def _planes(rows: Bytes, channels: int) -> Bytes:
    """rows (h, channels times w) -> the same memory as (channels, h, w)."""
    planes: Bytes = rows.reshape(len(rows), channels, -1).transpose(1, 0, 2)
    return planes


def _blocks(down: list[Band]) -> Iterator[Block]:
    """The bands, as many together as `BLOCK` inputs are enough for, and always one."""
    while down:
        first, _, start, _, _ = down[0]
        count = max(1, sum(band.end <= start + BLOCK for band in down))
        together = [band.counted(first, start) for band in down[:count]]
        yield Block(first, down[count - 1].last, start, down[count - 1].end, together)
        down = down[count:]


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
