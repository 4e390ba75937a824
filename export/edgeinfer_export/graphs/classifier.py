"""The fully connected layers behind pooled features: `fc` itself, or the few that fine-tuning puts in its place.

Those in between have no tensors. A model that was saved whole names them; of a state dict the numbers tell how
many there are, and ReLU (with or without dropout) is taken to be among them where there is room for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import RELU, Activation, Feature, Graph
from edgeinfer_export.graphs.plan import OTHER_WAY

if TYPE_CHECKING:
    from edgeinfer_export.graphs.declared import Declared
    from edgeinfer_export.graphs.weights import Weights

PATH = "fc"
EPSILON = 1e-5
TAKEN = "fc has several layers: ReLU is taken to be between them; a whole model saved with torch.save would tell"
# what is not there in inference; and what decoding does itself, behind all else
SKIPPED = ("Dropout", "Identity", "Flatten")
LAST = ("Softmax", "LogSoftmax")


def grow(graph: Graph, weights: Weights, said: Declared, x: Feature) -> tuple[Feature, tuple[str, ...]]:
    """The logits (n, classes, 1, 1) of pooled features (n, channels, 1, 1), and notes on what was taken for granted."""
    if f"{PATH}.weight" in weights:
        return graph.conv(PATH, x, weights.linear(PATH, x.channels)), ()
    children = _children(weights)
    if not any(_is_linear(weights, child) for child in children):
        raise ExportError("there is no classifier: no fully connected layer fc", hint=OTHER_WAY)
    steps = _said(said) if any(path.startswith(f"{PATH}.") for path in said.modules) else _taken(weights, children)
    linear = norm = ""
    for path, step in [*steps, ("", "end")]:
        if step == "norm" and linear and not norm:
            norm = path
            continue
        if step == "norm":
            raise ExportError(f"the batch norm {path} does not follow a fully connected layer", hint=OTHER_WAY)
        if linear:
            x = graph.conv(linear, x, weights.linear(linear, x.channels, norm, said.epsilon(norm, EPSILON)))
        linear, norm = (path if step == "linear" else ""), ""
        if isinstance(step, Activation):
            x = graph.activate(path, x, step)
    taken = any(isinstance(step, Activation) and path not in said.modules for path, step in steps)
    return x, (TAKEN,) if taken else ()


Step = tuple[str, "str | Activation"]


def _children(weights: Weights) -> list[str]:
    """Paths of the layers that have tensors, in order."""
    parts = [name.split(".") for name in weights if name.startswith(f"{PATH}.")]
    return list(dict.fromkeys(f"{PATH}.{part[1]}" for part in parts if len(part) == 3))


def _is_linear(weights: Weights, path: str) -> bool:
    return f"{path}.weight" in weights and len(weights.shape(f"{path}.weight")) == 2


def _said(said: Declared) -> list[Step]:
    """What a whole model says of each layer."""
    steps: list[Step] = []
    for path, module in said.modules.items():
        if not path.startswith(f"{PATH}.") or module.kind in SKIPPED:
            continue
        if steps and steps[-1][1] == "last":
            raise ExportError(f"layer {path} ({module.kind}) follows a softmax", hint=OTHER_WAY)
        if module.kind in LAST:
            steps.append((path, "last"))
        elif module.kind in ("Linear", "BatchNorm1d"):
            steps.append((path, "linear" if module.kind == "Linear" else "norm"))
        else:
            steps.append((path, said.activation(path, None)))
    return steps


def _taken(weights: Weights, children: list[str]) -> list[Step]:
    """What the numbers of the layers that have tensors leave room for."""
    steps: list[Step] = []
    for before, path in zip(["", *children], children, strict=False):
        linear = _is_linear(weights, path)
        between = _number(path) - _number(before) - 1 if before else 0
        if before and linear and between < 0:
            raise ExportError(f"nothing says what is between {before} and {path}", hint=OTHER_WAY)
        if before and linear and between:
            steps.append((f"{before}.relu", RELU))
        if not linear and (between or not before):
            raise ExportError(f"nothing says what is before {path}", hint=OTHER_WAY)
        steps.append((path, "linear" if linear else "norm"))
    return steps


def _number(path: str) -> int:
    name = path.rpartition(".")[2]
    return int(name) if name.isdecimal() and len(name) < 5 else 10**6
