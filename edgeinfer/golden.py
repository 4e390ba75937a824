"""Golden samples: pictures that travel with a bundle and what must be found in them, on every device."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeinfer.errors import BundleError
from edgeinfer.pictures import opencv
from edgeinfer.results import Classification, ious
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.bundle import Bundle
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Detections, Result
    from edgeinfer.spec import Expected, Golden, ModelSpec

# how far from the float32 reference a sound engine may be: (score, intersection over union)
TOLERANCE = {"fp32": (0.01, 0.98), "fp16": (0.05, 0.9), "int8": (0.15, 0.7)}
# OpenCV leaves resizing to other libraries there, which round otherwise: a score moved by 0.011, a box by 0.54 pixels
if platform.machine() not in ("x86_64", "AMD64"):
    TOLERANCE["fp32"] = TOLERANCE["fp16"]


class GoldenReport(NamedTuple):
    """One golden sample after it was run; `detail` says what was compared, or what differed."""

    image: str
    passed: bool
    detail: str


def lowest_score(spec: ModelSpec) -> float | None:
    """The confidence a detector must be loaded with so that `check` sees all that was recorded; None: the model's."""
    if not isinstance(spec.decode, Boxes):
        return None
    return min((golden.score for golden in spec.golden), default=None)


def files(bundle: Bundle) -> list[bytes]:
    """The picture files of its golden samples, as they are now. Raises BundleError."""
    return [bundle.content(golden.image) for golden in bundle.spec.golden]


def check(
    pipeline: Pipeline, bundle: Bundle, precision: str = "fp32", kept: Sequence[bytes] | None = None
) -> list[GoldenReport]:
    """Run every golden sample of the bundle and compare; the pipeline must have its golden confidence.

    `kept` are the samples' files as they were: another bundle may be in the folder by now.
    """
    cv2, reports = opencv(), []
    for golden, data in zip(bundle.spec.golden, files(bundle) if kept is None else kept):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if picture is None:
            raise BundleError(f"{bundle.path / golden.image} is not a picture", hint="export the bundle again")
        reports.append(compare(golden, pipeline(picture), precision))
    return reports


def compare(golden: Golden, result: Result, precision: str) -> GoldenReport:
    """Whether a result has all that was recorded, within the tolerance of `precision`."""
    lost, count = missing(golden, result, precision), len(_due(golden, result, precision))
    if not lost:
        return GoldenReport(golden.image, True, f"{count} of {count} found")
    first = lost[0]
    label = result.labels[first.class_id] if first.class_id < len(result.labels) else str(first.class_id)
    detail = f"{len(lost)} of {count} not found, first: {label} {first.score:.2f} {list(first.box)}"
    return GoldenReport(golden.image, False, detail)


def missing(golden: Golden, result: Result, precision: str) -> list[Expected]:
    """What was recorded that a result does not have, within the tolerance of `precision`."""
    score, overlap = TOLERANCE[precision]
    due = _due(golden, result, precision)
    if isinstance(result, Classification):
        found = {int(one): float(other) for other, one in zip(result.scores, result.class_ids)}
        return [item for item in due if abs(found.get(item.class_id, -1.0) - item.score) > score]
    return [item for item in due if not _found(item, result, score, overlap)]


def certain(golden: Golden, precision: str) -> list[Expected]:
    """The boxes of a detector's sample that must be found: one nearer to its confidence may fall below it."""
    score, _ = TOLERANCE[precision]
    return [item for item in golden.expect if item.score - score >= golden.score]


def _due(golden: Golden, result: Result, precision: str) -> list[Expected]:
    """What must be found: of a classifier's best classes the last may be others, the very best must be among them."""
    if not isinstance(result, Classification):
        return certain(golden, precision)
    score, _ = TOLERANCE[precision]
    shown = set(result.class_ids.tolist())
    lowest = float(result.scores.min()) if len(shown) >= len(golden.expect) > 0 else -1.0
    best = golden.expect[:1]
    return [one for one in golden.expect if one in best or one.class_id in shown or one.score - score > lowest]


def _found(item: Expected, result: Detections, score: float, overlap: float) -> bool:
    near = (result.class_ids == item.class_id) & (abs(result.scores.astype(np.float64) - item.score) <= score)
    return bool((ious(result.boxes[near], np.array([item.box])) >= overlap).any())
