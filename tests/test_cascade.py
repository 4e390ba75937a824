"""The cascade: every box gets the classes of what is in it, and of nothing else."""

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer.cascade import Cascade
from edgeinfer.devices.images import picture
from edgeinfer.errors import InputError, UsageError
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer.tiling import Grid, Tiled
from helpers import bundles
from helpers.patience import LONG_S


@pytest.fixture
def models(detector, classifier):
    with edgeinfer.load(detector) as first, edgeinfer.load(classifier, top=1) as second:
        yield first, second


class Finder:
    """A detector that finds the boxes it is told to, for pictures whose size it was told."""

    def __init__(self, model, boxes):
        self.spec, self.contexts, self.backend, self.artifact = model.spec, 1, "told", ""
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)

    def batch(self, images, pixels="bgr"):
        count = len(self.boxes)
        return [
            Detections(
                self.boxes,
                np.linspace(0.9, 0.5, count, dtype=np.float32),
                np.zeros(count, np.int32),
                ("thing",),
                Size(*image.shape[:2]),
                {"infer": 1.0},
            )
            for image in images
        ]


def stripes():
    """Red, green and blue thirds, side by side: (60, 90, 3)."""
    return np.concatenate([bundles.picture(color, 60, 30) for color in bundles.COLORS], axis=1)


def test_every_box_is_named_after_what_is_in_it(models):
    boxes = [[62, 5, 88, 50], [2, 5, 28, 50], [32, 5, 58, 50]]
    found = Cascade(Finder(models[0], boxes), models[1], margin=0)(stripes())
    assert [next(iter(one))[1] for one in found.classes] == ["blue", "red", "green"]
    assert found.captions()[0].startswith("blue 1.00 (thing 0.90)")
    assert set(found.timings_ms) == {"infer", "classify"}
    assert 0 < found.timings_ms["classify"] < 1e3 * LONG_S


def test_no_device_is_asked_for_the_time_while_another_call_may_have_it(models, monkeypatch):
    monkeypatch.setattr(edgeinfer.Pipeline, "device", property(lambda _: pytest.fail("it is not this call's")))
    found = Cascade(Finder(models[0], [[2, 5, 28, 50]]), models[1])(stripes())
    assert found.timings_ms["classify"] >= found.classes[0].timings_ms["infer"] > 0


def test_boxes_of_several_pictures_do_not_mix(models):
    cascade = Cascade(*models)
    results = cascade.batch([bundles.picture(color) for color in ("blue", "red", "green", "red")])
    assert [next(iter(one.classes[0]))[1] for one in results] == ["blue", "red", "green", "red"]


def test_no_boxes_give_no_classes(models):
    found = Cascade(Finder(models[0], []), models[1])(stripes())
    assert (len(found), found.classes) == (0, ())


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [90, 60, 90, 60], [10, 10, 10, 30], [89.5, 59.5, 90, 60]])
def test_a_box_without_area_is_classified_by_the_pixel_under_it(models, box):
    found = Cascade(Finder(models[0], [box]), models[1])(stripes())
    assert len(found.classes[0]) == 1


def test_a_box_beside_the_picture_is_the_pixel_in_its_corner(models):
    image = stripes()
    image[0, 0], image[-1, -1] = 7, 9
    both = Cascade(*models)
    for box, value in (([-9, -9, -5, -5], 7), ([95, 65, 99, 69], 9)):
        assert both.cut(picture(image, "bgr"), np.array(box, np.float32)).tolist() == [[[value] * 3]]


def test_boxes_below_the_score_are_not_even_looked_at(models):
    found = Cascade(Finder(models[0], [[0, 0, 20, 20]] * 5), models[1], score=0.65)(stripes())
    assert [round(float(score), 1) for score in found.scores] == [0.9, 0.8, 0.7]
    assert len(found.classes) == 3


def test_boxes_beyond_the_limit_have_no_classes(models):
    found = Cascade(Finder(models[0], [[0, 0, 20, 20]] * 5), models[1], most=3)(stripes())
    assert [one is not None for one in found.classes] == [True] * 3 + [False] * 2
    assert [len(one["classes"]) for one in found.to_dict()["detections"]] == [1, 1, 1, 0, 0]
    assert len(found.above(0.6).classes) == len(found.above(0.6)) == 4
    assert found.captions()[2:] == ["red 1.00 (thing 0.70)", "thing 0.60", "thing 0.50"]


