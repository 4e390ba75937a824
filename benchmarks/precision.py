"""What precision costs and brings: int8 beside float32 in ONNX Runtime on this CPU, and the time and memory of export.

The engines take turns, one run each, so that whatever else the machine does falls on all alike; a ratio is that of
the medians. Exports and builds run in processes of their own, which tell their wall time and their peak memory; beside
what was found stands what is asked on two cores.
Usage: python benchmarks/precision.py [--rounds N] [--only PART ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import onnxruntime
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from edgeinfer.bundle import Bundle
from edgeinfer_export import calibration, export, forms, graphs, quantize
from edgeinfer_export.forms import Form, Ranges
from helpers import fullsize
from helpers.scenery import SOURCE, TRUTH, write_scenes

SIZES = {"yolov5n": (0.25, 0.33), "yolov5x": (1.25, 1.33)}
# at most, by the name of what is measured
ASKED = {
    "yolov5n": {"seconds": 4},
    "yolov5x": {"peak_mb": 2000},
    "engine": {"seconds": 20},
    "calibration": {"seconds": 60},
}
SETTLE = 3
PACKAGES = ("onnx", "onnxruntime", "numpy", "tensorrt-rtx-cu13")
MODULES = {"tensorrt-rtx-cu13": "tensorrt_rtx"}


def state(width, depth):
    """A YOLOv5's tensors at its real size, from seeds."""
    thin = [math.ceil(channels * width / 8) * 8 for channels in (64, 128, 256, 512, 1024)]
    one, two, three, four, five = thin
    tensors = fullsize.State()
    convolutions = ((0, 3, one, 6), (1, one, two, 3), (3, two, three, 3), (5, three, four, 3), (7, four, five, 3))
    necks = ((10, five, four, 1), (14, four, three, 1), (18, three, three, 3), (21, four, four, 3))
    for layer, inputs, outputs, kernel in (*convolutions, *necks):
        tensors.conv(f"model.{layer}.conv", inputs, outputs, kernel)
    backbone = ((2, two, two, 3), (4, three, three, 6), (6, four, four, 9), (8, five, five, 3))
    for layer, inputs, outputs, repeats in (
        *backbone,
        *((13, five, four, 3), (17, four, three, 3), (20, four, four, 3), (23, five, five, 3)),
    ):
        fullsize.c3(tensors, f"model.{layer}", inputs, outputs, max(1, round(repeats * depth)))
    tensors.conv("model.9.cv1.conv", five, five // 2, 1)
    tensors.conv("model.9.cv2.conv", 2 * five, five, 1)
    for level, inputs in enumerate((three, four, five)):
        tensors.conv(f"model.24.m.{level}", inputs, 255, 1)
    strides = np.array([8, 16, 32], np.float32)[:, None, None]
    tensors["model.24.anchors"] = np.array(fullsize.ANCHORS, np.float32) / strides
    return tensors


def spent(*words):
    """Seconds, those of the processors among them, and peak MB of `edgeinfer WORDS`, the whole process."""
    start = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-m", "edgeinfer", *map(str, words)], os.environ)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, f"edgeinfer {words} failed"
    wall, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_mb": round(usage.ru_maxrss / 1e3)}


def exported(name, folder):
    """A checkpoint's export to float32 and float16; the fastest of three of a small one."""
    file = folder / f"{name}.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in state(*SIZES[name]).items()}, file)
    words = ("export", file, "-o", folder / name, "--precision", "fp32,fp16")
    runs = [spent(*words) for _ in range(3 if name == "yolov5n" else 1)]
    return {**min(runs, key=lambda run: run["seconds"]), "asked": ASKED[name]}


def compiled(folder):
    """An engine of YOLOv5n for one GPU, in each precision."""
    if not importlib.util.find_spec("tensorrt_rtx"):
        return {"missing": "tensorrt-rtx is not installed"}
    exported("yolov5n", folder)
    words = ("build", folder / "yolov5n", "--compile", "rtx:sm86", "--precision")
    return {one: {**spent(*words, one), "asked": ASKED["engine"]} for one in ("fp32", "fp16")}


def ranged(built, pictures):
    seen = calibration.observe(built.model, built.spec, quantize.points(built.model), pictures)
    return Ranges({name: one.range("mse") for name, one in seen.items()}, "mse", len(pictures))


def timed(models, shape, rounds, threads):
    """Median milliseconds of one run by name, the sessions taking turns."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    # the threads of one session would spin while the next one works
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        name: onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, model in models.items()
    }
    x = np.random.default_rng(0).random(shape, np.float32)
    spans = {name: [] for name in sessions}
    for place in range(SETTLE + rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            if place >= SETTLE:
                spans[name].append((time.perf_counter() - start) * 1e3)
    found = {name: round(median(span), 2) for name, span in spans.items()}
    best = {name: round(min(span), 2) for name, span in spans.items()}
    return {
        "median_ms": found,
        "least_ms": best,
        "speedup": round(found["fp32"] / found["int8-cpu"], 2),
        "speedup_of_least": round(best["fp32"] / best["int8-cpu"], 2),
    }


def speed(rounds, pictures):
    """Both models in float32 and int8, with one thread and with all."""
    rows = {}
    for name, built in (
        ("yolov5n 640", export.read(SOURCE)),
        ("yolov5s 640", graphs.build(fullsize.State.checkpoint(state(0.5, 0.33), "yolov5s"))),
        ("resnet50 224", graphs.build(fullsize.resnet50())),
    ):
        seen = ranged(built, pictures)
        made = {
            form.name: forms.make(built.model, form, seen).model for form in (Form("int8", "cpu"), Form("int8", "trt"))
        }
        shape = built.spec.inputs[0].at(1)
        for threads in (1, os.cpu_count()):
            rows[f"{name}, threads {threads}"] = timed({"fp32": built.model, **made}, shape, rounds, threads)
            print(name, threads, rows[f"{name}, threads {threads}"], flush=True)
    return rows


def calibrated(folder):
    """Seconds for 100 pictures at 640."""
    built = export.read(SOURCE)
    pictures = [cv2.imread(str(file)) for file in sorted(folder.glob("*.png"))]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranged(built, pictures)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "grown_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3),
        "asked": ASKED["calibration"],
    }


def accuracy(folder, scenes):
    """What every form of the packaged detector scores on its held-out pictures at 640."""
    pictures = export.heldout.Sources(str(scenes), str(TRUTH))
    options = export.Options(precisions=("fp32", "fp16", "int8"), pictures=pictures)
    bundle = Bundle.open(export.export(SOURCE, folder / "pictograms", options))
    return {one.file: {"measured": one.accuracy, "made": one.made} for one in bundle.spec.artifacts if one.accuracy}


def parts(folder, rounds):
    """What can be measured, by name."""
    scenes = folder / "scenes"
    scenes.mkdir()
    write_scenes(scenes, 100, 480, 640)
    return {
        "export": lambda: {name: exported(name, folder) for name in SIZES},
        "engine": lambda: compiled(folder),
        "calibration": lambda: calibrated(scenes),
        "accuracy": lambda: accuracy(folder, scenes),
        "speed": lambda: speed(rounds, [cv2.imread(str(file)) for file in sorted(scenes.glob("*.png"))[:8]]),
    }


def machine():
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": sorted({flag for flag in flags if "vnni" in flag or flag.startswith("amx")}),
        "packages": {one: metadata.version(one) for one in PACKAGES if importlib.util.find_spec(MODULES.get(one, one))},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[], help="these parts; those of --json that are not measured stay")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        for part, measure in parts(Path(name), args.rounds).items():
            if not args.only or part in args.only:
                load = os.getloadavg()[0]
                found[part] = {**measure(), "load": [round(load, 1), round(os.getloadavg()[0], 1)]}
    found["machine"] = machine()
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
