"""The heads: from feature maps to one output, of boxes in model pixels and scores in 0-1, or of a classifier's logits.

Boxes and scores leave the network through separate convolutions, so that the small box tensors alone are decoded and
the large score tensors are only joined. Nodes under `decode` are numerically delicate: they stay in float32 in every
precision.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeinfer.errors import ExportError, UsageError
from edgeinfer_export.graphs.ops import DAMAGED, Array, Feature, Graph, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeinfer.spec import Size
    from edgeinfer_export.graphs.net import Net
    from edgeinfer_export.graphs.plan import Layer

OUTPUT, LOGITS = "output0", "logits"
# what the tensors of an end-to-end head are called beside the others, and how many boxes it gives, as published
ONE, MOST = "one2one_", 300


@dataclass(frozen=True)
class Head:
    """What a head turned out to be: its layout, number of classes, the output's shape without the batch, strides.

    `layouts`: those that the checkpoint has heads for.
    """

    layout: str
    classes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    layouts: tuple[str, ...] = ()


def detect(net: Net, layer: Layer, inputs: Sequence[Feature], size: Size, layout: str = "") -> Head:
    """Detect with anchors, without, or end to end: the tensors tell which.

    One trained both without and end to end has two heads: `layout` says which to take, by default the one whose
    boxes are suppressed behind it. Raises ExportError, and UsageError where it is not there.
    """
    strides = tuple(_stride(layer, x, size) for x in inputs)
    kinds: dict[str, tuple[str, Callable[[Net, str, Sequence[Feature], tuple[int, ...]], Head]]] = {
        "yolov5": (f"{layer.path}.m.0.weight", _anchored),
        "yolov8": (f"{layer.path}.cv2.0.0.conv.weight", _anchor_free),
        "end2end": (f"{layer.path}.{ONE}cv2.0.0.conv.weight", _end_to_end),
    }
    there = {name: build for name, (tensor, build) in kinds.items() if tensor in net.weights}
    if not there:
        tensors = " nor ".join(tensor for tensor, _ in kinds.values())
        raise ExportError(f"layer {layer.index} (Detect): the checkpoint has neither tensor {tensors}", hint=DAMAGED)
    if layout and layout not in there:
        raise UsageError(f"--layout {layout}: the checkpoint's head is {' or '.join(there)}", hint="leave it out")
    head = there[layout or next(iter(there))](net, layer.path, inputs, strides)
    return dataclasses.replace(head, layouts=tuple(there))


def _stride(layer: Layer, x: Feature, size: Size) -> int:
    """Model pixels per cell of a level."""
    stride = size.height // x.height
    if stride < 1 or (x.height * stride, x.width * stride) != (size.height, size.width):
        raise layer.error(f"a level of {x.height}x{x.width} cells does not divide {size}")
    return stride


def classify(net: Net, layer: Layer, inputs: Sequence[Feature], size: Size) -> Head:
    """Classify: a convolution, the mean of all cells, and logits (n, classes)."""
    if len(inputs) != 1 or len(layer.arguments) > 1:
        raise layer.error("expected one layer to read, and the number of classes")
    x = net.conv(f"{layer.path}.conv", inputs[0])
    pooled = Feature(net.graph.node("GlobalAveragePool", f"{layer.path}.pool", x.name), x.channels, 1, 1)
    kernel = net.weights.linear(f"{layer.path}.linear", x.channels)
    logits = net.graph.conv(f"{layer.path}.linear", pooled, kernel)
    net.graph.node("Flatten", LOGITS, logits.name, axis=1)
    return Head("classes", logits.channels, (logits.channels,), (_stride(layer, inputs[0], size),))


# -- YOLOv5: (n, anchors, 5 + classes), rows ordered by level, anchor, row, column


def _anchored(net: Net, path: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> Head:
    # in cells, and the tensor's: training may have moved the YAML's
    anchors = net.weights.take(f"{path}.anchors", len(inputs), -1, 2)
    boxes, scores = [], []
    for level, x in enumerate(inputs):
        whole = net.weights.kernel(f"{path}.m.{level}")
        box, score = _apart(whole, anchors.shape[1], f"{path}.m.{level}")
        boxes.append(_sigmoid_rows(net.graph, f"{path}.m.{level}.box", x, box, 4))
        classes = len(score.bias) // anchors.shape[1] - 1
        scores.append(_sigmoid_rows(net.graph, f"{path}.m.{level}.score", x, score, 1 + classes))
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
    centre, extent = graph.split(f"{path}.split", graph.node("Concat", f"{path}.boxes", *boxes, axis=2), [2, 2])
    scaled = graph.node("Mul", f"{path}.scaled", centre, gain)
    square = graph.node("Mul", f"{path}.square", extent, extent)
    return graph.node("Add", f"{path}.centre", scaled, offset), graph.node("Mul", f"{path}.extent", square, side)


# -- anchor-free (YOLOv5u, YOLOv8 and later): (n, 4 + classes, cells), columns ordered by level, row, column


@dataclass(frozen=True)
class _Cells:
    """Names of the distances (n, 4, cells) from each cell's middle to its box's sides, in cells, and scores by class.

    Scores are (n, classes, cells); `middles` (1, 2, cells) and `steps` (1, 1, cells), the strides, are in model pixels.
    """

    sides: str
    scores: str
    classes: int
    middles: Array
    steps: Array


def _anchor_free(net: Net, path: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> Head:
    net.weights.leave(f"{path}.{ONE}")
    cells = _cells_of(net, path, "", inputs, strides)
    net.graph.node("Concat", OUTPUT, *_from_sides(net.graph, f"{path}.decode", cells), cells.scores, axis=1)
    return Head("yolov8", cells.classes, (4 + cells.classes, cells.steps.size), strides)


def _cells_of(net: Net, path: str, head: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> _Cells:
    """What the convolutions of one head say of each cell."""
    bins = _bins(net, path, head)
    classes = net.weights.sides(f"{path}.{head}cv3.0.2.weight")[0]
    boxes, scores = [], []
    for level, x in enumerate(inputs):
        boxes.append(_distances(net, f"{path}.{head}cv2.{level}", x, bins))
        place = f"{path}.{head}cv3.{level}"
        y = _pair(net, f"{place}.1", _pair(net, f"{place}.0", x))
        kernel = _expected(net, f"{place}.2", classes)
        scores.append(_sigmoid_rows(net.graph, f"{place}.2", y, kernel, classes))
    joined = net.graph.node("Concat", f"{path}.scores", *scores, axis=2)
    sides = _decode_distances(net.graph, f"{path}.decode", boxes, bins)
    steps = np.concatenate([np.full(x.height * x.width, step) for x, step in zip(inputs, strides, strict=True)])
    middles = np.concatenate([_cells(x) + 0.5 for x in inputs], axis=1) * steps
    return _Cells(sides, joined, classes, middles[None].astype(np.float32), steps[None, None].astype(np.float32))


def _pair(net: Net, path: str, x: Feature) -> Feature:
    """One convolution, or since YOLO11 a depthwise one and a 1x1."""
    if f"{path}.conv.weight" in net.weights:
        return net.conv(path, x)
    return net.conv(f"{path}.1", net.conv(f"{path}.0", x, groups=x.channels))


def _expected(net: Net, path: str, outputs: int) -> Kernel:
    kernel = net.weights.kernel(path)
    if len(kernel.bias) != outputs:
        raise ExportError(f"tensor {path}.weight has {len(kernel.bias)} outputs, expected {outputs}", hint=DAMAGED)
    return kernel


def _bins(net: Net, path: str, head: str) -> int:
    """How many distances each side of a box is spread over; the constant tensor that weighs them must be 0, 1, 2..."""
    bins = net.weights.sides(f"{path}.{head}cv2.0.2.weight")[0] // 4
    if bins > 1:
        steps = net.weights.take(f"{path}.dfl.conv.weight", 1, bins, 1, 1)
        if not np.array_equal(steps.ravel(), np.arange(bins)):
            raise ExportError(f"tensor {path}.dfl.conv.weight is not 0 to {bins - 1}", hint=DAMAGED)
    return bins


def _distances(net: Net, path: str, x: Feature, bins: int) -> str:
    """(n, 4, cells) of a single bin; else (n, cells, 4, bins), where ONNX Runtime's softmax is ten times as fast."""
    y = net.conv(f"{path}.1", net.conv(f"{path}.0", x))
    y = net.graph.conv(f"{path}.2", y, _expected(net, f"{path}.2", 4 * bins))
    if bins == 1:
        return net.graph.node("Reshape", f"{path}.rows", y.name, net.graph.integers(f"{path}.shape", 0, 4, -1))
    last = net.graph.node("Transpose", f"{path}.last", y.name, perm=[0, 2, 3, 1])
    return net.graph.node("Reshape", f"{path}.bins", last, net.graph.integers(f"{path}.shape", 0, -1, 4, bins))


