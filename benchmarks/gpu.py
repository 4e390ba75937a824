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
import time
import traceback
from pathlib import Path

import numpy as np
from gpuclock import Bench, sent
from gpuframes import around, beside

from edgeinfer import machine, wholefile
from edgeinfer.devices import gpu, launch
from edgeinfer.devices._driver import call
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
ENGINES = ("trt", "rtx", "ort_gpu")


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


def classifier(interpolation="linear-antialias"):
    return ModelSpec(
        name="classifier",
        task="classify",
        inputs=(TensorSpec("images", (Batch(1, MOST), 3, 224, 224)),),
        outputs=(TensorSpec("logits", (Batch(1, MOST), 1000)),),
        preprocess=Preprocess(Size(224, 224), fit="resize-crop", resize=256, interpolation=interpolation, **IMAGENET),
        decode=TopK(5),
        labels=tuple(map(str, range(1000))),
    )


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
    """The letterbox of 1080p frames, and ResNet's antialiased crops, at several batches."""
    cases = {f"letterbox 1080p to 640, {dtype}": detector(dtype=dtype) for dtype in ("float32", "float16", "uint8")}
    cases["antialiased crop 1080p to 224, float32"] = classifier()
    cases["bicubic crop 1080p to 224, float32"] = classifier("cubic-antialias")
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
        "around_an_engine": lambda: around(bench, detector()),
    }
    if bundle or not bench.quick:  # a quick look builds no engine
        parts.update({f"beside_{name}": lambda name=name: beside(bench, name, bundle) for name in ENGINES})
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
    for row in filter(None, (report.get(f"beside_{name}") for name in ENGINES)):
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

    try:
        if options.json:
            wholefile.check_writable(options.json)
        report = measured(Bench(options.quick), options.bundle, options.seconds, keep)
    except EdgeInferError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
    print(page(report))
    return int(bool(report["failed"]))


if __name__ == "__main__":
    sys.exit(main())
