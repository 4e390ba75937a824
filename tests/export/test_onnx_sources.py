"""ONNX files of other tools become bundles: layouts recognised, shapes settled, weights gathered."""

import json
import tracemalloc
from contextlib import suppress

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from edgeinfer import load
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import EdgeInferError, ExportError, UsageError
from edgeinfer.spec import Batch, Boxes, Size, TopK
from edgeinfer_export import graphs, layouts, metadata, onnxreading, onnxsource
from edgeinfer_export.export import Options, export
from edgeinfer_export.heldout import Sources
from edgeinfer_export.told import Told
from helpers import foreign


def exported(tmp_path, model, **options):
    return Bundle.open(
        export(foreign.save(model, tmp_path / "in" / "model.onnx"), tmp_path / "out", Options(**options))
    )


def refusal(tmp_path, model, **options):
    """The error's text and hint, once it is sure that nothing was written."""
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, model, **options)
    assert not (tmp_path / "out").exists()
    assert len(str(caught.value)) < 700
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("model", "decode", "shape"),
    [
        (foreign.yolov5(), Boxes("yolov5"), (1, 378, 8)),
        (foreign.yolov8(), Boxes("yolov8"), (1, 7, 126)),
        (foreign.yolov5(1), Boxes("yolov5"), (1, 378, 6)),
        (foreign.yolov5(metadata={}), Boxes("yolov5"), (1, 378, 8)),
        (foreign.yolov8(metadata={}), Boxes("yolov8"), (1, 7, 126)),
        (foreign.end2end(), Boxes("end2end"), (1, 300, 6)),
        (foreign.end2end(metadata={"author": "Ultralytics", "names": foreign.names(2)}), Boxes("end2end"), (1, 300, 6)),
        (foreign.classifier(), TopK(5), (1, 1000)),
        (foreign.classifier(7, True, metadata={**foreign.ULTRALYTICS, "task": "classify"}), TopK(5, "none"), (1, 7)),
    ],
    ids=[
        "yolov5",
        "yolov8",
        "one-class",
        "yolov5-bare",
        "yolov8-bare",
        "end2end",
        "end2end-unsaid",
        "torchvision",
        "ultralytics-cls",
    ],
)
def test_a_layout_is_recognised_and_the_bundle_verifies(tmp_path, model, decode, shape):
    bundle = exported(tmp_path, model)

    assert bundle.spec.decode == decode
    assert bundle.spec.outputs[0].shape == shape
    assert len(bundle.spec.golden) == 2
    assert main(["verify", str(bundle.path)]) == 0


def test_the_graph_computes_what_it_did_before(tmp_path):
    model = foreign.yolov5(size=("height", "width"), batch="batch")
    bundle = exported(tmp_path, model, size=Size(64, 128), batch=Batch(1, 4))
    pictures = np.random.default_rng(0).random((3, 3, 64, 128), np.float32)

    def run(file):
        return onnxruntime.InferenceSession(file).run(None, {"images": pictures})[0]

    assert np.array_equal(run(tmp_path / "in" / "model.onnx"), run(bundle.path / "model.fp32.onnx"))
    with load(bundle) as loaded:
        assert len(loaded.batch([np.zeros((50, 50, 3), np.uint8)] * 5)) == 5


def test_names_licence_and_size_come_from_ultralytics_metadata(tmp_path):
    metadata = {
        **foreign.ULTRALYTICS,
        "names": foreign.names(3),
        "imgsz": "[64, 32]",
        "description": "Ultralytics YOLO11n model trained on coco.yaml",
        "license": "AGPL-3.0 License",
    }
    spec = exported(tmp_path, foreign.yolov8(size=("height", "width"), metadata=metadata)).spec

    assert spec.labels == ("thing 0", "thing 1", "thing 2")
    assert spec.preprocess.size == Size(64, 32)
    assert (spec.provenance.architecture, spec.provenance.license) == ("YOLO11n", "AGPL-3.0 License")


