"""How far two models agree on the same pictures. Classes are the same if their labels are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer import accuracy
from edgeinfer.results import Detections

if TYPE_CHECKING:
    from edgeinfer.comparing.models import Model
    from edgeinfer.results import Classification, Result

TOP = 5


@dataclass
class Agreement:
    """Of detectors: `same` of `compared` objects found by both (IoU 0.5, one label). Of classifiers: first classes.

    `score_differences`: of what is the same, the second's score less the first's. `overlap`: of classifiers, the
    share of the first five classes (or all there are) that both name, by picture.
    """

    one: str
    other: str
    task: str
    images: int = 0
    same: int = 0
    compared: int = 0
    score_differences: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """0 to 1; None where there was nothing to compare."""
        return self.same / self.compared if self.compared else None

    def words(self) -> str:
        if self.share is None:
            return f"{self.one} and {self.other}: neither finds anything"
        spans = [abs(span) for span in self.score_differences]
        scores = f", scores differ by {fmean(spans):.3f} on average and {max(spans):.3f} at most" if spans else ""
        if self.task == "detect":
            return f"{self.one} and {self.other}: {self.same} of {self.compared} objects are the same{scores}"
        overlap = f", {100 * fmean(self.overlap):.0f} % of the first classes in common"
        return (
            f"{self.one} and {self.other}: the same class in {self.same} of {self.compared} pictures{overlap}{scores}"
        )

    def to_dict(self) -> dict[str, Any]:
        spans = [abs(span) for span in self.score_differences]
        facts = {name: value for name, value in asdict(self).items() if not isinstance(value, list)}
        scores = {"mean": fmean(spans), "max": max(spans)} if spans else None
        return {
            **facts,
            "share": self.share,
            "score_difference": scores,
            "top_overlap": fmean(self.overlap) if self.overlap else None,
        }


def agreements(models: list[Model]) -> list[Agreement]:
    """Each model beside the first of its task; those without a fault that have answered only."""
    firsts: dict[str, Model] = {}
    found = []
    for model in models:
        if model.fault or not model.found:
            continue
        first = firsts.setdefault(model.task, model)
        if first is not model:
            found.append(_between(first, model))
    return found


def _between(one: Model, other: Model) -> Agreement:
    agreement = Agreement(one.title, other.title, one.task)
    for first, second in zip(one.found, other.found):
        if first is None or second is None:
            continue
        agreement.images += 1
        if isinstance(first, Detections) and isinstance(second, Detections):
            _boxes(agreement, *_one_language(first, second))
        elif not isinstance(first, Detections) and not isinstance(second, Detections):
            _classes(agreement, first, second)
    return agreement


def _one_language(first: Detections, second: Detections) -> tuple[Detections, Detections]:
    """Both with the labels of both, so that the same label has the same number."""
    labels = tuple(dict.fromkeys((*first.labels, *second.labels)))
    number = {label: place for place, label in enumerate(labels)}

    def told(found: Detections) -> Detections:
        class_ids = np.array([number[found.labels[class_id]] for class_id in found.class_ids], np.int32)
        return replace(found, class_ids=class_ids, labels=labels)

    return told(first), told(second)


def _boxes(agreement: Agreement, first: Detections, second: Detections) -> None:
    pairs = accuracy.paired(first, second)
    agreement.same += len(pairs)
    agreement.compared += len(first) + len(second) - len(pairs)
    agreement.score_differences += [float(second.scores[b] - first.scores[a]) for a, b in pairs]


def _classes(agreement: Agreement, first: Classification, second: Classification) -> None:
    one, two = _scores(first), _scores(second)
    agreement.compared += 1
    agreement.same += next(iter(one)) == next(iter(two))
    agreement.overlap.append(len(one.keys() & two.keys()) / max(len(one), len(two)))
    agreement.score_differences += [two[label] - one[label] for label in one if label in two]


def _scores(found: Result) -> dict[str, float]:
    """The first classes by label, best first."""
    rows = list(zip(found.class_ids, found.scores))[:TOP]
    return {found.labels[class_id]: float(score) for class_id, score in rows}
