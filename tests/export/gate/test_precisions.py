"""Precisions on the command line: calibrated, measured on held-out pictures, written with what they scored."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgeinfer import accuracy, datasets, golden, ladder, load
from edgeinfer.accuracy import Comparison
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer_export import export as exporting
from edgeinfer_export import gate, graphs
from helpers import foreign, fullsize
from helpers.precisions import AS_IT_IS, LOOSE, QUICK, SIDE, run
from helpers.scenery import SOURCE, TRUTH, write_scenes


def thinned(dataset, folder, step):
    """Every so many-th picture of a COCO data set, with its labels."""
    truth = json.loads((dataset / "annotations.json").read_text())
    truth["images"] = sorted(truth["images"], key=lambda one: one["file_name"])[::step]
    kept = {one["id"] for one in truth["images"]}
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] in kept]
    (folder / "annotations.json").write_text(json.dumps(truth))
    for one in truth["images"]:
        shutil.copy(dataset / one["file_name"], folder)
    return folder


@pytest.mark.filterwarnings("default")
def test_golden_samples_ask_of_no_precision_what_it_was_admitted_without(tmp_path, few, monkeypatch):
    # so strict that int8 does not find all that float32 does, nor OpenVINO what ONNX Runtime does, which was asked
    monkeypatch.setitem(golden.TOLERANCE, "int8", (0.02, 0.9))
    monkeypatch.setattr(ladder, "ORDER", ("ort",))
    words = ("--imgsz", 224, "--precision", "fp32,int8", "--calibrate", few, "--few-calibration-images", "--budget", 99)
    assert run(tmp_path / "b", *words) == 0
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert run(tmp_path / "exact", "--imgsz", 224) == 0
    asked, found = (Bundle.open(tmp_path / name).spec.golden for name in ("b", "exact"))
    assert all(set(one.expect) <= set(other.expect) for one, other in zip(asked, found, strict=True))
    assert 0 < sum(len(one.expect) for one in asked) < sum(len(one.expect) for one in found)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("side", "calibration", "step"), [(224, 40, 3), pytest.param(288, 100, 1, marks=pytest.mark.slow, id="in full")]
)
def test_the_packaged_detector_stays_within_a_point_in_every_precision(tmp_path, scenes, side, calibration, step):
    for name in ("calibration", "held-out"):
        (tmp_path / name).mkdir()
    pictures = write_scenes(tmp_path / "calibration", 100) if calibration == 100 else scenes
    held_out = thinned(TRUTH, tmp_path / "held-out", step)
    words = ("--imgsz", side, "--precision", "fp32,fp16,int8", "--calibrate", pictures, "--held-out", held_out)
    assert run(tmp_path / "b", *words, *(["--few-calibration-images"] if calibration < 100 else [])) == 0
    bundle = Bundle.open(tmp_path / "b")
    found = {artifact.file: artifact for artifact in bundle.spec.artifacts}

    assert list(found) == ["model.fp32.onnx", "model.fp16.onnx", "model.int8-cpu.onnx", "model.int8-trt.onnx"]
    for file in list(found)[1:]:
        numbers = found[file].accuracy
        assert numbers["images"] == len(list(held_out.glob("*.jpg")))
        assert numbers["map_delta"] >= -1.0
        assert 0.85 <= numbers["agreement"] <= 1
        assert 0 < numbers["error.output0"] < 0.1
    assert found["model.int8-cpu.onnx"].made == {"calibration": "mse", "images": str(calibration)}
    assert found["model.int8-trt.onnx"].flavor == "trt"
    bundle.verify()
    assert main(["verify", str(tmp_path / "b")]) == 0
    with load(tmp_path / "b", precision="int8", backend="ort") as model:
        assert model.artifact == "model.int8-cpu.onnx"
    with load(tmp_path / "b", backend="ort") as model:
        assert model.artifact == "model.fp32.onnx"


def test_a_classifier_stays_within_a_point_in_every_precision(tmp_path, pictogram_classifier):
    made = pictogram_classifier
    words = ("--imgsz", made.size.height, "--batch", "1-16", "--precision", "fp16,int8")
    # by the other methods a layer goes back to float32 first, which takes as long again to find out
    words += ("--calibrate", made.calibration, "--calibrate-method", "percentile")
    assert run(tmp_path / "b", *words, "--held-out", made.held_out, source=made.checkpoint) == 0
    found = Bundle.open(tmp_path / "b").spec.artifacts

    assert [one.file for one in found] == ["model.fp16.onnx", "model.int8-cpu.onnx", "model.int8-trt.onnx"]
    for one in found:
        assert one.accuracy["images"] == 300
        assert one.accuracy["top1_delta"] >= -1.0
        assert one.accuracy["agreement"] > 0.95
        assert len(one.made.get("float32", one.made.get("float16", "")).split()) <= 3


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The packaged detector in float16 alone, as `edgeinfer export` says and writes it."""
    folder = tmp_path_factory.mktemp("half") / "b"
    words = [sys.executable, "-m", "edgeinfer", "export", str(SOURCE), "-o", str(folder)]
    done = subprocess.run(
        [*words, "--imgsz", "160", "--precision", "fp16", "--json"], capture_output=True, text=True, check=True
    )
    return folder, json.loads(done.stdout)


