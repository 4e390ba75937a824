"""YOLOv3-tiny, YOLOv6 and the ghost, transformer and P6 variants: what is theirs alone, and what is refused of it."""

import copy
import re

import numpy as np
import pytest

from edgeinfer import backends
from edgeinfer.devices import cpu
from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, TensorSpec
from edgeinfer_export import graphs
from edgeinfer_export.graphs import plan
from edgeinfer_export.graphs.ops import Feature, Graph
from edgeinfer_export.modeltree import Module
from helpers import graphmodels, seeded

NAMES = ["yolov3-tiny", "yolov5-transformer", "yolov5-unused", "yolov6", "yolov8-ghost", "yolov8-p6"]


def built(name, **changes):
    golden = seeded.Golden(name)
    return graphs.build(golden.checkpoint(**changes), size=golden.size, batch=Batch(2, 2))


def changed(name, index, module, arguments):
    """The golden's YAML with another module and arguments in one row."""
    yaml = copy.deepcopy(seeded.Golden(name).yaml)
    (yaml["backbone"] + yaml["head"])[index][2:] = [module, arguments]
    return yaml


def ran(backend, model, spec, tmp_path, **inputs):
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    (output,) = backends.load(backend)(path, spec, cpu.Device(spec)).run(inputs).values()
    return output


@pytest.mark.parametrize("name", NAMES)
def test_openvino_says_what_the_reference_said(name, tmp_path):
    golden, one = seeded.Golden(name), built(name)
    output = ran("ov", one.model, one.spec, tmp_path, images=golden.images)
    np.testing.assert_allclose(output, golden.output, rtol=0, atol=0.01)


def test_a_pool_of_what_is_below_zero_takes_the_zeros_that_were_padded():
    """ONNX Runtime 1.31 fuses a Pad into the pool, as one of minus infinity."""
    graph = Graph()
    padded = graph.pad("pad", Feature("x", 20, 4, 6), (0, 1, 1, 1))
    graph.max_pool("y", padded, 2, 1, 0)
    shown = -1 - np.random.default_rng(0).random((1, 20, 4, 6), np.float32)
    wide = TensorSpec("y", (1, 20, 4, 7))
    model = graph.model("pooled", [TensorSpec("x", shown.shape)], [wide], "1")
    (found,) = graphmodels.run(model, x=shown).values()
    zeros = np.pad(shown, [(0, 0), (0, 0), (0, 1), (1, 1)])
    corners = [zeros[..., top : top + 4, left : left + 7] for top in (0, 1) for left in (0, 1)]
    np.testing.assert_array_equal(found, np.maximum.reduce(corners))


PUBLISHED = {"scales": {"n": [0.33, 0.25, 1024]}, "scale": "n"}


@pytest.mark.parametrize(
    ("name", "told", "architecture"),
    [
        ("yolov3-tiny", {}, "yolov3-tiny"),
        ("yolov5-transformer", {"depth_multiple": 0.33, "width_multiple": 0.5}, "yolov5s-transformer"),
        ("yolov5-four-levels", {"depth_multiple": 0.33, "width_multiple": 0.25}, "yolov5n6"),
        ("yolov6", PUBLISHED, "yolov6n"),
        ("yolov8-ghost", PUBLISHED, "yolov8n-ghost"),
        ("yolov8-p6", PUBLISHED, "yolov8n-p6"),
    ],
)
def test_variants_have_the_names_they_were_published_by(name, told, architecture):
    yaml = seeded.Golden(name).yaml | told
    assert built(name, yaml=yaml).spec.provenance.architecture == architecture


def test_the_activation_of_convolutions_that_are_joined_is_followed():
    modules = {"model.10.act": Module("ReLU", {})}
    assert "model.10.relu" in {node.name for node in built("yolov5-unused", modules=modules).model.graph.node}


