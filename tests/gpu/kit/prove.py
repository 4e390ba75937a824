"""The GPU path with a real TensorRT against what the CPU found; needs NumPy, cuda-bindings and TensorRT only.

    python prove.py [--json FILE] [--seconds S] [--precision fp16]

It stands in a folder that `pack.py` made. For each model: the kernels against the CPU's tensors and boxes, to the bit;
then an engine of each precision, built here, with our kernels around it in one CUDA graph, against the CPU's results
within `golden.TOLERANCE` (int8 against the same graph on the CPU), and each replay against the first, plain run, to
the bit. What is missing is skipped by name; anything wrong ends in exit code 1. The report is written anew after every
check; after so many seconds no further engine is begun, and those left out are named. With --precision only engines
of that one are built: should the library end the process, the others are proved in one of their own. Imports on
Python 3.9.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402

from edgeinfer import backends, golden, machine, modeljson, wholefile  # noqa: E402
from edgeinfer.devices import gpu  # noqa: E402
from edgeinfer.devices._driver import call  # noqa: E402
from edgeinfer.devices._framegraph import Graph  # noqa: E402
from edgeinfer.devices._memory import view  # noqa: E402
from edgeinfer.errors import BackendUnavailable, EdgeInferError  # noqa: E402
from edgeinfer.lanes import Lane  # noqa: E402
from edgeinfer.spec import Expected, Golden  # noqa: E402

# a result so near the threshold may fall to either side in another precision
CLEAR = 0.15
# of the results of an int8 graph: roundings that fall to the other side go on to the end
LOST = 20
RUNS = 200
# the most telling first
PRECISIONS = ("fp16", "int8", "fp32")


class Proof:
    """What was checked: rows of {model, what, passed, detail}, written to a file as they come."""

    def __init__(self, facts, file):
        self._facts, self._file, self.rows = facts, file, []

    def check(self, model, what, passed, detail="", **numbers):
        self.rows.append({"model": model, "what": what, "passed": passed, "detail": detail, **numbers})
        with wholefile.whole(self._file) as file:
            file.write_text(json.dumps({"context": self._facts, "checks": self.rows}, indent=1) + "\n")
        state = {True: "passed", False: "FAILED", None: "skipped"}[passed]
        extra = ", ".join("{} {}".format(*item) for item in numbers.items())
        print(f"{state:8} {model}: {what}  {detail} {extra}", flush=True)


class Cases:
    """One model's pictures and the CPU's answers."""

    def __init__(self, folder):
        self.folder, self.spec = folder, modeljson.read(folder / "model.json")
        self._arrays = np.load(folder / "cases.npz")
        self._expected = json.loads((folder / "cases.json").read_text())
        self.expected = self._expected["fp32"]
        self.images = [self._arrays[f"image_{at}"] for at in range(len(self.expected))]
        self.tensor = self._arrays["tensor"]

    def raw(self):
        return {one.name: self._arrays["raw_" + one.name] for one in self.spec.outputs}

    def wrong(self, results, precision):
        """What the results miss of the CPU's clear ones; its own in int8, where one in `LOST` may be missed."""
        missing, due = [], 0
        for found, expected in zip(results, self._expected.get(precision, self.expected)):
            for one in expected:
                if self.spec.task == "classify" or one["score"] >= 0.25 + CLEAR:
                    wanted = Expected(one["class_id"], one["score"], tuple(one.get("box", ())))
                    report = golden.compare(Golden("picture", (wanted,)), found, precision)
                    missing += [] if report.passed else [report.detail]
                    due += 1
        return missing if len(missing) > (due / LOST if precision == "int8" else 0) else []


def rows(result):
    """A result as plain numbers."""
    boxes = result.boxes.tolist() if result.task == "detect" else []
    return [result.class_ids.tolist(), result.scores.tolist(), boxes]


def fetched(tensor, device):
    side = device.pinned((tensor.nbytes,))
    with device.context:
        call("cuMemcpyDtoHAsync", side.ctypes.data, tensor.pointer, tensor.nbytes, device.handle)
        device.wait()
    return view(side.ctypes.data, tensor.nbytes).view(tensor.dtype).reshape(tensor.shape).copy()