def test_fp16_is_judged_by_the_packaged_pictures_where_none_are_given(half):
    folder, told = half
    spec = Bundle.open(folder).spec
    (artifact,) = spec.artifacts

    assert artifact.precision == "fp16"
    assert artifact.accuracy["images"] == 4
    assert artifact.accuracy["agreement"] > 0.9
    assert [one["accuracy"] for one in told["artifacts"]] == [artifact.accuracy]
    assert not (folder / "model.fp32.onnx").exists()
    assert len(spec.golden) == 2


def test_fp16_of_untrained_weights_is_judged_by_its_scores(tmp_path):
    """Its boxes all lie on the edge of something: answers change while no score moves by a hundredth."""
    built = graphs.build(fullsize.yolov5n(), size=exporting.Size(SIDE, SIDE))
    onnx.save(built.model, tmp_path / "untrained.onnx")
    assert run(tmp_path / "b", "--precision", "fp16", source=tmp_path / "untrained.onnx") == 0
    (artifact,) = Bundle.open(tmp_path / "b").spec.artifacts

    assert artifact.accuracy["agreement"] < 0.95
    assert artifact.made == {}


def test_the_same_pictures_give_the_same_bytes(tmp_path, few):
    for name in ("one", "two"):
        assert run(tmp_path / name, "--precision", "int8", *QUICK, "--calibrate", few, *LOOSE) == 0
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())

    assert len(files) == 5
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


@pytest.mark.parametrize(
    ("compared", "agreement", "difference", "drift", "loss"),
    [
        (100, 0.5, 100 * (0.87 - 0.88), 1.0, 1.0),  # -1.0000000000000009
        (100, 0.5, 0.3, 1.0, -0.3),
        (20, 0.95, None, 0.011, 1.0),  # 100 * (1 - 0.95) is 5.000000000000004
        (20, 0.95, None, 0.01, 0.0),
        (0, 1.0, None, 1.0, 4.0),
    ],
)
def test_a_loss_is_of_points_or_without_labels_of_answers_that_change_while_scores_move(
    compared, agreement, difference, drift, loss
):
    comparison = Comparison(100, compared, agreement, difference)
    assert gate.Measured({"a": 0.1, "b": 0.2}, drift, comparison).loss == loss


@pytest.mark.parametrize(
    ("activation", "scores"),
    [
        ("softmax", [[0.25, 0.75], [0.5, 0.5]]),
        ("sigmoid", [[0.5, 0.75], [2 / 3, 2 / 3]]),
        ("none", np.log([[1, 3], [2, 2]])),
    ],
)
def test_scores_are_what_the_activation_makes_of_each_pictures_logits(activation, scores):
    assert gate._activated(np.log([[1.0, 3.0], [2.0, 2.0]]), activation) == pytest.approx(np.array(scores))


def test_a_detector_is_judged_by_the_thresholds_of_accuracy_whatever_it_is_used_with(detector, tmp_path, monkeypatch):
    def seen(pipeline, *more, **how):
        decodes.append(pipeline.spec.decode)
        return predict(pipeline, *more, **how)

    decodes, predict, bundle = [], accuracy.predict, Bundle.open(detector)
    monkeypatch.setattr(accuracy, "predict", seen)
    shown = datasets.unlabelled(detector, [bundle.file(sample.image) for sample in bundle.spec.golden], ())
    gate.Gate(tmp_path, bundle.spec, detector / "model.fp32.onnx", shown, 1.0)
    assert [(one.score, one.iou, one.limit) for one in decodes] == [(0.001, 0.65, 300)]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_every_method_calibrates(tmp_path, few, method, tiny):
    words = ("--calibrate", few, "--few-calibration-images", "--calibrate-method", method, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    made = Bundle.open(tmp_path / "b").spec.artifacts[0].made

    assert made["calibration"] == method
    # a fifth of the ten pictures is held out
    assert made["images"] == "8"


def test_int8_of_a_model_without_layers_for_it_is_refused(tmp_path, capsys, few):
    foreign.save(foreign.classifier(), tmp_path / "mean.onnx")
    words = ("--precision", "fp32,int8", *QUICK, "--calibrate", few, "--normalize", "unit", "--imgsz", 224)
    assert run(tmp_path / "b", *words, source=tmp_path / "mean.onnx") == 1
    assert "no layer that int8 is for" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("budget", ["-1", "101", "nan", "much"])
def test_a_budget_that_is_none_is_wrong_usage(tmp_path, capsys, budget):
    assert run(tmp_path / "b", f"--budget={budget}") == 2
    assert "is not a number from 0 to 100" in capsys.readouterr().err


def test_another_precision_than_the_files_cannot_be_made_of_half(tmp_path, half, capsys):
    words = ("--imgsz", 160, "--precision", "fp32")
    assert run(tmp_path / "c", *words, source=half[0] / "model.fp16.onnx") == 1
    assert "cannot be made from a model in fp16" in capsys.readouterr().err
