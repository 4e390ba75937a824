"""State dicts of published networks at their real size, with seeded weights: ResNet-50, YOLOv5n."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeinfer_export.checkpoint import Checkpoint

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


class State(dict):
    """Named tensors; batch norms are folded already, as after `fuse()`."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)

    def conv(self, path, inputs, outputs, size, norm=""):
        fan = inputs * size * size
        kernel = self.random.standard_normal((outputs, inputs, size, size), np.float32) / np.float32(np.sqrt(fan))
        self[f"{path}.weight"] = kernel
        if norm:
            self.update({f"{norm}.{one}": np.full(outputs, value, np.float32) for one, value in NORM.items()})
        else:
            self[f"{path}.bias"] = self.random.standard_normal(outputs, np.float32) / 10

    def checkpoint(self, name):
        return Checkpoint(Path(f"{name}.pt"), "0" * 64, "state dict", dict(self))


NORM = {"weight": 0.5, "bias": 0.1, "running_mean": 0.0, "running_var": 1.0}


def resnet50():
    state = State()
    state.conv("conv1", 3, 64, 7, "bn1")
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for place in range(blocks):
            path = f"layer{stage}.{place}"
            for number, (taken, given, size) in enumerate(
                ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1)), 1
            ):
                state.conv(f"{path}.conv{number}", taken, given, size, f"{path}.bn{number}")
            if place == 0:
                state.conv(f"{path}.downsample.0", inputs, 4 * width, 1, f"{path}.downsample.1")
            inputs = 4 * width
    state["fc.weight"] = state.random.standard_normal((1000, 2048), np.float32) / 45
    state["fc.bias"] = np.zeros(1000, np.float32)
    return state.checkpoint("resnet50")


def yolov5n():
    state = State()
    for layer, inputs, outputs, size in (
        *((0, 3, 16, 6), (1, 16, 32, 3), (3, 32, 64, 3), (5, 64, 128, 3), (7, 128, 256, 3)),
        *((10, 256, 128, 1), (14, 128, 64, 1), (18, 64, 64, 3), (21, 128, 128, 3)),
    ):
        state.conv(f"model.{layer}.conv", inputs, outputs, size)
    for layer, inputs, outputs, repeats in (
        *((2, 32, 32, 1), (4, 64, 64, 2), (6, 128, 128, 3), (8, 256, 256, 1)),
        *((13, 256, 128, 1), (17, 128, 64, 1), (20, 128, 128, 1), (23, 256, 256, 1)),
    ):
        c3(state, f"model.{layer}", inputs, outputs, repeats)
    state.conv("model.9.cv1.conv", 256, 128, 1)
    state.conv("model.9.cv2.conv", 512, 256, 1)
    for level, inputs in enumerate((64, 128, 256)):
        state.conv(f"model.24.m.{level}", inputs, 255, 1)
    state["model.24.anchors"] = np.array(ANCHORS, np.float32) / np.array([8, 16, 32], np.float32)[:, None, None]
    return state.checkpoint("yolov5n")


def c3(state, path, inputs, outputs, repeats):
    half = outputs // 2
    state.conv(f"{path}.cv1.conv", inputs, half, 1)
    state.conv(f"{path}.cv2.conv", inputs, half, 1)
    state.conv(f"{path}.cv3.conv", outputs, outputs, 1)
    for place in range(repeats):
        state.conv(f"{path}.m.{place}.cv1.conv", half, half, 1)
        state.conv(f"{path}.m.{place}.cv2.conv", half, half, 3)