def sent(array, device):
    tensor, side = device.empty(array.shape, str(array.dtype)), device.pinned((array.nbytes,))
    side[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with device.context:
        call("cuMemcpyHtoDAsync", tensor.pointer, side.ctypes.data, array.nbytes, device.handle)
        device.wait()
    return tensor


def kernels(proof, name, cases):
    """Preprocessing of the first picture, and decoding of the CPU's raw output for it."""
    device = gpu.Device(cases.spec)
    try:
        tensors, places = device.preprocess(cases.images[:1])
        (found,) = tensors.values()
        differing = int(np.count_nonzero(fetched(found, device) != cases.tensor))
        smooth = cases.spec.preprocess.interpolation != "linear"
        # sums beside a half, added in another order, may round to the next pixel value
        allowed = cases.tensor.size // 100 if smooth else 0
        proof.check(name, "preprocess kernel", differing <= allowed, differing=differing, of=cases.tensor.size)
        outputs = {key: sent(array, device) for key, array in cases.raw().items()}
        (result,) = device.postprocess(outputs, places)
        if result.task == "classify":
            same = result.class_ids.tolist() == [one["class_id"] for one in cases.expected[0]]
        else:
            wanted = [[one[key] for one in cases.expected[0]] for key in ("class_id", "score", "box")]
            same = rows(result) == wanted
        proof.check(name, "decode and suppress kernels", same, results=len(result))
    finally:
        device.close()


def engine(proof, name, cases, artifact):
    """Build the artifact, run every picture three times, compare."""
    from edgeinfer_export import compile as compiler

    what = "trt " + artifact.precision
    plan = cases.folder / f"trt.{artifact.precision}.plan"
    # without cuBLAS and cuDNN, which the kit has not; TF32 would not be float32
    options = compiler.Options(
        library="trt", precision=artifact.precision, external_tactics=False, tf32=artifact.precision != "fp32"
    )
    compiled = compiler.compile_onnx(cases.folder / artifact.file, plan, options)
    with ExitStack() as opened:  # whatever fails: the graphs go before their engine, that before the device's context
        device = gpu.Device(cases.spec)
        opened.callback(device.close)
        made = backends.load("trt")(plan, cases.spec, device)
        opened.callback(made.close)
        lane = Lane(device, made)
        opened.callback(lane.way.close)
        plain = [lane.way.run([image], "bgr")[0][0] for image in cases.images]
        replays = [[rows(lane.way.run([image], "bgr")[0][0]) for image in cases.images] for _ in range(2)]
        wrong = cases.wrong(plain, artifact.precision)
        times = timed(lane, cases.images[0])
        numbers = {"build_s": round(compiled.elapsed_s, 1), "plan_bytes": compiled.size_bytes, **times}
        proof.check(name, what + " results", not wrong, "; ".join(wrong[:2]), **numbers)
        graph = lane.way.graph
        proof.check(name, what + " in one CUDA graph", not graph, graph)
        proof.check(name, what + " replay equals plain", replays == [[rows(one) for one in plain]] * 2)


def timed(lane, image):
    """Milliseconds from a page-locked frame to its result, and of upload and bare engine, in turns; both in a graph."""
    device = lane.device
    pinned = device.pinned(image.shape)
    pinned[...] = image
    tensors, _ = device.preprocess([pinned])
    target = device.empty(pinned.shape, "uint8")

    def both():
        call("cuMemcpyHtoDAsync", target.pointer, pinned.ctypes.data, pinned.nbytes, device.handle)
        lane.engine.run(tensors)

    with device.context:
        graph = None if lane.way.graph else Graph(device.handle, both)

    def bare():
        with device.context:
            graph.launch(device.handle) if graph else both()
            device.wait()

    spans = {"frame_ms": [], "engine_and_upload_ms": []}
    for _ in range(RUNS):
        for key, function in (("frame_ms", lambda: lane.way.run([pinned], "bgr")), ("engine_and_upload_ms", bare)):
            start = time.perf_counter()
            function()
            spans[key].append(1e3 * (time.perf_counter() - start))
    with device.context:
        if graph:
            graph.close()
    return {key: round(median(column), 4) for key, column in spans.items()}


def versions():
    import cuda.bindings

    found = {"python": platform.python_version(), "numpy": np.__version__, "cuda-bindings": cuda.bindings.__version__}
    try:
        import tensorrt

        found["tensorrt"] = tensorrt.__version__
    except ImportError as missing:
        found["tensorrt"] = f"none: {missing}"
    return found


def prove(proof, seconds, precisions):
    end = time.monotonic() + seconds
    models = [Cases(folder) for folder in sorted((HERE / "models").iterdir())]
    for cases in models:
        attempt(proof, cases, "kernels", lambda cases=cases: kernels(proof, cases.folder.name, cases))
    for precision in precisions:
        for cases in models:
            for artifact in cases.spec.artifacts:
                if artifact.precision == precision and artifact.format == "onnx" and artifact.flavor in ("", "trt"):
                    built(proof, cases, artifact, end)


def built(proof, cases, artifact, end):
    name, what = cases.folder.name, "trt " + artifact.precision
    try:
        backends.load("trt")
    except BackendUnavailable as missing:
        proof.check(name, what, None, str(missing))
        return
    if time.monotonic() >= end:
        proof.check(name, what, None, "left out: no time")
        return
    attempt(proof, cases, what, lambda: engine(proof, name, cases, artifact))


def attempt(proof, cases, what, function):
    """Whatever fails is a row of its own, and stops none of the rest."""
    try:
        function()
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        hint = f"; {error.hint}" if isinstance(error, EdgeInferError) else ""
        proof.check(cases.folder.name, what, False, f"{type(error).__name__}: {error}{hint}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=HERE / "proof.json")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--precision", choices=PRECISIONS, help="of engines; all of them if none is named")
    options = parser.parse_args()
    try:
        wholefile.check_writable(options.json)
        here = machine.gpu()
    except EdgeInferError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
    facts = {"gpu": here.name, "compute_capability": here.sm, "cuda_of_driver": here.cuda, **versions()}
    print(facts)
    proof = Proof(facts, options.json)
    prove(proof, options.seconds, [options.precision] if options.precision else PRECISIONS)
    failed = sum(row["passed"] is False for row in proof.rows)
    skipped = sum(row["passed"] is None for row in proof.rows)
    print(f"{len(proof.rows)} checks: {failed} failed, {skipped} skipped; wrote {options.json}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
