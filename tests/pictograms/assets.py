"""Write the held-out pictures with COCO annotations, and the demonstration street scenes and video."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pictograms import backdrops, glyphs, scenes
from pictograms.scenes import NAMES

HELD_OUT_SEED, HELD_OUT = 1000, 114
SIZES = ((480, 640), (375, 500), (480, 640), (375, 500), (640, 480), (500, 375), (480, 640), (375, 500)) * 2
SIZES = (*SIZES, (720, 1280), (1080, 810))
STREETS = (18, 1, 13, 17)  # seeds that look well
FRAMES, FRAMES_PER_SECOND = 60, 20


def held_out(folder: Path) -> None:
    """Write the held-out pictures and annotations.json (category ids 0..9) into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(HELD_OUT):
        height, width = SIZES[index % len(SIZES)]
        image, boxes, classes = scenes.scene(HELD_OUT_SEED + index, height, width)
        file = f"{index:03d}.jpg"
        cv2.imwrite(str(folder / file), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
        images.append({"id": index, "file_name": file, "height": height, "width": width})
        for (x0, y0, x1, y1), label in zip(boxes.tolist(), classes.tolist(), strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            facts = {
                "image_id": index,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            annotations.append({"id": len(annotations) + 1, **facts})
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


def street(seed: int) -> np.ndarray:
    """A busy street in daylight, BGR (540, 960, 3) uint8."""
    canvas = scenes.street(np.random.default_rng((2, seed)), 540, 960, crowd=16)
    return np.rint(canvas.image.clip(0, 255)).astype(np.uint8)


@dataclass(frozen=True)
class Walker:
    """Something on the street: where it stands at frame 0, its speed a frame, its pole's height; pixels."""

    sprite: np.ndarray
    x: float
    foot: float
    speed: float
    pole: int


def walker(generator: np.random.Generator, name: str, x: float, foot: float, tall: float, speed: float) -> Walker:
    """A walker `tall` pixels high that faces the way it goes (the sprites face left)."""
    sprite = glyphs.sprites(name)[0]
    if name in glyphs.PAINTED:
        sprite = glyphs.tint(sprite, int(generator.integers(180)))
    if speed > 0 and name not in glyphs.UPRIGHT:
        sprite = sprite[:, ::-1]
    longest = tall * max(sprite.shape[:2]) / sprite.shape[0]
    pole = round(1.4 * tall) if name in scenes.RAISED else 0
    return Walker(glyphs.resize(np.ascontiguousarray(sprite), longest), x, foot, speed, pole)


def traffic(generator: np.random.Generator) -> list[Walker]:
    """Who is on the street in the video, far to near."""
    far = [walker(generator, "traffic light", x, 172, 34, 0.0) for x in (40, 470)]
    far += [walker(generator, "person", 380, 190, 48, 0.8), walker(generator, "dog", 345, 192, 26, 0.8)]
    middle = [walker(generator, "bus", 60, 232, 84, 3.6), walker(generator, "car", 250, 234, 52, 4.4)]
    middle += [walker(generator, "truck", 760, 288, 88, -4.0), walker(generator, "car", 990, 290, 62, -5.0)]
    near = [
        walker(generator, "bicycle", 150, 304, 58, 4.0),
        walker(generator, "stop sign", 560, 342, 50, 0.0),
    ]
    near += [walker(generator, "cat", 330, 346, 44, 1.8), walker(generator, "person", 640, 352, 104, -1.6)]
    return [*far, *middle, *near]


def frame(backdrop: np.ndarray, walkers: list[Walker], index: int) -> np.ndarray:
    """One picture of the video, BGR (360, 640, 3) uint8; the camera pans right over the backdrop."""
    canvas = scenes.Canvas(backdrop.copy())
    for one in walkers:
        rows, columns = one.sprite.shape[:2]
        x = one.x + one.speed * index
        scenes.shadow(canvas.image, x, one.foot - 1, 12 if one.pole else columns)
        if one.pole:
            ends = (round(x), round(one.foot) - one.pole), (round(x), round(one.foot))
            cv2.line(canvas.image, *ends, (90, 90, 90), 4)
        canvas.paste(one.sprite, round(x - columns / 2), round(one.foot - one.pole - rows), 0)
    pan = round(1.5 * index)
    return np.rint(canvas.image[:, pan : pan + 640].clip(0, 255)).astype(np.uint8)


def video(path: Path) -> None:
    """Write three seconds of street traffic, 640x360."""
    generator = np.random.default_rng((3, 1))
    backdrop, _ = backdrops.street(generator, 360, 800)
    walkers = traffic(generator)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FRAMES_PER_SECOND, (640, 360))
    for index in range(FRAMES):
        writer.write(frame(backdrop, walkers, index))
    writer.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path, help="folder for the held-out pictures")
    parser.add_argument("--demo", type=Path, help="folder for the street scenes and the video")
    args = parser.parse_args()
    if args.held_out:
        held_out(args.held_out)
    if args.demo:
        for index, seed in enumerate(STREETS):
            cv2.imwrite(str(args.demo / f"street-{index}.jpg"), street(seed), [cv2.IMWRITE_JPEG_QUALITY, 85])
        video(args.demo / "street.mp4")


if __name__ == "__main__":
    main()
