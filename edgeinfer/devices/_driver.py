"""The CUDA driver through NVIDIA's cuda-bindings: every call checked, every failure with what to do about it.

The driver API alone (and NVRTC in `compiler.py`), because both kept their names and arguments over CUDA 12 and 13.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgeinfer.devices.compiler import FOR_CUDA_12
from edgeinfer.errors import BackendUnavailable, DeviceError, DeviceLost

if TYPE_CHECKING:
    from collections.abc import Iterator

# after these every call that touches the GPU fails until the process ends
_LOST = {
    "DEINITIALIZED",
    "ECC_UNCORRECTABLE",
    "NVLINK_UNCORRECTABLE",
    "CONTAINED",
    "TENSOR_MEMORY_LEAK",
    "ILLEGAL_ADDRESS",
    "LAUNCH_TIMEOUT",
    "CONTEXT_IS_DESTROYED",
    "ASSERT",
    "HARDWARE_STACK_ERROR",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "LAUNCH_FAILED",
    "EXTERNAL_DEVICE",
    "MPS_CLIENT_TERMINATED",
    "UNKNOWN",
}
_RESTART = "restart the process; if it comes again, look for Xid lines in dmesg, and run edgeinfer doctor"
# there is no GPU to be had: as good as a missing library
_ABSENT = {
    "NO_DEVICE": "check nvidia-smi; in a container, start it with --gpus all; mind CUDA_VISIBLE_DEVICES",
    "INVALID_DEVICE": "nvidia-smi -L lists the GPUs; CUDA_VISIBLE_DEVICES hides and renumbers them",
    "STUB_LIBRARY": "a build-time stub of libcuda is found before the driver's: take it out of LD_LIBRARY_PATH",
    "DEVICE_UNAVAILABLE": "another process has the GPU for itself: nvidia-smi -q -d COMPUTE",
    "DEVICE_NOT_LICENSED": "give this virtual GPU a licence",
    "SYSTEM_NOT_READY": "start nvidia-fabricmanager",
    "SYSTEM_DRIVER_MISMATCH": "restart the machine: the driver was updated under the running kernel module",
    "COMPAT_NOT_SUPPORTED_ON_DEVICE": "take the cuda-compat folder out of LD_LIBRARY_PATH, or update the driver",
    "MPS_CONNECTION_FAILED": "start nvidia-cuda-mps-control, or unset CUDA_MPS_PIPE_DIRECTORY",
}
_NEWER_THAN_DRIVER = f"update the driver, or take the NVRTC of its CUDA version: {FOR_CUDA_12}"
_HINTS = {
    "OUT_OF_MEMORY": "use fewer contexts or a smaller batch; nvidia-smi shows who else holds the GPU's memory",
    "NOT_INITIALIZED": "CUDA does not survive fork(): start worker processes with the spawn method",
    "NO_BINARY_FOR_GPU": _NEWER_THAN_DRIVER,
    "INVALID_IMAGE": _NEWER_THAN_DRIVER,
    "UNSUPPORTED_PTX_VERSION": _NEWER_THAN_DRIVER,
    "OPERATING_SYSTEM": "the driver ran out of something the system gives: check ulimit -a and free memory",
}
# a capture, or what waits for the whole GPU: the driver fails both where one thread's meets another's
_ALONE = threading.RLock()
_INSTALL = 'pip install "edgeinfer[gpu]", on a Jetson "edgeinfer[jetson]"'


@lru_cache(maxsize=1)
def library() -> Any:
    """The module cuda.bindings.driver. Raises BackendUnavailable."""
    try:
        from cuda.bindings import driver
    except (ImportError, RuntimeError) as missing:
        raise BackendUnavailable(f"cuda-bindings cannot be imported: {missing}", hint=_INSTALL) from missing
    return driver


def call(name: str, *arguments: Any) -> Any:
    """What the driver's function gives back, its status apart. Raises DeviceError, DeviceLost, BackendUnavailable."""
    status, *values = _called(name, arguments)
    if status:
        raise _failure(name, status)
    return values[0] if len(values) == 1 else values


