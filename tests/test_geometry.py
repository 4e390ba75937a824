"""Where pictures come to lie in the model's frame: laws for all sizes, and YOLOv5's published numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.spec import Preprocess, Size

GOLDEN = np.load(Path(__file__).parent / "golden" / "cpu" / "letterbox.npz")
sides = st.integers(1, 4000)
sizes = st.builds(Size, sides, sides)
frames = st.builds(Size, st.integers(1, 1280), st.integers(1, 1280))
FITS = {"letterbox": {}, "stretch": {}, "resize-crop": {"resize": 1280}}


def corners(size):
    return np.array([[0, 0, size.width, size.height], [size.width / 3, size.height / 7, size.width / 2, size.height]])


@pytest.mark.parametrize("fit", FITS)
@given(frame=frames, source=sizes)
def test_a_box_survives_the_way_to_the_model_and_back(fit, frame, source):
    placement = Preprocess(frame, fit=fit, **FITS[fit]).place(source)
    boxes = corners(source)

    across, down = placement.resized.width / source.width, placement.resized.height / source.height
    in_model = boxes * (across, down, across, down) + (placement.left, placement.top) * 2

    # a double keeps 15 digits of numbers below a million: far below a thousandth of a pixel
    np.testing.assert_allclose(placement.to_source(in_model), boxes, atol=1e-6)


@given(frame=frames, source=sizes)
def test_a_box_beyond_the_picture_is_clipped_to_it(frame, source):
    placement = Preprocess(frame).place(source)

    found = placement.to_source(np.array([[-9e5, -9e5, 9e5, 9e5], [-9e5] * 4, [9e5] * 4], np.float32))

    whole = [0, 0, source.width, source.height]
    assert found.tolist() == [whole, [0] * 4, whole[2:] * 2]


@given(frame=frames, source=sizes)
def test_a_letterboxed_picture_fills_one_side_and_stays_within_the_other(frame, source):
    resized = Preprocess(frame).place(source).resized

    assert resized.height <= frame.height
    assert resized.width <= frame.width
    assert resized.height == frame.height or resized.width == frame.width


@given(frame=frames, source=sizes)
def test_a_letterboxed_picture_lies_in_the_middle_and_the_odd_pixel_goes_right_and_below(frame, source):
    placement = Preprocess(frame).place(source)
    right = frame.width - placement.resized.width - placement.left
    bottom = frame.height - placement.resized.height - placement.top

    assert 0 <= right - placement.left <= 1
    assert 0 <= bottom - placement.top <= 1


@given(frame=frames, source=sizes)
def test_a_letterbox_keeps_the_aspect_ratio_to_half_a_pixel_or_the_last_one(frame, source):
    resized = Preprocess(frame).place(source).resized
    ratio = min(frame.height / source.height, frame.width / source.width)

    for side, whole in ((resized.height, source.height * ratio), (resized.width, source.width * ratio)):
        assert abs(side - whole) <= 0.5 + 1e-9 or side == 1


@given(frame=frames, source=sizes)
def test_resize_crop_covers_the_frame_and_cuts_the_middle(frame, source):
    placement = Preprocess(frame, fit="resize-crop", resize=1280).place(source)
    right = placement.resized.width + placement.left - frame.width
    bottom = placement.resized.height + placement.top - frame.height

    assert min(placement.resized.height, placement.resized.width) == 1280
    assert placement.left <= 0 <= right
    assert placement.top <= 0 <= bottom
    assert abs(right + placement.left) <= 1
    assert abs(bottom + placement.top) <= 1


@given(frame=frames, source=sizes)
def test_stretch_fills_the_frame(frame, source):
    placement = Preprocess(frame, fit="stretch").place(source)

    assert (placement.resized, placement.left, placement.top) == (frame, 0, 0)


@pytest.mark.parametrize(
    ("source", "resized", "left", "top"),
    [
        (Size(1, 4000), Size(1, 640), 0, 319),
        (Size(4000, 1), Size(640, 1), 319, 0),
        (Size(1, 1), Size(640, 640), 0, 0),
        (Size(1080, 810), Size(640, 480), 80, 0),
    ],
)
def test_extreme_pictures_keep_at_least_one_pixel(source, resized, left, top):
    placement = Preprocess(Size(640, 640)).place(source)

    assert (placement.resized, placement.left, placement.top) == (resized, left, top)


def test_the_letterbox_is_yolov5s_for_three_hundred_sizes():
    for height, width, side, *expected in GOLDEN["sizes"].tolist():
        placement = Preprocess(Size(side, side)).place(Size(height, width))

        found = [placement.resized.width, placement.resized.height, placement.left, placement.top]
        assert found == expected, (height, width, side)
