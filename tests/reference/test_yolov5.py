"""Detectors of the yolov5 package, of every release."""

import pytest

from reference.parity import SCALES


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5(compare, originals, scale):
    compare.detector(f"yolov5{scale}", originals.yolov5(f"yolov5{scale}.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_yolov5_with_four_levels(compare, originals, scale):
    compare.detector(f"yolov5{scale}6", originals.yolov5(f"hub/yolov5{scale}6.yaml"))


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
