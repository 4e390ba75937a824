"""One picture as several models see it, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer import drawing, sources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.comparing.models import Model

# pixels: the most a panel is wide, and what is between two
WIDE, GAP = 900, 8
COLUMNS = 3


def side_by_side(path: Path, models: Sequence[Model], place: int) -> Any:
    """Panels in reading order, the widest three a row: (h, w, 3) uint8 BGR. `place`: the picture's number."""
    image = sources.picture(path).image
    panels = [_panel(image, model, place) for model in models]
    columns = min(COLUMNS, len(panels)) if len(panels) != 4 else 2
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return _stacked([_row(row, columns) for row in rows])


def _panel(image: Any, model: Model, place: int) -> Any:
    found = model.found[place] if model.found else None
    drawn = _fitted(image if found is None else found.draw(image))
    known = model.figures
    took = f"p50 {known.p50_ms:.1f} ms" if known else model.fault or "not measured"
    count = f"{len(found)} found" if found is not None and model.task == "detect" else ""
    return drawing.titled(drawn, [model.name, ", ".join(filter(None, (model.choice.name, took, count)))])


def _fitted(image: Any) -> Any:
    import cv2

    height, width = image.shape[:2]
    if width <= WIDE:
        return image
    return cv2.resize(image, (WIDE, max(1, round(height * WIDE / width))), interpolation=cv2.INTER_AREA)


def _row(panels: Sequence[Any], columns: int) -> Any:
    """Panels of one size; empty places at the end of the last row stay white."""
    import numpy as np

    height, width = panels[0].shape[:2]
    row = np.full((height, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, panel in enumerate(panels):
        left = place * (width + GAP)
        row[:, left : left + width] = panel
    return row


def _stacked(rows: Sequence[Any]) -> Any:
    import numpy as np

    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    parts = [part for row in rows for part in (gap, row)][1:]
    return np.concatenate(parts)
