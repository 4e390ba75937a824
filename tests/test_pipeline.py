"""The pipeline: pictures and tensors in, results out, and what is no picture."""

import copy
import pickle
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from edgeinfer import frames, load, profile, stream
from edgeinfer.cascade import Cascade
from edgeinfer.errors import EdgeInferError, InputError, SpecError, UsageError
from edgeinfer.sources import Frame
from edgeinfer.spec import Batch, Size
from edgeinfer.tiling import Grid, Tiled
from helpers import bundles


def test_a_detector_finds_the_box_and_the_class(detector):
    with load(detector) as model:
        found = model(bundles.picture("green", 64, 64))

    assert [(label, box.tolist()) for box, _, label in found] == [("green", [16, 16, 48, 48])]
    assert set(found.timings_ms) == {"preprocess", "infer", "postprocess"}


def test_a_classifier_names_the_best_classes_in_order(classifier):
    with load(classifier) as model:
        named = list(model(bundles.picture("blue")))

    assert named[0][1] == "blue"
    assert named[0][0] > named[1][0]


def test_a_batch_gives_a_result_for_each_picture_in_order(detector):
    with load(detector) as model:
        results = model.batch([bundles.picture(color) for color in bundles.COLORS])

    assert [next(iter(result))[2] for result in results] == list(bundles.COLORS)


def test_an_empty_batch_gives_no_results(detector):
    with load(detector) as model:
        assert model.batch([]) == []


def test_thresholds_given_at_load_replace_the_bundles(detector, classifier):
    grey = np.full((32, 32, 3), 128, np.uint8)
    with load(detector, conf=0.4) as low, load(detector, conf=0.6) as high:
        assert (len(low(grey)), len(high(grey))) == (1, 0)
    with load(classifier, top=1) as best:
        assert len(best(grey)) == 1


@pytest.mark.parametrize(
    "options", [{"top": 3}, {"conf": 1.5}, {"limit": 0}, {"contexts": 0}, {"threads": -1}], ids=str
)
def test_options_that_cannot_be_are_wrong_usage(detector, options):
    with pytest.raises((UsageError, SpecError)):
        load(detector, **options)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: load(path, limit=1.5), "limit 1.5 is not a whole number"),
        (lambda path: load(path, limit=True), "limit True is not a whole number"),
        (lambda path: load(path, conf="0.5"), "conf '0.5' is not a number"),
        (lambda path: load(path, iou=[0.5]), "iou [0.5] is not a number"),
        (lambda path: load(path, conf=float("nan")), "conf nan is below 0"),
        (lambda path: load(path, contexts="2"), "contexts '2' is not a whole number"),
        (lambda path: load(path, contexts=None), "contexts None is not a whole number"),
        (lambda path: load(path, threads=1.5), "threads 1.5 is not a whole number"),
        (lambda path: load(path, device=0), "device 0 is not auto, gpu or such as gpu:1"),
        (lambda path: load(path, precision=16), "precision 16 is not one of auto, fp32, fp16, int8"),
        (lambda _: load(3), "a bundle is opened by the path of its folder, not by int"),
        (lambda path: next(frames(path, max_pixels="9")), "max_pixels '9' is not a whole number"),
        (lambda path: profile(path, seconds="3"), "seconds '3' is not a finite number above 0"),
        (lambda path: stream(path, load(path), max_age_ms="200"), "max_age_ms '200' is not a number"),
        (lambda path: load(path).infer([1]), "inputs are without names (list); the model takes images"),
        (
            lambda path: load(path).infer({"images": [1]}),
            "input images is list, the model takes (1, 3, 32, 32) float32",
        ),
    ],
)
def test_an_argument_of_another_type_is_a_clear_error(detector, call, told):
    with pytest.raises(EdgeInferError) as caught:
        call(detector)
    assert str(caught.value) == told


def test_numbers_of_numpy_are_numbers(detector):
    with load(detector, conf=np.float32(0.5), limit=np.int64(3), contexts=np.int32(2)) as model:
        assert len(model(bundles.picture("red"))) == 1


def test_the_engine_writes_into_the_same_memory_every_run(detector):
    with load(detector) as model:
        tensors, _ = model.device.preprocess([bundles.picture()])
        first, second = (model.engine.run(tensors)["output0"].ctypes.data for _ in range(2))

    assert first == second


@pytest.mark.parametrize("least", [1, 3])
def test_the_engine_alone_takes_tensors_and_gives_tensors_of_the_callers_own(tmp_path, least):
    """The tiny classifier's logits are ten times each channel's mean."""
    colors = np.random.default_rng(1).random((2, 3, 1, 1), np.float32)
    with load(bundles.classify_bundle(tmp_path / "open", Batch(least, 4))) as model:
        first, second = (
            model.infer({"images": np.ascontiguousarray(np.broadcast_to(rows, (len(rows), 3, 32, 32)))})["logits"]
            for rows in (colors, colors[1:])
        )
    np.testing.assert_allclose(first, colors[:, :, 0, 0] * 10, rtol=1e-5)
    np.testing.assert_array_equal(second, first[1:])


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "inputs are none; the model takes images"),
        ({"other": 1, "images": 2}, "inputs are images, other; the model takes images"),
        ({"images": np.zeros((1, 3, 32, 32))}, "input images is (1, 3, 32, 32) float64"),
        ({"images": np.zeros((1, 3, 32, 31), np.float32)}, "input images is (1, 3, 32, 31) float32"),
        ({"images": np.zeros((0, 3, 32, 32), np.float32)}, "input images is (0, 3, 32, 32) float32"),
        ({"images": np.zeros((5, 3, 32, 32), np.float32)}, "takes (4, 3, 32, 32) float32"),
    ],
    ids=str,
)
def test_tensors_that_the_model_does_not_take_are_refused_with_those_it_does(tmp_path, tensors, told):
    with load(bundles.classify_bundle(tmp_path / "open", Batch(1, 4))) as model:
        with pytest.raises(InputError) as refused:
            model.infer(tensors)
        assert told in str(refused.value)


