"""Detectors of Ultralytics, of every family; one of yolov5 beside them where they are treated alike."""

import pytest

from edgeinfer.spec import Batch
from edgeinfer_export.told import Told
from reference.parity import SCALES


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5u(compare, originals, scale):
    compare.detector(f"yolov5{scale}u", originals.ultralytics(f"yolov5{scale}.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5u_with_four_levels(compare, originals, scale):
    compare.detector(f"yolov5{scale}6u", originals.ultralytics(f"yolov5{scale}-p6.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_yolov8(compare, originals, scale):
    compare.detector(f"yolov8{scale}", originals.ultralytics(f"yolov8{scale}.yaml"))


@pytest.mark.parametrize("scale", "nsmblx")
def test_yolov10(compare, originals, tmp_path, scale):
    model = originals.ultralytics(f"yolov10{scale}.yaml")
    built = compare.detector(f"yolov10{scale}", model, stored=originals.whole(model, tmp_path / "whole.pt"))
    # b is no scale to Ultralytics
    assert built.spec.provenance.architecture == f"yolov10{scale}".removesuffix("b")
    compare.end_to_end(f"yolov10{scale}", model, told=Told(layout="end2end"))


def test_yolov10_fused(compare, originals):
    compare.detector("yolov10n, fused", originals.ultralytics("yolov10n.yaml", nc=7).fuse().eval())


@pytest.mark.parametrize("scale", SCALES)
def test_yolo11(compare, originals, scale):
    built = compare.detector(f"yolo11{scale}", originals.ultralytics(f"yolo11{scale}.yaml"))
    assert built.spec.provenance.architecture == f"yolo11{scale}"


@pytest.mark.parametrize("scale", SCALES)
def test_yolo12(compare, originals, tmp_path, scale):
    model = originals.ultralytics(f"yolo12{scale}.yaml")
    built = compare.detector(f"yolo12{scale}", model, stored=originals.whole(model, tmp_path / "whole.pt"))
    assert built.spec.provenance.architecture == f"yolo12{scale}"


@pytest.mark.parametrize("scale", "tsmce")
def test_yolov9(compare, originals, tmp_path, scale):
    model = originals.ultralytics(f"yolov9{scale}.yaml")
    built = compare.detector(f"yolov9{scale}", model, stored=originals.whole(model, tmp_path / "whole.pt"))
    assert built.spec.provenance.architecture == f"yolov9{scale}"


VARIANTS = [f"{family}{scale}{kind}" for family, kind in (("yolov6", ""), ("yolov8", "-ghost")) for scale in SCALES]
VARIANTS += [
    "yolov8n-ghost-p2",
    "yolov8n-ghost-p6",
    "yolov8n-p2",
    "yolov8n-p6",
    "yolov8m-p6",
    "yolo26n-p2",
    "yolo26n-p6",
]


@pytest.mark.parametrize("name", VARIANTS)
def test_yolov6_and_variants_of_yolov8_and_yolo26(compare, originals, tmp_path, name):
    model = originals.ultralytics(f"{name}.yaml")
    built = compare.detector(name, model, stored=originals.whole(model, tmp_path / "whole.pt"))
    assert built.spec.provenance.architecture == name


@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp", "yolov3-tiny"])
def test_yolov3u(compare, originals, name):
    built = compare.detector(f"{name}u", originals.ultralytics(f"{name}.yaml"))
    assert built.spec.provenance.architecture == f"{name}u"


@pytest.mark.parametrize("name", ["yolo12n", "yolo12l", "yolov9t", "yolov9e", "yolov6n", "yolov8n-ghost", "yolov8n-p6"])
def test_fused_layers_are_the_same_model(compare, originals, name):
    model = originals.ultralytics(f"{name}.yaml", nc=7)
    before = compare.detector(f"{name}, state dict, 7 classes", model)
    after = compare.detector(f"{name}, fused", model.fuse().eval())
    parameters = sum(value.numel() for value in model.parameters())
    assert before.spec.provenance.parameters == after.spec.provenance.parameters == parameters


@pytest.mark.parametrize("scale", SCALES)
def test_yolo26(compare, originals, scale):
    built = compare.detector(f"yolo26{scale}", originals.ultralytics(f"yolo26{scale}.yaml"))
    assert built.spec.provenance.architecture == f"yolo26{scale}"
    assert "--layout end2end" in built.notes[0]


@pytest.mark.parametrize("scale", SCALES)
def test_yolo26_without_suppression(compare, originals, scale):
    compare.end_to_end(f"yolo26{scale}", originals.ultralytics(f"yolo26{scale}.yaml"), told=Told(layout="end2end"))


@pytest.mark.parametrize("fused", ["yolov8", "end2end"])
def test_yolo26_fused_for_one_of_its_heads(compare, originals, tmp_path, fused):
    model = originals.ultralytics("yolo26n.yaml", nc=7)
    model.model[-1].end2end = fused == "end2end"
    model.fuse()
    stored = originals.whole(model.eval(), tmp_path / "fused.pt")
    built = (compare.end_to_end if fused == "end2end" else compare.detector)("yolo26n, fused", model, stored=stored)
    assert (built.spec.decode.layout, built.notes) == (fused, ())


def test_the_resnet50_detector_ultralytics_trains(compare, originals, request):
    cfg = request.config.rootpath / "engines/yolov5-resnet50.yaml"
    built = compare.detector("yolov5-resnet50", originals.ultralytics(cfg))
    assert built.spec.provenance.architecture == "yolov5su-resnet50"


def test_at_the_published_size(compare, originals):
    compare.detector("yolov5n at 640", originals.yolov5("yolov5n.yaml"), 640)
    compare.detector("yolov5nu at 640", originals.ultralytics("yolov5n.yaml"), 640)


FAMILIES = [
    ("yolov5", "yolov5n"),
    *(("ultralytics", name) for name in ("yolov5n", "yolov9t", "yolo11n", "yolo12n", "yolo26n")),
]


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_a_half_precision_file(compare, originals, tmp_path, family, name):
    model = getattr(originals, family)(f"{name}.yaml", nc=7)
    stored = originals.written(model, tmp_path / "half.pt")
    built = compare.detector(f"{family} {name}, fp16 file, 7 classes", model, stored=stored)
    assert len(built.spec.labels) == 7


@pytest.mark.parametrize("family", ["yolov5", "ultralytics"])
def test_a_fused_model(compare, originals, family):
    model = getattr(originals, family)("yolov5n.yaml")
    compare.detector(f"{family} n, fused", model.fuse().eval())


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_a_batch_of_pictures_that_are_not_square(compare, originals, family, name):
    model = getattr(originals, family)(f"{name}.yaml", nc=3)
    compare.detector(f"{family} {name}, 3 of 1-4, 192x320", model, (192, 320), 3, batch=Batch(1, 4))
