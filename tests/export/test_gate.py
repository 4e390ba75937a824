"""Precisions on the command line: calibrated, measured on held-out pictures, sent back or refused when they lose."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeinfer import accuracy, datasets, golden, ladder, load, pictures
from edgeinfer.accuracy import Comparison
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer_export import export as exporting
from edgeinfer_export import forms, gate, graphs, heldout
from helpers import foreign, fullsize, networks, seeded
from helpers.scenery import SOURCE, TRUTH, write_scenes

SIDE = 96


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """40 labelled pictures of what the packaged detector knows, in YOLO's layout."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 40)


def some(scenes, folder, first, last):
    """A folder of those from the first to before the last, with their labels."""
    for file in sorted(scenes.iterdir())[2 * first : 2 * last]:
        shutil.copy(file, folder)
    return folder


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


@pytest.fixture(scope="module")
def few(scenes, tmp_path_factory):
    return some(scenes, tmp_path_factory.mktemp("few"), 0, 10)


@pytest.fixture(scope="module")
def others(scenes, tmp_path_factory):
    return some(scenes, tmp_path_factory.mktemp("others"), 10, 30)


def run(target, *words, source=SOURCE, size=("--imgsz", SIDE)):
    size = () if "--imgsz" in words else size
    return main(["export", str(source), "-o", str(target), *map(str, (*size, *words))])


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


def test_a_detector_is_judged_by_the_thresholds_of_accuracy_whatever_it_is_used_with(detector, tmp_path, monkeypatch):
    def seen(pipeline, *more, **how):
        decodes.append(pipeline.spec.decode)
        return predict(pipeline, *more, **how)

    decodes, predict, bundle = [], accuracy.predict, Bundle.open(detector)
    monkeypatch.setattr(accuracy, "predict", seen)
    shown = datasets.unlabelled(detector, [bundle.file(sample.image) for sample in bundle.spec.golden], ())
    gate.Gate(tmp_path, bundle.spec, detector / "model.fp32.onnx", shown, 1.0)
    assert [(one.score, one.iou, one.limit) for one in decodes] == [(0.001, 0.65, 300)]


