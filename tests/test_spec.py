"""ModelSpec and model.json: round trips, refusals, and the law of split()."""

import dataclasses
import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import modeljson
from edgeinfer.errors import BundleError, EdgeInferError, SpecError
from edgeinfer.spec import (
    Artifact,
    Batch,
    Boxes,
    Expected,
    Golden,
    ModelSpec,
    Preprocess,
    Provenance,
    Size,
    TensorSpec,
    TopK,
)

SHA = "ab" * 32
DETECT = ModelSpec(
    name="tiny",
    task="detect",
    inputs=(TensorSpec("images", (Batch(1, 8), 3, 64, 96)),),
    outputs=(TensorSpec("output0", (Batch(1, 8), 378, 7)),),
    preprocess=Preprocess(Size(64, 96)),
    decode=Boxes("yolov5", class_agnostic=True),
    labels=("cat", "dög"),
    provenance=Provenance(source="tiny.pt", sha256=SHA, parameters=7, gflops=0.5),
    artifacts=(
        Artifact("model.fp32.onnx", "onnx", "fp32", SHA),
        Artifact("e/x.plan", "rtx", "fp16", SHA, "", "rtx 1.7", {"sm": "86"}, {"map_delta": -0.4}),
    ),
    golden=(Golden("golden/0.png", (Expected(1, 0.5, (1.0, 2.0, 3.0, 4.0)),)),),
)
CLASSIFY = ModelSpec(
    name="net",
    task="classify",
    inputs=(TensorSpec("input", (1, 3, 224, 224)),),
    outputs=(TensorSpec("logits", (1, 2)),),
    preprocess=Preprocess(Size(224, 224), fit="resize-crop", resize=256, interpolation="linear-antialias"),
    decode=TopK(2),
    labels=("cat", "dog"),
)
SUPPRESSED = dataclasses.replace(
    DETECT,
    decode=Boxes("yolov5", limit=20, where="graph"),
    outputs=(
        TensorSpec("num_dets", (Batch(1, 8), 1), "int32"),
        TensorSpec("boxes", (Batch(1, 8), 20, 4)),
        TensorSpec("scores", (Batch(1, 8), 20)),
        TensorSpec("classes", (Batch(1, 8), 20), "int32"),
    ),
)


def changed(spec, path, value):
    """The spec's JSON with the value at `path` replaced."""
    tree = json.loads(json.dumps(modeljson.to_json(spec)))
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tree


@pytest.mark.parametrize("spec", [DETECT, CLASSIFY, SUPPRESSED], ids=["detect", "classify", "suppressed"])
def test_a_spec_survives_being_written_and_read(spec, tmp_path):
    modeljson.write(spec, tmp_path / "model.json")

    assert modeljson.read(tmp_path / "model.json") == spec


def test_model_json_has_the_documented_keys_in_their_order():
    keys = "schema name task inputs outputs preprocess decode labels provenance artifacts golden"

    assert " ".join(modeljson.to_json(DETECT)) == keys


def test_a_symbolic_batch_is_written_as_name_min_max():
    assert modeljson.to_json(DETECT)["inputs"][0]["shape"] == [["batch", 1, 8], 3, 64, 96]