def probe(name: str, *arguments: Any) -> Any:
    """As `call`, where the driver's refusal is an answer too: None then, unless the GPU is lost. Raises as `call`."""
    status, *values = _called(name, arguments)
    failure = _failure(name, status) if status else None
    if isinstance(failure, DeviceLost):
        raise failure
    return None if failure else values[0]


def elapsed_ms(start: Any, end: Any) -> float:
    """Milliseconds of the GPU's clock between two events that are over. Raises as `call`.

    By the first function of this name, which every driver has: cuda-bindings 13 look for the one of CUDA 12.8 only,
    and JetPack 6 is older.
    """
    span = ctypes.c_float()
    status = _first_elapsed()(ctypes.byref(span), int(start), int(end))
    if status:
        raise _failure("cuEventElapsedTime", library().CUresult(status))
    return span.value


@lru_cache(maxsize=1)
def _first_elapsed() -> Any:
    function = ctypes.CDLL("libcuda.so.1").cuEventElapsedTime
    function.argtypes = (ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_void_p)
    return function


def _called(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    function = getattr(library(), name)
    try:
        answer: tuple[Any, ...] = function(*arguments)
    except RuntimeError as missing:  # the library, or the function in it
        where = "no NVIDIA driver" if name == "cuInit" else f"an NVIDIA driver without {name}"
        raise BackendUnavailable(
            f"this machine has {where}: {missing}",
            hint="install or update the driver; in a container, start it with --gpus all",
        ) from missing
    except (KeyError, ValueError) as unknown:  # of a driver that is newer than they are
        raise DeviceError(
            f"{name} failed with what these cuda-bindings do not know: {unknown}", hint="pip install -U cuda-bindings"
        ) from unknown
    return answer


def _failure(name: str, status: Any) -> Exception:
    driver = library()
    _, text = driver.cuGetErrorString(status)
    words = text.decode() if text else "unknown to this driver"
    said = f"{name} failed: {status.name} ({int(status)}), {words}"
    kind = status.name.replace("CUDA_ERROR_", "")
    if kind in _LOST:
        return DeviceLost(f"the GPU is lost to this process: {said}", hint=_RESTART)
    if kind in _ABSENT:
        return BackendUnavailable(f"the NVIDIA driver gives no GPU: {said}", hint=_ABSENT[kind])
    return DeviceError(said, hint=_HINTS.get(kind, "run edgeinfer doctor"))


class Context:
    """The primary context of a GPU, which everything else in the process uses too; any thread may enter it."""

    def __init__(self, ordinal: int = 0) -> None:
        call("cuInit", 0)
        self.ordinal, self.device = ordinal, call("cuDeviceGet", ordinal)
        self.handle: Any = call("cuDevicePrimaryCtxRetain", self.device)

    def __enter__(self) -> Context:
        if self.handle is None:
            raise DeviceError("the device is closed", hint="load the bundle again")
        call("cuCtxPushCurrent", self.handle)
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        # a lost GPU may refuse even this; what lost it is the better news
        with suppress(*([DeviceError] if failed else [])):
            call("cuCtxPopCurrent")

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Entered as ever, but while no other thread captures a graph, nor waits for the whole GPU in here.

        Gives whether that is so, which without `wait` it may not be.
        """
        free = _ALONE.acquire(blocking=wait)
        try:
            with self:
                yield free
        finally:
            if free:
                _ALONE.release()

    def attribute(self, name: str) -> int:
        """The GPU's CU_DEVICE_ATTRIBUTE_`name`."""
        which = getattr(library().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(call("cuDeviceGetAttribute", which, self.device))

    def close(self) -> None:
        """Let go of the context; it lives on while others hold it."""
        self.handle = None
        call("cuDevicePrimaryCtxRelease", self.device)
