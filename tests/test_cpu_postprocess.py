"""Raw outputs to results on the CPU: classes, boxes in source pixels, and what is refused."""

import dataclasses

import numpy as np
import pytest

from edgeinfer.devices import _decoding
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.loading import with_thresholds
from edgeinfer.spec import Boxes, Size, TensorSpec, TopK
from helpers import cases
from helpers.specs import classifier, detector

SQUARE = Size(64, 64)
# cx cy w h objectness classes: a cat, the same cat less sure, a dog, and nothing
ROWS = np.array(
    [
        [10, 20, 8, 8, 1.0, 0.9, 0.1, 0.0],
        [11, 20, 8, 8, 0.9, 0.9, 0.1, 0.0],
        [40, 40, 20, 10, 0.5, 0.0, 0.8, 0.1],
        [50, 50, 8, 8, 0.1, 1.0, 1.0, 1.0],
    ],
    np.float32,
)
CAT, DOG = [6, 16, 14, 24], [30, 35, 50, 45]


def results(spec, outputs, *sources):
    return Device(spec).postprocess(outputs, [spec.preprocess.place(source) for source in sources])


def detections(rows=ROWS, source=SQUARE, dtype="float32", **decode):
    """What is found in one picture's yolov5 rows."""
    spec = detector(decode=Boxes("yolov5", **decode))
    return results(spec, {"output0": rows[None].astype(dtype)}, source)[0]


def test_the_boxes_above_the_score_come_best_first():
    found = detections()

    np.testing.assert_allclose(found.boxes, [CAT, DOG])
    np.testing.assert_allclose(found.scores, [0.9, 0.4])
    assert found.class_ids.tolist() == [0, 1]


def test_results_have_the_types_they_promise():
    for found in (detections(), detections(score=0.99)):
        assert [found.boxes.dtype, found.scores.dtype, found.class_ids.dtype] == [np.float32, np.float32, np.int32]
        assert found.boxes.shape == (len(found), 4)


def test_nothing_found_is_an_empty_result():
    assert len(detections(score=0.99)) == len(detections(rows=np.zeros((20, 8), np.float32))) == 0


def test_boxes_go_back_to_the_source_and_are_clipped_to_it():
    rows = ROWS[:1].copy()
    rows[0, :4] = [32, 32, 90, 16]

    # 200 x 100 pixels become 64 x 32, with 16 rows above
    assert detections(rows, Size(100, 200)).boxes.tolist() == [[0, 25, 200, 75]]


ONE = {
    "yolov5": [[32, 32, 8, 8, 1, 0.3, 0.1]],
    "yolov8": [[32], [32], [8], [8], [0.3], [0.1]],
    "end2end": [[28, 28, 36, 36, 0.3, 0]],
}


@pytest.mark.parametrize("layout", ONE)
def test_the_score_must_be_above_the_threshold_not_at_it(layout):
    output = np.array(ONE[layout], np.float32)
    found = [_decoding.boxes(output, Boxes(layout, score=score), "o").scores for score in (0.3, 0.299)]
    assert [len(one) for one in found] == [0, 1]


def test_of_boxes_that_the_model_suppressed_itself_the_score_must_be_above_the_threshold_too():
    rows = [np.array(one, np.float32) for one in ([[0, 0, 9, 9]], [0.3], [0])]
    found = [
        _decoding.suppressed(np.array([1]), rows, Boxes("yolov5", score=score, where="graph")).scores
        for score in (0.3, 0.299)
    ]
    assert [len(one) for one in found] == [0, 1]


def test_the_first_of_equal_classes_is_the_class():
    rows = ROWS[:1].copy()
    rows[0, 5:] = 0.7

    assert detections(rows).class_ids.tolist() == [0]


def test_the_limit_keeps_the_best():
    assert detections(limit=1).boxes.tolist() == [CAT]


def test_half_precision_outputs_are_read_as_single():
    np.testing.assert_allclose(detections(dtype="float16").boxes, [CAT, DOG])


