"""Write tests/golden/graphs/*.npz: outputs of the reference implementations for tiny models with seeded weights.

Needs torch, torchvision, timm, yolov5 and ultralytics (versions are recorded in the files); all, or those named:
    PYTHONPATH=.:export:tests python tests/golden/make_graph_golden.py [NAME...]
"""

import importlib.metadata
import json
import os
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path

os.environ |= {"YOLO_CONFIG_DIR": tempfile.mkdtemp(), "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false"}

import numpy as np
import torch
import yaml
from edgeinfer_export import checkpoint
from helpers import seeded
from reference import originals

RESNET_DETECTOR = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.125,
    "backbone": [
        [-1, 1, "ResNetLayer", [3, 8, 1, True, 1]],
        [-1, 1, "ResNetLayer", [8, 4, 1, False, 1]],
        [-1, 1, "ResNetLayer", [16, 8, 2, False, 2]],
        [-1, 1, "ResNetLayer", [32, 8, 2, False, 1]],
        [-1, 1, "SPPF", [128, 5]],
    ],
    "head": [
        [-1, 1, "Conv", [64, 1, 1]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 3, "C3", [64, False]],
        [-1, 1, "Conv", [64, 3, 2]],
        [[-1, 5], 1, "Concat", [1]],
        [-1, 3, "C3", [128, False]],
        [[8, 11], 1, "Detect", ["nc"]],
    ],
}

# modules that YOLOv5 has and none of its own YAMLs reads
UNUSED = {
    "nc": 2,
    "depth_multiple": 0.67,
    "width_multiple": 1.0,
    "anchors": 2,
    "backbone": [
        [-1, 1, "Contract", [2]],
        [-1, 1, "CrossConv", [16, 3, 1, 1, 1.0, True]],
        [-1, 1, "GhostBottleneck", [16, 3, 2]],
        [-1, 3, "C3x", [16]],
        [-1, 1, "C3SPP", [16, [3, 5]]],
        [-1, 1, "nn.ZeroPad2d", [2]],
        [-1, 1, "nn.MaxPool2d", [5, 1, 0]],
    ],
    "head": [
        [-1, 1, "CrossConv", [16, 5, 1, 2, 1.0, True]],
        [-1, 1, "CrossConv", [16, 3, 2]],
        [-1, 1, "DWConvTranspose2d", [8, 4, 2, 1]],
        [-1, 1, "MixConv2d", [32, [1, 3, 5], 2]],
        [-1, 1, "Expand", [2]],
        [[-1, 7], 1, "Concat", [1]],
        [[12, 10], 1, "Detect", ["nc", "anchors"]],
    ],
}

TINY = {"scales": {"t": [0.33, 0.125, 1024]}, "scale": "t"}
# what the larger YOLO12 alone have, of fewer layers and channels
LARGE = {"scales": {"l": [0.5, 0.25, 512]}, "scale": "l"}


def yolov5(file, **changes):
    value = yaml.safe_load((originals.YOLOV5 / "models" / file).read_text(errors="ignore"))
    return value | {"nc": 3, "width_multiple": 0.125, "depth_multiple": 0.33} | changes


def release5():
    value = yolov5("yolov5n.yaml", activation="nn.LeakyReLU(0.1)")
    value["backbone"][0] = [-1, 1, "Focus", [64, 3]]
    value["backbone"][-2:] = [[-1, 1, "SPP", [1024, [5, 9, 13]]], [-1, 3, "C3", [1024, False]]]
    return value


def release3():
    """BottleneckCSP, and activations that only the modules tell: Hardswish, but leaky ReLU in BottleneckCSP."""
    value = release5() | {"activation": None}
    for part in ("backbone", "head"):
        value[part] = [[row[0], row[1], row[2].replace("C3", "BottleneckCSP"), row[3]] for row in value[part]]
    model = originals.yolov5(value)
    for module in model.modules():
        if type(module).__name__ in ("Conv", "BottleneckCSP"):
            module.act = torch.nn.LeakyReLU(0.1) if type(module).__name__ == "BottleneckCSP" else torch.nn.Hardswish()
    return model


def yolov5u():
    value = yaml.safe_load((originals.ULTRALYTICS / "cfg/models/v5/yolov5.yaml").read_text())
    return value | {"nc": 3, **TINY}


def ultralytics(file, **changes):
    value = yaml.safe_load((originals.ULTRALYTICS / "cfg/models" / file).read_text())
    return value | {"nc": 3, "scale": "n"} | changes


def narrow(file, by):
    """A model whose sizes are files of their own, with so many times fewer channels; other numbers are below 16."""

    def less(argument):
        if isinstance(argument, list):
            return [less(one) for one in argument]
        return argument // by if isinstance(argument, int) and argument >= 16 else argument

    value = ultralytics(file)
    return value | {part: [[*row[:3], less(row[3])] for row in value[part]] for part in ("backbone", "head")}


def end_to_end():
    """YOLO26 fused for its head without suppression: the other's tensors are gone."""
    model = originals.ultralytics(ultralytics("26/yolo26.yaml"))
    model.model[-1].end2end = True
    model.model[-1].fuse()
    return model


def resnet(block, **options):
    from torchvision.models import resnet

    return resnet.ResNet(getattr(resnet, block), [1, 2, 1, 1], num_classes=7, **options)


