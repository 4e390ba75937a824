"""Rows and facts of a YAML that are made to run code, to take memory without end, or mean nothing: one clear error."""

import contextlib
import json

import pytest

from edgeinfer.errors import EdgeInferError, ExportError
from edgeinfer_export import graphs
from helpers import seeded


def test_a_level_larger_than_the_picture_is_refused(yolov5):
    rows = [[-1, 1, "Conv", [8, 6, 2, 2]], *[[-1, 1, "nn.Upsample", [None, 8, "nearest"]]] * 3]
    yaml = yolov5.yaml | {"backbone": rows, "head": [[[-1, -1, -1], 1, "Detect", [3]]]}
    with pytest.raises(ExportError, match="does not divide 64x96"):
        graphs.build(yolov5.checkpoint(yaml=yaml), size=yolov5.size)


@pytest.mark.parametrize(
    "rows",
    [
        [[-1, 100, "nn.Upsample", [None, 8, "nearest"]]] * 900,
        [[-1, 100, "nn.ZeroPad2d", [32]]] * 900,
        [[-1, 1, "nn.Upsample", [None, 8, "nearest"]], [-1, 1, "Contract", [8]]] * 450,
        [[[-1] * 1000, 1, "Concat", [1]]] * 900,
    ],
    ids=["rows", "padding", "channels of cells", "channels"],
)
def test_what_grows_without_end_is_refused_at_its_layer(yolov5, rows):
    """A number of so many digits that Python prints none would come of it."""
    yaml = yolov5.yaml | {"depth_multiple": 1.0, "backbone": rows, "head": [[[-1, -1, -1], 1, "Detect", [3]]]}
    with pytest.raises(ExportError, match=r"layer \d+ \(\w+\): gives more than 65536 channels, rows or columns"):
        graphs.build(yolov5.checkpoint(yaml=yaml), size=yolov5.size)


def test_strides_without_end_are_refused(yolov5):
    yaml = yolov5.yaml | {"depth_multiple": 1.0, "backbone": [[-1, 100, "Conv", [64, 3, 60000]]] * 50}
    with pytest.raises(ExportError, match="strides multiply to more than 1024"):
        graphs.build(yolov5.checkpoint(yaml=yaml), size=yolov5.size)


def changed(yaml, index, row):
    value = json.loads(json.dumps(yaml))
    part = "backbone" if index < len(value["backbone"]) else "head"
    value[part][index - (0 if part == "backbone" else len(value["backbone"]))] = row
    return value


HOSTILE_ROWS = {
    "a long text for a number": [-1, 1, "Conv", [8, "3" * 5000, 2]],
    "a thousand arguments": [-1, 1, "nn.Upsample", [None, 2, "nearest", *range(1000)]],
    "a number of 400 digits": [-1, 1, "Conv", [8, 10**400, 2]],
    "code as a module": [-1, 1, "__import__('os').system('false')", [64]],
    "a module nobody knows": [-1, 1, "RepC3", [128, 3, 2]],
    "code as an argument": [-1, 1, "Conv", ["__import__('os')", "exit()", 2]],
    "endless repeats": [-1, 10**9, "C3", [128]],
    "no repeats": [-1, 0, "C3", [128]],
    "repeats that are no number": [-1, True, "Conv", [128, 3, 2]],
    "a giant kernel": [-1, 1, "Conv", [128, 10**12, 2]],
    "a giant stride": [-1, 1, "Conv", [128, 3, 10**9]],
    "a negative padding": [-1, 1, "Conv", [128, 3, 2, -5]],
    "groups that do not divide": [-1, 1, "Conv", [128, 3, 2, None, 7]],
    "a layer before the first": [-5, 1, "Conv", [128, 3, 2]],
    "itself": [1, 1, "Conv", [128, 3, 2]],
    "a layer after it": [99, 1, "Conv", [128, 3, 2]],
    "a source that is text": ["0", 1, "Conv", [128, 3, 2]],
    "no source": [[], 1, "Conv", [128, 3, 2]],
    "two sources": [[0, 0], 1, "Conv", [128, 3, 2]],
    "too few entries": [-1, 1, "Conv"],
    "not a list": "Conv",
    "arguments that are no list": [-1, 1, "Conv", 128],
    "nested lists": [-1, 1, "Conv", [[[[]]]]],
    "no arguments": [-1, 1, "Conv", []],
    "a giant upsampling": [-1, 1, "nn.Upsample", [None, 60000, "nearest"]],
    "endless upsampling": [-1, 99, "nn.Upsample", [None, 8, "nearest"]],
    "endless strides": [-1, 99, "nn.MaxPool2d", [2, 2, 0]],
    "other interpolation": [-1, 1, "nn.Upsample", [None, 2, "bilinear"]],
    "a pool larger than the picture": [-1, 1, "nn.MaxPool2d", [999, 1, 0]],
    "joining along the rows": [[-1, 0], 1, "Concat", [2]],
    "a head in the middle": [[0], 1, "Detect", [3]],
}


