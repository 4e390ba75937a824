"""Comparing models on the same pictures: cost, pictures side by side; tensors and where they part."""

import dataclasses
import json
import math
import os
import re
import signal
import tempfile

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeinfer import cli, modeljson
from edgeinfer.bundle import sha256_of
from edgeinfer.comparing import divergence, parity
from edgeinfer.comparing.compare import compare
from edgeinfer.comparing.comparison import Comparison
from edgeinfer.comparing.divergence import Side
from edgeinfer.comparing.models import named
from edgeinfer.errors import BundleError, SourceError, UsageError
from edgeinfer.profiling.validity import Verdict
from edgeinfer.spec import Boxes, TopK
from edgeinfer.tuning import figures
from edgeinfer.tuning.entrants import Entrant
from helpers import bundles, networks


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in ("red", "green"):
        cv2.imwrite(str(folder / f"{color}.png"), bundles.picture(color, 48, 64))
    return folder


def changed(folder, change):
    """Edit a bundle's ONNX file, hash and all."""
    path = folder / "model.fp32.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    spec = modeljson.read(folder / "model.json")
    artifact = dataclasses.replace(spec.artifacts[0], sha256=sha256_of(path))
    modeljson.write(dataclasses.replace(spec, artifacts=(artifact,)), folder / "model.json")


def scale(model, name, factor):
    (weight,) = [one for one in model.graph.initializer if one.name == name]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), name))


def test_what_a_bundle_says_of_its_accuracy_is_short(detector):
    spec = modeljson.read(detector / "model.json")
    known = {"images": 22.0, "agreement": 0.9177, "map_delta": -0.7733, "error.boxes": 0.0089}
    artifacts = (dataclasses.replace(spec.artifacts[0], accuracy=known),)
    modeljson.write(dataclasses.replace(spec, artifacts=artifacts), detector / "model.json")
    *_, accuracy, licence = Comparison(named([str(detector)]), []).rows()[1]

    assert (accuracy, licence) == ("91.8 % agree, -0.77 points", "CC0-1.0")