@pytest.mark.parametrize(
    "path",
    [
        ("surprise",),
        ("inputs", 0, "surprise"),
        ("preprocess", "surprise"),
        ("decode", "surprise"),
        ("provenance", "surprise"),
        ("artifacts", 0, "surprise"),
        ("golden", 0, "surprise"),
        ("golden", 0, "expect", 0, "surprise"),
    ],
    ids=str,
)
def test_an_unknown_key_is_refused_by_name_at_every_level(path):
    with pytest.raises(SpecError, match="unknown key 'surprise'"):
        modeljson.from_json(changed(DETECT, path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema 2 is not 1"),
        (("name",), 7, "name must be str, got 7"),
        (("name",), "a/b", "not a plain name"),
        (("name",), "", "not a plain name"),
        (("task",), "segment", "task 'segment' is not one of detect, classify"),
        (("inputs",), [], "needs inputs"),
        (("inputs", 0, "shape"), [1, 3, 64, 64], "is not the preprocess's"),
        (("inputs", 0, "shape", 0), ["batch", 8, 1], "batch 8-1"),
        (("inputs", 0, "shape", 0), ["batch", 0, 8], "batch 0-8"),
        (("inputs", 0, "shape", 0), ["batch", 1, 1025], "batch 1-1025 is not within 1-1024"),
        (("inputs", 0, "shape", 1), ["batch", 1, 3], "dimension 1 is Batch"),
        (("inputs", 0, "name"), "", "a tensor has no name"),
        (("inputs", 0, "dtype"), "float64", "dtype 'float64'"),
        (("outputs", 0, "shape"), [1, 378, 9], "does not fit yolov5 with 2 labels"),
        (("outputs", 0, "shape"), [1, 378], "does not fit yolov5 with 2 labels"),
        (("outputs", 0, "shape", 1), 0, "dimension 1 is 0"),
        (("preprocess", "height"), True, "height must be int, got True"),
        (("preprocess", "height"), 0, "below 1 pixel"),
        (("preprocess", "width"), 16385, "size 64x16385 is above 16384"),
        (("preprocess", "pad"), 256, "pad 256"),
        (("preprocess", "pad"), -1, "pad -1"),
        (("preprocess", "color"), "hsv", "color 'hsv'"),
        (("preprocess", "interpolation"), "nearest", "interpolation 'nearest'"),
        (("preprocess", "where"), "cloud", "preprocess: where 'cloud'"),
        (("preprocess", "scale"), 0, "above 0"),
        (("preprocess", "std"), [1, 1, 0], "above 0"),
        (("preprocess", "mean"), [1, 1], "three numbers"),
        (("preprocess", "fit"), "squeeze", "fit 'squeeze'"),
        (("preprocess", "resize"), 256, "resize goes with"),
        (("decode", "kind"), "masks", "kind 'masks'"),
        (("decode", "score"), 1.5, "score 1.5"),
        (("decode", "score"), -0.1, "score -0.1"),
        (("decode", "iou"), 1.5, "iou 1.5"),
        (("decode", "iou"), -0.1, "iou -0.1"),
        (("decode", "limit"), 0, "limit 0"),
        (("decode", "limit"), 30001, "limit 30001"),
        (("decode", "where"), "cloud", "decode: where 'cloud'"),
        (("decode", "layout"), "ssd", "layout 'ssd'"),
        (("decode", "layout"), "end2end", r"378, 7\) does not fit end2end with"),
        (("labels",), ["a", 3], "must be str, got 3"),
        (("labels",), [], "needs labels"),
        (("artifacts", 0, "format"), "engine", "format 'engine' is not one of onnx, trt, rtx"),
        (("artifacts", 0, "precision"), "fp8", "precision 'fp8' is not one of fp32, fp16, int8"),
        (("artifacts", 0, "sha256"), "xyz", "sha256"),
        (("artifacts", 0, "sha256"), "ab" * 31, "64 hexadecimal digits"),
        (("artifacts", 1, "file"), "model.fp32.onnx", "share a file"),
        (("golden", 0, "expect", 0, "score"), "high", "score must be float"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found(path, value, message):
    with pytest.raises(SpecError, match=message):
        modeljson.from_json(changed(DETECT, path, value))


@pytest.mark.parametrize(("schema", "remedy"), [(2, "update edgeinfer"), (0, "export the bundle again")])
def test_a_newer_bundle_asks_for_a_newer_edgeinfer_and_an_older_one_to_be_made_again(schema, remedy):
    with pytest.raises(SpecError) as refused:
        modeljson.from_json(changed(DETECT, ("schema",), schema))
    assert refused.value.hint == remedy


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("decode", "k"), 0, "k 0 is not within 1-10000"),
        (("decode", "k"), 10001, "k 10001"),
        (("decode", "activation"), "relu", "activation 'relu'"),
        (("preprocess", "resize"), 223, "resize 223 is below the crop's 224"),
        (("preprocess", "width"), 257, "resize 256 is below the crop's 257"),
        (("preprocess", "fit"), "stretch", "resize goes with"),
    ],
)
def test_a_wrong_value_of_a_classifier_is_refused_with_what_was_found(path, value, message):
    with pytest.raises(SpecError, match=message):
        modeljson.from_json(changed(CLASSIFY, path, value))