def test_the_null_backend_runs_any_bundle(detector):
    with load(detector, backend="null") as model:
        assert len(model(bundles.picture())) == 0


@pytest.mark.parametrize("shape", [(32, 48, 3), (32, 48, 4), (32, 48, 1), (32, 48)], ids=str)
def test_one_picture_handed_over_as_a_batch_is_refused_instead_of_its_rows_taken_for_pictures(detector, shape):
    with load(detector) as model:
        for several in (model, Tiled(model, Grid(rows=1, columns=2))):
            with pytest.raises(InputError, match="batch takes several pictures") as refusal:
                several.batch(np.zeros(shape, np.uint8))
            assert "model.batch([image])" in refusal.value.hint


@pytest.mark.parametrize("images", [None, iter([bundles.picture()]), np.array(1)], ids=["None", "generator", "number"])
def test_what_is_no_list_of_pictures_is_no_batch(detector, classifier, images):
    with load(detector) as model, load(classifier) as names:
        for several in (model, Tiled(model, "1x2"), Cascade(model, names)):
            with pytest.raises(InputError, match=f"takes a list of pictures, got {type(images).__name__}") as refusal:
                several.batch(images)
            assert "model.batch([*images])" in refusal.value.hint


@pytest.mark.parametrize("shape", [(2, 32, 48, 3), (2, 32, 48)], ids=str)
def test_an_array_of_pictures_is_a_batch(detector, shape):
    with load(detector) as model:
        assert len(model.batch(np.zeros(shape, np.uint8))) == 2


@pytest.mark.parametrize("collect", [deque, tuple, lambda pictures: dict(enumerate(pictures)).values()])
def test_whatever_holds_pictures_in_an_order_is_a_batch(detector, classifier, collect):
    with load(detector) as model, load(classifier) as names:
        for several in (model, Tiled(model, "1x2"), Cascade(model, names)):
            assert len(several.batch(collect([bundles.picture()] * 3))) == 3


def test_names_are_no_pictures(detector):
    with load(detector) as model, pytest.raises(InputError, match="got str"):
        model.batch({"red.png": bundles.picture()})


def test_pictures_of_several_sizes_in_one_array_are_a_batch(detector):
    several = np.empty(2, object)
    several[:] = [bundles.picture("red", 32, 48), bundles.picture("blue", 64, 32)]
    with load(detector) as model:
        assert [found.source for found in model.batch(several)] == [Size(32, 48), Size(64, 32)]


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8, 3), np.uint16)], ids=lambda image: image.dtype)
def test_numbers_that_are_no_bytes_are_refused_with_what_to_do_about_it(detector, image):
    with load(detector) as model, pytest.raises(InputError, match=str(image.dtype)) as refusal:
        model(image)
    assert "astype(np.uint8)" in refusal.value.hint


REFUSED = {
    "imread": (None, "cv2.imread gives None"),
    "path": (Path("street.jpg"), "cv2.imread(path)"),
    "text": ("street.jpg", "cv2.imread(path)"),
    "file": (b"\xff\xd8", "cv2.imdecode"),
    "list": ([bundles.picture()], "model.batch(images)"),
    "frame": (Frame(bundles.picture(), "camera:0", 0, 0), "frame.image, pixels=frame.pixels"),
    "memory": (memoryview(bundles.picture()), "np.asarray(image"),
    "batch": (np.zeros((1, 8, 9, 3), np.uint8), "model.batch(images)"),
    "planes": (np.zeros((3, 8, 9), np.uint8), "image.transpose(1, 2, 0)"),
    "empty": (bundles.picture()[40:], "it is empty"),
    "two channels": (np.zeros((8, 9, 2), np.uint8), "the kinds are bgr, rgb, nv12"),
}


@pytest.mark.parametrize(("image", "remedy"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_is_refused_with_how_to_make_one_of_it(detector, image, remedy):
    with load(detector) as model, pytest.raises(InputError, match="image must be") as refusal:
        model(image)
    assert remedy in refusal.value.hint


def test_grey_and_bgra_need_no_other_word_for_their_pixels(detector):
    with load(detector) as model:
        for pixels in ("gray", "bgra"):
            with pytest.raises(InputError, match="is not one of bgr, rgb, nv12") as refusal:
                model(bundles.picture(), pixels=pixels)
            assert "their shape tells" in refusal.value.hint


def test_a_pipeline_says_in_words_what_it_runs_and_whether_it_is_closed(detector):
    with load(detector) as model:
        assert repr(model) == "<Pipeline colors-detect: detect, ort model.fp32.onnx>"
    assert repr(model) == "<Pipeline colors-detect: detect, ort model.fp32.onnx, closed>"


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda one: one.__name__)
def test_a_pipeline_that_is_copied_or_pickled_says_what_to_do_instead(detector, copy):
    with load(detector) as model:
        with pytest.raises(InputError, match="cannot be copied or pickled") as refusal:
            copy(model)
        assert "load the bundle again, in each process" in refusal.value.hint
        assert len(model(bundles.picture())) == 1
