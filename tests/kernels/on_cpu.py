"""The kernels built by g++ and run on this machine's CPU through the very launches the GPU gets."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.devices import images, launch
from edgeinfer.devices._pixelvalues import pixel_values
from edgeinfer.devices.launch import Pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.spec import ModelSpec, Size

HERE = Path(__file__).parent
KERNELS = HERE.parent.parent / "edgeinfer" / "devices" / "kernels"
NOWHERE = Pixels(0, 0, 0, (0, 0, 0))
FLAGS = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",  # unroll
    "-ffp-contract=off",  # as compiler.py's --fmad=false
    "-U_FORTIFY_SOURCE",  # takes a coroutine's longjmp for an overwritten stack
]


def build(library: Path, *flags: str) -> Path:
    """Compile the kernels into `library`; FileNotFoundError if there is no g++."""
    sources = ["-include", str(HERE / "cuda_on_cpu.h"), "-I", str(KERNELS), str(HERE / "host.cpp")]
    done = subprocess.run(
        ["g++", *FLAGS, *flags, "-o", str(library), *sources], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return library


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def pixels_of(image: np.ndarray, pixels: str, color: str) -> tuple[Pixels, Size]:
    """An image in memory, its rows at any pitch, as the kernels see it."""
    one = images.picture(image, pixels)
    pitch, step = image.strides[0], image.strides[1]
    if one.nv12:
        chroma = address(image) + one.size.height * pitch
        return Pixels(address(image), pitch, 1, one.order(color), chroma, pitch), one.size
    return Pixels(address(image), pitch, step, one.order(color)), one.size


class Kernels:
    """Launches on the CPU. `seed` shuffles the threads of every launch; 0 leaves them in order."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.launch.argtypes = [ctypes.c_char_p, *3 * [ctypes.c_void_p], ctypes.c_ulonglong]
        self.library.layouts.restype = ctypes.c_char_p
        self.library.half_to_float.restype = ctypes.c_float

    def run(self, one: launch.Launch, seed: int = 0) -> None:
        grid, block = np.array(one.grid, np.uint32), np.array(one.block, np.uint32)
        places = (address(grid), address(block), address(one.argument))
        assert self.library.launch(one.kernel.encode(), *places, seed) == 0, one.kernel

    def preprocess(self, spec: ModelSpec, images: Sequence[np.ndarray], pixels: str = "bgr", *, seed: int = 0):
        """Images -> the model's input."""
        how, count = spec.preprocess, len(images)
        pairs = [pixels_of(image, pixels, how.color) for image in images]
        frames = launch.frames([one for one, _ in pairs], [how.place(size) for _, size in pairs])
        tensor = poison(np.empty(spec.inputs[0].at(count), spec.inputs[0].dtype))
        table = pixel_values(how, spec.inputs[0].dtype)
        at = {"frames": address(frames), "tensor": address(tensor), "table": address(table)}
        self.run(launch.preprocess(spec, count, **at), seed)
        return tensor

    def detect(self, spec: ModelSpec, output, placements, *, capacity: int = launch.CAPACITY, seed: int = 0):
        """Raw output -> result records, one a placement."""
        count = len(placements)
        plan = launch.Detect(spec, count, capacity)
        frames = launch.frames([NOWHERE] * count, placements)
        workspace = self.workspace(plan)
        results = poison(np.empty(count, plan.result))
        places = {"output": address(output), "workspace": address(workspace), "results": address(results)}
        for one in plan.launches(count, frames=address(frames), **places):
            self.run(one, seed)
        return results

    def workspace(self, plan: launch.Detect) -> np.ndarray:
        return poison(np.empty(plan.workspace_bytes, np.uint8))

    def classify(self, spec: ModelSpec, output, *, seed: int = 0):
        results = poison(np.empty(len(output), launch.classify_result(min(spec.decode.k, len(spec.labels)))))
        self.run(launch.classify(spec, len(output), output=address(output), results=address(results)), seed)
        return results


def poison(array: np.ndarray) -> np.ndarray:
    """Fill with bytes that are no sensible value: what a kernel forgets to write is seen."""
    array.view(np.uint8).fill(0xA5)
    return array


def rows(result) -> list[tuple[list[float], float, int]]:
    """A detection result's rows as plain numbers: (x1 y1 x2 y2, score, class)."""
    found = result["rows"][: result["count"]]
    return list(zip(*(found[name].tolist() for name in ("box", "score", "class_id")), strict=True))
