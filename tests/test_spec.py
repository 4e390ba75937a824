"""ModelSpec and model.json: round trips, refusals, and the law of split()."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import modeljson
from edgeinfer.errors import BundleError, EdgeInferError, SpecError
from edgeinfer.inside import safe_relative
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


def changed(spec, path, value):
    """The spec's JSON with the value at `path` replaced."""
    tree = json.loads(json.dumps(modeljson.to_json(spec)))
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tree


@pytest.mark.parametrize("spec", [DETECT, CLASSIFY], ids=["detect", "classify"])
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
        (("task",), "segment", "task 'segment' is not one of detect, classify"),
        (("inputs",), [], "needs inputs"),
        (("inputs", 0, "shape"), [1, 3, 64, 64], "is not the preprocess's"),
        (("inputs", 0, "shape", 0), ["batch", 8, 1], "batch 8-1"),
        (("inputs", 0, "dtype"), "float64", "dtype 'float64'"),
        (("outputs", 0, "shape"), [1, 378, 9], "does not fit yolov5 with 2 labels"),
        (("preprocess", "height"), True, "height must be int, got True"),
        (("preprocess", "height"), 0, "below 1 pixel"),
        (("preprocess", "pad"), 256, "pad 256"),
        (("preprocess", "std"), [1, 1, 0], "above 0"),
        (("preprocess", "mean"), [1, 1], "three numbers"),
        (("preprocess", "fit"), "squeeze", "fit 'squeeze'"),
        (("preprocess", "resize"), 256, "resize goes with"),
        (("decode", "kind"), "masks", "kind 'masks'"),
        (("decode", "score"), 1.5, "score 1.5"),
        (("decode", "layout"), "ssd", "layout 'ssd'"),
        (("labels",), ["a", 3], "must be str, got 3"),
        (("labels",), [], "needs labels"),
        (("artifacts", 0, "sha256"), "xyz", "sha256"),
        (("artifacts", 1, "file"), "model.fp32.onnx", "share a file"),
        (("golden", 0, "expect", 0, "score"), "high", "score must be float"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found(path, value, message):
    with pytest.raises(SpecError, match=message):
        modeljson.from_json(changed(DETECT, path, value))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", ".", "a\\b", "a\0b", "a//b"])
def test_a_path_that_leaves_the_bundle_is_refused(name):
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        safe_relative(name, "artifact")
    with pytest.raises(BundleError):
        modeljson.from_json(changed(DETECT, ("artifacts", 0, "file"), name))


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
