"""The detection heads: from feature maps to one output of boxes in model pixels and scores in 0-1.

Boxes and scores leave the network through separate convolutions, so that the small box tensors alone are decoded and
the large score tensors are only joined. Nodes under `decode` are numerically delicate: they stay in float32 in every
precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import DAMAGED, Array, Feature, Graph, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeinfer.spec import Size
    from edgeinfer_export.graphs.blocks import Net
    from edgeinfer_export.graphs.plan import Layer

OUTPUT = "output0"


@dataclass(frozen=True)
class Head:
    """What a head turned out to be: its layout, number of classes, the output's shape without the batch, strides."""

    layout: str
    classes: int
    shape: tuple[int, int]
    strides: tuple[int, ...]


def detect(net: Net, layer: Layer, inputs: Sequence[Feature], size: Size) -> Head:
    """Detect with anchors or without: the tensors tell which."""
    strides = tuple(_stride(layer, x, size) for x in inputs)
    kinds: dict[str, Callable[[Net, str, Sequence[Feature], tuple[int, ...]], Head]] = {
        f"{layer.path}.m.0.weight": _anchored,
        f"{layer.path}.cv2.0.0.conv.weight": _anchor_free,
    }
    for tensor, head in kinds.items():
        if tensor in net.weights:
            return head(net, layer.path, inputs, strides)
    raise ExportError(
        f"layer {layer.index} (Detect): the checkpoint has neither tensor {' nor '.join(kinds)}", hint=DAMAGED
    )


def _stride(layer: Layer, x: Feature, size: Size) -> int:
    """Model pixels per cell of a level."""
    stride = size.height // x.height
    if stride < 1 or (x.height * stride, x.width * stride) != (size.height, size.width):
        raise layer.error(f"a level of {x.height}x{x.width} cells does not divide {size}")
    return stride


# -- YOLOv5: (n, anchors, 5 + classes), rows ordered by level, anchor, row, column


