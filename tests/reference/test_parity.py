"""Our graphs against the implementations they stand for: same weights, same pictures, float32 on the CPU."""

import numpy as np
import pytest

import helpers.rows
from edgeinfer.spec import Batch, Size
from edgeinfer_export.told import Told

# float32 sums in another order: logits of unit variance, boxes in pixels, scores in 0-1
LOGITS, PIXELS, SCORES = 1e-4, 0.01, 1e-4

SCALES = "nsmlx"


def run(built, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(built.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {built.spec.inputs[0].name: images})[0]


def rows(array, layout):
    """(n, boxes, 4 + ...): boxes first, whatever the layout."""
    return array.transpose(0, 2, 1) if layout == "yolov8" else array


class Compare:
    """Builds our graph for a reference model, runs both, records and returns the differences."""

    def __init__(self, originals, measured):
        self.originals = originals
        self.measured = measured

    def detector(self, name, model, side=256, count=1, *, stored=None, **options):
        from edgeinfer_export import graphs

        size = side if isinstance(side, tuple) else (side, side)
        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(*size), batch=options.pop("batch", Batch(count, count)), **options)
        images = self.originals.images(size, count)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert ours.shape == theirs.shape == built.spec.outputs[0].at(count)
        ours, theirs = (rows(array, built.spec.decode.layout) for array in (ours, theirs))
        assert np.ptp(theirs[..., 4:]) > 0.5, "the reference's scores hardly vary: the comparison would say little"
        apart = np.abs(ours - theirs)
        row = {"box_px": float(apart[..., :4].max()), "score": float(apart[..., 4:].max())}
        parameters = sum(value.numel() for value in model.parameters())
        facts = {"parameters": built.spec.provenance.parameters, "gflops": built.spec.provenance.gflops}
        self.measured.append({"model": name, "size": size, **row, **facts, "unfused_parameters": parameters})
        assert row["box_px"] <= PIXELS
        assert row["score"] <= SCORES
        return built

    def end_to_end(self, name, model, side=256, *, stored=None, **options):
        """The head without suppression: what is found is the same, and in the same order but for near scores."""
        from edgeinfer_export import graphs

        model.model[-1].end2end = True
        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(side, side), batch=Batch(1, 4), **options)
        images = self.originals.images((side, side), 2)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert built.spec.decode.layout == "end2end"
        assert np.ptp(theirs[..., 4]) > 0.02, "the reference's scores hardly vary: the comparison would say little"
        helpers.rows.assert_same(ours, theirs, pixels=PIXELS, scores=SCORES)
        return built

    def classifier(self, name, model, side=224, count=2, *, stored=None, **options):
        from edgeinfer_export import graphs

        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(side, side), batch=Batch(1, 8), **options)
        images = self.originals.images((side, side), count)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert ours.shape == theirs.shape
        difference = float(np.abs(ours - theirs).max() / theirs.std())
        # of ResNet one FLOP is a multiply-add, of YOLO two are
        unit = "gflops" if "-cls" in name else "gmacs"
        facts = {"parameters": built.spec.provenance.parameters, unit: built.spec.provenance.gflops}
        self.measured.append({"model": name, "size": (side, side), "logits": difference, **facts})
        assert difference <= LOGITS
        return built


