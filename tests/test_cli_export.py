"""`edgeinfer export`, from a real checkpoint to a bundle that runs."""

import json
import shlex

import numpy as np
import pytest

from edgeinfer import load
from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import FetchError
from helpers.scenery import SOURCE


def small(tmp_path, *more):
    """Export the packaged detector at 64x96 and give the bundle."""
    target = tmp_path / "bundle"
    assert main(["export", str(SOURCE), "-o", str(target), "--imgsz", "64,96", *more]) == 0
    return Bundle.open(target)


def test_export_writes_a_bundle_that_verifies_and_runs(tmp_path, capsys):
    bundle = small(tmp_path)

    bundle.verify()
    assert bundle.spec.labels[0] == "person"
    assert bundle.spec.provenance.license == "Apache-2.0"
    assert main(["verify", str(bundle.path)]) == 0
    assert "next: edgeinfer run" in capsys.readouterr().out


def test_the_command_to_go_on_with_holds_in_a_shell(tmp_path, capsys):
    bundle = small(tmp_path / "two words")
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words == ["next:", "edgeinfer", "run", str(bundle.path), "IMAGE"]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    first = small(tmp_path / "one")
    second = small(tmp_path / "two")

    files = sorted(path.relative_to(first.path) for path in first.path.rglob("*") if path.is_file())
    assert all((first.path / file).read_bytes() == (second.path / file).read_bytes() for file in files)


def test_json_names_what_was_written(tmp_path, capsys):
    bundle = small(tmp_path, "--json")
    said = json.loads(capsys.readouterr().out)

    assert said["bundle"] == str(bundle.path)
    assert [one["file"] for one in said["artifacts"]] == ["model.fp32.onnx"]


@pytest.mark.parametrize("images", [1, 3, 4, 9])
def test_an_open_batch_gives_what_single_pictures_give(tmp_path, images):
    bundle = small(tmp_path, "--batch", "1-4")
    chance = np.random.default_rng(images)
    pictures = [chance.integers(0, 256, (50 + place, 80, 3), np.uint8) for place in range(images)]
    with load(bundle, conf=0.001) as model:
        together = model.batch(pictures)
        alone = [model(picture) for picture in pictures]

    assert [len(one) for one in together] == [len(one) for one in alone]
    assert all(np.allclose(one.boxes, two.boxes, atol=1e-2) for one, two in zip(together, alone, strict=True))


def test_a_fixed_batch_takes_fewer_pictures_too(tmp_path):
    bundle = small(tmp_path, "--batch", "4")
    with load(bundle) as model:
        assert len(model.batch([np.zeros((20, 20, 3), np.uint8)] * 3)) == 3


def test_labels_come_from_a_file(tmp_path):
    names = tmp_path / "names.txt"
    # with the mark that Windows' editors put before a text
    names.write_text("\n".join(f"thing {place}" for place in range(10)), encoding="utf-8-sig")

    labels = small(tmp_path, "--labels", str(names)).spec.labels
    assert (labels[0], labels[3]) == ("thing 0", "thing 3")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--imgsz", "100"], 1, "multiple"),
        (["--imgsz", "0"], 2, "--imgsz '0'"),
        (["--imgsz", "1,2,3"], 2, "--imgsz '1,2,3'"),
        (["--imgsz", "16416"], 2, "16384 at most"),
        (["--batch", "1-"], 2, "--batch '1-'"),
        (["--batch", "0"], 2, "--batch '0'"),
        (["--batch", "4-2"], 2, "--batch '4-2'"),
        (["--precision", "fp8"], 2, "'fp8' is not one of"),
        (["--labels", "/nothing"], 2, "--labels /nothing cannot be read: No such file or directory\n"),
        (["--compile", "rtx:sm87"], 2, "sm87"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_error_line_and_nothing_is_written(tmp_path, capsys, arguments, code, message):
    assert main(["export", str(SOURCE), "-o", str(tmp_path / "bundle"), *arguments]) == code

    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "content"), [("page.pt", b"<!DOCTYPE html>"), ("empty.pt", b"")])
def test_a_file_that_is_no_checkpoint_is_an_error_with_a_hint(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)

    assert main(["export", str(tmp_path / name), "-o", str(tmp_path / "bundle")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "hint"]
    assert not (tmp_path / "bundle").exists()


def test_a_name_that_nobody_knows_lists_those_that_are_known(capsys):
    assert main(["export", "yolov5q"]) == 1
    assert "yolov5n" in capsys.readouterr().err


def test_warnings_and_errors_take_the_place_of_the_line_that_tells_how_far_a_download_is(monkeypatch, capsys):
    def broken_off(*_, progress, warn, **__):
        progress("yolov5n", 1, 4)
        warn("the server is slow")
        progress("yolov5n", 2, 4)
        raise FetchError("the download broke off")

    monkeypatch.setattr("edgeinfer_export.export.export", broken_off)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["export", "yolov5n"]) == 1
    told = capsys.readouterr().err
    assert "25%\r\x1b[Kwarning: the server is slow\n" in told
    assert "50%\r\x1b[Kerror: the download broke off\n" in told