def test_what_a_file_says_of_itself_does_not_steer_the_terminal(tmp_path, capsys):
    metadata = {**foreign.ULTRALYTICS, "names": foreign.names(1), "license": "free\x1b[2J"}
    file = foreign.save(foreign.yolov8(1, metadata=metadata), tmp_path / "model.onnx")

    assert main(["export", str(file), "-o", str(tmp_path / "out\x1b[1m")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}/out[1m: model, detect, 1 class, 64x96, batch 1" in told
    assert "  licence: free[2J" in told
    assert all(map(str.isprintable, told))


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


@pytest.mark.parametrize("layout", ["yolov5", "end2end"])
def test_a_layout_that_is_told_settles_what_is_ambiguous(tmp_path, layout):
    model = foreign.end2end(252, size=(64, 64), metadata={})
    options = {"told": Told(layout), "labels": ("only",) if layout == "yolov5" else ("a", "b")}

    assert exported(tmp_path, model, **options).spec.decode.layout == layout


def test_an_ambiguous_layout_is_an_error_that_lists_the_candidates(tmp_path):
    said = refusal(tmp_path, foreign.end2end(252, size=(64, 64), metadata={}))

    assert "yolov5 of output0, end2end of output0" in said
    assert "--layout" in said


def test_an_unknown_layout_is_an_error_that_lists_all(tmp_path):
    said = refusal(tmp_path, foreign.end2end(1700, metadata={}))

    assert "output0 (1, 1700, 6)" in said
    assert all(shape in said for shape in ("(n, anchors, 5 + classes)", "(n, 4 + classes, anchors)", "(n, classes)"))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (foreign.yolov8(size=("h", "w"), metadata={}), {}, "--imgsz 640"),
        (foreign.yolov8(), {"size": Size(96, 96)}, "fixed input of 64x96"),
        (foreign.yolov8(batch=2), {"batch": Batch(1, 4)}, "fixed batch of 2"),
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


def changed(change):
    model = foreign.yolov8()
    change(model)
    return model


def channels_last(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", 1, [1, 64, 96, 3]))


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", 1, [1]))


def in_a_branch(model):
    inner = helper.make_graph(
        [helper.make_node("Mystery", [], ["y"], name="/deep/Mystery")],
        "then",
        [],
        [helper.make_empty_tensor_value_info("y")],
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


def for_ever(model):
    """A loop of 2^62 rounds, which neither Ctrl-C nor SIGTERM would stop."""
    numbers = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9), ("more", 9))]
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["more"])], "body", numbers[:2], numbers[2:])
    for name, value in (("rounds", np.int64(1 << 62)), ("going", np.bool_(True))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.append(helper.make_node("Loop", ["rounds", "going"], [], name="/round", body=body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: setattr(model.graph.node[1], "domain", "com.acme"),
            "node /p8.conv is the operator Conv of com.acme",
        ),
        (
            lambda model: setattr(model.graph.node[1], "op_type", "EfficientNMS_TRT"),
            "node /p8.conv is the operator Eff",
        ),
        (in_a_branch, "node /deep/Mystery"),
        (for_ever, "node /round is a Loop"),
        (lambda model: setattr(model.opset_import[0], "version", 99), "opset 99"),
        (lambda model: setattr(model.opset_import[0], "version", 3), "opset 3"),
        (channels_last, "expected 3 channels first"),
        (second_input, "2 inputs (images, more)"),
        (lambda model: setattr(model.graph.node[1].attribute.add(), "name", "odd"), "ONNX Runtime cannot run it"),
        (lambda model: model.graph.ClearField("node"), "no graph"),
    ],
    ids=[
        "domain",
        "plugin",
        "branch",
        "loop",
        "new-opset",
        "old-opset",
        "channels-last",
        "two-inputs",
        "attribute",
        "empty",
    ],
)
def test_a_graph_that_cannot_run_everywhere_is_refused_by_name(tmp_path, change, message):
    assert message in refusal(tmp_path, changed(change))


