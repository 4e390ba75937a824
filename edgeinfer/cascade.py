"""Two models as one: a detector finds boxes, a classifier says more about what is in each."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer import given
from edgeinfer.composite import Composite
from edgeinfer.devices.images import picture
from edgeinfer.errors import UsageError
from edgeinfer.pipeline import several
from edgeinfer.results import Classification, Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from edgeinfer.devices.images import Picture
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.tiling import Tiled

MOST = 100  # boxes of a picture that are classified, best first


@dataclass(frozen=True, eq=False, repr=False)
class Inspected(Detections):
    """Detections with what a classifier says of each: `classes` has one a box, None beyond the limit."""

    classes: tuple[Classification | None, ...] = ()

    def _part(self, which: Any) -> Inspected:
        kept = np.arange(len(self))[which].tolist()
        return replace(super()._part(which), classes=tuple(self.classes[place] for place in kept))

    def captions(self) -> list[str]:
        """The classifier's word first: "Samoyed 0.87 (dog 0.91)"."""
        boxed = super().captions()
        best = [one[0] if one else None for one in self.classes]
        return [f"{said[1]} {said[0]:.2f} ({caption})" if said else caption for said, caption in zip(best, boxed)]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one image, without `source` and `index`; each detection has its `classes`."""
        record = super().to_dict()
        for found, classes in zip(record["detections"], self.classes):
            found["classes"] = classes.to_dict()["classes"] if classes else []
        return record


class Cascade(Composite):
    """A detector, or one on tiles, and a classifier, called like one model. Any thread may call it.

    Boxes below `score` are left out. Each other is cut out of the picture with `margin` of its sides around it, and all
    of a call go through the classifier in batches of its own. A result's `timings_ms` have `classify` beside the
    detector's stages.
    """

    def __init__(
        self,
        detector: Pipeline | Tiled,
        classifier: Pipeline,
        *,
        margin: float = 0.05,
        most: int = MOST,
        score: float = 0.0,
    ) -> None:
        for model, task in ((detector, "detect"), (classifier, "classify")):
            if model.spec.task != task:
                raise UsageError(f"{model.spec.name} has task {model.spec.task}, a cascade needs {task} here")
        if hasattr(detector, "classifier"):
            raise UsageError(f"the detector is a cascade itself, whose classes {classifier.spec.name}'s would replace")
        given.check_number("margin", margin)
        given.check_whole("most", most, 0)
        given.check_number("score", score)
        super().__init__(detector)
        self.classifier = classifier
        self._margin, self._most, self._score = margin, most, score

    @property
    def artifact(self) -> str:
        return f"{super().artifact}, then {self.classifier.backend} {self.classifier.artifact}"

    def __call__(self, image: Any, *, pixels: str = "bgr") -> Inspected:
        """image (h, w, 3) uint8 -> its boxes, and the classes of each."""
        return self.batch([image], pixels=pixels)[0]

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> list[Inspected]:
        """Any number of pictures -> a result each; all their boxes are classified together."""
        images = several(images)
        shown = [picture(image, pixels) for image in images]
        boxed = [result for result in self.detector.batch(images, pixels=pixels) if isinstance(result, Detections)]
        found = [result.above(self._score) for result in boxed]
        crops = [self.cut(one, box) for one, result in zip(shown, found) for box in result.boxes[: self._most]]
        start = time.perf_counter()  # the device's own clock may be in another call's hands
        said = iter(self.classifier.batch(crops, pixels=pixels))
        spent = (time.perf_counter() - start) * 1e3
        return [self._joined(one, said, spent) for one in found]

    def _joined(self, found: Detections, said: Iterator[Any], spent: float) -> Inspected:
        asked = min(len(found), self._most)
        classes = [next(said) for _ in range(asked)] + [None] * (len(found) - asked)
        timings = {**found.timings_ms, "classify": spent}
        return Inspected(
            found.boxes, found.scores, found.class_ids, found.labels, found.source, timings, classes=tuple(classes)
        )

    def cut(self, image: Picture, box: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The part of the picture under a box with its margin, at least a pixel."""
        x1, y1, x2, y2 = (float(side) for side in box)
        across, down = (x2 - x1) * self._margin, (y2 - y1) * self._margin
        height, width = image.size.height, image.size.width
        left, top = min(max(0, int(x1 - across)), width - 1), min(max(0, int(y1 - down)), height - 1)
        right, bottom = min(width, int(x2 + across) + 1), min(height, int(y2 + down) + 1)
        return image.part(*image.sides(left, top, max(right, left + 1), max(bottom, top + 1)))

    def close(self) -> None:
        with closing(self.classifier):
            super().close()
