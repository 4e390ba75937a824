"""Train the small detector on a CPU, from nothing, and save it as a YOLOv5 checkpoint of plain tensors."""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import queue
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from pictograms import scenes
from pictograms.evaluate import load
from pictograms.loss import loss
from pictograms.network import STRIDES, Yolov5n, layout

FIRST_SEED = 100_000  # the held-out pictures use smaller ones
SIDE = 640
WARM_UP_SHARE = 0.04
SOUGHT = {"bird": 3.0, "dog": 2.0, "cat": 1.5}  # how much oftener pictures of the hard classes are shown


@dataclass(frozen=True)
class Plan:
    """How long to train, the highest learning rate, and what batches look like from when on."""

    seconds: float
    peak: float
    stages: tuple[tuple[float, int, int], ...]  # share of the time begun, side, pictures a batch


def cache_part(folder: Path, part: int, count: int) -> None:
    """Write `count` scenes and their labels, (n, 5) class and xyxy, into the folder."""
    images = np.lib.format.open_memmap(folder / f"im{part}.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    labels = []
    for index in range(count):
        images[index], boxes, classes = scenes.scene(FIRST_SEED + part * 10_000 + index, SIDE, SIDE)
        labels.append(np.column_stack([classes, boxes]).astype(np.float32))
    images.flush()
    np.savez(folder / f"lab{part}.npz", *labels)


def load_cache(folder: Path, parts: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every cached scene, made first where missing: image (640, 640, 3) and labels (n, 5)."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part in range(parts) if not (folder / f"lab{part}.npz").exists()]
    with multiprocessing.Pool(2) as pool:
        pool.starmap(cache_part, [(folder, part, count) for part in missing])
    pairs = []
    for part in range(parts):
        images = np.load(folder / f"im{part}.npy", mmap_mode="r")
        labels = np.load(folder / f"lab{part}.npz")
        pairs += [(images[index], labels[f"arr_{index}"]) for index in range(len(images))]
    return pairs


def vary(
    image: np.ndarray, labels: np.ndarray, side: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random (side, side) view: resized, cut, mirrored, recoloured; boxes cut with it."""
    least = side / SIDE
    scale = (
        least
        if generator.random() < 0.25
        else float(np.exp(generator.uniform(np.log(least), np.log(min(2.2 * least, 1.3)))))
    )
    wide = min(SIDE, max(8, round(side / scale)))
    top, left = generator.integers(SIDE - wide + 1, size=2)
    view = cv2.resize(image[top : top + wide, left : left + wide], (side, side), interpolation=cv2.INTER_LINEAR)
    boxes = (labels[:, 1:] - np.float32((left, top, left, top))) * np.float32(side / wide)
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes = boxes.clip(0, side)
    wide_high = boxes[:, 2:] - boxes[:, :2]
    kept = (wide_high.prod(1) > 0.35 * whole) & (wide_high.min(1) > 3)
    boxes, classes = boxes[kept], labels[kept, :1]
    if generator.random() < 0.5:
        view = view[:, ::-1]
        boxes[:, [0, 2]] = side - boxes[:, [2, 0]]
    view = cv2.convertScaleAbs(
        np.ascontiguousarray(view), alpha=generator.uniform(0.8, 1.2), beta=generator.uniform(-15, 15)
    )
    centres = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / side
    return view, np.concatenate([classes, centres], 1).astype(np.float32)


def chances(pairs: list) -> np.ndarray:
    """How likely each picture is to be drawn, (pictures,): as its most sought class asks."""
    sought = np.array([SOUGHT.get(name, 1.0) for name in scenes.NAMES])
    wanted = np.array([sought[labels[:, 0].astype(int)].max(initial=1.0) for _, labels in pairs])
    return wanted / wanted.sum()


def batch(
    pairs: list, chance: np.ndarray, side: int, count: int, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 3, side, side) uint8 RGB; targets (n, 6): picture, class, centre and size in shares."""
    images = np.empty((count, side, side, 3), np.uint8)
    targets = []
    for index, pick in enumerate(generator.choice(len(pairs), size=count, p=chance)):
        view, labels = vary(*pairs[pick], side, generator)
        images[index] = view[..., ::-1]
        targets.append(np.concatenate([np.full((len(labels), 1), index, np.float32), labels], 1))
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(np.concatenate(targets))


def save(network: Yolov5n, path: Path) -> None:
    """Write the checkpoint: float16 tensors, the layout, the names; plain values only."""
    halves = OrderedDict((name, t.half() if t.is_floating_point() else t) for name, t in network.state_dict().items())
    facts = {
        "yaml": layout(len(scenes.NAMES)),
        "names": dict(enumerate(scenes.NAMES)),
        "stride": [float(stride) for stride in STRIDES],
        "license": "Apache-2.0",
        "ema": False,
    }
    torch.save({"state_dict": halves, **facts}, path)


def follow(average: Yolov5n, network: Yolov5n, step: int) -> None:
    """Move the averaged weights a little towards the trained ones."""
    keep = 0.998 * (1 - math.exp(-step / 300))
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - keep)
            else:
                kept.copy_(new)


def rate(elapsed: float, plan: Plan) -> float:
    """Learning rate: a warm-up, then half a cosine down to one hundredth."""
    warm_up = WARM_UP_SHARE * plan.seconds
    if elapsed < warm_up:
        return plan.peak * (0.02 + 0.98 * elapsed / warm_up)
    done = min(1.0, (elapsed - warm_up) / (plan.seconds - warm_up))
    return plan.peak * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def feed(pairs: list, plan: Plan, began: float) -> queue.Queue:
    """Batches made by a thread, sized by the plan's last stage that has begun."""
    ready: queue.Queue = queue.Queue(3)
    chance = chances(pairs)

    def fill() -> None:
        generator = np.random.default_rng(5)
        while True:
            share = (time.monotonic() - began) / plan.seconds
            side, count = next((side, count) for start, side, count in reversed(plan.stages) if share >= start)
            ready.put(batch(pairs, chance, side, count, generator))

    threading.Thread(target=fill, daemon=True).start()
    return ready


def train(pairs: list, network: Yolov5n, plan: Plan, path: Path) -> None:
    """Train the network as planned, saving the averaged network every five minutes and at the end."""
    network = network.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).eval()
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}])
    began, saved, step = time.monotonic(), 0.0, 0
    ready = feed(pairs, plan, began)
    while (elapsed := time.monotonic() - began) < plan.seconds:
        for group in optimizer.param_groups:
            group["lr"] = rate(elapsed, plan)
        images, targets = ready.get()
        images = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        total, parts = loss(network(images), targets, network.model[-1].anchors)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        step += 1
        follow(average, network, step)
        if step % 20 == 0:
            told = f"{elapsed:6.0f} s, step {step}, side {images.shape[-1]}, loss {total:.4f}"
            print(told, parts.numpy().round(4), flush=True)
        if elapsed - saved > 300:
            saved = elapsed
            save(average, path)
    save(average, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for 5 GB of training pictures")
    parser.add_argument("--parts", type=int, default=2, help="of 2000 pictures each")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from, at a lower rate")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    pairs = load_cache(args.cache, args.parts, 2000)
    if args.resume:
        network, plan = (
            load(args.resume),
            Plan(args.minutes * 60, 1.5e-3, ((0.0, 320, 16), (0.6, 512, 8), (0.85, 640, 8))),
        )
    else:
        stages = ((0.0, 256, 16), (0.2, 320, 16), (0.75, 640, 8))
        network, plan = Yolov5n(len(scenes.NAMES)), Plan(args.minutes * 60, 3e-3, stages)
    train(pairs, network, plan, args.out)


if __name__ == "__main__":
    main()