def test_a_new_opset_is_a_warning(tmp_path, capsys):
    source = foreign.save(foreign.yolov8(opset=19), tmp_path / "model.onnx")

    assert main(["export", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "warning: model.onnx has opset 19: TensorRT 8" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<!DOCTYPE html>", foreign.yolov8().SerializeToString()[:-40]])
def test_a_file_that_is_no_onnx_is_one_error_and_one_hint(tmp_path, capsys, content):
    (tmp_path / "model.onnx").write_bytes(content)

    assert main(["export", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "hint"]
    assert not (tmp_path / "out").exists()


def external(tmp_path, location):
    """A model whose weights lie in a file, and the file's place in the model changed afterwards."""
    folder = tmp_path / "in"
    folder.mkdir()
    model = foreign.yolov8()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, folder / "model.onnx")
    stored = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(stored.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin"])
def test_weights_in_a_file_beside_the_onnx_are_put_inside(tmp_path, location):
    bundle = Bundle.open(export(external(tmp_path, location), tmp_path / "out"))

    assert len(list(bundle.path.glob("*.onnx*"))) == 1
    assert main(["verify", str(bundle.path)]) == 0


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "a/../../secret.bin"])
def test_weights_outside_the_folder_are_never_read(tmp_path, location):
    file = external(tmp_path, location)
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 100_000)
    (file.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (file.parent / "a").mkdir()

    with pytest.raises(ExportError, match=rf"keeps weights in '{location}', which leads outside its folder"):
        export(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("location", ["absent.bin", "../absent.bin", "a\0b", ""])
def test_weights_that_are_not_there_are_named(tmp_path, location):
    with pytest.raises(ExportError) as caught:
        export(external(tmp_path, location), tmp_path / "out")
    assert f"keeps weights in {location!r}, which is not there" in str(caught.value)
    assert "beside" in caught.value.hint
    assert not (tmp_path / "out").exists()


def bomb(text):
    return foreign.yolov8(metadata={**foreign.ULTRALYTICS, "names": text})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "{0: " * 20_000,
        "{" + "0: 'x', " * 200_000 + "}",
        "{0: 'a'",
        "[" + "9" * 5_000 + "]",
        "{0: b'a', 1: {2}}",
    ],
    ids=["deep-list", "deep-dict", "long", "cut", "number", "set"],
)
def test_hostile_names_are_an_error_or_no_names(tmp_path, text):
    try:
        bundle = exported(tmp_path, bomb(text))
    except ExportError as error:
        assert "metadata" in str(error)
    else:
        assert bundle.spec.labels[0] == "class_0"


def test_names_are_read_and_never_evaluated(tmp_path):
    mark = tmp_path / "ran"
    refusal(tmp_path, bomb(f"[open({str(mark)!r}, 'w').close()]"))

    assert not mark.exists()


@pytest.mark.parametrize("text", ["[" + "[]," * 60_000 + "]", "[" + "-1," * 60_000 + "]", "['" + "\\'" * 60_000 + "']"])
def test_metadata_takes_no_more_memory_than_a_small_factor_of_its_text(text):
    tracemalloc.start()
    try:
        with suppress(ExportError):
            metadata.read({"names": text}, "model.onnx")
        assert tracemalloc.get_traced_memory()[1] < 40 * len(text)
    finally:
        tracemalloc.stop()


@given(st.lists(st.text(), min_size=1))
def test_class_names_are_read_as_python_writes_them(names):
    facts = metadata.read({"names": str(dict(enumerate(names))), "args": str({"half": True, "opset": None})}, "x.onnx")

    assert facts.labels == tuple(name.encode(errors="replace").decode() for name in names)
    assert facts.precision == "fp16"


