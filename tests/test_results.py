"""Results in a program's hands: parts of them, in words, and on their way to another process."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.cascade import Inspected
from edgeinfer.results import Classification, Detections, ious
from edgeinfer.spec import Size

LABELS = tuple(f"class {number}" for number in range(1000))
TIMES = {"preprocess": 1.0, "infer": 2.0}


def ranked(count):
    """class_ids and scores, best first."""
    return np.arange(count, dtype=np.int32) * 7, np.linspace(0.9, 0.1, count, dtype=np.float32)


def classification(count):
    return Classification(*ranked(count), LABELS, Size(48, 64), TIMES)


def detections(count):
    class_ids, scores = ranked(count)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(-1, 4)
    return Detections(boxes, scores, class_ids, LABELS, Size(48, 64), TIMES)


def inspected(count):
    """The third and those after it were beyond the limit of the cascade."""
    classes = tuple(classification(place + 1) if place < 2 else None for place in range(count))
    found = detections(count)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return Inspected(**fields, classes=classes)


MAKERS = pytest.mark.parametrize("make", [detections, classification, inspected], ids=lambda make: make.__name__)


def plain(row):
    return [np.asarray(part).tolist() for part in row]


def rows(result):
    """What iterating gives, and the classes of each box where it has them."""
    return [plain(row) for row in result], getattr(result, "classes", None)


@MAKERS
@pytest.mark.parametrize("place", [0, 3, -1, np.int64(2)], ids=repr)
def test_one_by_its_number_is_the_one_that_iterating_gives(make, place):
    found = make(4)

    assert plain(found[place]) == rows(found)[0][place]
    assert [type(part) for part in found[place]] == [type(part) for part in next(iter(found))]


@MAKERS
@pytest.mark.parametrize("place", [4, -5])
def test_there_is_none_beyond_the_last(make, place):
    with pytest.raises(IndexError):
        make(4)[place]


@MAKERS
@given(places=st.lists(st.integers(0, 5)), mask=st.lists(st.booleans(), min_size=6, max_size=6), part=st.slices(6))
def test_several_are_a_result_of_the_same_picture_with_these_alone(make, places, mask, part):
    whole = make(6)
    ways = {
        "list": (places, places),
        "mask": (np.array(mask), np.flatnonzero(mask)),
        "slice": (part, range(6)[part]),
    }
    for which, kept in ways.values():
        found = whole[which]
        same, classes = rows(whole)
        assert type(found) is type(whole)
        assert rows(found) == ([same[one] for one in kept], classes and tuple(classes[one] for one in kept))
        assert (found.labels, found.source, found.timings_ms) == (LABELS, Size(48, 64), TIMES)
        assert found.to_dict()["height"] == 48


@MAKERS
def test_above_keeps_those_with_at_least_the_score(make):
    found = make(5)
    kept = found.above(found.scores[2])

    assert rows(kept) == rows(found[:3])
    assert len(found.above(1)) == 0


@MAKERS
def test_in_words_a_result_names_its_best_and_not_every_class_of_the_model(make):
    name = make.__name__.capitalize()

    assert repr(make(0)) == f"<{name} in 48x64: nothing>"
    assert repr(make(2)) == f"<{name} in 48x64: class 0 0.90, class 7 0.10>"
    assert "more" not in repr(make(5))
    assert repr(make(100)).endswith("class 28 0.87, 95 more>")


@MAKERS
@pytest.mark.parametrize(
    "carry", [lambda found: pickle.loads(pickle.dumps(found)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_a_result_survives_the_way_to_another_process(make, carry):
    found = make(3)

    assert carry(found).to_dict() == found.to_dict()


def test_a_record_has_boxes_to_a_hundredth_scores_to_four_digits_and_times_to_the_microsecond():
    class_ids, scores = np.array([3], np.int32), np.array([0.123456], np.float32)
    boxes, times = np.array([[1.23456, 2, 3, 4.005]], np.float32), {"infer": 1.23456}
    size, found = {"height": 48, "width": 64}, {"class_id": 3, "label": "class 3", "score": 0.1235}
    records = [
        Detections(boxes, scores, class_ids, LABELS, Size(48, 64), times).to_dict(),
        Classification(class_ids, scores, LABELS, Size(48, 64), times).to_dict(),
    ]
    box = {"box": [1.23, 2.0, 3.0, 4.01]}
    assert records == [
        {**size, "task": "detect", "detections": [{**found, **box}], "timings_ms": {"infer": 1.235}},
        {**size, "task": "classify", "classes": [found], "timings_ms": {"infer": 1.235}},
    ]


def test_boxes_overlap_by_what_they_share_of_what_both_cover_and_not_where_they_are_apart():
    box = np.array([[2, 2, 6, 4]], np.float32)
    others = {
        (2, 2, 6, 4): 1.0,
        (4, 3, 8, 7): 2 / 22,
        (3, 2, 5, 4): 0.5,
        (6, 2, 9, 4): 0.0,  # beside it
        (2, 5, 6, 9): 0.0,  # below it
        (7, 5, 9, 9): 0.0,  # apart in both directions
        (3, 3, 3, 3): 0.0,
    }

    assert ious(box, np.array([*others], np.float32)).tolist() == [pytest.approx([*others.values()])]
    assert ious(np.zeros((2, 4)), np.zeros((1, 4))).tolist() == [[0], [0]]
    assert ious(np.array([[0, 0, 0.5, 0.5]]), np.array([[0, 0, 0.5, 0.25]])).tolist() == [[0.5]]  # of one's own scale
