"""What checkpoints without a YAML are: YOLOv5 since release 6.0, told by its layer numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.spec import Preprocess
from edgeinfer_export.told import NORMALIZE

if TYPE_CHECKING:
    from edgeinfer.spec import Size
    from edgeinfer_export.graphs.weights import Weights

# number of levels by the number of the Detect layer, and the repeats of the backbone's C3 at depth 1
LEVELS = {24: 3, 33: 4}
# the number of a classifier's Classify layer
CLASSIFY = 9
REPEATS = (3, 6, 9, 3, 3)


def recognise(weights: Weights) -> dict[str, Any] | None:
    """A YAML for YOLOv5 or YOLOv5u with three or four levels, or YOLOv5's classifier; None for tensors of others.

    It says what is the same in all of them; widths are in the tensors, and all were trained with SiLU.
    """
    if "model.0.conv.weight" not in weights or weights.shape("model.0.conv.weight")[2:] != (6, 6):
        return None
    deep = sum(f"model.4.m.{place}.cv1.conv.weight" in weights for place in range(99))
    depth = {"depth_multiple": deep / REPEATS[1] or 1.0}
    for detect, levels in LEVELS.items():
        if any(f"model.{detect}.{name}.weight" in weights for name in ("m.0", "cv2.0.0.conv")):
            return depth | _detector(levels)
    return depth | _classifier() if f"model.{CLASSIFY}.linear.weight" in weights else None


def _classifier() -> dict[str, Any]:
    """The first layers of a detector, and Classify instead of the next."""
    return {"backbone": _detector(3)["backbone"][:CLASSIFY], "head": [[-1, 1, "Classify", []]]}


def classified(size: Size) -> Preprocess:
    """As YOLOv5's classifiers get their pictures, but for what comes first: there they are cropped, then resized."""
    scale, mean, std = NORMALIZE["imagenet"]
    longest = max(size.height, size.width)
    return Preprocess(size, fit="resize-crop", scale=scale, mean=mean, std=std, resize=longest)


def _detector(levels: int) -> dict[str, Any]:
    backbone: list[Any] = [[-1, 1, "Conv", [0, 6, 2, 2]]]
    for repeats in REPEATS[: levels + 1]:
        backbone += [[-1, 1, "Conv", [0, 3, 2]], [-1, repeats, "C3", [0]]]
    backbone.append([-1, 1, "SPPF", [0, 5]])
    return {"backbone": backbone, "head": _neck(levels, len(backbone))}


def _neck(levels: int, first: int) -> list[Any]:
    """Up the pyramid, down again, and Detect on what the way down passes; `first` is the number of its first layer."""
    rows: list[Any] = []
    laterals = []
    for level in range(levels - 1):
        laterals.append(first + len(rows))
        rows += [[-1, 1, "Conv", [0, 1, 1]], [-1, 1, "Upsample", [None, 2, "nearest"]]]
        rows += [[[-1, 2 * (levels - level)], 1, "Concat", [1]], [-1, 3, "C3", [0, False]]]
    seen = [first + len(rows) - 1]
    for lateral in reversed(laterals):
        rows += [[-1, 1, "Conv", [0, 3, 2]], [[-1, lateral], 1, "Concat", [1]], [-1, 3, "C3", [0, False]]]
        seen.append(first + len(rows) - 1)
    return [*rows, [seen, 1, "Detect", []]]
