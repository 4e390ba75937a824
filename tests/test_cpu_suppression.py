"""Candidates and suppression on the CPU against YOLOv5's and Ultralytics' own, recorded in tests/golden/cpu."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.devices import _decoding
from edgeinfer.devices.suppression import BLOCK, MOST, ceiling, suppress
from edgeinfer.spec import Boxes
from helpers import cases

GOLDEN = np.load(Path(__file__).parent / "golden" / "cpu" / "suppression.npz")
LAYOUTS = ("yolov5", "yolov8")
WHOLE = cases.whole()


def answer(rows, decode, layout):
    """What the CPU device keeps: (n, 6) x1 y1 x2 y2 score class."""
    output = rows if layout == "yolov5" else np.ascontiguousarray(np.delete(rows, 4, axis=1).T)
    facts = {**vars(decode), "layout": layout}
    found = _decoding.boxes(output, Boxes(**facts), "output0")
    return np.column_stack([found.boxes, found.scores, found.class_ids]).astype(np.float32)


def digest(block, layout):
    found = hashlib.sha256()
    for case in cases.suppression_cases(block):
        rows = answer(*case, layout)
        found.update(np.int64(len(rows)).tobytes() + rows.tobytes())
    return found.digest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ten_thousand_cases_with_ties_equal_the_published_suppression_bit_for_bit(layout):
    differing = [
        b for b in range(cases.SUPPRESSION_BLOCKS) if digest(b, layout) != GOLDEN[f"{layout}_digests"][b].tobytes()
    ]

    assert differing == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_answers_equal_the_published_suppression(name, layout):
    np.testing.assert_array_equal(answer(*WHOLE[name], layout), GOLDEN[f"{layout}_{name}"])


@given(st.floats(0, 1))
def test_comparing_with_the_ceiling_is_comparing_in_double(iou):
    near = np.float32(iou)
    for overlap in (np.nextafter(near, np.float32(-1)), near, np.nextafter(near, np.float32(2))):
        assert (overlap > np.float32(ceiling(iou))) == (float(overlap) > iou)


@given(st.integers(0, 2**31))
def test_an_overlap_is_rounded_as_torchvision_rounds_it(seed):
    chance = np.random.default_rng(seed)
    boxes = chance.random((2, 4), np.float32) * 10
    boxes[:, 2:] += boxes[:, :2] + 5
    overlap = float(_overlap(*boxes))
    options = {"scores": np.array([0.9, 0.8], np.float32), "class_ids": np.zeros(2, int), "limit": 2}

    # exactly at the threshold is not above it; the next smaller threshold is exceeded
    assert len(suppress(boxes, iou=overlap, **options)) == 2
    assert overlap == 0 or len(suppress(boxes, iou=np.nextafter(overlap, 0), **options)) == 1


def plainly(boxes, scores, iou):
    """Greedy suppression, one pair at a time."""
    kept: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda place: -scores[place]):
        if all(float(_overlap(boxes[better], boxes[place])) <= iou for better in kept):
            kept.append(place)
    return kept


def _overlap(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(np.float32(0), sides[0]) * max(np.float32(0), sides[1])
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (first + second - shared)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 3 * BLOCK), st.sampled_from([0.1, 0.5, 0.75]))
def test_deciding_in_blocks_is_deciding_one_by_one(seed, count, iou):
    chance = np.random.default_rng(seed)
    corners = chance.integers(0, 60, (count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + chance.integers(1, 20, (count, 2))], axis=1).astype(np.float32)
    scores = chance.integers(1, 20, count).astype(np.float32) / 20

    kept = suppress(boxes, scores, np.zeros(count, int), iou=iou, limit=count + 1)

    assert kept.tolist() == plainly(boxes, scores, iou)


def test_equal_scores_are_kept_in_their_order_and_the_limit_takes_the_first():
    boxes = np.array([[0, 0, 2, 2], [4, 4, 6, 6], [8, 8, 9, 9]], np.float32)

    assert suppress(boxes, np.full(3, 0.5, np.float32), np.zeros(3, int), iou=0.5, limit=2).tolist() == [0, 1]


@pytest.mark.parametrize(("class_agnostic", "kept"), [(False, [0, 1]), (True, [0])])
def test_classes_suppress_each_other_only_when_asked_to(class_agnostic, kept):
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8]], np.float32)
    options = {"iou": 0.5, "limit": 300, "class_agnostic": class_agnostic}

    assert suppress(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]), **options).tolist() == kept


def test_candidates_beyond_the_most_are_left_out():
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (MOST + 1, 1))
    boxes[[MOST - 1, MOST]] += [[10], [20]]
    scores = np.linspace(1, 0.5, MOST + 1, dtype=np.float32)

    assert suppress(boxes, scores, np.zeros(MOST + 1, int), iou=0.5, limit=300).tolist() == [0, MOST - 1]


def test_boxes_without_area_suppress_nothing_and_warn_of_nothing():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [5, 2, 5, 9], [5, 2, 5, 9], [2, 2, 9, 9]], np.float32)
    scores = np.linspace(0.9, 0.5, 5, dtype=np.float32)

    assert suppress(boxes, scores, np.zeros(5, int), iou=0.5, limit=9).tolist() == [0, 1, 2, 3, 4]
