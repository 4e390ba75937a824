"""An engine for this GPU, built while another backend serves, that takes over when it is ready and tested.

The build runs in a process of its own: what it does wrong, or the memory it lacks, ends that process only.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from typing import TYPE_CHECKING

from edgeinfer import backends, interpreter, ladder, lifetime, machine
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeinfer.pipeline import Pipeline

LOG = logging.getLogger(__name__)
# what a build starts from: int8 for TensorRT has symmetric activations, the flavour for CPUs has not
FLAVORS = ("", "trt")
GRACE_S = 10.0


def start(
    bundle: Bundle, pipeline: Pipeline, precision: str, gpu: int, exact: Callable[[Bundle, str], Pipeline | None]
) -> Upgrade | None:
    """Begin to build what serves `pipeline` best on this GPU, unless that serves it already or nothing can build it.

    `exact` opens and tests the engine that fits this GPU exactly, if the bundle has one by then.
    """
    bundle = Bundle(bundle.path.absolute(), bundle.spec)  # the program may go to another folder meanwhile
    order = _order(bundle, precision, gpu)
    if order is None or any(_serves(rung, pipeline) for rung in ladder.climb(bundle, gpu=gpu)):
        return None
    target, kind = order
    asked = ["--compile", target, "--precision", kind, *(["--device", f"gpu:{gpu}"] if gpu and target == "trt" else [])]
    command = interpreter.module("edgeinfer", "build", str(bundle.path), *asked)
    upgrade = Upgrade(bundle, pipeline, command, lambda fresh: exact(fresh, kind))
    upgrade.start()
    return upgrade


def _serves(rung: ladder.Rung, pipeline: Pipeline) -> bool:
    """Whether this exact engine is what runs."""
    serving = (pipeline.backend, pipeline.artifact)
    return rung.exact and rung.artifact is not None and (rung.backend, rung.artifact.file) == serving


def _order(bundle: Bundle, precision: str, ordinal: int) -> tuple[str, str] | None:
    """What to compile for, and in which precision; None, and why in the log, where that cannot be."""
    for name in ladder.COMPILED if machine.has_gpu() else ():
        try:
            engine, gpu = backends.load(name), machine.gpu(ordinal)
        except BackendUnavailable:
            continue
        if engine.library.split()[0] not in ("tensorrt", "tensorrt_rtx"):
            continue  # the lean runtime builds nothing
        held = [one for one in bundle.spec.artifacts if one.format == "onnx" and one.flavor in FLAVORS]
        for kind in engine.precisions:
            if precision in ("auto", kind) and any(one.precision == kind for one in held):
                return (name if name == "trt" else f"{name}:sm{gpu.sm}"), kind
    LOG.warning("%s: no engine is built in the background: no GPU, no TensorRT, or no ONNX for it", bundle.path)
    return None


class Upgrade(threading.Thread, lifetime.Guest):
    """The build and what follows; `state` says how far it is."""

    def __init__(
        self,
        bundle: Bundle,
        pipeline: Pipeline,
        command: Sequence[str],
        open_built: Callable[[Bundle], Pipeline | None],
    ) -> None:
        super().__init__(name="edgeinfer-build", daemon=True)
        self._bundle, self._pipeline, self._command, self._open = bundle, pipeline, command, open_built
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self.state = "building"
        lifetime.watch(self)

    def run(self) -> None:
        try:
            self.state = self._upgrade()
        except Exception as error:  # noqa: BLE001 - nobody else hears of it
            self.state = f"failed: {str(error) or type(error).__name__}"
        if not self._stopping.is_set() and self.state.startswith("failed"):
            LOG.warning("%s: %s goes on serving; the engine built here %s", *self._names(), self.state)

    def _names(self) -> tuple[str, str]:
        return str(self._bundle.path), f"{self._pipeline.backend} {self._pipeline.artifact}"

    def _upgrade(self) -> str:
        with self._starting:
            if self._stopping.is_set():
                return "stopped"
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # a Ctrl-C is for the program, which ends the build
            )
        _, said = self._process.communicate()
        if self._stopping.is_set():
            return "stopped"
        if self._process.returncode:
            return f"failed: {' '.join(said.split()[-60:]) or f'exit code {self._process.returncode}'}"
        built = self._open(Bundle.open(self._bundle.path))
        if built is None:
            return "failed: the bundle holds no engine that fits exactly"
        with built:
            self._pipeline.swap(built)
        LOG.info("%s: %s serves from now on", *self._names())
        return "serving"

    def stop(self) -> None:
        """End the build if it still runs, and wait for the rest."""
        if threading.current_thread() is not self:
            self.settle()
            self.join()

    def halt(self) -> None:
        """Tell the build to end."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process:
            process.terminate()

    def settle(self) -> None:
        self.halt()
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            self._process.kill()
        self.join(GRACE_S)
