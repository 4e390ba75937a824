"""A ResNet-50 that really tells the ten pictograms apart: `backbone.py`'s, under a linear head fitted here.

For tests of accuracy and of INT8, where a model without meaning would show nothing. Weights are never committed;
conftest's fixture `pictogram_classifier` makes them once, in pytest's cache.
"""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from edgeinfer import devices
from edgeinfer.bundle import writing
from edgeinfer.spec import Batch, Size
from edgeinfer_export import graphs
from edgeinfer_export.checkpoint import Checkpoint
from helpers import backbone, fullsize, pickling
from pictograms import backdrops, glyphs, scenes

SIZE = Size(backbone.SIDE, backbone.SIDE)
PIXELS = 96  # of the pictures
# seeds: pictures the head is fitted to, for calibration, held out
FITTED, CALIBRATION, HELD_OUT = range(20_000, 22_000), range(30_000, 30_128), range(40_000, 40_300)
BATCH = 16
LOOKED_AT = 6  # batches that batch norms get their statistics from
RIDGE = 0.05  # beside the features' variance, which is 1
FEATURES = 2048
SHARPNESS = 8  # of the softmax: logits of the right class are about so much above the others


@dataclass(frozen=True)
class PictogramClassifier:
    """What `make` writes into a folder."""

    folder: Path
    size = SIZE  # to be exported at

    @property
    def checkpoint(self):
        """A .pth of float16 tensors as torchvision names them, with the classes' names."""
        return self.folder / "resnet50.pth"

    @property
    def calibration(self):
        """128 pictures without labels."""
        return self.folder / "calibration"

    @property
    def held_out(self):
        """300 pictures that nothing was fitted to, in a folder for each class."""
        return self.folder / "held-out"


def cached(folder):
    """The classifier of this code and these libraries in a folder of its own: made if it is not there, alone in it."""
    key = sha256(" ".join(version(name) for name in ("numpy", "onnxruntime", "opencv-python-headless")).encode())
    for module in (backbone, pickling, backdrops, glyphs, scenes):
        key.update(Path(module.__file__).read_bytes())
    key.update(Path(__file__).read_bytes())
    place = Path(folder) / key.hexdigest()[:16]
    with (Path(folder) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes it, the others wait
        if not place.exists():
            for stale in Path(folder).iterdir():
                shutil.rmtree(stale, ignore_errors=True)  # of folders: the lock stays
            make(place)
    return PictogramClassifier(place)


def make(target):
    """Write the checkpoint and its pictures into the folder `target`, all or nothing."""
    with writing(target) as folder:
        made = PictogramClassifier(folder)
        for seed in CALIBRATION:
            _save(made.calibration / f"{seed}.jpg", scenes.crop(seed, PIXELS)[0])
        for seed in HELD_OUT:
            picture, label = scenes.crop(seed, PIXELS)
            _save(made.held_out / glyphs.NAMES[label] / f"{seed}.jpg", picture)
        pictures, labels = zip(*(scenes.crop(seed, PIXELS) for seed in FITTED), strict=True)
        root = {"state_dict": _pickled(_fitted(pictures, np.array(labels))), "names": list(glyphs.NAMES)}
        made.checkpoint.write_bytes(pickling.archive(root))


def _save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _pickled(tensors):
    return {name: pickling.Tensor(np.ascontiguousarray(value)) for name, value in tensors.items()}


def _fitted(pictures, labels):
    """The tensors of a network that says what these pictures (h, w, 3) show, in float16."""
    # how pictures come to a ResNet of this size does not depend on its tensors
    inputs = list(_inputs(_built(fullsize.resnet50()).spec, pictures))
    tensors = {
        name: value.astype(np.float16) for name, value in backbone.tensors(np.concatenate(inputs[:LOOKED_AT])).items()
    }
    through = {"fc.weight": np.eye(FEATURES, dtype=np.float16), "fc.bias": np.zeros(FEATURES, np.float16)}
    headless = _built(Checkpoint(Path("backbone.pth"), "0" * 64, "state dict", {**tensors, **through}))
    weight, bias = _head(np.concatenate(list(_outputs(headless.model, inputs))), labels)
    return {**tensors, "fc.weight": weight.astype(np.float16), "fc.bias": bias.astype(np.float16)}


def _built(checkpoint):
    return graphs.build(checkpoint, size=SIZE, batch=Batch(1, BATCH))


def _inputs(spec, pictures):
    """Batches (n, 3, 64, 64) float32 as the runtime prepares them."""
    device = devices.load("cpu")(spec)
    for start in range(0, len(pictures), BATCH):
        tensors, _ = device.preprocess(pictures[start : start + BATCH])
        yield tensors[spec.inputs[0].name].copy()


def _outputs(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in inputs:
        yield session.run(None, {name: batch})[0]


def _head(features, labels):
    """Weights (classes, features) and bias (classes,) by ridge regression of class indicators on scaled features."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64) + 1e-6
    scaled = (features - mean) / deviation
    wanted = SHARPNESS * (np.eye(len(glyphs.NAMES))[labels] - 1 / len(glyphs.NAMES))
    moment = scaled.T @ scaled / len(scaled) + RIDGE * np.eye(scaled.shape[1])
    weight = (np.linalg.solve(moment, scaled.T @ wanted / len(scaled)) / deviation[:, None]).T
    return weight, -weight @ mean
