"""Random work for kernels built with sanitizers: any byte touched outside its buffer ends the process.

    python -m kernels.sanitized LIBRARY [overrun]

`overrun` hands the kernels one buffer that is too short, to show that this would be seen.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from edgeinfer.devices import launch
from edgeinfer.devices._pixelvalues import pixel_values
from edgeinfer.spec import INTERPOLATIONS, Boxes, Preprocess, Size, TopK
from kernels import on_cpu, specs

FORBID = "__asan_poison_memory_region"  # by name, which a class would mangle


class Fenced(on_cpu.Kernels):
    """A workspace whose gaps between buffers may not be touched either."""

    def workspace(self, plan: launch.Detect) -> np.ndarray:
        block = super().workspace(plan)
        forbid = getattr(ctypes.CDLL(None), FORBID)
        places = sorted(plan._places.values(), key=lambda place: place.start)
        ends = [place.start for place in places[1:]] + [plan.workspace_bytes]
        for place, end in zip(places, ends, strict=True):
            forbid(ctypes.c_void_p(on_cpu.address(block) + place.stop), ctypes.c_size_t(end - place.stop))
        return block


def pictures(kernels: on_cpu.Kernels, rng: np.random.Generator) -> None:
    """Every format, at sizes from one pixel up, into every dtype."""
    for case in range(120):
        pixels = ("bgr", "rgb", "nv12")[case % 3]
        height, width = (int(side) for side in rng.integers(1, 30, 2))
        shapes = [(height, width, 3), (height, width, 4), (height, width)]
        shape = (height * 3, width * 2) if pixels == "nv12" else shapes[case % (3 if pixels == "bgr" else 2)]
        fit = ("letterbox", "stretch", "resize-crop")[int(rng.integers(3))]
        kind = INTERPOLATIONS[int(rng.integers(len(INTERPOLATIONS)))]
        size = Size(*(int(side) for side in rng.integers(1, 40, 2)))
        resize = max(size.height, size.width) if fit == "resize-crop" else 0
        how = Preprocess(size, fit=fit, interpolation=kind, resize=resize)
        spec = specs.picture_spec(how, ("float32", "float16", "uint8")[int(rng.integers(3))])
        kernels.preprocess(spec, [rng.integers(0, 256, shape, np.uint8) for _ in range(2)], pixels)


def boxes(kernels: on_cpu.Kernels, rng: np.random.Generator) -> None:
    """Every layout and dtype, with room for all candidates and without."""
    for case in range(60):
        layout, dtype = ("yolov5", "yolov8", "end2end")[case % 3], ("float32", "float16")[case % 2]
        anchors, capacity = (int(number) for number in rng.integers(1, 400, 2))
        decode = Boxes(layout, score=float(rng.choice([0.0, 0.4])), limit=int(rng.choice([1, 50, 300])))
        spec = specs.boxes_spec(decode, anchors, 3, dtype)
        places = [Preprocess(Size(64, 64)).place(Size(50, 90))] * 2
        output = (rng.random(spec.outputs[0].at(2)) * 4).astype(dtype)
        kernels.detect(spec, output, places, capacity=capacity, seed=case)


def classes(kernels: on_cpu.Kernels, rng: np.random.Generator) -> None:
    for count in (1, 2, 255, 256, 257, 1000):
        logits = rng.normal(size=(2, count)).astype(("float32", "float16")[count % 2])
        kernels.classify(specs.classes_spec(TopK(5), count, str(logits.dtype)), logits, seed=count)


def overrun(kernels: on_cpu.Kernels) -> None:
    """A frame one row shorter than its record says."""
    image = np.zeros((64, 64, 3), np.uint8)
    short = image[:63].copy()
    spec = specs.picture_spec(Preprocess(Size(64, 64)))
    one, size = on_cpu.pixels_of(image, "bgr", "rgb")
    frames = launch.frames([one._replace(address=on_cpu.address(short))], [spec.preprocess.place(size)])
    tensor, table = np.empty((1, 3, 64, 64), np.float32), pixel_values(spec.preprocess, "float32")
    at = {"frames": on_cpu.address(frames), "tensor": on_cpu.address(tensor), "table": on_cpu.address(table)}
    kernels.run(launch.preprocess(spec, 1, **at))


if __name__ == "__main__":
    library = Fenced(Path(sys.argv[1]))
    assert hasattr(ctypes.CDLL(None), "__asan_init"), "the sanitizer is not loaded"
    if "overrun" in sys.argv:
        overrun(library)
    for work in (pictures, boxes, classes):
        work(library, np.random.default_rng(1))
    print("clean")
