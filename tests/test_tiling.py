"""Tiles: they cover the picture, and objects that they cut are found once."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeinfer
from edgeinfer import tiling
from edgeinfer.devices.images import picture
from edgeinfer.errors import InputError, UsageError
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer.tiling import MOST, Grid, Tile, Tiled

SIDES = st.integers(1, 4000)


@given(height=SIDES, width=SIDES, rows=st.integers(1, 9), columns=st.integers(1, 9), overlap=st.floats(0, 0.5))
def test_counted_tiles_cover_every_pixel_and_stay_inside(height, width, rows, columns, overlap):
    check(Grid(rows, columns, 0, overlap), Size(height, width), rows * columns)


@given(height=SIDES, width=SIDES, side=st.integers(500, 2000), overlap=st.floats(0, 0.5))  # 225 tiles at most
def test_sized_tiles_cover_every_pixel_and_stay_inside(height, width, side, overlap):
    check(Grid(0, 0, side, overlap), Size(height, width), MOST)


def check(grid, size, most):
    tiles = grid.tiles(size)
    assert 1 <= len(tiles) <= most
    for low, high, length in (("left", "right", size.width), ("top", "bottom", size.height)):
        spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in tiles})
        assert spans[0][0] == 0
        assert max(end for _, end in spans) == length
        assert all(later[0] <= sooner[1] for sooner, later in itertools.pairwise(spans))


def test_neighbours_share_what_was_asked_for():
    tiles = Grid.parse("1x3:0.25").tiles(Size(100, 1000))
    assert [(tile.left, tile.right) for tile in tiles] == [(0, 400), (300, 700), (600, 1000)]
    tiles = Grid.parse("640:0.2").tiles(Size(640, 1152))
    assert [(tile.left, tile.right) for tile in tiles] == [(0, 640), (512, 1152)]


@pytest.mark.parametrize("text", ["", "2", "2x", "0x2", "2x0", "axb", "15", "640:1.5", "640:0.95", "-2x2", "2x2x2"])
def test_other_words_are_no_tiles(text):
    with pytest.raises(UsageError, match="are not ROWSxCOLUMNS"):
        Grid.parse(text)


def test_a_side_may_be_a_number_and_what_is_no_grid_is_refused(detector):
    with edgeinfer.load(detector) as model:
        assert Tiled(model, 640).grid == Tiled(model, "640").grid
        for other in (None, (2, 2), 2.5):
            with pytest.raises(UsageError, match="are not ROWSxCOLUMNS"):
                Tiled(model, other)


def test_too_many_tiles_are_refused():
    with pytest.raises(InputError, match="more than 256"):
        Grid(side=16).tiles(Size(4000, 4000))
    assert len(Grid.parse("16x16:0.9").tiles(Size(4000, 4000))) == MOST == 256


class Blobs:
    """A detector that finds the box of every colour in a view, as far as it lies in it."""

    contexts, group, backend, artifact = 1, 1, "told", ""

    def __init__(self, spec):
        self.spec = spec

    def batch(self, images, pixels="bgr"):
        return [self.find(image) for image in images]

    def find(self, image):
        boxes, class_ids = [], []
        for value in np.unique(image[..., 0])[1:]:
            rows, columns = np.nonzero(image[..., 0] == value)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            class_ids.append(int(value) % 3)
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        scores = np.full(len(boxes), 0.8, np.float32)
        return Detections(boxes, scores, np.array(class_ids, np.int32), ("a", "b", "c"), Size(1, 1), {"infer": 1.0})


@pytest.fixture
def blobs(detector):
    with edgeinfer.load(detector) as model:
        yield Blobs(model.spec)


@pytest.mark.parametrize("grid", ["2x2", "3x3:0.1", "1x2:0", "96:0.3"])
def test_every_object_is_found_once_in_its_own_place(blobs, grid):
    image, boxes = np.zeros((240, 320, 3), np.uint8), []
    generator = np.random.default_rng(3)
    for value, (row, column) in enumerate(((y, x) for y in range(4) for x in range(5)), start=1):
        left, top = column * 64 + generator.integers(2, 20), row * 60 + generator.integers(2, 20)
        right, bottom = left + generator.integers(4, 40), top + generator.integers(4, 36)
        image[top:bottom, left:right] = value
        boxes.append([left, top, right, bottom])
    found = Tiled(blobs, Grid.parse(grid))(image)
    assert sorted(found.boxes.tolist()) == sorted(boxes)
    assert found.source == Size(240, 320)


def test_an_object_larger_than_a_tile_is_found_whole(blobs):
    image = np.zeros((200, 200, 3), np.uint8)
    image[20:180, :190] = 4
    found = Tiled(blobs, Grid.parse("3x3"))(image)
    assert found.boxes.tolist() == [[0, 20, 190, 180]]


@pytest.mark.parametrize(("gap", "cut"), [(0, True), (2, True), (3, False)])
def test_a_box_that_ends_two_pixels_from_an_inner_edge_of_its_tile_counts_as_cut(gap, cut):
    tile, size = Tile(100, 100, 200, 200), Size(300, 300)
    for one in ([gap, 40, 60, 60], [40, gap, 60, 60], [40, 40, 100 - gap, 60], [40, 40, 60, 100 - gap]):
        assert tiling._cut(np.array([one], np.float32), tile, size).tolist() == [cut]
    assert not tiling._cut(np.array([[0, 0, 100, 100]], np.float32), tile._replace(left=0, top=0), Size(200, 200)).any()


def test_of_two_views_of_the_same_cut_box_none_is_left_out_for_the_other():
    boxes = np.array([[10, 10, 50, 50], [10, 10, 50, 50]], np.float32)
    both = np.ones(2, bool)
    assert not tiling._covered(boxes, np.zeros(2, np.int32), np.arange(2), both).any()
    boxes[1, 2] = 90  # one that shows more of the object, cut or not
    assert tiling._covered(boxes, np.zeros(2, np.int32), np.arange(2), both).tolist() == [True, False]


@pytest.mark.parametrize(("class_id", "view"), [(1, 1), (0, 0)], ids=["another class", "the same view"])
def test_a_cut_box_is_left_out_for_one_of_its_class_from_another_view_alone(class_id, view):
    boxes = np.array([[10, 10, 50, 50], [0, 0, 100, 100]], np.float32)
    class_ids, views, cut = np.array([0, class_id], np.int32), np.array([0, view]), np.array([True, False])
    assert not tiling._covered(boxes, class_ids, views, cut).any()


@pytest.mark.parametrize(("class_agnostic", "kept"), [(False, 2), (True, 1)])
def test_tiles_are_merged_by_the_detectors_own_suppression(blobs, class_agnostic, kept):
    decode = dataclasses.replace(blobs.spec.decode, class_agnostic=class_agnostic)
    blobs.spec = dataclasses.replace(blobs.spec, decode=decode)
    boxes, scores = np.array([[5, 5, 20, 20]] * 2, np.float32), np.array([0.9, 0.8], np.float32)
    both = Detections(boxes, scores, np.array([0, 1], np.int32), ("a", "b"), Size(1, 1), {"infer": 1.0})
    blobs.find = lambda _: both
    assert len(Tiled(blobs, "1x1")(np.zeros((64, 64, 3), np.uint8))) == kept


@pytest.mark.parametrize(
    ("left", "top"),
    [(30, 30), (0, 30), (30, 0), (180, 30), (30, 180)],
    ids=["inside", "left", "top", "right", "bottom"],
)
def test_a_small_object_inside_a_large_one_of_its_class_stays(blobs, left, top):
    """It is not at an inner edge of its tile; at the picture's own it is whole."""
    image = np.full((200, 200, 3), 4, np.uint8)
    image[95:105, 95:105] = 0
    image[top : top + 20, left : left + 20] = 7  # of the same class
    found = Tiled(blobs, Grid.parse("2x2"))(image)
    assert sorted(found.boxes.tolist()) == sorted([[0, 0, 200, 200], [left, top, left + 20, top + 20]])


