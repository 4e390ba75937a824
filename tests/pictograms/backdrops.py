"""What lies behind the objects: photographs, plain procedural pictures, and a street."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).parent / "backgrounds"


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Every committed photograph, BGR (h, w, 3) uint8."""
    return tuple(cv2.imread(str(path)) for path in sorted(FOLDER.glob("*.jpg")))


def photograph(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random part of a random photograph, tinted; BGR (height, width, 3) float32."""
    image = photographs()[generator.integers(len(photographs()))]
    aspect = width / height
    tallest = min(image.shape[0], image.shape[1] / aspect)
    rows = int(tallest * generator.uniform(0.5, 1.0))
    columns = int(rows * aspect)
    top, left = generator.integers((image.shape[0] - rows + 1, image.shape[1] - columns + 1))
    part = image[top : top + rows, left : left + columns]
    if generator.random() < 0.5:
        part = part[:, ::-1]
    part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return part * generator.uniform(0.7, 1.2, 3).astype(np.float32)


def colour(generator: np.random.Generator, low: float = 20, high: float = 235) -> np.ndarray:
    """A random BGR colour, (3,) float32."""
    return generator.uniform(low, high, 3).astype(np.float32)


def clouds(generator: np.random.Generator, height: int, width: int, octaves: int = 5) -> np.ndarray:
    """Smooth noise about 0, spread near 1, from random grids of growing fineness; (height, width) float32."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 3 * 2**octave
        grid = generator.standard_normal((cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


def gradient(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colours fading into each other in a random direction; (height, width, 3) float32."""
    angle = generator.uniform(0, 2 * np.pi)
    across = np.cos(angle) * np.linspace(-0.7, 0.7, width) + np.sin(angle) * np.linspace(-0.7, 0.7, height)[:, None]
    share = (across + 0.5).clip(0, 1)[..., None].astype(np.float32)
    return colour(generator) * share + colour(generator) * (1 - share)


def marble(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colours mixed by smooth noise; (height, width, 3) float32."""
    share = (0.5 + 0.35 * clouds(generator, height, width, int(generator.integers(2, 7)))).clip(0, 1)[..., None]
    return colour(generator) * share + colour(generator) * (1 - share)


def shapes(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient under random discs, boxes and lines; (height, width, 3) float32."""
    image = gradient(generator, height, width)
    for _ in range(generator.integers(3, 25)):
        start = generator.uniform(0, (width, height)).astype(int).tolist()
        reach = generator.uniform(5, 0.3 * min(height, width), 2).astype(int)
        paint, kind = colour(generator).tolist(), generator.integers(3)
        if kind == 0:
            cv2.circle(image, start, int(reach[0] // 2), paint, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(image, start, (reach + start).tolist(), paint, -1)
        else:
            cv2.line(image, start, (reach * 2 + start).tolist(), paint, int(generator.integers(1, 9)), cv2.LINE_AA)
    return image


def sky(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A sky that pales towards the horizon; (height, width, 3) float32."""
    tops = ((220, 160, 90), (200, 190, 180), (150, 110, 160), (90, 50, 30))  # day, overcast, dusk, night
    feet = ((250, 235, 210), (225, 225, 220), (150, 190, 250), (140, 100, 80))
    kind = generator.choice(4, p=(0.55, 0.2, 0.15, 0.1))
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    image = np.float32(tops[kind]) * (1 - share) + np.float32(feet[kind]) * share
    return np.repeat(image, width, 1) + 5 * clouds(generator, height, width, 3)[..., None]


def houses(generator: np.random.Generator, image: np.ndarray, foot: int, tallest: float) -> None:
    """Paint a row of houses with windows that stand on row `foot`, into the image."""
    left, width = -int(generator.uniform(0, 60)), image.shape[1]
    while left < width:
        across, tall = (
            int(tallest * generator.uniform(0.35, 0.9)),
            int(tallest * generator.uniform(0.35, 1.0)),
        )
        wall = colour(generator, 110, 215)
        cv2.rectangle(image, (left, foot - tall), (left + across, foot), wall.tolist(), -1)
        cv2.rectangle(image, (left, foot - tall), (left + across, foot - tall + 2), (wall * 0.7).tolist(), -1)
        step = max(8, int(tallest * 0.13))
        pane = (wall * generator.uniform(0.4, 0.7) + (50, 30, 10)).tolist()
        for x in range(left + step // 2, left + across - step // 2, step):
            for y in range(foot - tall + step // 2, foot - step // 2, step):
                cv2.rectangle(image, (x, y), (x + step // 2, y + step // 2), pane, -1)
        left += across + int(generator.uniform(0, 0.2) * tallest)


def ground(generator: np.random.Generator, image: np.ndarray, horizon: int) -> None:
    """Paint grass, pavement and a road with dashes below row `horizon`, into the image."""
    height, width = image.shape[:2]
    deep = height - horizon
    grain = clouds(generator, height, width)[horizon:, :, None]
    grass = np.float32((60, 130, 95)) * generator.uniform(0.7, 1.2)
    image[horizon:] = grass + 8 * grain
    near, far = horizon + int(0.12 * deep), horizon + int(generator.uniform(0.75, 0.95) * deep)
    image[near - int(0.08 * deep) : near] = np.float32((165, 170, 175)) * generator.uniform(0.8, 1.1)
    tar = generator.uniform(70, 125)
    image[near:far] = tar + 5 * grain[near - horizon : far - horizon]
    image[far : far + max(2, int(0.03 * deep))] = (190, 195, 200)
    middle, dash = (near + far) // 2, max(10, width // 12)
    for x in range(-int(generator.uniform(0, dash * 2)), width, dash * 2):
        cv2.rectangle(image, (x, middle), (x + dash, middle + max(1, deep // 60)), (225, 235, 235), -1)


def street(generator: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, int]:
    """Sky, houses, grass and a road seen from the side: (height, width, 3) float32, and the horizon's row."""
    horizon = int(height * generator.uniform(0.35, 0.55))
    image = np.empty((height, width, 3), np.float32)
    image[:horizon] = sky(generator, horizon, width)
    if generator.random() < 0.8:
        houses(generator, image, horizon, horizon * generator.uniform(0.4, 0.9))
    ground(generator, image, horizon)
    return image, horizon


def plain(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A photograph (half the time), a gradient, marble, or shapes; (height, width, 3) float32."""
    if generator.random() < 0.5:
        return photograph(generator, height, width)
    makers = (gradient, marble, shapes)
    return makers[generator.integers(len(makers))](generator, height, width)
