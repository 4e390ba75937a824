"""Scores are those of the reference tool on the same predictions, and of an implementation of their definition."""

import dataclasses

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer import accuracy, datasets, load
from edgeinfer.bundle import Bundle
from edgeinfer.datasets import Dataset, boxes_sample
from edgeinfer.errors import DatasetError, SourceError
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Batch, Boxes, Size
from helpers import bundles, specs
from helpers import datasets as on_disk

LABELS = ("cat", "dog", "cow")
SIDE = Size(100, 100)


def detections(*rows):
    """Rows (class, score, x1, y1, x2, y2), sorted best first."""
    table = np.array(sorted(rows, key=lambda row: -row[1]), np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int32), LABELS, SIDE)


def classification(*class_ids):
    scores = np.linspace(0.9, 0.1, len(class_ids), dtype=np.float32)
    return Classification(np.array(class_ids, np.int32), scores, LABELS, SIDE)


def boxes_of(*rows, crowd=False):
    """Rows (class, x1, y1, x2, y2)."""
    return boxes_sample("x.png", [(int(row[0]), row[1:], crowd) for row in rows])


def dataset(*samples, task="detect"):
    return Dataset("set", "COCO", task, LABELS, samples)


def agreement(one, other):
    return accuracy.compare(dataset("x.png", task=""), [one], [other]).agreement


def pictures_of(chance, count):
    """Random truths and predictions, whose boxes are truths moved a little, and strays."""
    truths, found = [], []
    for _ in range(count):
        corners = chance.uniform(0, 70, (chance.integers(0, 6), 2))
        boxes = np.concatenate((corners, corners + chance.uniform(12, 30, corners.shape)), 1)
        kinds = chance.integers(0, 3, len(boxes))
        crowd = chance.random(len(boxes)) < 0.1
        truths.append(boxes_sample("x.png", list(zip(kinds.tolist(), boxes, crowd, strict=True))))
        near = boxes.repeat(2, 0) + chance.uniform(-5, 5, (2 * len(boxes), 4))
        stray = np.sort(chance.uniform(0, 100, (3, 2, 2)), 1).reshape(3, 4)
        rows = np.concatenate((near, stray))
        named = np.concatenate((kinds.repeat(2), chance.integers(0, 3, 3)))
        # few different scores, so that many are equal
        scores = chance.integers(1, 20, len(rows)) / 20
        found.append(detections(*np.column_stack((named, scores, rows)).tolist()))
    return truths, found


