"""Frames that already lie where the GPU can reach them: CuPy, PyCUDA and PyTorch arrays, page-locked NumPy ones.

A frame's producer may still be writing to it on a stream of its own: the device's stream waits for that stream,
and the host does not.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices._driver import library, probe
from edgeinfer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeinfer.devices._driver import Context

_CUDA, _MANAGED = 2, 13  # DLPack's numbers for memory on an NVIDIA GPU
_LEGACY = 1  # the handle of the stream that work is put on where no stream is named


class Resident(NamedTuple):
    """A frame's place in the GPU's reach.

    `array` has its shape, strides, dtype and address; its elements may not be touched by the host.
    `context` is the CUDA context it belongs to, 0 for the device's own. `owner` keeps the memory alive.
    """

    array: NDArray[Any]
    context: int = 0
    owner: Any = None


class _Elsewhere:
    """What NumPy needs to describe an array; it touches no element."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, strides: tuple[int, ...] | None) -> None:
        facts = {"data": (address, False), "shape": shape, "typestr": typestr, "strides": strides, "version": 3}
        self.__array_interface__ = facts


def find(image: Any, context: Context, stream: Any, join: Callable[[int], None]) -> Resident | None:
    """The frame if it lies on the GPU, None if the host holds it; `join(handle)` lets our stream wait for another.

    Raises InputError for one on another GPU.
    """
    if isinstance(image, np.ndarray):
        return None
    told = getattr(image, "__dlpack_device__", None)
    kind, place = told() if told else (0, 0)
    if kind in (_CUDA, _MANAGED):
        if kind == _CUDA:
            _check_place(int(place), context)  # before it is asked to wait for a stream of another GPU's
        return _checked(_dlpack(image, int(stream)), context)
    facts = getattr(image, "__cuda_array_interface__", None)
    if facts is None:
        return None
    frame = _checked(_cuda_array(image, facts), context)
    if not frame.context:  # another context's work is waited for as a whole
        # none is told before version 3, and by PyCUDA and Numba of what they do on the default one
        join(int(facts.get("stream") or _LEGACY))
    return frame


def pinned(image: NDArray[Any]) -> int:
    """The GPU's address of a page-locked array of the host's; 0 where it is not one."""
    kind, address = _told(image.ctypes.data, "MEMORY_TYPE", "DEVICE_POINTER")
    return int(address) if int(kind or 0) == int(library().CUmemorytype.CU_MEMORYTYPE_HOST) else 0


def _told(address: int, *names: str) -> list[Any]:
    """What the driver knows of an address, by CU_POINTER_ATTRIBUTE_*; nothing or zeros where it is not its own.

    Asked for all at once: to the function for a single one memory of the host's is an error, and tools that watch
    the driver's calls report it.
    """
    return probe("cuPointerGetAttributes", len(names), _attributes(names), address) or [None] * len(names)


@lru_cache(maxsize=8)
def _attributes(names: tuple[str, ...]) -> list[Any]:
    return [getattr(library().CUpointer_attribute, f"CU_POINTER_ATTRIBUTE_{name}") for name in names]


def _cuda_array(image: Any, facts: dict[str, Any]) -> Resident:
    if facts.get("mask") is not None:
        raise InputError("a frame on the GPU may not be masked")
    address = int(facts["data"][0])
    described = _Elsewhere(address, tuple(facts["shape"]), facts["typestr"], facts.get("strides"))
    return Resident(np.asarray(described), owner=image)


def _checked(frame: Resident, ours: Context) -> Resident:
    """The frame with its context; InputError where our GPU does not reach it."""
    address = frame.array.ctypes.data
    if not frame.array.size:
        return frame  # its shape is refused later, in words
    kind, place, context = _told(address, "MEMORY_TYPE", "DEVICE_ORDINAL", "CONTEXT")
    if not kind:
        raise InputError(f"the frame at {address:#x} is not in CUDA memory")
    _check_place(int(place), ours)
    # memory of a pool belongs to no context, and all reach it
    own = int(context) in (0, int(ours.handle))
    return frame if own else frame._replace(context=int(context))


def _check_place(place: int, ours: Context) -> None:
    if place != ours.ordinal:
        raise InputError(
            f"the frame lies on GPU {place}, the model on GPU {ours.ordinal}",
            hint=f'copy it there, or load the model there: load(..., device="gpu:{place}")',
        )


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack(image: Any, stream: int) -> Resident:
    """The producer lets our stream wait for its own; the capsule, never taken over, frees itself with the frame."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    try:
        capsule = image.__dlpack__(stream=stream)
        tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the frame's owner does not hand it out: {error}") from error
    shape = tuple(tensor.shape[: tensor.ndim])
    kind = {0: "i", 1: "u", 2: "f"}.get(tensor.code, "V")
    size = max(1, tensor.bits * tensor.lanes // 8)
    strides = tuple(step * size for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    described = _Elsewhere(address, shape, f"|{kind}{size}" if size == 1 else f"<{kind}{size}", strides)
    return Resident(np.asarray(described), owner=(image, capsule))
