"""`--nms graph`: decoding and ONNX NonMaxSuppression behind a detector, by the runtime's rules, of fixed size.

Each box has one class, its best. Boxes of different classes are moved apart, so that one suppression serves them all;
its result, of open length, is scattered over the anchors again and the best are sorted out of those. Nodes under
`decode` stay in float32 in every precision.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from edgeinfer.devices._suppression import APART, ceiling
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
# operators are written as they have been since
LEAST_OPSET = 13


def keep(model: Any, spec: ModelSpec) -> ModelSpec:
    """Append decoding and suppression to `model`; its new spec, whose outputs are for n images and l = limit boxes:

    num_dets (n, 1) int32; boxes (n, l, 4) float32 x1 y1 x2 y2 model pixels; scores (n, l) float32, best first;
    classes (n, l) int32. Rows from num_dets on are zeros. A score that is not a number makes all scores so.
    Raises ExportError.
    """
    raw = spec.outputs[0]
    decode = _fitting(model, spec)
    graph = Graph()
    found = (_yolov5 if decode.layout == "yolov5" else _yolov8)(graph, raw.name, len(spec.labels))
    _fixed(graph, found, _suppressed(graph, found, decode), decode.limit)
    graph.into(model)
    batch, limit = raw.shape[0], decode.limit
    outputs = (
        TensorSpec(NUM, (batch, 1), "int32"),
        TensorSpec(BOXES, (batch, limit, 4)),
        TensorSpec(SCORES, (batch, limit)),
        TensorSpec(CLASSES, (batch, limit), "int32"),
    )
    del model.graph.output[:]
    model.graph.output.extend(declare(tensor) for tensor in outputs)
    return dataclasses.replace(spec, outputs=outputs, decode=decode)


def _fitting(model: Any, spec: ModelSpec) -> Boxes:
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
    opset = next((one.version for one in model.opset_import if one.domain == ""), 0)
    if opset < LEAST_OPSET or raw.dtype != "float32":
        raise ExportError(
            f"suppression needs opset {LEAST_OPSET} or later and a float32 output, "
            f"the model has opset {opset} and {raw.dtype}",
            hint="export it to ONNX again, or use --nms runtime",
        )
    anchors = raw.shape[1] if decode.layout == "yolov5" else raw.shape[2]
    assert isinstance(anchors, int)
    return dataclasses.replace(decode, where="graph", limit=min(decode.limit, anchors))


@dataclass(frozen=True)
class _Found:
    """Names of boxes (n, a, 4) x1 y1 x2 y2, best scores (n, a, 1) and their classes (n, a, 1) int64."""

    boxes: str
    scores: str
    classes: str


def _yolov5(graph: Graph, raw: str, classes: int) -> _Found:
    centred, objectness, each = graph.split(f"{PATH}.split", raw, 2, [4, 1, classes])
    best, ids = _best(graph, each, 2)
    return _Found(_corners(graph, centred), graph.node("Mul", f"{PATH}.best", best, objectness), ids)


def _yolov8(graph: Graph, raw: str, classes: int) -> _Found:
    lying, each = graph.split(f"{PATH}.split", raw, 1, [4, classes])
    best, ids = _best(graph, each, 1)
    centred, best, ids = (
        graph.node("Transpose", f"{PATH}.upright{place}", name, perm=[0, 2, 1])
        for place, name in enumerate((lying, best, ids))
    )
    return _Found(_corners(graph, centred), best, ids)


def _best(graph: Graph, each: str, axis: int) -> tuple[str, str]:
    """Score and number of the best class, the first of equals."""
    ids = graph.node("ArgMax", f"{PATH}.class", each, axis=axis, keepdims=1)
    return graph.node("GatherElements", f"{PATH}.score", each, ids, axis=axis), ids


def _corners(graph: Graph, centred: str) -> str:
    """(n, a, 4) cx cy w h -> x1 y1 x2 y2."""
    centre, sides = graph.split(f"{PATH}.sides", centred, 2, [2, 2])
    half = graph.node("Mul", f"{PATH}.half", sides, graph.constant(f"{PATH}.0.5", np.array(0.5, np.float32)))
    near, far = (graph.node(kind, f"{PATH}.{kind.lower()}", centre, half) for kind in ("Sub", "Add"))
    return graph.node("Concat", f"{PATH}.corners", near, far, axis=2)


def _suppressed(graph: Graph, found: _Found, decode: Boxes) -> str:
    """Scores (n, a) of the boxes that are kept, 0 for the others."""
    boxes = found.boxes
    if not decode.class_agnostic:
        number = graph.node("Cast", f"{PATH}.number", found.classes, to=TensorProto.FLOAT)
        apart = graph.node("Mul", f"{PATH}.apart", number, graph.constant(f"{PATH}.width", np.array(APART, np.float32)))
        boxes = graph.node("Add", f"{PATH}.moved", boxes, apart)
    lying = graph.node("Transpose", f"{PATH}.lying", found.scores, perm=[0, 2, 1])
    limits: dict[str, Array] = {
        "limit": np.array([decode.limit], np.int64),
        "iou": np.array([ceiling(decode.iou)], np.float32),
        "threshold": np.array([decode.score], np.float32),
    }
    names = [graph.constant(f"{PATH}.{name}", value) for name, value in limits.items()]
    kept = graph.node("NonMaxSuppression", f"{PATH}.kept", boxes, lying, *names)
    # of (image, class, anchor) the class is always 0
    places = graph.node("Gather", f"{PATH}.places", kept, graph.integers(f"{PATH}.columns", 0, 2), axis=1)
    scores = graph.node("Squeeze", f"{PATH}.scores", found.scores, graph.integers(f"{PATH}.last", 2))
    nothing = graph.node("ConstantOfShape", f"{PATH}.nothing", graph.node("Shape", f"{PATH}.shape", scores))
    chosen = graph.node("GatherND", f"{PATH}.chosen", scores, places)
    return graph.node("ScatterND", f"{PATH}.scattered", nothing, places, chosen)


def _fixed(graph: Graph, found: _Found, scores: str, limit: int) -> None:
    """The outputs: the best `limit` rows, zeros behind those that are kept."""
    best, places = _topk(graph, scores, limit)
    # 0 times the sum of all is 0, or not a number if one is none: of that the runtime must hear
    every = graph.node("ReduceSum", f"{PATH}.sum", found.scores, graph.integers(f"{PATH}.both", 1, 2), keepdims=0)
    zero = graph.constant(f"{PATH}.0", np.array(0, np.float32))
    sound = graph.node("Mul", f"{PATH}.sound", graph.node("Unsqueeze", f"{PATH}.column", every, _one(graph)), zero)
    graph.node("Add", SCORES, best, sound)
    valid = graph.node("Not", f"{PATH}.valid", graph.node("LessOrEqual", f"{PATH}.empty", SCORES, zero))
    counted = graph.node("Cast", f"{PATH}.counted", valid, to=TensorProto.INT32)
    graph.node("ReduceSum", NUM, counted, _one(graph), keepdims=1)
    deep = graph.integers(f"{PATH}.deep", 2)
    upright = graph.node("Unsqueeze", f"{PATH}.row", places, deep)
    fours = graph.node("Tile", f"{PATH}.four", upright, graph.integers(f"{PATH}.times", 1, 1, 4))
    boxes = graph.node("GatherElements", f"{PATH}.chosen_boxes", found.boxes, fours, axis=1)
    graph.node("Where", BOXES, graph.node("Unsqueeze", f"{PATH}.valid_row", valid, deep), boxes, zero)
    ids = graph.node("Squeeze", f"{PATH}.ids", found.classes, deep)
    ids = graph.node("GatherElements", f"{PATH}.chosen_ids", ids, places, axis=1)
    ids = graph.node("Where", f"{PATH}.valid_ids", valid, ids, graph.integers(f"{PATH}.none", 0))
    graph.node("Cast", CLASSES, ids, to=TensorProto.INT32)


def _one(graph: Graph) -> str:
    return graph.integers(f"{PATH}.1", 1)


def _topk(graph: Graph, scores: str, limit: int) -> tuple[str, str]:
    """Values and places of the largest, the first of equals first."""
    return graph.pair("TopK", f"{PATH}.top", scores, graph.integers(f"{PATH}.rows", limit), axis=1)
