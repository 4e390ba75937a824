"""What an engine is compiled for: `trt` (the GPU of this machine), `rtx:sm86`, `rtx:sm80+sm86+sm89`.

Standard library and the runtime's errors only; imports on Python 3.9.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer.errors import ExportError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

RUNTIME_NMS = "export it with --nms runtime: the boxes are then suppressed by edgeinfer itself, on every device"
EXAMPLES = "trt, rtx, rtx:sm86 or rtx:sm80+sm86+sm89, separated by commas"
# what TensorRT-RTX cross-compiles for, and what the word `rtx` alone means: one engine for these
RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
RTX_PORTABLE = (80, 86, 89, 120)
ON_DEVICE = "build on that machine instead: edgeinfer build BUNDLE --compile trt"
# other GPUs with a name, so that a refusal can say what was asked for
OTHER_GPUS = {
    53: "Jetson Nano, TX1",
    60: "P100",
    61: "GeForce GTX 10",
    62: "Jetson TX2",
    70: "V100",
    72: "Jetson Xavier",
    87: "Jetson Orin",
    88: "a Tegra of the Ampere generation",
    90: "H100, H200",
    100: "B200",
    101: "Jetson Thor under CUDA 12",
    103: "B300",
    110: "Jetson Thor",
}


class Target(NamedTuple):
    """A library (`trt` or `rtx`) and the compute capabilities its engine is for; none for `trt`."""

    library: str
    capabilities: tuple[int, ...] = ()

    def __str__(self) -> str:
        names = "+".join(f"sm{one}" for one in self.capabilities)
        return f"{self.library}:{names}" if names else self.library


def parse(text: str) -> tuple[Target, ...]:
    """The targets named by a list such as `trt,rtx:sm86`, each once. Raises UsageError."""
    parts = [part.strip().lower() for part in text.split(",")]
    return tuple(dict.fromkeys(_target(part, text) for part in parts))


def _target(part: str, text: str) -> Target:
    library, colon, rest = part.partition(":")
    if library not in ("trt", "rtx") or (colon and not rest):
        raise UsageError(f"target {part!r} of {text!r} is not known", hint=f"targets are {EXAMPLES}")
    if library == "trt":
        if rest:
            raise UsageError(
                f"target {part!r}: TensorRT builds only for the GPU it runs on, not for {rest}", hint=ON_DEVICE
            )
        return Target("trt")
    found = {_capability(name, part) for name in rest.split("+")} if rest else RTX_PORTABLE
    return Target("rtx", tuple(sorted(found)))


def _capability(name: str, part: str) -> int:
    match = re.fullmatch(r"sm_?(\d{2,3})", name)
    if not match:
        raise UsageError(f"target {part!r}: {name!r} is not a compute capability such as sm86", hint=f"use {EXAMPLES}")
    return check_rtx(int(match.group(1)))


def check_rtx(capability: int) -> int:
    """`capability` if TensorRT-RTX compiles for it; UsageError with the reason and the way out otherwise."""
    if capability in RTX_CAPABILITIES:
        return capability
    known = " ".join(f"sm{one}" for one in RTX_CAPABILITIES)
    gpu = OTHER_GPUS.get(capability)
    raise UsageError(
        f"TensorRT-RTX does not compile for sm{capability}{f' ({gpu})' if gpu else ''}, only for {known}",
        hint=ON_DEVICE if gpu else f"use {EXAMPLES}",
    )


def check_nms(targets: Sequence[Target], where: str) -> None:
    """ExportError for a target whose library cannot suppress boxes in the graph, when the model is to."""
    for target in targets:
        if target.library == "rtx" and where == "graph":
            raise ExportError(
                f"{target}: TensorRT-RTX has no NonMaxSuppression, by which this model suppresses its boxes",
                hint=RUNTIME_NMS,
            )