def test_the_limit_is_each_pictures_own(models):
    cascade = Cascade(Finder(models[0], [[0, 0, 20, 20]] * 5), models[1], most=3)
    results = cascade.batch([bundles.picture(color, 60, 90) for color in bundles.COLORS])
    assert [[one[0][1] for one in found.classes if one] for found in results] == [
        [color] * 3 for color in bundles.COLORS
    ]


def test_a_margin_is_a_part_of_the_boxs_sides_and_ends_with_the_picture(models):
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(90), np.arange(60)[:, None]
    cascade = Cascade(*models, margin=0.1)
    for box, first, last in (
        ([20.5, 10.5, 60.5, 30.5], (16, 8), (64, 32)),
        ([1, 1, 41, 21], (0, 0), (45, 23)),
        ([49.5, 39.5, 89.5, 59.5], (45, 37), (89, 59)),
    ):
        part = cascade.cut(picture(image, "bgr"), np.array(box, np.float32))
        assert (*part[0, 0, :2], *part[-1, -1, :2]) == (*first, *last)


def test_the_drawing_shows_the_classifiers_word(models):
    found = Cascade(Finder(models[0], [[2, 5, 28, 50]]), models[1])(stripes())
    assert not np.array_equal(found.draw(stripes()), stripes())


def test_two_detectors_are_no_cascade(models):
    with pytest.raises(UsageError, match="a cascade needs classify"):
        Cascade(models[0], models[0])


def test_neither_a_cascade_nor_tiles_take_a_cascade_whose_classes_would_be_lost(models):
    cascade = Cascade(*models)
    with pytest.raises(UsageError, match="cascade itself"):
        Cascade(cascade, models[1])
    with pytest.raises(UsageError, match="not for a Cascade"):
        Tiled(cascade, "1x2")


@pytest.mark.parametrize(
    "word", [{"margin": "0.1"}, {"margin": float("nan")}, {"most": -1}, {"most": 1.5}, {"score": None}], ids=str
)
def test_a_number_of_a_cascade_that_cannot_be_is_refused_by_its_name(models, word):
    with pytest.raises(UsageError, match=f"^{next(iter(word))} "):
        Cascade(*models, **word)


def nv12(image):
    """A picture whose sides are even, (h, w, 3) BGR, as (h * 3 / 2, w): brightness, then blue and red by turns."""
    planar = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    height, width = image.shape[:2]
    colors = planar[height:].reshape(2, -1).T.reshape(height // 2, width)
    return np.concatenate([planar[:height], colors])


@pytest.mark.parametrize("margin", [0, 0.05])
def test_boxes_are_cut_out_of_nv12_frames_too(models, margin):
    boxes = [[63, 5, 87, 51], [3, 5, 27, 51], [33, 7, 57, 50], [89.5, 59.5, 90, 60], [0, 0, 0, 0]]
    frame = nv12(stripes())
    finder = Finder(models[0], boxes)
    finder.batch = lambda images, pixels: Finder.batch(finder, [stripes() for _ in images], pixels)
    found = Cascade(finder, models[1], margin=margin)(frame, pixels="nv12")
    assert [next(iter(one))[1] for one in found.classes] == ["blue", "red", "green", "blue", "red"]


def test_a_whole_cascade_sees_the_same_in_nv12_as_in_bgr(models):
    frames = [bundles.picture(color, 48, 64) for color in bundles.COLORS]
    cascade = Cascade(*models)
    for plain, packed in zip(cascade.batch(frames), cascade.batch([*map(nv12, frames)], pixels="nv12"), strict=True):
        assert [next(iter(one))[1] for one in packed.classes] == [next(iter(one))[1] for one in plain.classes]
        np.testing.assert_allclose(packed.boxes, plain.boxes)


def test_a_detector_on_tiles_may_come_first(models):
    tiled = Tiled(models[0], Grid.parse("1x2:0"))
    image = np.concatenate([bundles.picture("red", 64, 32), bundles.picture("blue", 64, 32)], axis=1)
    found = Cascade(tiled, models[1])(image)
    said = {tuple(box): next(iter(one))[1] for box, one in zip(found.boxes.tolist(), found.classes, strict=True)}
    assert said[0, 16, 32, 48] == "red"
    assert said[32, 16, 64, 48] == "blue"


def test_a_cascade_takes_arrays_of_the_host_only(models):
    with pytest.raises(InputError, match="got list"):
        Cascade(*models)([[0]])


def test_a_detector_that_does_not_close_keeps_no_classifier_open(models, monkeypatch):
    monkeypatch.setattr(models[0], "close", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Cascade(*models).close()
    monkeypatch.undo()
    with pytest.raises(InputError, match="the pipeline is closed"):
        models[1](stripes())