def reference(truths, found):
    """(mAP50-95, mAP50) by faster-coco-eval as its documentation calls it, predictions by loadRes."""
    images = [{"id": 7 + place, "height": 100, "width": 100} for place in range(len(truths))]
    categories = [{"id": 10 + place, "name": name} for place, name in enumerate(LABELS)]
    marked, told = [], []
    for image, sample, result in zip(images, truths, found, strict=True):
        for box, label, crowd in zip(sample.boxes, sample.class_ids, sample.crowd, strict=True):
            place = [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
            entry = {"id": len(marked) + 1, "image_id": image["id"], "category_id": 10 + int(label), "bbox": place}
            marked.append({**entry, "area": place[2] * place[3], "iscrowd": int(crowd)})
        for box, score, label in zip(result.boxes.tolist(), result.scores.tolist(), result.class_ids, strict=True):
            place = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            told.append({"image_id": image["id"], "category_id": 10 + int(label), "bbox": place, "score": score})
    truth = COCO({"images": images, "annotations": marked, "categories": categories})
    judge = COCOeval_faster(truth, truth.loadRes(told), "bbox", print_function=lambda *_: None)
    judge.run()
    return judge.stats[0], judge.stats[1]


def overlap(one, two, crowd=False):
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if min(width, height) <= 0:
        return 0.0
    both, area, other = width * height, (one[2] - one[0]) * (one[3] - one[1]), (two[2] - two[0]) * (two[3] - two[1])
    return both / area if crowd else both / (area + other - both)


def average_precision(truths, found, label, threshold):
    """AP of one class by its definition: match best first, then 101 points of the interpolated curve."""
    marks, objects = [], 0
    for sample, result in zip(truths, found, strict=True):
        boxes = [
            (box, crowd)
            for box, kind, crowd in zip(sample.boxes, sample.class_ids, sample.crowd, strict=True)
            if kind == label
        ]
        objects += sum(not crowd for _, crowd in boxes)
        free = [box for box, crowd in boxes if not crowd]
        for box, score in [
            (b, s)
            for b, s, c in zip(result.boxes.astype(float), result.scores, result.class_ids, strict=True)
            if c == label
        ]:
            best = max(range(len(free)), key=lambda place: overlap(box, free[place]), default=None)
            if best is not None and overlap(box, free[best]) >= threshold:
                free.pop(best)
                marks.append((score, True))
            elif not any(crowd and overlap(box, other, crowd=True) >= threshold for other, crowd in boxes):
                marks.append((score, False))
    hits = np.array([hit for _, hit in sorted(marks, key=lambda mark: -mark[0])], bool)
    recall, precision = hits.cumsum() / max(1, objects), hits.cumsum() / np.arange(1, len(hits) + 1)
    points = [precision[recall >= step].max(initial=0) for step in np.linspace(0, 1, 101)]
    return float(np.mean(points)) if objects else None


@pytest.mark.parametrize("seed", range(8))
def test_map_is_that_of_the_reference_tool(seed):
    truths, found = pictures_of(np.random.default_rng(seed), 20)
    score = accuracy.score(dataset(*truths), found)
    assert (score.numbers["map50_95"], score.numbers["map50"]) == pytest.approx(reference(truths, found), abs=1e-12)
    assert score.headline == score.numbers["map50_95"]


@pytest.mark.parametrize("seed", range(8))
def test_ap_of_each_class_is_that_of_its_definition(seed):
    truths, found = pictures_of(np.random.default_rng(seed), 12)
    score = accuracy.score(dataset(*truths), found)
    for place, label in enumerate(LABELS):
        own = [average_precision(truths, found, place, 0.5 + 0.05 * step) for step in range(10)]
        assert score.classes[label].ap50 == pytest.approx(own[0], abs=1e-9)
        assert score.classes[label].ap50_95 == pytest.approx(np.mean(own), abs=1e-9)


def test_perfect_predictions_score_one_and_none_score_zero():
    truths = [boxes_of((0, 1, 1, 20, 20), (2, 30, 30, 60, 60)), boxes_of()]
    found = [detections((0, 0.9, 1, 1, 20, 20), (2, 0.8, 30, 30, 60, 60)), detections()]
    score = accuracy.score(dataset(*truths), found)
    assert score.numbers == {"map50": 1, "map50_95": 1}
    assert list(score.classes) == ["cat", "cow"]
    assert score.classes["cow"].objects == 1
    assert accuracy.score(dataset(*truths), [detections(), detections()]).numbers == {"map50": 0, "map50_95": 0}


def test_up_to_a_hundred_boxes_of_a_class_in_a_picture_count():
    rows = [(0, 20 * place, 0, 20 * place + 10, 10) for place in range(100)]
    found = [detections(*((0, 0.9, *box) for _, *box in rows))]
    assert accuracy.score(dataset(boxes_of(*rows)), found).numbers == {"map50": 1, "map50_95": 1}


def test_boxes_in_fractions_are_scored_in_pixels_of_the_picture():
    relative = boxes_sample("x.png", [(0, (0.1, 0.1, 0.5, 0.5), False)], relative=True)
    score = accuracy.score(dataset(relative), [detections((0, 0.9, 10, 10, 50, 50))])
    assert score.headline == 1


def test_what_is_found_in_a_crowd_counts_for_nothing():
    truth = [boxes_of((0, 0, 0, 20, 20)), boxes_of((0, 0, 0, 100, 100), crowd=True)]
    found = [detections((0, 0.5, 0, 0, 20, 20)), detections((0, 0.9, 10, 10, 20, 20))]
    score = accuracy.score(dataset(*truth), found)
    assert score.headline == 1
    assert score.classes["cat"].objects == 1


def test_a_picture_that_was_not_read_does_not_count():
    truths = [boxes_of((0, 1, 1, 20, 20)), boxes_of((0, 1, 1, 20, 20))]
    score = accuracy.score(dataset(*truths), [detections((0, 0.9, 1, 1, 20, 20)), None])
    assert (score.images, score.headline) == (1, 1)
    with pytest.raises(DatasetError, match="no picture"):
        accuracy.score(dataset(*truths), [None, None])


def test_pictures_without_any_box_cannot_be_scored():
    with pytest.raises(DatasetError, match="no box"):
        accuracy.score(dataset(boxes_of()), [detections((0, 0.9, 1, 1, 20, 20))])


def test_top_1_and_top_5_are_shares_of_pictures():
    truths = [boxes_sample("x.png", [])] * 4
    truths = [
        dataclasses.replace(one, class_ids=np.array([kind])) for one, kind in zip(truths, (0, 1, 2, 2), strict=True)
    ]
    found = [classification(0, 1, 2), classification(0, 1), classification(0, 1), classification(2, 0)]
    score = accuracy.score(dataset(*truths, task="classify"), found)
    assert score.numbers == {"top1": 0.5, "top5": 0.75}
    assert score.headline == 0.5
    sixth = accuracy.score(dataset(truths[0], task="classify"), [classification(1, 2, 3, 4, 5, 0)])
    assert sixth.numbers == {"top1": 0, "top5": 0}


def test_agreement_of_classifiers_is_that_of_their_first_classes():
    assert agreement(classification(0, 1), classification(0, 2)) == 1
    assert agreement(classification(0, 1), classification(1, 0)) == 0


def test_boxes_that_share_half_are_the_same_and_less_is_not():
    one, half, less = (detections((0, 0.9, 0, 0, 10, side)) for side in (10, 5, 4.9))
    assert agreement(one, half) == 1
    assert agreement(one, less) == 0


def test_agreement_of_detectors_is_the_share_of_boxes_both_give():
    one = detections((0, 0.9, 0, 0, 10, 10), (1, 0.8, 20, 20, 40, 40), (2, 0.1, 50, 50, 60, 60))
    other_class = detections((0, 0.9, 0, 0, 10, 10), (2, 0.8, 20, 20, 40, 40))
    far = detections((0, 0.9, 0, 0, 10, 10), (1, 0.8, 31, 20, 51, 40))
    twice = detections((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 10), (1, 0.8, 20, 20, 40, 40))
    assert agreement(one, one) == 1
    assert agreement(one, other_class) == 0.5
    assert agreement(one, far) == 0.5
    assert agreement(one, twice) == agreement(twice, one) == pytest.approx(2 / 3)
    assert agreement(detections(), detections()) == 1
    assert agreement(detections(), one) == 0
    assert agreement(detections((0, 0.24, 0, 0, 9, 9)), detections()) == 1  # too faint to count
    assert agreement(detections((0, 0.26, 0, 0, 9, 9)), detections()) == 0


rows = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0.3125, 1, width=32), st.integers(0, 8), st.integers(0, 8)).map(
        lambda row: (row[0], row[1], 5 * row[2], 5 * row[3], 5 * row[2] + 12, 5 * row[3] + 12)
    ),
    max_size=8,
)


