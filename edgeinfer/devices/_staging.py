"""Where frames wait for the GPU: one page-locked block of records and pixels, sent over in a single copy.

    host      | frame records | pixels of frames that the host holds |
    on the GPU| the same                                              | room for frames copied there directly |

The layout of a batch depends on its pictures' sizes alone and is kept for the next batch of the same sizes. When
larger pictures come the block grows, and what was captured with its addresses is outdated: `StagedBatch.key` says so.
Where the GPU shares the host's memory it reads the pixels in the host's part, and the records alone are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices import _resident, launch
from edgeinfer.devices._driver import call
from edgeinfer.devices._memory import Memory, Mirror
from edgeinfer.devices.images import Picture, picture
from edgeinfer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edgeinfer.devices._driver import Context
    from edgeinfer.spec import ModelSpec, Placement

_ALIGNED = 256
_LAYOUTS = 64  # batches of so many different sizes are remembered

HOST, PINNED, IN_PLACE, ELSEWHERE = range(4)  # how a picture's pixels come to where the kernel reads them


class StagedBatch(NamedTuple):
    """A staged batch: where each picture lies in the model's frame, the bytes to send, what has to stay alive.

    Work captured in a graph for one batch does for every other of the same `key`.
    """

    placements: tuple[Placement, ...]
    nbytes: int
    key: tuple[int, ...]
    owners: tuple[Any, ...]

    @property
    def pictures(self) -> int:
        return len(self.placements)


class _Arrival(NamedTuple):
    picture: Picture
    way: int
    address: int = 0  # of the pixels, where the GPU sees them already
    resident: _resident.Resident | None = None


class _Layout(NamedTuple):
    """Records of a batch, and each picture's bytes in the block (empty where the pixels stay where they are)."""

    records: NDArray[Any]
    places: tuple[range, ...]
    placements: tuple[Placement, ...]
    sent: int
    total: int


