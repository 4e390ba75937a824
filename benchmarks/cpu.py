"""What edgeinfer costs on a CPU, beside the bare engine and (where it is installed) Ultralytics.

Every comparison is interleaved: the contenders take turns in blocks, in random order, in one process. A block
begins with a few runs that are not counted, because the thread pools of whoever ran before still spin. Numbers
of a shared machine are only good as ratios within one run. Usage: python benchmarks/cpu.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib import metadata, resources
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import onnx
import onnxruntime

from edgeinfer import load
from edgeinfer_export import checkpoint, graphs
from edgeinfer_export.export import write_bundle

HEIGHT, WIDTH = 1080, 810
BLOCK, SETTLE = 10, 3
OPENCV_THREADS = cv2.getNumThreads()  # Ultralytics sets it to 1 for the whole process when it is imported
PACKAGES = ("edgeinfer", "numpy", "onnxruntime", "opencv-python-headless", "ultralytics", "torch")


def picture():
    """The first packaged street scene at the size everybody measures: (1080, 810, 3) uint8 BGR."""
    assets = resources.files("edgeinfer_export") / "assets"
    data = np.frombuffer((assets / "street-0.jpg").read_bytes(), np.uint8)
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (WIDTH, HEIGHT))


def interleaved(contenders, rounds, threads=None):
    """Milliseconds of every counted call by contender: {name: [float]}; `threads` are OpenCV's, by contender."""
    chance, spans = random.Random(0), {name: [] for name in contenders}
    for _ in range(rounds):
        for name in chance.sample(sorted(contenders), len(contenders)):
            cv2.setNumThreads((threads or {}).get(name, OPENCV_THREADS))
            for place in range(SETTLE + BLOCK):
                start = time.perf_counter()
                contenders[name]()
                if place >= SETTLE:
                    spans[name].append((time.perf_counter() - start) * 1e3)
    return spans


def beyond_bare(spans, name):
    """Median over the rounds of how much longer the contender's block took than the bare engine's beside it.

    A machine that changes its speed for some rounds does so for both: between medians of all calls it would show.
    """
    blocks = {one: [median(spans[one][at : at + BLOCK]) for at in range(0, len(spans[one]), BLOCK)] for one in spans}
    return median(its - bare for its, bare in zip(blocks[name], blocks["bare"], strict=True))


def wide_detector():
    """The packaged detector with its ten classes widened to eighty, so that its output is 25,200 x 85."""
    path = resources.files("edgeinfer_export") / "assets" / "pictograms.pt"
    weights = checkpoint.read(Path(str(path)))
    tensors = dict(weights.tensors)
    for name in [name for name in tensors if name.startswith("model.24.m.")]:
        rows = np.split(tensors[name], 3)
        filler = np.full((70, *rows[0].shape[1:]), 0 if name.endswith("weight") else -9, rows[0].dtype)
        tensors[name] = np.concatenate([part for row in rows for part in (row, filler)])
    labels = tuple(f"class_{place}" for place in range(80))
    facts = dataclasses.replace(weights, tensors=tensors, labels=labels, yaml={**weights.yaml, "nc": 80})
    return graphs.build(facts, name="yolov5n")


def as_yolov8(built):
    """The same detector as Ultralytics reads and writes it: (n, 4 + classes, 25200), scores multiplied out."""
    graph, (output,) = built.model.graph, built.spec.outputs
    graph.node.pop()  # rows into columns
    *boxes, scores = graph.node.pop().input
    classes = output.shape[2] - 5
    graph.initializer.append(onnx.helper.make_tensor("cuts", onnx.TensorProto.INT64, [2], [1, classes]))
    node = onnx.helper.make_node
    graph.node.extend(
        [
            node("Split", [scores, "cuts"], ["objectness", "classes"], axis=1),
            node("Mul", ["objectness", "classes"], ["multiplied"]),
            node("Concat", [*boxes, "multiplied"], ["columns"], axis=1),
        ]
    )
    shape = (1, 4 + classes, output.shape[1])
    value = onnx.helper.make_tensor_value_info("columns", onnx.TensorProto.FLOAT, shape)
    del graph.output[:]
    graph.output.append(value)
    decode = dataclasses.replace(built.spec.decode, layout="yolov8")
    outputs = (dataclasses.replace(output, name="columns", shape=shape),)
    return built.model, dataclasses.replace(built.spec, name="yolov8-layout", outputs=outputs, decode=decode)


