"""Labelled pictures of what the packaged detector was trained for, from seeds."""

from importlib import resources
from pathlib import Path

import cv2

from pictograms import scenes

SOURCE = Path(str(resources.files("edgeinfer_export") / "assets" / "pictograms.pt"))
TRUTH = Path(__file__).parent.parent / "data" / "pictograms"
# far from the seeds of training and of the held-out pictures
FIRST = 500_000


def write_scenes(folder, count, height=240, width=320):
    """Write `count` pictures with YOLO's text files beside them."""
    for place in range(count):
        image, boxes, classes = scenes.scene(FIRST + place, height, width)
        cv2.imwrite(str(folder / f"{place:03d}.png"), image)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height)
        sides = (boxes[:, 2:] - boxes[:, :2]) / (width, height)
        rows = zip(classes.tolist(), middles.tolist(), sides.tolist(), strict=True)
        text = "".join(f"{name} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for name, (x, y), (w, h) in rows)
        (folder / f"{place:03d}.txt").write_text(text)
    return folder
