"""What checkpoints without a YAML are: YOLOv5 since release 6.0, told by numbers of layers and names of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.spec import Preprocess
from edgeinfer_export.told import NORMALIZE

if TYPE_CHECKING:
    from edgeinfer.spec import Size
    from edgeinfer_export.graphs.weights import Weights

# number of levels by the number of the Detect layer
LEVELS = {24: 3, 33: 4, 42: 5}
# the number of a classifier's Classify layer
CLASSIFY = 9
# what may stand in the place of these modules, and a tensor that it alone has; where it repeats its parts
OTHERS = {
    "Conv": {"GhostConv": "cv1.conv.weight"},
    "C3": {"C3Ghost": "m.0.conv.0.cv1.conv.weight", "C3TR": "m.linear.weight"},
}
REPEATED = {"C3": "m.", "C3Ghost": "m.", "C3TR": "m.tr."}


def recognise(weights: Weights) -> dict[str, Any] | None:
    """A YAML for YOLOv5 or YOLOv5u of three to five levels, or YOLOv5's classifier; None for tensors of others.

    Blocks, widths and depths are in the tensors; all were trained with SiLU.
    """
    if "model.0.conv.weight" not in weights or weights.shape("model.0.conv.weight")[2:] != (6, 6):
        return None
    for detect, levels in LEVELS.items():
        if any(f"model.{detect}.{name}.weight" in weights for name in ("m.0", "cv2.0.0.conv")):
            return _as_stored(weights, _detector(levels))
    if f"model.{CLASSIFY}.linear.weight" in weights:
        # the first layers of a detector, and Classify instead of the next
        return _as_stored(weights, [*_detector(3)[:CLASSIFY], [-1, 1, "Classify", []]])
    return None


def _as_stored(weights: Weights, rows: list[Any]) -> dict[str, Any]:
    """The rows with the blocks that the tensors show, as often repeated as they are there."""
    for index, row in enumerate(rows):
        path = f"model.{index}."
        for module, tensor in OTHERS.get(row[2], {}).items():
            if f"{path}{tensor}" in weights:
                row[2] = module
        if row[2] in REPEATED:
            parts = f"{path}{REPEATED[row[2]]}"
            places = {name[len(parts) :].partition(".")[0] for name in weights if name.startswith(parts)}
            row[1] = max(1, len(places))
    return {"backbone": rows, "head": []}


def classified(size: Size) -> Preprocess:
    """As YOLOv5's classifiers get their pictures, but for what comes first: there they are cropped, then resized."""
    scale, mean, std = NORMALIZE["imagenet"]
    longest = max(size.height, size.width)
    return Preprocess(size, fit="resize-crop", scale=scale, mean=mean, std=std, resize=longest)


def _detector(levels: int) -> list[Any]:
    """Down the pyramid, up, down again, and Detect on what the last way passes."""
    rows: list[Any] = [[-1, 1, "Conv", [0, 6, 2, 2]]]
    for _ in range(levels + 1):
        rows += [[-1, 1, "Conv", [0, 3, 2]], [-1, 1, "C3", [0]]]
    rows.append([-1, 1, "SPPF", [0, 5]])
    laterals = []
    for level in range(levels - 1):
        laterals.append(len(rows))
        rows += [[-1, 1, "Conv", [0, 1, 1]], [-1, 1, "Upsample", [None, 2, "nearest"]]]
        rows += [[[-1, 2 * (levels - level)], 1, "Concat", [1]], [-1, 1, "C3", [0, False]]]
    seen = [len(rows) - 1]
    for lateral in reversed(laterals):
        rows += [[-1, 1, "Conv", [0, 3, 2]], [[-1, lateral], 1, "Concat", [1]], [-1, 1, "C3", [0, False]]]
        seen.append(len(rows) - 1)
    return [*rows, [seen, 1, "Detect", []]]
