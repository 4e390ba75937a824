"""Pictures into the rows of an input tensor, with OpenCV: convert, resize, place, reorder, scale, cast."""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices._filters import FILTERS, sides
from edgeinfer.devices._pixelvalues import pixel_values
from edgeinfer.devices._resample import resampler
from edgeinfer.pictures import opencv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.devices._filters import Side
    from edgeinfer.devices._resample import Resampler, RoundingResampler
    from edgeinfer.devices.images import Picture
    from edgeinfer.spec import Placement, Preprocess

    Bytes = NDArray[np.uint8]

cv2 = opencv()
# a whole resized picture may be so many times the frame; beyond it only the part that is seen is computed
SPACIOUS = 16
# OpenCV looks numbers up by their size; to all its versions a float16 is two bytes
_BITS = {np.dtype(np.uint8): np.uint8, np.dtype(np.float16): np.uint16, np.dtype(np.float32): np.float32}
# OpenCV's code for one channel was seen to get the first column wrong on (emulated) aarch64, in slight enlargements
LONE_CHANNEL = platform.machine() in ("x86_64", "AMD64")
# how channels come into another order: (channels there are, the channel each of three is read from); None copies
_CONVERSIONS: dict[tuple[int, tuple[int, ...]], int | None] = {
    (1, (0, 0, 0)): cv2.COLOR_GRAY2BGR,
    (3, (0, 1, 2)): None,
    (3, (2, 1, 0)): cv2.COLOR_BGR2RGB,
    (4, (0, 1, 2)): cv2.COLOR_BGRA2BGR,
    (4, (2, 1, 0)): cv2.COLOR_BGRA2RGB,
}


def _resize(pixels: Bytes, resized: Bytes) -> None:
    """Fill `resized` with the picture, by OpenCV's linear interpolation."""
    height, width, channels = resized.shape
    if channels > 1 or LONE_CHANNEL:
        cv2.resize(pixels, (width, height), dst=resized)
    else:
        cv2.extractChannel(cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), (width, height)), 0, dst=resized)


class Scratch:
    """Memory that grows to what was asked for at most, and is handed out in any shape."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, *shape: int) -> Bytes:
        size = math.prod(shape)
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(shape)


class Planes:
    """Fills the rows of `tensor` (n, 3, H, W), or (n, H, W, 3) uint8 where the graph does the arithmetic."""

    def __init__(self, preprocess: Preprocess, tensor: NDArray[Any]) -> None:
        self._preprocess, self._tensor = preprocess, tensor
        self._filter = FILTERS[preprocess.interpolation]
        self._interleaved = preprocess.where == "graph"
        values = pixel_values(preprocess, str(tensor.dtype))
        # (3, 1, 256): OpenCV wants a row, of bits it can copy
        self._tables = values[:, None].view(_BITS[tensor.dtype])
        self._placements: list[Placement | None] = [None] * len(tensor)
        self._converted, self._resized, self._split = Scratch(), Scratch(), Scratch()
        self._resamplers: dict[tuple[Side, Side, int], Resampler | RoundingResampler] = {}

    def fill(self, row: int, picture: Picture) -> Placement:
        """Write one picture into row `row`; where it lies there."""
        placement = self._placements[row]
        if placement is None or placement.source != picture.size:
            placement = self._preprocess.place(picture.size)
            self._paint(row)
            self._placements[row] = placement
        columns, rows = sides(placement, self._preprocess.size)
        part = self._part(row, placement, columns, rows)
        pixels, order = self._pixels(picture), picture.order(self._preprocess.color)
        if placement.source == placement.resized:
            self._store(_cut(pixels, columns, rows), order, part)
        elif self._filtered(placement):
            self._store_planes(self._resample(pixels, columns, rows), order, part)
        else:
            resized = self._resized(placement.resized.height, placement.resized.width, pixels.shape[2])
            _resize(pixels, resized)
            self._store(_cut(resized, columns, rows), order, part)
        return placement

    def _paint(self, row: int) -> None:
        """The padding; it stays until a picture of another size comes."""
        pad = self._preprocess.pad
        if self._interleaved:
            self._tensor[row] = pad
        else:
            self._tensor[row] = self._tables[:, 0, pad, None, None].view(self._tensor.dtype)

    def _part(self, row: int, placement: Placement, columns: Side, rows: Side) -> NDArray[Any]:
        """Where the picture goes: (height, width, 3) of the frame, or (3, height, width) of its planes."""
        frame, top, left = self._tensor[row], placement.top, placement.left
        across, down = slice(left + columns.first, left + columns.last), slice(top + rows.first, top + rows.last)
        part: NDArray[Any] = frame[down, across] if self._interleaved else frame[:, down, across]
        return part

    def _store(self, pixels: Bytes, order: tuple[int, ...], part: NDArray[Any]) -> None:
        """Pixels (height, width, channels) to their part of the frame, their channels in the model's order."""
        if self._interleaved:
            conversion = _CONVERSIONS[pixels.shape[2], order]
            if conversion is None:
                np.copyto(part, pixels)
            else:
                cv2.cvtColor(pixels, conversion, dst=part)
        else:
            height, width, channels = pixels.shape
            planes = self._split(channels, height, width)
            cv2.split(pixels, list(planes))
            self._store_planes(planes, order, part)

    def _store_planes(self, planes: Bytes, order: tuple[int, ...], part: NDArray[Any]) -> None:
        """Planes (channels, height, width) to their part of the frame, in the model's order."""
        if self._interleaved:
            cv2.merge([planes[channel] for channel in order], part)
        else:
            for channel, table, target in zip(order, self._tables, part):
                cv2.LUT(planes[channel], table, target.view(table.dtype))

    def _filtered(self, placement: Placement) -> bool:
        size, resized = self._preprocess.size, placement.resized
        spacious = resized.height * resized.width > SPACIOUS * size.height * size.width
        return self._filter.widens or spacious

    def _pixels(self, picture: Picture) -> Bytes:
        if not picture.nv12:
            return picture.pixels
        scratch = self._converted(picture.size.height, picture.size.width, 3)
        cv2.cvtColor(picture.pixels, cv2.COLOR_YUV2BGR_NV12, dst=scratch)
        return scratch

    def _resample(self, pixels: Bytes, columns: Side, rows: Side) -> Bytes:
        sizes = (columns, rows, pixels.shape[2])
        way = self._resamplers.get(sizes)
        if way is None:
            way = resampler(self._filter, *sizes)
            self._resamplers = {sizes: way}
        return way.run(pixels)


def _cut(pixels: Bytes, columns: Side, rows: Side) -> Bytes:
    """What is seen of a resized picture."""
    return pixels[rows.first : rows.last, columns.first : columns.last]
