"""What edgeinfer costs on a GPU: each kernel against the memory's bandwidth, and a frame against the bare engine.

Times are the GPU's own, from CUDA events around many launches; a frame is timed by the host's clock, from pixels in
its memory to boxes in its memory. Medians of the repetitions, with the smallest and the largest beside them. Kernels
whose data fit the GPU's cache are measured out of the cache, as they run behind an engine. Usage:

    python benchmarks/gpu.py [--json FILE] [--seconds S] [--bundle DIR] [--quick]

Without --bundle the packaged detector is exported; every engine backend whose library is here runs it. The report is
written anew after every part, so that a run that is cut off leaves what it has measured; parts that the seconds no
longer allow are left out by name. A stand-in driver is refused, but for --quick, which writes nothing and whose
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
from importlib import resources
from pathlib import Path
from statistics import median

import numpy as np

from edgeinfer import backends, load, machine, wholefile
from edgeinfer.cli import main as command
from edgeinfer.devices import gpu, launch
from edgeinfer.devices._driver import call, elapsed_ms
from edgeinfer.devices._framegraph import FrameGraph, Graph
from edgeinfer.errors import EdgeInferError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Size, TensorSpec, TopK

RESULTS = Path(__file__).parent / "results"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PACKAGES = (
    "edgeinfer",
    "numpy",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "onnxruntime-gpu",
)
MOST = 32


def detector(layout="yolov5", dtype="float32", anchors=25200, classes=80):
    shape = (anchors, 5 + classes) if layout == "yolov5" else (4 + classes, anchors)
    return ModelSpec(
        name="detector",
        task="detect",
        inputs=(TensorSpec("images", (Batch(1, MOST), 3, 640, 640), dtype),),
        outputs=(TensorSpec("output0", (Batch(1, MOST), *shape)),),
        preprocess=Preprocess(Size(640, 640)),
        decode=Boxes(layout),
        labels=tuple(map(str, range(classes))),
    )


def classifier():
    return ModelSpec(
        name="classifier",
        task="classify",
        inputs=(TensorSpec("images", (Batch(1, MOST), 3, 224, 224)),),
        outputs=(TensorSpec("logits", (Batch(1, MOST), 1000)),),
        preprocess=Preprocess(
            Size(224, 224), fit="resize-crop", resize=256, interpolation="linear-antialias", **IMAGENET
        ),
        decode=TopK(5),
        labels=tuple(map(str, range(1000))),
    )


class Bench:
    """The clocks, and how often each thing is done."""

    def __init__(self, quick):
        self.repeats, self.inside, self.settle = (1, 1, 0) if quick else (20, 50, 3)
        self.frame = Size(40, 60) if quick else Size(1080, 1920)
        self.quick = quick

    def on_gpu(self, device, enqueue):
        """Microseconds of one `enqueue` among others, in a CUDA graph, as frames run: {median, min, max}."""

        def several():
            for _ in range(self.inside):
                enqueue()

        with device.context:
            enqueue()  # what is loaded late is loaded now
            device.wait()
            graph = Graph(device.handle, several)
            try:
                return self._timed(device, lambda: graph.launch(device.handle))
            finally:
                graph.close()

    def one_by_one(self, device, enqueue):
        """The same, each put on the stream by Python."""

        def several():
            for _ in range(self.inside):
                enqueue()

        with device.context:
            return self._timed(device, several)

    def _timed(self, device, several):
        start, end = device.timer(), device.timer()
        spans = []
        for _ in range(self.repeats + self.settle):
            device.record(start)
            several()
            device.record(end)
            device.wait()
            spans.append(1e3 * elapsed_ms(start, end) / self.inside)
        return summary(spans[self.settle :])

    def on_host(self, function):
        """Milliseconds of one call by the host's clock."""
        spans = []
        for _ in range(self.repeats * self.inside + 2):
            start = time.perf_counter()
            function()
            spans.append(1e3 * (time.perf_counter() - start))
        return summary(spans[2:])


def summary(spans):
    return {"median": round(median(spans), 4), "min": round(min(spans), 4), "max": round(max(spans), 4)}