def test_mean_and_std_of_the_same_wrong_length_are_refused_too():
    with pytest.raises(SpecError, match="three numbers each"):
        Preprocess(Size(64, 96), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outputs",), modeljson.to_json(SUPPRESSED)["outputs"][:1]),
        (("outputs",), modeljson.to_json(SUPPRESSED)["outputs"][:3]),
        (("outputs", 0, "shape"), [1, 2]),
        (("outputs", 1, "shape"), [1]),
        (("outputs", 1, "shape"), [1, 20, 5]),
        (("outputs", 2, "shape"), [1, 21]),
        (("outputs", 3, "shape"), [1, 20, 1]),
        (("decode", "limit"), 21),
    ],
)
def test_a_model_that_suppresses_its_boxes_itself_needs_four_outputs_with_room_for_all(path, value):
    with pytest.raises(SpecError, match=r"are not number \(1\), boxes \(rows, 4\), scores \(rows\), classes \(rows\)"):
        modeljson.from_json(changed(SUPPRESSED, path, value))


@pytest.mark.parametrize(
    ("spec", "path", "values"),
    [
        (DETECT, ("inputs", 0, "shape", 0), [["batch", 1, 1], ["batch", 1, 1024]]),
        (DETECT, ("preprocess", "pad"), [0, 255]),
        (DETECT, ("decode", "score"), [0, 1]),
        (DETECT, ("decode", "iou"), [0, 1]),
        (DETECT, ("decode", "limit"), [1, 30000]),
        (CLASSIFY, ("decode", "k"), [1, 10000]),
        (CLASSIFY, ("preprocess", "resize"), [224]),
    ],
)
def test_the_least_and_the_most_of_a_range_are_taken(spec, path, values):
    for value in values:
        assert modeljson.to_json(modeljson.from_json(changed(spec, path, value)))


def test_a_frame_may_have_sides_of_up_to_16384_pixels():
    assert Preprocess(Size(1, 16384)).size.width == 16384


def test_what_model_json_leaves_out_is_what_its_documentation_says():
    tree = modeljson.to_json(DETECT)
    tree["preprocess"] = {"fit": "letterbox", "height": 64, "width": 96}
    tree["decode"] = {"kind": "boxes", "layout": "yolov5"}
    for key in ("provenance", "artifacts", "golden"):
        del tree[key]
    spec = modeljson.from_json(tree)

    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 255, "pad": 114, "color": "rgb", "resize": 0}
    assert spec.preprocess == Preprocess(Size(64, 96), "letterbox", **plain, interpolation="linear", where="runtime")
    assert spec.decode == Boxes("yolov5", 0.25, 0.45, 300, class_agnostic=False, where="runtime")
    assert (spec.provenance, spec.artifacts, spec.golden) == (Provenance(), (), ())
    assert modeljson.from_json(changed(CLASSIFY, ("decode",), {"kind": "topk"})).decode == TopK(5, "softmax")


def test_a_batch_of_one_size_is_a_number_and_no_range():
    assert [(str(one), one.open, one.dim) for one in (Batch(4, 4), Batch(1, 8))] == [
        ("4", False, 4),
        ("1-8", True, Batch(1, 8)),
    ]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", ".", "a\\b", "a\0b", "a//b"])
