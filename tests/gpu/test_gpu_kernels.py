"""The kernels as NVRTC compiles them against the CPU device, on random work of every kind; also for compute-sanitizer.

tests/kernels compares the same sources, built by g++, on many more cases and needs no GPU; here the question is
whether the GPU's arithmetic and its threads give the same.
"""

import numpy as np
import pytest

from edgeinfer.devices import cpu
from edgeinfer.errors import EngineError, SpecError
from edgeinfer.spec import INTERPOLATIONS, Boxes, Placement, Preprocess, Size, TopK
from gpu import models
from gpu.hostengine import fetch, send
from helpers.rounding import assert_same
from kernels.specs import boxes_spec, classes_spec, picture_spec

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLACE = Placement(Size(500, 700), Size(457, 640), 0, 91)
FITS = {
    "letterbox": {},
    "stretch": {"fit": "stretch", "pad": 0, "color": "bgr"},
    "crop": {"fit": "resize-crop", "resize": 60, **IMAGENET},
}


def on_both(make, how, dtype, images, pixels):
    spec = picture_spec(how, dtype)
    device = make(spec).device
    reference = cpu.Device(spec)
    for image in images:
        (found,) = device.preprocess([image], pixels)[0].values()
        (wanted,) = reference.preprocess([image], pixels)[0].values()
        yield fetch(found, device), wanted.copy()


def images(chance, pixels, count):
    for _ in range(count):
        height, width = (2 * int(side) for side in chance.integers(15, 60, 2))
        shape = (height * 3 // 2, width) if pixels == "nv12" else (height, width, 3)
        yield chance.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("pixels", ["bgr", "rgb", "nv12"])
@pytest.mark.parametrize("fit", FITS)
def test_pictures_are_resized_and_scaled_as_on_the_cpu_to_the_bit(make, fit, pixels, dtype):
    chance = np.random.default_rng(1)
    how = Preprocess(Size(40, 56), **FITS[fit])
    for found, wanted in on_both(make, how, dtype, images(chance, pixels, 12), pixels):
        assert_same(found, wanted, how)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS[1:])
def test_antialiased_pictures_are_the_cpus_but_for_rounding(make, interpolation):
    chance = np.random.default_rng(2)
    how = Preprocess(Size(40, 56), fit="resize-crop", resize=60, scale=1.0, interpolation=interpolation)
    pairs = list(on_both(make, how, "float32", images(chance, "bgr", 40), "bgr"))
    differences = np.concatenate([np.abs(found - wanted).ravel() for found, wanted in pairs])

    # a sum beside a half, added in another order; the cubic is rounded after each direction
    assert differences.max() <= (2 if interpolation == "cubic-antialias" else 1)
    assert differences.mean() < 0.01


def boxes(chance, layout, dtype, count=2, anchors=300, classes=4):
    centres = chance.uniform(0, 640, (count, anchors, 2)).round(-2) + chance.normal(0, 12, (count, anchors, 2))
    sides = chance.uniform(0, 200, (count, anchors, 2))
    scores = np.round(chance.random((count, anchors, classes + 1)), 1 if chance.random() < 0.5 else 9)
    if layout == "yolov5":
        return np.concatenate([centres, sides, scores], 2).astype(dtype)
    if layout == "yolov8":
        return np.ascontiguousarray(np.concatenate([centres, sides, scores[..., 1:]], 2).swapaxes(1, 2), dtype)
    numbers = scores[..., 1:].argmax(2)[..., None]
    return np.concatenate([centres - sides / 2, centres + sides / 2, scores[..., :1], numbers], 2).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "end2end"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_boxes_are_decoded_and_suppressed_as_on_the_cpu_to_the_bit(make, layout, dtype, agnostic):
    chance = np.random.default_rng(3)
    for score in (0.0, 0.5):
        spec = boxes_spec(Boxes(layout, score=score, iou=0.45, class_agnostic=agnostic), 300, 4, dtype)
        device = make(spec).device
        for _ in range(6):
            raw = boxes(chance, layout, dtype)
            found = device.postprocess({"output0": send(raw, device)}, [PLACE] * 2)
            wanted = cpu.Device(spec).postprocess({"output0": raw}, [PLACE] * 2)

            assert [models.rows(one) for one in found] == [models.rows(one) for one in wanted]


@pytest.mark.parametrize("number", [-1, 4])
def test_a_class_without_a_label_is_an_error_as_on_the_cpu(make, number):
    raw = boxes(np.random.default_rng(7), "end2end", "float32", 1)
    raw[..., 5] = number
    device = make(boxes_spec(Boxes("end2end"), 300, 4)).device
    with pytest.raises(EngineError, match=f"class {number}, and its labels are 0 to 3"):
        device.postprocess({"output0": send(raw, device)}, [PLACE])


def test_outputs_that_no_kernel_reads_are_refused_with_what_runs_them(make):
    with pytest.raises(SpecError, match="output0 is int32; on the GPU it must be one of ") as refused:
        make(boxes_spec(Boxes("yolov5"), 300, 4, "int32"))
    assert "--backend ort" in refused.value.hint


def test_the_same_output_gives_the_same_boxes_every_time(make):
    """Whatever the order in which threads add candidates."""
    chance = np.random.default_rng(4)
    spec = boxes_spec(Boxes("yolov5", score=0.1), 4000, 4)
    device = make(spec).device
    output = send(boxes(chance, "yolov5", "float32", 1, 4000), device)

    assert len({str(models.rows(device.postprocess({"output0": output}, [PLACE])[0])) for _ in range(10)}) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_classes_are_ranked_as_on_the_cpu(make, activation, dtype):
    chance = np.random.default_rng(5)
    spec = classes_spec(TopK(5, activation), 1000, dtype)
    device = make(spec).device
    for _ in range(10):
        raw = chance.normal(0, 4, (3, 1000)).astype(dtype)
        found = device.postprocess({"logits": send(raw, device)}, [PLACE] * 3)
        wanted = cpu.Device(spec).postprocess({"logits": raw}, [PLACE] * 3)

        assert [one.class_ids.tolist() for one in found] == [one.class_ids.tolist() for one in wanted]
        # exp is right to some units in the last place, and sums are added in another order
        np.testing.assert_allclose([one.scores for one in found], [one.scores for one in wanted], rtol=1e-5)
