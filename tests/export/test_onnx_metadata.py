"""What exporters write into an ONNX file is read, and neither evaluated nor trusted."""

import json
import tracemalloc
from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer.spec import Size
from edgeinfer_export import metadata
from helpers import foreign
from helpers.foreign import exported, refusal


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


def test_class_names_that_are_numbers_stay_with_the_number_of_their_class():
    """As YOLOv5 writes them where YAML made numbers of the names: a digit's reader may start with 1."""
    assert metadata.read({"names": "{0: 1, 1: 2, 2: 0}"}, "x.onnx").labels == ("1", "2", "0")


@pytest.mark.parametrize(
    ("words", "architecture"),
    [
        ("Ultralytics YOLO11n model trained on coco.yaml", "YOLO11n"),
        ("Ultralytics YOLO11n model", "YOLO11n"),
        ("Ultralytics best detection model", ""),
        ("Ultralytics YOLO11n", ""),
        ("Another YOLO11n model", ""),
        ("", ""),
    ],
)
def test_an_architecture_is_read_from_a_description_as_ultralytics_writes_it(words, architecture):
    assert metadata.read({"description": words}, "x.onnx").architecture == architecture


@pytest.mark.parametrize(
    ("told", "stride"), [({}, 1), ({"stride": "32"}, 32), ({"stride": "0"}, 1), ({"stride": "[8, 16]"}, 1)]
)
def test_a_stride_is_one_unless_it_is_told_in_one_number(told, stride):
    assert metadata.read(told, "x.onnx").stride == stride


@pytest.mark.parametrize("key", ["labels", "preprocess", "decode"])
def test_facts_of_ours_that_were_tampered_with_are_refused(tmp_path, key):
    file = exported(tmp_path / "first", foreign.yolov8()).path / "model.fp32.onnx"
    model = onnx.load(file)
    values = {"labels": ["a"] * 99, "preprocess": {"fit": "twist", "height": 64, "width": 96}, "decode": {"kind": "x"}}
    props = {prop.key: prop.value for prop in model.metadata_props}
    helper.set_model_props(model, {**props, key: json.dumps(values[key])})

    assert "model.onnx" in refusal(tmp_path, model)
