"""Results drawn on a copy of their picture, with OpenCV."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.results import Classification

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.results import Detections, Result

    Image = NDArray[np.uint8]

Color = tuple[int, int, int]
DARK: Color = (24, 24, 24)
LIGHT: Color = (255, 255, 255)
TROUGH: Color = (90, 90, 90)
# a turn of the colour wheel by the golden ratio: neighbouring classes lie far apart, however many there are
GOLDEN = 0.61803398875


class Pen(NamedTuple):
    """Sizes that suit a picture: `line` and `text` height in pixels, `scale` and `weight` of the letters."""

    line: int
    text: int
    scale: float
    weight: int


def draw(image: Image, result: Result) -> Image:
    """A copy of the picture with its boxes, or with a panel of its classes."""
    canvas: Image = image.copy()
    if isinstance(result, Classification):
        _panel(canvas, result)
    else:
        _boxes(canvas, result)
    return canvas


def color_of(class_id: int) -> Color:
    """The BGR colour of a class: the same in every picture, and bright enough for dark letters."""
    hue = (0.02 + class_id * GOLDEN) % 1.0
    # three rings of the wheel, so that classes of nearly the same hue still differ
    saturation, value = ((0.78, 1.0), (0.55, 1.0), (0.85, 0.82))[class_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def _ink(color: Color) -> Color:
    """Dark or light letters, whichever reads better on this colour."""
    blue, green, red = color
    return DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else LIGHT


def _pen(image: Image) -> Pen:
    import cv2

    side = (image.shape[0] * image.shape[1]) ** 0.5
    text = max(8, round(side / 48))
    weight = max(1, round(text / 11))
    scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, text, weight)
    return Pen(max(1, round(side / 330)), text, scale, weight)


def _boxes(canvas: Image, found: Detections) -> None:
    import cv2

    pen = _pen(canvas)
    height, width = canvas.shape[:2]
    rows = [(box, label, score) for box, score, label in found]
    colors = [color_of(int(class_id)) for class_id in found.class_ids]
    # the surest last, on top of the others, and every plate on top of every box
    corners = [_corners(box, height, width) for box, _, _ in rows]
    for (first, last), color in reversed(list(zip(corners, colors))):
        if pen.line > 1:
            cv2.rectangle(canvas, first, last, DARK, pen.line + 2, cv2.LINE_4)
        cv2.rectangle(canvas, first, last, color, pen.line, cv2.LINE_4)
    for (_, label, score), (first, last), color in reversed(list(zip(rows, corners, colors))):
        _plate(canvas, f"{label} {score:.2f}", (*first, *last), color, pen)


def _corners(box: Any, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    right, bottom = max(0, min(x2, width) - 1), max(0, min(y2, height) - 1)
    return (min(max(x1, 0), right), min(max(y1, 0), bottom)), (right, bottom)


def _plate(canvas: Image, text: str, box: tuple[int, int, int, int], color: Color, pen: Pen) -> None:
    """A label on its plate: above the box where there is room, inside it otherwise, always in the picture."""
    import cv2

    height, width = canvas.shape[:2]
    pad = max(2, pen.text // 3)
    text = _fitted(text, width - 2 * pad, pen)
    (across, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)
    plate = (across + 2 * pad, pen.text + 2 * pad)
    if not text or plate[1] > height:
        return
    edge = pen.line // 2
    left = min(max(0, box[0] - edge), width - plate[0])
    top = box[1] - edge - plate[1]
    if top < 0:
        top = min(box[1], height - plate[1])
    cv2.rectangle(canvas, (left, top), (left + plate[0] - 1, top + plate[1] - 1), color, cv2.FILLED)
    _write(canvas, text, (left + pad, top + pad + pen.text), _ink(color), pen)


def _fitted(text: str, room: int, pen: Pen) -> str:
    """The text, or as much of its start as fits with two dots."""
    import cv2

    def across(part: str) -> int:
        return int(cv2.getTextSize(part, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)[0][0])

    if across(text) <= room:
        return text
    for length in range(len(text) - 1, 0, -1):
        if across(text[:length].rstrip() + "..") <= room:
            return text[:length].rstrip() + ".."
    return ""


def _write(canvas: Image, text: str, origin: tuple[int, int], color: Color, pen: Pen) -> None:
    import cv2

    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, color, pen.weight, cv2.LINE_AA)


def _panel(canvas: Image, found: Classification) -> None:
    """The best classes with their scores as bars, on a darkened plate in the lower left corner."""
    import cv2

    pen = _pen(canvas)
    height, width = canvas.shape[:2]
    pad, row = pen.text, round(pen.text * 2.1)
    across = min(width, max(width * 2 // 5, pen.text * 18))
    rows = list(found)[: max(0, (height - 2 * pad) // row)]
    if not rows or across < 4 * pen.text:
        return
    top = height - pad - row * len(rows) - pad // 2
    plate = canvas[max(0, top) :, :across]
    plate[:] = (plate * 0.28).astype(plate.dtype)
    room = across - 2 * pad
    percent = cv2.getTextSize("100.0%", cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)[0][0]
    for place, (score, label) in enumerate(rows):
        base = height - pad - row * (len(rows) - place) + pen.text
        color = color_of(int(found.class_ids[place]))
        _write(canvas, _fitted(label, room - percent - pad, pen), (pad, base), LIGHT, pen)
        number = f"{score * 100:.1f}%"
        used = cv2.getTextSize(number, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)[0][0]
        _write(canvas, number, (across - pad - used, base), LIGHT, pen)
        top = base + pen.text // 3
        bar = canvas[top : top + max(2, pen.text // 4 + 1), pad : pad + room]
        bar[:] = TROUGH
        bar[:, : round(room * min(max(score, 0.0), 1.0))] = color