@pytest.fixture
def compare(originals, measured):
    return Compare(originals, measured)


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5(compare, originals, scale):
    compare.detector(f"yolov5{scale}", originals.yolov5(f"yolov5{scale}.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5_with_four_levels(compare, originals, scale):
    compare.detector(f"yolov5{scale}6", originals.yolov5(f"hub/yolov5{scale}6.yaml"))


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


@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp", "yolov3-tiny"])
def test_yolov3_with_anchors(compare, originals, name):
    built = compare.detector(name, originals.yolov5(f"hub/{name}.yaml"))
    assert built.spec.provenance.architecture == name


# a head's other wirings are in no name
HUB = {
    "p2": "yolov5l-p2",
    "p34": "yolov5s-p34",
    "p6": "yolov5l6",
    "fpn": "yolov5l",
    "bifpn": "yolov5l",
    "panet": "yolov5l",
}


@pytest.mark.parametrize(("variant", "architecture"), HUB.items())
def test_other_heads_of_yolov5(compare, originals, variant, architecture):
    built = compare.detector(f"yolov5-{variant}", originals.yolov5(f"hub/yolov5-{variant}.yaml"))
    assert built.spec.provenance.architecture == architecture


def narrow(cfg):
    """A YAML that has one width, at the depth and width of n."""
    import yaml

    return yaml.safe_load(cfg.read_text()) | {"depth_multiple": 0.33, "width_multiple": 0.25}


def test_yolov5_with_five_levels(compare, originals):
    model = originals.yolov5(narrow(originals.YOLOV5 / "models/hub/yolov5-p7.yaml"))
    built = compare.detector("yolov5n-p7", model)
    assert built.spec.provenance.architecture == "yolov5n-p7"
    compare.detector("yolov5n-p7 from tensors alone", model, stored=originals.stored(model, yaml={}))


@pytest.mark.parametrize("module", ["CrossConv", "MixConv2d"])
@pytest.mark.parametrize("saved", ["state dict", "whole", "fused"])
def test_blocks_that_no_yaml_of_yolov5_reads(compare, originals, tmp_path, module, saved):
    value = narrow(originals.YOLOV5 / "models/yolov5s.yaml")
    arguments = {"CrossConv": [3, 2], "MixConv2d": [[1, 3, 5], 2]}[module]
    for part in ("backbone", "head"):
        for row in value[part]:
            if row[2] == "Conv" and row[3][1:] == [3, 2]:
                row[2:] = [module, [row[3][0], *arguments]]
    model = originals.yolov5(value)
    if saved == "fused":
        model = model.fuse().eval()
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    compare.detector(f"yolov5n of {module}, {saved}", model, stored=stored)


@pytest.mark.parametrize("saved", ["state dict", "whole", "fused"])
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov5s-ghost", "yolov5s-transformer"])
def test_other_blocks_of_yolov5(compare, originals, tmp_path, name, saved):
    model = originals.yolov5(f"hub/{name}.yaml", nc=7)
    if saved == "fused":
        model = model.fuse().eval()
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    built = compare.detector(f"{name}, {saved}, 7 classes", model, stored=stored)
    assert built.spec.provenance.architecture == name


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


@pytest.mark.parametrize(
    "cfg", ["yolov5n.yaml", "hub/yolov5n6.yaml", "hub/yolov5s-ghost.yaml", "hub/yolov5s-transformer.yaml"]
)
def test_tensors_without_their_yaml(compare, originals, cfg):
    model = originals.yolov5(cfg)
    compare.detector(f"{cfg} from tensors alone", model, stored=originals.stored(model, yaml={}))


def older(cfg, activation=None):
    """Release 5.0: Focus below and SPP, by the newer release's own YAML."""
    import yaml

    value = yaml.safe_load(cfg.read_text())
    value["backbone"][0] = [-1, 1, "Focus", [64, 3]]
    sizes = [3, 5, 7] if len(value["anchors"]) == 4 else [5, 9, 13]
    value["backbone"][-2:] = [[-1, 1, "SPP", [1024, sizes]], [-1, 3, "C3", [1024, False]]]
    return value | ({"activation": activation} if activation else {})


@pytest.mark.parametrize("cfg", ["yolov5s.yaml", "hub/yolov5s6.yaml"])
def test_focus_and_spp_of_release_5(compare, originals, cfg):
    model = originals.yolov5(older(originals.YOLOV5 / "models" / cfg))
    compare.detector(f"{cfg} of release 5.0", model)


@pytest.mark.parametrize("activation", ["nn.LeakyReLU(0.1)", "nn.Hardswish()", "nn.ReLU()"])
def test_other_activations(compare, originals, activation):
    model = originals.yolov5(older(originals.YOLOV5 / "models/yolov5n.yaml", activation))
    compare.detector(f"yolov5n, {activation}", model)


@pytest.mark.parametrize("release", ["3.1", "4.0"])
def test_bottleneck_csp_and_activations_that_only_the_modules_tell(compare, originals, tmp_path, release):
    from torch import nn

    rest = {"3.1": nn.Hardswish(), "4.0": nn.SiLU()}[release]
    value = older(originals.YOLOV5 / "models/yolov5s.yaml")
    for part in ("backbone", "head"):
        value[part] = [[row[0], row[1], row[2].replace("C3", "BottleneckCSP"), row[3]] for row in value[part]]
    model = originals.disguised(originals.yolov5(value), {"BottleneckCSP": nn.LeakyReLU(0.1), "Conv": rest})
    stored = originals.whole(model, tmp_path / "whole.pt")
    compare.detector(f"yolov5s of release {release}, BottleneckCSP", model, stored=stored)


def test_anchors_moved_by_training(compare, originals):
    model = originals.yolov5("yolov5n.yaml")
    model.model[-1].anchors *= 1.7
    compare.detector("yolov5n, other anchors", model)


CLASSIFIERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"]


DEEP = ["resnet50d", "resnet34d", "resnet26t", "resnet50c", "resnet50s", "resnext50d_32x4d"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *(f"timm/{name}" for name in ("resnet50", "resnet34", *DEEP))])
def test_classifiers(compare, originals, name):
    built = compare.classifier(name, originals.classifier(name))
    assert built.spec.provenance.architecture == name.removeprefix("timm/")


def test_a_classifier_of_other_size_and_classes(compare, originals):
    compare.classifier("resnet18, 10 classes at 96", originals.classifier("resnet18", 10), 96)


@pytest.mark.parametrize("saved", ["state dict", "whole"])
def test_layers_in_the_place_of_fc(compare, originals, tmp_path, saved):
    from torch import nn

    layers = [nn.Dropout(0.4), nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5)]
    model = originals.classifier("resnet18", layers=layers)
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    built = compare.classifier(f"resnet18, layers in the place of fc, {saved}", model, stored=stored)
    assert bool(built.notes) == (saved == "state dict")


