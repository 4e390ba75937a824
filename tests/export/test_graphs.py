"""What every graph must be, and what happens when a checkpoint is not what it says."""

import ast
import hashlib
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgeinfer import cli, modeljson
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.spec import Batch, Boxes, Preprocess, Size, TopK
from edgeinfer_export import checkpoint, graphs
from edgeinfer_export.modeltree import Module
from edgeinfer_export.told import NORMALIZE, UNTOLD, Told
from helpers import fullsize, pickling, seeded

SMOOTH = {"interpolation": "linear-antialias"}
_, MEAN, STD = NORMALIZE["imagenet"]


def bytes_of(built):
    return built.model.SerializeToString(deterministic=True)


def shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", seeded.names())
def test_graphs_are_valid_and_their_inferred_shapes_are_the_specs(name):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=golden.size)
    onnx.checker.check_model(built.model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(built.model, strict_mode=True, data_prop=True)
    assert shape(inferred.graph.output[0]) == list(built.spec.outputs[0].shape)
    assert [opset.version for opset in built.model.opset_import] == [17]


@pytest.mark.parametrize("name", ["yolov5", "yolov5u", "resnet-basic"])
def test_a_range_of_batches_becomes_a_symbolic_dimension(name):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 8))
    onnx.checker.check_model(built.model, full_check=True)
    for value in (built.model.graph.input[0], built.model.graph.output[0]):
        assert shape(value)[0] == "batch"
    assert built.spec.batch == Batch(1, 8)


def test_only_operators_that_every_engine_takes():
    known = {"Conv", "Sigmoid", "Mul", "Add", "Sub", "Concat", "MaxPool", "Resize", "Reshape", "Transpose", "Split"}
    known |= {"Softmax", "ReduceSum", "Relu", "LeakyRelu", "HardSigmoid", "AveragePool", "GlobalAveragePool", "Flatten"}
    known |= {"MatMul", "ReduceMax", "TopK", "Tile", "GatherElements", "Unsqueeze", "Div", "Cast"}
    known |= {"ConvTranspose", "DepthToSpace", "SpaceToDepth"}
    for name in seeded.names():
        golden = seeded.Golden(name)
        nodes = graphs.build(golden.checkpoint(), size=golden.size).model.graph.node
        assert {node.op_type for node in nodes} <= known, name


def test_nodes_are_named_by_their_layer(yolov5):
    nodes = graphs.build(yolov5.checkpoint(), size=yolov5.size).model.graph.node
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert names[:3] == ["model.0.conv", "model.0.sigmoid", "model.0.silu"]
    assert [node.op_type for node in nodes if ".decode." in node.name] == [
        "Concat",
        "Split",
        "Mul",
        "Mul",
        "Add",
        "Mul",
    ]


SCRIPT = """
import hashlib
from edgeinfer_export import checkpoint, graphs
from edgeinfer_export.told import Told
from helpers import seeded
golden = seeded.Golden("yolov5u")
data = graphs.build(golden.checkpoint(), size=golden.size).model.SerializeToString(deterministic=True)
print(hashlib.sha256(data).hexdigest())
"""


def test_two_processes_give_the_same_bytes():
    golden = seeded.Golden("yolov5u")
    here = hashlib.sha256(bytes_of(graphs.build(golden.checkpoint(), size=golden.size))).hexdigest()
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{SCRIPT}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "123"},
    )
    assert run.stdout.strip() == here


def test_the_spec_of_a_detector(yolov5):
    spec = graphs.build(yolov5.checkpoint(), size=yolov5.size, name="mine").spec
    assert (spec.name, spec.task, spec.decode) == ("mine", "detect", Boxes("yolov5"))
    assert spec.outputs[0].shape == (1, 378, 8)
    assert (spec.preprocess.fit, spec.preprocess.pad, spec.preprocess.scale) == ("letterbox", 114, 255)
    assert spec.labels == ("class_0", "class_1", "class_2")
    assert modeljson.from_json(json.loads(json.dumps(modeljson.to_json(spec)))) == spec


