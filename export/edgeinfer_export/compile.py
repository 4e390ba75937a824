"""From ONNX to an engine: TensorRT 8.5.3 to 11.x and TensorRT-RTX 1.x by one path that asks what the library has.

Needs the vendor's library, the standard library and the runtime's core; imports on Python 3.9, so that it also
runs beside a TensorRT whose Python is that old. TensorRT compiles for the GPU it runs on; TensorRT-RTX compiles
for the compute capabilities it is told, with no GPU and no driver.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer import machine
from edgeinfer.bundle import sha256_of
from edgeinfer.errors import ExportError
from edgeinfer.spec import Artifact
from edgeinfer.wholefile import whole
from edgeinfer_export import timingcache, vendor
from edgeinfer_export.builder import Build
from edgeinfer_export.buildoptions import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgeinfer_export.builder import Binding

    Progress = Callable[[str, int, int], None]

__all__ = ["Compiled", "Options", "compile_onnx", "key"]


@dataclass(frozen=True)
class Compiled:
    """A built engine and the facts by which a device tells whether it can use it."""

    path: Path
    format: str
    precision: str
    sha256: str
    size_bytes: int
    built_with: str
    target: dict[str, str]
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    elapsed_s: float
    on_gpu: tuple[str, ...] = ()  # layers that the DLA leaves to the GPU
    warnings: tuple[str, ...] = ()

    def artifact(self) -> Artifact:
        """Its entry in model.json, in the folder that holds the file."""
        return Artifact(
            self.path.name,
            self.format,
            self.precision,
            self.sha256,
            built_with=self.built_with,
            target=self.target,
        )


def compile_onnx(onnx: Path, out: Path, options: Options, progress: Progress | None = None) -> Compiled:
    """Compile `onnx` to the engine `out`, which appears whole or not at all.

    `progress(phase, done, total)` is called as the library goes on, where it tells.
    Raises BackendUnavailable, UsageError, ExportError; EdgeInferError where `out` cannot be written.
    """
    trt = vendor.load(options.library)
    facts = key(options)
    if not onnx.is_file():
        raise ExportError(f"{onnx} is not there", hint="export the bundle again")
    started = time.monotonic()
    listener = vendor.Listener(trt, options.log_file, progress)
    with closing(listener), _current(options.gpu):
        build = Build(trt, options, listener)
        build.read(onnx)
        build.configure()
        plan = build.plan(onnx)
        note = timingcache.keep(build.config, build.timing_cache) if build.timing_cache else ""
        with whole(out) as part:
            part.write_bytes(plan)
    return Compiled(
        path=out,
        format=options.library,
        precision=options.precision,
        sha256=hashlib.sha256(memoryview(plan)).hexdigest(),
        size_bytes=memoryview(plan).nbytes,
        built_with=f"{vendor.MODULES[options.library]} {trt.__version__}",
        target={**facts, "profile": build.profile, "onnx": sha256_of(onnx)},
        inputs=build.inputs,
        outputs=build.outputs,
        elapsed_s=time.monotonic() - started,
        on_gpu=build.on_gpu,
        warnings=(*dict.fromkeys(listener.warnings), *([note] if note else [])),
    )


@contextmanager
def _current(gpu: int) -> Iterator[None]:
    """TensorRT builds on the GPU whose context is current, and on the first where none is."""
    if not gpu:
        yield
        return
    from edgeinfer.devices._driver import Context

    with closing(Context(gpu)) as context, context:
        yield


def key(options: Options) -> dict[str, str]:
    """What an engine of these options is for: `sm`, `os`, and on TensorRT `gpu`, `l4t`, `dla`, `compatible`, `weights`.

    `sm` is a compute capability without its dot, several joined by a plus. `gpu` is left out where it does not
    matter: under `compatible` the engine runs on what that says, `hardware`, `version` or both.
    """
    facts = {"os": machine.system()}
    if options.library == "rtx":
        return {"sm": "+".join(map(str, options.capabilities)), **facts}
    facts.update(vendor.gpu(options.gpu))
    asked = {"hardware": options.hardware_compatible, "version": options.version_compatible}
    facts["compatible"] = "+".join(name for name, wanted in asked.items() if wanted)
    facts["weights"] = "stripped" if options.strip_weights else ""
    facts["dla"] = "" if options.dla_core is None else str(options.dla_core)
    facts["gpu"] = "" if options.hardware_compatible else facts["gpu"]
    return {name: value for name, value in facts.items() if value}
