"""ONNX files of other tools become bundles that compute what they did: shapes settled, the rest left out."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgeinfer import load
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.spec import Batch, Size, TopK
from edgeinfer_export import graphs
from edgeinfer_export.export import Options, export
from edgeinfer_export.told import Told
from helpers import foreign
from helpers.foreign import exported, refusal


def test_the_graph_computes_what_it_did_before(tmp_path):
    model = foreign.yolov5(size=("height", "width"), batch="batch")
    bundle = exported(tmp_path, model, size=Size(64, 128), batch=Batch(1, 4))
    pictures = np.random.default_rng(0).random((3, 3, 64, 128), np.float32)

    def run(file):
        return onnxruntime.InferenceSession(file).run(None, {"images": pictures})[0]

    assert np.array_equal(run(tmp_path / "in" / "model.onnx"), run(bundle.path / "model.fp32.onnx"))
    with load(bundle) as loaded:
        assert len(loaded.batch([np.zeros((50, 50, 3), np.uint8)] * 5)) == 5


@pytest.mark.parametrize(
    ("metadata", "resize", "mean", "smooth"),
    [
        ({}, 256, 0.485, "linear-antialias"),
        ({**foreign.ULTRALYTICS, "task": "classify"}, 224, 0.0, "linear-antialias"),
        ({"stride": "1", "names": foreign.names(1000)}, 224, 0.485, "linear"),
    ],
    ids=["torchvision", "ultralytics", "yolov5"],
)
def test_a_classifier_is_fed_as_its_family_feeds_it(tmp_path, metadata, resize, mean, smooth):
    part = exported(tmp_path, foreign.classifier(metadata=metadata)).spec.preprocess

    assert (part.fit, part.resize, part.mean[0], part.interpolation) == ("resize-crop", resize, mean, smooth)


def test_float16_stays_float16(tmp_path):
    bundle = exported(tmp_path, foreign.yolov8(dtype=np.float16))

    assert [(one.file, one.precision) for one in bundle.spec.artifacts] == [("model.fp16.onnx", "fp16")]
    assert bundle.spec.inputs[0].dtype == bundle.spec.outputs[0].dtype == "float16"
    assert main(["verify", str(bundle.path)]) == 0


def test_raw_heads_beside_the_boxes_are_left_out(tmp_path):
    model = foreign.add_output(foreign.yolov5(), (1, 3, 8, 12, 8))
    bundle = exported(tmp_path, model)
    left = onnx.load(bundle.path / "model.fp32.onnx").graph

    assert [value.name for value in left.output] == ["output0"]
    assert "output1.zeros" not in [tensor.name for tensor in left.initializer]


def test_what_a_branch_reads_of_the_graph_round_it_stays_when_raw_heads_go(tmp_path):
    model = foreign.add_output(foreign.yolov5(), (1, 3, 8, 12, 8))
    (last,) = (node for node in model.graph.node if node.output[0] == "output0")
    result = helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Mul", last.input, ["inside"])], "branch", [], [result])
    choice = helper.make_node("If", ["always"], ["output0"], then_branch=branch, else_branch=branch)
    last.CopyFrom(choice)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))

    assert main(["verify", str(exported(tmp_path, model).path)]) == 0


def test_functions_of_a_files_own_are_put_into_its_graph(tmp_path):
    model = foreign.classifier(7, True, metadata={**foreign.ULTRALYTICS, "task": "classify"})
    model.graph.node[-1].CopyFrom(helper.make_node("Ending", ["logits"], ["output0"], domain="own"))
    body = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    model.functions.append(helper.make_function("own", "Ending", ["x"], ["y"], body, model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 99))

    assert exported(tmp_path, model).spec.decode == TopK(5, "none")


def test_probabilities_that_are_reshaped_stay_as_they_are(tmp_path):
    model = foreign.classifier(7, True, metadata={**foreign.ULTRALYTICS, "task": "classify"})
    model.graph.node[-1].output[0] = "rows"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 7]), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["rows", "shape"], ["output0"]))

    assert exported(tmp_path, model).spec.decode == TopK(5, "none")


def mixed(model):
    """With an output (n, n): what each picture has in common with each other."""
    model.graph.node.append(helper.make_node("Flatten", ["images"], ["rows"]))
    model.graph.node.append(helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("MatMul", ["rows", "columns"], ["mixed"]))
    model.graph.output.append(helper.make_tensor_value_info("mixed", onnx.TensorProto.FLOAT, None))
    return model


def test_what_edgeinfer_wrote_comes_back_as_it_was(tmp_path):
    first = exported(tmp_path / "first", foreign.yolov8(batch="n"), batch=Batch(1, 3), labels=("a", "b", "c"))
    variant = graphs.Variant(frames="rgb", nms=True, score=0.3)
    second = Bundle.open(export(first.path / "model.fp32.onnx", tmp_path / "two", Options(variant=variant, name="x")))
    third = Bundle.open(export(second.path / "model.fp32.onnx", tmp_path / "three"))

    assert second.spec.labels == ("a", "b", "c")
    assert (third.spec.name, third.spec.preprocess, third.spec.decode) == (
        "x",
        second.spec.preprocess,
        second.spec.decode,
    )
    assert third.spec.outputs == second.spec.outputs
    assert main(["verify", str(third.path)]) == 0


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (foreign.yolov8(size=("h", "w"), metadata={}), {}, "--imgsz 640"),
        (foreign.yolov8(), {"size": Size(96, 96)}, "fixed input of 64x96"),
        (foreign.yolov8(batch=2), {"batch": Batch(1, 4)}, "fixed batch of 2"),
        (foreign.add_output(foreign.yolov8(batch=2), (1, 3)), {}, "no row for each picture: (1, 3) for 2"),
        (
            mixed(foreign.yolov8(batch="n")),
            {"batch": Batch(1, 4)},
            "output mixed has no row for each picture: (1, 1) for 1, (2, 2) for 2",
        ),
        (foreign.yolov8(size=("h", "w")), {"size": Size(72, 72)}, "not a multiple of its stride 32"),
        (foreign.yolov8(), {"labels": ("one", "two")}, "2 labels are known, and its outputs have 3 classes (yolov8)"),
        (foreign.classifier(10), {"labels": ("one", "two")}, "2 labels are known, and its outputs have 10 classes"),
        (foreign.end2end(1700, metadata={}), {"labels": ("one", "two")}, "do not fit any known layout"),
        (foreign.yolov8(), {"told": Told("classes")}, "do not fit layout classes"),
        (foreign.yolov8(), {"precisions": ("int8",)}, "int8"),
        (foreign.end2end(metadata={}), {}, "--labels"),
        (foreign.classifier(10), {}, "--normalize"),
        (foreign.classifier(producer="tf2onnx"), {}, "--normalize"),
        (foreign.yolov8(metadata={**foreign.ULTRALYTICS, "task": "pose"}), {}, "task is pose"),
        (foreign.add_output(foreign.yolov8(metadata={}), (1, 32, 16, 24)), {}, "segment"),
        (foreign.yolov8(metadata={**foreign.ULTRALYTICS, "head": "RTDETRDecoder"}), {}, "RTDETRDecoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(tmp_path, model, options, message):
    assert message in refusal(tmp_path, model, **options)


def test_quantised_weights_make_an_int8_artifact(tmp_path):
    model = foreign.classifier()
    weight = next(one for one in model.graph.initializer if one.name == "weight")
    values = numpy_helper.to_array(weight)
    model.graph.initializer.remove(weight)
    scale = np.float32(np.abs(values).max() / 127)
    for name, value in {"q": np.round(values / scale).astype(np.int8), "s": scale, "z": np.int8(0)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["weight"]))

    assert exported(tmp_path, model).spec.artifacts[0].precision == "int8"


def test_a_dimension_of_minus_one_is_an_open_one(tmp_path):
    bundle = exported(tmp_path, foreign.yolov8(batch=-1, size=(-1, -1)), size=Size(64, 64), batch=Batch(1, 2))

    assert bundle.spec.inputs[0].shape == (Batch(1, 2), 3, 64, 64)


@pytest.mark.parametrize(("name", "flag"), [("model.onnx", "--io=float16"), ("model.pt", "--layout=yolov5")])
def test_a_flag_that_would_be_passed_over_is_wrong_usage(tmp_path, capsys, name, flag):
    file = foreign.save(foreign.yolov8(), tmp_path / name)

    assert main(["export", str(file), flag, "-o", str(tmp_path / "out")]) == 2
    assert "leave it out" in capsys.readouterr().err