def test_a_picture_is_seen_side_by_side_and_told_as_table_json_and_page(
    detector, classifier, photos, tmp_path, capsys, monkeypatch
):
    """A detector in two ways, beside a classifier."""
    monkeypatch.setattr(figures, "judge", lambda *_: Verdict(["the clock moved"], []))
    save, page, record = tmp_path / "out", tmp_path / "page.html", tmp_path / "all.json"
    words = [str(detector), f"{detector}@ov", str(classifier), str(photos), "--seconds", "0.2"]
    assert cli.main(["compare", *words, "--save", str(save), "--html", str(page), "--json", str(record)]) == 0
    out = capsys.readouterr().out
    assert "colors-detect (ort model.fp32.onnx) and colors-detect #2 (ov model.fp32.onnx): 2 of 2 objects" in out
    assert "CC0-1.0" in out
    assert "times in doubt: the clock moved" in out

    data = json.loads(record.read_text())
    assert [(model["name"], model["backend"], model["task"]) for model in data["models"]] == [
        ("colors-detect", "ort", "detect"),
        ("colors-detect #2", "ov", "detect"),
        ("colors-classify", "ort", "classify"),
    ]
    assert all(model["p50_ms"] > 0 and model["memory_mb"] > 10 and model["bytes"] > 100 for model in data["models"])
    assert [one["share"] for one in data["agreements"]] == [1.0]
    assert data["doubts"] == ["the clock moved"]
    seen = {image["source"]: image["results"] for image in data["images"]}
    green = seen[str(photos / "green.png")]
    assert [green[0]["detections"][0]["label"], green[2]["classes"][0]["label"]] == ["green", "green"]

    assert sorted(path.name for path in save.iterdir()) == ["green.png", "red.png"]
    picture = cv2.imread(str(save / "green.png"))
    assert picture.shape[1] == 3 * 64 + 2 * 8
    assert picture.shape[0] > 48
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_is_drawn_with_a_readable_table(detector, photos, tmp_path, browser):
    """No row is taller than two lines, and nothing stands beyond the table's own scroll on a phone."""
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(detector), str(photos), "--seconds", "0.1", "--html", str(page)]) == 0
    script = (
        "<script>document.body.dataset.rows=[...document.querySelectorAll('tr')].map(row=>row.offsetHeight).join();"
        "document.body.dataset.beyond=document.documentElement.scrollWidth>innerWidth</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    drawn = browser.html(f"file://{page}")

    heights = re.search(r'data-rows="([\d,]+)"', drawn)[1].split(",")
    assert max(map(int, heights)) < 60
    assert 'data-beyond="false"' in drawn


def test_json_to_stdout_is_alone_there(detector, photos, capsys):
    assert cli.main(["compare", str(detector), str(photos / "red.png"), "--seconds", "0.1", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["models"]) == 1


def test_a_model_that_fails_is_told_and_the_rest_is_compared(detector, classifier, photos, capsys):
    (detector / "model.fp32.onnx").write_bytes(b"damaged")
    assert cli.main(["compare", str(detector), str(classifier), str(photos), "--seconds", "0.1"]) == 1
    out, err = capsys.readouterr()
    assert "colors-classify" in out
    assert err.startswith("error: 1 of 2 models did not come to the end: colors-detect (ort model.fp32.onnx): ")


@pytest.mark.parametrize(
    ("presses_before", "answered", "timed"),
    [(1, 0, 0), (3, 1, 0), (5, 2, 0), (8, 2, 2)],
    ids=["first answers", "second answers", "loading", "turns"],
)
def test_ctrl_c_tells_what_there_is(detector, photos, tmp_path, monkeypatch, capsys, presses_before, answered, timed):
    """Pressed when so many words have been heard from children."""
    heard, hear = [], Entrant.heard

    def press(self, seconds):
        heard.append(self)
        if len(heard) == presses_before + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return hear(self, seconds)

    monkeypatch.setattr(Entrant, "heard", press)
    save, record = tmp_path / "out", tmp_path / "all.json"
    words = [str(detector), str(detector), str(photos), "--seconds", "0.1"]
    assert cli.main(["compare", *words, "--save", str(save), "--json", str(record)]) == 130
    out, err = capsys.readouterr()
    assert ("interrupted: partial" in out, "neither finds anything" in out, err) == (True, False, "")

    data = json.loads(record.read_text())
    assert data["partial"]
    assert sum(result is not None for result in data["images"][0]["results"]) == answered
    assert sum("p50_ms" in model for model in data["models"]) == timed
    assert not save.exists()
    assert all(entrant._process.poll() is not None for entrant in heard)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{detector}@warp", "{photos}"], "error: {detector}@warp: 'warp' is neither a backend ("),
        (["/nowhere", "{photos}"], "error: /nowhere does not exist"),
        (["{detector}", "/nowhere.png"], "error: /nowhere.png"),
        (["{detector}", "camera:0"], "error: camera:0 is a camera or a stream"),
        (["{detector}", "{photos}", "--parity"], "error: --parity compares two ways of one model, not 1"),
        (["{detector}", "{detector}", "{photos}", "--parity", "--save", "x"], "error: --parity compares tensors"),
        (["{detector}", "{classifier}", "{photos}", "--parity"], "error: the outputs of colors-detect"),
        (["{detector}", "{photos}", "--seconds", "0"], "error: argument --seconds"),
        (["{detector}", "{photos}", "--device", "gpu"], "error: nothing here runs {detector}: "),
        (["{detector}", "{detector}", "{photos}", "--parity", "--device", "gpu"], "error: nothing here runs"),
    ],
    ids=["way", "bundle", "picture", "camera", "alone", "save", "unlike", "seconds", "device", "parity device"],
)
def test_what_cannot_be_is_one_error_before_anything_runs(detector, classifier, photos, capsys, words, error):
    places = {"detector": detector, "classifier": classifier, "photos": photos}
    assert cli.main(["compare", *(word.format(**places) for word in words)]) in {1, 2}
    assert capsys.readouterr().err.startswith(error.format(**places))


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path):
    folder = bundles.detect_bundle(tmp_path / "mine@ov")

    assert [(model.choice.backend, model.bundle.path) for model in named([str(folder)])] == [("ort", folder)]


