"""Large pictures in overlapping tiles, so that small objects reach the model at their full size."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.composite import Composite
from edgeinfer.devices.images import picture
from edgeinfer.devices.suppression import suppress
from edgeinfer.errors import InputError, UsageError
from edgeinfer.pipeline import several
from edgeinfer.results import Detections
from edgeinfer.spec import Boxes, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.pipeline import Pipeline

OVERLAP = 0.2  # of a tile's side, shared with its neighbour
MOST = 256  # tiles of one picture
COVERED = 0.6  # a box that a tile's edge cut is part of one that covers so much of it
NEAR = 2.0  # pixels from its tile's edge within which a box counts as cut


class Tile(NamedTuple):
    """A part of a picture: left, top, right, bottom in source pixels, the last two just outside."""

    left: int
    top: int
    right: int
    bottom: int


class Grid(NamedTuple):
    """`rows` by `columns` tiles, or (rows 0) tiles of `side` pixels; neighbours share `overlap` of a side."""

    rows: int = 0
    columns: int = 0
    side: int = 0
    overlap: float = OVERLAP

    @classmethod
    def parse(cls, text: str) -> Grid:
        """`2x3`, `2x3:0.1`, `640` or `640:0.2`; UsageError for anything else."""
        match = re.fullmatch(r"(?:(\d{1,3})x(\d{1,3})|(\d{2,5}))(?::(0?\.\d+|0))?", text.strip())
        if match:
            rows, columns, side = (int(part or 0) for part in match.groups()[:3])
            overlap = float(match[4]) if match[4] else OVERLAP
            if (side >= 16 or (rows >= 1 and columns >= 1)) and overlap <= 0.9:
                return cls(rows, columns, side, overlap)
        raise UsageError(
            f"tiles {text!r} are not ROWSxCOLUMNS or SIDE[:OVERLAP]", hint="for example 2x2, 640 or 640:0.2"
        )

    def tiles(self, size: Size) -> list[Tile]:
        """The tiles of a picture of this size, row by row; the last of a row ends where the picture does."""
        down = self._spans(size.height, self.rows)
        across = self._spans(size.width, self.columns)
        if len(down) * len(across) > MOST:
            raise InputError(
                f"a picture of {size} makes {len(down) * len(across)} tiles, more than {MOST}", hint="use larger tiles"
            )
        return [Tile(left, top, right, bottom) for top, bottom in down for left, right in across]

    def _spans(self, length: int, count: int) -> list[tuple[int, int]]:
        if count:
            # count tiles, each sharing `overlap` of itself with the next, span the length exactly
            side = length / (count - (count - 1) * self.overlap)
        else:
            side = min(self.side, length)
            step = max(1.0, side * (1 - self.overlap))
            count = 1 + math.ceil((length - side) / step)
        side_px = min(length, math.ceil(side))
        starts = [round(place * (length - side_px) / max(1, count - 1)) for place in range(count)]
        return [(start, start + side_px) for start in dict.fromkeys(starts)]


class Tiled(Composite):
    """A detector that looks at a picture's tiles and at the whole, and merges what it finds.

    Called like the model itself. `grid` is in words "2x3" (rows by columns), "640" (a tile's side in pixels), each
    with ":0.1" for another overlap than a fifth of a side. A box that an inner edge of its tile cut is left out when a
    box of its class from another view covers it; then the detector's own suppression decides among all that are left.
    Raises UsageError.
    """

    def __init__(self, model: Pipeline, grid: Grid | str | int) -> None:
        if not isinstance(model.spec.decode, Boxes):
            raise UsageError(f"tiles are for detectors, {model.spec.name} has task {model.spec.task}")
        if hasattr(model, "detector"):
            told = f"tiles are for a detector alone, not for a {type(model).__name__}"
            raise UsageError(told, hint="edgeinfer.Cascade(edgeinfer.Tiled(detector, grid), classifier)")
        super().__init__(model)
        self.grid = grid if isinstance(grid, Grid) else Grid.parse(str(grid))
        self._decode = model.spec.decode

    def __call__(self, image: Any, *, pixels: str = "bgr") -> Detections:
        """image (h, w, 3) uint8, or as `pixels` says -> boxes in its pixels."""
        shown = picture(image, pixels)
        size = shown.size
        tiles = [Tile(0, 0, size.width, size.height), *self.grid.tiles(size)]
        views = list(dict.fromkeys(Tile(*shown.sides(*tile)) for tile in tiles))
        parts = [shown.part(*view) for view in views]
        found = [result for result in self.detector.batch(parts, pixels=pixels) if isinstance(result, Detections)]
        return self._merged(list(zip(views, found)), size)

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> list[Detections]:
        """Any number of pictures -> a result each."""
        return [self(image, pixels=pixels) for image in several(images)]

    def _merged(self, found: list[tuple[Tile, Detections]], size: Size) -> Detections:
        boxes = np.concatenate([one.boxes + np.array([view.left, view.top] * 2, np.float32) for view, one in found])
        scores = np.concatenate([one.scores for _, one in found])
        class_ids = np.concatenate([one.class_ids for _, one in found])
        views = np.repeat(np.arange(len(found)), [len(one) for _, one in found])
        cut = np.concatenate([_cut(one.boxes, view, size) for view, one in found])
        kept = np.flatnonzero(~_covered(boxes, class_ids, views, cut))
        decode = self._decode
        order = suppress(
            boxes[kept],
            scores[kept],
            class_ids[kept],
            iou=decode.iou,
            limit=decode.limit,
            class_agnostic=decode.class_agnostic,
        )
        kept = kept[order]
        return Detections(boxes[kept], scores[kept], class_ids[kept], self.spec.labels, size, self._timings(found))

    def _timings(self, found: list[tuple[Tile, Detections]]) -> dict[str, float]:
        """Milliseconds by stage of all runs together; the results of one run have the same numbers."""
        runs = [one.timings_ms for _, one in found[:: self.detector.group]]
        return {stage: sum(run[stage] for run in runs) for stage in runs[0]}


def _cut(boxes: NDArray[np.float32], tile: Tile, size: Size) -> NDArray[np.bool_]:
    """Which boxes (n, 4) in the tile's pixels end at an edge of the tile that lies inside the picture."""
    right, bottom = tile.right - tile.left - NEAR, tile.bottom - tile.top - NEAR
    cut = np.zeros(len(boxes), bool)
    cut |= (boxes[:, 0] <= NEAR) & (tile.left > 0)
    cut |= (boxes[:, 1] <= NEAR) & (tile.top > 0)
    cut |= (boxes[:, 2] >= right) & (tile.right < size.width)
    cut |= (boxes[:, 3] >= bottom) & (tile.bottom < size.height)
    return cut


def _covered(
    boxes: NDArray[np.float32], class_ids: NDArray[np.int32], views: NDArray[np.intp], cut: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which cut boxes lie, for the most part, in a box of their class from another view that is whole or larger."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    covered = np.zeros(len(boxes), bool)
    for place in np.flatnonzero(cut):
        rivals = np.flatnonzero((class_ids == class_ids[place]) & (views != views[place]))
        rivals = rivals[~cut[rivals] | (areas[rivals] > areas[place])]
        low = np.maximum(boxes[rivals, :2], boxes[place, :2])
        high = np.minimum(boxes[rivals, 2:], boxes[place, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        covered[place] = bool((shared >= COVERED * areas[place]).any())
    return covered