def test_the_spec_of_a_classifier(resnet):
    spec = graphs.build(resnet.checkpoint()).spec
    assert (spec.name, spec.task, spec.decode) == ("resnet-1-2-1-1", "classify", TopK(5, "softmax"))
    assert spec.inputs[0].shape == (1, 3, 224, 224)
    assert (spec.preprocess.resize, spec.preprocess.interpolation) == (256, "linear-antialias")
    assert graphs.build(resnet.checkpoint(), told=Told(resize="232")).spec.preprocess.resize == 232
    assert graphs.build(resnet.checkpoint(), size=Size(112, 112)).spec.preprocess.resize == 128


@pytest.mark.parametrize(
    ("name", "told", "expected"),
    [
        ("yolo11-cls", UNTOLD, Preprocess(Size(224, 224), fit="resize-crop", resize=224, **SMOOTH)),
        ("yolo11-cls", Told(resize="256"), Preprocess(Size(224, 224), fit="resize-crop", resize=256, **SMOOTH)),
        ("yolov5-cls", UNTOLD, Preprocess(Size(224, 224), fit="resize-crop", resize=224, mean=MEAN, std=STD)),
    ],
)
def test_a_classifier_of_yolo_gets_its_familys_pictures(name, told, expected):
    built = graphs.build(seeded.Golden(name).checkpoint(), told=told)
    assert (built.spec.task, built.spec.decode) == ("classify", TopK(5, "softmax"))
    assert built.spec.preprocess == expected
    # YOLOv5 itself crops before it resizes, and has no YAML
    assert len(built.notes) == (2 if name == "yolov5-cls" else 0)


def test_a_classifier_of_yolo_is_stretched_to_what_is_not_square():
    spec = graphs.build(seeded.Golden("yolo11-cls").checkpoint(), size=Size(64, 96)).spec
    assert (spec.preprocess.fit, spec.preprocess.interpolation) == ("stretch", "linear-antialias")


@pytest.mark.parametrize(
    ("file", "name"),
    [("cfg/26/yolo26n-cls.yaml", "yolo26n-cls"), ("yolo26/yolo11n-cls.yaml", "yolo11n-cls"), (None, "yolo11n-cls")],
)
def test_of_classifiers_whose_blocks_are_alike_the_name_of_the_yaml_tells_the_family(file, name):
    golden = seeded.Golden("yolo11-cls")
    told = {"scale": "n", "scales": {"n": [0.5, 0.25, 1024]}, "yaml_file": file}
    spec = graphs.build(golden.checkpoint(yaml=golden.yaml | told)).spec
    assert (spec.name, spec.provenance.architecture) == (name, name)


def test_a_classifier_of_1000_classes_has_the_names_of_imagenet():
    golden = seeded.Golden("yolov8-cls")
    head = {"model.9.linear.weight": np.zeros((1000, 1280)), "model.9.linear.bias": np.zeros(1000)}
    labels = graphs.build(golden.checkpoint(tensors=golden.tensors | head)).spec.labels
    assert labels == graphs.labels.published(1000)


def test_of_two_heads_the_one_that_is_told_is_taken_and_the_other_is_named():
    golden = seeded.Golden("yolo26")
    taken = graphs.build(golden.checkpoint(), size=golden.size)
    assert (taken.spec.decode, taken.spec.outputs[0].shape) == (Boxes("yolov8"), (1, 7, 126))
    assert "--layout end2end" in taken.notes[0]
    other = graphs.build(golden.checkpoint(), size=golden.size, told=Told(layout="end2end"))
    assert (other.spec.decode, other.spec.outputs[0].shape) == (Boxes("end2end"), (1, 126, 6))
    assert other.notes == ()
    assert graphs.build(golden.checkpoint(), told=Told(layout="end2end")).spec.outputs[0].shape == (1, 300, 6)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("yolo11", "end2end"), ("yolo26-end2end", "yolov8"), ("yolov5", "yolov8"), ("yolo11-cls", "yolov8")],
)
def test_a_head_that_is_not_there_cannot_be_told(name, layout):
    golden = seeded.Golden(name)
    with pytest.raises(UsageError, match="--layout"):
        graphs.build(golden.checkpoint(), size=golden.size, told=Told(layout=layout))
    with pytest.raises(UsageError, match="--layout"):
        graphs.build(seeded.Golden("resnet-basic").checkpoint(), told=Told(layout=layout))


