"""Pictures with results on them: the right colours in the right places, and nothing outside the picture."""

import itertools

import cv2
import numpy as np
import pytest

from edgeinfer import drawing
from edgeinfer.errors import InputError
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Size

LABELS = ("person", "bicycle", "a class with a rather long name, in one word: Donaudampfschiff")


def found(boxes, height, width):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.3, count).astype(np.float32),
        np.arange(count, dtype=np.int32) % len(LABELS),
        LABELS,
        Size(height, width),
    )


def named(height, width):
    scores = np.array([0.8, 0.15, 0.05], np.float32)
    return Classification(np.arange(3, dtype=np.int32), scores, LABELS, Size(height, width))


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def test_the_given_picture_stays_as_it_is():
    image = grey(100, 100)
    found([[10, 40, 50, 90]], 100, 100).draw(image)
    assert (image == 128).all()


def test_a_box_is_drawn_along_its_sides_in_the_colour_of_its_class():
    drawn = found([[10, 40, 50, 90]], 100, 100).draw(grey(100, 100))
    assert tuple(drawn[70, 10]) == tuple(drawn[89, 30]) == tuple(drawn[70, 49]) == drawing.color_of(0)


def test_what_lies_inside_a_box_and_far_from_it_is_untouched():
    drawn = found([[100, 200, 300, 400]], 500, 500).draw(grey(500, 500))
    assert (drawn[230:370, 130:270] == 128).all()
    assert (drawn[420:] == 128).all()


def test_the_surer_of_two_equal_boxes_lies_on_top():
    drawn = found([[100, 200, 300, 400]] * 2, 500, 500).draw(grey(500, 500))
    assert tuple(drawn[300, 100]) == drawing.color_of(0)


def test_a_label_stands_above_its_box_on_a_plate_of_its_colour():
    drawn = found([[100, 200, 300, 400]], 500, 500).draw(grey(500, 500))
    plate = (drawn[186:198, 102:150] == drawing.color_of(0)).all(axis=2)
    assert plate.mean() > 0.4


def test_a_label_with_no_room_above_stands_inside():
    drawn = found([[100, 0, 300, 400]], 500, 500).draw(grey(500, 500))
    plate = (drawn[2:14, 102:180] == drawing.color_of(0)).all(axis=2)
    assert plate.mean() > 0.4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 3), (20, 20), (64, 96), (1000, 40)])
@pytest.mark.parametrize("make", [named, lambda height, width: found(EVERYWHERE, height, width)])
def test_any_size_of_picture_can_be_drawn_on(height, width, make):
    assert make(height, width).draw(grey(height, width)).shape == (height, width, 3)


EVERYWHERE = [[0, 0, 1, 1], [0, 0, 5000, 5000], [-20, -20, -5, -5], [0.4, 0.4, 0.6, 0.6], [90, 30, 96, 64]]


def test_plates_never_leave_the_picture(monkeypatch):
    plates = []
    monkeypatch.setattr(cv2, "putText", lambda *row: plates.append(row))
    corners = [[0, 0, 9, 9], [310, 0, 320, 9], [0, 230, 9, 240], [310, 230, 320, 240]]
    drawing.draw(grey(240, 320), found(corners, 240, 320))
    for _, text, (left, base), font, scale, _, weight, _ in plates:
        (across, up), _ = cv2.getTextSize(text, font, scale, weight)
        assert left >= 0
        assert left + across <= 320
        assert up <= base < 240
    assert len(plates) == 4


def test_plates_keep_out_of_each_others_way(monkeypatch):
    places = []
    monkeypatch.setattr(cv2, "putText", lambda *row: places.insert(0, row[2]))
    detections = found([[200, 200, 500, 400]] * 6, 480, 640)
    detections.class_ids[:] = 0  # a short label: letters of OpenCV 4 are wider than those of 5
    drawing.draw(grey(480, 640), detections)
    # over the box on the left and on the right, inside it at its top and bottom, under it, twice over it
    left, right = places[0][0], places[1][0]
    assert [x for x, _ in places] == [left, right, left, left, left, left]
    assert right > left + 50
    assert places[0][1] == places[1][1] < 200 < places[2][1] < 240 < 360 < places[3][1] < 400 < places[4][1]
    assert places[5][1] < places[0][1] - 10


def test_a_label_too_long_for_the_picture_is_cut_with_dots(monkeypatch):
    plates = []
    monkeypatch.setattr(cv2, "putText", lambda *row: plates.append(row[1]))
    drawing.draw(grey(100, 120), found([[0, 50, 9, 60]] * 3, 100, 120))
    (cut,) = (text for text in plates if text.startswith("a"))
    assert cut.endswith("..")


def test_a_class_keeps_its_colour_and_neighbours_differ():
    colors = [np.array(drawing.color_of(one)) for one in range(80)]
    apart = [np.abs(one - other).sum() for one, other in itertools.pairwise(colors)]
    assert min(apart) > 100
    assert len({tuple(color) for color in colors}) == 80


def test_letters_contrast_with_every_plate():
    def luminance(color):
        return 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]

    colors = [drawing.color_of(one) for one in range(1000)]
    assert min(abs(luminance(color) - luminance(drawing._ink(color))) for color in colors) > 80


def test_bars_of_a_classification_are_as_long_as_its_scores():
    drawn = named(480, 640).draw(grey(480, 640))
    bars = [int((drawn == drawing.color_of(one)).all(axis=2).sum(axis=1).max()) for one in range(3)]
    full = bars[0] / 0.8
    # a bar ends on a whole pixel
    assert bars == pytest.approx([full * 0.8, full * 0.15, full * 0.05], abs=1)


def test_nothing_found_draws_nothing():
    assert (found([], 50, 50).draw(grey(50, 50)) == 128).all()


@pytest.mark.parametrize("channels", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("said", [found([[10, 40, 50, 90]], 100, 100), named(100, 100)], ids=["boxes", "classes"])
def test_on_grey_and_bgra_pictures_the_same_is_drawn_as_on_bgr_ones(said, channels):
    image = np.full((100, 100, *channels), 128, np.uint8)
    assert np.array_equal(said.draw(image), said.draw(grey(100, 100)))
    assert (image == 128).all()


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9, 3)), np.zeros((9, 9, 2), np.uint8), None], ids=["floats", "2", "none"]
)
def test_what_is_no_picture_is_not_drawn_on(image):
    with pytest.raises(InputError, match="image must be"):
        found([[1, 1, 5, 5]], 9, 9).draw(image)


def test_plates_that_only_touch_do_not_hit_each_other():
    plate = drawing.Plate("", 10, 10, 20, 20)
    beside = [plate._replace(left=20, right=30), plate._replace(top=20, bottom=30), plate._replace(left=0, right=10)]
    assert not any(plate.hits(one) or one.hits(plate) for one in beside)
    assert plate.hits(plate._replace(left=19, right=30))
