"""Models that are hard to quantise: layers that suffer go back, and what loses too much is refused."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ExportError
from edgeinfer_export import export as exporting
from edgeinfer_export import forms, graphs, heldout
from helpers import seeded
from helpers.precisions import QUICK, SIDE, run
from helpers.scenery import SOURCE


def unbalanced(path, layers, gain=3000.0, side=SIDE):
    """The packaged detector, the same function: but in `layers` one channel is `gain` times as large as the others."""
    built = exporting.read(SOURCE, exporting.Options(size=exporting.Size(side, side)))
    model = built.model
    constants = {one.name: one for one in model.graph.initializer}
    for layer in layers:
        place, conv = next((p, n) for p, n in enumerate(model.graph.node) if n.op_type == "Conv" and n.name == layer)
        weight = constants[conv.input[1]]
        numbers = numpy_helper.to_array(weight).copy()
        factors = np.ones((1, numbers.shape[1], 1, 1), np.float32)
        factors[0, 0] = gain
        weight.CopyFrom(numpy_helper.from_array(numbers / factors, weight.name))
        model.graph.initializer.append(numpy_helper.from_array(factors, f"{layer}.factors"))
        scaled = helper.make_node("Mul", [conv.input[0], f"{layer}.factors"], [f"{layer}.scaled"], f"{layer}.scaled")
        conv.input[0] = f"{layer}.scaled"
        model.graph.node.insert(place, scaled)
    onnx.save(model, path)
    return path


@pytest.fixture
def of_these(monkeypatch):
    """A layer takes a second to be asked: only those named are, by a gate that knows no others."""

    def choose(*names):
        every = forms.groups
        monkeypatch.setattr(forms, "groups", lambda model: {name: every(model)[name] for name in names})

    return choose


@pytest.mark.parametrize("asked", [2, pytest.param(19, marks=pytest.mark.slow, id="all")])
def test_a_layer_that_suffers_goes_back_to_a_higher_precision_and_is_named(
    tmp_path, few, others, capsys, of_these, asked
):
    source = unbalanced(tmp_path / "hard.onnx", ["model.5.conv"], side=160)
    layers = list(forms.groups(onnx.load(source)))
    of_these(*(["model.5", "model.13"] if asked == 2 else layers))
    words = ("--imgsz", 160, "--precision", "fp32,int8", "--calibrate", few, *QUICK, "--budget", 5)
    assert run(tmp_path / "b", *words, "--held-out", others, source=source) == 0
    said = capsys.readouterr().err
    found = {artifact.file: artifact for artifact in Bundle.open(tmp_path / "b").spec.artifacts}

    assert len(layers) == 19
    for form, rest in (("int8-cpu", "float32"), ("int8-trt", "float16")):
        assert found[f"model.{form}.onnx"].made[rest].split()[0] == "model.5"
        assert found[f"model.{form}.onnx"].accuracy["map_delta"] >= -5
        table = said[said.index(form) :]
        assert f"left in {rest}" in table
        assert "+ model.5" in table
        assert "error alone" in table


@pytest.fixture
def suffering(tmp_path, few, others):
    """How much each layer of the packaged detector suffers from int8, by form: where nothing is good enough."""

    def of(**how):
        given = heldout.Sources(str(few), str(others), few=True)
        size, precisions = exporting.Size(SIDE, SIDE), ("fp32", "int8")
        options = exporting.Options(size, precisions=precisions, pictures=given, budget=-100.0, **how)
        trials = []
        with pytest.raises(ExportError):
            exporting.export(SOURCE, tmp_path / "b", options, tell=trials.append)
        return {trial.form.name: trial.sensitivity for trial in trials}

    return of


def test_a_layer_suffers_as_much_in_a_batch_as_alone(suffering, of_these):
    """A gate that fills one row of a batch compares what lies in the others with what the last picture left there."""
    of_these("model.2", "model.13")
    alone, three = suffering(), suffering(batch=exporting.Batch(3, 3))
    for form, errors in alone.items():
        assert list(errors) == list(three[form])
        assert list(errors.values()) == pytest.approx(list(three[form].values()), rel=1e-3)


def test_a_layer_that_makes_boxes_change_their_rows_alone_suffers_little(suffering, of_these):
    of_these("model.2", "model.13", "model.18")
    chosen = graphs.Variant(nms=True, score=0.01)
    for errors in suffering(variant=chosen).values():
        assert 0 < max(errors.values()) < 0.2


def loud(path):
    """A classifier whose logits are beyond float16."""
    golden = seeded.Golden("resnet-basic")
    louder = {name: golden.tensors[name] * np.float32(1e6) for name in ("fc.weight", "fc.bias")}
    onnx.save(graphs.build(golden.checkpoint(tensors=golden.tensors | louder), size=golden.size).model, path)
    return path


def test_a_layer_beyond_float16_alone_stays_float32(tmp_path):
    assert run(tmp_path / "b", "--precision", "fp16", source=loud(tmp_path / "loud.onnx"), size=()) == 0
    (artifact,) = Bundle.open(tmp_path / "b").spec.artifacts
    assert artifact.made == {"float32": "fc"}


def test_float16_that_is_refused_is_told_without_a_word_of_calibration(tmp_path, capsys, of_these):
    of_these("layer1.0")
    assert run(tmp_path / "b", "--precision", "fp16", source=loud(tmp_path / "loud.onnx"), size=()) == 1
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: fp16 gives numbers that are not finite, above the budget of 1"
    assert hint == "hint: leave fp16 out of --precision, or raise --budget"


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory):
    names = [f"model.{layer}.conv" for layer in (1, 3, 5, 7, 10, 14, 18, 21)]
    names += [f"model.{layer}.{part}.conv" for layer in (2, 4, 6, 8, 9, 13, 17, 20, 23) for part in ("cv1", "cv2")]
    return unbalanced(tmp_path_factory.mktemp("models") / "hopeless.onnx", names, 1e5, 160)


def test_a_precision_that_cannot_be_saved_is_refused_and_the_others_kept(tmp_path, hopeless, few, capsys, of_these):
    of_these("model.1", "model.17")
    words = ("--precision", "fp32,int8", "--calibrate", few, *QUICK, "--budget", "0.1")
    assert run(tmp_path / "b", "--imgsz", 160, *words, source=hopeless) == 1
    said = capsys.readouterr().err.splitlines()

    assert len([line for line in said if line.startswith("error: int8-cpu loses")]) == 1
    assert "above the budget of 0.1" in said[-2]
    assert said[-1].startswith("hint: ")
    # of each flavour nothing, and then one layer after another until half of them are back
    assert sum(line.endswith("  no") for line in said) == 2 * 2
    assert [one.file for one in Bundle.open(tmp_path / "b").spec.artifacts] == ["model.fp32.onnx"]
    assert sorted(file.name for file in (tmp_path / "b").glob("*.onnx")) == ["model.fp32.onnx"]


def test_when_nothing_is_left_nothing_is_written(tmp_path, hopeless, few, capsys, of_these):
    of_these("model.1")
    words = ("--precision", "int8", "--calibrate", few, *QUICK, "--budget", "0.1")
    assert run(tmp_path / "b", "--imgsz", 160, *words, source=hopeless) == 1
    assert "written without" not in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_layers_have_the_names_people_know():
    names = ["model.3.conv", "layer1.0.conv2", "/model.2/cv1/conv/Conv", "/conv1/Conv", "Conv_7", "fc"]
    nodes = [helper.make_node("Conv", ["x"], [f"y{place}"], name) for place, name in enumerate(names)]
    nodes.append(helper.make_node("Relu", ["x"], ["z"], "model.9.act"))
    graph = helper.make_graph(nodes, "names", [], [])

    assert list(forms.groups(helper.make_model(graph))) == [
        *("model.3", "layer1.0", "model.2", "conv1", "Conv_7", "fc"),
    ]
