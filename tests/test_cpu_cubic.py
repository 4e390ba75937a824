"""Cubic resizing on the CPU: against Pillow, and where it is easy to get wrong."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.devices.cpu import Device
from edgeinfer.spec import INTERPOLATIONS, Size
from helpers import cases
from helpers.specs import classifier, detector

PILLOW = np.load(Path(__file__).parent / "golden" / "cpu" / "cubic.npz")
SIDES = st.integers(1, 90)


def resized(spec, image):
    """(H, W, 3) pixel values of an RGB picture, as the engine would get them."""
    (found,) = Device(spec).preprocess([image], "rgb")[0].values()
    return found[0].transpose(1, 2, 0)


@pytest.mark.parametrize("size", cases.SMOOTH_SOURCES, ids=str)
def test_resize_crop_is_pillows(size):
    found = resized(classifier(interpolation="cubic-antialias", scale=1.0), cases.sharp_picture(*size))
    differences = np.abs(found - PILLOW["{}_{}".format(*size)])

    # Pillow computes in integers: a sum next to a half may round the other way, in either direction
    assert differences.max() <= 2
    assert differences.mean() < 0.01


def test_what_overshoots_black_and_white_ends_there():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    found = resized(detector(Size(200, 200), fit="stretch", interpolation="cubic-antialias", scale=1.0), image)

    assert (found[:, :95] == 0).all()
    assert (found[:, 105:] == 255).all()


def test_a_line_across_a_frame_needs_memory_for_some_of_its_rows_only():
    spec = detector(Size(200, 200), fit="stretch", interpolation="cubic-antialias", scale=1.0)
    image = np.full((20_000, 1, 3), 7, np.uint8)
    tracemalloc.start()
    found = resized(spec, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (found == 7).all()
    assert peak < 8_000_000  # all of its rows, 200 pixels wide, would be 48 MB


@settings(max_examples=60, deadline=None)
@given(source=st.tuples(SIDES, SIDES), frame=st.tuples(SIDES, SIDES), shade=st.integers(0, 255))
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_one_shade_stays_one_shade_at_any_size(interpolation, source, frame, shade):
    spec = detector(Size(*frame), fit="stretch", scale=1.0, interpolation=interpolation)

    assert (resized(spec, np.full((*source, 3), shade, np.uint8)) == shade).all()
