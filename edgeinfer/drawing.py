"""Results drawn on a copy of their picture, with OpenCV."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.devices.images import picture
from edgeinfer.pictures import opencv
from edgeinfer.results import Classification

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.results import Detections, Result

    Image = NDArray[np.uint8]

Color = tuple[int, int, int]
DARK: Color = (24, 24, 24)
LIGHT: Color = (255, 255, 255)
TROUGH: Color = (90, 90, 90)
ALARM: Color = (40, 30, 180)
# a turn of the colour wheel by the golden ratio: neighbouring classes lie far apart, however many there are
GOLDEN = 0.61803398875


class Pen(NamedTuple):
    """Sizes that suit a picture: `line`, `text` height and `pad` in pixels, `scale` and `weight` of the letters."""

    line: int
    text: int
    pad: int
    scale: float
    weight: int


class Plate(NamedTuple):
    """A label and where it stands, in pixels; right and bottom are just outside."""

    text: str
    left: int
    top: int
    right: int
    bottom: int

    def hits(self, other: Plate) -> bool:
        """Whether the two overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def draw(image: Image, result: Result) -> Image:
    """A copy of the picture with its boxes, or with a panel of its classes: BGR, also of a grey or BGRA picture."""
    canvas = _canvas(image)
    if isinstance(result, Classification):
        _panel(canvas, result)
    else:
        _boxes(canvas, result)
    return canvas


def _canvas(image: Image) -> Image:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8 -> a copy (h, w, 3). Raises InputError."""
    cv2, pixels = opencv(), picture(image, "bgr").pixels
    codes = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}
    canvas: Image = pixels.copy() if pixels.shape[2] == 3 else cv2.cvtColor(pixels, codes[pixels.shape[2]])
    return canvas


def titled(image: Image, lines: Sequence[str]) -> Image:
    """A copy of the picture under a dark bar with these lines of text, cut to its width."""
    import numpy as np

    pen = _pen(image)
    row = pen.text + 2 * pen.pad
    bar = np.full((row * len(lines) + pen.pad, *image.shape[1:]), DARK, np.uint8)
    for place, line in enumerate(lines, 1):
        text = _fitted(_plain(line), image.shape[1] - 2 * pen.pad, pen)
        _write(bar, text, (pen.pad, row * place - pen.pad), LIGHT, pen)
    return np.concatenate([bar, image])


def stamped(image: Image, text: str) -> Image:
    """The picture itself, with this text on a plate in its lower right corner."""
    pen = _pen(image)
    text = _fitted(_plain(text), image.shape[1] - 2 * pen.pad, pen)
    across = _across(text, pen) + 2 * pen.pad
    height, width = image.shape[:2]
    _show(image, Plate(text, width - across, height - pen.text - 2 * pen.pad, width, height), DARK, pen)
    return image


def crossed(image: Image, lines: Sequence[str]) -> Image:
    """A grey, dimmed copy of the picture with a red bar across it that holds these lines: it shows no present."""
    import cv2

    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    canvas: Image = cv2.convertScaleAbs(grey, alpha=0.5)
    pen = _pen(image, larger=2)
    row = pen.text + 4 * pen.pad
    top = max(0, (image.shape[0] - row * len(lines)) // 2)
    canvas[top : top + row * len(lines)] = ALARM
    for place, line in enumerate(lines):
        text = _fitted(_plain(line), image.shape[1] - 4 * pen.pad, pen)
        _write(canvas, text, (2 * pen.pad, top + row * place + pen.text + 2 * pen.pad), LIGHT, pen)
    return canvas


def _plain(text: str) -> str:
    """What OpenCV's letters can write."""
    return "".join(letter if letter.isascii() else "?" for letter in text)


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