@pytest.mark.parametrize("row", HOSTILE_ROWS.values(), ids=HOSTILE_ROWS)
def test_a_hostile_row_gives_one_clear_error(yolov5, row):
    with pytest.raises(ExportError) as caught:
        graphs.build(yolov5.checkpoint(yaml=changed(yolov5.yaml, 1, row)), size=yolov5.size)
    assert caught.value.hint
    assert len(str(caught.value)) < 300


HOSTILE_FACTS = [
    {"backbone": None},
    {"backbone": [[-1, 1, "Conv", [8, 3, 1]]] * 2000},
    {"backbone": [], "head": []},
    {"head": {"a": 1}},
    {"depth_multiple": 1e300},
    {"depth_multiple": float("nan")},
    {"depth_multiple": "0.33"},
    {"depth_multiple": -1},
    {"scales": {"n": 5}},
    {"scales": {"n": [0.33]}, "scale": ["n"]},
    {"scales": {"n": [0.33]}, "scale": "x"},
    {"activation": "__import__('os').system('false')"},
    {"activation": "nn.SiLU().__class__"},
    {"activation": "nn.LeakyReLU(1e9999)"},
    {"activation": 5},
]


@pytest.mark.parametrize("facts", HOSTILE_FACTS, ids=str)
def test_a_hostile_fact_gives_one_clear_error(yolov5, facts):
    with pytest.raises(ExportError) as caught:
        graphs.build(yolov5.checkpoint(yaml=yolov5.yaml | facts), size=yolov5.size)
    assert caught.value.hint
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("head", ["Segment26", "OBB", "Pose", "Depth", "SemanticSegment"])
def test_a_head_of_another_task_is_named_and_no_way_promised(head):
    golden = seeded.Golden("yolo26")
    yaml = changed(golden.yaml, 23, [[16, 19, 22], 1, head, [3]])
    with pytest.raises(ExportError, match=f"module {head} is not Detect") as caught:
        graphs.build(golden.checkpoint(yaml=yaml), size=golden.size)
    assert caught.value.hint == graphs.yolo.NO_SUCH_TASK


def test_an_unknown_module_is_named_with_its_layer(yolov5):
    row = HOSTILE_ROWS["a module nobody knows"]
    with pytest.raises(ExportError, match="layer 1: module RepC3 is not one of") as caught:
        graphs.build(yolov5.checkpoint(yaml=changed(yolov5.yaml, 1, row)), size=yolov5.size)
    assert "--via ultralytics" in caught.value.hint


def test_no_value_in_any_place_of_the_yaml_escapes_as_another_error(yolov5):
    odd = [None, -1, 0, 10**30, 1.5, float("inf"), "x", "nc", [], {}, [[-1]], True]
    for index in (0, 1, 2, 9, 11, 12, 24):
        rows = yolov5.yaml["backbone"] + yolov5.yaml["head"]
        for place in range(4):
            for value in odd:
                row = [*rows[index][:place], value, *rows[index][place + 1 :]]
                for argument in (row, [*row[:3], [value, value, value, value, value]]):
                    try_to_build(yolov5, changed(yolov5.yaml, index, argument))


def try_to_build(golden, yaml):
    with contextlib.suppress(EdgeInferError):
        graphs.build(golden.checkpoint(yaml=yaml), size=golden.size)
