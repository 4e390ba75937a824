"""YOLOv9 and YOLO12: two convolutions that become one, areas of cells, a second backbone; and what is refused."""

import copy

import numpy as np
import onnxruntime
import pytest

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, Size
from edgeinfer_export import graphs
from edgeinfer_export.modeltree import Module
from helpers import seeded

ATTENTION = "model.6.m.0.0.attn"
TWO = "model.4.cv2.0.m.0.cv1"


@pytest.fixture(scope="module")
def yolov9():
    return seeded.Golden("yolov9t")


@pytest.fixture(scope="module")
def second_backbone():
    return seeded.Golden("yolov9e")


@pytest.fixture(scope="module")
def yolo12():
    return seeded.Golden("yolo12")


def built(golden, **changes):
    return graphs.build(golden.checkpoint(**changes), size=golden.size, batch=Batch(1, 4))


def run(built, golden):
    session = onnxruntime.InferenceSession(built.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": golden.images})[0]


def changed(golden, index, arguments):
    """The YAML with other arguments of one layer."""
    yaml = copy.deepcopy(golden.yaml)
    (yaml["backbone"] + yaml["head"])[index][3] = arguments
    return yaml


def test_what_was_trained_side_by_side_is_the_fused_files_one_convolution(yolov9):
    one, other = built(yolov9), built(yolov9, tensors=seeded.fused(yolov9.tensors))
    assert [node.name for node in one.model.graph.node] == [node.name for node in other.model.graph.node]
    assert f"{TWO}.conv" in {node.name for node in one.model.graph.node}
    assert one.spec.provenance.parameters == other.spec.provenance.parameters
    found = run(other, yolov9)
    np.testing.assert_allclose(found[:, :4], yolov9.output[:, :4], rtol=0, atol=0.01)
    np.testing.assert_allclose(found[:, 4:], yolov9.output[:, 4:], rtol=0, atol=1e-4)


def test_halves_of_a_pruned_layer_may_be_uneven(yolov9):
    """A channel that is gone does as little as one that nobody weighs."""
    path, halves = "model.2", 16
    reads = {f"{path}.cv2.conv.weight": halves // 2 - 1, f"{path}.cv4.conv.weight": halves - 1}
    unread, pruned = dict(yolov9.tensors), dict(yolov9.tensors)
    for name, last in reads.items():
        unread[name] = yolov9.tensors[name].copy()
        unread[name][:, last] = 0
        pruned[name] = np.delete(yolov9.tensors[name], last, axis=1)
    pruned |= {name: value[:-1] for name, value in pruned.items() if name.startswith(f"{path}.cv1.")}
    one, other = (run(built(yolov9, tensors=tensors), yolov9) for tensors in (unread, pruned))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8, 2, 2), (8, 4, 1, 1), (4, 8, 1, 1)])
def test_two_convolutions_that_do_not_fit_each_other_are_named(yolov9, shape):
    outputs = shape[0]
    norm = {name: value[:outputs] for name, value in yolov9.tensors.items() if name.startswith(f"{TWO}.conv2.bn.")}
    tensors = yolov9.tensors | norm | {f"{TWO}.conv2.conv.weight": np.ones(shape, np.float32)}
    with pytest.raises(ExportError, match=f"layer {TWO} adds convolutions of .* and ") as caught:
        built(yolov9, tensors=tensors)
    assert caught.value.hint


def test_an_activation_before_two_are_added_is_refused(yolov9):
    built(yolov9, modules={f"{TWO}.conv2.act": Module("Identity", {})})
    with pytest.raises(ExportError, match=f"the activation {TWO}.conv2.act is SiLU, where none is expected"):
        built(yolov9, modules={f"{TWO}.conv2.act": Module("SiLU", {})})


def test_what_was_trained_side_by_side_has_silu_whatever_the_model_has(yolov9):
    names = {node.name for node in built(yolov9, yaml={**yolov9.yaml, "activation": "nn.ReLU()"}).model.graph.node}
    assert {f"{TWO}.silu", "model.0.relu"} <= names
    assert names.isdisjoint({f"{TWO}.relu", "model.0.silu"})


@pytest.mark.parametrize(("branch", "padding", "right"), [("conv1", 0, 1), ("conv2", 1, 0)])
def test_padding_of_one_of_two_that_is_another_is_refused(yolov9, branch, padding, right):
    with pytest.raises(ExportError, match=f"{TWO}.{branch}.conv has padding {padding}x{padding}, .* has {right}"):
        built(yolov9, modules={f"{TWO}.{branch}.conv": Module("Conv2d", {"padding": [padding, padding]})})


@pytest.mark.parametrize(
    ("golden", "lost"),
    [
        ("yolov9t", f"{TWO}.conv2.bn.weight"),
        ("yolov9t", "model.2.cv3.bn.weight"),
        ("yolov9t", "model.9.cv5.conv.weight"),
        ("yolov9e", "model.11.conv.bias"),
        ("yolov9e", "model.4.cv2.conv.weight"),
        ("yolo12", f"{ATTENTION}.pe.bn.bias"),
        ("yolo12", "model.6.m.0.1.mlp.1.conv.weight"),
    ],
)
def test_a_missing_tensor_is_named(golden, lost):
    golden = seeded.Golden(golden)
    tensors = {name: value for name, value in golden.tensors.items() if name != lost}
    with pytest.raises(ExportError, match=f"the checkpoint has no tensor {lost}"):
        built(golden, tensors=tensors)


