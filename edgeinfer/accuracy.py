"""How right a model is on labelled pictures, and how far two models agree.

Detectors are scored by COCO's protocol (faster-coco-eval), from predictions made with the thresholds that published
numbers of YOLO models are made with; classifiers by top-1 and top-5. All scores are fractions from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgeinfer import sources
from edgeinfer.errors import DatasetError, SourceError
from edgeinfer.results import Classification, Detections, ious
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.datasets import Dataset, Sample
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec

# as YOLOv5's and Ultralytics' validation runs a detector, whatever it is used with later
CONF, IOU, LIMIT = 0.001, 0.65, 300
TOP = 5
# two detections are the same if they are of one class and overlap by so much; fainter ones are not compared
SAME_IOU, SAME_SCORE = 0.5, 0.25
# pictures given to a pipeline at once, if its model takes so many
CHUNK = 8

Progress = Callable[[int, int], None]  # pictures done, of how many


@dataclass(frozen=True)
class ClassScore:
    """One class of a detector: how many boxes the data set has of it, and its average precision."""

    objects: int
    ap50: float
    ap50_95: float


@dataclass(frozen=True)
class Score:
    """Accuracy on `images` pictures: `map50` and `map50_95`, or `top1` and `top5`, by name; the first one leads.

    `classes`: of a detector, by label, for those with a box in the data set.
    """

    images: int
    numbers: dict[str, float]
    classes: dict[str, ClassScore] = field(default_factory=dict)

    @property
    def headline(self) -> float:
        """map50_95 or top1: the number a budget is about."""
        return self.numbers["map50_95" if "map50_95" in self.numbers else "top1"]


@dataclass(frozen=True)
class Comparison:
    """A model beside its reference on `images` pictures.

    `agreement`: of `compared` detections (or pictures of a classifier), the share both give, 0 to 1; 1 if `compared`
    is 0, which proves nothing. `difference`: points (hundredths) of map50_95 or top1 above the reference, None
    without labels; `score` is the model's own then.
    """

    images: int
    compared: int
    agreement: float
    difference: float | None = None
    score: Score | None = None

    @property
    def lost(self) -> float:
        """What a budget is about: points lost with labels, percent of what is compared that differs without."""
        lost = 100 * (1 - self.agreement) if self.difference is None else -self.difference
        return round(lost, 6) or 0.0  # 1 in 100 is not above 1, and nothing is no -0


def thresholds(spec: ModelSpec) -> dict[str, Any]:
    """Keywords for `load` with which a model is to be measured; none for one that suppresses its boxes itself."""
    if not isinstance(spec.decode, Boxes):
        return {"top": min(TOP, len(spec.labels))}
    return {} if spec.decode.where == "graph" else {"conf": CONF, "iou": IOU, "limit": LIMIT}


def predict(
    pipeline: Pipeline, dataset: Dataset, progress: Progress | None = None, on_error: sources.OnError = sources.refuse
) -> list[Result | None]:
    """What the pipeline, loaded with `thresholds`, says about each sample, in order.

    A picture that cannot be read goes to `on_error` and gives None. Raises EngineError for outputs that are NaN.
    """
    results: list[Result | None] = [None] * len(dataset)
    step = min(CHUNK, pipeline.spec.batch.max)
    for start in range(0, len(dataset), step):
        images = {}
        for place, sample in enumerate(dataset.samples[start : start + step], start):
            try:
                images[place] = sources.picture(sample.path).image
            except SourceError as error:
                on_error(error)
        for place, result in zip(images, pipeline.batch(list(images.values()))):
            results[place] = result
        if progress:
            progress(min(start + step, len(dataset)), len(dataset))
    return results


def evaluate(
    pipeline: Pipeline, dataset: Dataset, progress: Progress | None = None, on_error: sources.OnError = sources.refuse
) -> Score:
    """The accuracy of a pipeline, loaded with `thresholds`, on a labelled data set; as `predict` and `score`."""
    check(dataset, pipeline.spec.task)
    return score(dataset, predict(pipeline, dataset, progress, on_error))


def check(dataset: Dataset, task: str) -> None:
    """Raise DatasetError unless the data set has labels for this task."""
    if dataset.task != task:
        held = {"": "no labels", "detect": "boxes", "classify": "classes"}[dataset.task]
        wanted = {"detect": "boxes", "classify": "classes"}[task]
        raise DatasetError(
            f"{dataset.path} ({dataset.layout}) holds {held}, and the model's task needs {wanted}",
            hint="a detector: COCO .json or YOLO .txt files; a classifier: a folder for each class",
        )


def score(dataset: Dataset, predictions: Sequence[Result | None]) -> Score:
    """The accuracy of predictions made for each sample; those that are None do not count."""
    pairs = _read(dataset.samples, predictions)
    if dataset.task == "classify":
        return Score(len(pairs), top_k(pairs))
    return mean_average_precision(pairs, dataset.labels)


def compare(dataset: Dataset, reference: Sequence[Result | None], other: Sequence[Result | None]) -> Comparison:
    """A model's predictions beside those of its reference, for the same samples; both None where unreadable.

    Detections are matched one to one, best first, by class and overlap, over the larger of the two numbers; of
    classifications the first classes are compared.
    """
    pairs = [(one, two) for one, two in zip(reference, other) if one is not None and two is not None]
    if not pairs:
        raise DatasetError(f"{dataset.path}: no picture was read, so nothing can be compared")
    matched, compared = (sum(part) for part in zip(*(_matches(one, two) for one, two in pairs)))
    share = matched / compared if compared else 1.0
    if not dataset.task:
        return Comparison(len(pairs), compared, share)
    own = score(dataset, other)
    difference = 100 * (own.headline - score(dataset, reference).headline)
    return Comparison(len(pairs), compared, share, difference, own)


def _matches(reference: Result, other: Result) -> tuple[int, int]:
    """(how many are the same, of how many)."""
    if isinstance(reference, Classification) or isinstance(other, Classification):
        return int(reference.class_ids[0] == other.class_ids[0]), 1
    one, two = reference.above(SAME_SCORE), other.above(SAME_SCORE)
    return len(paired(one, two)), max(len(one), len(two))


def paired(one: Detections, two: Detections) -> list[tuple[int, int]]:
    """Places of those of the first and second that are the same: in order of the first, each takes the best left."""
    overlaps = np.where(one.class_ids[:, None] == two.class_ids, ious(one.boxes, two.boxes), 0.0)
    pairs = []
    for place, row in enumerate(overlaps):
        if len(row) and row.max() >= SAME_IOU:
            pairs.append((place, int(row.argmax())))
            overlaps[:, row.argmax()] = 0
    return pairs


def _read(samples: Sequence[Sample], predictions: Sequence[Result | None]) -> list[tuple[Sample, Result]]:
    assert len(samples) == len(predictions)
    pairs = [(sample, result) for sample, result in zip(samples, predictions) if result is not None]
    if not pairs:
        raise DatasetError("no picture of the data set could be read, so nothing was measured")
    return pairs


def top_k(pairs: Sequence[tuple[Sample, Result]]) -> dict[str, float]:
    """Share of pictures whose class is the first, and among the first five (or all, of fewer classes)."""
    hits = np.zeros((len(pairs), 2))
    for row, (sample, result) in zip(hits, pairs):
        assert sample.class_ids is not None
        found = result.class_ids[:TOP] == sample.class_ids[0]
        row[:] = found[0], found.any()
    top1, top5 = hits.mean(axis=0)
    return {"top1": float(top1), "top5": float(top5)}


def mean_average_precision(pairs: Sequence[tuple[Sample, Result]], labels: Sequence[str]) -> Score:
    """COCO's average precision over all sizes, at most 100 detections of each class a picture (its protocol).

    Classes without a box in the data set do not count. Raises DatasetError when no picture has a box.
    """
    truth = _truth(pairs)
    counts = np.bincount([entry["category_id"] for entry in truth if not entry["iscrowd"]], minlength=len(labels))
    if not counts.any():
        raise DatasetError("the data set has no box in any picture, so there is nothing to be found")
    precision = _precision(len(pairs), truth, _found(pairs), len(labels))
    each = precision.mean(axis=1)  # average precision (IoU thresholds, classes)
    present = np.flatnonzero(counts).tolist()
    return Score(
        len(pairs),
        {"map50": float(each[0, present].mean()), "map50_95": float(each[:, present].mean())},
        {
            labels[place]: ClassScore(int(counts[place]), float(each[0, place]), float(each[:, place].mean()))
            for place in present
        },
    )


def _precision(images: int, truth: list[Any], found: list[Any], classes: int) -> NDArray[np.float64]:
    """Interpolated precision (10 IoU thresholds from 0.5, 101 recalls, classes), -1 for classes without boxes."""
    from faster_coco_eval import COCO, COCOeval_faster

    facts = {
        "images": [{"id": place} for place in range(images)],
        "categories": [{"id": place, "name": str(place)} for place in range(classes)],
    }
    judge = COCOeval_faster(COCO({**facts, "annotations": truth}), COCO({**facts, "annotations": found}), "bbox")
    judge.evaluate()
    judge.accumulate()
    precision: NDArray[np.float64] = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]
    return precision


def _truth(pairs: Sequence[tuple[Sample, Result]]) -> list[dict[str, Any]]:
    entries = []
    for place, (sample, result) in enumerate(pairs):
        assert sample.class_ids is not None
        assert sample.crowd is not None
        rows = zip(sample.boxes_in(result.source).tolist(), sample.class_ids.tolist(), sample.crowd.tolist())
        entries += [{**_entry(place, box, class_id), "iscrowd": int(crowd)} for box, class_id, crowd in rows]
    return _numbered(entries)


def _found(pairs: Sequence[tuple[Sample, Result]]) -> list[dict[str, Any]]:
    entries = []
    for place, (_, result) in enumerate(pairs):
        assert isinstance(result, Detections)
        rows = zip(result.boxes.tolist(), result.class_ids.tolist(), result.scores.tolist())
        entries += [{**_entry(place, box, class_id), "iscrowd": 0, "score": score} for box, class_id, score in rows]
    return _numbered(entries)


def _entry(image: int, box: Sequence[float], class_id: int) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return {
        "image_id": image,
        "category_id": class_id,
        "bbox": [left, top, width, height],
        "area": width * height,
    }


def _numbered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries with ids from 1: COCO's own code takes 0 for nothing."""
    return [{"id": place, **entry} for place, entry in enumerate(entries, 1)]