LOOSE = ("--budget", "50")
QUICK = ("--few-calibration-images", "--calibrate-method", "minmax")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A classifier of a few layers that means nothing."""
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    networks.residual(path)
    return path


AS_IT_IS = ("--normalize", "unit", "--imgsz", 32)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_every_method_calibrates(tmp_path, few, method, tiny):
    words = ("--calibrate", few, "--few-calibration-images", "--calibrate-method", method, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    made = Bundle.open(tmp_path / "b").spec.artifacts[0].made

    assert made["calibration"] == method
    # a fifth of the ten pictures is held out
    assert made["images"] == "8"


# -- models that are hard to quantise


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


# -- what cannot be


def refused(capsys, tmp_path, *words):
    assert run(tmp_path / "b", *words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.glob(".b.*")) == []
    return " ".join(said)


def test_int8_without_pictures_is_refused(tmp_path, capsys):
    assert "--calibrate DIR with 100 or more" in refused(capsys, tmp_path, "--precision", "int8")


def test_int8_of_a_model_without_layers_for_it_is_refused(tmp_path, capsys, few):
    foreign.save(foreign.classifier(), tmp_path / "mean.onnx")
    words = ("--precision", "fp32,int8", *QUICK, "--calibrate", few, "--normalize", "unit", "--imgsz", 224)
    assert run(tmp_path / "b", *words, source=tmp_path / "mean.onnx") == 1
    assert "no layer that int8 is for" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_few_pictures_are_refused_unless_they_are_asked_for(tmp_path, capsys, few):
    said = refused(capsys, tmp_path, "--precision", "int8", "--calibrate", few)
    assert "holds 10 pictures that can be read, expected 100 or more" in said
    assert "--few-calibration-images" in said


@pytest.mark.parametrize(("count", "held"), [(20, 4), (2, 1)])
def test_one_picture_in_five_is_held_out_whose_hash_comes_first_under_whatever_name(tmp_path, count, held):
    for place in range(count + 1):  # the last is the first once more
        (tmp_path / f"{place:02}.png").write_bytes(bytes([place % count]))
    found = heldout.split(datasets.unlabelled(tmp_path, sorted(tmp_path.iterdir()), ()))
    ranked = sorted((bytes([place]) for place in range(count)), key=lambda content: sha256(content).digest())
    rest, out = ({one.path.read_bytes() for one in part.samples} for part in (found.calibration, found.heldout))
    assert (out, rest) == (set(ranked[:held]), set(ranked[held:]))
    assert len(found.calibration) + len(found.heldout) == count + 1


def test_an_empty_folder_a_missing_one_and_one_picture_are_refused(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ("--precision", "int8", "--few-calibration-images", "--calibrate")
    assert "has no pictures" in refused(capsys, tmp_path, *words, empty)
    assert "does not exist" in refused(capsys, tmp_path, *words, tmp_path / "nowhere")
    cv2.imwrite(str(empty / "a.png"), np.zeros((9, 9, 3), np.uint8))
    assert "holds 1 pictures that can be read, expected 2" in refused(capsys, tmp_path, *words, empty)
    for name in "bcd":
        shutil.copy(empty / "a.png", empty / f"{name}.png")
    assert "one picture many times" in refused(capsys, tmp_path, *words, empty)


@pytest.fixture
def spoilt(tmp_path):
    """A folder of so many pictures, two of them none; no two are alike."""

    def make(count):
        folder = tmp_path / "spoilt"
        folder.mkdir()
        (folder / "000.jpg").write_bytes(b"GIF89a not a picture")
        (folder / "001.png").write_bytes(b"")
        for place in range(2, count):
            cv2.imwrite(str(folder / f"{place:03}.png"), np.full((9, 9, 3), place, np.uint8))
        return folder

    return make


def test_pictures_that_cannot_be_read_are_named_and_left_out_of_the_calibration(tmp_path, capsys, spoilt, tiny):
    folder = spoilt(12)
    words = ("--precision", "int8", "--few-calibration-images", "--calibrate", folder, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", *words, source=tiny) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[:2] for line in said] == [
        ["warning:", f"{folder}/{name}"] for name in ("000.jpg", "001.png")
    ]
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].made["images"] == "8"  # of ten, two judge


def test_the_plan_counts_the_pictures_that_can_be_read_and_names_the_others(capsys, tmp_path, spoilt, tiny):
    words = (
        "--precision",
        "int8",
        "--few-calibration-images",
        "--calibrate",
        spoilt(12),
        *AS_IT_IS,
        "--plan",
        "--json",
    )
    assert run(tmp_path / "b", *words, source=tiny) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["calibration"]["images"], plan["judged"]["images"]) == (8, 2)
    assert [note.split("/")[-1].split(" ")[0] for note in plan["notes"]] == ["000.jpg", "001.png"]


def test_held_out_pictures_that_cannot_be_read_are_left_out_too(tmp_path, capsys, few, spoilt, tiny):
    words = ("--calibrate", few, "--few-calibration-images", "--held-out", spoilt(5), *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    assert capsys.readouterr().err.count("warning: ") == 2
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].accuracy["images"] == 3


def hollow(path):
    """A picture that shows only when it is decoded that it cannot be: its kind of compression is none."""
    data = bytearray(cv2.imencode(".bmp", np.zeros((9, 9, 3), np.uint8))[1])
    data[30] = 9
    path.write_bytes(data)


def test_pictures_that_cannot_be_decoded_are_left_out_where_they_are_used(tmp_path, capfd, few, others, tiny):
    folders = []
    for given in (few, others):
        folders.append(tmp_path / given.name)
        shutil.copytree(given, folders[-1])
        hollow(folders[-1] / "hollow.bmp")
    words = ("--calibrate", folders[0], "--few-calibration-images", "--held-out", folders[1], *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.split(" ")[1] for line in warnings] == [f"{folder}/hollow.bmp" for folder in folders]
    artifact = Bundle.open(tmp_path / "b").spec.artifacts[0]
    assert (artifact.made["images"], artifact.accuracy["images"]) == ("10", 20)


@pytest.mark.parametrize("empty", ["--calibrate", "--held-out"])
def test_where_no_picture_can_be_decoded_nothing_is_written(tmp_path, capfd, few, tiny, empty):
    (tmp_path / "hollow").mkdir()
    for place in range(2):
        hollow(tmp_path / "hollow" / f"{place}.bmp")
    words = {"--calibrate": few, "--held-out": few, empty: tmp_path / "hollow"}
    words = (*(word for pair in words.items() for word in pair), "--few-calibration-images", *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 1
    assert "error: none of the 2 pictures can be read: " in capfd.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_picture_is_decoded_once_to_calibrate(tmp_path, few, others, tiny, monkeypatch):
    def seen(data, name, *more):
        decoded.append(name)
        return decode(data, name, *more)

    decode, decoded = pictures.decode, []
    monkeypatch.setattr(pictures, "decode", seen)
    words = ("--calibrate", few, "--few-calibration-images", "--held-out", others, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    calibrated = [name for name in decoded if name.startswith(f"{few}/")]
    assert len(calibrated) == len(set(calibrated)) == 10


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (101, "holds 99 pictures that can be read, expected 100 or more"),
        (2, "none of the 2 pictures can be read: "),
    ],
)
def test_too_few_pictures_that_can_be_read_are_one_error(tmp_path, capsys, spoilt, count, told):
    assert run(tmp_path / "b", "--precision", "int8", "--calibrate", spoilt(count)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert told in said[0]
    assert not (tmp_path / "b").exists()


def test_a_hundred_pictures_of_any_size_calibrate(tmp_path, tiny):
    folder = tmp_path / "odd"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for place, size in enumerate([(1, 1), (3, 2000), (900, 4), (333, 77), (320, 320), *[(9, 16)] * 95]):
        cv2.imwrite(str(folder / f"{place}.png"), chance.integers(0, 256, (*size, 3), np.uint8))
    words = ("--precision", "int8", "--calibrate", folder, "--held-out", folder, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", *words, source=tiny) == 0
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].made["images"] == "100"


@pytest.mark.parametrize("budget", ["-1", "101", "nan", "much"])
def test_a_budget_that_is_none_is_wrong_usage(tmp_path, capsys, budget):
    assert run(tmp_path / "b", f"--budget={budget}") == 2
    assert "is not a number from 0 to 100" in capsys.readouterr().err


def test_another_precision_than_the_files_cannot_be_made_of_half(tmp_path, half, capsys):
    words = ("--imgsz", 160, "--precision", "fp32")
    assert run(tmp_path / "c", *words, source=half[0] / "model.fp16.onnx") == 1
    assert "cannot be made from a model in fp16" in capsys.readouterr().err


def test_layers_have_the_names_people_know():
    names = ["model.3.conv", "layer1.0.conv2", "/model.2/cv1/conv/Conv", "/conv1/Conv", "Conv_7", "fc"]
    nodes = [helper.make_node("Conv", ["x"], [f"y{place}"], name) for place, name in enumerate(names)]
    nodes.append(helper.make_node("Relu", ["x"], ["z"], "model.9.act"))
    graph = helper.make_graph(nodes, "names", [], [])

    assert list(forms.groups(helper.make_model(graph))) == [
        *("model.3", "layer1.0", "model.2", "conv1", "Conv_7", "fc"),
    ]
