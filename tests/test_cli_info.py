"""`edgeinfer info` and `edgeinfer verify` on a bundle, sound and otherwise."""

import json
import re
import shutil
from types import SimpleNamespace

import cv2
import pytest

import edgeinfer
from edgeinfer import cli
from edgeinfer.errors import BundleError
from edgeinfer.keys import FITS, Refusal
from edgeinfer.ladder import Rung
from helpers import bundles


def test_info_tells_what_is_in_the_bundle_and_what_would_run(detector, capsys):
    assert cli.main(["info", str(detector)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    expected = {
        f"colors-detect ({detector})",
        "task detect, 3 classes: red, green, blue",
        "input images 1x3x32x32 float32",
        "output output0 1x1x8 float32",
        "preprocess letterbox to 32x32 (linear), rgb, mean 0, std 1, scale 255, by the runtime",
        "decode yolov5 boxes, score 0.25 or more, overlap 0.45 or less, at most 300, by the runtime",
        "architecture colors, 5 parameters",
        "licence CC0-1.0",
        "runs ort model.fp32.onnx (fp32)",
    }
    assert expected <= set(lines)


def test_info_tells_why_a_rung_does_not_run(detector, capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.backends.ort.Engine.refuses", lambda _: "not today")
    cli.main(["info", str(detector)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "no ort model.fp32.onnx (fp32) not today" in lines


def test_info_names_a_file_that_is_missing(detector, capsys):
    (detector / "model.fp32.onnx").unlink()
    assert cli.main(["info", str(detector)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "model.fp32.onnx onnx fp32 missing - -" in lines
    assert "no ort model.fp32.onnx (fp32) model.fp32.onnx is missing; export the bundle again" in lines
    assert not any(line.startswith("runs ") for line in lines)


def test_info_tells_what_an_engine_was_built_for(detector, capsys):
    bundles.add_plan(detector, SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1", sm="86"))
    assert cli.main(["info", str(detector)]) == 0
    (line,) = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "tensorrt_rtx" in line]
    assert re.search(r"tensorrt_rtx 1\.7\.1, sm 86 os linux-x86_64 onnx [0-9a-f]{12} gpu Stand-in A10$", line)


def test_of_two_files_info_says_that_the_second_runs_only_where_it_does(detector, capsys):
    held = json.loads((detector / "model.json").read_text())
    held["artifacts"].append({**held["artifacts"][0], "file": "model.fp16.onnx", "precision": "fp16"})
    (detector / "model.json").write_text(json.dumps(held))
    (detector / "model.fp32.onnx").rename(detector / "model.fp16.onnx")
    assert cli.main(["info", str(detector), "--json"]) == 0
    assert not any(step["runs"] for step in json.loads(capsys.readouterr().out)["ladder"])
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx is missing"):
        edgeinfer.load(detector)


def test_info_as_json_has_the_spec_and_the_ladder(classifier, capsys):
    assert cli.main(["info", str(classifier), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["bundle"] == str(classifier)
    assert record["spec"] == json.loads((classifier / "model.json").read_text())
    (step,) = [step for step in record["ladder"] if step["runs"]]
    told = {"backend": "ort", "artifact": "model.fp32.onnx", "precision": "fp32", "runs": True, "reason": ""}
    assert step == {**told, "code": "", "facts": {}, "caveat": "", "caveat_code": "", "stage_by_stage": ""}


def test_only_the_first_rung_that_can_run_is_the_one_that_does(detector, capsys, monkeypatch):
    rungs = [Rung("trt", None, Refusal("no-library", "no library")), Rung("ort", None, FITS), Rung("null", None, FITS)]
    monkeypatch.setattr("edgeinfer.ladder.climb", lambda *_, **__: rungs)
    cli.main(["info", str(detector), "--json"])
    assert [step["runs"] for step in json.loads(capsys.readouterr().out)["ladder"]] == [False, True, False]
    cli.main(["info", str(detector)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == ["no", "runs", "could"]


def test_a_bundle_that_is_not_there_is_an_error(capsys):
    assert cli.main(["info", "/nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: /nowhere does not exist")


def test_verify_passes_sound_bundles(detector, classifier, capsys):
    for bundle in (detector, classifier):
        assert cli.main(["verify", str(bundle)]) == 0
        out = capsys.readouterr().out
        assert out.splitlines() == [
            "ok     model.fp32.onnx: sha256 as recorded",
            "ok     golden/0.png on ort model.fp32.onnx: 1 of 1 found",
            f"{bundle} is sound: 2 checks passed",
        ]


def test_verify_notices_a_changed_file(detector, capsys):
    with (detector / "model.fp32.onnx").open("ab") as file:
        file.write(b"\0")
    assert cli.main(["verify", str(detector)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"wrong  model.fp32.onnx: {detector}/model.fp32.onnx has sha256")
    assert err.startswith(f"error: {detector} is not sound: 1 of 1 checks failed\nhint: ")


def test_verify_notices_an_answer_that_differs(detector, capsys):
    cv2.imwrite(str(detector / "golden/0.png"), bundles.picture("blue"))
    assert cli.main(["verify", str(detector)]) == 1
    assert "wrong  golden/0.png on ort model.fp32.onnx: 1 of 1 not found" in capsys.readouterr().out


def test_verify_notices_a_missing_golden_picture(detector, capsys):
    shutil.rmtree(detector / "golden")
    assert cli.main(["verify", str(detector)]) == 1
    assert "golden/0.png is missing" in capsys.readouterr().out


def test_verify_fails_where_nothing_can_run(detector, capsys, monkeypatch):
    for name in ("ort", "ov"):
        monkeypatch.setattr(f"edgeinfer.backends.{name}.Engine.refuses", lambda _: "not today")
    assert cli.main(["verify", str(detector)]) == 1
    assert f"error: nothing here runs {detector}" in capsys.readouterr().err
