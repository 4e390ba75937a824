"""Models and pictures for the GPU tests, and the CPU's answer to each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np

from edgeinfer import machine
from edgeinfer.devices import cpu, gpu
from edgeinfer.lanes import Lane
from edgeinfer.spec import Batch
from gpu import hostengine

PICTURES = Path(__file__).parents[1] / "data" / "pictograms"


@contextmanager
def lane(spec, function, ordinal=0):
    device = gpu.Device(spec, ordinal)
    try:
        made = Lane(device, hostengine.HostEngine(function, spec, device))
    except BaseException:
        device.close()
        raise
    try:
        yield made
    finally:
        made.close()


def exported(folder):
    """The pictogram detector as a bundle, for batches of 1 to 4."""
    from edgeinfer_export.export import Options, export

    source = Path(str(resources.files("edgeinfer_export") / "assets" / "pictograms.pt"))
    return export(source, folder / "pictograms", Options(batch=Batch(1, 4), precisions=("fp32",)))


def target(backend):
    """What `build` compiles for, so that this backend has an engine for this GPU; empty where it needs none.

    Raises UsageError where its library has none to give: TensorRT-RTX for Jetsons and GPUs of data centres.
    """
    from edgeinfer_export import targets

    wanted = {"trt": "trt", "rtx": f"rtx:sm{machine.gpu().sm}"}.get(backend, "")
    return wanted and str(*targets.parse(wanted))


def pictograms(folder):
    """Its spec, and a function for a `HostEngine`."""
    from edgeinfer import modeljson

    bundle = exported(folder)
    spec = modeljson.read(bundle / "model.json")
    return spec, hostengine.session(bundle / spec.artifacts[0].file)


def pictures(count):
    import cv2

    files = sorted(PICTURES.glob("*.jpg"))[:count]
    return [cv2.imread(str(file)) for file in files]


def on_the_cpu(spec, function, images, pixels="bgr"):
    """What the CPU device makes of the same pictures with the same engine."""
    device = cpu.Device(spec)
    tensors, placements = device.preprocess(images, pixels)
    return device.postprocess(function(tensors), placements)


def expected(spec, function, images, pixels="bgr"):
    """`on_the_cpu` as plain numbers."""
    return [rows(one) for one in on_the_cpu(spec, function, images, pixels)]


def through(lane, images, pixels="bgr"):
    """What a lane makes of them, as plain numbers."""
    results, timings = lane.way.run(images, pixels)
    assert list(timings) == ["preprocess", "infer", "postprocess"]
    assert min(timings.values()) >= 0
    return [rows(one) for one in results]


def logits(inputs):
    """Six classes of what the channels' means are."""
    means = inputs["images"].mean((2, 3))
    return {"logits": np.concatenate([means, means[:, ::-1] ** 2], axis=1)}


def brightness(inputs):
    """Six classes that tell the pictures of `plain()` apart."""
    mean = inputs["images"].mean((1, 2, 3))
    return {"logits": np.stack([-((mean * 255 - 40 * k) ** 2) for k in range(6)], 1).astype(np.float32)}


def plain(level, side=20):
    return np.full((side, side, 3), 40 * level, np.uint8)


def rows(result):
    """A result as plain numbers."""
    if result.task == "classify":
        return [result.class_ids.tolist(), result.scores.tolist()]
    return [result.class_ids.tolist(), result.scores.tolist(), result.boxes.tolist()]


def agreement(found, wanted):
    """How many of the boxes both have, of all that either has: same class, nearly the same place."""
    pairs = 0
    for box, label in zip(wanted.boxes, wanted.class_ids, strict=True):
        near = (np.abs(found.boxes - box).max(1, initial=0) < 4) & (found.class_ids == label)
        pairs += bool(near.any())
    return pairs, max(len(found), len(wanted))


def mixed(model, images, calls):
    """How many of so many calls from 16 threads find what is not in their picture."""
    wanted = [model(image) for image in images]

    def other(number):
        own = number % len(images)
        same, of = agreement(model(images[own]), wanted[own])
        return same < 0.8 * of

    with ThreadPoolExecutor(16) as threads:
        return sum(threads.map(other, range(calls)))


def noise(seed, height, width, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
