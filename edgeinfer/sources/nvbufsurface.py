"""NvBufSurface: what a Gst.Buffer of `memory:NVMM` is once it is mapped, and how its pixels are had as an EGLImage.

The structures are nvbufsurface.h's as far as they are read: the first fields of each, and of the list the first entry.
These lie alike in NVIDIA's header of 2019, in that of JetPack 5, and in what others declare for JetPack 6 (L4T R36,
DeepStream 7.1) and for DeepStream 9.1, of the time of JetPack 7; the releases differ behind them. JetPack 4 has another
structure, and is not meant.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANES = 4  # there is room for
DEFAULT, CUDA_DEVICE, CUDA_UNIFIED, SURFACE_ARRAY = 0, 2, 3, 4  # NVBUF_MEM_*
READ = 1  # GST_MAP_READ
NO_IMAGE = "unset DISPLAY where no monitor is: libnvbufsurface looks for it there"


class PlaneParams(ctypes.Structure):
    """The planes of a picture; pitches and offsets in bytes."""

    _fields_ = (
        ("num_planes", ctypes.c_uint32),
        ("width", ctypes.c_uint32 * PLANES),
        ("height", ctypes.c_uint32 * PLANES),
        ("pitch", ctypes.c_uint32 * PLANES),
        ("offset", ctypes.c_uint32 * PLANES),
        ("psize", ctypes.c_uint32 * PLANES),
        ("bytesPerPix", ctypes.c_uint32 * PLANES),
        ("_reserved", ctypes.c_void_p * (4 * PLANES)),
    )


class MappedAddr(ctypes.Structure):
    """Where a picture is seen besides."""

    _fields_ = (("addr", ctypes.c_void_p * PLANES), ("eglImage", ctypes.c_void_p))


class SurfaceParams(ctypes.Structure):
    """A picture."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("pitch", ctypes.c_uint32),
        ("colorFormat", ctypes.c_int),
        ("layout", ctypes.c_int),
        ("bufferDesc", ctypes.c_uint64),
        ("dataSize", ctypes.c_uint32),
        ("dataPtr", ctypes.c_void_p),
        ("planeParams", PlaneParams),
        ("mappedAddr", MappedAddr),
    )


class Surface(ctypes.Structure):
    """A batch of pictures, of which the first alone may be asked for."""

    _fields_ = (
        ("gpuId", ctypes.c_uint32),
        ("batchSize", ctypes.c_uint32),
        ("numFilled", ctypes.c_uint32),
        ("isContiguous", ctypes.c_bool),
        ("memType", ctypes.c_int),
        ("surfaceList", ctypes.POINTER(SurfaceParams)),
    )


class MapInfo(ctypes.Structure):
    """GStreamer's GstMapInfo."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("_reserved", ctypes.c_void_p * 4),
    )


@contextmanager
def mapped(buffer: int) -> Iterator[Surface]:
    """The surface of the Gst.Buffer at this address, while the block lasts. Raises DeviceError, OSError.

    PyGObject's own map() gives a copy of the bytes, and libnvbufsurface wants the structure itself.
    """
    gstreamer, info = _gstreamer(), MapInfo()
    if not gstreamer.gst_buffer_map(buffer, ctypes.byref(info), READ):
        raise DeviceError("a frame cannot be mapped")
    try:
        yield Surface.from_address(info.data)
    finally:
        gstreamer.gst_buffer_unmap(buffer, ctypes.byref(info))


@contextmanager
def egl_image(surface: Surface) -> Iterator[int]:
    """The EGLImage that an element keeps of it, or one for as long as the block lasts. Raises DeviceError, OSError."""
    seen = surface.surfaceList[0].mappedAddr
    if seen.eglImage:
        yield seen.eglImage
        return
    surfaces = _surfaces()
    if surfaces.NvBufSurfaceMapEglImage(ctypes.byref(surface), 0) or not seen.eglImage:
        raise DeviceError("libnvbufsurface made no EGLImage of a frame", hint=NO_IMAGE)
    try:
        yield seen.eglImage
    finally:
        surfaces.NvBufSurfaceUnMapEglImage(ctypes.byref(surface), 0)


@lru_cache(maxsize=1)
def _surfaces() -> Any:
    found = ctypes.CDLL("libnvbufsurface.so")
    for function in (found.NvBufSurfaceMapEglImage, found.NvBufSurfaceUnMapEglImage):
        function.argtypes = (ctypes.POINTER(Surface), ctypes.c_int)
    return found


@lru_cache(maxsize=1)
def _gstreamer() -> Any:
    found = ctypes.CDLL("libgstreamer-1.0.so.0")
    found.gst_buffer_map.argtypes = (ctypes.c_void_p, ctypes.POINTER(MapInfo), ctypes.c_int)
    found.gst_buffer_unmap.argtypes = (ctypes.c_void_p, ctypes.POINTER(MapInfo))
    return found