@pytest.mark.parametrize(
    ("golden", "extra"), [("yolov9t", f"{TWO}.bn.weight"), ("yolo12", "model.6.m.0.2.attn.qkv.conv.weight")]
)
def test_more_than_is_built_is_named(golden, extra):
    golden = seeded.Golden(golden)
    with pytest.raises(ExportError, match=f"tensor {extra} has no place in the model described"):
        built(golden, tensors=golden.tensors | {extra: np.ones(4, np.float32)})


@pytest.mark.parametrize(("setting", "built_with"), [("num_heads", 2), ("area", 4)])
def test_attention_that_says_otherwise_is_refused(yolo12, setting, built_with):
    built(yolo12, modules={ATTENTION: Module("AAttn", {"num_heads": 2, "area": 4})})
    with pytest.raises(ExportError, match=f"layer {ATTENTION} has {setting} 8, where .* has {built_with}"):
        built(yolo12, modules={ATTENTION: Module("AAttn", {setting: 8})})


def test_cells_that_make_no_whole_areas_are_refused(yolo12):
    with pytest.raises(ExportError, match=r"layer 6 \(A2C2f\): 4x6 cells .* into 5 areas"):
        built(yolo12, yaml=changed(yolo12, 6, [512, True, 5]))
    one_row = Size(32, 96)
    assert graphs.build(yolo12.checkpoint(), size=one_row).spec.preprocess.size == one_row


def test_areas_do_not_see_each_other(yolo12):
    """Cells of one area, and of none other, are told of when a value within it changes."""
    model = built(yolo12).model
    values, joined = f"{ATTENTION}.split.2", f"{ATTENTION}.joined"
    shown = {one.name: one for one in model.graph.output}
    assert list(shown) == ["output0"]
    model.graph.output.extend(type(model.graph.output[0])(name=name) for name in (values, joined))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    seen, mixed = session.run([values, joined], {"images": yolo12.images})
    strips = [array.reshape(*array.shape[:2], 4, 6) for array in (seen, mixed)]
    low, high = strips[0].min(-1), strips[0].max(-1)
    # a mean of the strip's own values lies between them
    assert (strips[1] >= low[..., None] - 1e-4).all()
    assert (strips[1] <= high[..., None] + 1e-4).all()
    assert (strips[1].max(-1) < strips[0].max((-2, -1))[..., None] - 1e-3).any()


@pytest.mark.parametrize(
    ("index", "arguments", "message"),
    [
        (11, [[8, 8]], r"layer 11 \(CBLinear\): arguments .* expected the widths of 24 channels' parts"),
        (11, [[0, 24]], r"layer 11 \(CBLinear\): arguments"),
        (11, [[8, 16], 3], r"layer 11 \(CBLinear\): arguments"),
        (11, [24], r"layer 11 \(CBLinear\): argument 1 is 24"),
        (18, [[1, 1, 1]], r"layer 18 \(CBFuse\): chooses of 3 layers, and reads 4 before the last"),
        (18, [[2, 1, 1, 1]], r"layer 18 \(CBFuse\): layer 11 has no part 2"),
        (18, [[0, 1, 1, 1]], r"layer model\.18\.0 adds \(16, 16, 16\) to \(8, 16, 16\)"),
    ],
)
def test_a_second_backbone_that_does_not_fit_the_first_is_refused(second_backbone, index, arguments, message):
    with pytest.raises(ExportError, match=message) as caught:
        built(second_backbone, yaml=changed(second_backbone, index, arguments))
    assert caught.value.hint


def test_what_is_chosen_of_must_have_parts(second_backbone):
    yaml = copy.deepcopy(second_backbone.yaml)
    yaml["backbone"][18][0] = [1, 12, 13, 14, -1]
    with pytest.raises(ExportError, match=r"layer 18 \(CBFuse\): layer 1 has no part 1"):
        built(second_backbone, yaml=yaml)


def test_layers_that_were_called_silence_do_as_little(second_backbone):
    yaml = copy.deepcopy(second_backbone.yaml)
    yaml["backbone"][0] = [-1, 1, "Silence", []]
    assert built(second_backbone, yaml=yaml).model.graph == built(second_backbone).model.graph


@pytest.mark.parametrize(
    ("golden", "name"), [("yolov9t", "yolov9"), ("yolov9e", "yolov9e"), ("yolo12", "yolo12l"), ("yolov10", "yolov10n")]
)
def test_the_architecture_is_named(golden, name):
    assert built(seeded.Golden(golden)).spec.provenance.architecture == name


@pytest.mark.parametrize(("width", "letter"), [(128, "t"), (256, "s"), (480, "m"), (512, "c"), (500, "")])
def test_the_sizes_of_yolov9_are_told_by_their_width(yolov9, width, letter):
    named = built(yolov9, yaml=changed(yolov9, 9, [width, width // 2])).spec.provenance.architecture
    assert named == f"yolov9{letter}"
