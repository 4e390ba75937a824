"""`edgeinfer validate`: its table, its JSON, and what happens to bad data sets."""

import json

import pytest

from edgeinfer import cli
from helpers import bundles
from helpers import datasets as on_disk

MIDDLE = (16, 12, 32, 24)  # of a 64x48 picture letterboxed to 32x32: what the colour detector always finds


def validate(*args):
    return cli.main(["validate", *map(str, args)])


@pytest.fixture
def boxes(tmp_path):
    """A red picture, whose box the detector finds, and one where it is said to be green."""
    for name in ("a", "b"):
        on_disk.picture(tmp_path / f"set/{name}.png", color=bundles.BGR["red"])
    notes = [(0, 1, MIDDLE), (1, 2, MIDDLE)]
    on_disk.coco(tmp_path / "set/notes.json", {0: "a.png", 1: "b.png"}, notes, {1: "red", 2: "green"})
    return tmp_path / "set"


@pytest.fixture
def classes(tmp_path):
    """Three folders of colours, with one picture in the wrong folder."""
    for name, color in (("red", "red"), ("green", "green"), ("blue", "blue"), ("blue", "red")):
        on_disk.picture(tmp_path / f"set/{name}/{color}.png", color=bundles.BGR[color])
    return tmp_path / "set"


def test_a_detector_gives_a_table_and_says_what_was_measured(detector, boxes, capsys):
    assert validate(detector, boxes) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["class", "objects", "AP50", "AP50-95"]
    assert [line.split()[0] for line in lines[1:4]] == ["red", "green", "all"]
    assert lines[-1] == (
        "2 pictures, 0 errors (COCO, classes by name); conf 0.001, iou 0.65, limit 300; ran on ort model.fp32.onnx"
    )
    assert err == ""


@pytest.mark.parametrize("verb", ["validate", "compare", "profile", "tune"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, verb):
    """The bundle would fail too: what is said first is what was looked at first."""
    words = [verb, tmp_path / "none", *{"validate": ["pictures"], "compare": ["none", "pictures"]}.get(verb, [])]
    for file, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "r.json", "there is no folder")):
        assert cli.main([str(word) for word in (*words, "--json", file)]) == 1
        assert f"{file} cannot be written: {reason}" in capsys.readouterr().err


def test_the_json_of_a_detector_holds_the_numbers_and_how_they_were_taken(detector, boxes, capsys):
    assert validate(detector, boxes, "--json", "-") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    each = report.pop("classes")
    assert {name: report[name] for name in ("conf", "iou", "limit", "images", "unreadable")} == {
        "conf": 0.001,
        "iou": 0.65,
        "limit": 300,
        "images": 2,
        "unreadable": 0,
    }
    # one of two red detections is right, and is not told from the other by its score
    assert each["red"] == {"objects": 1, "ap50": report["map50"] * 2, "ap50_95": report["map50_95"] * 2}
    assert each["green"] == {"objects": 1, "ap50": 0, "ap50_95": 0}
    assert 0.2 < report["map50"] <= 0.5
    assert "AP50" in err


def test_a_classifier_gives_top_1_and_top_5(classifier, classes, tmp_path, capsys):
    assert validate(classifier, classes, "--json", tmp_path / "a.json") == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["top1"], report["top5"], report["images"]) == (0.75, 0.75 + 0.25, 4)
    assert "conf" not in report
    assert "75.0" in capsys.readouterr().out


def test_only_some_pictures_are_taken_from_all_over_the_set(classifier, classes, capsys):
    assert validate(classifier, classes, "--limit-images", 2, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_the_backend_asked_for_is_measured(classifier, classes, capsys):
    assert validate(classifier, classes, "--backend", "null", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "null"


def test_a_bad_picture_is_named_left_out_and_fails_the_run_at_its_end(classifier, classes, capsys):
    (classes / "green/green.png").write_bytes(b"")
    assert validate(classifier, classes, "--json", "-") == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["images"], report["unreadable"]) == (3, 1)
    assert err.startswith(f"warning: {classes}/green/green.png is empty\n")
    assert "error: 1 picture could not be read, and left out of the numbers\nhint: " in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "notes.json").write_text("{"), "notes.json is not JSON"),
        (lambda folder: (folder / "notes.json").unlink(), "holds no labels"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "has no pictures"),
        (lambda folder: [path.write_bytes(b"") for path in folder.glob("*.png")], "no picture of the data set"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_one_error_and_no_report(detector, boxes, tmp_path, change, told, capsys):
    change(boxes)
    assert validate(detector, boxes, "--json", tmp_path / "a.json") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("error:") == 1
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("given", ["set", "set/notes.json"])
def test_no_report_is_written_over_the_labels(detector, boxes, monkeypatch, capsys, given):
    labels = (boxes / "notes.json").read_bytes()
    monkeypatch.chdir(boxes.parent)
    assert validate(detector, given, "--json", boxes / "notes.json") == 2
    assert (boxes / "notes.json").read_bytes() == labels
    assert "a report would be written over" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--limit-images", "0"], ["--precision", "fp8"], ["--backend", "nothing"]])
def test_wrong_options_are_wrong_usage(detector, boxes, option):
    assert validate(detector, boxes, *option) == 2


def test_progress_is_shown_on_a_terminal_only(classifier, classes, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert validate(classifier, classes) == 0
    assert "4/4" in capsys.readouterr().err
