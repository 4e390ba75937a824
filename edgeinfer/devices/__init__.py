"""Where tensors live, and the work before and after the engine; one file is one device.

What an engine on the GPU may rely on, and owes, beyond the `Device` and `Engine` protocols:

- `device.stream` is a CUstream handle (int). `device.empty()` and the inputs of `run` are tensors with `pointer`,
  `shape`, `dtype` (a NumPy name), `nbytes` and `__cuda_array_interface__`; `run` gives back the like. Besides there
  are `ordinal`, `compute_capability` (major, minor), `name`, `integrated` and `driver_version`.
- `run` only puts work on that stream and never waits. Its outputs are the engine's memory, at addresses that stay.
- `engine.uncapturable` is empty if a CUDA graph may capture `run` after it has run once with such inputs, else the
  reason; it may become a reason later.
- It enters `device.context` (the GPU's primary one) around all that it asks of its library, whichever thread calls;
  and `device.context.alone()` where the library may wait for the whole GPU, as when something is opened, loaded late
  or closed: in there no other thread's frames are captured.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec, Placement

    Tensors = Mapping[str, Any]

NAMES = ("cpu", "gpu")
STAGES = ("preprocess", "infer", "postprocess")
# how the bytes of a picture are read; "bgr" also takes (h, w) grey and (h, w, 4) BGRA by shape
PIXELS = ("bgr", "rgb", "nv12")


class Way(Protocol):
    """A frame's way from pixels to its result. `graph` is empty if it is one CUDA graph, else why it is not."""

    @property
    def graph(self) -> str: ...

    def run(self, images: Sequence[Any], pixels: str) -> tuple[list[Result], dict[str, float]]:
        """Pictures -> a result each, and the milliseconds of each stage.

        Raises InputError, EngineError, DeviceError.
        """

    def close(self) -> None:
        """Free what it holds, before its engine and its device are closed; calling it twice is harmless."""


class Device(Protocol):
    """Buffers for one lane: one frame (or one batch) at a time, nothing allocated after the first."""

    def __init__(self, spec: ModelSpec) -> None: ...

    @staticmethod
    def check_libraries() -> None:
        """Raise BackendUnavailable where one is missing."""

    def preprocess(self, images: Sequence[Any], pixels: str = "bgr") -> tuple[Tensors, list[Placement]]:
        """Pictures (h, w, 3) uint8 -> engine inputs by name, and where each picture lies in them.

        The tensors are this device's own memory, valid until the next call. Raises InputError.
        """

    def postprocess(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        """Engine outputs -> one result a placement, in source pixels. Raises EngineError on NaN."""

    def join(self, engine: Engine) -> Way:
        """The whole way of frames through this device and an engine on it."""

    def send(self, tensors: Tensors) -> Tensors:
        """Arrays in main memory, of the model's names, dtypes and shapes -> engine inputs, at least the smallest batch.

        They may share memory with the arrays, and are valid until the next call.
        """

    def fetch(self, outputs: Tensors, rows: int) -> dict[str, Any]:
        """The first `rows` rows of engine outputs as arrays of their own in main memory."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An uninitialised tensor in this device's memory."""

    def mark(self) -> Any:
        """A point in this device's time."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two marks."""

    def close(self) -> None:
        """Free every buffer; calling it twice is harmless."""


def load(name: str) -> type[Device]:
    """The class of the device called `name`; BackendUnavailable if its library is missing."""
    if name not in NAMES:
        raise BackendUnavailable(f"device {name!r} is not one of {', '.join(NAMES)}")
    device: type[Device] = importlib.import_module(f"edgeinfer.devices.{name}").Device
    device.check_libraries()
    return device
