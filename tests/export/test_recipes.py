"""Recipes: strict files whose keys are the flags of `edgeinfer export`; and plans, which write nothing."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from edgeinfer import cache
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer_export import recipes, zoo
from helpers import foreign
from helpers.scenery import SOURCE, TRUTH

ENGINES = Path(__file__).parent.parent.parent / "engines"
SHIPPED = sorted(ENGINES.glob("*.toml"))


@pytest.fixture
def model(tmp_path):
    return foreign.save(foreign.yolov8(batch="n"), tmp_path / "models" / "tiny.onnx")


def recipe(tmp_path, text):
    file = tmp_path / "recipes" / "tiny.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return str(file)


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_there_is_a_recipe_for_each_model_the_project_is_about():
    names = {file.stem for file in SHIPPED}

    assert names >= {"resnet50", *(f"yolov5{size}" for size in "nsmlx"), "yolov5-resnet50", "pictograms"}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_plans(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert main(["export", str(file), "--plan", "--json", "-o", str(tmp_path / "out")]) == 0
    plan = said(capsys)
    assert plan["recipe_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert plan["name"] == file.stem
    assert plan["batch"][1] > 1
    assert zoo.find(plan["source"]) or plan["task"] == "detect" or plan["missing"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_recipe_is_calibrated_judged_and_compiled_as_planned(tmp_path, capsys):
    file = ENGINES / "pictograms.toml"
    # NVIDIA has no wheel of its compiler for every machine
    without = () if importlib.util.find_spec("tensorrt_rtx") else ("--compile=",)
    words = ["export", str(file), "-o", str(tmp_path / "out"), "--imgsz", "96", "--budget", "50", *without]
    assert main([*words, "--plan", "--json"]) == 0
    plan = said(capsys)
    assert main(words) == 0
    spec = Bundle.open(tmp_path / "out").spec
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    made = {one.file: one for one in spec.artifacts}

    assert (spec.provenance.recipe, spec.provenance.recipe_sha256) == (
        "pictograms.toml",
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    assert spec.preprocess.size.height == 96
    assert spec.batch.max == 4
    assert sorted(plan["files"]) == sorted(str(path.relative_to(tmp_path / "out")) for path in written)
    assert list(made)[:4] == plan["artifacts"]
    assert len(made) == 4 + len(plan["engines"]) == (4 if without else 10)
    for form in ("int8-cpu", "int8-trt"):
        assert int(made[f"model.{form}.onnx"].made["images"]) == plan["calibration"]["images"] > 90
    for one in plan["artifacts"][1:]:
        assert made[one].accuracy["images"] == plan["judged"]["images"] > 20
        assert "map_delta" in made[one].accuracy
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_what_was_typed_wins_over_the_recipe_even_where_it_is_the_default(tmp_path, model, capsys):
    text = 'source = "../models/tiny.onnx"\nbatch = "1-8"\nname = "from-recipe"\nnms = "graph"\nlimit = 7\nconf = 0.5\n'
    words = ["--name", "typed", "--nms", "runtime", "--plan", "--json"]
    assert main(["export", *words, recipe(tmp_path, text)]) == 0
    plan = said(capsys)

    assert (plan["name"], plan["batch"]) == ("typed", [1, 8])
    assert main(["export", *words[2:4], recipe(tmp_path, text), "-o", str(tmp_path / "out")]) == 0
    decode = Bundle.open(tmp_path / "out").spec.decode
    assert (decode.where, decode.limit, decode.score) == ("runtime", 7, 0.5)


def test_lists_flags_and_paths_mean_what_they_mean_on_the_command_line(tmp_path, model):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "names.txt").write_text("a\nb\nc\n")
    text = 'source = "../models/tiny.onnx"\nimgsz = [64, 96]\nlabels = "names.txt"\nclass-agnostic = true\n'
    assert main(["export", recipe(tmp_path, text), "-o", str(tmp_path / "out")]) == 0
    spec = Bundle.open(tmp_path / "out").spec

    assert spec.labels == ("a", "b", "c")
    assert spec.decode.class_agnostic


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('source = "yolov5n"\nimagesize = 640\nbath = 1\n', 1, "unknown key bath, imagesize"),
        ("imgsz = 640\n", 1, "names no source"),
        ('source = "yolov5n"\nimgsz = {height = 3}\n', 1, "imgsz is"),
        ('source = "yolov5n"\nimgsz = []\n', 1, "imgsz is"),
        ('source = "yolov5n"\nimgsz = 2026-01-01\n', 1, "imgsz is"),
        ("source = ", 1, "is not TOML"),
        ("[" * 100_000, 1, "is not TOML"),
        ("#" * (1 << 19), 1, "above"),
        ('source = "yolov5n"\nprecision = "fp8"\n', 2, "fp8"),
        ('source = "yolov5n"\nnms = "gpu"\n', 2, "tiny.toml: argument --nms"),
        ('source = "yolov5n"\nvia-python = "/bin/sh"\n', 1, "unknown key via-python"),
        ('source = "yolov5n"\nvia = "ultralytics"\n', 1, "unknown key via"),
        ('source = "yolov5n"\noutput = "/etc"\n', 1, "unknown key output"),
        ('source = "yolov5n"\ncompile = "rtx:sm87"\n', 2, "sm87"),
        ('source = "yolov5n"\nimgsz = true\n', 1, "imgsz is True"),
        ('source = "yolov5n"\nname = false\n', 1, "name is False"),
        ('source = "yolov5n"\nclass-agnostic = "yes"\n', 1, "class-agnostic is 'yes', expected true or false"),
        ('source = ""\n', 1, "names no source"),
        ('source = "--help"\n', 1, "--help is neither a file nor a known name"),
        ('source = "yolov6"\n', 1, "neither a file nor a known name"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_wrong_recipe_is_one_error_and_one_hint(tmp_path, capsys, text, code, message):
    file = recipe(tmp_path, text)

    assert main(["export", file, "-o", str(tmp_path / "out"), "--plan"]) == code
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[0]
    assert [line.split(":")[0] for line in errors] == ["error", "hint"]


def test_an_unknown_key_lists_the_keys_there_are(tmp_path):
    with pytest.raises(ExportError) as caught:
        recipes.read(recipe(tmp_path, 'source = "x"\nbath = 1\n'), ("imgsz", "batch"))
    assert caught.value.hint == "the keys are source, imgsz, batch"


def test_a_recipe_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["export", str(tmp_path / "nothing.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_plan_tells_what_is_known_and_writes_nothing(tmp_path, model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(model), "--batch", "1-2", "--compile", "trt,rtx:sm86+sm89", "--plan", "--json"]) == 0
    plan = said(capsys)

    assert (plan["task"], plan["classes"], plan["size"], plan["batch"]) == ("detect", 3, [64, 96], [1, 2])
    assert plan["artifacts"] == ["model.fp32.onnx"]
    assert plan["engines"] == ["trt fp32", "rtx:sm86+sm89 fp32"]
    assert plan["files"] == [
        *("model.json", "model.fp32.onnx", "golden/0.png", "golden/1.png"),
        *("trt-GPU-VERSION.fp32.plan", "rtx-sm86-sm89.fp32.plan"),
    ]
    assert plan["calibration"] is plan["judged"] is plan["budget"] is None
    assert (plan["writes"], plan["replaces"]) == ("engines/tiny", False)
    assert any("tensorrt" in one.lower() for one in plan["missing"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_for_people_names_the_bundle_it_replaces(tmp_path, model, capsys):
    target = str(tmp_path / "out")
    assert main(["export", str(model), "-o", target]) == 0
    assert main(["export", str(model), "-o", target, "--plan"]) == 0

    shown = capsys.readouterr().out
    assert f"{target} (takes the place of the bundle there)" in shown
    assert shown.endswith("nothing was written\n")


def test_a_plan_of_a_known_name_downloads_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["export", "yolov5n", "--plan", "--json"]) == 0

    assert said(capsys)["kind"].startswith("downloaded from https://")
    assert not cache.home().exists()


def test_a_plan_sees_that_a_download_which_is_damaged_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.home().mkdir()
    (cache.home() / "yolov5n.pt").write_bytes(b"<!doctype html>")
    assert main(["export", "yolov5n", "--plan", "--json"]) == 0

    assert said(capsys)["kind"].startswith("downloaded from https://")


def test_a_plan_refuses_what_the_export_would_refuse(model, capsys):
    assert main(["export", str(model), "--imgsz", "640", "--plan"]) == 1
    assert "fixed input of 64x96" in capsys.readouterr().err


def test_a_plan_by_way_of_ultralytics_says_when_it_is_not_there(tmp_path, capsys):
    (tmp_path / "best.pt").write_bytes(b"weights")
    words = ["--via", "ultralytics", "--via-python", str(tmp_path / "python"), "--plan", "--json"]
    assert main(["export", str(tmp_path / "best.pt"), *words]) == 0

    assert said(capsys)["missing"] == [f"{tmp_path / 'python'} is not a program"]


@pytest.mark.parametrize("way", [["yolov5n"], ["{own}", "--via", "ultralytics"]], ids=["known", "via"])
def test_a_plan_names_the_folder_that_the_export_would_write(tmp_path, monkeypatch, capsys, way):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "best.pt").write_bytes(b"weights")
    words = ["export", *(word.format(own=tmp_path / "best.pt") for word in way), "--plan", "--json"]
    assert main([*words, "--name", "street cars"]) == 0
    assert said(capsys)["writes"] == "engines/street-cars"

    assert main([*words, "--name", "..."]) == 2
    assert "gives no name for the bundle" in capsys.readouterr().err


def detector(tmp_path, *words):
    """The packaged detector with everything asked for, and the bundle it would be."""
    words = ["--imgsz", "64", "--precision", "fp32,fp16,int8", "--calibrate", str(TRUTH), "--budget", "90", *words]
    return [str(SOURCE), *words, "-o", str(tmp_path / "out")]


def test_a_plan_shows_how_precisions_are_made_and_judged_and_what_the_graph_does(tmp_path, capsys):
    words = detector(tmp_path, "--preprocess=graph", "--nms=graph", "--limit=50", "--calibrate-method=minmax")
    assert main(["export", *words, "--plan", "--json"]) == 0
    plan = said(capsys)
    pictures = len(list(TRUTH.glob("*.jpg")))

    assert plan["calibration"]["path"] == plan["judged"]["path"] == str(TRUTH)
    assert plan["calibration"]["images"] + plan["judged"]["images"] == pictures
    assert (plan["method"], plan["budget"], plan["judged"]["layout"]) == ("minmax", 90, "COCO")
    assert plan["in_graph"] == ["uint8 bgr frames", "suppression: score 0.25, overlap 0.45, 50 boxes at most"]

    assert main(["export", *words, "--plan"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert f"with {plan['calibration']['images']} pictures of {TRUTH}, COCO labels, ranges by minmax" in page
    assert f"within 90 points of float32, on {plan['judged']['images']} pictures" in page
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_judged_by_the_packaged_scenes_where_no_pictures_are_given(capsys):
    assert main(["export", str(SOURCE), "--precision", "fp16", "--plan"]) == 0

    assert "within 1 points of float32, on 4 street scenes of the package" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibrate", "/nothing"], "/nothing does not exist"),
        (["--compile", "rtx:sm86", "--nms", "graph"], "no NonMaxSuppression"),
        (["-o", "{taken}"], "holds other files"),
    ],
    ids=["pictures", "target", "place"],
)
def test_a_plan_refuses_what_could_not_be_done(tmp_path, capsys, words, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("x")
    words = [word.format(taken=tmp_path / "taken") for word in words]
    assert main(["export", *detector(tmp_path), *words, "--plan"]) == 1

    assert message in capsys.readouterr().err
