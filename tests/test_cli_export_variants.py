"""`edgeinfer export --preprocess graph --nms graph`, and what is said of such bundles."""

import json

import cv2
import numpy as np
import onnxruntime
import pytest

from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.spec import Boxes
from helpers.scenery import SOURCE


@pytest.fixture
def small(tmp_path):
    """Exports the packaged detector at 64x96 and gives the bundle."""

    def export(*more):
        assert main(["export", str(SOURCE), "-o", str(tmp_path / "bundle"), "--imgsz", "64,96", *more]) == 0
        return Bundle.open(tmp_path / "bundle")

    return export


def test_both_in_the_graph_make_a_model_that_needs_no_runtime(small):
    bundle = small("--preprocess", "graph", "--frames", "rgb", "--nms", "graph", "--conf", "0.05", "--limit", "7")
    session = onnxruntime.InferenceSession(bundle.path / "model.fp32.onnx")
    frame = np.zeros((1, 64, 96, 3), np.uint8)
    outputs = session.run(["num_dets", "boxes", "scores", "classes"], {"images": frame})

    assert [one.shape for one in outputs] == [(1, 1), (1, 7, 4), (1, 7), (1, 7)]
    assert bundle.spec.preprocess.color == "rgb"
    assert bundle.spec.decode == Boxes("yolov5", score=0.05, limit=7, where="graph")
    assert main(["verify", str(bundle.path)]) == 0


def test_frames_are_bgr_unless_told(small):
    assert small("--preprocess", "graph").spec.preprocess.color == "bgr"


def test_thresholds_are_the_bundles_own_without_a_graph_too(small):
    decode = small("--conf", "0.1", "--iou", "0.6", "--class-agnostic").spec.decode
    assert decode == Boxes("yolov5", score=0.1, iou=0.6, class_agnostic=True)


def test_the_same_export_gives_the_same_bytes(small):
    arguments = ["--preprocess", "graph", "--nms", "graph"]
    first = (small(*arguments).path / "model.fp32.onnx").read_bytes()
    assert (small(*arguments).path / "model.fp32.onnx").read_bytes() == first


def test_info_says_who_does_what(small, capsys):
    bundle = small("--preprocess", "graph", "--nms", "graph")
    capsys.readouterr()
    main(["info", str(bundle.path)])
    page = capsys.readouterr().out

    assert "letterbox to 64x96 (linear), bgr uint8 by the runtime; then mean 0, std 1, scale 255, by the graph" in page
    assert "overlap 0.45 or less, at most 300, by the graph" in page
    main(["info", str(bundle.path), "--json"])
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert (spec["preprocess"]["where"], spec["decode"]["where"]) == ("graph", "graph")


def test_run_refuses_thresholds_that_the_graph_has_fixed(small, tmp_path, capsys):
    bundle = small("--nms", "graph")
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 40, 3), 128, np.uint8))
    capsys.readouterr()

    assert main(["run", str(bundle.path), str(tmp_path / "grey.png"), "--iou", "0.7"]) == 2
    errors = capsys.readouterr().err
    assert "iou 0.7 is not the 0.45 that this model suppresses its boxes by" in errors
    assert "--nms runtime" in errors
    assert main(["run", str(bundle.path), str(tmp_path / "grey.png"), "--conf", "0.5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--nms", "graph", "--compile", "rtx:sm86"], 1, "TensorRT-RTX has no NonMaxSuppression"),
        (["--nms", "graph", "--limit", "5000"], 1, "above the 3840"),
        (["--limit", "40000"], 2, "not within 1-30000"),
        (["--frames", "rgb"], 2, "--frames is for models that take frames"),
        (["--nms", "device"], 2, "--nms"),
        (["--conf", "2"], 2, "not a number from 0 to 1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_error_and_nothing_is_written(tmp_path, capsys, arguments, code, message):
    assert main(["export", str(SOURCE), "-o", str(tmp_path / "bundle"), "--imgsz", "64,96", *arguments]) == code

    errors = capsys.readouterr().err
    assert message in errors
    assert "hint:" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", ["1", "1-4"])
def test_tensorrt_rtx_compiles_a_model_that_takes_frames(small, batch):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA has no wheel for this machine")
    bundle = small("--preprocess", "graph", "--batch", batch, "--compile", "rtx:sm86")

    assert [one.format for one in bundle.spec.artifacts] == ["onnx", "rtx"]
    bundle.verify()


def test_tensorrt_rtx_is_refused_for_a_bundle_that_suppresses_itself(small, capsys):
    bundle = small("--nms", "graph")
    before = sorted(bundle.path.iterdir())
    capsys.readouterr()

    assert main(["build", str(bundle.path), "--compile", "rtx:sm86"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "hint"]
    assert sorted(bundle.path.iterdir()) == before