def _decode_distances(graph: Graph, path: str, boxes: Sequence[str], bins: int) -> str:
    """Expected distance (n, 4, cells), in cells, from the cell's centre to the left, top, right and bottom."""
    if bins == 1:
        return graph.node("Concat", f"{path}.boxes", *boxes, axis=2)
    y = graph.node("Concat", f"{path}.boxes", *boxes, axis=1)
    y = graph.node("Softmax", f"{path}.softmax", y, axis=3)
    y = graph.node("Mul", f"{path}.weighted", y, graph.constant(f"{path}.steps", np.arange(bins, dtype=np.float32)))
    y = graph.node("ReduceSum", f"{path}.expected", y, graph.integers(f"{path}.axis", 3), keepdims=0)
    return graph.node("Transpose", f"{path}.sides", y, perm=[0, 2, 1])


def _from_sides(graph: Graph, path: str, cells: _Cells) -> tuple[str, str]:
    """Centre and extent (n, 2, cells) in model pixels."""
    near, far = graph.split(f"{path}.split", cells.sides, [2, 2])
    stride, half = graph.constant(f"{path}.stride", cells.steps), graph.constant(f"{path}.half", cells.steps / 2)
    shift = graph.node("Mul", f"{path}.shift", graph.node("Sub", f"{path}.difference", far, near), half)
    centre = graph.node("Add", f"{path}.centre", shift, graph.constant(f"{path}.middle", cells.middles))
    return centre, graph.node("Mul", f"{path}.extent", graph.node("Add", f"{path}.sum", near, far), stride)