@settings(max_examples=200)
@given(rows, rows)
def test_agreement_is_a_share_and_whole_with_oneself_in_any_order(one, two):
    first, second = detections(*one), detections(*two)
    share = agreement(first, second)
    assert 0 <= share <= min(len(one), len(two)) / max(len(one), len(two), 1) or share == 1.0
    assert agreement(first, first) == 1


def test_a_comparison_counts_matches_over_all_pictures_and_gives_points():
    truths = [boxes_of((0, 0, 0, 10, 10)), boxes_of((0, 20, 20, 40, 40))]
    whole = [detections((0, 0.9, 0, 0, 10, 10)), detections((0, 0.8, 20, 20, 40, 40))]
    lost = [detections((0, 0.9, 0, 0, 10, 10)), detections((0, 0.2, 20, 20, 40, 40), (1, 0.9, 0, 0, 9, 9))]
    found = accuracy.compare(dataset(*truths), whole, lost)
    assert (found.images, found.compared, found.agreement) == (2, 2, 0.5)
    assert found.difference == 0
    none = accuracy.compare(dataset(*truths), whole, [whole[0], detections()])
    assert none.difference == pytest.approx(100 * (none.score.headline - 1))
    assert -60 < none.difference < -40
    bare = dataclasses.replace(dataset(*truths), task="")
    assert accuracy.compare(bare, whole, lost).difference is None
    nothing = accuracy.compare(bare, [detections()], [detections()])
    assert (nothing.compared, nothing.agreement) == (0, 1)


