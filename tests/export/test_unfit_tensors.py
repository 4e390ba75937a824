"""Tensors that are missing, left over, of another shape, or hold no numbers to compute with: each is named."""

import re

import numpy as np
import pytest

from edgeinfer.errors import ExportError
from edgeinfer_export import graphs
from helpers import seeded


@pytest.mark.parametrize(
    "name",
    [
        *("yolov5", "yolov5u", "yolov5-release-5", "yolov5-unused", "yolov5-transformer", "yolov5-cls", "yolov6"),
        *("yolov8-ghost", "yolo11", "yolo26-end2end", "resnet-bottleneck"),
    ],
)
def test_a_missing_tensor_is_named(name):
    golden = seeded.Golden(name)
    for lost in sorted(golden.tensors)[::11]:
        tensors = {key: value for key, value in golden.tensors.items() if key != lost}
        with pytest.raises(ExportError) as caught:
            graphs.build(golden.checkpoint(tensors=tensors), size=golden.size)
        assert caught.value.hint


def test_a_tensor_of_the_wrong_shape_is_named(yolov5):
    tensors = yolov5.tensors | {"model.3.bn.weight": np.ones(5, np.float32)}
    with pytest.raises(ExportError, match=r"tensor model.3.bn.weight is \(5,\), expected \(32,\)"):
        graphs.build(yolov5.checkpoint(tensors=tensors), size=yolov5.size)
    tensors = yolov5.tensors | {"model.3.conv.weight": np.ones((32, 9, 3, 3), np.float32)}
    with pytest.raises(ExportError, match=r"tensor model\.3\.conv\.weight .* takes 9 channels"):
        graphs.build(yolov5.checkpoint(tensors=tensors), size=yolov5.size)


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("yolov5", "model.9.cv2.conv.weight"),
        ("yolov5-release-5", "model.8.cv2.conv.weight"),
        ("yolo11", "model.10.m.0.attn.qkv.conv.weight"),
        ("yolo11", "model.23.cv2.0.2.weight"),
        ("yolo12", "model.6.m.0.0.attn.qkv.conv.weight"),
        ("yolov9t", "model.4.cv2.0.m.0.cv1.conv2.conv.weight"),
        ("yolov9e", "model.11.conv.weight"),
        ("yolo26-end2end", "model.23.one2one_cv3.0.2.weight"),
        ("yolov5-transformer", "model.8.m.tr.0.ma.in_proj_weight"),
        ("yolov5-transformer", "model.8.m.tr.0.fc1.weight"),
        ("yolov6", "model.11.weight"),
        ("yolov8-ghost", "model.1.cv2.conv.weight"),
        ("yolov8-cls", "model.9.linear.weight"),
        ("resnet-basic", "conv1.weight"),
        ("resnet-bottleneck", "layer1.0.conv2.weight"),
        ("resnet-d", "conv1.0.weight"),
    ],
)
def test_a_kernel_that_is_none_is_named(name, tensor, shape):
    golden = seeded.Golden(name)
    tensors = golden.tensors | {tensor: np.zeros(shape, np.float32)}
    with pytest.raises(ExportError, match=re.escape(f"tensor {tensor} is {shape}")) as caught:
        graphs.build(golden.checkpoint(tensors=tensors), size=golden.size)
    assert caught.value.hint


def test_a_tensor_with_no_place_is_named(yolov5, resnet):
    for golden in (yolov5, resnet):
        tensors = golden.tensors | {"extra.weight": np.ones(1, np.float32)}
        with pytest.raises(ExportError, match=r"tensor extra\.weight has no place"):
            graphs.build(golden.checkpoint(tensors=tensors), size=golden.size)


def test_a_tensor_that_is_not_finite_is_named(resnet):
    bad = np.full_like(resnet.tensors["conv1.weight"], np.nan)
    with pytest.raises(ExportError, match=r"tensor conv1\.weight holds values that are not finite"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | {"conv1.weight": bad}))


def test_a_number_that_signals_that_it_is_none_is_named_without_a_warning(resnet):
    bad = np.full(resnet.tensors["conv1.weight"].shape, 0x7FA00000, np.uint32).view(np.float32)
    with pytest.raises(ExportError, match=r"tensor conv1\.weight holds values that are not finite"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | {"conv1.weight": bad}))


@pytest.mark.parametrize(("name", "tensor"), [("resnet-basic", "bn1.weight"), ("yolov5", "model.0.bn.bias")])
def test_weights_that_are_too_large_once_folded_are_named(name, tensor):
    golden = seeded.Golden(name)
    variance = tensor.rpartition(".")[0] + ".running_var"
    changed = {tensor: golden.tensors[tensor] * 0 + 3e38, variance: golden.tensors[variance] * 0}
    changed = {key: value.astype(np.float32) for key, value in changed.items()}
    changed[tensor.replace(".bias", ".weight")] = changed[tensor]
    with pytest.raises(ExportError, match=r"layer (conv1|model\.0\.conv) has weights beyond float32") as caught:
        graphs.build(golden.checkpoint(tensors=golden.tensors | changed), size=golden.size)
    assert "diverged" in caught.value.hint


def test_a_variance_below_zero_is_named(resnet):
    bad = np.full_like(resnet.tensors["bn1.running_var"], -1)
    with pytest.raises(ExportError, match=r"tensor bn1\.running_var holds -1, which is no variance"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | {"bn1.running_var": bad}))


def test_a_tensor_without_numbers_is_named(resnet):
    width = resnet.tensors["fc.weight"].shape[1]
    empty = {"fc.weight": np.zeros((0, width), np.float32), "fc.bias": np.zeros(0, np.float32)}
    with pytest.raises(ExportError, match=r"tensor fc\.weight is \(0, \d+\): it holds no number"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | empty))


def test_a_tensor_of_whole_numbers_is_refused(resnet):
    whole = resnet.tensors["conv1.weight"].astype(np.int8)
    with pytest.raises(ExportError, match=r"tensor conv1\.weight is int8, expected floating point"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | {"conv1.weight": whole}))