def _pen(image: Image, larger: float = 1) -> Pen:
    import cv2

    side = (image.shape[0] * image.shape[1]) ** 0.5
    text = max(8, round(side * larger / 48))
    weight = max(1, round(text / 11))
    scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, text, weight)
    return Pen(max(1, round(side / 330)), text, max(2, text // 3), scale, weight)


def _boxes(canvas: Image, found: Detections) -> None:
    import cv2

    pen = _pen(canvas)
    height, width = canvas.shape[:2]
    rows = list(zip(found.boxes, found.captions()))
    colors = [color_of(int(class_id)) for class_id in found.class_ids]
    # the surest box last, on top of the others; plates stand on top of boxes and out of each other's way
    corners = [_corners(box, height, width) for box, _ in rows]
    for (first, last), color in reversed(list(zip(corners, colors))):
        if pen.line > 1:
            cv2.rectangle(canvas, first, last, DARK, pen.line + 2, cv2.LINE_4)
        cv2.rectangle(canvas, first, last, color, pen.line, cv2.LINE_4)
    plates: dict[Plate, Color] = {}
    for (_, caption), (first, last), color in zip(rows, corners, colors):
        plate = _plate(caption, (*first, *last), (height, width), pen, list(plates))
        if plate:
            plates.setdefault(plate, color)
    for plate, color in reversed(list(plates.items())):
        _show(canvas, plate, color, pen)


def _corners(box: Any, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    right, bottom = max(0, min(x2, width) - 1), max(0, min(y2, height) - 1)
    return (min(max(x1, 0), right), min(max(y1, 0), bottom)), (right, bottom)


def _plate(
    text: str, box: tuple[int, int, int, int], frame: tuple[int, int], pen: Pen, taken: list[Plate]
) -> Plate | None:
    """Where a label stands: over its box, else in or under it, clear of those `taken` if that can be.

    Always inside the `frame` (height, width); None where no label fits.
    """
    height, width = frame
    text = _fitted(text, width - 2 * pen.pad, pen)
    across, down = _across(text, pen) + 2 * pen.pad, pen.text + 2 * pen.pad
    if not text or down > height:
        return None
    edge = pen.line // 2
    left, top, right, bottom = box[0] - edge, box[1] - edge - down, box[2] + 1 + edge, box[3] + 1 + edge
    inside = (left, min(box[1], height - down)), (left, bottom - down)
    spots = ((left, top), (right - across, top), *inside, (left, bottom), (left, top - down))
    plates = []
    for x, y in spots:
        start = min(max(0, x), width - across)
        if 0 <= y <= height - down:
            plates.append(Plate(text, start, y, start + across, y + down))
    return next((plate for plate in plates if not any(map(plate.hits, taken))), plates[0])


def _show(canvas: Image, plate: Plate, color: Color, pen: Pen) -> None:
    import cv2

    # ten times as fast as to assign three bytes to each pixel, which took half of a drawing's time
    cv2.rectangle(canvas, (plate.left, plate.top), (plate.right - 1, plate.bottom - 1), color, cv2.FILLED)
    _write(canvas, plate.text, (plate.left + pen.pad, plate.bottom - pen.pad), _ink(color), pen)


def _fitted(text: str, room: int, pen: Pen) -> str:
    """The text, or as much of its start as fits with two dots."""
    if _across(text, pen) <= room:
        return text
    for length in range(len(text) - 1, 0, -1):
        if _across(text[:length].rstrip() + "..", pen) <= room:
            return text[:length].rstrip() + ".."
    return ""


def _across(text: str, pen: Pen) -> int:
    """How wide a text is, in pixels."""
    import cv2

    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)[0][0])


def _write(canvas: Image, text: str, origin: tuple[int, int], color: Color, pen: Pen) -> None:
    import cv2

    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, color, pen.weight, cv2.LINE_AA)


def _panel(canvas: Image, found: Classification) -> None:
    """The best classes with their scores as bars, on a darkened plate in the lower left corner."""
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
    percent = _across("100.0%", pen)
    for place, (score, label) in enumerate(rows):
        base = height - pad - row * (len(rows) - place) + pen.text
        color = color_of(int(found.class_ids[place]))
        _write(canvas, _fitted(label, room - percent - pad, pen), (pad, base), LIGHT, pen)
        number = f"{score * 100:.1f}%"
        _write(canvas, number, (across - pad - _across(number, pen), base), LIGHT, pen)
        top = base + pen.text // 3
        bar = canvas[top : top + max(2, pen.text // 4 + 1), pad : pad + room]
        bar[:] = TROUGH
        bar[:, : round(room * min(max(score, 0.0), 1.0))] = color
