"""Measure a trained checkpoint on the held-out pictures, in COCO terms (needs torch and edgeinfer[cpu,validate])."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from pictograms.glyphs import NAMES
from pictograms.network import Yolov5n, decode

if TYPE_CHECKING:
    from edgeinfer.accuracy import Score

SIDE = 640
CANDIDATES, KEPT = 3000, 300


def load(path: Path) -> Yolov5n:
    """The network of a checkpoint, in float32, ready to run."""
    checkpoint = torch.load(path, weights_only=True)
    network = Yolov5n(len(checkpoint["names"]))
    network.load_state_dict(checkpoint["state_dict"])
    return network.eval()


def letterbox(image: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """BGR (h, w, 3) -> the same picture on a grey (640, 640, 3), its scale, and its offset (x, y)."""
    height, width = image.shape[:2]
    scale = min(SIDE / height, SIDE / width)
    size = (round(width * scale), round(height * scale))
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return canvas, scale, np.float32((left, top))


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Indices of the kept boxes (n, 4) xyxy, best first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order) and len(kept) < KEPT:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low, high = (
            np.maximum(boxes[first, :2], boxes[rest, :2]),
            np.minimum(boxes[first, 2:], boxes[rest, 2:]),
        )
        shared = (high - low).clip(0).prod(1)
        order = rest[shared <= iou * (areas[first] + areas[rest] - shared)]
    return kept


def detect(network: Yolov5n, image: np.ndarray, score: float = 0.001, iou: float = 0.65) -> np.ndarray:
    """Detections (n, 6) in a BGR picture: xyxy in source pixels, score, class; best first."""
    canvas, scale, offset = letterbox(image)
    pixels = torch.from_numpy(np.ascontiguousarray(canvas[..., ::-1])).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        rows = decode(network(pixels), network.model[-1].anchors)[0].numpy()
    scores = rows[:, 5:] * rows[:, 4:5]
    row, label = np.nonzero(scores > score)
    best = np.argsort(-scores[row, label], kind="stable")[:CANDIDATES]
    row, label = row[best], label[best]
    boxes = np.concatenate([rows[row, :2] - rows[row, 2:4] / 2, rows[row, :2] + rows[row, 2:4] / 2], 1)
    kept = suppress(boxes + label[:, None] * 4096.0, scores[row, label], iou)  # classes kept apart by the offset
    boxes = ((boxes - np.tile(offset, 2)) / scale).clip(0, np.tile(image.shape[1::-1], 2))
    return np.column_stack([boxes, scores[row, label], label])[kept]


def measure(network: Yolov5n, folder: Path) -> Score:
    """Accuracy on a folder of pictures with annotations.json."""
    from edgeinfer import accuracy
    from edgeinfer.datasets import coco
    from edgeinfer.results import Detections
    from edgeinfer.spec import Size

    pictures = coco.read(folder / "annotations.json", NAMES)
    found = []
    for sample in pictures.samples:
        image = cv2.imread(str(sample.path))
        rows = detect(network, image).astype(np.float32)
        boxes, scores, class_ids = rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32)
        found.append(Detections(boxes, scores, class_ids, NAMES, Size(*image.shape[:2])))
    return accuracy.score(pictures, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="pictures and annotations.json")
    args = parser.parse_args()
    score = measure(load(args.checkpoint), args.folder)
    print(f"mAP50 {score.numbers['map50']:.4f}  mAP50-95 {score.numbers['map50_95']:.4f}")
    for name, one in score.classes.items():
        print(f"{name:14s} AP50 {one.ap50:.4f}")


if __name__ == "__main__":
    main()
