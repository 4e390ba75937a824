"""Whole frames on a GPU: around an engine that does nothing, and beside the bare engine of a library that is here."""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
from contextlib import closing
from importlib import resources
from pathlib import Path
from statistics import median

import numpy as np
from gpuclock import sent

from edgeinfer import backends, load, machine
from edgeinfer.cli import main as command
from edgeinfer.devices import gpu
from edgeinfer.devices._driver import call
from edgeinfer.devices._framegraph import FrameGraph, Graph
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer_export import targets


class Nothing:
    """An engine that does nothing, for what is around an engine."""

    uncapturable = ""

    def __init__(self, spec, device):
        outputs = {one.name: np.zeros(one.at(1), one.dtype) for one in spec.outputs}
        self._outputs = {name: sent(device, array) for name, array in outputs.items()}

    def run(self, _):
        return self._outputs


def around(bench, spec):
    """A 1080p frame in, boxes out, around an engine that does nothing."""
    found = []
    device = gpu.Device(spec)
    try:
        engine = Nothing(spec, device)
        shape = (bench.frame.height, bench.frame.width, 3)
        frame, pinned = np.zeros(shape, np.uint8), device.pinned(shape)
        resident = sent(device, pinned)
        for kind, image in (("in plain memory", frame), ("page-locked", pinned), ("on the GPU", resident)):
            for manner, reason in (("graph", ""), ("stage by stage", "asked for")):
                engine.uncapturable = reason
                way = FrameGraph(device, engine)
                once = lambda way=way, image=image: way.run([image], "bgr")  # noqa: E731
                spent = bench.on_host(once)
                found.append({"frame": kind, "manner": manner, "ms": spent, "takes": taken(bench, device, once)})
                way.close()
    finally:
        device.close()
    return found


def taken(bench, device, function):
    """Bytes of the GPU's memory that the bench's frames leave taken, and the most that the host holds for one."""
    with device.context:
        before = int(call("cuMemGetInfo")[0])
    tracemalloc.start()
    try:
        function()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(bench.frames):
            function()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with device.context:
        return {"gpu_bytes": before - int(call("cuMemGetInfo")[0]), "host_bytes": peak - held}


def beside(bench, name, bundle):
    """A page-locked 1080p frame to boxes against the bare engine of this backend and the upload, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            backends.load(name)
            bundle = bundle or exported(Path(folder))
            if name != "ort_gpu":
                target = name if name == "trt" else f"rtx:sm{machine.gpu().sm}"
                targets.parse(target)  # TensorRT-RTX compiles for no Jetson and no GPU of a data centre
                command(["build", str(bundle), "--compile", target])
            with load(bundle, name) as model:
                return engine(bench, name, model)
        except (BackendUnavailable, UsageError) as missing:
            print(f"skipped: {name}: {missing}", file=sys.stderr)
            return {"backend": name, "skipped": str(missing)}


def exported(folder):
    from edgeinfer_export.export import export

    return export(Path(str(resources.files("edgeinfer_export"))) / "assets" / "pictograms.pt", folder / "pictograms")


class Bare:
    """The engine of a model and the upload of a frame, without anything else of ours.

    As our frames run: what can be captured is captured, or the engine alone would pay more for its launches.
    """

    def __init__(self, model, pinned):
        self._device, self._engine, self._pinned = model.device, model.engine, pinned
        self._tensors, _ = self._device.preprocess([pinned])
        self._target = self._device.empty(pinned.shape, "uint8")
        with self._device.context:
            self._graph = None if model.graph else Graph(self._device.handle, self._both)

    def upload(self):
        nbytes, stream = self._pinned.nbytes, self._device.handle
        call("cuMemcpyHtoDAsync", self._target.pointer, self._pinned.ctypes.data, nbytes, stream)

    def _both(self):
        self.upload()
        return self._engine.run(self._tensors)

    def __call__(self):
        with self._device.context:
            if self._graph:
                self._graph.launch(self._device.handle)
            else:
                self._both()
            self._device.wait()

    def close(self):
        if self._graph:
            with self._device.context:
                self._graph.close()


def engine(bench, name, model):
    """A frame and its bare engine, in turns."""
    pinned = model.device.pinned((1080, 1920, 3))
    pinned[...] = np.random.default_rng(0).integers(0, 256, pinned.shape, np.uint8)
    for _ in range(3):
        model(pinned)
    with closing(Bare(model, pinned)) as bare:
        rounds = [(bench.on_host(bare)["median"], bench.on_host(lambda: model(pinned))["median"]) for _ in range(5)]
        sending = bench.on_gpu(model.device, bare.upload)["median"] / 1e3
    alone, whole = (median(turn[place] for turn in rounds) for place in (0, 1))
    return {
        "backend": name,
        "artifact": model.artifact,
        "library": model.engine.library,
        "engine_and_upload_ms": alone,
        "upload_ms": round(sending, 4),
        "frame_ms": whole,
        "frame_without_upload_ms": round(whole - sending, 4),
        "takes": taken(bench, model.device, lambda: model(pinned)),
        "ratio": round(median(one / other for other, one in rounds), 3),
        "graph": model.graph or "yes",
    }