def resnet50(folder):
    """A ResNet-50 with seeded weights."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.fullsize import resnet50 as checkpoint_of_resnet50

    built = graphs.build(checkpoint_of_resnet50(), name="resnet50")
    return write_bundle(built.model, built.spec, folder / "resnet50")


def bare(bundle, model, image):
    """`session.run` on the same tensor, ready made: what the engine alone costs."""
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(str(bundle / "model.fp32.onnx"), options, providers=["CPUExecutionProvider"])
    tensors, _ = model.device.preprocess([image])
    feed = {name: tensor.copy() for name, tensor in tensors.items()}
    return lambda: session.run(None, feed)


def ultralytics_on(bundle, image):
    """Ultralytics predicting the same ONNX, or None where it is not installed."""
    try:
        from ultralytics import YOLO
    except ImportError:
        return None
    model = YOLO(str(bundle / "model.fp32.onnx"), task="detect")
    return lambda: model.predict(image, imgsz=640, device="cpu", verbose=False)


def overhead(bundle, image, rounds, *, peer=False):
    """Medians of the bare engine and of image -> result, by stage, in milliseconds."""
    stages = []
    with load(bundle, "ort") as model:

        def ours():
            model(image)
            stages.append(model.timings)

        contenders = {"bare": bare(bundle, model, image), "edgeinfer": ours}
        other = ultralytics_on(bundle, image) if peer else None
        if other:
            contenders["ultralytics"] = other
        spans = interleaved(contenders, rounds, {"ultralytics": 1})
        found = len(model(image))
    medians = {name: median(values) for name, values in spans.items()}
    row = {f"{name}_ms": value for name, value in medians.items()}
    row["overhead_ms"] = beyond_bare(spans, "edgeinfer")
    row.update({f"{stage}_ms": median(one[stage] for one in stages) for stage in stages[0]})
    if other:
        row["ultralytics_overhead_ms"] = beyond_bare(spans, "ultralytics")
        row["overhead_ratio"] = row["overhead_ms"] / row["ultralytics_overhead_ms"]
    return {**row, "results": found, "runs": len(spans["bare"])}


# each child says its own peak: the kernel's figure for a waited child includes the parent it was forked from
PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
COLD = """
import sys, time
start = time.perf_counter()
import cv2, edgeinfer
model = edgeinfer.load(sys.argv[1], "ort")
model(cv2.imread(sys.argv[2]))
print(time.perf_counter() - start)
"""
EXPORT = """
import sys, time
from edgeinfer.cli import main
main(["export", *sys.argv[1:]])
print(time.perf_counter())
"""


def process(code, *arguments):
    """(seconds of the whole process, the number it printed, peak resident MB)."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    *_, number, peak = done.stdout.split()
    return seconds, float(number), int(peak) / 1024


def cold(bundle, image, folder, times=7):
    """Fresh process -> first result: import, load, first frame."""
    cv2.imwrite(str(folder / "picture.png"), image)
    runs = [process(COLD, bundle, folder / "picture.png") for _ in range(times)]
    return {
        "first_result_ms": median(number * 1e3 for _, number, _ in runs),
        "whole_process_ms": median(seconds * 1e3 for seconds, _, _ in runs),
        "peak_rss_mb": max(peak for _, _, peak in runs),
        "runs": times,
    }


def exporting(folder, times=5):
    """`edgeinfer export` of the packaged YOLOv5n checkpoint, the whole process."""
    source = resources.files("edgeinfer_export") / "assets" / "pictograms.pt"
    runs = [process(EXPORT, source, "-o", folder / "exported") for _ in range(times)]
    return {
        "whole_process_ms": median(seconds * 1e3 for seconds, _, _ in runs),
        "peak_rss_mb": max(peak for _, _, peak in runs),
        "runs": times,
    }


def context():
    """What a number is worth nothing without."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "picture": [HEIGHT, WIDTH],
    }


def table(results):
    """The rows for a person, as Markdown."""
    lines = ["| what | measured |", "|---|---|"]
    for name, row in results.items():
        lines += [f"| {name}: {key} | {value:.2f} |" for key, value in row.items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each contender (default 20)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    image, about = picture(), context()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide, classifier = wide_detector(), resnet50(folder)
        detector = write_bundle(wide.model, wide.spec, folder / "yolov5n")
        shared = write_bundle(*as_yolov8(wide), folder / "yolov8-layout")
        results = {
            "yolov5n": overhead(detector, image, args.rounds),
            "yolov5n, yolov8 layout": overhead(shared, image, args.rounds, peer=True),
            "resnet50": overhead(classifier, image, args.rounds),
            "cold start": cold(detector, image, folder),
            "export": exporting(folder),
        }
    print(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"context": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
