"""Tiny models whose weights come from seeds, so that golden outputs can be committed without them.

A golden file names each tensor and its shape; the numbers follow from the name alone, by NumPy's frozen generator.
"""

import json
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np

from edgeinfer.spec import Size
from edgeinfer_export.checkpoint import Checkpoint
from edgeinfer_export.modeltree import Module

GOLDEN = Path(__file__).parent.parent / "golden" / "graphs"


@cache  # most of a test that builds a graph is this
def tensor(name, shape, gain):
    """Weights that keep activations near 1, batch norm that is not trivial, anchors that are positive."""
    random = np.random.RandomState(crc32(name.encode()))
    if name.endswith("dfl.conv.weight"):
        return np.arange(shape[1], dtype=np.float32).reshape(shape)
    if name.endswith(".anchors"):
        return random.uniform(1, 6, shape).astype(np.float32)
    if name.endswith("running_var"):
        return random.uniform(0.5, 2, shape).astype(np.float32)
    if name.endswith(("running_mean", "bias")):
        return random.normal(0, 0.3, shape).astype(np.float32)
    if len(shape) == 1:
        return random.uniform(0.6, 1.4, shape).astype(np.float32)
    return random.normal(0, gain / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def tensors(shapes, gain):
    return {name: tensor(name, tuple(shape), gain).copy() for name, shape in shapes.items()}


def images(size, count=2):
    """Patches of colour with noise (n, 3, h, w) float32 in 0-1."""
    random = np.random.RandomState(7)
    patches = random.uniform(0, 1, (count, 3, 4, 4)).repeat(size[0] // 4, 2).repeat(size[1] // 4, 3)
    return ((patches + random.uniform(0, 1, patches.shape)) / 2).astype(np.float32)


class Golden:
    """A committed output of a reference implementation, and what it was computed from."""

    def __init__(self, name):
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.output = file["output"]
            facts = json.loads(str(file["facts"]))
        self.size = Size(*facts["size"])
        self.images = images(facts["size"])
        self.yaml = facts["yaml"]
        self.tensors = tensors(facts["shapes"], facts["gain"])
        self.modules = {path: Module(*module) for path, module in facts.get("modules", {}).items()}

    def checkpoint(self, **changes):
        """`changes`: fields of the checkpoint to replace."""
        fields = {"origin": "state dict", "tensors": self.tensors, "yaml": self.yaml, "modules": self.modules}
        return Checkpoint(**{"path": Path("seeded.pt"), "sha256": "0" * 64, **fields, **changes})


def fused(tensors):
    """Each batch norm folded into its convolution, and two that stand side by side added, in float64."""
    kept = {name: value for name, value in tensors.items() if ".bn." not in name}
    for name in (name.removesuffix(".bn.weight") for name in tensors if name.endswith(".bn.weight")):
        gamma, beta, mean, variance = (
            tensors[f"{name}.bn.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + 1e-3)
        kept[f"{name}.conv.weight"] = tensors[f"{name}.conv.weight"] * gain[:, None, None, None]
        kept[f"{name}.conv.bias"] = beta - mean * gain
    for path in [name.removesuffix(".conv2.conv.weight") for name in kept if name.endswith(".conv2.conv.weight")]:
        small = np.pad(kept.pop(f"{path}.conv2.conv.weight"), [(0, 0), (0, 0), (1, 1), (1, 1)])
        kept[f"{path}.conv.weight"] = kept.pop(f"{path}.conv1.conv.weight") + small
        kept[f"{path}.conv.bias"] = kept.pop(f"{path}.conv1.conv.bias") + kept.pop(f"{path}.conv2.conv.bias")
    return {name: value.astype(np.float32) for name, value in kept.items()}


def names():
    return sorted(path.stem for path in GOLDEN.glob("*.npz"))