def _anchored(net: Net, path: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> Head:
    # in cells, and the tensor's: training may have moved the YAML's
    anchors = net.weights.take(f"{path}.anchors", len(inputs), -1, 2)
    boxes, scores = [], []
    for level, x in enumerate(inputs):
        whole = net.weights.kernel(f"{path}.m.{level}")
        box, score = _apart(whole, anchors.shape[1], f"{path}.m.{level}")
        boxes.append(_sigmoid_rows(net.graph, f"{path}.m.{level}.box", x, box, 4))
        scores.append(
            _sigmoid_rows(net.graph, f"{path}.m.{level}.score", x, score, len(score.bias) // anchors.shape[1])
        )
    classes = len(scores and score.bias) // anchors.shape[1] - 1
    joined = net.graph.node("Concat", f"{path}.scores", *scores, axis=2)
    places = _decode_anchored(net.graph, f"{path}.decode", boxes, _prior(inputs, anchors, strides))
    rows = net.graph.node("Concat", f"{path}.join", *places, joined, axis=1)
    net.graph.node("Transpose", OUTPUT, rows, perm=[0, 2, 1])
    count = anchors.shape[1] * sum(x.height * x.width for x in inputs)
    return Head("yolov5", classes, (count, 5 + classes), strides)


def _apart(kernel: Kernel, anchors: int, path: str) -> tuple[Kernel, Kernel]:
    """The kernel's outputs (anchors, 5 + classes) as boxes (4, anchors) and scores (1 + classes, anchors)."""
    width, rest = divmod(len(kernel.bias), anchors)
    if rest or width < 6:
        raise ExportError(
            f"tensor {path}.weight has {len(kernel.bias)} outputs, expected {anchors} anchors of 6 or more",
            hint=DAMAGED,
        )
    weight = kernel.weight.reshape(anchors, width, *kernel.weight.shape[1:]).swapaxes(0, 1)
    bias = kernel.bias.reshape(anchors, width).swapaxes(0, 1)
    parts = [(weight[part], bias[part]) for part in (slice(4), slice(4, None))]
    box, score = (Kernel(w.reshape(-1, *w.shape[2:]), b.reshape(-1)) for w, b in parts)
    return box, score


def _sigmoid_rows(graph: Graph, path: str, x: Feature, kernel: Kernel, rows: int) -> str:
    """(n, rows, anchors * cells); the sigmoid directly behind the convolution costs nothing where engines fuse it."""
    y = graph.node("Sigmoid", f"{path}.sigmoid", graph.conv(path, x, kernel).name)
    return graph.node("Reshape", f"{path}.rows", y, graph.integers(f"{path}.shape", 0, rows, -1))


def _prior(inputs: Sequence[Feature], anchors: Array, strides: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """For each anchor and cell: gain (1, 1, a) and offset (1, 2, a) of the centre, gain (1, 2, a) of the sides."""
    gains, offsets, sides = [], [], []
    for x, level, stride in zip(inputs, anchors, strides, strict=True):
        cells = x.height * x.width
        corners = np.tile(_cells(x) - 0.5, (1, len(level)))
        gains.append(np.full((1, cells * len(level)), 2.0 * stride))
        offsets.append(corners * stride)
        sides.append(np.repeat(level * stride * 4.0, cells, axis=0).T)
    gain, offset, side = (np.concatenate(parts, axis=1)[None].astype(np.float32) for parts in (gains, offsets, sides))
    return gain, offset, side


def _cells(x: Feature) -> Array:
    """Column and row (2, cells) of each cell."""
    rows, columns = np.mgrid[: x.height, : x.width]
    return np.stack([columns.ravel(), rows.ravel()]).astype(np.float64)


def _decode_anchored(
    graph: Graph, path: str, boxes: Sequence[str], prior: tuple[Array, Array, Array]
) -> tuple[str, str]:
    """Centre (2 y + cell - 0.5) * stride and sides (2 y)^2 * anchor, both (n, 2, a)."""
    gain, offset, side = (
        graph.constant(f"{path}.{name}", value) for name, value in zip(("gain", "offset", "side"), prior, strict=True)
    )
    centre, extent = graph.split(f"{path}.split", graph.node("Concat", f"{path}.boxes", *boxes, axis=2), 1, [2, 2])
    scaled = graph.node("Mul", f"{path}.scaled", centre, gain)
    square = graph.node("Mul", f"{path}.square", extent, extent)
    return graph.node("Add", f"{path}.centre", scaled, offset), graph.node("Mul", f"{path}.extent", square, side)


# -- anchor-free (YOLOv5u, YOLOv8): (n, 4 + classes, cells), columns ordered by level, row, column


def _anchor_free(net: Net, path: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> Head:
    bins, classes = _bins(net, path), net.weights.shape(f"{path}.cv3.0.2.weight")[0]
    boxes, scores = [], []
    for level, x in enumerate(inputs):
        boxes.append(_distances(net, f"{path}.cv2.{level}", x, bins))
        place = f"{path}.cv3.{level}"
        y = net.conv(f"{place}.1", net.conv(f"{place}.0", x))
        kernel = net.weights.kernel(f"{place}.2")
        if len(kernel.bias) != classes:
            raise ExportError(
                f"tensor {place}.2.weight has {len(kernel.bias)} outputs, expected {classes}", hint=DAMAGED
            )
        scores.append(_sigmoid_rows(net.graph, f"{place}.2", y, kernel, classes))
    joined = net.graph.node("Concat", f"{path}.scores", *scores, axis=2)
    sides = _decode_distances(net.graph, f"{path}.decode", boxes, bins)
    net.graph.node("Concat", OUTPUT, *_from_sides(net.graph, f"{path}.decode", sides, inputs, strides), joined, axis=1)
    return Head("yolov8", classes, (4 + classes, sum(x.height * x.width for x in inputs)), strides)


def _bins(net: Net, path: str) -> int:
    """How many distances each side of a box is spread over; the constant tensor that weighs them must be 0, 1, 2..."""
    bins = net.weights.shape(f"{path}.cv2.0.2.weight")[0] // 4
    if bins > 1:
        steps = net.weights.take(f"{path}.dfl.conv.weight", 1, bins, 1, 1)
        if not np.array_equal(steps.ravel(), np.arange(bins)):
            raise ExportError(f"tensor {path}.dfl.conv.weight is not 0 to {bins - 1}", hint=DAMAGED)
    return bins


def _distances(net: Net, path: str, x: Feature, bins: int) -> str:
    """(n, cells, 4, bins): bins last, where ONNX Runtime's softmax is ten times as fast as in the middle."""
    y = net.conv(f"{path}.1", net.conv(f"{path}.0", x))
    kernel = net.weights.kernel(f"{path}.2")
    if len(kernel.bias) != 4 * bins:
        raise ExportError(f"tensor {path}.2.weight has {len(kernel.bias)} outputs, expected {4 * bins}", hint=DAMAGED)
    y = net.graph.conv(f"{path}.2", y, kernel)
    last = net.graph.node("Transpose", f"{path}.last", y.name, perm=[0, 2, 3, 1])
    return net.graph.node("Reshape", f"{path}.bins", last, net.graph.integers(f"{path}.shape", 0, -1, 4, bins))


def _decode_distances(graph: Graph, path: str, boxes: Sequence[str], bins: int) -> str:
    """Expected distance (n, 4, cells), in cells, from the cell's centre to the left, top, right and bottom."""
    y = graph.node("Concat", f"{path}.boxes", *boxes, axis=1)
    if bins > 1:
        y = graph.node("Softmax", f"{path}.softmax", y, axis=3)
        y = graph.node("Mul", f"{path}.weighted", y, graph.constant(f"{path}.steps", np.arange(bins, dtype=np.float32)))
    y = graph.node("ReduceSum", f"{path}.expected", y, graph.integers(f"{path}.axis", 3), keepdims=0)
    return graph.node("Transpose", f"{path}.sides", y, perm=[0, 2, 1])


def _from_sides(
    graph: Graph, path: str, sides: str, inputs: Sequence[Feature], strides: tuple[int, ...]
) -> tuple[str, str]:
    """Centre and extent (n, 2, cells) in model pixels."""
    steps = np.concatenate([np.full(x.height * x.width, step) for x, step in zip(inputs, strides, strict=True)])
    middles = np.concatenate([_cells(x) + 0.5 for x in inputs], axis=1) * steps
    near, far = graph.split(f"{path}.split", sides, 1, [2, 2])
    stride = graph.constant(f"{path}.stride", steps[None, None].astype(np.float32))
    half = graph.constant(f"{path}.half", (steps[None, None] / 2).astype(np.float32))
    shift = graph.node("Mul", f"{path}.shift", graph.node("Sub", f"{path}.difference", far, near), half)
    centre = graph.node(
        "Add", f"{path}.centre", shift, graph.constant(f"{path}.middle", middles[None].astype(np.float32))
    )
    return centre, graph.node("Mul", f"{path}.extent", graph.node("Add", f"{path}.sum", near, far), stride)
