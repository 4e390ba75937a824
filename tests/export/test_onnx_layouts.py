"""How the outputs of an ONNX file are laid out is recognised, or told; it is never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.cli import main
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.spec import Boxes, Size, TopK
from edgeinfer_export import layouts, metadata
from edgeinfer_export.told import Told
from helpers import foreign
from helpers.foreign import exported, refusal


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


@pytest.mark.parametrize("layout", ["yolov5", "end2end"])
def test_a_layout_that_is_told_settles_what_is_ambiguous(tmp_path, layout):
    model = foreign.end2end(252, size=(64, 64), metadata={})
    options = {"told": Told(layout), "labels": ("only",) if layout == "yolov5" else ("a", "b")}

    assert exported(tmp_path, model, **options).spec.decode.layout == layout


def test_an_ambiguous_layout_is_an_error_that_lists_the_candidates(tmp_path):
    said = refusal(tmp_path, foreign.end2end(252, size=(64, 64), metadata={}))

    assert "yolov5 of output0, end2end of output0" in said
    assert "--layout" in said


@pytest.mark.parametrize("labels", [(), ("only",)])
def test_who_told_the_class_names_is_not_asked_for_them(tmp_path, labels):
    said = refusal(tmp_path, foreign.end2end(1700, metadata={}), labels=labels)

    assert ("--labels" in said) == (not labels)


def test_a_classifier_may_have_two_classes_and_not_one():
    def recognised(classes):
        return layouts.recognise({"out": (1, classes)}, Size(64, 64), metadata.Facts(), 0, told="", where="x")

    assert recognised(2) == layouts.Layout("classes", "out", 2)
    with pytest.raises(ExportError, match="do not fit any known layout"):
        recognised(1)


def test_an_unknown_layout_is_an_error_that_lists_all(tmp_path):
    said = refusal(tmp_path, foreign.end2end(1700, metadata={}))

    assert "output0 (1, 1700, 6)" in said
    assert all(shape in said for shape in ("(n, anchors, 5 + classes)", "(n, 4 + classes, anchors)", "(n, classes)"))


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


def test_of_several_outputs_of_the_layout_told_the_labels_settle_which():
    def of(shapes, labels):
        told = {"told": "classes", "where": "x"}
        return layouts.recognise(shapes, Size(32, 32), metadata.Facts(), labels, **told)

    two = {"logits": (1, 5), "features": (1, 512)}
    assert of(two, 5).output == "logits"
    for shapes, labels in ((two, 0), ({"logits": (1, 5), "others": (1, 5)}, 5)):
        with pytest.raises(ExportError, match="more than one layout") as refused:
            of(shapes, labels)
        assert refused.value.hint == "name the classes with --labels FILE, or export it again with one output alone"


def test_a_word_that_is_no_layout_or_normalisation_is_wrong_usage():
    for words in (("yolov9", ""), ("", "caffe"), ("", "", "float64")):
        with pytest.raises(UsageError) as refused:
            Told(*words)
        assert refused.value.hint