def test_errors_name_what_was_found(detector, tmp_path):
    with pytest.raises(BundleError):
        named([str(tmp_path / "gone@ov")])
    with pytest.raises(UsageError, match="not a finite number above 0"):
        compare([str(detector)], str(tmp_path), seconds=0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SourceError):
        compare([str(detector)], str(tmp_path / "broken.png"))


@pytest.mark.parametrize("mode", [("--seconds", "0.1"), ("--parity",)], ids=["models", "parity"])
def test_a_picture_that_cannot_be_read_is_named_and_the_rest_compared(detector, photos, tmp_path, capsys, mode):
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "empty.jpg").write_bytes(b"")
    words = [str(detector), str(detector), str(photos), *mode, "--json", str(tmp_path / "all.json")]
    assert cli.main(["compare", *words]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[:2] for line in told[:2]] == [
        ["warning:", str(photos / name)] for name in ("broken.png", "empty.jpg")
    ]
    assert told[2:] == [
        "error: 2 pictures could not be read, and left out of the numbers",
        "hint: the warnings above say which, and why",
    ]
    images = json.loads((tmp_path / "all.json").read_text())["images"]
    assert (images if mode == ("--parity",) else len(images)) == 2


def test_pictures_of_which_none_can_be_read_are_one_error(detector, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(b"")
    assert cli.main(["compare", str(detector), str(folder)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: none of the 3 pictures can be read: {folder}/a.png is empty"
    assert hint.startswith("hint: ")


def test_parity_of_two_backends_is_told_tensor_by_tensor(detector, photos, capsys):
    assert cli.main(["compare", f"{detector}@ort", f"{detector}@ov", str(photos), "--parity", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)

    assert [(one["tensor"], one["part"]) for one in data["inputs"] + data["outputs"]] == [
        ("images", ""),
        ("output0", "boxes"),
        ("output0", "scores"),
    ]
    assert data["inputs"][0]["most"] == 0
    assert data["outputs"][0]["relative"] < 1e-5
    assert data["images"] == 2
    assert "not looked for where they part: by its relative difference every output lies within" in err
    assert data["parting"] is None


@pytest.mark.parametrize(
    ("decode", "shape", "parts"),
    [
        (Boxes("yolov5"), (1, 2, 9), [("boxes", (1, 2, 4)), ("scores", (1, 2, 5))]),
        (Boxes("yolov8"), (1, 9, 2), [("boxes", (1, 4, 2)), ("scores", (1, 5, 2))]),
        (Boxes("end2end"), (1, 2, 6), [("boxes", (1, 2, 4)), ("scores", (1, 2, 1)), ("classes", (1, 2, 1))]),
        (Boxes("yolov8", where="graph"), (1, 9, 2), [("", (1, 9, 2))]),
        (TopK(), (1, 9), [("", (1, 9))]),
    ],
)
def test_scores_are_held_against_scores_alone_in_every_layout(decode, shape, parts):
    output = [{"output": np.zeros(shape, np.float32)}]
    found = [parity._difference("output", *part, output, output) for part in parity._parts(decode).items()]
    assert [(one.part, one.shape) for one in found] == parts


def test_ways_of_two_input_sizes_have_no_parity(tmp_path, photos, capsys):
    one, other = bundles.classify_bundle(tmp_path / "one"), bundles.classify_bundle(tmp_path / "other", side=64)
    assert cli.main(["compare", str(one), str(other), str(photos), "--parity"]) == 2
    told = capsys.readouterr().err.splitlines()[0]
    assert told == "error: images is (1, 3, 32, 32) in one and (1, 3, 64, 64) in the other"


def test_where_a_way_runs_no_onnx_file_on_the_cpu_tensors_alone_are_compared(detector, photos, capsys):
    assert cli.main(["compare", f"{detector}@ort", f"{detector}@null", str(photos), "--parity"]) == 0
    *_, boxes, scores, where = capsys.readouterr().out.splitlines()
    assert (boxes.split()[-1], scores.split()[-1]) == ("1", "1")
    assert where == "not looked for where they part: null does not run an ONNX file on the CPU"


def test_a_way_that_fails_ends_parity_in_one_error_that_names_it(detector, photos, tmp_path, capsys):
    other = bundles.detect_bundle(tmp_path / "other")
    (other / "model.fp32.onnx").write_bytes(b"damaged")
    assert cli.main(["compare", f"{detector}@ort", f"{other}@ort", str(photos), "--parity"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: colors-detect #2 (ort model.fp32.onnx): {other}/model.fp32.onnx has sha256 ")
    assert hint == "hint: the file was changed or cut off; copy or export the bundle again"


def test_parity_finds_the_layer_that_was_changed(detector, tmp_path, photos, capsys):
    other = bundles.detect_bundle(tmp_path / "other")
    changed(other, lambda model: scale(model, "middle", 1.5))
    assert cli.main(["compare", f"{detector}@ort", f"{other}@ort", str(photos), "--parity"]) == 0

    told = "they part at row (Concat): row differs by 0.5, more than 0.001; the one before, color, by 0"
    assert capsys.readouterr().out.splitlines()[-1] == told


def pressed(monkeypatch, where, name, times):
    """Ctrl-C when this is called for so many times."""
    called, call = [], getattr(where, name)

    def press(*words, **named_words):
        called.append(words)
        if len(called) == times:
            os.kill(os.getpid(), signal.SIGINT)
        return call(*words, **named_words)

    monkeypatch.setattr(where, name, press)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_before_tensors_are_compared_says_so_and_leaves_no_files(
    detector, photos, tmp_path, monkeypatch, capsys, times
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pressed(monkeypatch, Entrant, "files", times)
    words = [f"{detector}@ort", f"{detector}@ov", str(photos), "--parity", "--json", str(tmp_path / "all.json")]
    assert cli.main(["compare", *words]) == 130
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == ["interrupted: partial, no tensors were compared"]
    assert err == ""
    data = json.loads((tmp_path / "all.json").read_text())
    assert (data["partial"], data["outputs"], data["parting"]) == (True, [], None)
    assert not list(tmp_path.glob("edgeinfer-*"))


@pytest.mark.parametrize(
    ("times", "told", "unsought"),
    [
        (1, "interrupted: partial, not looked for where they part: it was interrupted", "it was interrupted"),
        (3, "interrupted: partial, they part at or before output0 (Unsqueeze): output0 differs by 0.5, ", ""),
    ],
)
def test_ctrl_c_during_the_bisection_tells_the_tensors_and_how_near_it_came(
    detector, tmp_path, photos, monkeypatch, capsys, times, told, unsought
):
    other, record = bundles.detect_bundle(tmp_path / "other"), tmp_path / "all.json"
    changed(other, lambda model: scale(model, "middle", 1.5))
    pressed(monkeypatch, divergence._Pair, "parted", times)
    words = [f"{detector}@ort", f"{other}@ort", str(photos), "--parity", "--json", str(record)]
    assert cli.main(["compare", *words]) == 130
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith(told)
    assert ("output0" in out, err) == (True, "")
    assert json.loads(record.read_text())["unsought"] == unsought


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_layer_that_gives_nan_or_infinity_in_one_way_only_is_where_they_part(
    detector, tmp_path, photos, capsys, value
):
    other = bundles.detect_bundle(tmp_path / "other")
    changed(other, lambda model: scale(model, "middle", value))
    assert cli.main(["compare", f"{detector}@ort", f"{other}@ort", str(photos), "--parity", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    boxes, scores = data["outputs"]
    assert (boxes["most"], boxes["relative"], data["parting"]["relative"]) == (None, None, None)
    assert (data["parting"]["node"], data["unsought"]) == ("row", "")
    assert scores["part"] == "scores"


@pytest.mark.parametrize("backends", [("ort", "ort"), ("ort", "ov"), ("ov", "ort")], ids="-".join)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_first_layer_that_differs_is_found_by_bisection(tmp_path, place, backends):
    one, two = (networks.residual(tmp_path / f"{name}.onnx") for name in ("one", "two"))
    model = onnx.load(two)
    node = model.graph.node[[f"/conv{place}" == node.name for node in model.graph.node].index(True)]
    scale(model, node.input[1], 1.1)
    onnx.save(model, two)
    inputs = {"images": np.random.default_rng(0).random((1, 3, 32, 32), np.float32)}
    sides = [Side(path, backend, "fp32") for path, backend in zip((one, two), backends, strict=True)]
    *_, found = divergence.partings(*sides, inputs, {"logits": [...]})

    assert (found.node, found.operator) == (f"/conv{place}", "Conv")
    assert found.relative > found.tolerance
    assert found.before_relative <= found.tolerance
    assert found.probes <= 4 + np.log2(len(model.graph.node) + 1) + 1


def two_heads(path, weight):
    """Scores by one head, then pixels by another, joined: what changes the scores is 1e-5 of all of it."""
    graph = onnx.parser.parse_graph("""heads (float[1, 8] x) => (float[1, 8] rows) {
        trunk = Relu(x)
        score = Mul(trunk, weight)
        pixel = Mul(trunk, size)
        shifted = Add(pixel, size)
        moved = Add(shifted, size)
        joined = Concat<axis = 1>(moved, score)
        rows = Identity(joined)
    }""")
    graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(one), name) for name, one in weight.items())
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return Side(path, "ort", "fp32")


def test_a_part_of_an_output_that_is_small_beside_another_is_not_hidden(tmp_path):
    one = two_heads(tmp_path / "one.onnx", {"weight": 0.5, "size": 640})
    two = two_heads(tmp_path / "two.onnx", {"weight": 0.51, "size": 640})
    inputs = {"x": np.random.default_rng(0).random((1, 8), np.float32)}

    assert list(divergence.partings(one, two, inputs, {"rows": [...]})) == []
    *_, found = divergence.partings(one, two, inputs, {"rows": [np.s_[:, :8], np.s_[:, 8:]]})
    assert (found.tensor, found.operator, found.before) == ("score", "Mul", "trunk")


def test_layers_that_give_a_single_number_are_compared_too(tmp_path):
    def norm(name, weight):
        graph = onnx.parser.parse_graph("""norm (float[1, 8] x) => (float[1, 8] y) {
            scaled = Mul(x, weight)
            peak = ReduceMax<keepdims = 0>(scaled)
            shifted = Add(scaled, peak)
            y = Add(shifted, peak)
        }""")
        graph.initializer.append(numpy_helper.from_array(np.float32(weight), "weight"))
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / name)
        return Side(tmp_path / name, "ort", "fp32")

    inputs = {"x": np.random.default_rng(0).random((1, 8), np.float32)}
    *_, found = divergence.partings(norm("one.onnx", 0.5), norm("two.onnx", 0.6), inputs, {"y": [...]})
    assert (found.tensor, found.operator) == ("scaled", "Mul")


def test_relative_differences_are_of_the_first():
    one = np.array([3.0, 4.0])
    assert divergence.relative(one, one) == 0
    assert divergence.relative(one, one * 1.1) == pytest.approx(0.1)
    assert divergence.relative(one * 0, one) == float("inf")
    assert divergence.relative(one * 0, one * 0) == 0
    assert divergence.relative(one, np.array([np.nan, 4])) == float("inf")
    assert divergence.relative(np.array([np.inf, 4]), np.array([-np.inf, 4])) == float("inf")
    assert divergence.relative(np.array([np.inf, np.nan, 4]), np.array([np.inf, np.nan, 5])) == pytest.approx(
        3**-0.5 / 4
    )
