"""Makes tests/golden/checkpoints: tiny checkpoints as PyTorch, YOLOv5, Ultralytics and timm really write them.

Run by hand, in an environment of its own, when a new kind of file shall be covered; the tests only read the results:

    pip install torch torchvision timm safetensors ultralytics
    pip install --no-deps yolov5
    python tests/export/make_checkpoints.py

`expected.json` records, besides the library versions, what `state_dict()` gave for each file.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import sys
import tempfile
import warnings
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "golden" / "checkpoints"
LIBRARIES = ("torch", "numpy", "timm", "safetensors", "ultralytics", "yolov5")
NAMES = {0: "person", 1: "traffic light", 2: "Ampelmännchen"}
YOLOV5 = {
    "nc": 3,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [[-1, 1, "Conv", [32, 6, 2, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]]],
    "head": [
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [[5, 3], 1, "Detect", ["nc", "anchors"]],
    ],
}
ULTRALYTICS = {
    "nc": 3,
    "scales": {"n": [0.33, 0.25, 1024]},
    "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[3], 1, "Detect", ["nc"]]],
}


class Toy(nn.Module):
    """A model of this file, to be saved whole."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.fc = nn.Linear(4, 2)
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_buffer("kept", torch.full((2,), 7.0))


def digest(tensor):
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().contiguous().numpy()
    return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()[:16]]


def expect(tensors, **facts):
    return {"tensors": {name: digest(tensor) for name, tensor in tensors.items()}, **facts}


def repair_torchvision():
    """torchvision built for another torch misses two operators, which nothing here calls."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def yolov5_model():
    from yolov5.models import common, experimental, yolo

    for module in (common, experimental, yolo):  # as in a clone of the repository, where every release was made
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__.startswith("yolov5."):
                kind.__module__ = kind.__module__.removeprefix("yolov5.")
        sys.modules[module.__name__.removeprefix("yolov5.")] = module
    model = yolo.Model(deepcopy(YOLOV5), ch=3, nc=3)
    model.names, model.nc, model.hyp = NAMES, 3, {"lr0": 0.01, "momentum": np.float64(0.9)}
    return model


def yolov5_files():
    """As train.py saves while training, and as strip_optimizer leaves it."""
    model = yolov5_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sum(output.sum() for output in model(torch.zeros(1, 3, 64, 64))).backward()
    optimizer.step()
    averaged = deepcopy(model).eval()
    with torch.no_grad():
        averaged(torch.zeros(1, 3, 64, 64))  # leaves expanded grids in the Detect layer
        for parameter in averaged.parameters():
            parameter.add_(0.25)
    checkpoint = {
        "epoch": 3,
        "best_fitness": np.array([0.5]),
        "model": deepcopy(model).half(),
        "ema": deepcopy(averaged).half(),
        "updates": 7,
        "optimizer": optimizer.state_dict(),
        "opt": {"weights": Path("runs/last.pt"), "seed": 0},
        "git": None,
        "date": datetime(2024, 1, 2, tzinfo=timezone.utc),
    }
    facts = {"labels": list(NAMES.values()), "strides": [4.0, 8.0], "origin": "models.yolo.DetectionModel"}
    torch.save(checkpoint, FOLDER / "yolov5-training.pt")
    yield "yolov5-training.pt", expect(checkpoint["ema"].state_dict(), ema=True, yaml=model.yaml, **facts)
    stripped = {"epoch": -1, "model": checkpoint["model"], "ema": None, "optimizer": None}
    torch.save(stripped, FOLDER / "yolov5-release.pt")
    yield "yolov5-release.pt", expect(checkpoint["model"].state_dict(), ema=False, yaml=model.yaml, **facts)


def ultralytics_files():
    """As YOLO.save writes, and after fuse(), which leaves bound methods in the pickle."""
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # no paths of this machine
        Path("tinyn.yaml").write_text(json.dumps(ULTRALYTICS), encoding="utf-8")
        yolo = YOLO("tinyn.yaml", task="detect")
    yolo.model.names = NAMES
    yolo.model.yaml["yaml_file"] = "tinyn.yaml"
    facts = {"labels": list(NAMES.values()), "strides": [8.0], "origin": "ultralytics.nn.tasks.DetectionModel"}
    yolo.save(FOLDER / "ultralytics.pt")
    yield "ultralytics.pt", expect(deepcopy(yolo.model).half().state_dict(), license="AGPL-3.0", **facts)
    yolo.fuse()
    torch.save({"model": yolo.model.half()}, FOLDER / "ultralytics-fused.pt")
    yield "ultralytics-fused.pt", expect(yolo.model.state_dict(), **facts)


def timm_file():
    """A training loop's file: bare, averaged and optimizer states of a model in DistributedDataParallel."""
    from timm.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5, stem_width=4, channels=(4, 4, 4, 4))
    state = model.half().state_dict()
    averaged = {f"module.{name}": tensor * 2 for name, tensor in state.items()}
    torch.save({"arch": "resnet", "state_dict": state, "state_dict_ema": averaged}, FOLDER / "timm.pth.tar")
    yield "timm.pth.tar", expect({name: tensor * 2 for name, tensor in state.items()}, ema=True, origin="state dict")


