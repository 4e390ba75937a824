"""Pictures into the rows of an input tensor, with OpenCV: convert, resize, place, reorder, scale, cast."""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices._pixelvalues import pixel_values
from edgeinfer.devices._resample import FILTERS, resampler, visible
from edgeinfer.pictures import opencv

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        self._resamplers: dict[tuple[Placement, int], Resampler | RoundingResampler] = {}

    def fill(self, row: int, picture: Picture) -> Placement:
        """Write one picture into row `row`; where it lies there."""
        placement = self._placements[row]
        if placement is None or placement.source != picture.size:
            placement = self._preprocess.place(picture.size)
            self._paint(row)
            self._placements[row] = placement
        store = self._store_interleaved if self._interleaved else self._store
        store(row, placement, self._visible(picture, placement), picture.order(self._preprocess.color))
        return placement

    def _paint(self, row: int) -> None:
        """The padding; it stays until a picture of another size comes."""
        pad = self._preprocess.pad
        if self._interleaved:
            self._tensor[row] = pad
        else:
            self._tensor[row] = self._tables[:, 0, pad, None, None].view(self._tensor.dtype)

    def _store(self, row: int, placement: Placement, pixels: Bytes, order: tuple[int, ...]) -> None:
        """The visible pixels, their channels in the model's order, to their place among the planes."""
        height, width, channels = pixels.shape
        planes = list(self._split(channels, height, width))
        cv2.split(pixels, planes)
        top, left = max(0, placement.top), max(0, placement.left)
        for channel, table, target in zip(order, self._tables, self._tensor[row]):
            part = target[top : top + height, left : left + width]
            cv2.LUT(planes[channel], table, part.view(table.dtype))

    def _store_interleaved(self, row: int, placement: Placement, pixels: Bytes, order: tuple[int, ...]) -> None:
        """The visible pixels, their channels in the model's order, to their place in the frame."""
        height, width, channels = pixels.shape
        top, left = max(0, placement.top), max(0, placement.left)
        part = self._tensor[row, top : top + height, left : left + width]
        conversion = _CONVERSIONS[channels, order]
        if conversion is None:
            np.copyto(part, pixels)
        else:
            cv2.cvtColor(pixels, conversion, dst=part)

    def _visible(self, picture: Picture, placement: Placement) -> Bytes:
        """The resized picture, as far as it lies in the frame."""
        pixels = self._pixels(picture)
        if placement.source != placement.resized and self._filtered(placement):
            return self._resample(pixels, placement)
        if placement.source != placement.resized:
            resized = placement.resized
            scratch = self._resized(resized.height, resized.width, pixels.shape[2])
            _resize(pixels, scratch)
            pixels = scratch
        size = self._preprocess.size
        top, bottom = visible(placement.top, placement.resized.height, size.height)
        left, right = visible(placement.left, placement.resized.width, size.width)
        return pixels[top:bottom, left:right]

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

    def _resample(self, pixels: Bytes, placement: Placement) -> Bytes:
        channels = pixels.shape[2]
        way = self._resamplers.get((placement, channels))
        if way is None:
            way = resampler(self._filter, placement, self._preprocess.size, channels)
            self._resamplers = {(placement, channels): way}
        rounded = self._resized(*way.result.shape)
        cv2.convertScaleAbs(way.run(pixels), rounded)
        return rounded