def test_a_comparison_leaves_out_pictures_that_were_not_read_and_needs_one():
    truths = dataset(boxes_of((0, 0, 0, 10, 10)), boxes_of((0, 0, 0, 10, 10)))
    whole = detections((0, 0.9, 0, 0, 10, 10))
    found = accuracy.compare(truths, [whole, None], [whole, None])
    assert (found.images, found.compared, found.agreement, found.difference) == (1, 1, 1, 0)
    with pytest.raises(DatasetError, match="no picture was read, so nothing can be compared"):
        accuracy.compare(truths, [None, None], [None, None])


def test_a_model_that_suppresses_itself_is_measured_by_its_own_thresholds():
    own = specs.detector()
    assert accuracy.thresholds(own) == {"conf": 0.001, "iou": 0.65, "limit": 300}
    assert accuracy.thresholds(specs.classifier()) == {"top": 3}
    shapes = [(1,), (300, 4), (300,), (300,)]
    outputs = tuple(specs.TensorSpec(f"o{place}", (1, *shape)) for place, shape in enumerate(shapes))
    assert accuracy.thresholds(specs.detector(decode=Boxes("yolov5", where="graph"), outputs=outputs)) == {}


@pytest.fixture(params=[1, Batch(1, 3)], ids=["one", "batches"])
def colors(tmp_path, request):
    """A pipeline that names colours, and a class folder of seven pictures, of which two lie about theirs."""
    bundle = Bundle.open(bundles.classify_bundle(tmp_path / "bundle", request.param))
    for place, (name, color) in enumerate(
        [
            ("red", "red"),
            ("red", "red"),
            ("blue", "blue"),
            ("blue", "red"),
            *[("green", "green")] * 2,
            ("green", "blue"),
        ]
    ):
        on_disk.picture(tmp_path / "set" / name / f"{place}.png", color=bundles.BGR[color])
    with load(bundle, **accuracy.thresholds(bundle.spec)) as model:
        yield model, datasets.read(tmp_path / "set", bundle.spec)


def test_a_pipeline_is_run_over_the_whole_data_set_in_order(colors):
    model, found = colors
    seen = []
    score = accuracy.evaluate(model, found, lambda *done: seen.append(done))
    assert score.numbers["top1"] == pytest.approx(5 / 7)
    assert score.images == 7
    assert seen[-1] == (7, 7)


def test_an_unreadable_picture_is_told_and_left_out(colors):
    model, found = colors
    found.samples[0].path.write_bytes(b"")
    (found.samples[3].path).unlink()
    errors = []
    results = accuracy.predict(model, found, on_error=errors.append)
    assert [result is None for result in results] == [True, False, False, True, False, False, False]
    assert [str(found.samples[place].path) in str(error) for place, error in zip((0, 3), errors, strict=True)] == [
        True
    ] * 2
    assert accuracy.score(found, results).images == 5
    with pytest.raises(SourceError, match="is empty"):
        accuracy.evaluate(model, found)


def test_labels_of_another_task_are_refused_before_anything_runs(colors):
    model, found = colors
    with pytest.raises(DatasetError, match="holds boxes, and the model's task needs classes"):
        accuracy.evaluate(model, dataclasses.replace(found, task="detect"))
    with pytest.raises(DatasetError, match="holds no labels"):
        accuracy.evaluate(model, dataclasses.replace(found, task=""))