class Staging:
    """The block of one device."""

    def __init__(self, spec: ModelSpec, memory: Memory, context: Context, stream: Any, *, mapped: bool) -> None:
        self._preprocess, self._memory, self._context, self._stream = spec.preprocess, memory, context, stream
        self._mapped = mapped
        self._onboard = memory.on_device(spec.batch.max * launch.FRAME.itemsize) if mapped else 0
        self._generation = 0
        self._layouts: OrderedDict[tuple[Any, ...], _Layout] = OrderedDict()
        self._take(Mirror(memory, 1 << 16, mapped=mapped))

    def _take(self, block: Mirror) -> None:
        room = block.nbytes // launch.FRAME.itemsize * launch.FRAME.itemsize
        records = block.host[:room].view(launch.FRAME)
        self._block, self._records = block, records  # both or, where a signal's exception comes, neither

    @property
    def pointer(self) -> int:
        """Where the GPU finds the frame records."""
        return self._onboard or self._block.pointer

    def fill(self, images: Sequence[Any], pixels: str, join: Callable[[int], None]) -> StagedBatch:
        """Lay the pictures out; the GPU must be done with the last ones. `join`: see `_resident.find`."""
        arrivals = [self._arrival(image, pixels, join) for image in images]
        layout = self._layout(arrivals)
        records = self._records[: len(arrivals)]
        records[...] = layout.records
        for at, (arrival, place) in enumerate(zip(arrivals, layout.places)):
            if arrival.way == HOST:
                self._copy(arrival.picture, place)
            elif arrival.way == IN_PLACE:
                records["pixels"][at] = arrival.address
                if arrival.picture.nv12:
                    records["chroma"][at] = arrival.address + arrival.picture.size.height * int(records["pitch"][at])
            else:
                self._fetch(arrival, place)
        key = (len(images), layout.sent, self._generation)
        return StagedBatch(layout.placements, layout.sent, key, tuple(one for one in arrivals if one.way != HOST))

    def push(self, batch: StagedBatch) -> None:
        """Send the block: records, whose counters this sets to zero, and the pixels of the host's frames."""
        self._block.push(batch.nbytes, self._stream)
        if self._onboard:
            nbytes = batch.pictures * launch.FRAME.itemsize
            call("cuMemcpyHtoDAsync", self._onboard, self._block.host.ctypes.data, nbytes, self._stream)

    def _arrival(self, image: Any, pixels: str, join: Callable[[int], None]) -> _Arrival:
        resident = _resident.find(image, self._context, self._stream, join)
        if resident is not None:
            one = picture(resident.array, pixels)
            if not _packed(one):
                raise InputError(
                    f"a frame on the GPU must hold whole pixels side by side, got strides {one.pixels.strides}",
                    hint="make it contiguous first",
                )
            way = ELSEWHERE if resident.context else IN_PLACE
            return _Arrival(one, way, resident.array.ctypes.data, resident)
        one = picture(image, pixels)
        seen_at = _resident.pinned(one.pixels) if _packed(one) else 0
        if not seen_at:
            return _Arrival(one, HOST)
        return _Arrival(one, IN_PLACE if self._mapped else PINNED, seen_at)

    def _layout(self, arrivals: Sequence[_Arrival]) -> _Layout:
        shapes = tuple(_shape(one) for one in arrivals)
        layout = self._layouts.get(shapes)
        if layout is None:
            layout = self._laid_out(arrivals)
            if layout.total > self._block.nbytes:
                self._grow(layout.total)
                layout = self._laid_out(arrivals)
            self._layouts[shapes] = layout
            if len(self._layouts) > _LAYOUTS:
                self._layouts.popitem(last=False)
        self._layouts.move_to_end(shapes)
        return layout

    def _grow(self, nbytes: int) -> None:
        fresh = Mirror(self._memory, nbytes, mapped=self._mapped)
        old = self._block
        # first: a signal's exception may come in between
        self._layouts.clear()
        self._generation += 1
        self._take(fresh)
        old.free()

    def _laid_out(self, arrivals: Sequence[_Arrival]) -> _Layout:
        """Records first, then what is sent with them, then what is copied to the GPU directly."""
        end = sent = _aligned(len(arrivals) * launch.FRAME.itemsize)
        places = [range(0)] * len(arrivals)
        for ways in ((HOST,), (PINNED, ELSEWHERE)):
            for at, one in enumerate(arrivals):
                if one.way in ways:
                    places[at] = range(end, end + _extent(one))
                    end = _aligned(places[at].stop)
            sent = end if ways == (HOST,) else sent
        pixels = [self._pixels(one, place) for one, place in zip(arrivals, places)]
        placements = tuple(self._preprocess.place(one.picture.size) for one in arrivals)
        return _Layout(launch.frames(pixels, placements), tuple(places), placements, sent, end)

    def _pixels(self, one: _Arrival, place: range) -> launch.Pixels:
        found = one.picture
        width = found.pixels.shape[1]
        step = 1 if found.nv12 else found.pixels.shape[2]
        pitch = width * step
        if one.way != HOST:
            pitch = found.pixels.strides[0]
            step = 1 if found.nv12 else found.pixels.strides[1]
        address = self._block.pointer + place.start
        chroma = address + found.size.height * pitch if found.nv12 else 0
        order = found.order(self._preprocess.color)
        return launch.Pixels(address, pitch, step, order, chroma, pitch if found.nv12 else 0)

    def _copy(self, one: Picture, place: range) -> None:
        """A frame of the host's into the block, its rows side by side whatever they were."""
        np.copyto(self._block.host[place.start : place.stop].reshape(one.pixels.shape), one.pixels)

    def _fetch(self, arrival: _Arrival, place: range) -> None:
        """Pixels to the GPU without the detour through the block's host side, rows as far apart as they are."""
        to = self._block.pointer + place.start
        if arrival.resident is None:
            call("cuMemcpyHtoDAsync", to, arrival.picture.pixels.ctypes.data, len(place), self._stream)
            return
        context = arrival.resident.context
        call("cuCtxPushCurrent", context)
        try:
            call("cuCtxSynchronize")  # its streams are not ours to wait for
        finally:
            call("cuCtxPopCurrent")
        call("cuMemcpyPeerAsync", to, self._context.handle, arrival.address, context, len(place), self._stream)


def _packed(one: Picture) -> bool:
    """Whether a pixel's channels lie side by side, and rows after rows."""
    if one.nv12:
        return one.pixels.strides[1] == 1 and one.pixels.strides[0] >= one.pixels.shape[1]
    (height, width, channels), (down, across, within) = one.pixels.shape, one.pixels.strides
    inside = (channels == 1 or within == 1) and (width == 1 or across >= channels)
    return inside and (height == 1 or down >= across * (width - 1) + channels)


def _extent(one: _Arrival) -> int:
    """Bytes that a picture takes in the block."""
    pixels = one.picture.pixels
    if one.way == HOST:
        return pixels.nbytes
    return int(sum((side - 1) * step for side, step in zip(pixels.shape, pixels.strides))) + 1


def _shape(one: _Arrival) -> tuple[Any, ...]:
    """What a picture's place in the block depends on."""
    pitch = () if one.way == HOST else one.picture.pixels.strides[:2]
    return (one.way, one.picture.pixels.shape, one.picture.rgb, one.picture.nv12, pitch)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
