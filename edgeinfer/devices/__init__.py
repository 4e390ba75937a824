"""Where tensors live, and the work before and after the engine; one file is one device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec, Placement

    Tensors = Mapping[str, Any]

NAMES = ("cpu", "gpu")
# how the bytes of a picture are read; "bgr" also takes (h, w) grey and (h, w, 4) BGRA by shape
PIXELS = ("bgr", "rgb", "nv12")


class Device(Protocol):
    """Buffers for one lane: one frame (or one batch) at a time, nothing allocated after the first."""

    def __init__(self, spec: ModelSpec) -> None: ...

    def preprocess(self, images: Sequence[Any], pixels: str = "bgr") -> tuple[Tensors, list[Placement]]:
        """Pictures (h, w, 3) uint8 -> engine inputs by name, and where each picture lies in them.

        The tensors are this device's own memory, valid until the next call. Raises InputError.
        """

    def postprocess(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        """Engine outputs -> one result a placement, in source pixels. Raises EngineError on NaN."""

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
    return device
