"""`--nms graph`: decoding and ONNX NonMaxSuppression behind a detector, by the runtime's rules, of fixed size.

Each box has one class, its best. Boxes of different classes are moved apart, so that one suppression serves them all;
its result, of open length, is scattered over the anchors again and the best are sorted out of those. Nodes under
`decode` stay in float32 in every precision.

Of a picture's boxes above the score the runtime considers the best 30000, ONNX Runtime all, TensorRT's layer the best
5000 (2000 on the smallest Jetsons).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

import edgeinfer
from edgeinfer.devices.suppression import APART, ceiling
from edgeinfer.errors import ExportError
from edgeinfer.spec import Boxes, TensorSpec
from edgeinfer_export.graphs.ops import Graph, declare

if TYPE_CHECKING:
    from edgeinfer.spec import ModelSpec
    from edgeinfer_export.graphs.ops import Array

NUM, BOXES, SCORES, CLASSES = "num_dets", "boxes", "scores", "classes"
PATH = "decode.nms"
# TensorRT sorts out no more at once
MOST = 3840


def keep(model: Any, spec: ModelSpec) -> ModelSpec:
    """Append decoding and suppression to `model` (opset 13 or later); its new spec.

    Its outputs are for n images and l = limit boxes:
    num_dets (n, 1) int32; boxes (n, l, 4) float32 x1 y1 x2 y2 model pixels; scores (n, l) float32, best first;
    classes (n, l) int32. Rows from num_dets on are zeros. A score that is not a number makes all scores so.
    Raises ExportError.
    """
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    graph, spec = _grown(spec, taken)
    graph.into(model)
    del model.graph.output[:]
    model.graph.output.extend(declare(tensor) for tensor in spec.outputs)
    return spec


def alone(spec: ModelSpec) -> tuple[Any, ModelSpec]:
    """A model that does no more than turn the output `spec` tells of into boxes; the spec of both, as of `keep`."""
    graph, grown = _grown(spec, {spec.outputs[0].name})
    return graph.model(BOXES, spec.outputs[:1], grown.outputs, edgeinfer.__version__), grown


def _grown(spec: ModelSpec, taken: set[str]) -> tuple[Graph, ModelSpec]:
    """The nodes, and the spec with them; `taken` are the names of tensors there are."""
    decode, raw = _fitting(spec), spec.outputs[0]
    graph = Graph()
    found = _found(graph, raw.name, decode.layout, len(spec.labels))
    _fixed(graph, found, _suppressed(graph, found, decode), decode.limit)
    batch, limit = raw.shape[0], decode.limit
    outputs = (
        TensorSpec(NUM, (batch, 1), "int32"),
        TensorSpec(BOXES, (batch, limit, 4)),
        TensorSpec(SCORES, (batch, limit)),
        TensorSpec(CLASSES, (batch, limit), "int32"),
    )
    for output in outputs:
        if output.name in taken:
            raise ExportError(
                f"{spec.name} has a tensor called {output.name} already, as the boxes in its graph would",
                hint="rename it in the ONNX, or use --nms runtime",
            )
    return graph, dataclasses.replace(spec, outputs=outputs, decode=decode)


def _fitting(spec: ModelSpec) -> Boxes:
    """The decoding as the graph will do it: no more boxes than there are anchors."""
    decode, raw = spec.decode, spec.outputs[0]
    if not isinstance(decode, Boxes):
        raise ExportError(f"{spec.name} is a classifier: it has no boxes to suppress", hint="leave --nms out")
    if decode.where == "graph" or decode.layout == "end2end":
        raise ExportError(f"{spec.name} suppresses its boxes itself already", hint="leave --nms out")
    if decode.limit > MOST:
        raise ExportError(
            f"a limit of {decode.limit} boxes is above the {MOST} that TensorRT sorts in a graph",
            hint=f"lower it to {MOST}, or use --nms runtime",
        )
    if raw.dtype != "float32":
        raise ExportError(f"suppression needs a float32 output, the model's is {raw.dtype}", hint="use --nms runtime")
    anchors = raw.shape[1] if decode.layout == "yolov5" else raw.shape[2]
    assert isinstance(anchors, int)
    return dataclasses.replace(decode, where="graph", limit=min(decode.limit, anchors))


@dataclass(frozen=True)
class _Found:
    """Names of boxes (n, 4, a) x1 y1 x2 y2, best scores (n, 1, a) and their classes (n, 1, a) int64.

    Anchors come last: what is the same for all four sides is then added in long rows.
    """

    boxes: str
    scores: str
    classes: str


def _found(graph: Graph, raw: str, layout: str, classes: int) -> _Found:
    if layout == "yolov8":
        centred, each = graph.split(f"{PATH}.split", raw, [4, classes])
        return _Found(_corners(graph, centred), *_best(graph, each))
    # undoes the transposition our own heads end in, and engines leave out both
    parts = graph.split(f"{PATH}.split", _turned(graph, raw), [4, 1, classes])
    best, ids = _best(graph, parts[2])
    return _Found(_corners(graph, parts[0]), graph.node("Mul", f"{PATH}.best", best, parts[1]), ids)


def _turned(graph: Graph, name: str) -> str:
    return graph.node("Transpose", f"{name}.turned", name, perm=[0, 2, 1])


def _best(graph: Graph, each: str) -> tuple[str, str]:
    """Score and number of the best class, the first of equals."""
    ids = graph.node("ArgMax", f"{PATH}.class", each, axis=1, keepdims=1)
    return graph.node("GatherElements", f"{PATH}.score", each, ids, axis=1), ids


def _corners(graph: Graph, centred: str) -> str:
    """(n, 4, a) cx cy w h -> x1 y1 x2 y2."""
    centre, sides = graph.split(f"{PATH}.sides", centred, [2, 2])
    half = graph.node("Mul", f"{PATH}.half", sides, graph.constant(f"{PATH}.0.5", np.array(0.5, np.float32)))
    near, far = (graph.node(kind, f"{PATH}.{kind.lower()}", centre, half) for kind in ("Sub", "Add"))
    return graph.node("Concat", f"{PATH}.corners", near, far, axis=1)


def _suppressed(graph: Graph, found: _Found, decode: Boxes) -> str:
    """Scores (n, a) of the boxes that are kept, 0 for the others."""
    boxes = found.boxes
    if not decode.class_agnostic:
        number = graph.node("Cast", f"{PATH}.number", found.classes, to=TensorProto.FLOAT)
        width = graph.constant(f"{PATH}.width", np.array(APART, np.float32))
        boxes = graph.node("Add", f"{PATH}.moved", boxes, graph.node("Mul", f"{PATH}.apart", number, width))
    limits: dict[str, Array] = {
        "limit": np.array([decode.limit], np.int64),
        "iou": np.array([ceiling(decode.iou)], np.float32),
        "threshold": np.array([decode.score], np.float32),
    }
    names = [graph.constant(f"{PATH}.{name}", value) for name, value in limits.items()]
    kept = graph.node("NonMaxSuppression", f"{PATH}.kept", _turned(graph, boxes), found.scores, *names)
    # of (image, class, anchor) the class is always 0
    places = graph.node("Gather", f"{PATH}.places", kept, graph.integers(f"{PATH}.columns", 0, 2), axis=1)
    scores = graph.node("Squeeze", f"{PATH}.scores", found.scores, _one(graph))
    nothing = graph.node("ConstantOfShape", f"{PATH}.nothing", graph.node("Shape", f"{PATH}.shape", scores))
    chosen = graph.node("GatherND", f"{PATH}.chosen", scores, places)
    return graph.node("ScatterND", f"{PATH}.scattered", nothing, places, chosen)


def _fixed(graph: Graph, found: _Found, scores: str, limit: int) -> None:
    """The outputs: the best `limit` rows, zeros behind those that are kept."""
    best, places = graph.several(2, "TopK", f"{PATH}.top", scores, graph.integers(f"{PATH}.rows", limit), axis=1)
    # 0 times the sum of all is 0, or not a number if one is none: of that the runtime must hear
    every = graph.node("ReduceSum", f"{PATH}.sum", found.scores, graph.integers(f"{PATH}.last", 2), keepdims=0)
    zero = graph.constant(f"{PATH}.0", np.array(0, np.float32))
    graph.node("Add", SCORES, best, graph.node("Mul", f"{PATH}.sound", every, zero))
    valid = graph.node("Not", f"{PATH}.valid", graph.node("LessOrEqual", f"{PATH}.empty", SCORES, zero))
    counted = graph.node("Cast", f"{PATH}.counted", valid, to=TensorProto.INT32)
    graph.node("ReduceSum", NUM, counted, _one(graph), keepdims=1)
    columns = graph.node("Unsqueeze", f"{PATH}.column", places, _one(graph))
    fours = graph.node("Tile", f"{PATH}.fours", columns, graph.integers(f"{PATH}.times", 1, 4, 1))
    boxes = _turned(graph, graph.node("GatherElements", f"{PATH}.chosen_boxes", found.boxes, fours, axis=2))
    rows = graph.node("Unsqueeze", f"{PATH}.valid_rows", valid, graph.integers(f"{PATH}.behind", 2))
    graph.node("Where", BOXES, rows, boxes, zero)
    ids = graph.node("GatherElements", f"{PATH}.chosen_ids", found.classes, columns, axis=2)
    ids = graph.node("Squeeze", f"{PATH}.ids", ids, _one(graph))
    ids = graph.node("Where", f"{PATH}.valid_ids", valid, ids, graph.integers(f"{PATH}.none", 0))
    graph.node("Cast", CLASSES, ids, to=TensorProto.INT32)


def _one(graph: Graph) -> str:
    return graph.integers(f"{PATH}.1", 1)