def test_attention_with_other_heads_than_published_is_refused():
    golden = seeded.Golden("yolo11")
    path = "model.10.m.0.attn"
    modules = {path: Module("Attention", {"num_heads": 8})}
    with pytest.raises(ExportError, match=f"layer {path} has num_heads 8, where .* has 2"):
        graphs.build(golden.checkpoint(modules=modules), size=golden.size)
    narrow = {f"{path}.qkv.conv.weight": np.ones((192, 128, 1, 1), np.float32)}
    narrow |= {name: value[:192] for name, value in golden.tensors.items() if name.startswith(f"{path}.qkv.bn")}
    with pytest.raises(ExportError, match="does not fit 2 heads of 64 channels"):
        graphs.build(golden.checkpoint(tensors=golden.tensors | narrow), size=golden.size)


def test_metadata_in_the_words_of_other_tools(yolov5):
    built = graphs.build(yolov5.checkpoint(labels=("a", "b's", "ç")), size=yolov5.size)
    facts = {item.key: item.value for item in built.model.metadata_props}
    assert ast.literal_eval(facts["names"]) == {0: "a", 1: "b's", 2: "ç"}
    assert json.loads(facts["labels"]) == ["a", "b's", "ç"]
    assert (facts["stride"], facts["task"], facts["imgsz"], facts["batch"]) == ("32", "detect", "[64, 96]", "1")
    assert built.model.producer_name == "edgeinfer"


def test_labels_come_from_the_user_then_the_checkpoint(yolov5):
    stored = yolov5.checkpoint(labels=("x", "y", "z"))
    assert graphs.build(stored, size=yolov5.size).spec.labels == ("x", "y", "z")
    assert graphs.build(stored, size=yolov5.size, labels=("a", "b", "c")).spec.labels == ("a", "b", "c")
    with pytest.raises(ExportError, match="2 labels given, the model has 3 classes"):
        graphs.build(stored, size=yolov5.size, labels=("a", "b"))


def test_published_labels():
    assert graphs.labels.published(1000)[258] == "Samoyed"
    assert graphs.labels.published(80)[5] == "bus"
    assert graphs.labels.Names(stored=tuple(map(str, range(80))), data_set=80).of(80)[0] == "person"


def test_digits_are_the_names_of_a_detector_of_digits(yolov5):
    digits = ("0", "1", "2")
    assert graphs.build(yolov5.checkpoint(labels=digits), size=yolov5.size).spec.labels == digits


def test_parameters_count_as_the_reference_counts_them(yolov5, resnet):
    whole = sum(value.size for name, value in resnet.tensors.items() if "running" not in name)
    assert graphs.build(resnet.checkpoint()).spec.provenance.parameters == whole
    gains = sum(value.size for name, value in yolov5.tensors.items() if name.endswith("bn.weight"))
    learned = sum(v.size for name, v in yolov5.tensors.items() if "running" not in name and "anchors" not in name)
    assert graphs.build(yolov5.checkpoint(), size=yolov5.size).spec.provenance.parameters == learned - gains


def test_a_size_that_is_no_multiple_of_the_stride_names_the_nearest(yolov5):
    with pytest.raises(ExportError, match="size 100x96 is not a multiple of 32") as caught:
        graphs.build(yolov5.checkpoint(), size=Size(100, 96))
    assert caught.value.hint == "use 96,96"


def test_the_size_by_default_is_the_published_one(yolov5):
    assert graphs.build(yolov5.checkpoint()).spec.preprocess.size == Size(640, 640)
    four = seeded.Golden("yolov5-four-levels")
    assert graphs.build(four.checkpoint()).spec.preprocess.size == Size(1280, 1280)


@pytest.mark.parametrize("name", ["yolov5", "yolov5-four-levels", "yolov5-transformer", "yolov5u"])
def test_tensors_alone_are_enough_for_yolov5(name):
    golden = seeded.Golden(name)
    alone, told = (graphs.build(golden.checkpoint(**one), size=golden.size) for one in ({"yaml": None}, {}))
    assert list(alone.model.graph.node) == list(told.model.graph.node)
    assert list(alone.model.graph.initializer) == list(told.model.graph.initializer)
    assert alone.notes == (f"seeded.pt {graphs.NO_YAML}",)