def bandwidth(bench):
    """Bytes per microsecond that a copy reads and writes, a fill writes, an upload sends: the rulers for the rest."""
    nbytes = 1 << (20 if bench.quick else 29)
    device = gpu.Device(classifier())
    try:
        one, other = (device.empty((nbytes,), "uint8").pointer for _ in range(2))
        side = device.pinned((nbytes // 8,))
        rulers = {
            "copy": (2 * nbytes, lambda: call("cuMemcpyDtoDAsync", one, other, nbytes, device.handle)),
            "fill": (nbytes, lambda: call("cuMemsetD8Async", one, 1, nbytes, device.handle)),
            "upload": (len(side), lambda: call("cuMemcpyHtoDAsync", one, side.ctypes.data, len(side), device.handle)),
        }
        return {name: round(moved / bench.on_gpu(device, work)["median"]) for name, (moved, work) in rulers.items()}
    finally:
        device.close()


def preprocessing(bench, per_us):
    """The letterbox of 1080p frames, and ResNet's antialiased crop, at several batches."""
    cases = {f"letterbox 1080p to 640, {dtype}": detector(dtype=dtype) for dtype in ("float32", "float16", "uint8")}
    cases["antialiased crop 1080p to 224, float32"] = classifier()
    return [row for name, spec in cases.items() for row in converted(bench, spec, name, per_us)]


def converted(bench, spec, name, per_us):
    height, width = bench.frame.height, bench.frame.width
    shapes, first = {"bgr": (height, width, 3), "nv12": (height * 3 // 2, width)}, spec.inputs[0]
    device = gpu.Device(spec)
    try:
        for pixels, shape in shapes.items():
            frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            for batch in (1,) if bench.quick else (1, 8, MOST):
                with device.context:
                    staged = device.stage([frame] * batch, pixels)
                    device.upload(staged)
                    device.wait()
                spent = bench.on_gpu(device, lambda staged=staged: device.convert(staged))
                written = int(np.prod(first.at(1))) * np.dtype(first.dtype).itemsize
                nbytes = batch * (seen_bytes(spec.preprocess, frame, pixels) + written)
                over = round(spent["median"] * per_us / nbytes, 2)
                yield {"name": f"{name}, {pixels}, batch {batch}", "us": spent, "bytes": nbytes, "of_bandwidth": over}
    finally:
        device.close()


def seen_bytes(how, frame, pixels):
    """Bytes of a frame that its crop shows."""
    height, width = (frame.shape[0] // 3 * 2, frame.shape[1]) if pixels == "nv12" else frame.shape[:2]
    place = how.place(Size(height, width))
    down = min(1.0, how.size.height / place.resized.height)
    across = min(1.0, how.size.width / place.resized.width)
    return int(frame.nbytes * down * across)


def decoding(bench):
    """Decoding and suppression of 25,200 x 80 and 8,400 x 80, with few candidates and with many; top-k of 1,000."""
    found = []
    for layout, anchors in (("yolov5", 25200), ("yolov8", 8400)):
        spec = detector(layout, anchors=anchors)
        for candidates in (50, 300, 1000):
            outputs = {"output0": crowd(layout, anchors, 80, candidates)}
            found.append(read_out(bench, spec, outputs, f"{layout} {anchors} x 80, {candidates} candidates"))
    logits = np.random.default_rng(0).normal(0, 4, (1, 1000)).astype(np.float32)
    return [*found, read_out(bench, classifier(), {"logits": logits}, "top 5 of 1,000")]


def crowd(layout, anchors, classes, candidates):
    chance = np.random.default_rng(0)
    raw = np.zeros((1, anchors, 5 + classes), np.float32)
    raw[..., :2], raw[..., 2:4] = chance.uniform(0, 640, (anchors, 2)), chance.uniform(20, 200, (anchors, 2))
    chosen = chance.choice(anchors, candidates, replace=False)
    raw[0, chosen, 4] = 1
    raw[0, chosen, 5 + chance.integers(0, classes, candidates)] = chance.uniform(0.4, 1, candidates)
    if layout == "yolov8":
        raw = np.concatenate([raw[..., :4], raw[..., 5:]], 2).swapaxes(1, 2)
    return np.ascontiguousarray(raw)


def read_out(bench, spec, outputs, name):
    device = gpu.Device(spec)
    try:
        tensors = {key: sent(device, array) for key, array in outputs.items()}
        device.postprocess(tensors, [spec.preprocess.place(Size(1080, 1920))])
        places = launch.frames([launch.Pixels(0, 0, 0, (0, 0, 0))], [spec.preprocess.place(Size(1080, 1920))])
        records = device.pinned((places.nbytes,))
        records[...] = places.view(np.uint8)

        def once():
            # new records set the candidate counters to zero, as with every frame
            call("cuMemcpyHtoDAsync", device.frames, records.ctypes.data, records.nbytes, device.handle)
            device.readout.enqueue(tensors, 1, device.frames)

        return {"name": name, "us": bench.on_gpu(device, once), "us_one_by_one": bench.one_by_one(device, once)}
    finally:
        device.close()


def sent(device, array):
    tensor, side = device.empty(array.shape, str(array.dtype)), device.pinned((array.nbytes,))
    side[...] = array.reshape(-1).view(np.uint8)
    with device.context:
        call("cuMemcpyHtoDAsync", tensor.pointer, side.ctypes.data, array.nbytes, device.handle)
        device.wait()
    return tensor


class Nothing:
    """An engine that does nothing, for what is around an engine."""

    capturable = ""

    def __init__(self, spec, device):
        outputs = {one.name: np.zeros(one.at(1), one.dtype) for one in spec.outputs}
        self._outputs = {name: sent(device, array) for name, array in outputs.items()}

    def run(self, _):
        return self._outputs


def around(bench):
    """A 1080p frame in, boxes out, around an engine that does nothing."""
    spec, found = detector(), []
    device = gpu.Device(spec)
    try:
        engine = Nothing(spec, device)
        shape = (bench.frame.height, bench.frame.width, 3)
        frame, pinned = np.zeros(shape, np.uint8), device.pinned(shape)
        resident = sent(device, pinned)
        for kind, image in (("in plain memory", frame), ("page-locked", pinned), ("on the GPU", resident)):
            for manner, reason in (("graph", ""), ("stage by stage", "asked for")):
                way = FrameGraph(device, engine)
                way.graph = reason
                once = lambda way=way, image=image: way.run([image], "bgr")  # noqa: E731
                spent = bench.on_host(once)
                found.append({"frame": kind, "manner": manner, "ms": spent, "takes": taken(device, once)})
                with device.context:
                    way.close()
    finally:
        device.close()
    return found


def taken(device, function):
    """Bytes of the GPU's memory that 100 frames leave taken, and the most that the host holds for one while it runs."""
    with device.context:
        before = int(call("cuMemGetInfo")[0])
    tracemalloc.start()
    try:
        function()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(100):
            function()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with device.context:
        return {"gpu_bytes": before - int(call("cuMemGetInfo")[0]), "host_bytes": peak - held}


def engines(bench, bundle):
    """A page-locked 1080p frame to boxes against the bare engine and the upload, in turns, for every engine here."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("trt", "rtx", "ort_gpu"):
            try:
                backends.load(name)
                bundle = bundle or exported(Path(folder))
                if name != "ort_gpu":
                    command(["build", str(bundle), "--compile", name])
                with load(bundle, name) as model:
                    found.append(engine(bench, name, model))
            except EdgeInferError as missing:
                found.append({"backend": name, "skipped": str(missing)})
                print(f"skipped: {name}: {missing}", file=sys.stderr)
    return found


def exported(folder):
    from edgeinfer_export.export import export

    return export(Path(str(resources.files("edgeinfer_export"))) / "assets" / "pictograms.pt", folder / "pictograms")


def engine(bench, name, model):
    device = model.device
    pinned = device.pinned((1080, 1920, 3))
    pinned[...] = np.random.default_rng(0).integers(0, 256, pinned.shape, np.uint8)
    for _ in range(3):
        model(pinned)
    tensors, _ = device.preprocess([pinned])
    target = device.empty(pinned.shape, "uint8")

    def upload():
        call("cuMemcpyHtoDAsync", target.pointer, pinned.ctypes.data, pinned.nbytes, device.handle)

    def both():
        upload()
        model.engine.run(tensors)

    with device.context:
        # as our frames run: what can be captured is captured, or the engine alone would pay more for its launches
        graph = None if model.graph else Graph(device.handle, both)

    def bare():
        with device.context:
            if graph:
                graph.launch(device.handle)
            else:
                both()
            device.wait()

    rounds = [(bench.on_host(bare)["median"], bench.on_host(lambda: model(pinned))["median"]) for _ in range(5)]
    alone, whole = (median(column) for column in zip(*rounds, strict=True))
    ratio = round(median(one / other for other, one in rounds), 3)
    sending = bench.on_gpu(device, upload)["median"] / 1e3
    if graph:
        with device.context:
            graph.close()
    return {
        "backend": name,
        "artifact": model.artifact,
        "library": model.engine.library,
        "engine_and_upload_ms": alone,
        "upload_ms": round(sending, 4),
        "frame_ms": whole,
        "frame_without_upload_ms": round(whole - sending, 4),
        "takes": taken(device, lambda: model(pinned)),
        "ratio": ratio,
        "graph": model.graph or "yes",
    }


def context(device):
    from cuda.bindings import nvrtc

    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "gpu": device.name,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "cuda_of_driver": device.driver_version,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "integrated": device.integrated,
        "python": platform.python_version(),
        "packages": machine.versions(*PACKAGES),
        "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "command": " ".join(["python", *sys.argv]),
    }


def said(*command):
    """The first line of a program's answer; empty where there is no such program, or no answer."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def measured(bench, bundle, seconds, keep):
    """The report, handed to `keep` after each part."""
    device = gpu.Device(classifier())
    facts = context(device)
    device.close()
    if facts["gpu"] == "Stand-in" and not bench.quick:
        sys.exit("error: this is the stand-in driver: its times mean nothing")
    report = {"context": facts, "left_out": [], "failed": {}}
    parts = {
        "bytes_per_us": lambda: bandwidth(bench),
        "decode_and_suppress": lambda: decoding(bench),
        "preprocess": lambda: preprocessing(bench, report.get("bytes_per_us", {}).get("copy", 0)),
        "around_an_engine": lambda: around(bench),
        # a quick look builds no engine
        "engines": lambda: engines(bench, bundle) if bundle or not bench.quick else [],
    }
    end = time.monotonic() + seconds
    for name, part in parts.items():
        if time.monotonic() >= end:
            report["left_out"].append(name)
            continue
        try:
            report[name] = part()
        except Exception as error:  # noqa: BLE001 - the other parts are worth having
            traceback.print_exc()
            report["failed"][name] = f"{type(error).__name__}: {error}"
        keep(report)
    return report


def page(report):
    lines = [f"{report['context']['gpu']}: {report.get('bytes_per_us')} bytes a microsecond"]
    for row in report.get("preprocess", ()):
        lines.append(f"{row['us']['median']:9.1f} us  {row['of_bandwidth']:5.2f} x  {row['name']}")  # noqa: PERF401
    for row in report.get("decode_and_suppress", ()):
        alone = row["us_one_by_one"]["median"]
        lines.append(f"{row['us']['median']:9.1f} us  {alone:7.1f} us one by one  {row['name']}")
    for row in report.get("around_an_engine", ()):
        takes = "takes {gpu_bytes} bytes of the GPU's memory, {host_bytes} of the host's".format(**row["takes"])
        lines.append(f"{row['ms']['median']:9.3f} ms  frame {row['frame']}, {row['manner']}; {takes}")
    for row in report.get("engines", ()):
        told = row.get("skipped") or f"{row['frame_ms']:.3f} ms, {row['ratio']:.3f} x of upload and engine"
        lines.append(f"{row['backend']}: {told}")
    lines += [f"left out: {name}" for name in report["left_out"]]
    return "\n".join([*lines, *(f"FAILED: {name}: {why}" for name, why in report["failed"].items())])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write (default: benchmarks/results/gpu-NAME.json)")
    parser.add_argument("--seconds", type=float, default=3600, help="after so many no further part is begun")
    parser.add_argument("--bundle", type=Path, help="the detector that engines run (default: the packaged one)")
    parser.add_argument("--quick", action="store_true", help="a few launches of each, to see that they work")
    options = parser.parse_args()

    def keep(report):
        if not options.quick:
            name = re.sub(r"\W+", "-", report["context"]["gpu"]).strip("-").lower()
            with wholefile.whole(options.json or RESULTS / f"gpu-{name}.json") as file:
                file.write_text(json.dumps(report, indent=1) + "\n")

    report = measured(Bench(options.quick), options.bundle, options.seconds, keep)
    print(page(report))
    return int(bool(report["failed"]))


if __name__ == "__main__":
    sys.exit(main())