def test_a_path_that_leaves_the_bundle_is_refused(name):
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        modeljson.from_json(changed(DETECT, ("artifacts", 0, "file"), name))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("labels",), [], "a model needs labels"),
        (("decode", "score"), 1.5, "decode: score 1.5 is not within 0-1"),
        (("preprocess", "pad"), 256, "preprocess: pad 256 is not within 0-255"),
        (("inputs", 0, "name"), "", "inputs[0]: a tensor has no name"),
        (("inputs", 0, "dtype"), 7, "inputs[0]: dtype must be str, got 7"),
        (("golden", 0, "expect", 0), {}, "golden[0]: expect[0]: class_id is missing"),
        (("preprocess", "scale"), float("nan"), "preprocess: scale must be a finite number, got nan"),
        (("preprocess", "mean"), [0, 0, float("inf")], "preprocess: mean: item 2 must be a finite number, got inf"),
        (("provenance", "gflops"), 10**400, "provenance: gflops must be a finite number, got 1" + 59 * "0"),
        (("artifacts", 1, "made"), 3, "artifacts[1]: made must be dict, got 3"),
    ],
)
def test_what_is_wrong_is_told_once_with_the_file_and_the_place_in_it(path, value, message, tmp_path):
    file = tmp_path / "model.json"
    file.write_text(json.dumps(changed(DETECT, path, value)))

    with pytest.raises(SpecError) as refused:
        modeljson.read(file)
    assert str(refused.value) == f"{file}: {message}"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": NaN}', "[" * 100000, '{"schema": 1e999}'])
def test_a_file_that_is_not_a_spec_is_one_clear_error(text, tmp_path):
    (tmp_path / "model.json").write_text(text)

    with pytest.raises(SpecError, match=r"model\.json"):
        modeljson.read(tmp_path / "model.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
paths = st.sampled_from(
    [(key,) for key in modeljson.to_json(DETECT)]
    + [("preprocess", key) for key in modeljson.to_json(DETECT)["preprocess"]]
    + [("decode", key) for key in modeljson.to_json(DETECT)["decode"]]
    + [("inputs", 0, "shape"), ("inputs", 0, "shape", 0), ("artifacts", 0, "file"), ("artifacts", 1, "target")]
)


@given(paths, json_values)
def test_any_value_anywhere_gives_a_spec_or_one_of_our_errors(path, value):
    try:
        assert isinstance(modeljson.from_json(changed(DETECT, path, value)), ModelSpec)
    except EdgeInferError as error:
        assert str(error)


@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.1, 1)] * 3),
    pixel=st.lists(st.integers(0, 255), min_size=3, max_size=3),
)
def test_the_graph_half_after_the_runtime_half_equals_the_whole(mean, std, pixel):
    whole = dataclasses.replace(DETECT.preprocess, mean=mean, std=std)
    geometry, arithmetic = whole.split()
    pixels = np.array(pixel, np.float64)

    def apply(part, values):
        return values * part.gain + part.bias

    assert np.allclose(apply(arithmetic, apply(geometry, pixels)), apply(whole, pixels), atol=1e-12)
    assert geometry.place(Size(30, 50)) == whole.place(Size(30, 50))
    assert arithmetic.place(whole.size).resized == whole.size


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("x.plan", "x.plan"),
        ("/bundle/x.plan", "x.plan"),
        ("e/x.plan", "e/x.plan"),
        ("/bundle/e/x.plan", "e/x.plan"),
        ("/bundle/ex.plan", ""),
    ],
)
def test_an_artifact_is_known_by_where_its_file_lies_wherever_the_bundle_does(path, file):
    artifacts = tuple(Artifact(name, "trt", "fp16", SHA) for name in ("x.plan", "e/x.plan"))
    found = dataclasses.replace(DETECT, artifacts=artifacts).artifact_at(PurePosixPath(path))
    assert (found.file if found else "") == file
