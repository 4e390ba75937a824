"""Tensors that clients of this machine leave in shared memory: Triton's system shared memory extension.

A region is read and written as the file that it is. Mapping it would spare a copy, and let a client that shortens its
own region end this process: the kernel answers an access behind the end of a mapped file with SIGBUS.
"""

from __future__ import annotations

import os
import stat
import weakref
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgeinfer.serve import tensors
from edgeinfer.serve.refusals import EXISTS, FORBIDDEN, INVALID, NOT_FOUND, UNAVAILABLE, UNSUPPORTED, Refusal
from edgeinfer.serve.tensors import Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeinfer.serve.tensors import Buffer, Tensor

FOLDER = "/dev/shm"  # noqa: S108 - where shm_open(3) keeps its objects
MOST = 256  # each keeps a file open, of which a process may have 1,024 unless told otherwise
ALL = ""
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
PARAMETERS = (REGION, SIZE, OFFSET)  # of an input, or of an output that is asked for; answers have none, as Triton's


class Region:
    """`size` bytes from `offset` on of the object that clients call `key`; closed when nothing refers to it."""

    def __init__(self, name: str, key: str, offset: int, size: int) -> None:
        self.name, self.key, self.offset, self.size = name, key, offset, size
        self._file = _opened(key)
        weakref.finalize(self, os.close, self._file)
        self.need(offset + size)

    def need(self, end: int) -> None:
        """Refusal if the object is not a file of so many bytes at least."""
        about = os.fstat(self._file)
        if not stat.S_ISREG(about.st_mode):
            raise Refusal(INVALID, f"shared memory key {self.key!r} is not shared memory")
        if about.st_size < end:
            raise Refusal(INVALID, f"shared memory key {self.key!r} holds {about.st_size} bytes, not {end}")

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of so many bytes."""
        data, done = np.empty(size, np.uint8), 0
        self.need(self.offset + offset + size)
        while done < size:
            count = os.preadv(self._file, [data[done:].data], self.offset + offset + done)
            if not count:
                raise Refusal(INVALID, f"shared memory key {self.key!r} became shorter while it was read")
            done += count
        return data.data

    def write(self, offset: int, data: Buffer) -> None:
        view, done = memoryview(data), 0
        self.need(self.offset + offset + len(view))
        try:
            while done < len(view):
                done += os.pwrite(self._file, view[done:], self.offset + offset + done)
        except OSError as error:
            raise Refusal(UNAVAILABLE, f"shared memory key {self.key!r} cannot be written: {error.strerror}") from error


class Regions:
    """The regions that clients registered, by their names; `allowed` says whether they may."""

    def __init__(self, *, allowed: bool = False) -> None:
        self.allowed = allowed
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open `size` bytes from `offset` on of the object called `key`. Refusal says what is wrong with it."""
        self._need_allowed()
        if not name:
            raise Refusal(INVALID, "a shared memory region needs a name")
        if name in self._regions:
            raise Refusal(EXISTS, f"shared memory region {name[:100]!r} is registered already; unregister it first")
        if len(self._regions) >= MOST:
            raise Refusal(UNAVAILABLE, f"{MOST} shared memory regions are registered already")
        if not size:
            raise Refusal(INVALID, f"shared memory region {name[:100]!r} has no bytes")
        self._regions[name] = Region(name, key, offset, size)

    def unregister(self, name: str = ALL) -> None:
        """Forget one region, or all; requests under way keep theirs. As in Triton it need not be there."""
        self._need_allowed()
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = ALL) -> list[dict[str, Any]]:
        """One region, or all. Refusal if there is none of that name."""
        self._need_allowed()
        chosen = [self._found(name)] if name else list(self._regions.values())
        return [{"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.size} for one in chosen]

    def cuda(self, name: str = ALL) -> list[dict[str, Any]]:
        """Regions of a GPU's memory, of which there are none; clients ask before they go. Refusal if one is named."""
        self._need_allowed()
        if name:
            raise Refusal(NOT_FOUND, f"CUDA shared memory region {name[:100]!r} is not registered")
        return []

    def register_cuda(self, name: str) -> None:
        """Refusal."""
        self._need_allowed()
        raise Refusal(UNSUPPORTED, f"region {name[:100]!r}: only system shared memory is supported, not a GPU's")

    def span(self, parameters: Mapping[str, Any], what: str) -> Span | None:
        """Where these parameters of an input or output say that it lies; None if not in shared memory."""
        name, size, offset = (parameters.get(key) for key in PARAMETERS)
        if name is None and size is None and offset is None:
            return None
        self._need_allowed()
        if not isinstance(name, str) or not name or size is None:
            raise Refusal(INVALID, f"{what}: {REGION} and {SIZE} go together, a name and a number of bytes")
        region = self._found(name)
        start, count = whole(offset or 0, f"{what}: {OFFSET}"), whole(size, f"{what}: {SIZE}")
        if start + count > region.size:
            told = f"{count} bytes from {start} on are not within region {name[:100]!r} of {region.size}"
            raise Refusal(INVALID, f"{what}: {told}")
        return Span(region, start, count)

    def _found(self, name: str) -> Region:
        region = self._regions.get(name)  # looked up once: a thread may ask while the event loop forgets it
        if region is None:
            raise Refusal(NOT_FOUND, f"shared memory region {name[:100]!r} is not registered")
        return region

    def _need_allowed(self) -> None:
        if not self.allowed:
            raise Refusal(FORBIDDEN, "shared memory is not open to requests; start with --shared-memory")


def brought(tensor: Tensor, take: Callable[[int], None]) -> Tensor:
    """The tensor with its data, once `take` granted the memory for what lies in a region."""
    span = tensor.data
    if not isinstance(span, Span):
        return tensor
    take(span.size)
    return tensors.from_raw(tensor.name, tensor.datatype, tensor.shape, span.region.read(span.offset, span.size))


def placed(tensor: Tensor, span: Span | None) -> Tensor:
    """The tensor left in its region, if it is to lie in one. Refusal if it has no room there."""
    if span is None:
        return tensor
    data = tensors.to_raw(tensor)
    if len(data) > span.size:
        told = f"is {len(data)} bytes, its place in shared memory has {span.size}"
        raise Refusal(INVALID, f"output {tensor.name!r} {told}")
    span.region.write(span.offset, data)
    return tensor._replace(data=span._replace(size=len(data)))


def whole(value: Any, what: str) -> int:
    """The value, if it is a number of bytes; else Refusal."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise Refusal(INVALID, f"{what} is not a number of bytes")
    return value


def _opened(key: str) -> int:
    """The object of this name: a name is all that a key may be, never a path."""
    name = key.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise Refusal(INVALID, f"shared memory key {key[:100]!r} is not a name")
    try:
        return os.open(f"{FOLDER}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise Refusal(NOT_FOUND, f"there is no shared memory of key {key[:100]!r} on the service's machine") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Refusal(INVALID, f"shared memory key {key[:100]!r} cannot be opened: {reason}") from error
