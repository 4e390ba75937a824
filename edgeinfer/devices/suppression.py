"""Greedy non-maximum suppression whose result equals torchvision's bit for bit; the reference for every device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MOST = 30000  # candidates beyond so many, best first, are left out: YOLOv5's max_nms
APART = 7680  # boxes of class c are moved by c times this, so that classes do not meet: YOLOv5's max_wh
BLOCK = 192  # boxes decided at once
PART = 256  # kept ones they are compared with at once


def suppress(
    boxes: Floats, scores: Floats, class_ids: NDArray[Any], *, iou: float, limit: int, class_agnostic: bool = False
) -> NDArray[np.intp]:
    """Places of the boxes (n, 4) x1 y1 x2 y2 that are kept, at most `limit`: best first, equals in their order."""
    order = np.argsort(-scores, kind="stable")[:MOST]
    chosen = boxes[order]
    if not class_agnostic:
        # the float32 rounding of the moved boxes is part of the published result
        chosen += class_ids[order, None].astype(np.float32) * np.float32(APART)
    with np.errstate(all="ignore"):
        return order[_greedy(np.ascontiguousarray(chosen.T), ceiling(iou), limit)]


def ceiling(iou: float) -> float:
    """The largest float32 that is not above `iou`: a float32 is above one exactly if it is above the other."""
    nearest = np.float32(iou)
    return float(nearest if float(nearest) <= iou else np.nextafter(nearest, np.float32(-1)))


def _greedy(sides: Floats, threshold: float, limit: int) -> NDArray[np.intp]:
    """sides (4, n), best first -> places of those kept; a block is looked at once all before it are decided."""
    rows = np.concatenate((sides, _areas(sides)[None]))
    kept = np.empty(0, np.intp)
    for start in range(0, rows.shape[1], BLOCK):
        block = rows[:, start : start + BLOCK]
        clear = np.arange(block.shape[1])
        if len(kept):  # in most frames there is but one block
            clear = np.flatnonzero(_clear(block, rows[:, kept], threshold))
            block = block[:, clear]
        chosen = _within(_overlaps(block[:, :, None], block) > threshold)
        kept = np.concatenate((kept, clear[chosen] + start))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _clear(block: Floats, kept: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which of the block no kept one overlaps; compared in parts that stay in the cache."""
    clear = np.ones(block.shape[1], bool)
    for start in range(0, kept.shape[1], PART):
        overlaps = _overlaps(block[:, :, None], kept[:, start : start + PART])
        clear &= ~(overlaps > threshold).any(axis=1)
    return clear


def _within(overlap: NDArray[np.bool_]) -> list[int]:
    """overlap (n, n), best first -> those no better kept one overlaps; each row is a number of n bits."""
    bits = np.packbits(overlap, axis=1, bitorder="little")
    data, step = bits.tobytes(), bits.shape[1]
    alive, kept = (1 << len(bits)) - 1, []
    while alive:
        best = alive & -alive
        place = best.bit_length() - 1
        kept.append(place)
        alive &= ~(best | int.from_bytes(data[place * step : (place + 1) * step], "little"))
    return kept


def _areas(sides: Floats) -> Floats:
    areas: Floats = (sides[2] - sides[0]) * (sides[3] - sides[1])
    return areas


def _overlaps(one: Floats, others: Floats) -> Floats:
    """Rows x1 y1 x2 y2 area -> intersection over union, in torchvision's order of float32 operations."""
    width = np.minimum(one[2], others[2])
    width -= np.maximum(one[0], others[0])
    height = np.minimum(one[3], others[3])
    height -= np.maximum(one[1], others[1])
    nothing = np.zeros_like(width)  # NumPy's vector code for maximum wants two arrays
    shared: Floats = np.maximum(width, nothing, out=width)
    shared *= np.maximum(height, nothing, out=height)
    union = one[4] + others[4]
    union -= shared
    shared /= union
    return shared
