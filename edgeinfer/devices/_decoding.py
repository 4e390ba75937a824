"""Raw outputs of a model in main memory -> classes, or boxes in model pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices.suppression import suppress
from edgeinfer.errors import EngineError
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.spec import ModelSpec, TopK

    Floats = NDArray[np.float32]

_HINT = "float16 may have overflowed: choose another precision, and run edgeinfer verify on the bundle"


def not_finite(name: str) -> EngineError:
    """What every device says of an output it cannot read."""
    return EngineError(f"{name} holds NaN or infinity", hint=_HINT)


def check_classes(class_ids: NDArray[np.int32], spec: ModelSpec) -> None:
    """EngineError if a model that numbers its classes itself gave one that has no label."""
    decode, known = spec.decode, len(spec.labels)
    assert isinstance(decode, Boxes)
    if decode.layout != "end2end" and decode.where != "graph":
        return  # as many as the output has columns, which the spec has seen
    strange = class_ids[(class_ids < 0) | (class_ids >= known)]
    if len(strange):
        raise EngineError(
            f"the model found class {strange[0]}, and its labels are 0 to {known - 1}",
            hint="export it again with --labels FILE, a line for each class",
        )


class Found(NamedTuple):
    """Boxes (n, 4) x1 y1 x2 y2 model pixels, their scores (n,) and class_ids (n,) int32."""

    boxes: Floats
    scores: Floats
    class_ids: NDArray[np.int32]


def classes(output: NDArray[Any], decode: TopK, name: str) -> tuple[NDArray[np.int32], Floats]:
    """output (classes,) -> the best class_ids and their scores, the lower class first of equals."""
    logits = output.astype(np.float32)
    best = logits.max()
    if not np.isfinite(best):
        raise not_finite(name)
    # equals are in order because the sort is stable and runs over the logits, not over rounded scores
    order = np.argsort(-logits, kind="stable")[: decode.k]
    if decode.activation == "softmax":
        shares = np.exp(logits - best)
        scores = shares[order] / shares.sum()
    elif decode.activation == "sigmoid":
        # in double, where exp(-x) of no float32 a model gives overflows
        scores = 1 / (1 + np.exp(-np.maximum(logits[order], -100).astype(np.float64)))
    else:
        scores = logits[order]
    return order.astype(np.int32), scores.astype(np.float32)


def boxes(output: NDArray[Any], decode: Boxes, name: str) -> Found:
    """One picture's output -> the boxes kept, best first."""
    if decode.layout == "end2end":
        found = _end2end(output, decode.score, name)
        return _take(found, np.argsort(-found.scores, kind="stable")[: decode.limit])
    found = (_yolov5 if decode.layout == "yolov5" else _yolov8)(output, decode.score, name)
    kept = suppress(*found, iou=decode.iou, limit=decode.limit, class_agnostic=decode.class_agnostic)
    return _take(found, kept)


def suppressed(num: NDArray[Any], rows: Sequence[NDArray[Any]], decode: Boxes) -> Found:
    """num (1,) and (boxes, scores, classes) a model suppressed itself -> those above the score, best first."""
    count = max(0, int(num[0]))
    corners, scores, class_ids = (row[:count] for row in rows)
    found = Found(corners.astype(np.float32), scores.astype(np.float32), class_ids.astype(np.int32))
    _check(found.scores, "scores")
    _check(found.boxes, "boxes")
    order = np.argsort(-found.scores, kind="stable")
    return _take(found, order[found.scores[order] > decode.score][: decode.limit])


def _take(found: Found, places: NDArray[np.intp]) -> Found:
    return Found(found.boxes[places], found.scores[places], found.class_ids[places])


def _candidates(scores: NDArray[Any], threshold: float) -> NDArray[np.intp]:
    """Places above the threshold, and of NaN, which fails every comparison; a later check reports it."""
    # numbers that lie apart are copied: comparing them costs more than both; and NumPy compares float16 in float16
    single = np.ascontiguousarray(scores, np.float32)
    return np.flatnonzero(~(single <= np.float32(threshold)))


def _check(values: Floats, name: str) -> None:
    if not np.isfinite(values).all():
        raise not_finite(name)


def _corners(centred: Floats) -> Floats:
    """(n, 4) cx cy w h -> x1 y1 x2 y2."""
    half = centred[:, 2:] / np.float32(2)
    return np.concatenate((centred[:, :2] - half, centred[:, :2] + half), axis=1)


def _best(rows: Floats, scores: Floats, threshold: float) -> Found:
    """rows (n, 4...) cx cy w h and their class scores (n, classes) -> boxes of the best class, if above."""
    class_ids = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), class_ids]
    keep = np.flatnonzero(best > np.float32(threshold))
    return Found(_corners(rows[keep, :4]), best[keep], class_ids[keep].astype(np.int32))


def _yolov5(output: NDArray[Any], threshold: float, name: str) -> Found:
    """output (anchors, 5 + classes)."""
    # not `take`, which copies all of an output that lies column by column
    rows = output[_candidates(output[:, 4], threshold)].astype(np.float32, order="C", copy=False)
    _check(rows, name)
    return _best(rows, rows[:, 5:] * rows[:, 4:5], threshold)


def _yolov8(output: NDArray[Any], threshold: float, name: str) -> Found:
    """output (4 + classes, anchors)."""
    places = _candidates(output[4:].max(axis=0), threshold)
    rows = np.ascontiguousarray(output.take(places, axis=1).T, np.float32)
    _check(rows, name)
    return _best(rows, rows[:, 4:], threshold)


def _end2end(output: NDArray[Any], threshold: float, name: str) -> Found:
    """output (boxes, 6): x1 y1 x2 y2 score class."""
    # not `take`, which copies all of an output that lies column by column
    rows = output[_candidates(output[:, 4], threshold)].astype(np.float32)
    _check(rows, name)
    with np.errstate(invalid="ignore"):  # what no integer holds is no class either
        class_ids = rows[:, 5].astype(np.int32)
    return Found(rows[:, :4], rows[:, 4], class_ids)
