"""ONNX files of the reference exporters become bundles that find what the references' own decoding finds."""

import functools
import sys

import numpy as np
import onnxruntime
import pytest

from edgeinfer.bundle import Bundle
from edgeinfer.spec import Batch, Boxes, Size, TopK
from edgeinfer_export.export import Options, export


def run(file, pictures):
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


@pytest.mark.parametrize(
    ("cfg", "decode"),
    [("yolov8n.yaml", Boxes("yolov8")), ("yolo11n.yaml", Boxes("yolov8")), ("yolov8n-cls.yaml", TopK(5, "none"))],
)
def test_a_checkpoint_by_way_of_ultralytics_computes_what_it_computes_there(originals, tmp_path, cfg, decode):
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(cfg)
    source = tmp_path / "best.pt"
    model.save(source)
    options = Options(size=Size(64, 64), batch=Batch(1, 2), via="ultralytics", via_python=sys.executable)
    bundle = Bundle.open(export(source, tmp_path / "out", options))
    pictures = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    with torch.no_grad():
        expected = YOLO(source).model.fuse().eval()(torch.from_numpy(pictures))

    expected = expected[0] if isinstance(expected, tuple) else expected
    assert bundle.spec.decode == decode
    assert bundle.spec.provenance.license.startswith("AGPL")
    assert np.abs(run(bundle.path / "model.fp32.onnx", pictures) - expected.numpy()).max() < 1e-3


@pytest.mark.parametrize("half", [False, True])
def test_what_ultralytics_exports_is_recognised(originals, tmp_path, half):
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(tmp_path / "best.pt")
    file = YOLO(tmp_path / "best.pt").export(format="onnx", imgsz=[64, 96], simplify=False, device="cpu", half=half)
    spec = Bundle.open(export(file, tmp_path / "out")).spec

    assert (spec.decode, spec.preprocess.size) == (Boxes("yolov8"), Size(64, 96))
    assert spec.artifacts[0].precision == ("fp16" if half else "fp32")


def test_what_yolov5_exports_is_recognised(originals, tmp_path, monkeypatch):
    import torch
    from yolov5.export import export_onnx

    model = originals.yolov5("yolov5n.yaml", nc=3)
    model.names = {0: "a", 1: "b", 2: "c"}
    model.model[-1].export = True
    picture = torch.zeros(1, 3, 64, 64)
    # yolov5 knows the exporter that PyTorch had before
    monkeypatch.setattr(torch.onnx, "export", functools.partial(torch.onnx.export, dynamo=False))
    export_onnx(model, picture, tmp_path / "best.pt", 17, True, False)
    bundle = Bundle.open(
        export(tmp_path / "best.onnx", tmp_path / "out", Options(size=Size(64, 96), batch=Batch(1, 2)))
    )

    assert (bundle.spec.decode, bundle.spec.labels) == (Boxes("yolov5"), ("a", "b", "c"))


def test_what_torchvision_exports_is_recognised(originals, tmp_path):
    import torch
    import torchvision

    model = torchvision.models.resnet18().eval()
    file = tmp_path / "resnet18.onnx"
    torch.onnx.export(model, torch.zeros(1, 3, 224, 224), file, dynamo=False)
    spec = Bundle.open(export(file, tmp_path / "out")).spec

    assert (spec.decode, spec.preprocess.resize, spec.labels[0]) == (TopK(5), 256, "tench")
