"""Labelled pictures from a seed: scene() for detection, crop() for classification. NumPy and OpenCV only."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from pictograms import backdrops, glyphs
from pictograms.glyphs import NAMES

LEAST_VISIBLE = 0.5  # of an object's pixels; nothing is hidden or cut further than this
HEIGHTS = (1.0, 0.6, 0.85, 1.7, 1.8, 0.6, 0.5, 0.5, 0.4, 0.3)  # against a person's, in the order of NAMES
RAISED = ("traffic light", "stop sign")  # these stand on a pole


@dataclass
class Canvas:
    """A picture being made, and which object each of its pixels shows (-1: none)."""

    image: np.ndarray  # (h, w, 3) float32, 0..255
    owner: np.ndarray = field(init=False)  # (h, w) int32
    classes: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)  # pixels of each object that show
    whole: list[int] = field(default_factory=list)  # pixels of each object, hidden and cut ones included

    def __post_init__(self) -> None:
        self.owner = np.full(self.image.shape[:2], -1, np.int32)

    def region(self, sprite: np.ndarray, left: int, top: int) -> tuple[slice, slice, np.ndarray]:
        """The picture's rows and columns a sprite would take, and the part of the sprite inside it."""
        (height, width), (rows, columns) = self.owner.shape, sprite.shape[:2]
        y = slice(min(height, max(0, top)), max(0, min(height, top + rows)))
        x = slice(min(width, max(0, left)), max(0, min(width, left + columns)))
        return y, x, sprite[y.start - top : y.stop - top, x.start - left : x.stop - left]

    def fits(self, sprite: np.ndarray, left: int, top: int, most_shared: float = 1.0) -> bool:
        """Whether the sprite would be seen well, share few pixels with others, and leave those seen well."""
        y, x, part = self.region(sprite, left, top)
        ink = part[..., 3] > 0.5
        if not ink.any() or ink.sum() < 0.7 * (sprite[..., 3] > 0.5).sum():
            return False
        hidden = np.bincount(self.owner[y, x][ink] + 1, minlength=len(self.seen) + 1)[1:]
        left_over = np.array(self.seen) - hidden >= LEAST_VISIBLE * np.array(self.whole)
        return bool(hidden.sum() <= most_shared * ink.sum() and left_over.all())

    def paste(self, sprite: np.ndarray, left: int, top: int, label: int | None) -> None:
        """Lay the sprite (h, w, 4) over the picture; label None is scenery."""
        y, x, part = self.region(sprite, left, top)
        ink = part[..., 3] > 0.5
        self.image[y, x] = self.image[y, x] * (1 - part[..., 3:]) + part[..., :3]
        hidden = np.bincount(self.owner[y, x][ink] + 1, minlength=len(self.seen) + 1)[1:]
        self.seen = [seen - int(lost) for seen, lost in zip(self.seen, hidden, strict=True)]
        self.owner[y, x][ink] = -1 if label is None else len(self.classes)
        if label is not None:
            self.classes.append(label)
            self.seen.append(int(ink.sum()))
            self.whole.append(int((sprite[..., 3] > 0.5).sum()))

    def boxes(self) -> np.ndarray:
        """The box around what is seen of each object: (n, 4) float32 xyxy, source pixels."""
        found = np.zeros((len(self.classes), 4), np.float32)
        for index in range(len(self.classes)):
            seen = self.owner == index
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            found[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return found


def expose(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The picture as a camera would give it: gain, gamma, cast, blur, noise; (h, w, 3) uint8."""
    cast = generator.uniform(0.7, 1.2) * generator.uniform(0.93, 1.07, 3)
    image = 255 * cv2.pow((image * (cast / 255).astype(np.float32)).clip(0, 1), generator.uniform(0.75, 1.35))
    if generator.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.3, 1.2))
    if generator.random() < 0.6:
        grain = np.empty(image.shape, np.float32)
        cv2.setRNGSeed(int(generator.integers(2**31)))
        cv2.randn(grain, 0, generator.uniform(1, 9))
        image = image + grain
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def pick_longest(generator: np.random.Generator, most: float) -> float:
    """A longest side for a 640-pixel picture: log-uniform from 16 to `most`, one in twenty from 10 to 16."""
    if generator.random() < 0.05:
        return generator.uniform(10, 16)
    return float(np.exp(generator.uniform(np.log(16), np.log(most))))


def scatter(generator: np.random.Generator, height: int, width: int) -> Canvas:
    """Objects of any size anywhere, over a plain backdrop."""
    canvas = Canvas(backdrops.plain(generator, height, width))
    detail = max(1.0, max(height, width) / 640)  # finer pictures show the same objects larger
    most = min(400.0, 0.75 * min(height, width) / detail)
    longest = sorted((detail * pick_longest(generator, most) for _ in range(generator.integers(1, 16))), reverse=True)
    for side in longest:
        name = str(generator.choice(NAMES)) if generator.random() < 0.85 else str(generator.choice(glyphs.SCENERY))
        sprite = glyphs.draw(name, side, generator)
        rows, columns = sprite.shape[:2]
        for _ in range(6):  # tries to find a place
            left = int(generator.uniform(-0.15 * columns, width - 0.85 * columns))
            top = int(generator.uniform(-0.15 * rows, height - 0.85 * rows))
            if canvas.fits(sprite, left, top, most_shared=0.2):
                canvas.paste(sprite, left, top, NAMES.index(name) if name in NAMES else None)
                break
    return canvas


def shadow(image: np.ndarray, x: float, foot: float, width: float) -> None:
    """Darken the ground under an object, in place."""
    rows, columns = max(2, int(width * 0.15)), max(3, int(width * 0.7))
    top, left = max(0, int(foot) - rows), max(0, int(x) - columns)
    part = image[top : int(foot) + rows, left : int(x) + columns]
    down = (np.arange(part.shape[0]) + top - foot) / rows
    across = (np.arange(part.shape[1]) + left - x) / columns
    reach = np.hypot(down[:, None], across)
    part *= (1 - 0.45 * (1.2 - 1.2 * reach).clip(0, 1))[..., None].astype(np.float32)


def stand(canvas: Canvas, generator: np.random.Generator, name: str, x: float, foot: float, person: float) -> bool:
    """Try to put one object on the ground at (x, foot), where a person would be `person` pixels tall."""
    label = NAMES.index(name) if name in NAMES else None
    share = HEIGHTS[label] if label is not None else {"plant": 1.6, "thing": 0.4}[name]
    sprite = glyphs.draw(name, 128, generator, degrees=4)
    flat = 1.0 if name in RAISED else max(sprite.shape[:2]) / sprite.shape[0]
    sprite = glyphs.resize(sprite, max(12.0, person * share * generator.uniform(0.85, 1.15) * flat))
    rows, columns = sprite.shape[:2]
    raised = person if name in RAISED else 0.0
    if name == "bird":
        raised = float(generator.choice((0.0, 1.5, 2.5))) * person
    left, top = int(x - columns / 2), int(foot - rows - raised)
    if not canvas.fits(sprite, left, top):
        return False
    if name in RAISED:
        cv2.line(canvas.image, (int(x), top), (int(x), int(foot)), (90, 90, 90), max(1, int(person * 0.05)))
    if name in RAISED or not raised:
        shadow(canvas.image, x, foot - 1, person * 0.2 if raised else columns)
    canvas.paste(sprite, left, top, label)
    return True


def street(generator: np.random.Generator, height: int, width: int, crowd: int = 14) -> Canvas:
    """Objects standing on a street, far ones first and small, near ones large."""
    image, horizon = backdrops.street(generator, height, width)
    canvas = Canvas(image)
    for _ in range(generator.integers(0, 4)):
        cloud = glyphs.draw("cloud", generator.uniform(0.1, 0.3) * width, generator, degrees=3)
        canvas.paste(
            cloud * 0.9,
            int(generator.uniform(-0.1, 0.9) * width),
            int(generator.uniform(0, 0.5) * horizon),
            None,
        )
    deep = height - horizon
    near = generator.uniform(0.3, 0.55) * min(height, 0.8 * width)  # a person's height at the lower edge
    for foot in np.sort(generator.uniform(0.08, 1.0, generator.integers(3, crowd + 1))):
        name = str(generator.choice(NAMES)) if generator.random() < 0.85 else str(generator.choice(("plant", "thing")))
        person = near * (0.12 + 0.88 * foot)
        for _ in range(3):  # tries to find a place
            if stand(canvas, generator, name, generator.uniform(0.02, 0.98) * width, horizon + foot * deep, person):
                break
    return canvas


def scene(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The seed's picture: BGR (height, width, 3) uint8, boxes (n, 4) float32 xyxy, classes (n,) int64."""
    generator = np.random.default_rng((0, seed))
    canvas = street(generator, height, width) if generator.random() < 0.4 else scatter(generator, height, width)
    return expose(canvas.image, generator), canvas.boxes(), np.array(canvas.classes, np.int64)


def crop(seed: int, size: int) -> tuple[np.ndarray, int]:
    """One object in the middle of a (size, size, 3) uint8 BGR picture, and its class."""
    generator = np.random.default_rng((1, seed))
    if generator.random() < 0.3:
        canvas = Canvas(backdrops.street(generator, size, size)[0])
    else:
        canvas = Canvas(backdrops.plain(generator, size, size))
    label = int(generator.integers(len(NAMES)))
    sprite = glyphs.draw(NAMES[label], size * generator.uniform(0.5, 0.8), generator)
    rows, columns = sprite.shape[:2]
    shift = generator.uniform(-0.06, 0.06, 2) * size
    canvas.paste(sprite, int((size - columns) / 2 + shift[0]), int((size - rows) / 2 + shift[1]), label)
    return expose(canvas.image, generator), label
