"""Classifiers of torchvision, timm, yolov5 and Ultralytics."""

import numpy as np
import pytest

from edgeinfer.spec import Size
from reference.parity import SCALES

CLASSIFIERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"]
DEEP = ["resnet50d", "resnet34d", "resnet26t", "resnet50c", "resnet50s", "resnext50d_32x4d"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *(f"timm/{name}" for name in ("resnet50", "resnet34", *DEEP))])
def test_classifiers(compare, originals, name):
    built = compare.classifier(name, originals.classifier(name))
    assert built.spec.provenance.architecture == name.removeprefix("timm/")


def test_a_classifier_of_other_size_and_classes(compare, originals):
    compare.classifier("resnet18, 10 classes at 96", originals.classifier("resnet18", 10), 96)


@pytest.mark.parametrize("saved", ["state dict", "whole"])
def test_layers_in_the_place_of_fc(compare, originals, tmp_path, saved):
    from torch import nn

    layers = [nn.Dropout(0.4), nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5)]
    model = originals.classifier("resnet18", layers=layers)
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    built = compare.classifier(f"resnet18, layers in the place of fc, {saved}", model, stored=stored)
    assert bool(built.notes) == (saved == "state dict")


def test_shortcuts_that_average_over_odd_sides(compare, originals):
    compare.classifier("timm/resnet26d at 100", originals.classifier("timm/resnet26d", 10), 100)


def test_a_half_precision_classifier(compare, originals):
    model = originals.classifier("resnet50")
    compare.classifier("resnet50, fp16 tensors", model, stored=originals.stored(model, half=True))


def test_bottlenecks_that_stride_in_their_first_convolution(compare, originals, tmp_path):
    model = originals.classifier("resnet50")
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    compare.classifier("resnet50 v1", model, stored=originals.whole(model, tmp_path / "whole.pt"))


FAMILIES_OF_CLASSIFIERS = ("yolov5", "yolov8", "yolo11", "yolo26")
YOLO_CLASSIFIERS = [
    *((f"{family}{scale}", "state dict") for family in FAMILIES_OF_CLASSIFIERS for scale in SCALES),
    *((f"{family}n", "whole") for family in FAMILIES_OF_CLASSIFIERS),
    ("yolo12n", "state dict"),
    ("yolo12n", "whole"),
]


@pytest.mark.parametrize(("name", "saved"), YOLO_CLASSIFIERS)
def test_classifiers_of_yolo(compare, originals, tmp_path, name, saved):
    model = (
        originals.yolov5_classifier(f"{name}.yaml")
        if name.startswith("yolov5")
        else originals.ultralytics_classifier(f"{name}-cls.yaml")
    )
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    built = compare.classifier(f"{name}-cls, {saved}", model, stored=stored)
    # YOLOv5's tell no width
    assert built.spec.provenance.architecture == ("yolov5" if name.startswith("yolov5") else name) + "-cls"


@pytest.mark.parametrize("source", [(480, 640), (333, 250), (224, 224), (700, 701)])
def test_pictures_come_to_a_classifier_as_there(originals, source):
    from PIL import Image
    from ultralytics.data.augment import classify_transforms
    from yolov5.utils.augmentations import classify_transforms as cropping

    from edgeinfer.devices.cpu import Device
    from edgeinfer_export import graphs

    picture = (originals.images(source)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    for size in (Size(224, 224), Size(160, 320)):
        ours = graphs.build(originals.stored(originals.ultralytics_classifier("yolo11n-cls.yaml")), size=size).spec
        seen = Device(ours).preprocess([picture])[0]["images"][0]
        sides = (size.height, size.width)
        theirs = classify_transforms(sides)(Image.fromarray(picture[..., ::-1])).numpy()
        assert np.abs(seen - theirs).max() <= 1.01 / 255
    spec = graphs.build(originals.stored(originals.yolov5_classifier("yolov5n.yaml"))).spec
    apart = np.abs(Device(spec).preprocess([picture])[0]["images"][0] - cropping(224)(picture).numpy())
    # it crops before it resizes; the rest is the same
    assert apart.max() <= 0.02 if source[0] == source[1] else apart.mean() < 0.5


def test_parameters_and_flops_are_the_published_ones(originals):
    import torchvision

    from edgeinfer_export import graphs

    built = graphs.build(originals.stored(torchvision.models.resnet50()))
    meta = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta
    assert built.spec.provenance.parameters == meta["num_params"]
    assert built.spec.provenance.gflops == round(meta["_ops"], 2)
