"""`edgeinfer run`: lines, and what happens to bad sources and wrong words."""

import json
import os
import pty
import subprocess
import sys

import pytest

from edgeinfer import cli
from edgeinfer.spec import Batch
from helpers import bundles
from helpers.patience import said
from helpers.running import run


def test_a_picture_gives_a_line_and_a_summary(detector, photos, capsys):
    assert run(detector, photos / "red.png") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{photos}/red.png 32x32: 1 red  ")
    assert "1 picture, 0 errors; ran on ort model.fp32.onnx" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["preprocess", "infer", "postprocess", "total"]
    assert err == ""


def test_the_summary_says_how_many_pictures_share_a_run_and_its_times(photos, tmp_path, capsys):
    model = bundles.classify_bundle(tmp_path / "classifier", Batch(1, 8))
    assert run(model, photos) == 0
    assert "; ran on ort model.fp32.onnx, up to 8 pictures a run\n" in capsys.readouterr().out


@pytest.mark.parametrize(("label", "shown"), [("\x1b[31mred", "1 [31mred  "), ("red\nerror: x", "1 red error: x  ")])
def test_labels_cannot_steer_the_terminal(detector, photos, capsys, label, shown):
    spec = json.loads((detector / "model.json").read_text(encoding="utf-8"))
    spec["labels"] = [label, *spec["labels"][1:]]
    (detector / "model.json").write_text(json.dumps(spec), encoding="utf-8")
    assert run(detector, photos / "red.png") == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{photos}/red.png 32x32: {shown}")
    assert cli.main(["info", str(detector)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_bad_picture_in_a_folder_is_a_warning_and_the_run_fails_at_its_end(detector, photos, capsys):
    photos.joinpath("broken.png").write_bytes(b"")
    assert run(detector, photos) == 1
    out, err = capsys.readouterr()
    assert "2 pictures, 1 error" in out
    assert err.splitlines() == [
        f"warning: {photos}/broken.png is empty",
        "error: 1 source could not be read",
        "hint: copy the file again",
    ]


@pytest.mark.parametrize(
    ("source", "found", "remedy"),
    [("empty", "empty has no pictures in it", "pictures end in "), ("*.png", "*.png matches no file", "quote ")],
)
def test_where_there_is_no_picture_the_hint_says_what_would_be_one(
    detector, tmp_path, monkeypatch, capsys, source, found, remedy
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(detector, source) == 1
    told, error, hint = capsys.readouterr().err.splitlines()
    assert (told, error) == (f"warning: {found}", "error: 1 source could not be read")
    assert hint.startswith(f"hint: {remedy}")


def test_one_missing_source_of_two_is_a_warning(detector, photos, capsys):
    assert run(detector, photos / "nothing.png", photos / "red.png") == 1
    out, err = capsys.readouterr()
    assert "1 picture, 1 error" in out
    assert err.startswith(f"warning: {photos}/nothing.png does not exist\n")


def test_a_single_bad_source_is_the_error(detector, photos, capsys):
    assert run(detector, photos / "nothing.png") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {photos}/nothing.png does not exist\nhint: ")


def test_a_run_can_stop_early(detector, clip, capsys):
    assert run(detector, clip, "--max-frames", 2) == 0
    assert "2 pictures, 0 errors" in capsys.readouterr().out


WRONG = [
    ["--conf", "1.5"],
    ["--conf", "nan"],
    ["--conf", "high"],
    ["--iou", "-0.1"],
    ["--top", "0"],
    ["--threads", "-1"],
    ["--max-frames", "1.5"],
    ["--precision", "fp8"],
    ["--backend", "nothing"],
]


@pytest.mark.parametrize("option", WRONG)
def test_wrong_numbers_are_wrong_usage(detector, photos, option, capsys):
    assert run(detector, photos, *option) == 2
    assert f"error: argument {option[0]}: " in capsys.readouterr().err


def test_a_threshold_for_boxes_does_not_go_with_a_classifier(classifier, photos):
    assert run(classifier, photos, "--conf", 0.5) == 2


def test_a_threshold_above_every_score_leaves_nothing(detector, clip, capsys):
    # letterboxing dilutes the clip's green with grey
    assert run(detector, clip, "--conf", 0.99) == 0
    assert "48x64: nothing found" in capsys.readouterr().out


def test_the_backend_asked_for_runs(detector, photos, capsys):
    assert run(detector, photos, "--backend", "null") == 0
    assert "ran on null" in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_an_error(photos, capsys):
    assert run(photos, photos) == 1
    assert "model.json" in capsys.readouterr().err


def test_a_line_of_a_cascade_has_the_classifiers_words(detector, classifier, photos, capsys):
    assert run(detector, photos / "red.png", "--classify", classifier) == 0
    assert " 32x32: 1 red (red)  " in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--tile", "2by2"), ("--max-age", "soon")])
def test_wrong_words_for_tiles_and_ages_are_wrong_usage(detector, photos, flags, capsys):
    assert run(detector, photos, *flags) == 2
    assert "hint: " in capsys.readouterr().err


def test_a_video_on_a_terminal_is_one_line_that_changes(detector, clip):
    reader, writer = pty.openpty()
    line = [sys.executable, "-m", "edgeinfer", "run", detector, clip]
    with subprocess.Popen(line, stdout=writer, stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        told = said(reader)
    os.close(reader)
    assert process.returncode == 0
    first, *_ = told.split("\r\n")
    assert [part[:5] for part in first.split("\r")[1:]] == [" 33 %", " 66 %", "100 %"]
