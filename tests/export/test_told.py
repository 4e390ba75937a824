"""How a classifier's pictures come to it: told by the user, by who published the file, or by what lies beside it."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import EdgeInferError, ExportError, UsageError
from edgeinfer.spec import Batch, Size
from edgeinfer_export import checkpoint, graphs, sources, timmconfig, zoo
from edgeinfer_export.export import Options
from edgeinfer_export.told import NORMALIZE, Told
from helpers import foreign, seeded
from helpers.pickling import Tensor, archive

WEIGHTS = "pytorch_model.bin"
HALVES = (0.5, 0.5, 0.5)
CUBIC = "cubic-antialias"
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 7,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 64, 96],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": list(HALVES),
        "std": list(HALVES),
        "license": "apache-2.0",
    },
}


def write(path, golden, **beside):
    tensors = {name: Tensor(value) for name, value in golden.tensors.items()}
    path.write_bytes(archive({"state_dict": tensors, **beside}))
    return path


@pytest.fixture
def file(tmp_path, resnet):
    """A state dict of a classifier."""
    return write(tmp_path / "best.pth", resnet)


@pytest.fixture
def folder(tmp_path, resnet):
    """What timm puts on the hub."""
    write(tmp_path / WEIGHTS, resnet)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def preprocess(path, **options):
    return sources.read(path, Options(**{"size": Size(64, 64), **options})).spec.preprocess


def test_flags_of_the_command_line_reach_the_bundle(file, tmp_path):
    words = ["--imgsz", "64,96", "--resize", "stretch", "--normalize", "symmetric", "--interpolation", "linear"]
    assert main(["export", str(file), *words, "-o", str(tmp_path / "out")]) == 0
    found = Bundle.open(tmp_path / "out").spec.preprocess
    assert (found.fit, found.resize, found.mean, found.std) == ("stretch", 0, HALVES, HALVES)
    assert found.interpolation == "linear"


def test_a_length_before_the_crop_may_be_told(file):
    assert preprocess(file).resize == 73
    assert preprocess(file, told=Told(resize="80")).resize == 80
    with pytest.raises(UsageError, match="resize 60 is below the crop's 64"):
        preprocess(file, told=Told(resize="60"))


@pytest.mark.parametrize("resize", ["squash", "-1", "1e3", "123456", "2.5"])
def test_a_word_that_is_no_way_to_resize_is_wrong_usage(resize):
    with pytest.raises(UsageError, match="neither a length in pixels nor stretch"):
        Told(resize=resize)


@pytest.mark.parametrize(
    ("flag", "word", "known"),
    [
        ("interpolation", "bicubic", "linear, linear-antialias, cubic-antialias"),
        ("io", "int8", "float32, float16"),
        ("layout", "yolov3", "yolov5, yolov8, end2end, classes"),
        ("normalize", "caffe", "imagenet, unit, symmetric, none"),
    ],
)
def test_a_word_that_there_is_not_is_wrong_usage(flag, word, known):
    with pytest.raises(UsageError, match=f"^--{flag} '{word}' is not one of {known}(\n|$)"):
        Told(**{flag: word})


def test_an_onnx_classifier_is_resized_as_told(tmp_path):
    path = foreign.save(foreign.classifier(10), tmp_path / "model.onnx")
    options = {"size": None, "batch": Batch(1, 1)}
    told = preprocess(path, told=Told(normalize="unit", resize="stretch", interpolation=CUBIC), **options)
    usual = preprocess(path, told=Told(normalize="unit"), **options)
    assert (told.fit, told.interpolation) == ("stretch", CUBIC)
    assert (usual.fit, usual.interpolation) == ("resize-crop", "linear-antialias")


def own(path, name, frames="", size=None):
    """An ONNX file that was exported here before, and the preprocessing it says."""
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=size or golden.size, name="before")
    built = graphs.vary(built, graphs.Variant(frames))
    return foreign.save(built.model, path), built.spec.preprocess


def test_of_an_onnx_file_of_ours_no_more_changes_than_is_told(tmp_path):
    path, before = own(tmp_path / "model.onnx", "yolov8-cls", size=Size(64, 64))
    for told, changed in (
        (Told(resize="71"), {"resize": 71}),
        (Told(interpolation=CUBIC), {"interpolation": CUBIC}),
        (Told("classes", "symmetric"), {"mean": HALVES, "std": HALVES}),
    ):
        spec = sources.read(path, Options(told=told)).spec
        assert spec.preprocess == dataclasses.replace(before, **changed)
        assert spec.name == "before"


def test_of_an_onnx_file_of_ours_nothing_else_may_be_told_than_it_says(tmp_path):
    detector, _ = own(tmp_path / "detector.onnx", "yolov5")
    classifier, _ = own(tmp_path / "classifier.onnx", "yolov8-cls", frames="bgr")
    for path, told, message in (
        (detector, Told("yolov8"), "says itself that it is yolov5"),
        (detector, Told(resize="80"), "--resize is for classifiers"),
        (classifier, Told("yolov8"), "says itself that it is classes"),
        (classifier, Told(normalize="imagenet"), "--normalize: classifier.onnx takes uint8 frames"),
    ):
        with pytest.raises(UsageError, match=message):
            preprocess(path, size=None, told=told)


def test_a_length_before_the_crop_makes_a_crop_of_what_is_stretched(tmp_path):
    path, before = own(tmp_path / "model.onnx", "yolov8-cls", size=Size(64, 96))
    assert before.fit == "stretch"
    cropped = dataclasses.replace(before, fit="resize-crop", resize=100)
    assert preprocess(path, size=None, told=Told(resize="100")) == cropped


def test_of_a_detector_nothing_is_told_that_is_of_classifiers(tmp_path):
    golden = seeded.Golden("yolov5")
    for flags in ({"resize": "stretch"}, {"normalize": "unit"}, {"interpolation": CUBIC}):
        with pytest.raises(UsageError, match=f"--{next(iter(flags))} is for classifiers"):
            graphs.build(golden.checkpoint(), size=golden.size, told=Told(**flags))
    path = foreign.save(foreign.yolov8(), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="--resize, --interpolation is for classifiers"):
        preprocess(path, size=None, told=Told(resize="80", interpolation=CUBIC))


def test_a_published_file_is_known_by_its_content(file, monkeypatch):
    known = zoo.find("resnet50-v2")
    assert zoo.published(known.sha256_prefix + "0" * 56) == known
    assert zoo.published("f" * 64) is None

    here = dataclasses.replace(known, sha256_prefix=checkpoint.read(file).sha256[:8], resize=71)
    monkeypatch.setattr(zoo, "ALL", (*zoo.ALL, here))
    built = sources.read(file, Options(size=Size(64, 64)))
    assert (built.spec.preprocess.resize, built.spec.provenance.license) == (71, "BSD-3-Clause")
    assert built.spec.name == "best"
    assert preprocess(file, told=Told(resize="80")).resize == 80


def test_timms_config_beside_its_weights_is_followed(folder):
    built = sources.read(folder / WEIGHTS, Options())
    found = built.spec.preprocess
    assert (found.size, found.fit, found.resize, found.mean) == (Size(64, 96), "resize-crop", 101, HALVES)
    assert (built.spec.name, built.spec.provenance.license) == ("resnet18", "apache-2.0")
    assert (found.interpolation, built.notes) == (CUBIC, ())
    told = preprocess(folder / WEIGHTS, size=Size(32, 32), told=Told(normalize="imagenet", interpolation="linear"))
    assert (told.size, told.resize, told.mean) == (Size(32, 32), 33, NORMALIZE["imagenet"][1])
    assert told.interpolation == "linear"


def test_a_config_is_of_timms_own_files_and_only_timms(folder):
    other = (folder / WEIGHTS).rename(folder / "mine.bin")
    assert preprocess(other).resize == 73
    for content in ("{", "[]", '{"architectures": ["ResNet"]}', '{"pretrained_cfg": 3}'):
        (folder / "config.json").write_text(content, encoding="utf-8")
        assert timmconfig.beside(folder / WEIGHTS) is None


def changed(folder, **facts):
    config = CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | facts}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / WEIGHTS


def test_a_head_that_pools_otherwise_is_refused(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"global_pool": "max"}), encoding="utf-8")
    with pytest.raises(ExportError, match="global_pool is max"):
        preprocess(folder / WEIGHTS)


@pytest.mark.parametrize(("name", "ours"), [("bilinear", "linear-antialias"), ("", CUBIC), (None, CUBIC)])
def test_pictures_are_resized_by_what_timm_would(folder, name, ours):
    assert preprocess(changed(folder, interpolation=name)).interpolation == ours


def test_squashed_pictures_are_stretched(folder):
    assert preprocess(changed(folder, crop_mode="squash", crop_pct=1)).fit == "stretch"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, "mean and std is"),
        ({"crop_mode": "border"}, "crop_mode is border"),
        # timm stretches them to more than the size, and crops
        ({"crop_mode": "squash"}, "crop_pct of squashed pictures is 0.95"),
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"crop_pct": 10**400}, "too large"),
        ({"crop_mode": "border" * 999}, "crop_mode is border"),
        ({"interpolation": "lanczos"}, "interpolation is lanczos"),
        ({"interpolation": "random"}, "interpolation is random"),
        ({"input_size": [1, 224, 224]}, "input_size is"),
        ({"input_size": 224}, "not iterable|unpack"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(folder, facts, message):
    with pytest.raises(ExportError, match=message) as caught:
        preprocess(changed(folder, **facts))
    assert "--resize" in caught.value.hint
    assert len(str(caught.value)) < 600


@given(fact=st.sampled_from(sorted(CONFIG["pretrained_cfg"])), value=st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda one: st.lists(one, max_size=3)
))  # fmt: skip
def test_no_value_in_a_config_escapes_as_another_error(tmp_path_factory, fact, value):
    folder = tmp_path_factory.getbasetemp()
    try:
        found = timmconfig.beside(changed(folder, **{fact: value}))
    except EdgeInferError:
        return
    assert Told(**found.told(found.size)).resize


@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur50d", "seresnextaa101d_32x8d"])
def test_what_the_tensors_do_not_show_the_name_tells(resnet, name):
    with pytest.raises(ExportError, match=f"the model is {name}, which (averages|blurs) where ResNet strides"):
        graphs.build(resnet.checkpoint(architecture=name), size=resnet.size)
    assert graphs.build(resnet.checkpoint(architecture="resnet50d"), size=resnet.size)


def test_a_training_programs_name_for_the_model_is_read(tmp_path, resnet):
    with pytest.raises(ExportError, match="the model is resnetblur18"):
        preprocess(write(tmp_path / "best.pth", resnet, arch="resnetblur18"))
    with pytest.raises(ExportError, match="the model is resnetaa50_a1h-4cf422b3, which averages"):
        preprocess(write(tmp_path / "resnetaa50_a1h-4cf422b3.pth", resnet))
