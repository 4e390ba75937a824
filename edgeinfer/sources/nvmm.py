"""Frames that NVIDIA's cameras and decoders leave in memory of their own (`memory:NVMM`), for the GPU to read.

On a desktop CUDA has their pixels already; on a Jetson it reaches them by way of an EGLImage, as rows or as arrays.
Either way they are copied into memory of ours, on the GPU: there are few surfaces, whoever fills them waits while one
is kept, and a model reads rows. When that is done the buffer is given back.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices._driver import Context, call, library
from edgeinfer.devices._memory import Memory
from edgeinfer.devices.images import IN_MAIN_MEMORY
from edgeinfer.errors import BackendUnavailable, DeviceError, SourceError
from edgeinfer.sources import nvbufsurface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeinfer.spec import Size

    Planes = list[dict[str, Any]]  # each the source of a copy, by the names of CUDA_MEMCPY2D


class GpuImage:
    """NV12 pixels (h * 3 / 2, w) uint8 in the GPU's memory, which stays theirs as long as somebody has the image.

    They are complete; who reads them on a stream waits for that before letting go of the image. What is cut out of it,
    and what NumPy makes of it, is a copy in main memory; of a step between rows those rows alone are fetched.
    """

    dtype, ndim = np.dtype(np.uint8), 2

    def __init__(self, pool: Pool, pointer: int) -> None:
        self.pool, self._pointer = pool, pointer
        self.shape = pool.size.height * 3 // 2, pool.size.width
        weakref.finalize(self, pool.spare.append, pointer).atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        facts = {"shape": self.shape, "typestr": "|u1", "data": (self._pointer, False), "strides": None}
        return {**facts, "stream": int(self.pool.stream), "version": 3}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        found: NDArray[Any]
        if isinstance(rows, slice) and (rows.step or 1) > 0:
            found = self.pool.fetched(self._pointer, range(len(self))[rows])[:, columns]
        else:
            found = np.asarray(self)[key]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def copy(self) -> GpuImage:
        """The image itself: who gets it only reads it."""
        return self


class Pool:
    """Memory on one GPU for pictures of one size, taken again for later ones; freed with the last who has any of it."""

    def __init__(self, ordinal: int, size: Size) -> None:
        self.ordinal, self.size = ordinal, size
        self.spare: list[int] = []
        self.context, self._memory = Context(ordinal), Memory()
        try:
            with self.context.alone():
                self.stream = call("cuStreamCreate", library().CUstream_flags.CU_STREAM_NON_BLOCKING)
        except BaseException:
            self.context.close()
            raise
        weakref.finalize(self, _free, self.context, self._memory, self.stream).atexit = False

    def copied(self, planes: Planes) -> GpuImage:
        """An image of these two planes; waits. The context must be current."""
        height, width = self.size.height, self.size.width
        pointer = self.spare.pop() if self.spare else self._memory.on_device(height * 3 // 2 * width)
        image = GpuImage(self, pointer)
        try:
            for plane, (top, rows) in zip(planes, ((0, height), (height, height // 2))):
                to = {"dstMemoryType": _kind("DEVICE"), "dstDevice": pointer + top * width}
                self._copy({**plane, **to}, rows)
        finally:  # what was begun reads the buffer
            call("cuStreamSynchronize", self.stream)
        return image

    def fetched(self, pointer: int, rows: range) -> NDArray[np.uint8]:
        """A copy of these rows of an image, in main memory. Raises SourceError."""
        width = self.size.width
        lines = np.empty((len(rows), width), np.uint8)
        if not len(rows):
            return lines
        source = {"srcMemoryType": _kind("DEVICE"), "srcDevice": pointer + rows.start * width}
        to = {"dstMemoryType": _kind("HOST"), "dstHost": lines.ctypes.data}
        try:
            with self.context:
                self._copy({**source, "srcPitch": rows.step * width, **to}, len(rows))
                call("cuStreamSynchronize", self.stream)
        except DeviceError as error:
            raise SourceError(f"a frame cannot be fetched from the GPU: {error}", hint=error.hint) from error
        return lines

    def _copy(self, facts: dict[str, Any], rows: int) -> None:
        copy, width = library().CUDA_MEMCPY2D(), self.size.width
        for name, value in {**facts, "dstPitch": width, "WidthInBytes": width, "Height": rows}.items():
            setattr(copy, name, value)
        call("cuMemcpy2DAsync", copy, self.stream)


def _kind(name: str) -> Any:
    return getattr(library().CUmemorytype, f"CU_MEMORYTYPE_{name}")


def _free(context: Context, memory: Memory, stream: Any) -> None:
    with suppress(DeviceError), ExitStack() as end:  # of a lost GPU nothing can be freed
        end.callback(context.close)
        end.enter_context(context.alone())
        end.callback(call, "cuStreamDestroy", stream)
        end.callback(memory.close)


def read(buffer: int, size: Size, pool: Pool | None, shown: str) -> GpuImage:
    """The NV12 picture of this size in the Gst.Buffer at this address, in memory of the pool, or of one that fits.

    The buffer is done with when this returns. `shown` is what its source is called. Raises SourceError.
    """
    try:
        with nvbufsurface.mapped(buffer) as surface:
            _check(surface, size)
            if pool is None or (pool.ordinal, pool.size) != (surface.gpuId, size):
                pool = Pool(surface.gpuId, size)
            # nobody says whether CUDA waits for the whole GPU when it takes an image or gives it back
            with pool.context.alone(), _planes(surface) as planes:
                return pool.copied(planes)
    except (BackendUnavailable, DeviceError, OSError) as error:
        hints = filter(None, (getattr(error, "hint", ""), IN_MAIN_MEMORY))
        raise SourceError(f"{shown}: its frames do not come to the GPU: {error}", hint="; or ".join(hints)) from error


def _check(surface: nvbufsurface.Surface, size: Size) -> None:
    """DeviceError unless the surface holds one NV12 picture of this size."""
    planes = surface.surfaceList[0].planeParams if surface.surfaceList else nvbufsurface.PlaneParams()
    sides = [(planes.height[at], planes.width[at]) for at in range(min(planes.num_planes, nvbufsurface.PLANES))]
    wanted = [(size.height, size.width), (size.height // 2, size.width // 2)]
    # a decoder's planes may end behind the picture
    roomy = len(sides) == 2 and all(has >= needs for pair in zip(sides, wanted) for has, needs in zip(*pair))
    if not roomy or surface.numFilled > 1 or size.height % 2 or size.width % 2:
        raise DeviceError(
            f"a surface has {surface.numFilled} pictures with planes {sides}, not one NV12 picture with planes {wanted}"
        )


@contextmanager
def _planes(surface: nvbufsurface.Surface) -> Iterator[Planes]:
    """The surface's planes while the block lasts; the context must be current."""
    one = surface.surfaceList[0]
    rows = [{"srcMemoryType": _kind("DEVICE"), "srcPitch": one.planeParams.pitch[at]} for at in range(2)]
    if surface.memType in (nvbufsurface.DEFAULT, nvbufsurface.CUDA_DEVICE, nvbufsurface.CUDA_UNIFIED) and one.dataPtr:
        yield [{**row, "srcDevice": one.dataPtr + one.planeParams.offset[at]} for at, row in enumerate(rows)]
    elif surface.memType in (nvbufsurface.DEFAULT, nvbufsurface.SURFACE_ARRAY):
        with nvbufsurface.egl_image(surface) as image, _registered(image) as seen:
            if seen.planeCount != 2:
                raise DeviceError(f"CUDA sees {seen.planeCount} planes in an NV12 frame")
            if seen.frameType == library().CUeglFrameType.CU_EGL_FRAME_TYPE_PITCH:
                yield [{**row, "srcDevice": pointer} for row, pointer in zip(rows, seen.frame.pPitch)]
            else:
                yield [{"srcMemoryType": _kind("ARRAY"), "srcArray": array} for array in seen.frame.pArray[:2]]
    else:
        raise DeviceError(f"a surface lies in memory of type {surface.memType}, which CUDA does not reach")


@contextmanager
def _registered(image: int) -> Iterator[Any]:
    """The image as CUDA sees it: a CUeglFrame."""
    resource = call("cuGraphicsEGLRegisterImage", image, 0)
    try:
        yield call("cuGraphicsResourceGetMappedEglFrame", resource, 0, 0)
    finally:
        call("cuGraphicsUnregisterResource", resource)
