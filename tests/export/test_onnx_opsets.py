"""Old opsets, and constants in every form that ONNX has, on the way to int8 and to suppression in the graph."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeinfer import load
from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer_export import graphs, onnxreading
from edgeinfer_export.export import Options, export
from edgeinfer_export.heldout import Sources
from helpers import foreign
from helpers.foreign import exported, refusal


def test_a_new_opset_is_a_warning(tmp_path, capsys):
    source = foreign.save(foreign.yolov8(opset=19), tmp_path / "model.onnx")

    assert main(["export", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "warning: model.onnx has opset 19: TensorRT 8" in capsys.readouterr().err


def test_the_name_of_a_file_in_a_warning_does_not_steer_the_terminal(tmp_path, capsys):
    source = foreign.save(foreign.yolov8(opset=19), tmp_path / "\x1b[31mred.onnx")

    assert main(["export", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "warning: [31mred.onnx has opset 19" in capsys.readouterr().err


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A few pictures to calibrate with, of coloured patches."""
    folder, chance = tmp_path_factory.mktemp("patches"), np.random.default_rng(0)
    for place in range(10):
        patch = np.kron(chance.integers(0, 256, (4, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        cv2.imwrite(str(folder / f"{place}.png"), patch)
    return Sources(str(folder), few=True)


def test_constants_written_as_plain_numbers_are_weights_too(tmp_path):
    floats, ints = {"value_float": 2.5, "value_floats": [1.0, 2.0]}, {"value_int": 3, "value_ints": [4, 5]}
    numbers = {name: ("float32", value) for name, value in floats.items()}
    numbers.update({name: ("int64", value) for name, value in ints.items()})
    model = foreign.classifier()
    for name, (_, value) in numbers.items():
        model.graph.node.append(helper.make_node("Constant", [], [name], **{name: value}))
    graph = onnxreading.read(foreign.save(model, tmp_path / "model.onnx")).graph

    read = {one.name: numpy_helper.to_array(one) for one in graph.initializer if one.name in numbers}
    assert {name: (array.dtype.name, array.tolist()) for name, array in read.items()} == numbers
    assert all(node.op_type != "Constant" for node in graph.node)


def test_an_opset_whose_raising_would_give_other_numbers_is_refused(tmp_path, patches):
    # what onnx's converter makes of this enlargement begins half a pixel elsewhere
    model = foreign.resizing(10, mode="linear")

    assert "opset 10, which cannot be raised to 13: it would give other numbers" in refusal(
        tmp_path, model, precisions=("int8",), pictures=patches
    )


def test_an_opset_that_cannot_be_raised_is_told_with_the_reason():
    x, y, *rest = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in [("x", [1, 3]), ("y", [1, 3]), *((name, [3]) for name in "abcd")]
    )
    node = helper.make_node("BatchNormalization", ["x", *"abcd"], ["y"], spatial=0)
    model = helper.make_model(
        helper.make_graph([node], "old", [x, *rest], [y]), opset_imports=[helper.make_opsetid("", 7)]
    )
    with pytest.raises(ExportError, match=r"old has opset 7, which cannot be raised to 13: .*spatial") as caught:
        onnxreading.raised(model, "old")
    assert caught.value.hint


def test_a_raised_model_that_takes_frames_is_tried_with_pixels(tmp_path):
    model = foreign.resizing(10, mode="linear", batch="open")
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    next(node for node in model.graph.node if "images" in node.input).input[0] = "cast"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["images"], ["cast"], to=onnx.TensorProto.FLOAT))

    with pytest.raises(ExportError, match="it would give other numbers"):
        onnxreading.raised(onnxreading.read(foreign.save(model, tmp_path / "model.onnx")), "model.onnx")


@pytest.mark.parametrize(("opset", "channels"), [(10, 32), (11, 32), (12, 32), (17, 32), (21, 32), (17, 8)])
def test_a_model_whose_constants_are_nodes_becomes_int8(tmp_path, patches, opset, channels):
    model = foreign.resizing(opset, channels)
    bundle = exported(tmp_path, model, precisions=("fp16", "int8"), pictures=patches, budget=10.0)

    assert [one.precision for one in bundle.spec.artifacts] == ["fp16", "int8", "int8"]
    for one in bundle.spec.artifacts[1:]:
        quantized = onnx.load(bundle.path / one.file).graph
        weights = [tensor for tensor in quantized.initializer if len(tensor.dims) == 4]
        # the first convolution is thin, which ONNX Runtime takes in float32, unless all are
        whole = 2 if one.flavor == "cpu" and channels == 32 else 3
        assert [tensor.data_type for tensor in weights].count(onnx.TensorProto.INT8) == whole
        # by how much Resize enlarges the rest is no value to be rounded
        assert {node.op_type for node in quantized.node if "scales" in node.input} == {"Resize"}


def test_boxes_are_suppressed_in_the_graph_of_an_old_opset(tmp_path):
    model = foreign.save(foreign.yolov8(opset=11), tmp_path / "model.onnx")
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    found = {}
    for where, variant in {"runtime": graphs.Variant(), "graph": graphs.Variant(nms=True)}.items():
        with load(export(model, tmp_path / where, Options(variant=variant))) as opened:
            assert opened.spec.decode.where == where
            found[where] = opened(picture)

    assert len(found["runtime"]) > 3
    assert np.allclose(found["graph"].boxes, found["runtime"].boxes, atol=1e-3)


def test_constants_are_no_inputs_although_old_files_list_them(tmp_path):
    model = foreign.classifier(7, metadata={**foreign.ULTRALYTICS, "task": "classify"}, opset=8)
    for one in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    model.ir_version = 3
    bundle = exported(tmp_path, model)

    assert [value.name for value in onnx.load(bundle.path / "model.fp32.onnx").graph.input] == ["images"]


def test_copies_of_constants_are_the_constants_so_that_8_bits_reach_all_who_read_them(tmp_path):
    """Of equal weights, such as biases of 0, PyTorch writes one, and Identities of it."""
    model = foreign.resizing()
    second = next(node for node in model.graph.node if list(node.output) == ["c"])
    second.input[1] = "copy of the copy"
    copies = [helper.make_node("Identity", ["second"], ["copy"])]
    copies.append(helper.make_node("Identity", ["copy"], ["copy of the copy"]))
    for node in copies[::-1]:
        model.graph.node.insert(8, node)  # behind the constants
    read = onnxreading.read(foreign.save(foreign.add_output(model, (1, 3)), tmp_path / "model.onnx"))

    assert {node.output[0] for node in read.graph.node if node.op_type == "Identity"} == {"output1"}
    assert next(node for node in read.graph.node if list(node.output) == ["c"]).input[1] == "second"
    assert onnxruntime.InferenceSession(read.SerializeToString(), providers=["CPUExecutionProvider"])