def test_tensors_alone_that_are_wired_otherwise_say_what_they_were_taken_for(yolov5):
    wider = np.pad(yolov5.tensors["model.20.cv1.conv.weight"], [(0, 0), (0, 8), (0, 0), (0, 0)])
    for changed in ({"model.20.cv1.conv.weight": wider}, {"model.20.gate": wider}):
        tensors = yolov5.tensors | changed
        with pytest.raises(ExportError, match=r"model\.20\..*; seeded\.pt has no YAML: it is taken") as caught:
            graphs.build(yolov5.checkpoint(yaml=None, tensors=tensors), size=yolov5.size)
        assert "save the whole model" in caught.value.hint
        with pytest.raises(ExportError, match=r"model\.20") as caught:
            graphs.build(yolov5.checkpoint(tensors=tensors), size=yolov5.size)
        assert "YAML" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "words", "size", "notes"),
    [
        (
            {"train_args": {"imgsz": 96}},
            (),
            96,
            ["best.pt: its input is 96x96, at which it was trained; --imgsz takes"],
        ),
        ({"train_args": {"imgsz": 96}}, ("--imgsz", "64"), 64, []),
        ({"train_args": {"imgsz": 640}}, (), 640, []),
        ({"opt": {"imgsz": 96}}, (), 640, []),
    ],
    ids=["Ultralytics", "asked for", "usual", "YOLOv5"],
)
def test_a_model_is_exported_at_the_size_that_its_training_program_exports_it_at(
    tmp_path, capsys, told, words, size, notes
):
    golden = seeded.Golden("yolov5u")
    weights = {name: pickling.Tensor(array) for name, array in golden.tensors.items()}
    file = tmp_path / "best.pt"
    file.write_bytes(pickling.archive({"state_dict": weights, "yaml": golden.yaml, **told}))
    assert cli.main(["export", str(file), "-o", str(tmp_path / "b"), "--plan", "--json", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["size"] == [size, size]
    assert [note[: len(start)] for note, start in zip(plan["notes"], notes, strict=True)] == notes


def test_what_the_author_of_a_distrusted_file_is_asked_for_is_exported(tmp_path):
    golden = seeded.Golden("yolov5u")
    weights = {name: pickling.Tensor(array) for name, array in golden.tensors.items()}
    file = tmp_path / "safe.pt"
    file.write_bytes(pickling.archive({"model": weights, "yaml": golden.yaml}))
    alone, whole = (graphs.build(one, size=golden.size) for one in (checkpoint.read(file), golden.checkpoint()))
    assert alone.model.graph.SerializeToString() == whole.model.graph.SerializeToString()


def test_a_resnet_of_two_kinds_of_blocks_is_refused_as_what_it_is(resnet):
    """As timm's test_resnet is, which is no damaged file."""
    third = {"layer3.0.conv3.weight": np.ones((4, 4, 1, 1), np.float32)}
    with pytest.raises(ExportError, match=r"layer1\.0 has two convolutions, layer3\.0 three, as in timm's") as caught:
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | third))
    assert "ONNX file that the model's own code exports" in caught.value.hint


def test_a_resnet_for_small_pictures_is_refused(resnet):
    stem = resnet.tensors["conv1.weight"][:, :, 2:5, 2:5]
    with pytest.raises(ExportError, match="expected a 7x7 kernel"):
        graphs.build(resnet.checkpoint(tensors=resnet.tensors | {"conv1.weight": stem}))


def test_what_is_no_known_model_is_said():
    golden = seeded.Golden("yolov5-resnet")
    with pytest.raises(ExportError, match="neither a ResNet nor a YOLO model") as caught:
        graphs.build(golden.checkpoint(yaml=None))
    assert "--via ultralytics" in caught.value.hint
    assert f"{len(golden.tensors)} tensors, model.0" in str(caught.value)


def test_a_classifier_of_yolov5_is_pointed_to_its_own_exporter(yolov5):
    with pytest.raises(ExportError, match=r"ClassificationModel\) is neither") as caught:
        tensors = {"model.0.conv.weight": np.ones((8, 3, 3, 3), np.float32)}
        graphs.build(yolov5.checkpoint(origin="models.yolo.ClassificationModel", yaml=None, tensors=tensors))
    assert "export.py --include onnx" in caught.value.hint


def test_what_is_taken_for_granted_of_a_model_without_yaml_is_said(yolov5):
    assert graphs.build(yolov5.checkpoint(), size=yolov5.size).notes == ()
    (note,) = graphs.build(fullsize.yolov5n(), size=yolov5.size).notes
    assert "yolov5n.pt has no YAML" in note
    assert "SiLU" in note