@pytest.mark.parametrize("grid", ["2x2", "3x3:0.1", "97:0.3"])
def test_tiles_of_nv12_frames_are_those_of_the_picture(detector, grid):
    generator = np.random.default_rng(5)
    size = Size(238, 318)
    frame = generator.integers(0, 256, (size.height * 3 // 2, size.width), np.uint8)
    bgr = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
    for tile in Grid.parse(grid).tiles(size):
        shown = picture(frame, "nv12")
        view = Tile(*shown.sides(*tile))
        assert view.left <= tile.left <= tile.right <= view.right <= size.width
        assert view.top <= tile.top <= tile.bottom <= view.bottom <= size.height
        part = cv2.cvtColor(shown.part(*view), cv2.COLOR_YUV2BGR_NV12)
        assert np.array_equal(part, bgr[view.top : view.bottom, view.left : view.right])
    with edgeinfer.load(detector) as model:
        plain, packed = (
            Tiled(model, Grid.parse(grid))(one, pixels=kind) for one, kind in ((bgr, "bgr"), (frame, "nv12"))
        )
    assert packed.source == plain.source == size


@pytest.mark.parametrize(("group", "runs"), [(1, 4), (2, 2), (3, 2)])
def test_the_times_are_those_of_all_runs(blobs, group, runs):
    """The whole and three tiles; the pictures of one run have the same times."""
    blobs.group = group
    found = Tiled(blobs, Grid.parse("1x3:0"))(np.zeros((64, 96, 3), np.uint8))
    assert found.timings_ms == {"infer": float(runs)}


def test_a_classifier_has_no_tiles(classifier):
    with edgeinfer.load(classifier) as model, pytest.raises(UsageError, match="for detectors"):
        Tiled(model, Grid(2, 2))
