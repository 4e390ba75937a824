"""The committed sprites: which exist, and one of them turned, tinted and sized for pasting."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).parent / "sprites"
NAMES = ("person", "bicycle", "car", "bus", "truck", "traffic light", "stop sign", "dog", "cat", "bird")
SCENERY = ("plant", "building", "thing", "cloud")
PAINTED = ("bicycle", "car", "bus", "truck", "building", "thing")  # these come in any colour
UPRIGHT = ("stop sign", "building")  # mirrored writing would give them away


@cache
def sprites(name: str) -> tuple[np.ndarray, ...]:
    """Every sprite of one kind, each (h, w, 4) float32, colours 0..255 premultiplied by alpha 0..1."""
    loaded = []
    for path in sorted(FOLDER.glob(f"{name.replace(' ', '-')}-*.png")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32)
        image[..., 3] /= 255
        image[..., :3] *= image[..., 3:]
        loaded.append(image)
    return tuple(loaded)


def tint(sprite: np.ndarray, hue: int) -> np.ndarray:
    """The sprite with every hue turned by hue (0..179, OpenCV's half degrees)."""
    alpha = sprite[..., 3:]
    straight = (sprite[..., :3] / np.maximum(alpha, 1e-3)).clip(0, 255).astype(np.uint8)
    colours = cv2.cvtColor(straight, cv2.COLOR_BGR2HSV)
    colours[..., 0] = (colours[..., 0].astype(np.int32) + hue) % 180
    turned = cv2.cvtColor(colours, cv2.COLOR_HSV2BGR).astype(np.float32)
    return np.concatenate([turned * alpha, alpha], 2)


def turn(sprite: np.ndarray, degrees: float) -> np.ndarray:
    """The sprite turned about its centre, on a canvas just large enough, trimmed to its ink."""
    height, width = sprite.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = (int(np.ceil(width * cos + height * sin)) + 2, int(np.ceil(width * sin + height * cos)) + 2)
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return trim(cv2.warpAffine(sprite, matrix, size, flags=cv2.INTER_LINEAR))


def trim(sprite: np.ndarray) -> np.ndarray:
    """The part of the sprite that has ink."""
    ink = sprite[..., 3] > 0.3
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resize(sprite: np.ndarray, longest: float) -> np.ndarray:
    """The sprite with its longest side at `longest` pixels."""
    scale = longest / max(sprite.shape[:2])
    size = (max(2, round(sprite.shape[1] * scale)), max(2, round(sprite.shape[0] * scale)))
    return cv2.resize(sprite, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def shade(sprite: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The sprite in uneven light: a gain, and a ramp across it from a random side."""
    height, width = sprite.shape[:2]
    angle, depth = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.35)
    across = np.cos(angle) * np.linspace(-0.5, 0.5, width) + np.sin(angle) * np.linspace(-0.5, 0.5, height)[:, None]
    lit = sprite.copy()
    lit[..., :3] *= (generator.uniform(0.75, 1.1) * (1 + depth * across))[..., None]
    return lit


def draw(name: str, longest: float, generator: np.random.Generator, degrees: float = 20.0) -> np.ndarray:
    """One sprite of a kind, longest side `longest` pixels, tilted up to `degrees`; (h, w, 4) float32."""
    choice = sprites(name)
    sprite = choice[generator.integers(len(choice))]
    if name in PAINTED and generator.random() < 0.6:
        sprite = tint(sprite, int(generator.integers(180)))
    if name not in UPRIGHT and generator.random() < 0.5:
        sprite = sprite[:, ::-1]
    sprite = turn(np.ascontiguousarray(sprite), generator.uniform(-degrees, degrees))
    return shade(resize(sprite, longest), generator)