def toy_files():
    model = Toy()
    state = model.state_dict()
    torch.save(state, FOLDER / "state.pth")
    yield "state.pth", expect(state, origin="state dict")
    torch.save(state, FOLDER / "state-legacy.pth", _use_new_zipfile_serialization=False)
    yield "state-legacy.pth", expect(state, origin="state dict")
    torch.save(state, FOLDER / "state-protocol4.pth", pickle_protocol=4)
    yield "state-protocol4.pth", expect(state, origin="state dict")
    torch.save(model, FOLDER / "whole.pth")
    yield "whole.pth", expect(state, origin="__main__.Toy")
    no_source = (["source\n"], 0, "source.py")  # the old format would write other people's source and paths
    with warnings.catch_warnings(), mock.patch("torch.serialization.get_source_lines_and_file", return_value=no_source):
        warnings.simplefilter("ignore")
        torch.save(model, FOLDER / "whole-legacy.pth", _use_new_zipfile_serialization=False)
    yield "whole-legacy.pth", expect(state, origin="__main__.Toy")
    torch.save(nn.DataParallel(model), FOLDER / "whole-parallel.pth")
    yield "whole-parallel.pth", expect(state, origin="__main__.Toy")
    torch.jit.script(nn.Linear(2, 2)).save(str(FOLDER / "scripted.pt"))


def dtype_files():
    """Every dtype, and tensors that are not simply a whole storage."""
    from safetensors.torch import save_file

    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    kinds = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex64",
    ]
    plain = {f"plain.{kind}": (base - 3).abs().to(getattr(torch, kind)) for kind in kinds}
    views = {
        "view.transposed": base.transpose(0, 2),
        "view.offset": base[1, 1:],
        "view.stepped": base[:, ::2, 1:],
        "view.scalar": base[1, 2, 3],
        "view.empty": base[:, 3:],
    }
    attributed = nn.Parameter(torch.ones(3))
    attributed.note = "an attribute"
    tensors = {**plain, **views, "parameter": nn.Parameter(base), "attributed": attributed}
    torch.save(tensors, FOLDER / "dtypes.pt")
    yield "dtypes.pt", expect(tensors)
    legacy = {name: tensor for name, tensor in tensors.items() if "uint" not in name}
    torch.save(legacy, FOLDER / "dtypes-legacy.pt", _use_new_zipfile_serialization=False)
    yield "dtypes-legacy.pt", expect(legacy)
    metadata = {"format": "pt", "license": "Apache-2.0", "names": json.dumps(NAMES), "stride": "[8, 16]"}
    save_file(plain, FOLDER / "dtypes.safetensors", metadata=metadata)
    facts = {"labels": list(NAMES.values()), "strides": [8, 16], "license": "Apache-2.0", "origin": "safetensors"}
    yield "dtypes.safetensors", expect(plain, **facts)


def main():
    random.seed(0)
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    library = repair_torchvision()
    files = {}
    for made in (yolov5_files, ultralytics_files, timm_file, toy_files, dtype_files):
        files.update(made())
    del library
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name != "yolov5"}
    versions["yolov5"] = sys.modules["yolov5"].__version__
    lines = [f"{json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in files.items()]
    files_text = ",\n".join(lines)
    text = f'{{"versions": {json.dumps(versions)},\n"files": {{\n{files_text}\n}}}}\n'
    (FOLDER / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=tempfile.gettempdir())
    main()