def layers_for_fc():
    """A classifier as fine-tuning puts it in the place of fc."""
    model = resnet("BasicBlock")
    layers = [torch.nn.Dropout(0.4), torch.nn.Linear(512, 24), torch.nn.BatchNorm1d(24), torch.nn.ReLU()]
    model.fc = torch.nn.Sequential(*layers, torch.nn.Dropout(0.2), torch.nn.Linear(24, 7))
    return model


def resnet_d():
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 2, 1, 1], num_classes=7, stem_type="deep", stem_width=32, avg_down=True)


def modules(model):
    """What the model says of its layers when it is saved whole."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model, Path(folder) / "whole.pt")
        return {path: astuple(module) for path, module in checkpoint.read(Path(folder) / "whole.pt").modules.items()}


# how to make it, the size of its pictures, and the gain of its weights that keeps activations near 1
MODELS = {
    "yolov5": (lambda: originals.yolov5(yolov5("yolov5n.yaml")), (64, 96), 1.42),
    "yolov5-four-levels": (lambda: originals.yolov5(yolov5("hub/yolov5n6.yaml")), (64, 128), 1.42),
    "yolov5-release-5": (lambda: originals.yolov5(release5()), (64, 64), 1.35),
    "yolov5-release-3": (release3, (64, 64), 1.35),
    "yolov3-tiny": (lambda: originals.yolov5(yolov5("hub/yolov3-tiny.yaml")), (64, 96), 1.42),
    "yolov5-transformer": (lambda: originals.yolov5(yolov5("hub/yolov5s-transformer.yaml")), (64, 96), 1.3),
    "yolov5-unused": (lambda: originals.yolov5(UNUSED), (32, 48), 1.35),
    "yolov6": (lambda: originals.ultralytics(ultralytics("v6/yolov6.yaml", **TINY)), (64, 96), 1.42),
    "yolov8-ghost": (lambda: originals.ultralytics(ultralytics("v8/yolov8-ghost.yaml", **TINY)), (64, 96), 1.42),
    "yolov8-p6": (lambda: originals.ultralytics(ultralytics("v8/yolov8-p6.yaml", **TINY)), (64, 128), 1.42),
    "yolov5u": (lambda: originals.ultralytics(yolov5u()), (64, 96), 1.42),
    "yolov5-cls": (lambda: originals.yolov5_classifier(yolov5("yolov5n.yaml"), 7), (64, 64), 1.35),
    "yolov8-cls": (lambda: originals.ultralytics_classifier(ultralytics("v8/yolov8-cls.yaml", nc=7)), (64, 96), 1.42),
    "yolov9t": (lambda: originals.ultralytics(narrow("v9/yolov9t.yaml", 2)), (64, 96), 1.26),
    "yolov9e": (lambda: originals.ultralytics(narrow("v9/yolov9e.yaml", 8)), (64, 64), 1.4),
    "yolov10": (lambda: originals.ultralytics(ultralytics("v10/yolov10n.yaml")), (64, 96), 1.42),
    "yolo11": (lambda: originals.ultralytics(ultralytics("11/yolo11.yaml")), (64, 96), 1.42),
    "yolo11-cls": (lambda: originals.ultralytics_classifier(ultralytics("11/yolo11-cls.yaml", nc=7)), (64, 64), 1.42),
    "yolo12": (lambda: originals.ultralytics(ultralytics("12/yolo12.yaml", **LARGE)), (64, 96), 1.05),
    "yolo26": (lambda: originals.ultralytics(ultralytics("26/yolo26.yaml")), (64, 96), 1.42),
    "yolo26-end2end": (end_to_end, (64, 96), 1.42),
    "yolov5-resnet": (lambda: originals.ultralytics(RESNET_DETECTOR), (64, 64), 1.5),
    "resnet-basic": (lambda: resnet("BasicBlock"), (64, 64), 1.35),
    "resnet-bottleneck": (lambda: resnet("Bottleneck"), (64, 96), 1.35),
    "resnext": (lambda: resnet("Bottleneck", groups=4, width_per_group=8), (64, 64), 1.35),
    "resnet-layers-for-fc": (layers_for_fc, (64, 64), 1.35),
    "resnet-d": (resnet_d, (100, 68), 1.35),
}
# what they compute is in no YAML and in no tensor
TOLD_BY_MODULES = ("yolov5-release-3",)


def write(name, make, size, gain):
    """Give the reference model its seeded tensors, run it, and store what it says."""
    model = make().eval()
    state = model.state_dict()
    shapes = {key: list(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    tensors = {key: torch.from_numpy(value) for key, value in seeded.tensors(shapes, gain).items()}
    model.load_state_dict(tensors, strict=False)
    packages = ("numpy", "torch", "torchvision", "timm", "yolov5", "ultralytics")
    versions = {package: importlib.metadata.version(package) for package in packages}
    facts = {"size": size, "gain": gain, "yaml": getattr(model, "yaml", None), "shapes": shapes, "versions": versions}
    if name in TOLD_BY_MODULES:
        facts["modules"] = modules(model)
    output = originals.output(model, seeded.images(size))
    seeded.GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(seeded.GOLDEN / f"{name}.npz", output=output, facts=np.array(json.dumps(facts)))
    print(f"{name}: {output.shape}, mean {output.mean():.3f}, standard deviation {output.std():.3f}")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        write(name, *MODELS[name])