@pytest.mark.parametrize("key", ["labels", "preprocess", "decode"])
def test_facts_of_ours_that_were_tampered_with_are_refused(tmp_path, key):
    file = exported(tmp_path / "first", foreign.yolov8()).path / "model.fp32.onnx"
    model = onnx.load(file)
    values = {"labels": ["a"] * 99, "preprocess": {"fit": "twist", "height": 64, "width": 96}, "decode": {"kind": "x"}}
    props = {prop.key: prop.value for prop in model.metadata_props}
    helper.set_model_props(model, {**props, key: json.dumps(values[key])})

    assert "model.onnx" in refusal(tmp_path, model)


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
    model = foreign.resizing(10, mode="linear")
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


@given(
    name=st.sampled_from(["yolov5", "yolov8"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(2, 365),
    steps=st.sampled_from(layouts.STRIDES),
)
def test_no_head_at_any_size_is_taken_for_another_layout(name, height, width, classes, steps):
    size = Size(128 * height, 128 * width)
    cells = sum(size.height // step * (size.width // step) for step in steps)
    shape = (1, 3 * cells, 5 + classes) if name == "yolov5" else (1, 4 + classes, cells)
    try:
        found = layouts.recognise({"out": shape}, size, metadata.Facts(), 0, told="", where="x")
    except ExportError as error:
        # (1, 60, 84) at 64x64 is either: then both are named, and nothing is chosen
        assert f"{name} of out" in str(error)
        assert "more than one layout" in str(error)
        assert height * width < 30
    else:
        assert (found.name, found.classes) == (name, classes)


def test_a_dimension_of_minus_one_is_an_open_one(tmp_path):
    bundle = exported(tmp_path, foreign.yolov8(batch=-1, size=(-1, -1)), size=Size(64, 64), batch=Batch(1, 2))

    assert bundle.spec.inputs[0].shape == (Batch(1, 2), 3, 64, 64)


GOOD = [
    model.SerializeToString()
    for model in (
        foreign.yolov5(2, size=(64, 64)),
        foreign.yolov8(2, size=("h", "w")),
        foreign.classifier(4, size=(64, 64)),
    )
]
DAMAGE = st.tuples(st.integers(0, 1 << 16), st.integers(0, 20), st.binary(max_size=5))


# the same files every time: a crash inside ONNX Runtime would end the whole test run
@settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(good=st.sampled_from(GOOD), damages=st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_damaged_file_is_a_graph_or_our_error(tmp_path, capfd, good, damages):
    data = bytearray(good)
    for place, length, content in damages:
        at = place % len(data)
        data[at : at + length] = content
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        onnxsource.build(tmp_path / "model.onnx", size=Size(64, 64), told=Told(normalize="unit"))
    except EdgeInferError as error:
        assert len(str(error)) < 900
    assert capfd.readouterr() == ("", "")


def test_a_name_cannot_steer_the_terminal(tmp_path, capsys):
    model = foreign.yolov8()
    model.graph.node[0].name, model.graph.node[0].domain = "\033[2J\007node", "com.acme"

    assert main(["export", str(foreign.save(model, tmp_path / "model.onnx")), "-o", str(tmp_path / "out")]) == 1
    assert "[2Jnode" in (said := capsys.readouterr().err)
    assert all(character.isprintable() or character == "\n" for character in said)


@pytest.mark.parametrize(("name", "flag"), [("model.onnx", "--io=float16"), ("model.pt", "--layout=yolov5")])
def test_a_flag_that_would_be_passed_over_is_wrong_usage(tmp_path, capsys, name, flag):
    file = foreign.save(foreign.yolov8(), tmp_path / name)

    assert main(["export", str(file), flag, "-o", str(tmp_path / "out")]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_a_word_that_is_no_layout_or_normalisation_is_wrong_usage():
    for words in (("yolov9", ""), ("", "caffe"), ("", "", "float64")):
        with pytest.raises(UsageError):
            Told(*words)