def test_shortcuts_that_average_over_odd_sides(compare, originals):
    compare.classifier("timm/resnet26d at 100", originals.classifier("timm/resnet26d", 10), 100)


def test_a_half_precision_classifier(compare, originals):
    model = originals.classifier("resnet50")
    compare.classifier("resnet50, fp16 tensors", model, stored=originals.stored(model, half=True))


def test_bottlenecks_that_stride_in_their_first_convolution(compare, originals, tmp_path):
    model = originals.classifier("resnet50")
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    compare.classifier("resnet50 v1", model, stored=originals.whole(model, tmp_path / "whole.pt"))


FAMILIES_OF_CLASSIFIERS = ("yolov5", "yolov8", "yolo11", "yolo26")
YOLO_CLASSIFIERS = [
    *((f"{family}{scale}", "state dict") for family in FAMILIES_OF_CLASSIFIERS for scale in SCALES),
    *((f"{family}n", "whole") for family in FAMILIES_OF_CLASSIFIERS),
    ("yolo12n", "state dict"),
    ("yolo12n", "whole"),
]


@pytest.mark.parametrize(("name", "saved"), YOLO_CLASSIFIERS)
def test_classifiers_of_yolo(compare, originals, tmp_path, name, saved):
    model = (
        originals.yolov5_classifier(f"{name}.yaml")
        if name.startswith("yolov5")
        else originals.ultralytics_classifier(f"{name}-cls.yaml")
    )
    stored = originals.whole(model, tmp_path / "whole.pt") if saved == "whole" else None
    built = compare.classifier(f"{name}-cls, {saved}", model, stored=stored)
    # YOLOv5's tell no width
    assert built.spec.provenance.architecture == ("yolov5" if name.startswith("yolov5") else name) + "-cls"


@pytest.mark.parametrize("source", [(480, 640), (333, 250), (224, 224), (700, 701)])
def test_pictures_come_to_a_classifier_as_there(originals, source):
    from PIL import Image
    from ultralytics.data.augment import classify_transforms
    from yolov5.utils.augmentations import classify_transforms as cropping

    from edgeinfer.devices.cpu import Device
    from edgeinfer_export import graphs

    picture = (originals.images(source)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    for size in (Size(224, 224), Size(160, 320)):
        ours = graphs.build(originals.stored(originals.ultralytics_classifier("yolo11n-cls.yaml")), size=size).spec
        seen = Device(ours).preprocess([picture])[0]["images"][0]
        sides = (size.height, size.width)
        theirs = classify_transforms(sides)(Image.fromarray(picture[..., ::-1])).numpy()
        assert np.abs(seen - theirs).max() <= 1.01 / 255
    spec = graphs.build(originals.stored(originals.yolov5_classifier("yolov5n.yaml"))).spec
    apart = np.abs(Device(spec).preprocess([picture])[0]["images"][0] - cropping(224)(picture).numpy())
    # it crops before it resizes; the rest is the same
    assert apart.max() <= 0.02 if source[0] == source[1] else apart.mean() < 0.5


def test_parameters_and_flops_are_the_published_ones(originals):
    import torchvision

    from edgeinfer_export import graphs

    built = graphs.build(originals.stored(torchvision.models.resnet50()))
    meta = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta
    assert built.spec.provenance.parameters == meta["num_params"]
    assert built.spec.provenance.gflops == round(meta["_ops"], 2)