# -- end to end (the second head of YOLOv10 and YOLO26): (n, boxes, 6), x1 y1 x2 y2 score class, best first


def _end_to_end(net: Net, path: str, inputs: Sequence[Feature], strides: tuple[int, ...]) -> Head:
    for branch in ("cv2", "cv3"):
        net.weights.leave(f"{path}.{branch}.")
    cells = _cells_of(net, path, ONE, inputs, strides)
    count = min(MOST, cells.steps.size)
    _best(net.graph, f"{path}.decode", cells, _corners(net.graph, f"{path}.decode", cells), count)
    return Head("end2end", cells.classes, (count, 6), strides)


def _corners(graph: Graph, path: str, cells: _Cells) -> str:
    """x1 y1 x2 y2 (n, 4, cells) in model pixels."""
    reach = graph.node("Mul", f"{path}.reach", cells.sides, graph.constant(f"{path}.stride", cells.steps))
    near, far = graph.split(f"{path}.split", reach, [2, 2])
    middle = graph.constant(f"{path}.middle", cells.middles)
    ends = graph.node("Sub", f"{path}.near", middle, near), graph.node("Add", f"{path}.far", middle, far)
    return graph.node("Concat", f"{path}.corners", *ends, axis=1)


def _best(graph: Graph, path: str, cells: _Cells, corners: str, count: int) -> None:
    """The output: the best `count` of all classes of all cells, which are among the cells with the best maxima.

    A cell may be there with several classes.
    """
    wanted, one = graph.integers(f"{path}.count", count), graph.integers(f"{path}.one", 1)
    highest = graph.node("ReduceMax", f"{path}.highest", cells.scores, axes=[1], keepdims=0)
    _, places = graph.several(2, "TopK", f"{path}.cells", highest, wanted, axis=1)
    scores = _columns(graph, f"{path}.chosen", cells.scores, places, cells.classes)
    flat = graph.node("Reshape", f"{path}.flat", scores, graph.integers(f"{path}.flat.shape", 0, -1))
    best, index = graph.several(2, "TopK", f"{path}.top", flat, wanted, axis=1)
    classes = graph.node("Div", f"{path}.class", index, wanted)
    within = graph.node("Sub", f"{path}.place", index, graph.node("Mul", f"{path}.before", classes, wanted))
    places = graph.node("GatherElements", f"{path}.cell", places, within, axis=1)
    named = graph.node("Cast", f"{path}.named", classes, to=TensorProto.FLOAT)
    columns = [graph.node("Unsqueeze", f"{name}.row", name, one) for name in (best, named)]
    rows = graph.node("Concat", f"{path}.join", _columns(graph, f"{path}.kept", corners, places, 4), *columns, axis=1)
    graph.node("Transpose", OUTPUT, rows, perm=[0, 2, 1])


def _columns(graph: Graph, path: str, table: str, places: str, rows: int) -> str:
    """The columns `places` (n, k) of a table (n, rows, columns)."""
    row = graph.node("Unsqueeze", f"{path}.row", places, graph.integers(f"{path}.axis", 1))
    every = graph.node("Tile", f"{path}.places", row, graph.integers(f"{path}.times", 1, rows, 1))
    return graph.node("GatherElements", path, table, every, axis=2)