@pytest.mark.parametrize(("row", "stride"), [(["nn.MaxPool2d", [2]], 128), (["nn.Upsample", [None, 2]], 8)])
def test_a_row_that_repeats_changes_the_largest_stride_as_often(row, stride):
    yaml = {"backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 2, *row]], "head": [[-1, 1, "Conv", [8, 3, 8]]]}
    assert plan.read(yaml).largest_stride() == stride


@pytest.mark.parametrize(
    ("name", "path", "module", "message"),
    [
        ("yolov5-transformer", "model.8.m.tr.0.ma", Module("MultiheadAttention", {"num_heads": 8}), "num_heads 8"),
        ("yolov6", "model.11", Module("ConvTranspose2d", {"output_padding": [1, 1]}), "output_padding 1x1"),
        ("yolov6", "model.11", Module("ConvTranspose2d", {"stride": [4, 4]}), "stride 4x4"),
        ("yolov3-tiny", "model.11", Module("ZeroPad2d", {"padding": [1, 0, 1, 0]}), "padding 1x0x1x0"),
        ("yolov5-unused", "model.1.cv1.conv", Module("Conv2d", {"padding": [1, 1]}), "padding 1x1, .* has 0x1"),
        ("yolov5-unused", "model.8.cv2.conv", Module("Conv2d", {"stride": [2, 2]}), "stride 2x2, .* has 2x1"),
        ("yolov5-unused", "model.10.m.1", Module("Conv2d", {"groups": 1}), "groups 1"),
        ("yolov8-ghost", "model.1.cv2.conv", Module("Conv2d", {"groups": 1}), "groups 1"),
    ],
)
def test_a_module_that_says_otherwise_is_refused(name, path, module, message):
    with pytest.raises(ExportError, match=f"layer {re.escape(path)} has {message}"):
        built(name, modules={path: module})


@pytest.mark.parametrize(
    ("name", "index", "module", "arguments"),
    [
        ("yolov3-tiny", 11, "nn.ZeroPad2d", []),
        ("yolov3-tiny", 11, "nn.ZeroPad2d", [[0, 1, 0]]),
        ("yolov3-tiny", 11, "nn.ZeroPad2d", [[0, -1, 0, 1]]),
        ("yolov3-tiny", 11, "nn.ZeroPad2d", [[0, 60000, 0, 60000]]),
        ("yolov3-tiny", 11, "nn.ZeroPad2d", [60000]),
        ("yolov3-tiny", 11, "nn.ZeroPad2d", [1.5]),
        ("yolov6", 11, "nn.ConvTranspose2d", [256, 2, 60000, 0]),
        ("yolov6", 11, "nn.ConvTranspose2d", [256, 2, 0, 0]),
        ("yolov6", 11, "nn.ConvTranspose2d", [256, 2, 2, 2]),
        ("yolov6", 11, "nn.ConvTranspose2d", [256, 2, 2, 0, 1]),
        ("yolov6", 11, "DWConvTranspose2d", [256, 2, 2]),
        ("yolov8-ghost", 1, "GhostConv", [128, 3, 2, 1, False]),
        ("yolov8-ghost", 1, "GhostConv", [128, 3, -2]),
        ("yolov8-ghost", 1, "GhostBottleneck", [128, 3, 0]),
        ("yolov5-unused", 0, "Contract", [1]),
        ("yolov5-unused", 0, "Contract", [2, 2]),
        ("yolov5-unused", 11, "Expand", [3]),
        ("yolov5-unused", 11, "Expand", [0]),
        ("yolov5-unused", 1, "CrossConv", [16, 3, -2]),
        ("yolov5-unused", 10, "MixConv2d", [32, 3, 2]),
        ("yolov5-unused", 10, "MixConv2d", [32, [], 2]),
        ("yolov5-unused", 10, "MixConv2d", [32, [1, 3, 5], 2, True, 1]),
        ("yolov5-unused", 4, "C3SPP", [16, [3, 4]]),
        ("yolov5-unused", 4, "C3SPP", [16]),
    ],
)
def test_arguments_that_are_not_supported_name_their_layer(name, index, module, arguments):
    with pytest.raises(ExportError, match=rf"layer {index} \({module.rpartition('.')[2]}\): ") as caught:
        built(name, yaml=changed(name, index, module, arguments))
    assert caught.value.hint
    assert len(str(caught.value)) < 300


def test_a_transformer_of_odd_channels_is_refused():
    golden = seeded.Golden("yolov5-transformer")
    kept = {name: value[:-1] for name, value in golden.tensors.items() if name.startswith("model.8.cv1.")}
    with pytest.raises(ExportError, match=r"layer 8 \(C3TR\): 63 channels are not .* among 4 heads"):
        built("yolov5-transformer", tensors=golden.tensors | kept)


def test_cells_that_make_no_whole_squares_are_refused():
    yaml = changed("yolov5-unused", 5, "nn.MaxPool2d", [2, 1, 0])
    yaml["backbone"][6] = [-1, 1, "Contract", [2]]
    with pytest.raises(ExportError, match=r"layer 6 \(Contract\): 7x11 cells are not to be divided by 2"):
        built("yolov5-unused", yaml=yaml)


def test_no_value_in_any_place_of_these_rows_escapes_as_another_error():
    odd = [None, -1, 0, 10**30, 1.5, float("inf"), "x", "nc", [], {}, [[-1]], [1] * 4, True]
    rows = [("yolov5-unused", index) for index in (0, 2, 8, 9, 10)]
    for name, index in (*rows, ("yolov3-tiny", 11)):
        yaml = seeded.Golden(name).yaml
        row = (yaml["backbone"] + yaml["head"])[index]
        for value in odd:
            for arguments in ([value] * 5, [value], [*row[3][:-1], value]):
                try:
                    built(name, yaml=changed(name, index, row[2], arguments))
                except ExportError as error:
                    assert error.hint