def test_every_picture_of_a_batch_gets_its_own_boxes():
    spec = detector(batch=3, decode=Boxes("yolov5"))
    outputs = {"output0": np.stack([ROWS, ROWS * 0, ROWS])}

    found = results(spec, outputs, SQUARE, SQUARE)

    assert [len(one) for one in found] == [2, 0]


def test_the_yolov8_layout_has_boxes_in_columns():
    output = np.delete(ROWS, 4, axis=1).T[None]
    spec = detector(decode=Boxes("yolov8", score=0.5), outputs=(TensorSpec("output0", (1, 7, 4)),))

    (found,) = results(spec, {"output0": output}, SQUARE)

    assert found.boxes.tolist() == [[46, 46, 54, 54], CAT, DOG]


END = np.array([[6, 16, 14, 24, 0.4, 0], [30, 35, 50, 45, 0.8, 1], [30, 35, 50, 45, 0.7, 1], [0, 0, 9, 9, 0.1, 2]])


def test_the_end2end_layout_is_only_filtered_and_sorted():
    spec = detector(decode=Boxes("end2end", limit=2), outputs=(TensorSpec("output0", (1, 4, 6)),))

    (found,) = results(spec, {"output0": END[None].astype(np.float32)}, SQUARE)

    assert found.boxes.tolist() == [DOG, DOG]
    assert found.class_ids.tolist() == [1, 1]


SUPPRESSED = detector(
    decode=Boxes("yolov5", where="graph", limit=3),
    outputs=(
        TensorSpec("num", (1, 1), "int32"),
        TensorSpec("boxes", (1, 4, 4)),
        TensorSpec("scores", (1, 4)),
        TensorSpec("classes", (1, 4), "int64"),
    ),
)


def graph_outputs(num):
    return {
        "num": np.array([[num]], np.int32),
        "boxes": END[None, :, :4].astype(np.float32),
        "scores": END[None, :, 4].astype(np.float32),
        "classes": END[None, :, 5].astype(np.int64),
    }


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"conf": 0.2}, "conf 0.2 is below the 0.25"),
        ({"iou": 0.5}, "iou 0.5 is not the 0.45"),
        ({"limit": 4}, "limit 4 is above the 3"),
    ],
)
def test_what_a_graph_has_suppressed_can_be_thinned_out_and_not_brought_back(asked, told):
    with pytest.raises(UsageError, match=told):
        with_thresholds(SUPPRESSED, **asked)
    for kept in ({"conf": 0.25, "iou": 0.45, "limit": 3}, {"conf": 0.3, "limit": 2}):
        with_thresholds(SUPPRESSED, **kept)


@pytest.mark.parametrize(("num", "kept"), [(0, []), (1, [CAT]), (4, [DOG, DOG, CAT])])
def test_boxes_suppressed_in_the_graph_are_taken_up_to_their_number(num, kept):
    (found,) = results(SUPPRESSED, graph_outputs(num), SQUARE)

    assert found.boxes.tolist() == kept
    assert found.class_ids.dtype == np.int32


