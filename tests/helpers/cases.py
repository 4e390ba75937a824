"""Inputs that golden data was recorded for, made again from their seeds (RandomState's streams never change)."""

from __future__ import annotations

import cv2
import numpy as np

from edgeinfer.spec import Boxes, Size

SUPPRESSION_BLOCKS, SUPPRESSION_BLOCK = 100, 100
# (height, width) of sources, and the model they are for
SMOOTH_SOURCES = [
    (56, 56),
    (57, 61),
    (75, 100),
    (480, 640),
    (97, 351),
    (353, 201),
    (448, 448),
    (30, 41),
    (7, 90),
    (1, 5),
]
SMOOTH_SIDE, SMOOTH_RESIZE = 48, 56
PHOTO = Size(1080, 810)


def suppression_cases(block):
    """A hundred times rows (anchors, 5 + classes), two thirds of them with many ties, and how to decode them."""
    chance = np.random.RandomState(block)
    for place in range(SUPPRESSION_BLOCK):
        # not six anchors: Ultralytics would take them for the six columns of an end-to-end output
        anchors, classes = chance.randint(7, 90), chance.randint(1, 5)
        rows = chance.random_sample((anchors, 5 + classes)).astype(np.float32)
        yield KINDS[place % 3](rows), _decode(*chance.randint(0, 1 << 16, 4))


def _tied(rows, cell=12.0):
    """Scores and sides from few values: equal scores, and overlaps exactly at a threshold."""
    rows[:, 4:] = np.round(rows[:, 4:] * 10) / np.float32(10)
    rows[:, :4] = np.floor(rows[:, :4] * 8) * np.float32(cell)
    rows[:, 2:4] += np.float32(cell / 12)
    return rows


def _wide(rows):
    """So far apart that classes meet, and that overlaps fall beside a threshold by the last digit."""
    return _tied(rows, 1283.3)


def _spread(rows):
    rows[:, :4] *= (300, 300, 250, 250)
    return rows


KINDS = (_tied, _wide, _spread)


def _decode(score, iou, limit, agnostic):
    scores, ious = (0.0, 0.001, 0.1, 0.25, 0.3, 0.7), (0.0, 0.2, 0.3, 0.45, 0.5, 0.6, 1.0)
    return Boxes("yolov5", scores[score % 6], ious[iou % 7], (1, 3, 300)[limit % 3], agnostic % 2 == 1)


def crowd(seed, anchors, classes, candidates):
    """Rows (anchors, 5 + classes) of which about `candidates` count, gathered around some places."""
    chance = np.random.RandomState(seed)
    rows = np.zeros((anchors, 5 + classes), np.float32)
    rows[:, :4] = chance.random_sample((anchors, 4)) * (640, 640, 90, 160) + (0, 0, 8, 8)
    rows[:, 5:] = chance.random_sample((anchors, classes)) ** 2
    chosen = chance.permutation(anchors)[:candidates]
    centres = chance.random_sample((25, 4)) * (600, 600, 90, 160) + (20, 20, 20, 20)
    rows[chosen, :4] = centres[chance.randint(25, size=len(chosen))] + chance.standard_normal((len(chosen), 4)) * 4
    rows[:, 4] = chance.random_sample(anchors) * 0.05
    rows[chosen, 4] = 0.4 + 0.6 * chance.random_sample(len(chosen))
    rows[chosen, 5 + chance.randint(min(classes, 3), size=len(chosen))] = 0.9
    return rows


def smooth_picture(height, width, seed=0):
    """(h, w, 3) uint8 with edges, slopes and noise."""
    chance = np.random.RandomState(seed + height * 10007 + width)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x * 7 + y * 3) % 256], -1)
    blocks = chance.randint(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
    noise = chance.randint(0, 256, (height, width, 3))
    return ((slopes * 2 + blocks * 4 + noise * 2) // 8).astype(np.uint8)


def sharp_picture(height, width):
    """(h, w, 3) uint8 of mostly black and white, in which a cubic overshoots both."""
    return np.clip((smooth_picture(height, width).astype(int) - 110) * 12, 0, 255).astype(np.uint8)


def published_letterbox(image, side, resized, left, top):
    """The letterbox by OpenCV alone, from its published numbers: (side, side, 3) uint8."""
    width, height = resized
    small = image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))
    right, bottom = side - left - width, side - top - height
    return cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))


def whole():
    """Cases whose answers are recorded in full, by name: a few small ones, and pictures full of boxes."""
    return {
        **{f"small_{place}": case for place, case in zip(range(6), suppression_cases(0), strict=False)},
        "street": (crowd(1, 25200, 80, 100), Boxes("yolov5")),
        "crowd": (crowd(2, 8400, 80, 3000), Boxes("yolov5", score=0.001, iou=0.6)),
        "agnostic": (crowd(3, 8400, 3, 3000), Boxes("yolov5", score=0.001, iou=0.6, limit=1000, class_agnostic=True)),
        "more_than_most": (crowd(4, 40000, 2, 40000), Boxes("yolov5", score=0.001, iou=0.8)),
    }


def letterbox_sizes():
    """(height, width, model side) from 1 to 4000, extremes first."""
    chance = np.random.RandomState(7)
    extremes = [
        (1, 1, 640),
        (1, 1000, 640),
        (1000, 1, 640),
        (3, 4000, 640),
        (2, 3, 32),
        (640, 640, 640),
        (1080, 810, 640),
    ]
    sizes = np.exp(chance.random_sample((300, 2)) * np.log(4000)).astype(int)
    return [*extremes, *((int(height), int(width), int(chance.choice([320, 416, 640]))) for height, width in sizes)]
