"""How an engine is built, checked before anything is started. Imports on Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.errors import UsageError
from edgeinfer.spec import PRECISIONS
from edgeinfer_export import targets, vendor

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How an engine is built. `library` is `trt` or `rtx`; `precision` says what the ONNX holds.

    `batch`: smallest, usual and largest batch of an ONNX whose batch is open. `workspace_bytes` and
    `optimization_level`: None leaves them to the library. `capabilities`: for `rtx`, which it cannot do without.
    `hardware_compatible`: for every GPU from Ampere on. `version_compatible`: for later TensorRT releases too.
    `dla_core`: Jetson's deep-learning accelerator, with the GPU for what it cannot do.
    `external_tactics`: whether TensorRT 8 may use cuBLAS and cuDNN. `tf32`: whether float32 may be computed in TF32.
    `gpu`: of several the one that CUDA gives this number, for `trt`.
    `strip_weights`: an engine to be refitted from the ONNX, which `edgeinfer` itself does not do.
    """

    library: str = "trt"
    precision: str = "fp32"
    batch: tuple[int, int, int] = (1, 1, 1)
    capabilities: tuple[int, ...] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    external_tactics: bool = True
    tf32: bool = True
    gpu: int = 0
    strip_weights: bool = False
    timing_cache: Path | None = None
    log_file: Path | None = None

    def __post_init__(self) -> None:
        if self.library not in vendor.MODULES or self.precision not in PRECISIONS:
            raise UsageError(f"{self.library} {self.precision} is not one of trt, rtx with {', '.join(PRECISIONS)}")
        if not (1 <= self.batch[0] <= self.batch[1] <= self.batch[2]):
            raise UsageError(f"batch {self.batch} is not smallest, usual, largest", hint="for example 1,4,8")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(f"workspace of {self.workspace_bytes} bytes is below 1")
        if self.library == "rtx":
            self._check_rtx()
        elif self.capabilities:
            raise UsageError("TensorRT builds only for the GPU it runs on", hint=targets.ON_DEVICE)

    def _check_rtx(self) -> None:
        if not self.capabilities:
            raise UsageError("TensorRT-RTX needs compute capabilities to build for", hint=f"use {targets.EXAMPLES}")
        for one in self.capabilities:
            targets.check_rtx(one)
        absent = {
            "need of a GPU to build on": self.gpu != 0,
            "DLA": self.dla_core is not None,
            "version-compatible engines": self.version_compatible,
            "hardware-compatible engines": self.hardware_compatible,
            "weight stripping without a GPU": self.strip_weights,
        }
        for what, asked in absent.items():
            if asked:
                raise UsageError(
                    f"TensorRT-RTX has no {what}",
                    hint="leave it out; one engine takes several GPUs: rtx:sm80+sm86+sm89",
                )