def test_of_boxes_suppressed_in_the_graph_the_limit_keeps_the_best():
    spec = dataclasses.replace(SUPPRESSED, decode=dataclasses.replace(SUPPRESSED.decode, limit=1))

    assert results(spec, graph_outputs(3), SQUARE)[0].boxes.tolist() == [DOG]


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_nan_among_boxes_suppressed_in_the_graph_is_an_error(name):
    outputs = graph_outputs(2)
    outputs[name][0, 1] = np.nan

    with pytest.raises(EngineError, match=f"{name} holds NaN or infinity"):
        results(SUPPRESSED, outputs, SQUARE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", range(8))
def test_nan_or_infinity_in_a_candidate_is_an_error_with_a_hint(column, value):
    rows = ROWS.copy()
    rows[2, column] = value

    with pytest.raises(EngineError, match="output0 holds NaN or infinity") as caught:
        detections(rows)
    assert "float16 may have overflowed" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", range(6))
def test_nan_or_infinity_in_the_end2end_layout_is_an_error(column, value):
    rows = END.astype(np.float32)
    rows[1, column] = value
    spec = detector(decode=Boxes("end2end"), outputs=(TensorSpec("output0", (1, 4, 6)),))

    with pytest.raises(EngineError, match="output0 holds NaN or infinity"):
        results(spec, {"output0": rows[None]}, SQUARE)


@pytest.mark.parametrize("row", range(7))
def test_nan_in_the_yolov8_layout_is_an_error(row):
    output = np.delete(ROWS, 4, axis=1).T[None].copy()
    output[0, row, 0] = np.nan
    spec = detector(decode=Boxes("yolov8"), outputs=(TensorSpec("output0", (1, 7, 4)),))

    with pytest.raises(EngineError, match="output0 holds NaN or infinity"):
        results(spec, {"output0": output}, SQUARE)


def classes(logits, dtype="float32", **decode):
    spec = classifier(decode=TopK(**decode))
    (found,) = results(spec, {"logits": np.array([logits], dtype)}, SQUARE)
    return found.class_ids.tolist(), found.scores.tolist()


@pytest.mark.parametrize(
    ("activation", "scores"),
    [("none", [2, 1]), ("sigmoid", [0.8807971, 0.7310586]), ("softmax", [0.6652410, 0.2447285])],
)
def test_the_best_classes_come_first_with_their_scores(activation, scores):
    found = classes([1, 0, 2], k=2, activation=activation)

    assert found == ([2, 0], pytest.approx(scores, rel=1e-6))


def test_more_classes_than_there_are_means_all():
    class_ids, scores = classes([1, 3, 2], k=10)

    assert class_ids == [1, 2, 0]
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_the_lower_class_comes_first_of_equals(activation):
    assert classes([500, 500, 500], k=3, activation=activation)[0] == [0, 1, 2]
    assert classes([0, 500] * 300, k=400, activation=activation)[0] == [*range(1, 600, 2), *range(0, 200, 2)]


def test_of_equal_boxes_in_the_end2end_layout_the_first_comes_first():
    rows = np.array([[place, 0, place + 1, 9, (0.5, 0.9)[place % 2], 0] for place in range(60)], np.float32)
    found = _decoding.boxes(rows, Boxes("end2end"), "o")

    assert found.boxes[:, 0].tolist() == [*range(1, 60, 2), *range(0, 60, 2)]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_large_logits_do_not_overflow(activation, dtype):
    class_ids, scores = classes([-60000, 0, 60000], dtype, k=3, activation=activation)

    assert class_ids == [2, 1, 0]
    assert scores[0] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinity_among_classes_is_an_error(value):
    with pytest.raises(EngineError, match="logits holds NaN or infinity"):
        classes([0, value, 1])


def test_more_candidates_than_take_part_still_give_the_best():
    rows, decode = cases.whole()["more_than_most"]
    spec = detector(decode=decode, outputs=(TensorSpec("output0", (1, 40000, 8)),))

    (found,) = results(spec, {"output0": np.pad(rows, [(0, 0), (0, 1)])[None]}, SQUARE)

    assert 0 < len(found) <= decode.limit


@pytest.mark.parametrize("number", [-1, 3, 1e30])
def test_a_class_without_a_label_is_an_error_and_not_another_class(number):
    rows = END.copy()
    rows[1, 5] = number
    spec = detector(decode=Boxes("end2end"), outputs=(TensorSpec("output0", (1, 4, 6)),))
    with pytest.raises(EngineError, match="its labels are 0 to 2") as refusal:
        results(spec, {"output0": rows[None].astype(np.float32)}, SQUARE)
    assert "--labels FILE" in refusal.value.hint


@pytest.mark.parametrize("number", [-1, 3])
def test_a_class_without_a_label_is_an_error_where_the_model_suppresses_too(number):
    outputs = graph_outputs(2)
    outputs["classes"][0, 1] = number
    with pytest.raises(EngineError, match=f"class {number}, and its labels are 0 to 2"):
        results(SUPPRESSED, outputs, SQUARE)
