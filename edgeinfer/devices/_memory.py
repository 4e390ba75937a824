"""Memory on the GPU, and memory of the host's that the GPU reaches."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices._driver import call, library
from edgeinfer.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tensor:
    """Numbers in the GPU's memory, rows side by side; whoever made it frees it.

    Other libraries read it through `__cuda_array_interface__`, on its stream.
    """

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: str, stream: int) -> None:
        self.pointer, self.shape, self.dtype, self._stream = pointer, tuple(shape), dtype, stream
        self.nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize

    def rows(self, count: int) -> Tensor:
        """The first `count` rows, in the same memory."""
        return Tensor(self.pointer, (count, *self.shape[1:]), self.dtype, self._stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self._stream,
            "version": 3,
        }


class Memory:
    """All that one device has allocated; the primary context must be current."""

    def __init__(self) -> None:
        self._held: dict[int, str] = {}  # address -> the function that frees it

    def on_device(self, nbytes: int) -> int:
        """The address of fresh memory on the GPU."""
        pointer = int(self._allocated("cuMemAlloc", nbytes))
        self._held[pointer] = "cuMemFree"
        return pointer

    def on_host(self, nbytes: int) -> int:
        """The address of page-locked memory of the host's, mapped for the GPU."""
        pointer = int(self._allocated("cuMemHostAlloc", nbytes, library().CU_MEMHOSTALLOC_DEVICEMAP))
        self._held[pointer] = "cuMemFreeHost"
        return pointer

    def _allocated(self, name: str, nbytes: int, *flags: Any) -> Any:
        try:
            return call(name, max(nbytes, 1), *flags)
        except DeviceError as error:
            raise type(error)(f"{nbytes:,} bytes were asked for: {error}", hint=error.hint) from error

    def free(self, pointer: int) -> None:
        """Free what is at this address, if it is still held."""
        name = self._held.pop(pointer, "")
        if name:
            call(name, pointer)

    def close(self) -> None:
        """Free all; a failure on the way stops none of the rest."""
        with ExitStack() as each:
            for pointer in tuple(self._held):
                each.callback(self.free, pointer)


class Mirror:
    """Bytes that the host and the GPU both see: two copies, or one where both use the same memory.

    The host's side is page-locked, so that copies run beside other work and can be captured in a graph.
    """

    def __init__(self, memory: Memory, nbytes: int, *, mapped: bool) -> None:
        self._memory, self.nbytes, self._mapped = memory, nbytes, mapped
        self._address = memory.on_host(nbytes)
        try:
            if mapped:
                self.pointer = int(call("cuMemHostGetDevicePointer", self._address, 0))
            else:
                self.pointer = memory.on_device(nbytes)
        except BaseException:
            memory.free(self._address)
            raise
        self.host = view(self._address, nbytes)

    def push(self, nbytes: int, stream: Any) -> None:
        """The first `nbytes` to the GPU, when the stream gets there."""
        if not self._mapped:
            call("cuMemcpyHtoDAsync", self.pointer, self._address, nbytes, stream)

    def pull(self, nbytes: int, stream: Any) -> None:
        """The first `nbytes` from the GPU; the host sees them when it has waited for the stream."""
        if not self._mapped:
            call("cuMemcpyDtoHAsync", self._address, self.pointer, nbytes, stream)

    def free(self) -> None:
        self.host = self.host[:0]
        if not self._mapped:
            self._memory.free(self.pointer)
        self._memory.free(self._address)


def view(address: int, nbytes: int) -> NDArray[np.uint8]:
    """The bytes at an address of the host's."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
